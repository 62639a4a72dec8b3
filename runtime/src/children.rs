//! Processes that `exec` started in containers, until they are reaped.
//!
//! A PID namespace's init does not end before every process in it has been reaped, and one that `exec` started is the caller's child: left
//! unreaped, it would keep whoever waits for init waiting for ever. So whoever waits for an init reaps what `exec` started, too; the handle
//! of such a process finds the result here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::sys::{self, Ended};

/// A child process whose end several may ask for.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: OwnedFd,
    ended: Mutex<Option<Ended>>,
}

impl Child {
    /// Waits for its end; `None` when the time is over before.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Ended>> {
        if let Some(ended) = *guard(&self.ended) {
            return Ok(Some(ended));
        }
        let readable = poll_any(&[self.pidfd.as_fd()], timeout)?;
        if readable { self.reap() } else { Ok(None) }
    }

    /// Reaps it, if it has ended.
    fn reap(&self) -> io::Result<Option<Ended>> {
        let mut ended = guard(&self.ended);
        if ended.is_none() {
            *ended = sys::wait(&self.pidfd, Some(Duration::ZERO))?;
        }
        Ok(*ended)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// All that a runtime's `exec`s started and nobody has reaped.
#[derive(Debug, Default)]
pub(crate) struct Children {
    list: Mutex<Vec<Arc<Child>>>,
    /// Becomes readable when the list grows, and is another one from then on. Whoever waits keeps it.
    grown: Mutex<Weak<OwnedFd>>,
}

impl Children {
    pub(crate) fn add(&self, pidfd: OwnedFd) -> Arc<Child> {
        let child = Arc::new(Child { pidfd, ended: Mutex::new(None) });
        let mut list = guard(&self.list);
        reap(&mut list);
        list.push(Arc::clone(&child));
        drop(list);
        if let Some(grown) = std::mem::take(&mut *guard(&self.grown)).upgrade() {
            // It cannot fail: a counter far from its maximum.
            let _ = rustix::io::write(&*grown, &1u64.to_ne_bytes());
        }
        child
    }

    /// Waits until an init has ended, and reaps what keeps it from that; false when the time is over before.
    pub(crate) fn wait_for(&self, init: &OwnedFd, timeout: Option<Duration>) -> io::Result<bool> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let grown = self.grown()?;
            let others: Vec<Arc<Child>> = {
                let mut list = guard(&self.list);
                reap(&mut list);
                list.clone()
            };
            let mut fds = vec![init.as_fd(), grown.as_fd()];
            fds.extend(others.iter().map(|child| child.as_fd()));
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let woken = poll_any(&fds, left)?;
            if poll_any(&[init.as_fd()], Some(Duration::ZERO))? {
                return Ok(true);
            }
            if !woken {
                return Ok(false);
            }
        }
    }

    fn grown(&self) -> io::Result<Arc<OwnedFd>> {
        let mut grown = guard(&self.grown);
        if let Some(fd) = grown.upgrade() {
            return Ok(fd);
        }
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        *grown = Arc::downgrade(&fd);
        Ok(fd)
    }
}

/// Takes those out that have ended. One that someone else has reaped (`waitpid(-1)` in the host) is gone, too.
fn reap(list: &mut Vec<Arc<Child>>) {
    list.retain(|child| matches!(child.reap(), Ok(None)));
}

/// Waits until one is readable; false when the time is over before.
fn poll_any(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let time =
            left.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        let mut fds: Vec<PollFd<'_>> =
            fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, time.as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
