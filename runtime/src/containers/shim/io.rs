//! The container's streams, seen from the shim.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

/// Bytes read from a stream at once.
pub(super) const CHUNK: usize = 128 << 10;

/// What a read gave.
pub(super) enum Read {
    Bytes(usize),
    /// Nothing now.
    Later,
    End,
}

/// Reads without waiting. A terminal whose other side is closed answers with an error: that is its end.
pub(super) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> Read {
    match rustix::io::read(fd, buffer) {
        Ok(0) | Err(Errno::IO) => Read::End,
        Ok(n) => Read::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Read::Later,
        Err(_) => Read::End,
    }
}

/// Bytes that may be on their way in a stream; in a terminal it is less than that.
pub(super) fn capacity(fd: &OwnedFd) -> usize {
    rustix::pipe::fcntl_getpipe_size(fd).unwrap_or(1 << 20)
}

/// Bytes on their way to standard input.
#[derive(Debug, Default)]
pub(super) struct Input {
    fd: Option<OwnedFd>,
    queue: VecDeque<u8>,
    /// Close once the queue is empty.
    ending: bool,
}

impl Input {
    pub(super) fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, ..Self::default() }
    }
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }
    pub(super) fn waits_to_write(&self) -> bool {
        self.fd.is_some() && !self.queue.is_empty()
    }
    /// Clients should hold back.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() > 256 << 10
    }
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.fd.is_some() && !self.ending {
            self.queue.extend(bytes);
            self.flush();
        }
    }
    pub(super) fn end(&mut self) {
        self.ending = true;
        self.flush();
    }
    pub(super) fn flush(&mut self) {
        while let Some(fd) = self.fd.as_ref().filter(|_| !self.queue.is_empty()) {
            match rustix::io::write(fd.as_fd(), self.queue.as_slices().0) {
                Ok(n) => drop(self.queue.drain(..n)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Nobody reads any more.
                Err(_) => {
                    self.fd = None;
                    self.queue.clear();
                }
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
            if self.ending {
                self.fd = None;
            }
        }
    }
}
