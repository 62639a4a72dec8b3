//! One more process in a running container.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;

use crate::caps;
use crate::children::Child;
use crate::container::Container;
use crate::created::Exit;
use crate::error::{Error, Result};
use crate::landlock::Ruleset;
use crate::launch::{Launch, Launched, launch, status_socket};
use crate::plan::{Input, Mode, RootSource, compile};
use crate::runtime::{id_maps, no_capabilities};
use crate::state::Status;
use crate::stdio::{Stdio, Streams, at_least};
use crate::sys;

/// What `exec` takes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecOptions {
    /// Standard streams.
    pub stdio: [Stdio; 3],
    /// Descriptors that the process gets as 3, 4, 5...
    pub preserve_fds: Vec<OwnedFd>,
    /// Groups below the container's own that it is born in, which are there: the v1 controllers concerned (none: every hierarchy, v2 too),
    /// and the path.
    pub subgroups: Vec<(Vec<String>, PathBuf)>,
}

impl Container {
    /// Runs one more process in it, and returns when its `execve` has succeeded. Where `process` names no capabilities it gets those of
    /// the container's own process; seccomp, namespaces and cgroups are always the container's. Where processes are in groups below the
    /// container's v2 group, which then takes none, it joins that of the container's own process.
    pub fn exec(&self, process: &Process, options: ExecOptions) -> Result<ExecProcess> {
        let record = self.record()?;
        let Some(init) = record.pidfd() else {
            return Err(Error::WrongStatus { action: "exec in", status: Status::Stopped.as_str() });
        };
        let least = 3 + options.preserve_fds.len() as RawFd;
        let preserve =
            options.preserve_fds.into_iter().map(|fd| at_least(fd, least)).collect::<Result<Vec<_>>>()?;
        let init = at_least(init, least)?;
        let streams = Streams::new(options.stdio, least)?;
        let (status, theirs) = status_socket(least)?;
        let in_user_namespace = record.namespaces & libc::CLONE_NEWUSER as u64 != 0;
        let available = if in_user_namespace { caps::all() } else { caps::own() };
        if record.new_user {
            id_maps(record.spec.linux().as_ref()).check(process.user())?;
        }
        let container_caps = || record.spec.process().as_ref().and_then(|p| p.capabilities().clone());
        let wanted = process.capabilities().clone().or_else(container_caps).unwrap_or_else(no_capabilities);
        let (sets, _) = caps::sets(&wanted, available);
        let linux = record.spec.linux().as_ref();
        let filters = &self.runtime.inner.filters;
        let filter = linux.and_then(|l| l.seccomp().as_ref()).map(|s| filters.get(s)).transpose()?;
        // What this kernel lacks was said when the container was made.
        let landlock = Ruleset::of(&record.spec, &mut Vec::new())?;
        let joins = [(init.as_raw_fd(), record.namespaces)];
        let preserve_numbers: Vec<RawFd> = preserve.iter().map(AsRawFd::as_raw_fd).collect();
        let mut keep: Vec<RawFd> = preserve_numbers.clone();
        keep.extend([theirs.as_raw_fd(), init.as_raw_fd()]);
        keep.extend(streams.numbers().into_iter().flatten());
        let input = Input {
            mode: Mode::Exec,
            id: &record.id,
            spec: &record.spec,
            process,
            bundle: Path::new("/"),
            mount_subpaths: &[],
            mount_sources: &[],
            root: RootSource::None,
            stdio: streams.numbers(),
            preserve: &preserve_numbers,
            layout: &self.runtime.inner.layout,
            cgroup_path: Path::new("/"),
            cgroup_namespace: false,
            new_namespaces: 0,
            new_user: false,
            time_offsets: None,
            joins: &joins,
            in_user_namespace,
            may_set_groups: record.may_set_groups,
            oom_score_adj: None,
            caps: Some(sets),
            available_caps: available,
            filter: filter.as_deref(),
            landlock: landlock.as_ref(),
            sync_hooks: false,
            listener: None,
            status: theirs.as_raw_fd(),
            keep: &keep,
            no_pivot: false,
            extra_env: &[],
        };
        let plan = compile(&input)?;
        let groups = options
            .subgroups
            .iter()
            .try_fold(record.groups.clone(), |groups, (of, path)| groups.below(of, path))?;
        let request = Launch {
            helper: &self.runtime.inner.helper,
            plan: &plan,
            namespaces: 0,
            groups: &groups,
            instead: &|| self.runtime.inner.layout.v2_group_of(record.pid),
            keep: &keep,
            maps: None,
            to_move: false,
            on_namespaces: &mut |_| Ok(()),
        };
        let mut launched = launch(request, &status, theirs)?;
        if let Some(listener) = launched.listener.take() {
            // Without its agent it would run on under a filter that nobody answers.
            crate::seccomp::pass_listener(&record, &listener).inspect_err(|_| launched.abort())?;
        }
        let Launched { pid, pidfd, console, .. } = launched;
        let child = self.runtime.inner.children.add(pidfd);
        Ok(ExecProcess {
            container: self.clone(),
            pid,
            child,
            started: Instant::now(),
            stdio: streams.parent,
            console,
            exit: None,
        })
    }
}

/// A process that `exec` started. Dropped: left running; whoever waits for the container reaps it.
#[derive(Debug)]
pub struct ExecProcess {
    container: Container,
    pid: u32,
    child: Arc<Child>,
    started: Instant,
    stdio: [Option<OwnedFd>; 3],
    console: Option<OwnedFd>,
    exit: Option<Exit>,
}

impl ExecProcess {
    /// PID in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end; `None` when the time is over before. After the end it answers the same again.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Exit>> {
        if self.exit.is_none() {
            let ended = self.child.wait(timeout).map_err(Error::os("wait for the process"))?;
            self.exit = ended.map(|ended| {
                let oom_killed = ended.signal == Some(libc::SIGKILL) && self.container.oom_killed();
                Exit::new(ended, oom_killed, self.started)
            });
        }
        Ok(self.exit)
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        sys::pidfd_send_signal(&*self.child, signal).map_err(Error::os(format!("send signal {signal}")))
    }

    /// The caller's end of a piped stream.
    pub fn take_stdio(&mut self, n: usize) -> Option<OwnedFd> {
        self.stdio.get_mut(n)?.take()
    }

    /// The controlling side of its terminal.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }
}

/// A pidfd: readable when the process has ended.
impl AsFd for ExecProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}
