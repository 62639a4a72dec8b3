//! `waitid(2)` by pidfd, with the kernel's account of what was used.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Exit status, when it exited by itself.
    pub(crate) code: Option<i32>,
    /// Signal, when one ended it.
    pub(crate) signal: Option<i32>,
    /// CPU time, user and system.
    pub(crate) cpu: Duration,
    /// Peak resident set, bytes.
    pub(crate) max_rss: u64,
}

/// Waits for the end of a child, and reaps it. `None` when the time is over before.
pub(crate) fn wait(pidfd: &impl AsFd, timeout: Option<Duration>) -> io::Result<Option<Ended>> {
    if let Some(timeout) = timeout
        && !readable(pidfd, timeout)?
    {
        return Ok(None);
    }
    // SAFETY: all-zero is a valid siginfo and rusage.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    let fd = pidfd.as_fd().as_raw_fd();
    loop {
        // SAFETY: both pointers are to live locals of the types the kernel fills. __WALL, as a child may have been cloned without SIGCHLD.
        let r = unsafe {
            let flags = libc::WEXITED | libc::__WALL;
            libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, &raw mut info, flags, &raw mut usage)
        };
        if r == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
    // SAFETY: waitid filled the SIGCHLD variant.
    let status = unsafe { info.si_status() };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    Ok(Some(Ended {
        code: (info.si_code == libc::CLD_EXITED).then_some(status),
        signal: (info.si_code != libc::CLD_EXITED).then_some(status),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        max_rss: usage.ru_maxrss as u64 * 1024,
    }))
}

/// Waits until a pidfd is readable: its process has ended, whoever reaps it.
pub(crate) fn readable(fd: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let end = Instant::now().checked_add(timeout);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let time =
            left.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
