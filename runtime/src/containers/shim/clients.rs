//! Connections of clients.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::containers::proto::{self, Answer, Decoder, Failure, Request};
use crate::containers::{AttachOptions, Error};

/// A client with more unsent bytes than this holds up the container's output.
const QUEUE_MAX: usize = 512 << 10;

/// What a client is here for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It has not said yet.
    New,
    Attached {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Wants to know the next end of the process.
    Waiting,
    /// Wants an answer when the container has stopped.
    Stopping,
    /// The container is frozen as long as it is there.
    Freezing,
    /// Nothing more is expected of it; goes when its queue is empty.
    Leaving,
}

impl Role {
    pub(super) fn attached(o: AttachOptions) -> Self {
        Self::Attached { stdin: o.stdin, stdout: o.stdout, stderr: o.stderr }
    }
}

/// What a client sent.
#[derive(Debug)]
pub(super) enum Said {
    Request(Request),
    Stdin(Vec<u8>),
    StdinEnd,
    Resize(u16, u16),
    Signal(i32),
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: UnixStream,
    pub(super) role: Role,
    decoder: Decoder,
    out: Vec<u8>,
    at: usize,
    pub(super) gone: bool,
}

impl Client {
    pub(super) fn new(socket: UnixStream, role: Role) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, role, decoder: Decoder::default(), out: Vec::new(), at: 0, gone: false })
    }

    pub(super) fn wants_write(&self) -> bool {
        self.at < self.out.len()
    }
    pub(super) fn holds_up(&self) -> bool {
        self.out.len() - self.at > QUEUE_MAX
    }
    pub(super) fn is_done(&self) -> bool {
        self.gone || (self.role == Role::Leaving && !self.wants_write())
    }

    /// Reads once; what is complete goes to `take`.
    pub(super) fn read(&mut self, said: &mut Vec<Said>) {
        let mut buffer = [0; 32 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
        loop {
            match self.decoder.next() {
                Ok(Some((kind, payload))) => match parse(kind, payload) {
                    Some(what) => said.push(what),
                    None => {
                        self.gone = true;
                        return;
                    }
                },
                Ok(None) => break,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        self.decoder.shrink();
    }

    pub(super) fn send(&mut self, kind: u8, payload: &[u8]) {
        for chunk in payload.chunks(256 << 10) {
            proto::frame(&mut self.out, kind, chunk);
        }
        if payload.is_empty() {
            proto::frame(&mut self.out, kind, payload);
        }
        self.flush();
    }
    pub(super) fn answer(&mut self, result: Result<(), &Error>) {
        self.say(&match result {
            Ok(()) => Answer::Done,
            Err(e) => Answer::Failed(Failure::from(e)),
        });
    }

    /// To the starter.
    pub(super) fn started(&mut self, warnings: Vec<String>) {
        self.say(&if warnings.is_empty() { Answer::Done } else { Answer::DoneBut(warnings) });
    }

    fn say(&mut self, answer: &Answer) {
        self.out.extend(proto::json_frame(proto::ANSWER, answer));
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while self.wants_write() {
            match self.socket.write(&self.out[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        if !self.wants_write() {
            self.at = 0;
            self.out = Vec::new();
        } else if self.at > 1 << 20 {
            self.out.drain(..self.at);
            self.at = 0;
        }
    }
}

fn parse(kind: u8, payload: &[u8]) -> Option<Said> {
    Some(match kind {
        proto::REQUEST => Said::Request(serde_json::from_slice(payload).ok()?),
        proto::STDIN => Said::Stdin(payload.to_vec()),
        proto::STDIN_END => Said::StdinEnd,
        proto::RESIZE => {
            let (columns, rows) = proto::parse_resize(payload)?;
            Said::Resize(columns, rows)
        }
        proto::SIGNAL => Said::Signal(proto::parse_int(payload)?),
        _ => return None,
    })
}
