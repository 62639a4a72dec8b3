use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::image::{Descriptor, Digest};

use crate::error::BoxError;
use crate::manifest::OCI_INDEX;
use crate::{Content, Error, Result, Sink, digest};

/// A directory in the OCI image layout, to pull into and push from. Other tools read it as it lies (`skopeo copy oci:DIR:NAME ...`).
///
/// Kept simple: no locks beyond atomic renames, no collection, no fsync. `longshore-image` has a store for the rest.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens the directory, which is made a layout if it is none yet.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let layout = Self { root: root.into() };
        let made = fs::create_dir_all(layout.root.join("blobs/sha256")).and_then(|()| {
            let marker = layout.root.join("oci-layout");
            if marker.exists() { Ok(()) } else { fs::write(marker, br#"{"imageLayoutVersion":"1.0.0"}"#) }
        });
        made.map_err(|e| layout.failed("cannot be made an image layout", e))?;
        Ok(layout)
    }

    /// Where a blob lies, or would.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().as_ref()).join(digest.digest())
    }

    /// Lets `name` (`org.opencontainers.image.ref.name`) point to an image, in `index.json`.
    pub fn set(&self, name: &str, descriptor: &Descriptor) -> Result<()> {
        const NAME: &str = "org.opencontainers.image.ref.name";
        let path = self.root.join("index.json");
        let mut manifests: Vec<Descriptor> = match fs::read(&path) {
            Ok(bytes) => crate::manifest::parse(&bytes, Some(OCI_INDEX))?.manifests,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(self.failed("its index cannot be read", e)),
        };
        let named =
            |d: &Descriptor| d.annotations().as_ref().is_some_and(|a| a.get(NAME).is_some_and(|n| n == name));
        manifests.retain(|d| !named(d));
        let mut entry = descriptor.clone();
        entry.set_annotations(Some([(NAME.to_owned(), name.to_owned())].into()));
        manifests.push(entry);
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let beside = self.temporary();
        place(&beside, &path, &mut index.to_string().as_bytes())
            .map_err(|e| self.failed("its index cannot be written", e))
    }

    fn temporary(&self) -> PathBuf {
        // Others may write here too, of this process or of one with the same number elsewhere.
        let chance = RandomState::new().hash_one(Instant::now());
        self.root.join(format!(".part-{}-{chance:016x}", std::process::id()))
    }

    fn failed(&self, reason: &str, source: io::Error) -> Error {
        Error::Config { path: self.root.clone(), reason: reason.into(), source: Some(source.into()) }
    }
}

impl Content for Layout {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError> {
        digest::parse(descriptor.digest().as_ref())?;
        Ok(Box::new(File::open(self.path(descriptor.digest()))?))
    }

    fn open_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>, BoxError> {
        let mut file = File::open(self.path(descriptor.digest()))?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

impl Sink for Layout {
    fn has(&self, descriptor: &Descriptor) -> Result<bool, BoxError> {
        digest::parse(descriptor.digest().as_ref())?;
        match fs::metadata(self.path(descriptor.digest())) {
            Ok(found) => Ok(found.is_file() && found.len() == descriptor.size()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn put(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> Result<(), BoxError> {
        let path = self.path(descriptor.digest());
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        Ok(place(&self.temporary(), &path, reader)?)
    }
}

/// Writes a file beside its place first. Only what was made here is removed where that fails.
fn place(beside: &Path, path: &Path, reader: &mut dyn Read) -> io::Result<()> {
    let file = File::create_new(beside)?;
    let placed = write(file, reader).and_then(|()| fs::rename(beside, path));
    if placed.is_err() {
        // A clean-up failure must not hide the first error.
        let _ = fs::remove_file(beside);
    }
    placed
}

fn write(mut file: File, reader: &mut dyn Read) -> io::Result<()> {
    // Large enough that system calls do not count, small enough for eight of them.
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match reader.read(&mut buffer)? {
            0 => return file.flush(),
            n => file.write_all(&buffer[..n])?,
        }
    }
}
