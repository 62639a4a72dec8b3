//! Records in files.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Claim, StateStore};
use crate::error::{Error, Result};

const STATE: &str = "state.json";
const NEW_STATE: &str = ".state.json";
/// What a claim's holder has noted: the groups' path.
const NOTE: &str = "cgroup";
/// The socket that the runtime makes.
pub(crate) const START: &str = "start";

/// A directory of records, for any process of this user.
///
/// `ROOT/ID/state.json` is written whole, by rename. Who makes a container holds a `flock` on `ROOT/ID` until then: one that is free, with
/// no record, is abandoned.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Under `root` (like runc's `--root`), which is made where it is missing, for this user alone.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let fail = |source| Error::State { path: root.clone(), source };
        fs::create_dir_all(&root).map_err(fail)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        Ok(Self { root: root.canonicalize().map_err(fail)? })
    }

    fn dir(&self, id: &str) -> Dir {
        Dir { path: self.root.join(id) }
    }
}

impl StateStore for Disk {
    fn claim(&self, id: &str) -> Result<Box<dyn Claim>> {
        let dir = self.dir(id);
        loop {
            match fs::create_dir(&dir.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Error::Exists { id: id.to_owned() });
                }
                Err(source) => return Err(dir.fail(source)),
            }
            // Who collects what is abandoned may come in between, and takes it for that: then it is made again.
            match fs::File::open(&dir.path) {
                Ok(lock) => {
                    lock.lock().map_err(|e| dir.fail(e))?;
                    if dir.is(&lock) {
                        return Ok(Box::new(Held { dir, _lock: lock }));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(dir.fail(source)),
            }
        }
    }

    fn read(&self, id: &str) -> Result<Vec<u8>> {
        let path = self.dir(id).path.join(STATE);
        fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { id: id.to_owned() },
            _ => Error::State { path, source },
        })
    }

    fn remove(&self, id: &str) -> Result<()> {
        let dir = self.dir(id);
        match fs::remove_dir_all(&dir.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(dir.fail(e)),
            _ => Ok(()),
        }
    }

    fn ids(&self) -> Result<Vec<String>> {
        let fail = |source| Error::State { path: self.root.clone(), source };
        let names = fs::read_dir(&self.root).map_err(fail)?.map(|entry| Ok(entry.map_err(fail)?.file_name()));
        // What is no UTF-8 is no ID.
        names.filter_map(|name| name.map(|name| name.into_string().ok()).transpose()).collect()
    }

    fn abandoned(&self, id: &str) -> Result<Option<Box<dyn Claim>>> {
        let dir = self.dir(id);
        if dir.path.join(STATE).exists() || !dir.path.is_dir() {
            return Ok(None);
        }
        let lock = match fs::File::open(&dir.path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(dir.fail(source)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(source)) => return Err(dir.fail(source)),
        }
        // Only what a creator makes is taken for its leftovers. It may have published, or gone, before it let the lock go.
        let entries = fs::read_dir(&dir.path).map_err(|e| dir.fail(e))?;
        let ours =
            entries.flatten().all(|e| [START, NOTE, NEW_STATE].iter().any(|name| e.file_name() == *name));
        Ok((ours && dir.is(&lock)).then(|| Box::new(Held { dir, _lock: lock }) as Box<dyn Claim>))
    }

    fn directory(&self, id: &str) -> Option<PathBuf> {
        Some(self.dir(id).path)
    }
}

/// The directory of one container.
#[derive(Debug)]
struct Dir {
    path: PathBuf,
}

impl Dir {
    fn fail(&self, source: io::Error) -> Error {
        Error::State { path: self.path.clone(), source }
    }

    /// The path still leads to the open directory.
    fn is(&self, open: &fs::File) -> bool {
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        open.metadata().is_ok_and(|a| fs::symlink_metadata(&self.path).is_ok_and(|b| same(a, b)))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.path.join(name), bytes).map_err(|e| self.fail(e))
    }
}

/// A claim: the lock says that someone is at work.
#[derive(Debug)]
struct Held {
    dir: Dir,
    _lock: fs::File,
}

impl Claim for Held {
    fn note(&self, note: &[u8]) -> Result<()> {
        self.dir.write(NOTE, note)
    }

    fn noted(&self) -> Result<Option<Vec<u8>>> {
        match fs::read(self.dir.path.join(NOTE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(|e| self.dir.fail(e)),
        }
    }

    fn publish(&self, record: &[u8]) -> Result<()> {
        self.dir.write(NEW_STATE, record)?;
        let at = |name: &str| Path::new(&self.dir.path).join(name);
        fs::rename(at(NEW_STATE), at(STATE)).map_err(|e| self.dir.fail(e))
    }
}
