//! A client's side of an attached container: its terminal, its signals, its detach keys.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize};

use super::sys::Signals;
use super::{Error, Output, Result, Stream};
use crate::ExecProcess;

/// How an attached session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process ended with this code.
    Exited(i32),
    /// The user pressed the detach keys; the process runs on.
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

/// Bytes of input that may wait for a slow process.
const INPUT_MAX: usize = 256 << 10;

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

    /// Runs an attached container's session to its end. Where standard output or error cannot be written any more the session ends with that
    /// error ([`Error::is_broken_pipe`]: nobody reads), and the process runs on.
    pub fn attach(&self, stream: Stream) -> Result<Ended> {
        self.session(&mut Attached { stream, ready: Vec::new() })
    }

    /// Runs the session of a process that [`super::Containers::exec`] started: through its console if it has one, else just waits.
    pub fn exec(&self, mut process: ExecProcess) -> Result<Ended> {
        let console = process.take_console();
        if let Some(fd) = &console {
            nonblocking(fd.as_fd())?;
        }
        self.session(&mut Executed { process, console, queue: VecDeque::new() })
    }

    fn session(&self, peer: &mut dyn Peer) -> Result<Ended> {
        let _raw = if self.tty { self.stdin.and_then(Raw::enter) } else { None };
        // A terminal's size changes are told by a signal, whether or not others are passed on.
        let signals = if self.proxy_signals || self.tty {
            Some(Signals::block().map_err(Error::io("block", "signals"))?)
        } else {
            None
        };
        let mut keys = Keys { keys: self.detach_keys.0.clone(), matched: 0 };
        let mut stdin = self.stdin;
        self.pass_size(peer);
        // The first output may have come together with the answer: no descriptor tells of it any more.
        if let Some(ended) = self.outputs(peer)? {
            return Ok(ended);
        }
        loop {
            let wanted = stdin.filter(|_| peer.queued() < INPUT_MAX);
            let (input, signal) = wait(wanted, signals.as_ref(), peer)?;
            while let Some(signal) = signals.as_ref().filter(|_| signal).and_then(Signals::next) {
                if signal == libc::SIGWINCH && self.tty {
                    self.pass_size(peer);
                } else if self.proxy_signals {
                    peer.signal(signal);
                } else if signal != libc::SIGWINCH {
                    return Ok(Ended::Exited(128 + signal));
                }
            }
            if let Some(fd) = stdin.filter(|_| input) {
                let mut buffer = [0; 32 << 10];
                match rustix::io::read(fd, &mut buffer) {
                    Ok(0) => {
                        peer.end_input();
                        stdin = None;
                    }
                    Ok(n) => {
                        let (bytes, detach) = keys.take(&buffer[..n], self.tty);
                        peer.input(&bytes);
                        if detach {
                            return Ok(Ended::Detached);
                        }
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => stdin = None,
                }
            }
            if let Some(ended) = self.outputs(peer)? {
                return Ok(ended);
            }
        }
    }

    fn outputs(&self, peer: &mut dyn Peer) -> Result<Option<Ended>> {
        for output in peer.outputs()? {
            let (name, done) = match output {
                Output::Stdout(bytes) => ("/dev/stdout", write_all(self.stdout, &bytes)),
                Output::Stderr(bytes) => ("/dev/stderr", write_all(self.stderr, &bytes)),
                Output::Exited(code) => return Ok(Some(Ended::Exited(code))),
            };
            done.map_err(|e| Error::io("write", name)(e.into()))?;
        }
        Ok(None)
    }

    fn pass_size(&self, peer: &mut dyn Peer) {
        let size = [self.stdin, Some(self.stdout)]
            .into_iter()
            .flatten()
            .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok());
        if let Some(size) = size.filter(|s| self.tty && s.ws_row > 0 && s.ws_col > 0) {
            peer.resize(size);
        }
    }
}

/// The other end of a session.
trait Peer {
    /// Descriptors to wait for, with what to wait for.
    fn fds(&self) -> Vec<PollFd<'_>>;
    /// Takes what has come, without waiting.
    fn outputs(&mut self) -> Result<Vec<Output>>;
    fn input(&mut self, bytes: &[u8]);
    fn end_input(&mut self);
    /// Bytes of input on their way.
    fn queued(&self) -> usize;
    fn signal(&mut self, signal: i32);
    fn resize(&mut self, size: Winsize);
}

/// Waits for standard input, a signal, or the peer.
fn wait(stdin: Option<BorrowedFd<'_>>, signals: Option<&Signals>, peer: &dyn Peer) -> Result<(bool, bool)> {
    let mut fds = Vec::with_capacity(4);
    fds.extend(stdin.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    fds.extend(signals.map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)));
    fds.extend(peer.fds());
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(Error::io("poll", "descriptors")(e.into())),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let mut next = |there: bool| there && ready.next().unwrap_or(false);
    Ok((next(stdin.is_some()), next(signals.is_some())))
}

