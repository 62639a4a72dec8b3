//! The store: everything together.

mod adopt;
mod changes;
mod collect;
mod commit;
mod create;
mod edit;
mod fetch;
mod import;
mod names;
mod verify;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};

use crate::content::{self, Blobs, ContentRead, ContentWrite, Ingest};
use crate::diffs::Diffs;
use crate::dir::StoreDir;
use crate::error::at;
use crate::layer::{Layers, Limits};
use crate::lease::{Lease, STORE};
use crate::model::{Document, MAX_DOCUMENT};
use crate::refs::{Record, Refs};
use crate::snapshot::Snapshots;
use crate::{BlobRead, Ctx, Error, Image, Result, Snapshot, SnapshotOptions, model};

pub use adopt::Adopted;
pub use changes::LayerChanges;
pub use collect::{Collected, DiskUsage, LayerUsage};
pub use commit::{Layer, LayerOptions};
pub use create::ImageSpec;
pub use import::{ImportOptions, Imported};
pub use names::{ImageRecord, Removed};
pub use verify::{Problem, VerifyOptions, VerifyOutcome};

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The image store: one directory, shared by any number of threads and processes. Cheap to clone.
///
/// Its directory (an [OCI image layout] and more; rights 0700):
///
/// | path | holds |
/// |---|---|
/// | `oci-layout`, `index.json` | the layout's marks; `index.json` is derived from `refs/`, and what others write into it is [adopted](Store::adopt) |
/// | `blobs/ALG/HEX` | manifests, configs, compressed layers: immutable, verified |
/// | `refs/` | one small file per name, replaced atomically |
/// | `layers/` | layers in their mountable form, by diff ID |
/// | `diffs/ALG/HEX` | which blobs inflate to a layer, its size (derived) |
/// | `snapshots/` | writable root file systems |
/// | `ingest/` | downloads that are not complete; they go on where they were |
/// | `leases/` | a locked file per process at work: what it needs is not collected |
/// | `locks/`, `tmp/` | flocks; directories owned by a held flock |
///
/// Every lock is a `flock`, so it ends with its process; nothing waits for a timer, and what a killed process left in `tmp/` is
/// removed by the next [`Store::open`].
///
/// [OCI image layout]: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: StoreDir,
    blobs: Blobs,
    refs: Refs,
    diffs: Diffs,
    layers: Layers,
    snapshots: Snapshots,
    limits: Limits,
}

/// How a store is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Whether a finished call is safe against power loss.
    pub durability: Durability,
    /// Keep new layers as directories even where EROFS files could be mounted.
    pub directories: bool,
    /// Make new snapshots as whole copies of their layers, for where no overlay can be mounted (or the kernel of another machine is to see
    /// a plain directory): [`Snapshot::root`]. File systems that can share blocks between files do; on others each takes room and time for
    /// all it holds.
    pub copies: bool,
    /// Budgets against hostile layers.
    pub limits: Limits,
    /// For crash tests only.
    #[doc(hidden)]
    pub fault: Option<FaultHook>,
}

/// Whether a finished call is safe against power loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After return it survives power loss, or is reported missing.
    #[default]
    Durable,
    /// For stores that are thrown away: no fsync.
    None,
}

/// Asked before every change to the disk (operation, path); from its first error on it must refuse everything, as a dead process would.
#[doc(hidden)]
#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "named here once")]
pub struct FaultHook(pub Arc<dyn Fn(&str, &Path) -> io::Result<()> + Send + Sync>);

