//! A process that only waits: what has to exist before the container's own does is hung on it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::launch::status_socket;
use crate::plan;
use crate::sys::{self, Spawn};

/// A helper process that ends with this handle, and with the program that holds it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    socket: Option<OwnedFd>,
}

impl Waiting {
    /// Starts it in new namespaces (`CLONE_NEW*`).
    pub(crate) fn start(helper: &OwnedFd, namespaces: u64) -> Result<Self> {
        let (ours, theirs) = status_socket(3)?;
        let plan = plan::waiting(theirs.as_raw_fd());
        let memory = sys::memory(c"longshore-wait", &plan).map_err(Error::os("make the plan's memory"))?;
        let request = Spawn {
            program: helper.as_fd(),
            plan: memory.as_fd(),
            plan_len: plan.len(),
            namespaces,
            cgroup: None,
            keep: &[theirs.as_raw_fd()],
        };
        let (pid, pidfd) = sys::spawn(&request).map_err(Error::os("clone3"))?;
        Ok(Self { pid, pidfd, socket: Some(ours) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It waits for an answer; the end of the socket is one, too.
        self.socket = None;
        // A child of ours that ends can be reaped.
        let _ = sys::wait(&self.pidfd, None);
    }
}
