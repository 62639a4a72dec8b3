//! What clients and a shim say to each other: frames of a kind, a length and a payload.

use std::io;

use serde::{Deserialize, Serialize};

use super::{AttachOptions, Error, NetworkRequest, RestartPolicy};

/// First frame of a client: [`Request`] as JSON.
pub(super) const REQUEST: u8 = b'R';
/// First frame of a shim: [`Answer`] as JSON.
pub(super) const ANSWER: u8 = b'A';
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const STDIN_END: u8 = 3;
/// Two `u16`: columns, rows.
pub(super) const RESIZE: u8 = 4;
/// One `i32`.
pub(super) const SIGNAL: u8 = 5;
/// One `i32`: the exit code. The shim goes on: it starts the container again.
pub(super) const EXIT: u8 = 6;
/// One `i32`: the exit code. The shim ends, too.
pub(super) const LAST_EXIT: u8 = 7;
/// One `i32`: the shim's process ID, the first that it says to its starter.
pub(super) const SHIM: u8 = 8;

const HEADER: usize = 5;
/// Largest payload that is accepted.
const PAYLOAD_MAX: usize = 1 << 20;

/// What a client wants of a shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Stream frames follow the answer.
    Attach(AttachOptions),
    /// Answered when it has stopped. The second is in seconds, -1 for ever.
    Stop {
        signal: i32,
        timeout: i64,
    },
    Kill {
        signal: i32,
    },
    Pause,
    Unpause,
    /// Frozen as long as the connection lasts, however that ends.
    Freeze,
    /// An exit frame comes at the next end of the process.
    Wait,
    /// The policy in the record has changed.
    Policy(RestartPolicy),
    /// The record has one more network.
    Connect(NetworkRequest),
    /// The record has one network less, by name.
    Disconnect(String),
}

/// How a shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    /// Done, and what is to be told of it: [`super::warnings`].
    DoneBut(Vec<String>),
    Failed(Failure),
}

/// An error on its way between processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FailureKind {
    /// With the exit code for `run`.
    Start(i32),
    Conflict,
    NotRunning,
    /// Of the shim itself.
    Shim,
    Other,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Start { code, .. } => FailureKind::Start(*code),
            Error::Conflict(_) | Error::NameInUse { .. } => FailureKind::Conflict,
            Error::NotRunning(_) => FailureKind::NotRunning,
            Error::Shim(_) => FailureKind::Shim,
            _ => FailureKind::Other,
        };
        let message = match error {
            Error::Start { message, .. } => message.clone(),
            Error::NotRunning(text) | Error::Shim(text) => text.clone(),
            other => super::error::chain(other),
        };
        Self { kind, message }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Start(code) => Self::Start { message: failure.message, code },
            FailureKind::Conflict => Self::Conflict(failure.message),
            FailureKind::NotRunning => Self::NotRunning(failure.message),
            FailureKind::Shim => Self::Shim(failure.message),
            FailureKind::Other => Self::Failed(failure.message),
        }
    }
}

/// Appends a frame.
pub(super) fn frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.reserve(HEADER + payload.len());
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

pub(super) fn json_frame<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, kind, &serde_json::to_vec(value).expect("plain data always serialises"));
    out
}

pub(super) fn resize(columns: u16, rows: u16) -> [u8; 4] {
    let (c, r) = (columns.to_le_bytes(), rows.to_le_bytes());
    [c[0], c[1], r[0], r[1]]
}

pub(super) fn parse_resize(payload: &[u8]) -> Option<(u16, u16)> {
    let p: [u8; 4] = payload.try_into().ok()?;
    Some((u16::from_le_bytes([p[0], p[1]]), u16::from_le_bytes([p[2], p[3]])))
}

pub(super) fn parse_int(payload: &[u8]) -> Option<i32> {
    Some(i32::from_le_bytes(payload.try_into().ok()?))
}

/// Takes bytes as they come, gives frames as they are complete.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame; an error when it is larger than any may be.
    pub(super) fn next(&mut self) -> io::Result<Option<(u8, &[u8])>> {
        let rest = &self.bytes[self.at..];
        let Some((header, body)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > PAYLOAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
        }
        let Some(payload) = body.get(..length) else { return Ok(None) };
        self.at += HEADER + length;
        Ok(Some((header[0], payload)))
    }

    /// Gives the memory back when nothing is held.
    pub(super) fn shrink(&mut self) {
        if self.at == self.bytes.len() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_back_from_any_pieces(frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..20), piece in 1usize..50) {
            let mut bytes = Vec::new();
            for (kind, payload) in &frames {
                frame(&mut bytes, *kind, payload);
            }
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for chunk in bytes.chunks(piece) {
                decoder.push(chunk);
                while let Some((kind, payload)) = decoder.next().unwrap() {
                    got.push((kind, payload.to_vec()));
                }
                decoder.shrink();
            }
            prop_assert_eq!(got, frames);
        }
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