struct Attached {
    stream: Stream,
    ready: Vec<Output>,
}

impl Peer for Attached {
    fn fds(&self) -> Vec<PollFd<'_>> {
        let flags = if self.stream.queued() > 0 { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        vec![PollFd::from_borrowed_fd(self.stream.as_fd(), flags)]
    }
    fn outputs(&mut self) -> Result<Vec<Output>> {
        self.stream.flush_ready();
        match self.stream.recv_ready(&mut self.ready) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) if self.ready.is_empty() => return Err(Error::Shim("it was killed".into())),
            _ => {}
        }
        Ok(std::mem::take(&mut self.ready))
    }
    fn input(&mut self, bytes: &[u8]) {
        self.stream.queue_input(bytes);
    }
    fn end_input(&mut self) {
        self.stream.queue_end();
    }
    fn queued(&self) -> usize {
        self.stream.queued()
    }
    fn signal(&mut self, signal: i32) {
        self.stream.queue_signal(signal);
    }
    fn resize(&mut self, size: Winsize) {
        self.stream.queue_resize(size.ws_col, size.ws_row);
    }
}

struct Executed {
    process: ExecProcess,
    console: Option<OwnedFd>,
    queue: VecDeque<u8>,
}

impl Executed {
    fn flush(&mut self) {
        while let Some(fd) = self.console.as_ref().filter(|_| !self.queue.is_empty()) {
            match rustix::io::write(fd, self.queue.as_slices().0) {
                Ok(n) => drop(self.queue.drain(..n)),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl Peer for Executed {
    fn fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN)];
        let flags = if self.queue.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        fds.extend(self.console.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), flags)));
        fds
    }
    fn outputs(&mut self) -> Result<Vec<Output>> {
        self.flush();
        let exit = self.process.wait(Some(std::time::Duration::ZERO))?;
        let mut out = Vec::new();
        let mut buffer = [0; 32 << 10];
        while let Some(fd) = &self.console {
            match rustix::io::read(fd, &mut buffer) {
                Ok(n) if n > 0 => out.push(Output::Stdout(buffer[..n].to_vec())),
                Err(Errno::AGAIN | Errno::INTR) => break,
                _ => self.console = None,
            }
        }
        out.extend(exit.map(|e| Output::Exited(e.code)));
        Ok(out)
    }
    fn input(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
        self.flush();
    }
    fn end_input(&mut self) {
        // To a terminal, end-of-file is a key.
        self.input(&[4]);
    }
    fn queued(&self) -> usize {
        self.queue.len()
    }
    fn signal(&mut self, signal: i32) {
        let _ = self.process.kill(signal);
    }
    fn resize(&mut self, size: Winsize) {
        if let Some(fd) = &self.console {
            let _ = rustix::termios::tcsetwinsize(fd, size);
        }
    }
}

fn nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::io("set up", "a terminal")(e.into()))
}

/// Writes to a descriptor of the caller, which may be in non-blocking mode.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None)?;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A terminal in raw mode; dropped: as it was.
struct Raw<'a> {
    fd: BorrowedFd<'a>,
    old: Termios,
}

impl<'a> Raw<'a> {
    fn enter(fd: BorrowedFd<'a>) -> Option<Self> {
        let old = rustix::termios::tcgetattr(fd).ok()?;
        let mut raw = old.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(fd, OptionalActions::Now, &raw).ok()?;
        Some(Self { fd, old })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(self.fd, OptionalActions::Now, &self.old);
    }
}

/// Looks for the detach keys in what is typed. Keys that may be the beginning of them are held back until it is clear.
struct Keys {
    keys: Vec<u8>,
    matched: usize,
}

impl Keys {
    fn take(&mut self, bytes: &[u8], tty: bool) -> (Vec<u8>, bool) {
        if !tty || self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte != self.keys[self.matched] {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
            } else {
                out.push(*byte);
            }
        }
        (out, false)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_and_nothing_else_is_lost() {
        let keys = |text: &str| Keys { keys: text.parse::<DetachKeys>().unwrap().0, matched: 0 };
        let mut k = keys("ctrl-p,ctrl-q");
        assert_eq!(k.take(b"ls\x10", true), (b"ls".to_vec(), false));
        assert_eq!(k.take(b"x\x10\x10", true), (b"\x10x\x10".to_vec(), false));
        assert_eq!(k.take(b"\x11rest", true), (vec![], true));
        assert_eq!(keys("ctrl-p,ctrl-q").take(b"\x10\x11", false), (b"\x10\x11".to_vec(), false));
        assert_eq!("ctrl-@,a".parse::<DetachKeys>().unwrap().0, [0, b'a']);
        assert!("ctrl-é".parse::<DetachKeys>().is_err() && "ab".parse::<DetachKeys>().is_err());
    }
}
