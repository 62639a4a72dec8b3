//! Memory that ran out: how often, and word of it when it happens.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use super::stats::field;
use super::{Groups, write};
use crate::error::{Context, Error, Result};
use crate::sys;

/// Tells when a container runs out of memory, from [`Container::oom_events`](crate::Container::oom_events).
#[derive(Debug)]
pub struct OomEvents {
    /// v1: an eventfd; v2: an inotify descriptor.
    notify: OwnedFd,
    /// The memory group.
    dir: PathBuf,
    v1: bool,
    seen: u64,
}

impl Groups {
    /// Members that the kernel has killed for memory since the container was made.
    pub(crate) fn oom_kills(&self) -> u64 {
        let counted = match (self.controller("memory"), &self.v2) {
            (Some(dir), _) => field(dir, "memory.oom_control", "oom_kill"),
            (None, Some(dir)) => field(dir, "memory.events", "oom_kill"),
            (None, None) => None,
        };
        counted.unwrap_or(0).saturating_sub(self.oom_kills_before)
    }

    pub(crate) fn oom_events(&self) -> Result<OomEvents> {
        if let Some(dir) = self.controller("memory") {
            let notify =
                eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?;
            let path = dir.join("memory.oom_control");
            let control =
                fs::File::open(&path).map_err(|source| Error::Cgroup { path, action: "open", source })?;
            // cgroup-v1/memory.rst, 9: which descriptor is told of which file.
            let line = format!("{} {}", notify.as_raw_fd(), control.as_raw_fd());
            write(&dir.join("cgroup.event_control"), &line)?;
            return Ok(OomEvents { notify, dir: dir.to_owned(), v1: true, seen: 0 });
        }
        let dir = self.v2.as_ref().filter(|dir| dir.join("memory.events").exists()).ok_or_else(|| {
            Error::Unsupported { what: "out-of-memory events: no memory cgroup is delegated".to_owned() }
        })?;
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let notify = inotify::init(flags).context("make an inotify descriptor")?;
        inotify::add_watch(&notify, dir.join("memory.events"), inotify::WatchFlags::MODIFY)
            .context("watch memory.events")?;
        let mut events = OomEvents { notify, dir: dir.clone(), v1: false, seen: 0 };
        events.seen = events.count();
        Ok(events)
    }
}

impl OomEvents {
    /// Waits until the container runs out of memory: a process is about to be killed for it, or, with `disableOOMKiller`, to wait. False: the
    /// time is over, or the container is gone.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if !sys::readable(&self.notify, left).map_err(Error::os("wait for an out-of-memory event"))? {
                return Ok(false);
            }
            let mut buffer = [0; 4096];
            match rustix::io::read(&self.notify, &mut buffer) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(e) => return Err(Error::os("read an out-of-memory event")(io::Error::from(e))),
            }
            // The end of the group is an event, too.
            if !self.dir.exists() {
                return Ok(false);
            }
            if self.v1 {
                return Ok(true);
            }
            // memory.events changes for other reasons as well.
            let count = self.count();
            if count > std::mem::replace(&mut self.seen, count) {
                return Ok(true);
            }
        }
    }

    fn count(&self) -> u64 {
        let of = |key| field(&self.dir, "memory.events", key).unwrap_or(0);
        of("oom") + of("oom_kill")
    }
}

/// Readable when [`OomEvents::wait`] has something to look at.
impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notify.as_fd()
    }
}
