//! The store's directory: where things lie, how they become durable, who owns what is unfinished.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, CWD, FlockOperation, flock};

use crate::error::at;
use crate::{Durability, Error, Result, StoreOptions};

/// The opened directory. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StoreDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    options: StoreOptions,
    /// Threads that remove what is out of sight.
    removing: Mutex<Vec<JoinHandle<()>>>,
}

/// Counts the names that this process has used in `tmp/`.
static SERIAL: AtomicU64 = AtomicU64::new(0);

impl StoreDir {
    pub(crate) fn new(path: PathBuf, options: StoreOptions) -> Self {
        Self(Arc::new(Inner { path, options, removing: Mutex::default() }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(crate) fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.0.path.join(below)
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.0.options
    }

    fn durable(&self) -> bool {
        self.0.options.durability == Durability::Durable
    }

    /// A fault-injecting test stops the store at its n-th change; everything that changes the disk asks here first.
    pub(crate) fn step(&self, op: &'static str, path: &Path) -> Result<()> {
        match &self.0.options.fault {
            None => Ok(()),
            Some(fault) => (fault.0)(op, path).map_err(at(op, path)),
        }
    }

    /// Makes a directory with all that is missing above it; an existing one is fine.
    pub(crate) fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.step("mkdir", path)?;
        fs::create_dir_all(path).map_err(at("create", path))
    }

    /// Flushes a file's content, if the store is durable.
    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        self.step("fsync", path)?;
        if self.durable() { file.sync_all().map_err(at("fsync", path)) } else { Ok(()) }
    }

    /// Flushes a directory's entries, if the store is durable.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step("fsync", path)?;
        if self.durable() {
            File::open(path).and_then(|d| d.sync_all()).map_err(at("fsync", path))
        } else {
            Ok(())
        }
    }

    /// Flushes the whole file system that `path` lies on, if the store is durable.
    pub(crate) fn sync_fs(&self, path: &Path) -> Result<()> {
        self.step("syncfs", path)?;
        if !self.durable() {
            return Ok(());
        }
        let dir = File::open(path).map_err(at("open", path))?;
        rustix::fs::syncfs(&dir).map_err(at("syncfs", path))
    }

    /// Renames and makes the new name durable. The content must have been flushed before.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        self.step("rename", to)?;
        fs::rename(from, to).map_err(at("rename", to))?;
        self.sync_dir(to.parent().expect("a published file lies in a directory"))
    }

    /// Replaces a small file in one step: either the old or the new content is there, also after power loss.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let staging = self.staging("file")?;
        let temp = staging.path().join("new");
        self.step("write", &temp)?;
        let mut file = File::create_new(&temp).map_err(at("create", &temp))?;
        io::Write::write_all(&mut file, content).map_err(at("write", &temp))?;
        self.sync_file(&file, &temp)?;
        self.publish(&temp, path)
    }

    /// The same for what can be made again: after power loss it may be torn, and its reader must notice.
    pub(crate) fn write_derived(&self, path: &Path, content: &[u8]) -> Result<()> {
        let staging = self.staging("file")?;
        let temp = staging.path().join("new");
        self.step("write", &temp)?;
        fs::write(&temp, content).map_err(at("write", &temp))?;
        self.step("rename", path)?;
        fs::rename(&temp, path).map_err(at("rename", path))
    }

    /// Removes a file; `false` when it was not there.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<bool> {
        self.step("unlink", path)?;
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(at("remove", path)(e)),
        }
    }

    /// Takes a file or directory out of sight at once, and deletes it in the background. `mark` is what it is known by: on a full disk, where
    /// nothing can be moved away, that goes first and the rest is deleted here.
    pub(crate) fn discard(&self, path: &Path, mark: &Path) -> Result<()> {
        let grave = match self.staging("removed") {
            Ok(grave) => grave,
            Err(e) if e.is_full() => {
                self.remove_file(mark)?;
                return if path == mark { Ok(()) } else { remove_tree(path) };
            }
            Err(e) => return Err(e),
        };
        self.step("rename", path)?;
        match fs::rename(path, grave.path().join("removed")) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(at("rename", path)(e)),
        }
        grave.remove_in_background();
        Ok(())
    }

    /// Makes a directory below `tmp/` that belongs to the caller until dropped.
    pub(crate) fn staging(&self, what: &str) -> Result<Staging> {
        let tmp = self.join("tmp");
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{what}-{}-{serial}", std::process::id()));
            self.step("mkdir", &path)?;
            match rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU) {
                Ok(()) => {}
                // A killed process had our id.
                Err(rustix::io::Errno::EXIST) => continue,
                Err(e) => return Err(at("create", &path)(e)),
            }
            // Between these two lines a reclaiming process may lock and delete it: then begin again.
            if let Some(lock) = own(&path)? {
                return Ok(Staging { path, dir: self.clone(), _lock: lock });
            }
        }
    }

    /// Deletes directories in `tmp/` whose owner is dead. Returns how many. What belongs to ids that only a user namespace has
    /// waits for a process in there.
    pub(crate) fn reclaim(&self) -> Result<usize> {
        let tmp = self.join("tmp");
        let mut gone = 0;
        for entry in fs::read_dir(&tmp).map_err(at("read", &tmp))? {
            let path = entry.map_err(at("read", &tmp))?.path();
            if let Some(_lock) = own(&path)? {
                self.step("rmdir", &path)?;
                match remove_tree(&path) {
                    Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                    removed => removed.map(|()| gone += 1)?,
                }
            }
        }
        Ok(gone)
    }

    /// Waits until what was removed in the background is gone.
    pub(crate) fn settle(&self) {
        let removing = std::mem::take(&mut *self.0.removing.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in removing {
            // One that panicked leaves its rest to the next reclaim.
            let _ = thread.join();
        }
    }

    /// Takes the lock `locks/NAME` for this process alone; waits for it. Gone when dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock> {
        self.lock_with(name, FlockOperation::LockExclusive)
    }

    /// Takes the lock `locks/NAME` together with other sharers; waits for an exclusive holder.
    pub(crate) fn lock_shared(&self, name: &str) -> Result<Lock> {
        self.lock_with(name, FlockOperation::LockShared)
    }

    fn lock_with(&self, name: &str, how: FlockOperation) -> Result<Lock> {
        debug_assert!(!name.contains('/'), "a lock's name is one path component");
        let path = self.join("locks").join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(at("open", &path))?;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(at("lock", &path)(e)),
            }
        }
    }
}

