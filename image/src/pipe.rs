//! Bytes from one thread to another, a bounded number of pieces ahead.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

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
pub(crate) struct Fan {
    senders: Vec<Sender>,
    pool: Pool,
    piece: Piece,
}

impl Fan {
    pub(crate) fn new(senders: Vec<Sender>) -> Self {
        let pool = Pool::default();
        let piece = pool.take();
        Self { senders, pool, piece }
    }

    /// Hands over the rest and tells all that this was all.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.senders.iter().try_for_each(Sender::finish)
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let piece = Bytes::from_owner(std::mem::replace(&mut self.piece, self.pool.take()));
        self.senders.iter().try_for_each(|s| s.send(piece.clone()))
    }
}

impl Write for Fan {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = &mut self.piece;
        let n = buf.len().min(PIECE - piece.filled);
        piece.memory[piece.filled..piece.filled + n].copy_from_slice(&buf[..n]);
        piece.filled += n;
        if piece.filled == PIECE {
            self.pass_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Memory of pieces that are used again: fresh memory costs the kernel as much as hashing it would, and threads that free what others
/// have allocated make a heap grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// Fills a piece as far as the reader gives; empty at its end.
    pub(crate) fn read(&self, from: &mut dyn Read) -> io::Result<Bytes> {
        let mut piece = self.take();
        while piece.filled < PIECE {
            match from.read(&mut piece.memory[piece.filled..]) {
                Ok(0) => break,
                Ok(n) => piece.filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(if piece.filled == 0 { Bytes::new() } else { Bytes::from_owner(piece) })
    }

    fn take(&self) -> Piece {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Piece { memory: spare.unwrap_or_else(|| vec![0; PIECE]), filled: 0, pool: self.clone() }
    }
}

/// Goes back to its pool when nobody needs it any more.
struct Piece {
    memory: Vec<u8>,
    filled: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}
