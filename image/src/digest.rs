//! Hashing while bytes pass by.

use std::io::{self, Read, Write};

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::Digest as _;

use crate::{Error, Result};

/// A running hash of one of the algorithms that the image-spec registers.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }
}

impl Hasher {
    /// A hasher for the digest's algorithm; any but SHA-2 is refused.
    pub(crate) fn for_digest(digest: &Digest) -> Result<Self> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::default()),
            DigestAlgorithm::Sha384 => Ok(Self::Sha384(sha2::Sha384::new())),
            DigestAlgorithm::Sha512 => Ok(Self::Sha512(sha2::Sha512::new())),
            other => Err(Error::Unsupported { what: "digest algorithm", reason: other.to_string() }),
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
        let (algorithm, hex) = match self {
            Self::Sha256(h) => ("sha256", hex(&h.finalize())),
            Self::Sha384(h) => ("sha384", hex(&h.finalize())),
            Self::Sha512(h) => ("sha512", hex(&h.finalize())),
        };
        format!("{algorithm}:{hex}").parse().expect("the hex of a hash is a digest")
    }
}

/// The SHA-256 digest of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char])
        .collect()
}

/// Hashes and counts what is read through it.
#[derive(Debug)]
pub(crate) struct HashRead<R> {
    inner: R,
    pub(crate) hasher: Hasher,
    pub(crate) bytes: u64,
}

impl<R> HashRead<R> {
    pub(crate) fn new(inner: R, hasher: Hasher) -> Self {
        Self { inner, hasher, bytes: 0 }
    }
}

impl<R: Read> Read for HashRead<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Hashes and counts what is written; keeps nothing.
#[derive(Debug, Default)]
pub(crate) struct HashSink {
    pub(crate) hasher: Hasher,
    pub(crate) bytes: u64,
}

impl Write for HashSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.hasher.update(buf);
        self.bytes += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
