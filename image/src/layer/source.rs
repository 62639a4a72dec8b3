//! The byte stream below the tar reader: buffered, counted, hashed, and copied aside on its way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::Limits;
use crate::error::at;
use crate::{Ctx, Error, Result};

/// Size of a tar block.
pub(crate) const BLOCK: usize = 512;
const BUFFER: usize = 256 << 10;

/// A running digest of any algorithm that a diff ID may use.
pub(crate) enum Hash {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hash {
    /// The hash that `digest` was made with; SHA-256 where none is known yet.
    pub(crate) fn like(digest: Option<&Digest>) -> Result<Self> {
        match digest.map(Digest::algorithm) {
            None | Some(DigestAlgorithm::Sha256) => Ok(Self::Sha256(Sha256::new())),
            Some(DigestAlgorithm::Sha384) => Ok(Self::Sha384(Sha384::new())),
            Some(DigestAlgorithm::Sha512) => Ok(Self::Sha512(Sha512::new())),
            Some(other) => {
                Err(Error::Unsupported { what: "this digest", reason: format!("algorithm {other}") })
            }
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha384(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (name, sum) = match self {
            Self::Sha256(h) => ("sha256", h.finalize().to_vec()),
            Self::Sha384(h) => ("sha384", h.finalize().to_vec()),
            Self::Sha512(h) => ("sha512", h.finalize().to_vec()),
        };
        let hex: String = sum.iter().map(|b| format!("{b:02x}")).collect();
        format!("{name}:{hex}").parse().expect("a hash in hex is a digest")
    }
}

/// Reads ahead in large pieces; what has been read is already hashed and copied.
pub(crate) struct Source<'a> {
    from: &'a mut dyn Read,
    hash: Hash,
    copy: Option<(&'a File, &'a Path)>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    position: u64,
    limit: u64,
    ctx: Ctx<'a>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(
        from: &'a mut dyn Read,
        hash: Hash,
        copy: Option<(&'a File, &'a Path)>,
        limits: &Limits,
        ctx: Ctx<'a>,
    ) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { from, hash, copy, buffer, start: 0, end: 0, position: 0, limit: limits.bytes, ctx }
    }

    /// Bytes consumed so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next block; `None` at the end of the stream. A stream that ends inside a block is an error.
    pub(crate) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.piece(BLOCK - filled)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(truncated()) };
            }
            block[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(Some(block))
    }

    /// Consumes up to `most` bytes; empty at the end of the stream.
    pub(crate) fn piece(&mut self, most: usize) -> Result<&[u8]> {
        if self.start == self.end {
            self.fill()?;
        }
        let length = most.min(self.end - self.start);
        let from = self.start;
        self.start += length;
        self.position += length as u64;
        Ok(&self.buffer[from..from + length])
    }

    /// Consumes exactly `length` bytes, handing them on piece by piece.
    pub(crate) fn each(&mut self, mut length: u64, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(usize::MAX);
            let piece = self.piece(most)?;
            if piece.is_empty() {
                return Err(truncated());
            }
            length -= piece.len() as u64;
            to(piece)?;
        }
        Ok(())
    }

    /// The digest of everything that was read.
    pub(crate) fn finish(self) -> Digest {
        self.hash.finish()
    }

    fn fill(&mut self) -> Result<()> {
        self.ctx.check()?;
        let got = loop {
            match self.from.read(&mut self.buffer) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => self.ctx.check()?,
                Err(e) => return Err(at("read", "the layer's stream")(e)),
            }
        };
        (self.start, self.end) = (0, got);
        if self.position + got as u64 > self.limit {
            return Err(Error::Limit { what: "uncompressed bytes of a layer".to_owned(), limit: self.limit });
        }
        let new = &self.buffer[..got];
        self.hash.update(new);
        if let Some((mut file, path)) = self.copy {
            file.write_all(new).map_err(at("write", path))?;
        }
        Ok(())
    }
}

fn truncated() -> Error {
    Error::Stream { reason: "the tar ends in the middle of an entry".to_owned() }
}
