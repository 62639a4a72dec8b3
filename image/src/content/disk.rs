use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm};
use rustix::fs::{FlockOperation, flock};

use super::{BlobRead, ContentRead, ContentWrite, Ingest};
use crate::digest::Hasher;
use crate::dir::{Staging, StoreDir};
use crate::error::at;
use crate::{Error, Result};

/// Pause between two looks at a lock that another holds.
const BETWEEN: Duration = Duration::from_millis(10);
const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];

/// `blobs/` and `ingest/` of a store.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    dir: StoreDir,
}

impl Blobs {
    pub(crate) fn open(dir: &StoreDir) -> Result<Self> {
        for below in ["blobs/sha256", "ingest"] {
            dir.create_dir_all(&dir.join(below))?;
        }
        Ok(Self { dir: dir.clone() })
    }

    /// Where a blob lies. Only digests whose text is known to be plain hex become paths.
    pub(crate) fn path(&self, digest: &Digest) -> Result<PathBuf> {
        known(digest)?;
        Ok(self.dir.join("blobs").join(digest.algorithm().as_ref()).join(digest.digest()))
    }

    /// Removes what broken off ingests left, except those that a living process works on. Bytes freed.
    pub(crate) fn sweep_ingests(&self) -> Result<u64> {
        let ingests = self.dir.join("ingest");
        let mut freed = 0;
        for entry in fs::read_dir(&ingests).map_err(at("read", &ingests))? {
            let path = entry.map_err(at("read", &ingests))?.path();
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                freed += file.metadata().map_or(0, |m| m.len());
                self.dir.remove_file(&path)?;
            }
        }
        Ok(freed)
    }

    /// [`ContentWrite::ingest`] that gives up waiting for another's ingest when `check` fails.
    pub(crate) fn resume(
        &self,
        expected: &Descriptor,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Option<Box<dyn Ingest>>> {
        let digest = expected.digest();
        let blob = self.path(digest)?;
        let path = self.dir.join("ingest").join(digest.as_ref().replace(':', "-"));
        let file = loop {
            if exists(&blob)? {
                return Ok(None);
            }
            self.dir.step("create", &path)?;
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(at("open", &path))?;
            check()?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if same_file(&file, &path) => break file,
                // Whom we waited for has published it or given it up.
                Ok(()) | Err(rustix::io::Errno::INTR) => {}
                // Asked again and again instead of waiting in the kernel, where no flag can end it.
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(BETWEEN),
                Err(e) => return Err(at("lock", &path)(e)),
            }
        };
        if exists(&blob)? {
            self.dir.remove_file(&path)?;
            return Ok(None);
        }
        let mut ingest = DiskIngest {
            blobs: self.clone(),
            hasher: Hasher::for_digest(digest)?,
            expected: Some((digest.clone(), expected.size())),
            offset: 0,
            file,
            path,
            _staging: None,
        };
        ingest.rehash()?;
        Ok(Some(Box::new(ingest)))
    }

    fn fresh(&self) -> Result<Box<dyn Ingest>> {
        let staging = self.dir.staging("blob")?;
        let path = staging.path().join("data");
        self.dir.step("create", &path)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(at("create", &path))?;
        Ok(Box::new(DiskIngest {
            blobs: self.clone(),
            hasher: Hasher::default(),
            expected: None,
            offset: 0,
            file,
            path,
            _staging: Some(staging),
        }))
    }
}

impl ContentRead for Blobs {
    fn open(&self, digest: &Digest) -> Result<Box<dyn BlobRead>> {
        let path = self.path(digest)?;
        match File::open(&path) {
            Ok(file) => Ok(Box::new(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoSuchBlob { digest: digest.clone() })
            }
            Err(e) => Err(at("open", path)(e)),
        }
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest)?;
        match fs::symlink_metadata(&path) {
            Ok(m) => Ok(Some(m.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("stat", path)(e)),
        }
    }

    fn list(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let dir = self.dir.join("blobs").join(algorithm);
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(at("read", dir)(e)),
            };
            for entry in entries {
                let name = entry.map_err(at("read", &dir))?.file_name();
                // A foreign file is not a blob.
                found.extend(name.to_str().and_then(|hex| format!("{algorithm}:{hex}").parse().ok()));
            }
        }
        Ok(found)
    }
}

impl ContentWrite for Blobs {
    fn ingest(&self, expected: Option<&Descriptor>) -> Result<Option<Box<dyn Ingest>>> {
        match expected {
            Some(descriptor) => self.resume(descriptor, &|| Ok(())),
            None => self.fresh().map(Some),
        }
    }

    fn remove(&self, digest: &Digest) -> Result<bool> {
        self.dir.remove_file(&self.path(digest)?)
    }
}

/// A file in `ingest/` whose lock we hold, or in our own directory below `tmp/`.
struct DiskIngest {
    blobs: Blobs,
    hasher: Hasher,
    expected: Option<(Digest, u64)>,
    offset: u64,
    file: File,
    path: PathBuf,
    _staging: Option<Staging>,
}

