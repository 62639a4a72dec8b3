//! [`BuildCache`]s: plain files, and memory.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::{BoxError, BuildCache, Error, Result};

/// Kept as one file per key. Any number of processes may share the directory; each value is written aside, synced and renamed, and
/// carries a checksum, so that a crash leaves the old value or the new one, and a damaged one counts as missing.
#[derive(Debug)]
pub struct FileCache {
    dir: PathBuf,
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

impl FileCache {
    /// Opens the cache in `dir`, making it if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(Self { dir })
    }

    /// Keys are digested: whatever is in one, the file's name is harmless.
    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(crate::keys::hex(&Sha256::digest(key.as_bytes())))
    }

    fn write(path: &Path, temporary: &Path, value: &[u8]) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(temporary)?;
        file.write_all(&Sha256::digest(value))?;
        file.write_all(value)?;
        file.sync_data()?;
        std::fs::rename(temporary, path)
    }
}

impl BuildCache for FileCache {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoxError> {
        match std::fs::read(self.path(key)) {
            Ok(bytes) => Ok(bytes
                .split_at_checked(32)
                .filter(|(sum, v)| Sha256::digest(v).as_slice() == *sum)
                .map(|(_, v)| v.to_vec())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError> {
        let path = self.path(key);
        let temporary = path.with_extension(format!(
            "{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        Self::write(&path, &temporary, value).map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            e.into()
        })
    }
}

/// Kept as long as the value lives.
#[derive(Debug, Default)]
pub struct MemoryCache(Mutex<HashMap<String, Vec<u8>>>);

impl MemoryCache {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl BuildCache for MemoryCache {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(self.map().get(key).cloned())
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError> {
        self.map().insert(key.to_owned(), value.to_vec());
        Ok(())
    }
}

/// What every [`BuildCache`] must hold; for tests of other implementations. The cache must be empty at first.
///
/// # Panics
/// At the first rule that is broken.
pub fn conformance(cache: &dyn BuildCache) {
    let get = |key: &str| cache.get(key).expect("get works");
    assert_eq!(get("a"), None, "a key that was never put is missing, and no error");
    cache.put("a", b"1").expect("put works");
    assert_eq!(get("a").as_deref(), Some(&b"1"[..]), "what was put is there");
    cache.put("a", b"").expect("put works twice");
    assert_eq!(
        get("a").as_deref(),
        Some(&b""[..]),
        "a later value takes the place of an earlier one, an empty one too"
    );
    for key in ["", "/", "../x", "a/b", "\0", &"k".repeat(10_000)] {
        cache.put(key, key.as_bytes()).expect("any text is a key");
        assert_eq!(get(key).as_deref(), Some(key.as_bytes()), "any text is a key");
    }
    let large = vec![7; 3 << 20];
    cache.put("large", &large).expect("values may be megabytes");
    assert_eq!(get("large"), Some(large), "values may be megabytes");
    std::thread::scope(|s| {
        for n in 0..4u8 {
            s.spawn(move || {
                for i in 0..20u8 {
                    cache.put("shared", &[n; 1000]).expect("put works from threads");
                    cache.put(&format!("{n}-{i}"), &[n, i]).expect("put works from threads");
                    let seen = cache.get("shared").expect("get works from threads").expect("it was put");
                    assert!(
                        seen.len() == 1000 && seen.iter().all(|b| *b == seen[0]),
                        "a value is never torn"
                    );
                }
            });
        }
    });
    assert_eq!(get("3-19").as_deref(), Some(&[3, 19][..]), "no value is lost");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_conform() {
        conformance(&MemoryCache::new());
        let dir = tempfile::tempdir().unwrap();
        conformance(&FileCache::open(dir.path().join("c")).unwrap());
    }

    #[test]
    fn damage_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::open(dir.path()).unwrap();
        cache.put("k", b"value").unwrap();
        let path = cache.path("k");
        for damaged in [&b""[..], b"short", &[0; 37]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get("k").unwrap(), None);
        }
    }
}