/// A held lock; it dies with its process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// A directory in `tmp/` that is ours while its lock is held; removed when dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    dir: StoreDir,
    _lock: File,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes what has been moved out of sight; a process that ends meanwhile leaves the rest to whoever opens the store next.
    fn remove_in_background(self) {
        let dir = self.dir.clone();
        let mut removing = dir.0.removing.lock().unwrap_or_else(PoisonError::into_inner);
        removing.retain(|thread| !thread.is_finished());
        // Where no thread can be had, the closure is dropped, and with it the staging directory deleted right here.
        let thread = std::thread::Builder::new().name("longshore-remove".to_owned());
        removing.extend(thread.spawn(move || drop(self)));
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is reclaimed by the next open.
        if self.dir.step("rmdir", &self.path).is_ok() {
            let _ = remove_tree(&self.path);
        }
    }
}

/// Locks a directory that belongs to whoever holds its lock; `None` when its owner lives or it is gone.
pub(crate) fn own(path: &Path) -> Result<Option<File>> {
    let dir = match File::open(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at("open", path)(e)),
    };
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(at("lock", path)(e)),
    }
    // Locked, but is it still the one with that name?
    let held = rustix::fs::fstat(&dir).map_err(at("stat", path))?;
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => Ok(Some(dir)),
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(at("stat", path)(e)),
    }
}

/// Removes a tree, also one with directories that deny their owner everything.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path).map_err(at("remove", path))?;
            fs::remove_dir_all(path).map_err(at("remove", path))
        }
        Err(e) => Err(at("remove", path)(e)),
    }
}

/// Gives the owner all rights on every directory of the tree. Only for trees that nobody else can reach.
fn unlock(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}