impl DiskIngest {
    /// Hashes what an earlier ingest left.
    fn rehash(&mut self) -> Result<()> {
        let mut buf = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => {
                    self.hasher.update(&buf[..n]);
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(at("read", &self.path)(e)),
            }
        }
        match &self.expected {
            Some((_, size)) if self.offset > *size => self.restart(),
            _ => Ok(()),
        }
    }

    fn mismatch(&self, found: Digest) -> Option<Error> {
        let (digest, size) = self.expected.as_ref()?;
        if self.offset != *size {
            Some(Error::SizeMismatch { digest: digest.clone(), expected: *size, found: self.offset })
        } else if found != *digest {
            Some(Error::DigestMismatch { expected: digest.clone(), found })
        } else {
            None
        }
    }
}

impl Write for DiskIngest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some((digest, expected)) = &self.expected
            && self.offset + buf.len() as u64 > *expected
        {
            let found = self.offset + buf.len() as u64;
            return Err(io::Error::other(Error::SizeMismatch {
                digest: digest.clone(),
                expected: *expected,
                found,
            }));
        }
        self.blobs.dir.step("write", &self.path).map_err(io::Error::other)?;
        let n = self.file.write(buf).map_err(|e| io::Error::new(e.kind(), at("write", &self.path)(e)))?;
        self.hasher.update(&buf[..n]);
        self.offset += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ingest for DiskIngest {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn written(&self) -> Result<Box<dyn Read + Send>> {
        let file = File::open(&self.path).map_err(at("open", &self.path))?;
        Ok(Box::new(file.take(self.offset)))
    }

    fn restart(&mut self) -> Result<()> {
        self.blobs.dir.step("truncate", &self.path)?;
        self.file.set_len(0).map_err(at("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(at("seek", &self.path))?;
        self.offset = 0;
        self.hasher = match &self.expected {
            Some((digest, _)) => Hasher::for_digest(digest)?,
            None => Hasher::default(),
        };
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<Digest> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if let Some(error) = self.mismatch(digest.clone()) {
            self.blobs.dir.remove_file(&self.path)?;
            return Err(error);
        }
        let blob = self.blobs.path(&digest)?;
        if *digest.algorithm() != DigestAlgorithm::Sha256 {
            self.blobs.dir.create_dir_all(blob.parent().expect("a blob lies in a directory"))?;
        }
        self.blobs.dir.sync_file(&self.file, &self.path)?;
        self.blobs.dir.publish(&self.path, &blob)?;
        Ok(digest)
    }
}

fn known(digest: &Digest) -> Result<()> {
    match digest.algorithm().digest_hexlen() {
        Some(_) => Ok(()),
        None => Err(Error::Unsupported { what: "digest algorithm", reason: digest.algorithm().to_string() }),
    }
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(at("stat", path))
}

/// Whether the open file is still the one with this name.
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    /// A store's directory with the parts that blobs need.
    fn blobs(at: &Path) -> Blobs {
        let dir = StoreDir::new(at.to_owned(), StoreOptions::default());
        for below in ["tmp", "locks"] {
            fs::create_dir_all(at.join(below)).unwrap();
        }
        Blobs::open(&dir).unwrap()
    }

    #[test]
    fn conforms() {
        let temp = tempfile::tempdir().unwrap();
        let mut n = 0;
        super::super::conformance::all(&mut || {
            n += 1;
            blobs(&temp.path().join(n.to_string()))
        });
    }

    #[test]
    fn a_zeroed_tail_is_not_believed() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = blobs(temp.path());
        let bytes = vec![5; 100_000];
        let d = Descriptor::new("x".into(), 100_000, crate::digest::sha256(&bytes));
        let file = temp.path().join("ingest").join(d.digest().as_ref().replace(':', "-"));
        let mut torn = bytes.clone();
        torn[50_000..].fill(0);
        fs::write(&file, &torn).unwrap();
        let ingest = blobs.ingest(Some(&d)).unwrap().unwrap();
        assert_eq!(ingest.offset(), 100_000);
        assert!(matches!(ingest.commit(), Err(Error::DigestMismatch { .. })));
        assert!(!file.exists());
        // Longer than the blob can be: worth nothing.
        fs::write(&file, vec![5; 100_001]).unwrap();
        assert_eq!(blobs.ingest(Some(&d)).unwrap().unwrap().offset(), 0);
    }

    #[test]
    fn broken_off_ingests_are_swept_unless_in_use() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = blobs(temp.path());
        let d = |bytes: &[u8]| Descriptor::new("x".into(), 9, crate::digest::sha256(bytes));
        let mut busy = blobs.ingest(Some(&d(b"a"))).unwrap().unwrap();
        busy.write_all(b"123").unwrap();
        let mut idle = blobs.ingest(Some(&d(b"b"))).unwrap().unwrap();
        idle.write_all(b"12345").unwrap();
        drop(idle);
        assert_eq!(blobs.sweep_ingests().unwrap(), 5);
        assert_eq!(fs::read_dir(temp.path().join("ingest")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(temp.path().join("tmp")).unwrap().count(), 0);
    }
}
