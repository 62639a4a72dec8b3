//! The parent's side of a start: clone the helper, answer it until the container is ready, executed, or failed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::cgroup::Groups;
use crate::error::{Context, Error, Result};
use crate::idmap::Maps;
use crate::plan::Plan;
use crate::process;
use crate::seccomp;
use crate::state::Record;
use crate::stdio::at_least;
use crate::sys::{self, Spawn, wire::msg};

/// What a start needs besides its plan.
pub(crate) struct Launch<'a> {
    pub(crate) helper: &'a OwnedFd,
    pub(crate) plan: &'a Plan,
    /// Namespaces of the first process: none where an outer process forks init.
    pub(crate) namespaces: u64,
    pub(crate) groups: &'a Groups,
    /// Another v2 group, for when that of `groups` takes no process.
    pub(crate) instead: &'a dyn Fn() -> Option<OwnedFd>,
    pub(crate) keep: &'a [RawFd],
    pub(crate) maps: Option<&'a Maps>,
    /// It could not be born in its group, and is to be moved there.
    pub(crate) to_move: bool,
    /// Called with the PID when the namespaces exist.
    pub(crate) on_namespaces: &'a mut dyn FnMut(u32) -> Result<()>,
}

impl Launch<'_> {
    /// Sees that it is in its group.
    fn moved(&mut self, launched: &Launched) -> Result<()> {
        if !std::mem::take(&mut self.to_move) {
            return Ok(());
        }
        match self.groups.attach(launched.pid) {
            // It has ended, and needs no group.
            Err(_) if sys::readable(&launched.pidfd, Duration::ZERO).unwrap_or(false) => Ok(()),
            result => result,
        }
    }
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) netns: Option<OwnedFd>,
    /// seccomp notifications.
    pub(crate) listener: Option<OwnedFd>,
}

/// The two ends of a status socket: ours, the helper's.
pub(crate) fn status_socket(least: RawFd) -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("make the status socket")?;
    Ok((ours, at_least(theirs, least)?))
}

/// Starts it, and returns when it is parked or executed. On an error nothing of it is left.
pub(crate) fn launch(mut launch: Launch<'_>, status: &OwnedFd, theirs: OwnedFd) -> Result<Launched> {
    let memory =
        sys::memory(c"longshore-plan", &launch.plan.bytes).map_err(Error::os("make the plan's memory"))?;
    let cgroup = launch.groups.v2_fd()?;
    let request = Spawn {
        program: launch.helper.as_fd(),
        plan: memory.as_fd(),
        plan_len: launch.plan.bytes.len(),
        namespaces: launch.namespaces,
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        keep: launch.keep,
    };
    let (pid, pidfd) = match born_in(launch.groups, &request) {
        Err(Error::Os { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
            let group = (launch.instead)().ok_or_else(|| Error::os("clone3")(source))?;
            born_in(launch.groups, &Spawn { cgroup: Some(group.as_fd()), ..request })?
        }
        // From outside the user's own part of the hierarchy: its systemd may ask the machine's to move a process.
        Err(Error::Os { source, .. })
            if source.raw_os_error() == Some(libc::EACCES) && launch.groups.is_of_systemd() =>
        {
            launch.to_move = true;
            born_in(launch.groups, &Spawn { cgroup: None, ..request })?
        }
        born => born?,
    };
    drop((theirs, memory));
    let mut launched = Launched { pid, pidfd, console: None, netns: None, listener: None };
    match converse(&mut launch, status, &mut launched).and_then(|()| launch.moved(&launched)) {
        Ok(()) => Ok(launched),
        Err(error) => {
            launched.abort();
            Err(error)
        }
    }
}

impl Launched {
    /// Ends it; an error elsewhere is the one to tell.
    pub(crate) fn abort(&self) {
        let _ = sys::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        let _ = sys::wait(&self.pidfd, None);
    }
}

/// Clones on a thread that has moved itself into the v1 groups and the class, where there are any.
fn born_in(groups: &Groups, request: &Spawn<'_>) -> Result<(u32, OwnedFd)> {
    let clone = || sys::spawn(request).map_err(Error::os("clone3"));
    if !groups.to_enter() {
        return clone();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("longshore-clone".to_owned()).stack_size(64 * 1024);
        let thread = thread.spawn_scoped(scope, || {
            groups.enter()?;
            clone()
        });
        let thread = thread.map_err(Error::os("start a thread"))?;
        thread.join().unwrap_or_else(|_| Err(Error::os("clone3")(io::ErrorKind::Other.into())))
    })
}

fn converse(launch: &mut Launch<'_>, status: &OwnedFd, launched: &mut Launched) -> Result<()> {
    let faults = &launch.plan.faults;
    loop {
        let Some((message, fd)) =
            sys::receive(status.as_raw_fd()).map_err(Error::os("read the status socket"))?
        else {
            return executed(launched);
        };
        match message.kind {
            msg::PID => replace(launched, message.value as u32)?,
            msg::MAPS => {
                launch.moved(launched)?;
                if let Some(maps) = launch.maps {
                    maps.write(launched.pid)?;
                }
                answer(status, launched.pid)?;
            }
            msg::HOOKS => {
                (launch.on_namespaces)(launched.pid)?;
                answer(status, launched.pid)?;
            }
            msg::CONSOLE => launched.console = fd,
            msg::NETNS => launched.netns = fd,
            msg::NOTIFY => launched.listener = fd,
            msg::READY => return Ok(()),
            msg::ERROR => return Err(faults.error(message.step, message.value, message.detail)),
            kind => {
                return Err(Error::os(format!("message {kind} of the start-up helper"))(
                    io::ErrorKind::InvalidData.into(),
                ));
            }
        }
    }
}

/// The socket closed without a report: either `execve` closed it, or the process died.
fn executed(launched: &Launched) -> Result<()> {
    if !sys::readable(&launched.pidfd, Duration::ZERO).map_err(Error::os("poll a pidfd"))? {
        return Ok(());
    }
    // A process killed during set-up leaves the helper's name on its zombie; one that has run and ended, its program's.
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", launched.pid)).unwrap_or_default();
    if comm.trim_end() == HELPER_NAME { Err(Error::Died) } else { Ok(()) }
}

/// Name of the helper's process before `execve`.
pub(crate) const HELPER_NAME: &str = "longshore:init";

/// The outer process has forked the one that counts.
fn replace(launched: &mut Launched, pid: u32) -> Result<()> {
    // It is our child and not reaped, so the PID is not used again.
    let pidfd = process::open(pid).ok_or(Error::Died)?;
    let outer = std::mem::replace(&mut launched.pidfd, pidfd);
    launched.pid = pid;
    sys::wait(&outer, None).map_err(Error::os("reap the outer process"))?;
    Ok(())
}

/// Lets the process go on: it learns the PID by which it is known here.
pub(crate) fn answer(status: &OwnedFd, pid: u32) -> Result<()> {
    rustix::net::send(status, &pid.to_ne_bytes(), rustix::net::SendFlags::NOSIGNAL)
        .context("answer the container's process")?;
    Ok(())
}

/// Wakes a parked container over its socket, and waits until it has executed.
pub(crate) fn wake(socket: &OwnedFd, record: &Record) -> Result<()> {
    answer(socket, record.pid)?;
    loop {
        match sys::receive(socket.as_raw_fd()).map_err(Error::os("read the status socket"))? {
            None => return Ok(()),
            Some((message, Some(fd))) if message.kind == msg::NOTIFY => seccomp::pass_listener(record, &fd)?,
            Some((message, _)) => {
                return Err(record.faults.error(message.step, message.value, message.detail));
            }
        }
    }
}
