//! What is done with a running container: `exec`, `logs`, `stats`, `update`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify;

use super::log::{self, Wake};
use super::passwd::{self, Identity};
use super::proto::Request;
use super::record::Record;
use super::rootview::RootView;
use super::{
    Containers, Error, ExecRequest, LogLine, LogOptions, Result, StartOptions, Stats, Update, compile, dir,
    shim,
};
use crate::{Container, ExecOptions, ExecProcess, Stdio};

impl Containers {
    /// Runs one more program in a running container. The process is the caller's child; dropped, it runs on. See [`super::Terminal::exec`].
    /// Events tell of its beginning, and of its end where the caller says it ([`Self::exec_ended`]).
    pub fn exec(&self, key: &str, request: &ExecRequest, stdio: [Stdio; 3]) -> Result<ExecProcess> {
        let id = self.id(key)?;
        let (record, state) = self.load(&id)?;
        if state.shown.paused {
            return Err(Error::Conflict(format!(
                "Container {} is paused, unpause the container before exec",
                record.name
            )));
        }
        if state.shown.restarting {
            return Err(Error::Conflict(format!(
                "Container {id} is restarting, wait until the container is running"
            )));
        }
        if !state.shown.running {
            return Err(Error::NotRunning(id));
        }
        let exec_id = request.id.clone().map_or_else(dir::new_id, Ok)?;
        if let Some((program, args)) = request.args.split_first() {
            for action in ["exec_create", "exec_start"] {
                // As Docker: the blank is there without arguments, too.
                let action = format!("{action}: {program} {}", args.join(" "));
                self.0.emit(&action, &record, &[("execID", &exec_id)]);
            }
        }
        let container = self.0.runtime.open(&id)?;
        self.exec_in(&record, &container, request, stdio)
    }

