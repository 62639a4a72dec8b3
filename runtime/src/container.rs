//! A container by ID.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::{OomEvents, Stats};
use crate::error::{Error, Result};
use crate::hooks;
use crate::launch::wake;
use crate::parking;
use crate::process;
use crate::runtime::Runtime;
use crate::state::{Record, State, Status};
use crate::sys;

/// What a hook reads.
fn document(record: &Record, status: Status) -> String {
    let pid = (status != Status::Stopped).then(|| record.pid.to_string());
    hooks::document(
        &record.spec,
        &record.id,
        status,
        pid.as_deref(),
        record.bundle.as_deref().unwrap_or(Path::new("")),
    )
}

/// A container by ID, whoever started it. All that it tells is read afresh from the store and from the kernel.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) runtime: Runtime,
    pub(crate) id: String,
}

impl Container {
    /// Its ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its state, checked against the kernel.
    pub fn state(&self) -> Result<State> {
        let record = self.record()?;
        let status = self.status(&record);
        Ok(State {
            pid: (status != Status::Stopped).then_some(record.pid),
            id: record.id,
            status,
            bundle: record.bundle,
            annotations: record
                .spec
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            created: record.created,
        })
    }

    /// The spec that it was created from.
    pub fn spec(&self) -> Result<oci_spec::runtime::Spec> {
        Ok(self.record()?.spec)
    }

