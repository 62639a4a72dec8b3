//! An attached client's connection to a container's shim.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

use super::proto::{self, Decoder};
use super::{Error, Result};

/// A connection that carries a container's standard streams. Dropped: detached, the container runs on.
///
/// It is [`AsFd`], to be polled for what comes.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    decoder: Decoder,
    /// Frames that a session sends as the shim takes them: a session that waited for it could not take its output meanwhile.
    queue: VecDeque<u8>,
    /// The shim's process, where it is known.
    shim: Option<OwnedFd>,
}

/// What comes over a [`Stream`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Bytes of standard output (all bytes of a terminal).
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The process ended with this code; nothing more comes.
    Exited(i32),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Over a connection whose answer may still be on its way.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::default(), queue: VecDeque::new(), shim: None }
    }

    /// Over a connection to the socket on which the shim listens.
    pub(super) fn connected(socket: UnixStream) -> Self {
        let shim = rustix::net::sockopt::socket_peercred(&socket).ok();
        let shim = shim.and_then(|peer| open_shim(peer.pid.as_raw_nonzero().get()));
        Self { shim, ..Self::new(socket) }
    }

    /// Waits until the shim, which has said that it ends, has ended: nothing of the container is left then. For a while, as a client that
    /// takes nothing more may hold it up.
    pub(super) fn wait_for_shim(&mut self) {
        let Some(shim) = self.shim.take() else { return };
        // Not until somebody has taken note of its end: a zombie holds nothing, and its new parent may be slow.
        let _ = crate::sys::readable(&shim, Duration::from_secs(5));
    }

    /// Sends a request and takes the answer.
    pub(super) fn ask(&mut self, request: &proto::Request) -> Result<()> {
        self.write(&proto::json_frame(proto::REQUEST, request))?;
        self.answer().map(drop)
    }

    /// Takes the answer to a request; warnings that came with it.
    pub(super) fn answer(&mut self) -> Result<Vec<String>> {
        let gone = || Error::Shim("it ended without an answer".into());
        let (mut kind, mut payload) = self.frame()?.ok_or_else(gone)?;
        if kind == proto::SHIM {
            self.shim = proto::parse_int(&payload).and_then(open_shim);
            (kind, payload) = self.frame()?.ok_or_else(gone)?;
        }
        if kind != proto::ANSWER {
            return Err(Error::Shim(format!("unexpected frame {kind}")));
        }
        match serde_json::from_slice(&payload) {
            Ok(proto::Answer::Done) => Ok(Vec::new()),
            Ok(proto::Answer::DoneBut(warnings)) => Ok(warnings),
            Ok(proto::Answer::Failed(failure)) => Err(failure.into()),
            Err(e) => Err(Error::Shim(e.to_string())),
        }
    }

    /// Waits for the next; `None`: the connection is gone, and with it the shim.
    pub fn recv(&mut self) -> Result<Option<Output>> {
        while let Some((kind, payload)) = self.frame()? {
            if kind == proto::LAST_EXIT {
                self.wait_for_shim();
            }
            if let Some(output) = output(kind, payload) {
                return Ok(Some(output));
            }
        }
        Ok(None)
    }

    /// What has come already, without waiting; `WouldBlock` where that is nothing.
    pub(super) fn recv_ready(&mut self, out: &mut Vec<Output>) -> io::Result<()> {
        let mut last = false;
        while let Some((kind, payload)) = self.decoder.next()? {
            last |= kind == proto::LAST_EXIT;
            out.extend(output(kind, payload.to_vec()));
        }
        if last {
            self.wait_for_shim();
            return Ok(());
        }
        let mut buffer = [0; 64 << 10];
        let (read, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT)?;
        match read {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => self.decoder.push(&buffer[..n]),
        }
        while let Some((kind, payload)) = self.decoder.next()? {
            last |= kind == proto::LAST_EXIT;
            out.extend(output(kind, payload.to_vec()));
        }
        if last {
            self.wait_for_shim();
        }
        Ok(())
    }

    pub(super) fn queue_input(&mut self, bytes: &[u8]) {
        self.enqueue(proto::STDIN, bytes);
    }
    pub(super) fn queue_end(&mut self) {
        self.enqueue(proto::STDIN_END, &[]);
    }
    pub(super) fn queue_signal(&mut self, signal: i32) {
        self.enqueue(proto::SIGNAL, &signal.to_le_bytes());
    }
    pub(super) fn queue_resize(&mut self, columns: u16, rows: u16) {
        self.enqueue(proto::RESIZE, &proto::resize(columns, rows));
    }
    fn enqueue(&mut self, kind: u8, payload: &[u8]) {
        let mut out = Vec::new();
        proto::frame(&mut out, kind, payload);
        self.queue.extend(out);
        self.flush_ready();
    }
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }
    /// Sends of the queue what the shim takes now. A failure shows at the next read.
    pub(super) fn flush_ready(&mut self) {
        while !self.queue.is_empty() {
            match rustix::net::send(
                &self.socket,
                self.queue.as_slices().0,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(n) => drop(self.queue.drain(..n)),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let fail = |e: io::Error| Error::Shim(e.to_string());
        loop {
            if let Some((kind, payload)) = self.decoder.next().map_err(fail)? {
                return Ok(Some((kind, payload.to_vec())));
            }
            let mut buffer = [0; 16 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => self.decoder.push(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(fail(e)),
            }
        }
    }

    /// Writes to its standard input.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(64 << 10) {
            self.send_frame(proto::STDIN, chunk)?;
        }
        Ok(())
    }
    /// Ends its standard input.
    pub fn close_stdin(&mut self) -> Result<()> {
        self.send_frame(proto::STDIN_END, &[])
    }
    /// Tells the size of the client's terminal.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        self.send_frame(proto::RESIZE, &proto::resize(columns, rows))
    }
    /// Sends a signal to its process.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        self.send_frame(proto::SIGNAL, &signal.to_le_bytes())
    }

    /// Says that nothing more is wanted, and waits until the shim has taken note of it.
    pub(super) fn end(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        while let Ok(Some(_)) = self.frame() {}
    }

    fn send_frame(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let mut out = Vec::new();
        proto::frame(&mut out, kind, payload);
        self.write(&out)
    }
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket.write_all(bytes).map_err(|e| Error::Shim(e.to_string()))
    }
}

/// A pidfd of a shim that says its own number, and so lives.
fn open_shim(pid: i32) -> Option<OwnedFd> {
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != std::process::id())?;
    crate::process::open(pid)
}

fn output(kind: u8, payload: Vec<u8>) -> Option<Output> {
    match kind {
        proto::STDOUT => Some(Output::Stdout(payload)),
        proto::STDERR => Some(Output::Stderr(payload)),
        proto::EXIT | proto::LAST_EXIT => proto::parse_int(&payload).map(Output::Exited),
        _ => None,
    }
}
