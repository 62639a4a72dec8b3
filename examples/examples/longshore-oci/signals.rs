//! Signals, waited for together with a process's end: no thread, as a start of a few milliseconds would feel six of them.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::{flag, low_level::pipe};

const WATCHED: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// The signals that this process is sent, from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    came: Vec<(i32, Arc<AtomicBool>)>,
    woken: UnixStream,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let watch = |signal| {
            let came = Arc::new(AtomicBool::new(false));
            // In this order a handler calls them: who is woken finds the flag.
            flag::register(signal, Arc::clone(&came))?;
            pipe::register(signal, wake.try_clone()?)?;
            Ok((signal, came))
        };
        Ok(Self { came: WATCHED.into_iter().map(watch).collect::<io::Result<_>>()?, woken })
    }

    /// Waits until the process has ended, and calls back for each signal that comes until then.
    pub(crate) fn until_end(&mut self, process: &impl AsFd, mut call: impl FnMut(i32)) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            // Emptied first: what comes from here on wakes again.
            while let Ok(1..) = self.woken.read(&mut [0; 64]) {}
            self.came
                .iter()
                .filter(|(_, came)| came.swap(false, Ordering::Relaxed))
                .for_each(|(n, _)| call(*n));
        }
    }
}
