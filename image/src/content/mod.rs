//! Content-addressed blobs: the traits, and what implements them.
//!
//! [`ContentRead`] and [`ContentWrite`] are what the store needs of a blob store. The disk one ([`Store`](crate::Store)) and
//! [`Memory`] implement them; [`conformance`] is the set of checks that any implementation must pass.

pub mod conformance;
mod disk;
mod memory;

use std::io::{Read, Seek, Write};

use oci_spec::image::{Descriptor, Digest};

pub(crate) use disk::Blobs;
pub use memory::Memory;

use crate::{Error, Result};

/// A readable, seekable blob.
pub trait BlobRead: Read + Seek + Send {}
impl<T: Read + Seek + Send> BlobRead for T {}

/// Blobs by digest, to read. A blob that is there is whole and has been verified.
pub trait ContentRead: Send + Sync {
    /// Opens a blob; [`Error::NoSuchBlob`] when it is not there. What was opened stays readable when the blob is removed.
    fn open(&self, digest: &Digest) -> Result<Box<dyn BlobRead>>;
    /// The blob's size in bytes; `None` when it is not there.
    fn size(&self, digest: &Digest) -> Result<Option<u64>>;
    /// All blobs, in no order. One that comes or goes meanwhile may be in it or not.
    fn list(&self) -> Result<Vec<Digest>>;
}

/// Blobs by digest, to write.
pub trait ContentWrite: ContentRead {
    /// Begins to take in a blob. `None` when it is there already.
    ///
    /// With a descriptor the content must match its digest and size; bytes of an earlier ingest that was broken off are kept and
    /// built upon ([`Ingest::offset`]), and a second caller waits until the first has ended. Without one any content is welcome,
    /// and is named by its SHA-256.
    fn ingest(&self, expected: Option<&Descriptor>) -> Result<Option<Box<dyn Ingest>>>;
    /// Removes a blob; `false` when it was not there.
    fn remove(&self, digest: &Digest) -> Result<bool>;
}

/// A blob that is being written: invisible until [`Ingest::commit`]. Dropping it keeps the bytes for a later ingest of the same
/// descriptor, or forgets them where none was given.
///
/// A write beyond the expected size fails with an [`std::io::Error`] that holds [`Error::SizeMismatch`].
pub trait Ingest: Write + Send {
    /// How many bytes are written, those of an earlier ingest included.
    fn offset(&self) -> u64;
    /// Reads back what is written so far, from the start.
    fn written(&self) -> Result<Box<dyn Read + Send>>;
    /// Throws away what is written.
    fn restart(&mut self) -> Result<()>;
    /// Verifies size and digest, and makes the blob durable and visible. What does not match is thrown away.
    fn commit(self: Box<Self>) -> Result<Digest>;
}

macro_rules! forward {
    ($($t:ty),*) => {$(
        impl<T: ContentRead + ?Sized> ContentRead for $t {
            fn open(&self, digest: &Digest) -> Result<Box<dyn BlobRead>> { (**self).open(digest) }
            fn size(&self, digest: &Digest) -> Result<Option<u64>> { (**self).size(digest) }
            fn list(&self) -> Result<Vec<Digest>> { (**self).list() }
        }
        impl<T: ContentWrite + ?Sized> ContentWrite for $t {
            fn ingest(&self, expected: Option<&Descriptor>) -> Result<Option<Box<dyn Ingest>>> { (**self).ingest(expected) }
            fn remove(&self, digest: &Digest) -> Result<bool> { (**self).remove(digest) }
        }
    )*};
}
forward!(&T, Box<T>, std::sync::Arc<T>);

/// Puts a small blob whose bytes are at hand; its digest.
pub(crate) fn put(content: &dyn ContentWrite, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    let Some(mut ingest) = content.ingest(Some(descriptor))? else {
        return Ok(());
    };
    if ingest.offset() > 0 {
        ingest.restart()?;
    }
    ingest.write_all(bytes).map_err(Error::from_io)?;
    ingest.commit().map(|_| ())
}

/// Reads a whole blob of at most `limit` bytes.
pub(crate) fn read(content: &dyn ContentRead, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.open(digest)?.take(limit + 1).read_to_end(&mut bytes).map_err(Error::from_io)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Limit { what: format!("size in bytes of {digest}"), limit });
    }
    Ok(bytes)
}
