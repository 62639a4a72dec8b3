//! Processes of others: identity beyond the PID, signals, liveness.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::Result;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Sends a signal to all that a list names; false: it is empty. A member may end, and its PID be another's, between the reading of the list
/// and the signal: so pidfds are opened first, and the list is asked again.
pub(crate) fn signal_all(list: impl Fn() -> Result<Vec<u32>>, signal: i32) -> Result<bool> {
    let opened: Vec<_> = list()?.into_iter().map(|pid| (pid, open(pid))).collect();
    let members = list()?;
    for (pid, pidfd) in &opened {
        if let Some(pidfd) = pidfd
            && members.contains(pid)
        {
            // It may have ended by itself.
            let _ = crate::sys::pidfd_send_signal(pidfd, signal);
        }
    }
    Ok(!opened.is_empty() || !members.is_empty())
}

/// Passes a pidfd to whoever listens on the socket: runc's `--pidfd-socket`.
pub fn send_pidfd(socket: &Path, process: &impl AsFd) -> Result<()> {
    crate::console::pass(socket, b"pidfd", process, "pass the pidfd to the socket")
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
