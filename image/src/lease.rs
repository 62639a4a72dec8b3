//! What must not be collected because somebody is about to use it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::image::Digest;
use rustix::fs::{FlockOperation, flock};

use crate::Result;
use crate::dir::StoreDir;
use crate::error::at;

/// The lock that users of the store share for a moment, and that a collection holds alone.
pub(crate) const STORE: &str = "store";

/// A locked file that lists digests; it protects them while its process lives and it is not dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    dir: StoreDir,
    path: PathBuf,
    file: File,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Lease {
    pub(crate) fn new(dir: &StoreDir) -> Result<Self> {
        // Without it a collection could take the file for a dead one before it is locked.
        let _shared = dir.lock_shared(STORE)?;
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = dir.join("leases").join(format!("{}-{serial}", std::process::id()));
            dir.step("create", &path)?;
            let file = match File::options().append(true).create_new(true).open(&path) {
                Ok(file) => file,
                // A killed process had our id; a collection removes its file.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(at("create", &path)(e)),
            };
            flock(&file, FlockOperation::LockExclusive).map_err(at("lock", &path))?;
            return Ok(Self { dir: dir.clone(), path, file });
        }
    }

    /// Protects the digests from now on, whether they are there already or not.
    pub(crate) fn hold<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let _shared = self.dir.lock_shared(STORE)?;
        self.hold_locked(digests)
    }

    /// The same for a caller that holds the store's lock.
    pub(crate) fn hold_locked<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let lines: String = digests.into_iter().map(|d| format!("{d}\n")).collect();
        self.dir.step("write", &self.path)?;
        (&self.file).write_all(lines.as_bytes()).map_err(at("write", &self.path))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A file that stays behind is unlocked, so the next collection removes it.
        let _ = self.dir.remove_file(&self.path);
    }
}

/// What living leases hold; files of dead ones are removed. The caller holds the store's lock alone.
pub(crate) fn held(dir: &StoreDir) -> Result<HashSet<Digest>> {
    let leases = dir.join("leases");
    let mut held = HashSet::new();
    for entry in fs::read_dir(&leases).map_err(at("read", &leases))? {
        let path = entry.map_err(at("read", &leases))?.path();
        let Ok(mut file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            dir.remove_file(&path)?;
            continue;
        }
        let mut lines = String::new();
        file.read_to_string(&mut lines).map_err(at("read", &path))?;
        held.extend(lines.lines().filter_map(|line| line.parse().ok()));
    }
    Ok(held)
}