    /// What is written about it.
    pub(crate) fn record(&self) -> Result<Record> {
        let store = &self.runtime.inner.store;
        let bytes = store.read(&self.id)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::State {
            path: store.directory(&self.id).unwrap_or_else(|| self.id.clone().into()),
            source: e.into(),
        })
    }

    /// Its directory in the store, if it has one.
    fn directory(&self) -> Option<PathBuf> {
        self.runtime.inner.store.directory(&self.id)
    }

    fn status(&self, record: &Record) -> Status {
        if !record.is_alive() {
            Status::Stopped
        } else if record.groups.is_frozen() {
            // Before its start, too: nobody there would answer.
            Status::Paused
        } else if self.is_parked() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// Its process waits for the start.
    fn is_parked(&self) -> bool {
        match self.directory() {
            Some(dir) => parking::is_parked_in(&dir),
            None => self.runtime.inner.parking.has(&self.id),
        }
    }

    /// A connection to the parked process; `None` when nobody waits there any more.
    fn knock(&self) -> Result<Option<OwnedFd>> {
        match self.directory() {
            Some(dir) => parking::knock_in(&dir),
            None => Ok(self.runtime.inner.parking.take(&self.id)),
        }
    }

    /// Starts a created one, and returns when `execve` has succeeded.
    pub fn start(&self) -> Result<()> {
        let record = self.record()?;
        match self.status(&record) {
            Status::Created => self.start_parked(&record),
            status => Err(Error::WrongStatus { action: "start", status: status.as_str() }),
        }
    }

    pub(crate) fn start_parked(&self, record: &Record) -> Result<()> {
        let socket = self.knock()?.ok_or(Error::Died)?;
        let result = wake(&socket, record);
        // Whatever came of it, nobody waits there any more.
        if let Some(dir) = self.directory() {
            parking::clear(&dir);
        }
        let helper = &self.runtime.inner.helper;
        let poststart = || hooks::run(helper, &record.spec, "poststart", &document(record, Status::Running));
        let started = result.and_then(|()| poststart());
        // runtime.md, "Lifecycle": a failed poststart hook stops the container. So does a filter whose agent did not get its descriptor.
        if started.is_err()
            && let Some(pidfd) = record.pidfd()
        {
            let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
        }
        started
    }

    /// Sends a signal to its init, or to all its processes.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let record = self.record()?;
        if all {
            return process::signal_all(|| self.members(&record), signal).map(drop);
        }
        let wrong = Error::WrongStatus { action: "kill", status: Status::Stopped.as_str() };
        let Some(pidfd) = record.pidfd() else { return Err(wrong) };
        match sys::pidfd_send_signal(&pidfd, signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(wrong),
            result => result.map_err(Error::os(format!("send signal {signal}")))?,
        }
        // What is frozen by version 1 of cgroups does not even die.
        if signal == libc::SIGKILL && record.groups.is_frozen() {
            record.groups.freeze(false)?;
        }
        Ok(())
    }

    /// PIDs of its processes, in the caller's PID namespace.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let record = self.record()?;
        self.members(&record)
    }

    /// By its groups; without any, by its PID namespace.
    fn members(&self, record: &Record) -> Result<Vec<u32>> {
        if !record.groups.is_empty() {
            return record.groups.processes();
        }
        if !record.is_alive() {
            return Ok(Vec::new());
        }
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(record.pid);
        let own_pid = fs::read_link("/proc/self/ns/pid").ok();
        if own.is_none() || own == own_pid {
            return Ok(vec![record.pid]);
        }
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        Ok(pids.filter(|pid| namespace(*pid) == own).collect())
    }

    /// Changes its limits; what `resources` leaves out stays.
    pub fn update(&self, resources: &oci_spec::runtime::LinuxResources) -> Result<()> {
        let record = self.record()?;
        match self.status(&record) {
            Status::Stopped => Err(Error::WrongStatus { action: "update", status: Status::Stopped.as_str() }),
            _ => record.groups.update(resources, None),
        }
    }

    /// Changes the schemata of its class of cache and memory bandwidth (`linux.intelRdt`), also for others that are in it. That it has one,
    /// and which, is settled when it is created.
    pub fn update_intel_rdt(&self, rdt: &oci_spec::runtime::LinuxIntelRdt) -> Result<()> {
        let record = self.record()?;
        match (self.status(&record), &record.groups.class) {
            (Status::Stopped, _) => {
                Err(Error::WrongStatus { action: "update", status: Status::Stopped.as_str() })
            }
            (_, Some(class)) => class.set(rdt),
            (_, None) => Err(Error::Unsupported {
                what: "linux.intelRdt: the container was created without a class".to_owned(),
            }),
        }
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.record()?.groups.stats())
    }

    /// Word of memory that runs out, from now on. For a container that is created and not started, nothing is missed.
    pub fn oom_events(&self) -> Result<OomEvents> {
        self.record()?.groups.oom_events()
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<()> {
        let record = self.record()?;
        match self.status(&record) {
            Status::Created | Status::Running => record.groups.freeze(true),
            status => Err(Error::WrongStatus { action: "pause", status: status.as_str() }),
        }
    }

    /// Thaws it.
    pub fn resume(&self) -> Result<()> {
        let record = self.record()?;
        match self.status(&record) {
            Status::Paused => record.groups.freeze(false),
            status => Err(Error::WrongStatus { action: "resume", status: status.as_str() }),
        }
    }

    /// Removes it: cgroups, state. A running one needs `force`.
    pub fn delete(&self, force: bool) -> Result<()> {
        self.delete_record(&self.record()?, force)
    }

    pub(crate) fn delete_record(&self, record: &Record, force: bool) -> Result<()> {
        let status = if force { Status::Stopped } else { self.status(record) };
        if status != Status::Stopped && !force && status != Status::Created {
            return Err(Error::WrongStatus { action: "delete", status: status.as_str() });
        }
        if record.is_alive() {
            self.end(record)?;
        }
        if !record.groups.is_empty() {
            if record.groups.is_frozen() {
                record.groups.freeze(false)?;
            }
            record.groups.kill()?;
        }
        record.groups.remove()?;
        self.runtime.inner.parking.take(&self.id);
        self.runtime.inner.store.remove(&self.id)?;
        // A failure here is told, and takes nothing back: the container is gone.
        hooks::run_all(
            &self.runtime.inner.helper,
            &record.spec,
            "poststop",
            &document(record, Status::Stopped),
        )
    }

    /// Kills init, and waits until it is gone.
    fn end(&self, record: &Record) -> Result<()> {
        let Some(pidfd) = record.pidfd() else { return Ok(()) };
        let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
        if record.groups.is_frozen() {
            record.groups.freeze(false)?;
        }
        let until = Instant::now() + Duration::from_secs(10);
        while record.is_alive() && Instant::now() < until {
            let children = &self.runtime.inner.children;
            children.wait_for(&pidfd, Some(Duration::from_millis(100))).map_err(Error::os("poll a pidfd"))?;
        }
        Ok(())
    }

    /// A pidfd of its init, while it lives.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>> {
        Ok(self.record()?.pidfd())
    }

    pub(crate) fn oom_killed(&self) -> bool {
        self.record().is_ok_and(|record| record.groups.oom_killed())
    }
}
