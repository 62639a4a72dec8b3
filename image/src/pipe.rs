//! Bytes from one thread to another, a bounded number of pieces ahead.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};

/// Bytes of one piece.
pub(crate) const PIECE: usize = 256 << 10;
/// Pieces that may wait: with 256 KiB each, 1 MiB per pipe.
const AHEAD: usize = 4;

pub(crate) fn pipe() -> (Sender, Receive) {
    let (tx, rx) = sync_channel(AHEAD);
    (Sender { tx }, Receive { rx, piece: Bytes::new(), ended: false })
}

/// The writing end. Dropped without [`Sender::finish`], the reader sees an error, not the end.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    tx: SyncSender<Bytes>,
}

impl Sender {
    /// Hands over a piece; an error when the reader is gone.
    pub(crate) fn send(&self, piece: Bytes) -> io::Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.tx.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Tells the reader that this was all.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.tx.send(Bytes::new()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Receive {
    rx: Receiver<Bytes>,
    piece: Bytes,
    ended: bool,
}

impl Receive {
    /// The next piece; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        if !self.piece.is_empty() {
            return Ok(Some(std::mem::take(&mut self.piece)));
        }
        match self.rx.recv() {
            Ok(piece) if piece.is_empty() => {
                self.ended = true;
                Ok(None)
            }
            Ok(piece) => Ok(Some(piece)),
            Err(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was broken off")),
        }
    }
}

impl Read for Receive {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.next()? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.piece.len());
        buf[..n].copy_from_slice(&self.piece[..n]);
        self.piece.advance(n);
        Ok(n)
    }
}

/// Collects small writes into pieces and hands each to all senders.
#[derive(Debug)]
pub(crate) struct Fan {
    senders: Vec<Sender>,
    buffer: Vec<u8>,
}

impl Fan {
    pub(crate) fn new(senders: Vec<Sender>) -> Self {
        Self { senders, buffer: Vec::with_capacity(PIECE) }
    }

    /// Hands over the rest and tells all that this was all.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.senders.iter().try_for_each(Sender::finish)
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.senders.iter().try_for_each(|s| s.send(piece.clone()))
    }
}

impl Write for Fan {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&buf[..n]);
        if self.buffer.len() == PIECE {
            self.pass_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills a piece as far as the reader gives; empty at its end.
pub(crate) fn read_piece(from: &mut dyn Read) -> io::Result<Bytes> {
    let mut piece = vec![0; PIECE];
    let mut filled = 0;
    while filled < PIECE {
        match from.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    piece.truncate(filled);
    Ok(piece.into())
}
