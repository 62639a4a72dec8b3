//! What hosts tell each other: a small store of keys with revisions, of which an existing engine takes care.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its key, such as `net/blue/ip/10.1.0.2`.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The store's revision when it was last written.
    pub revision: u64,
}

/// A store that several hosts share, as etcd is one.
///
/// All writes are conditional. A write that failed with an error may have happened all the same, so writers read back or try again
/// with the same condition.
pub trait PeerStore: Send + Sync {
    /// All entries whose keys begin with `prefix`, in order, and the revision of which this is the state.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`], and never a state older than one that the same caller has seen.
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)>;

    /// Writes `value` (`None` deletes) if the key's revision is `expected` (`None`: if there is no such key). False if it is not.
    fn write(&self, key: &str, value: Option<&[u8]>, expected: Option<u64>) -> Result<bool>;

    /// Waits until something under `prefix` may have changed after `revision`, or the time is over; the current revision.
    fn wait(&self, prefix: &str, revision: u64, timeout: Duration) -> Result<u64>;
}

impl<T: PeerStore + ?Sized> PeerStore for std::sync::Arc<T> {
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)> {
        (**self).list(prefix)
    }
    fn write(&self, key: &str, value: Option<&[u8]>, expected: Option<u64>) -> Result<bool> {
        (**self).write(key, value, expected)
    }
    fn wait(&self, prefix: &str, revision: u64, timeout: Duration) -> Result<u64> {
        (**self).wait(prefix, revision, timeout)
    }
}

/// A store in memory, for one process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    memory: Mutex<Memory>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Memory {
    entries: BTreeMap<String, (Vec<u8>, u64)>,
    revision: u64,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerStore for MemoryStore {
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)> {
        let memory = self.memory();
        let entries = memory.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        let entry = |(key, (value, revision)): (&String, &(Vec<u8>, u64))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        Ok((entries.map(entry).collect(), memory.revision))
    }

    fn write(&self, key: &str, value: Option<&[u8]>, expected: Option<u64>) -> Result<bool> {
        check_key(key)?;
        let mut memory = self.memory();
        if memory.entries.get(key).map(|(_, revision)| *revision) != expected {
            return Ok(false);
        }
        memory.revision += 1;
        let revision = memory.revision;
        match value {
            Some(value) => memory.entries.insert(key.to_owned(), (value.to_vec(), revision)),
            None => memory.entries.remove(key),
        };
        self.changed.notify_all();
        Ok(true)
    }

    fn wait(&self, _prefix: &str, revision: u64, timeout: Duration) -> Result<u64> {
        let unchanged = |memory: &mut Memory| memory.revision <= revision;
        let waited = self.changed.wait_timeout_while(self.memory(), timeout, unchanged);
        Ok(waited.unwrap_or_else(PoisonError::into_inner).0.revision)
    }
}

/// A store in a directory, for the processes of one host, or of several that share a file system with working locks.
///
/// `lock` is a `flock`, `revision` the current number, `entries/` has a file for each key with `/` as `%`.
#[derive(Clone, Debug)]
pub struct DirStore {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    revision: u64,
    value: Vec<u8>,
}

impl DirStore {
    /// How often [`PeerStore::wait`] looks.
    const LOOK: Duration = Duration::from_millis(20);

    /// Makes the directory if need be.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        let entries = directory.join("entries");
        fs::create_dir_all(&entries).map_err(Error::state(entries))?;
        Ok(Self { directory })
    }

    fn lock(&self, operation: FlockOperation) -> Result<File> {
        let path = self.directory.join("lock");
        let lock = || {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            while let Err(error) = rustix::fs::flock(&file, operation) {
                if error != rustix::io::Errno::INTR {
                    return Err(io::Error::from(error));
                }
            }
            Ok(file)
        };
        lock().map_err(Error::state(&path))
    }

    fn revision(&self) -> Result<u64> {
        let path = self.directory.join("revision");
        match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(Error::state(path)(e)),
            Ok(text) => text.trim().parse().map_err(|e| Error::state(path)(io::Error::other(e))),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join("entries").join(key.replace('/', "%"))
    }

    fn read(path: &Path) -> Result<Option<Stored>> {
        match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::state(path)(e)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::state(path)(e.into())),
        }
    }

    /// The revision goes first: a crash between the two skips a number, and nobody has seen it.
    fn replace(&self, path: &Path, text: &[u8]) -> Result<()> {
        let temporary = self.directory.join("tmp");
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).map_err(Error::state(path))
    }
}

impl PeerStore for DirStore {
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        let directory = self.directory.join("entries");
        let mut entries = Vec::new();
        for file in fs::read_dir(&directory).map_err(Error::state(&directory))? {
            let name = file.map_err(Error::state(&directory))?.file_name();
            let key = name.to_string_lossy().replace('%', "/");
            if key.starts_with(prefix)
                && let Some(stored) = Self::read(&directory.join(&name))?
            {
                entries.push(Entry { key, value: stored.value, revision: stored.revision });
            }
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok((entries, self.revision()?))
    }

    fn write(&self, key: &str, value: Option<&[u8]>, expected: Option<u64>) -> Result<bool> {
        check_key(key)?;
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let path = self.path(key);
        if Self::read(&path)?.map(|stored| stored.revision) != expected {
            return Ok(false);
        }
        let revision = self.revision()? + 1;
        self.replace(&self.directory.join("revision"), revision.to_string().as_bytes())?;
        match value {
            Some(value) => {
                let stored = Stored { revision, value: value.to_vec() };
                let bytes = serde_json::to_vec(&stored).map_err(|e| Error::state(&path)(e.into()))?;
                self.replace(&path, &bytes)?;
            }
            None if expected.is_some() => fs::remove_file(&path).map_err(Error::state(&path))?,
            None => {}
        }
        Ok(true)
    }

    fn wait(&self, _prefix: &str, revision: u64, timeout: Duration) -> Result<u64> {
        let end = Instant::now() + timeout;
        loop {
            let now = self.revision()?;
            if now > revision || Instant::now() >= end {
                return Ok(now);
            }
            std::thread::sleep(Self::LOOK);
        }
    }
}

/// What every store can keep: `/`-separated words of letters, digits and `_.:-`.
fn check_key(key: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    let fine = |word: &str| !word.is_empty() && !word.starts_with('.') && word.chars().all(good);
    if key.len() <= 200 && key.split('/').all(fine) {
        Ok(())
    } else {
        Err(Error::InvalidName { what: "key", name: key.to_owned() })
    }
}