    /// Tells the readers of events that the process of this [`ExecRequest::id`] has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub fn exec_ended(&self, key: &str, exec_id: &str, exit_code: i32) -> Result<()> {
        let (record, _) = self.load(&self.id(key)?)?;
        self.0.emit("exec_die", &record, &[("execID", exec_id), ("exitCode", &exit_code.to_string())]);
        Ok(())
    }

    pub(super) fn exec_in(
        &self,
        record: &Record,
        container: &Container,
        request: &ExecRequest,
        stdio: [Stdio; 3],
    ) -> Result<ExecProcess> {
        if request.args.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        let user = request.user.as_deref().filter(|u| !u.is_empty()).unwrap_or(&record.config.user);
        let who = self.identity(&root_of(container)?, user, record)?;
        let process = compile::exec_process(record, &who, request)?;
        let options = ExecOptions { stdio, ..ExecOptions::default() };
        container.exec(&process, options).map_err(|e| shim::start_error(&e, &request.args[0]))
    }

    /// Who the container's process is to be.
    pub(super) fn identity(&self, view: &RootView, user: &str, record: &Record) -> Result<Identity> {
        let mut who = passwd::resolve(view, user, &record.host.group_add)?;
        let may_set_groups = match &self.0.options.id_maps {
            Some(_) => true,
            None => rustix::process::geteuid().is_root() && crate::idmap::may_set_groups(),
        };
        if !may_set_groups {
            // It has this one all the same.
            who.groups.retain(|group| *group != who.gid);
        }
        Ok(who)
    }

    /// Reads its log, oldest line first, until `line` returns false.
    pub fn logs(&self, key: &str, options: &LogOptions, line: &mut dyn FnMut(LogLine) -> bool) -> Result<()> {
        let id = self.id(key)?;
        let (record, _) = self.load(&id)?;
        if record.host.log_config.driver == "none" {
            return Err(Error::invalid("configured logging driver does not support reading"));
        }
        let path = self.0.dir.file(&id, &log::file_name(&id));
        let fail = |e: rustix::io::Errno| Error::io("watch", self.0.dir.path(&id))(e.into());
        if !options.follow {
            return log::read(&path, options, &mut || Ok(Wake::End), line);
        }
        let watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(fail)?;
        let flags =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, self.0.dir.path(&id), flags).map_err(fail)?;
        // An empty log has no file before the first start.
        let mut touched = path.exists();
        while !touched && self.load(&id).is_ok_and(|(_, state)| state.is_live()) {
            wait_for_change(&watch, Duration::from_millis(200));
            touched = path.exists();
        }
        let mut wait = || {
            let live = self.load(&id).is_ok_and(|(_, state)| state.is_live());
            if live {
                // Long enough to be no load, short enough to see the end of a container whose shim was killed.
                wait_for_change(&watch, Duration::from_secs(1));
                return Ok(Wake::Again);
            }
            Ok(Wake::End)
        };
        log::read(&path, options, &mut wait, line)
    }

    /// Reads its counters. One that does not run has none: all zero. So are CPU, memory and block devices of one without cgroups of its own.
    pub fn stats(&self, key: &str) -> Result<Stats> {
        let id = self.id(key)?;
        let (record, state) = self.load(&id)?;
        let mut stats = Stats { id: id.clone(), name: record.name.clone(), ..Stats::default() };
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        stats.read_at = uptime.tv_sec as u64 * 1_000_000_000 + uptime.tv_nsec as u64;
        if !state.shown.running {
            return Ok(stats);
        }
        super::counters::read(state.shown.pid, &self.0.runtime.open(&id)?, &mut stats);
        Ok(stats)
    }

    /// Changes limits and restart policy, of a running one too. Returns warnings.
    pub fn update(&self, key: &str, update: &Update) -> Result<Vec<String>> {
        let id = self.id(key)?;
        self.load(&id)?;
        let _op = self.0.dir.op_lock(&id)?;
        let mut record = self.0.dir.record(&id)?;
        let running = self.0.state(&id)?.is_live();
        let h = &mut record.host;
        if let Some(policy) = &update.restart_policy {
            if h.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
                return Err(Error::invalid(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            h.restart_policy = policy.clone();
        }
        macro_rules! take {
            ($($field:ident),*) => { $( if let Some(value) = update.$field.clone() { h.$field = value; } )* };
        }
        take!(
            memory,
            memory_swap,
            memory_reservation,
            nano_cpus,
            cpu_period,
            cpu_quota,
            cpu_shares,
            cpuset_cpus,
            cpuset_mems,
            blkio_weight
        );
        super::check::limits(h)?;
        if update.pids_limit.is_some() {
            h.pids_limit = update.pids_limit;
        }
        if running && update.changes_limits() {
            self.0.runtime.open(&id)?.update(&compile::limits(&record)?)?;
        }
        self.0.dir.write_record(&record)?;
        if running && update.restart_policy.is_some() {
            self.ask(&id, &Request::Policy(record.host.restart_policy.clone()))?;
        }
        self.0.emit("update", &record, &[]);
        Ok(Vec::new())
    }

    /// Starts those whose restart policy says so and which do not run: after a boot. Returns their IDs.
    pub fn restore(&self) -> Result<Vec<String>> {
        let mut started = self.to_restore()?;
        started.retain(|id| self.start(id, &StartOptions::default()).is_ok());
        Ok(started)
    }

    /// IDs of those that [`Self::restore`] starts, the oldest first: another one's namespaces are older than who joins them.
    pub fn to_restore(&self) -> Result<Vec<String>> {
        let mut wanted = Vec::new();
        for (record, state) in self.records()? {
            let starts = match record.host.restart_policy.name.as_str() {
                "always" => true,
                "unless-stopped" => !state.stopped_by_hand,
                "on-failure" => state.shown.exit_code != 0 && !state.stopped_by_hand,
                _ => false,
            };
            if starts && !state.is_live() && state.shown.status != "created" {
                wanted.push((record.created, record.id));
            }
        }
        wanted.sort();
        Ok(wanted.into_iter().map(|(_, id)| id).collect())
    }
}

impl Update {
    fn changes_limits(&self) -> bool {
        let Self {
            restart_policy: _,
            memory,
            memory_swap,
            memory_reservation,
            nano_cpus,
            cpu_period,
            cpu_quota,
            cpu_shares,
            cpuset_cpus,
            cpuset_mems,
            pids_limit,
            blkio_weight,
        } = self;
        [memory, memory_swap, memory_reservation, nano_cpus, cpu_period, cpu_quota, cpu_shares, pids_limit]
            .iter()
            .any(|l| l.is_some())
            || cpuset_cpus.is_some()
            || cpuset_mems.is_some()
            || blkio_weight.is_some()
    }
}

/// The root directory of a running container, as its processes see it.
pub(super) fn root_of(container: &Container) -> Result<RootView> {
    let pid = container.state()?.pid.ok_or_else(|| Error::NotRunning(container.id().into()))?;
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .map_err(|e| Error::io("open", &path)(e.into()))?;
    // Had the process ended before, and its number been given to another, that one's root would be what we opened.
    match container.state()?.pid {
        Some(still) if still == pid => Ok(RootView::of(root)),
        _ => Err(Error::NotRunning(container.id().into())),
    }
}

fn wait_for_change(watch: &OwnedFd, longest: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
    let timeout = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    let _ = poll(&mut fds, Some(&timeout));
    let mut buffer = [0u8; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|n| n > 0) {}
}
