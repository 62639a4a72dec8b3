//! What is kept of a container on disk: a record that changes seldom, and a state that its shim writes.

use serde::{Deserialize, Serialize};

use super::{Attached, Config, ContainerState, HostConfig, MountPoint, NetworkRequest};

/// Docker's time for "never".
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// `config.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Record {
    /// Format of this file.
    pub(super) version: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created: String,
    pub(super) image_id: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    /// Merged with the image's.
    pub(super) config: Config,
    pub(super) host: HostConfig,
    pub(super) mounts: Vec<StoredMount>,
    pub(super) network: NetworkRequest,
    /// Networks beside that of its creation (`network connect`).
    #[serde(default)]
    pub(super) more: Vec<NetworkRequest>,
    /// It was taken off the network of its creation.
    #[serde(default)]
    pub(super) left: bool,
    pub(super) warnings: Vec<String>,
}

impl Record {
    /// Its network namespace is put on networks: it has one, and not another container's.
    pub(super) fn has_networks(&self) -> bool {
        let mode = &self.network.mode;
        mode != "none" && mode != "host" && !mode.starts_with("container:")
    }

    /// The networks that it is to be on. Published ports go with the first.
    pub(super) fn networks(&self) -> Vec<NetworkRequest> {
        let own = (self.has_networks() && !self.left).then_some(&self.network);
        let mut all: Vec<_> = own.into_iter().chain(&self.more).cloned().collect();
        for request in &mut all {
            request.name.clone_from(&self.network.name);
            request.ports.clear();
        }
        if let Some(first) = all.first_mut() {
            first.ports.clone_from(&self.network.ports);
        }
        all
    }

    /// Remembers one more network; that of its creation in the place that it had.
    pub(super) fn connect(&mut self, wanted: NetworkRequest) {
        if self.left && wanted.mode == self.network.mode {
            self.left = false;
            (self.network.aliases, self.network.ip) = (wanted.aliases, wanted.ip);
        } else {
            self.more.push(wanted);
        }
    }

    /// Forgets one.
    pub(super) fn disconnect(&mut self, network: &str) {
        self.left |= self.network.mode == network;
        self.more.retain(|request| request.mode != network);
    }
}

/// The version this code writes.
pub(super) const VERSION: u32 = 1;

/// A mount as shown, and what it takes to make it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct StoredMount {
    #[serde(flatten)]
    pub(super) shown: MountPoint,
    /// tmpfs: mount options.
    pub(super) data: String,
    /// Volume: directory inside.
    pub(super) subpath: String,
    /// Volume: copy the image's content into it while it is empty.
    pub(super) copy_up: bool,
    /// Volume without a name of the user's: goes with `rm -v`.
    pub(super) anonymous: bool,
    /// Bind: without what is mounted below.
    pub(super) non_recursive: bool,
}

/// `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    #[serde(flatten)]
    pub(super) shown: ContainerState,
    /// Restarts by the policy since the last start by hand.
    pub(super) restart_count: u32,
    /// Stopped by hand: `unless-stopped` leaves it so after a boot.
    pub(super) stopped_by_hand: bool,
    /// Where it is on its networks.
    pub(super) networks: Vec<Attached>,
    /// Something of it may exist in the kernel: cgroups, network endpoint, runtime state. Set before the first of them is made, cleared after
    /// the last is gone, so that whoever finds it set and no shim alive has to clean up.
    pub(super) dirty: bool,
}

impl State {
    pub(super) fn created() -> Self {
        let shown = ContainerState {
            status: "created".into(),
            started_at: NEVER.into(),
            finished_at: NEVER.into(),
            ..ContainerState::default()
        };
        Self { shown, ..Self::default() }
    }
    /// A shim is, or should be, at work for it.
    pub(super) fn is_live(&self) -> bool {
        self.shown.running || self.shown.restarting
    }
    pub(super) fn set_running(&mut self, pid: u32) {
        let started_at = now();
        let s = &mut self.shown;
        let (finished_at, health) = (std::mem::take(&mut s.finished_at), s.health.take());
        *s = ContainerState {
            status: "running".into(),
            running: true,
            pid,
            started_at,
            finished_at,
            health,
            ..ContainerState::default()
        };
    }
    pub(super) fn set_ended(&mut self, status: &str, code: i32, oom: bool, error: String) {
        let s = &mut self.shown;
        *s = ContainerState {
            status: status.into(),
            running: status == "restarting",
            restarting: status == "restarting",
            exit_code: code,
            oom_killed: oom,
            error,
            started_at: std::mem::take(&mut s.started_at),
            finished_at: now(),
            health: s.health.take(),
            ..ContainerState::default()
        };
        self.networks.clear();
    }
}

/// Now in RFC 3339 with nanoseconds, always nine digits so that texts sort as times do.
pub(super) fn now() -> String {
    stamp(jiff::Timestamp::now())
}

pub(super) fn stamp(at: jiff::Timestamp) -> String {
    format!("{at:.9}")
}

/// Seconds since 1970 of a stored time; `None` for never.
pub(super) fn seconds(text: &str) -> Option<i64> {
    if text == NEVER {
        return None;
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_the_disk() {
        let mut state = State::created();
        assert!(!state.is_live());
        state.set_running(42);
        assert!(state.is_live());
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        state.set_ended("exited", 3, true, String::new());
        assert_eq!((state.shown.pid, state.shown.exit_code, state.shown.oom_killed), (0, 3, true));
        assert!(seconds(&state.shown.finished_at).is_some() && seconds(NEVER).is_none());
        assert_eq!(now().len(), "2026-11-21T12:00:00.123456789Z".len());
    }
}