impl std::fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultHook")
    }
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &StoreOptions::default())
    }

    /// [`Store::open`] with options.
    ///
    /// What killed processes left in `tmp/` is removed. Fails when `dir` belongs to something else. On a read-only file system its
    /// images can be looked at and read.
    pub fn open_with(dir: impl AsRef<Path>, options: &StoreOptions) -> Result<Self> {
        let path = absolute(dir.as_ref())?;
        let dir = StoreDir::new(path, options.clone());
        lay_out(&dir)?;
        let layers = Layers::open(&dir)?;
        let inner = Inner {
            blobs: Blobs::open(&dir)?,
            refs: Refs::open(&dir)?,
            diffs: Diffs::open(&dir)?,
            snapshots: Snapshots::open_all(&dir, &layers)?,
            limits: options.limits.clone(),
            layers,
            dir,
        };
        let tidy = || inner.dir.reclaim().and_then(|_| inner.refs.refresh_index());
        match tidy() {
            Err(e) if e.is_read_only() => {}
            tidied => tidied?,
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        self.0.dir.path()
    }

    /// Opens a blob for reading: manifests, configs, compressed layers.
    pub fn open_blob(&self, digest: &Digest) -> Result<Box<dyn BlobRead>> {
        self.0.blobs.open(digest)
    }

    /// Whether the blob is there, and its size.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.0.blobs.size(digest)
    }

    /// A writable root file system over the image's layers, kept under `key` until removed. The image is in use from then on.
    pub fn snapshot(&self, key: &str, image: &Image) -> Result<Snapshot> {
        let options = SnapshotOptions { image: Some(image.id().clone()), ..SnapshotOptions::default() };
        self.restore_layers(image)?;
        self.snapshot_layers(key, image.diff_ids(), &options)
    }

    /// The same over any layers of the store, base first (a build's intermediate state).
    ///
    /// A layer that is not here in a form for this process (another kernel or driver made it, or it is lost) is unpacked from its blob.
    pub fn snapshot_layers(
        &self,
        key: &str,
        layers: &[Digest],
        options: &SnapshotOptions,
    ) -> Result<Snapshot> {
        for diff_id in layers {
            let known = || self.0.diffs.get(diff_id).unwrap_or_default().blobs;
            self.restore(diff_id, &mut || known().iter().map(|blob| blob.digest().clone()).collect())?;
        }
        let _shared = self.0.dir.lock_shared(STORE)?;
        self.0.snapshots.prepare(key, layers, options)
    }

    /// Opens an existing snapshot.
    pub fn open_snapshot(&self, key: &str) -> Result<Snapshot> {
        self.0.snapshots.open(key)
    }

    /// All snapshots, in no order.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.0.snapshots.list()
    }

    /// Removes a snapshot; its files go in the background.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        self.0.snapshots.remove(key)
    }

    /// Removes temporary snapshots whose owner is gone (see [`SnapshotOptions::temporary`]); their keys. [`Store::collect`] does it too.
    pub fn sweep_snapshots(&self) -> Result<Vec<String>> {
        let _shared = self.0.dir.lock_shared(STORE)?;
        self.0.snapshots.sweep()
    }

    /// Waits until what this process has removed is gone from the disk: layers and snapshots go out of sight at once and are deleted
    /// in the background. A program about to end calls it; what it leaves undone, the next [`Store::open`] does.
    pub fn settle(&self) {
        self.0.dir.settle();
    }

    /// Sees to it that the image's layers are here in a form for this process, if their blobs are.
    fn restore_layers(&self, image: &Image) -> Result<()> {
        let mut pairs = image.manifest().layers().iter().zip(image.diff_ids());
        pairs.try_for_each(|(blob, diff_id)| self.restore(diff_id, &mut || vec![blob.digest().clone()]))
    }

    /// The same of one layer, from any of the blobs that hold it. Without a sound one it stays away.
    fn restore(&self, diff_id: &Digest, blobs: &mut dyn FnMut() -> Vec<Digest>) -> Result<()> {
        if self.0.layers.contains(diff_id) {
            return Ok(());
        }
        let (lease, blobs) = (self.lease()?, blobs());
        lease.hold(blobs.iter().chain([diff_id]))?;
        self.unpack_again(diff_id, &blobs, Ctx::none())
    }

    fn lease(&self) -> Result<Arc<Lease>> {
        Lease::new(&self.0.dir).map(Arc::new)
    }

    /// Parses the stored manifest and config that a record names.
    fn parse(&self, record: &Record, lease: Option<Arc<Lease>>) -> Result<Image> {
        let bytes = content::read(&self.0.blobs, record.manifest.digest(), MAX_DOCUMENT)?;
        let Document::Manifest(manifest) = model::parse(&record.manifest, &bytes)? else {
            return Err(Error::invalid(format!("manifest {}", record.manifest.digest()), &"it is an index"));
        };
        let config = if model::is_image_config(manifest.config().media_type()) {
            content::read(&self.0.blobs, manifest.config().digest(), MAX_DOCUMENT)?
        } else {
            Vec::new()
        };
        Image::new(record.target.clone(), record.manifest.clone(), *manifest, &config, lease)
    }
}

impl ContentRead for Store {
    fn open(&self, digest: &Digest) -> Result<Box<dyn BlobRead>> {
        self.0.blobs.open(digest)
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.0.blobs.size(digest)
    }

    fn list(&self) -> Result<Vec<Digest>> {
        self.0.blobs.list()
    }
}

/// Blobs put so belong to no image: a collection takes them away.
impl ContentWrite for Store {
    fn ingest(&self, expected: Option<&Descriptor>) -> Result<Option<Box<dyn Ingest>>> {
        self.0.blobs.ingest(expected)
    }

    fn remove(&self, digest: &Digest) -> Result<bool> {
        self.0.blobs.remove(digest)
    }
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(at("resolve", dir))
}

/// Makes the directories and marks of a new store; does nothing to an old one.
fn lay_out(dir: &StoreDir) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mark = dir.join("oci-layout");
    if mark.exists() && dir.join("locks").exists() && dir.join("tmp").exists() {
        return Ok(());
    }
    dir.step("mkdir", dir.path())?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.path()).map_err(at("create", dir.path()))?;
    // Looked at twice: another process may be making the store at this moment.
    if !mark.exists() && foreign(dir.path())? && !mark.exists() {
        return Err(Error::invalid(
            dir.path().display().to_string(),
            &"the directory is not empty and is no image store",
        ));
    }
    for below in ["tmp", "locks", "leases"] {
        dir.create_dir_all(&dir.join(below))?;
    }
    let layout = LAYOUT.as_bytes();
    dir.write(&mark, layout)
}

/// Whether a directory holds what no store makes before its mark is written.
fn foreign(dir: &Path) -> Result<bool> {
    const OURS: [&str; 9] =
        ["blobs", "diffs", "ingest", "layers", "leases", "locks", "refs", "snapshots", "tmp"];
    for entry in fs::read_dir(dir).map_err(at("read", dir))? {
        let name = entry.map_err(at("read", dir))?.file_name();
        if !OURS.iter().any(|ours| name == **ours) && name != "lost+found" {
            return Ok(true);
        }
    }
    Ok(false)
}
