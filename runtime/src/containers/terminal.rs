//! A client's side of an attached container: its terminal, its signals, its detach keys.

use std::os::fd::BorrowedFd;

use super::{Error, Result, Stream};
use crate::ExecProcess;

/// How an attached session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process ended with this code.
    Exited(i32),
    /// The user pressed the detach keys, or standard output went away; the process runs on.
    Detached,
}

/// Connects a session to the descriptors of the caller, and with [`Self::tty`] puts its terminal into raw mode for that time.
///
/// With [`Self::proxy_signals`] it blocks signals for the calling thread; call it from the main thread of a program without others.
#[derive(Debug)]
#[non_exhaustive]
pub struct Terminal<'a> {
    /// Standard input; `None` sends nothing.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// The process has a terminal: `stdin`, if it is one, goes into raw mode, and its size is passed on.
    pub tty: bool,
    /// Keys that end the session and leave the process.
    pub detach_keys: DetachKeys,
    /// Pass signals on to the process.
    pub proxy_signals: bool,
}

impl<'a> Terminal<'a> {
    /// Without input, terminal and signals.
    pub fn new(stdout: BorrowedFd<'a>, stderr: BorrowedFd<'a>) -> Self {
        Self {
            stdin: None,
            stdout,
            stderr,
            tty: false,
            detach_keys: DetachKeys::default(),
            proxy_signals: false,
        }
    }
    /// Runs an attached container's session to its end.
    pub fn attach(&self, stream: Stream) -> Result<Ended> {
        let _ = stream;
        todo!()
    }
    /// Runs the session of a process that [`super::Containers::exec`] started: through its console if it has one, else just waits.
    pub fn exec(&self, process: ExecProcess) -> Result<Ended> {
        let _ = process;
        todo!()
    }
}

/// Keys that detach: by default ctrl-p ctrl-q. Written as Docker does: `ctrl-a,x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let key = |name: &str| match (name.strip_prefix("ctrl-"), name.as_bytes()) {
            (Some(c), _) => match c.as_bytes() {
                [c @ b'a'..=b'z'] => Ok(c - b'a' + 1),
                [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(c & 0x1f),
                _ => Err(()),
            },
            (None, [c]) => Ok(*c),
            _ => Err(()),
        };
        text.split(',')
            .map(key)
            .collect::<Result<Vec<u8>, ()>>()
            .map(Self)
            .map_err(|()| Error::invalid(format!("Unknown character: '{text}'")))
    }
}
