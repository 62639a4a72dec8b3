//! Digests of files by what `stat(2)` tells of them, so that an unchanged context is not read again.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};
use sha2::{Digest as _, Sha256};

use crate::select::Item;
use crate::tree::{Tree, xattrs};
use crate::{BuildCache, Error, Result};

/// A file that was written this shortly before it was read may change again without its times showing it.
const SETTLED: Duration = Duration::from_millis(20);
/// The same where times seem to be whole seconds, as on ext4 with small inodes.
const SETTLED_WHOLE: Duration = Duration::from_secs(2);
/// More records than this are not kept.
const MAX_RECORDS: usize = 1_000_000;
const RECORD: usize = 8 * 8 + 32;

type Key = [u64; 8];

/// The digests of the files of one context, kept as one value of the build cache.
pub(crate) struct DigestCache {
    known: Mutex<HashMap<Key, [u8; 32]>>,
    changed: AtomicUsize,
}

impl DigestCache {
    /// What earlier builds found out; a record that cannot be read is as good as none.
    pub(crate) fn load(cache: Option<&dyn BuildCache>, name: &str) -> Self {
        let bytes = cache.and_then(|c| c.get(name).ok().flatten()).unwrap_or_default();
        let known = bytes.chunks_exact(RECORD).map(|record| {
            let mut key = [0; 8];
            for (slot, bytes) in key.iter_mut().zip(record.chunks_exact(8)) {
                *slot = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
            }
            (key, record[64..].try_into().expect("a record's rest is 32 bytes"))
        });
        Self { known: Mutex::new(known.collect()), changed: AtomicUsize::new(0) }
    }

    /// Keeps what is new. That this fails must not fail a build.
    pub(crate) fn save(&self, cache: Option<&dyn BuildCache>, name: &str) {
        let Some(cache) = cache.filter(|_| self.changed.load(Ordering::Relaxed) > 0) else { return };
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(known.len() * RECORD);
        for (key, sum) in known.iter().take(MAX_RECORDS) {
            key.iter().for_each(|k| bytes.extend_from_slice(&k.to_le_bytes()));
            bytes.extend_from_slice(sum);
        }
        let _ = cache.put(name, &bytes);
    }

    /// One digest per item, `None` for what has no content. Files are read by two threads at most: the disk is the limit.
    pub(crate) fn of_files(
        &self,
        tree: &Tree,
        items: &[&Item],
        check: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<Vec<Option<[u8; 32]>>> {
        let mut sums: Vec<Option<[u8; 32]>> = vec![None; items.len()];
        let mut missing = Vec::new();
        {
            let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (i, item) in items.iter().enumerate().filter(|(_, i)| i.entry.kind == FileType::RegularFile) {
                match known.get(&key(&item.entry.stat)) {
                    Some(sum) => sums[i] = Some(*sum),
                    None => missing.push(i),
                }
            }
        }
        for batch in missing.chunks(512) {
            let (a, b) = batch.split_at(if batch.len() < 8 { batch.len() } else { batch.len() / 2 });
            let read = |part: &[usize]| {
                part.iter().map(|i| Ok((*i, sum(tree, items[*i], check)?))).collect::<Result<Vec<_>>>()
            };
            let (first, second) = if b.is_empty() {
                (read(a), Ok(Vec::new()))
            } else {
                std::thread::scope(|s| {
                    let second = s.spawn(|| read(b));
                    (read(a), second.join().expect("reading files does not panic"))
                })
            };
            for (i, sum) in first?.into_iter().chain(second?) {
                sums[i] = Some(sum);
                self.learn(&items[i].entry.stat, sum);
            }
        }
        Ok(sums)
    }

    fn learn(&self, stat: &Stat, sum: [u8; 32]) {
        let ctime = UNIX_EPOCH
            + Duration::new(
                u64::try_from(stat.st_ctime).unwrap_or(0),
                u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            );
        let settled = if stat.st_ctime_nsec == 0 { SETTLED_WHOLE } else { SETTLED };
        if SystemTime::now().duration_since(ctime).is_ok_and(|age| age > settled) {
            self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key(stat), sum);
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn key(s: &Stat) -> Key {
    let n = |v: i64| v.cast_unsigned();
    [
        s.st_dev,
        s.st_ino,
        n(s.st_size),
        n(s.st_mtime),
        s.st_mtime_nsec,
        n(s.st_ctime),
        s.st_ctime_nsec,
        s.st_mode.into(),
    ]
}

/// Over content, and xattrs where there are any.
fn sum(tree: &Tree, item: &Item, check: &dyn Fn() -> Result<()>) -> Result<[u8; 32]> {
    let mut file = tree.open_file(&item.path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        check()?;
        let n = file.read(&mut buffer).map_err(|e| Error::io(&item.path, e))?;
        if n == 0 {
            break;
        }
        total += n as u64;
        hash.update(&buffer[..n]);
    }
    if total != item.entry.size() {
        return Err(Error::Changed { path: item.path.clone() });
    }
    for (name, value) in xattrs(&file).map_err(|e| Error::io(&item.path, e))? {
        hash.update(format!("{}:{name}={}:", name.len(), value.len()));
        hash.update(value);
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_settle_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut stat = rustix::fs::stat(dir.path()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let learned = |stat: &Stat| {
            let cache = DigestCache::load(None, "");
            cache.learn(stat, [0; 32]);
            cache.changed.load(Ordering::Relaxed) == 1
        };
        (stat.st_ctime, stat.st_ctime_nsec) = (i64::try_from(now).unwrap() - 1, 0);
        assert!(!learned(&stat), "written again in the same second it would look the same");
        stat.st_ctime -= 3;
        assert!(learned(&stat));
        stat.st_ctime_nsec = 1;
        assert!(learned(&stat));
    }

    #[test]
    fn a_long_read_ends_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        // Sparse: whole it would take minutes.
        std::fs::File::create(dir.path().join("f")).unwrap().set_len(200 << 30).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let path = std::path::PathBuf::from("f");
        let entry = tree.entry(&path).unwrap().unwrap();
        let item = Item { rel: path.clone(), path, entry, link: None };
        let asked = AtomicUsize::new(0);
        let check = || if asked.fetch_add(1, Ordering::Relaxed) < 9 { Ok(()) } else { Err(Error::Cancelled) };
        let result = DigestCache::load(None, "").of_files(&tree, &[&item], &check);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
