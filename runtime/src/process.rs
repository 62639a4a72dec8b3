//! Processes of others: identity beyond the PID, signals, liveness.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Sends a signal by PID, silently: the process may have ended.
pub(crate) fn kill(pid: u32, signal: i32) {
    if let Some(fd) = open(pid) {
        let _ = crate::sys::pidfd_send_signal(&fd, signal);
    }
}

/// A pidfd.
pub(crate) fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// When a process started, in clock ticks since boot: with its PID it names a process for good. `None`: there is none, or a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so the fields are counted from its last parenthesis.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
