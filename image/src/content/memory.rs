use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

use super::{BlobRead, ContentRead, ContentWrite, Ingest};
use crate::digest::Hasher;
use crate::{Error, Result};

/// Blobs in memory, for tests. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    /// Broken off ingests; `None` while one works on it.
    partial: HashMap<Digest, Option<Vec<u8>>>,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the maps is one insertion or removal, so a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContentRead for Memory {
    fn open(&self, digest: &Digest) -> Result<Box<dyn BlobRead>> {
        match self.state().blobs.get(digest) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            None => Err(Error::NoSuchBlob { digest: digest.clone() }),
        }
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.state().blobs.get(digest).map(|b| b.len() as u64))
    }

    fn list(&self) -> Result<Vec<Digest>> {
        Ok(self.state().blobs.keys().cloned().collect())
    }
}

impl ContentWrite for Memory {
    fn ingest(&self, expected: Option<&Descriptor>) -> Result<Option<Box<dyn Ingest>>> {
        let mut data = Vec::new();
        let mut hasher = Hasher::default();
        if let Some(expected) = expected {
            let digest = expected.digest();
            hasher = Hasher::for_digest(digest)?;
            let mut state = self.state();
            loop {
                if state.blobs.contains_key(digest) {
                    return Ok(None);
                }
                match state.partial.get_mut(digest) {
                    Some(None) => {
                        state = self.0.released.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    Some(left) => {
                        data = left.take().unwrap_or_default();
                        break;
                    }
                    None => {
                        state.partial.insert(digest.clone(), None);
                        break;
                    }
                }
            }
            hasher.update(&data);
        }
        let expected = expected.map(|d| (d.digest().clone(), d.size()));
        Ok(Some(Box::new(MemoryIngest { memory: self.clone(), expected, hasher, data, done: false })))
    }

    fn remove(&self, digest: &Digest) -> Result<bool> {
        Ok(self.state().blobs.remove(digest).is_some())
    }
}

struct MemoryIngest {
    memory: Memory,
    expected: Option<(Digest, u64)>,
    hasher: Hasher,
    data: Vec<u8>,
    done: bool,
}

impl Write for MemoryIngest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let found = (self.data.len() + buf.len()) as u64;
        match &self.expected {
            Some((digest, expected)) if found > *expected => Err(io::Error::other(Error::SizeMismatch {
                digest: digest.clone(),
                expected: *expected,
                found,
            })),
            _ => {
                self.hasher.update(buf);
                self.data.extend_from_slice(buf);
                Ok(buf.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ingest for MemoryIngest {
    fn offset(&self) -> u64 {
        self.data.len() as u64
    }

    fn written(&self) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.data.clone())))
    }

    fn restart(&mut self) -> Result<()> {
        self.data.clear();
        self.hasher = match &self.expected {
            Some((digest, _)) => Hasher::for_digest(digest)?,
            None => Hasher::default(),
        };
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<Digest> {
        let found = std::mem::take(&mut self.hasher).finish();
        let data = std::mem::take(&mut self.data);
        if let Some((digest, size)) = &self.expected {
            if data.len() as u64 != *size {
                return Err(Error::SizeMismatch {
                    digest: digest.clone(),
                    expected: *size,
                    found: data.len() as u64,
                });
            }
            if found != *digest {
                return Err(Error::DigestMismatch { expected: digest.clone(), found });
            }
        }
        self.done = true;
        let mut state = self.memory.state();
        state.blobs.insert(found.clone(), data.into());
        state.partial.remove(&found);
        drop(state);
        self.memory.0.released.notify_all();
        Ok(found)
    }
}

impl Drop for MemoryIngest {
    fn drop(&mut self) {
        if let (false, Some((digest, _))) = (self.done, &self.expected) {
            self.memory.state().partial.insert(digest.clone(), Some(std::mem::take(&mut self.data)));
            self.memory.0.released.notify_all();
        }
    }
}
