use std::path::Path;

use oci_spec::image::{Descriptor, Digest, Platform};

use crate::{BlobSource, BoxError, Ctx, Image, ImageConfig, Result, Snapshot, SnapshotOptions};

/// The image store: one directory, shared by any number of threads and processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(());

/// How a store is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Whether a finished call is safe against power loss.
    pub durability: Durability,
    /// Keep layers as directories even where EROFS files could be mounted.
    pub directories: bool,
    /// For crash tests only.
    #[doc(hidden)]
    pub fault: Option<FaultHook>,
}

/// Asked before every change to the disk (operation, path); from its first error on it must refuse everything, as a dead process would.
#[doc(hidden)]
#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "named here once")]
pub struct FaultHook(pub std::sync::Arc<dyn Fn(&str, &Path) -> std::io::Result<()> + Send + Sync>);

impl std::fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultHook")
    }
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

/// How an image is taken in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Which image of an index; `None` is this machine's.
    pub platform: Option<Platform>,
    /// Names given to it once it is complete, e.g. `docker.io/library/debian:bookworm`.
    pub names: Vec<String>,
}

/// What an import did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The image.
    pub image: Image,
    /// Blobs that were fetched.
    pub fetched: usize,
    /// Blobs and layers that the store already had.
    pub reused: usize,
    /// Bytes that were fetched.
    pub bytes: u64,
}

/// One row of `docker images`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageRecord {
    /// Its names, sorted; empty for a dangling image.
    pub names: Vec<String>,
    /// The image.
    pub image: Image,
    /// Uncompressed size of all layers in bytes.
    pub size: u64,
}

/// A layer that the store can mount and push.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Layer {
    /// The blob as manifests name it.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Size of the uncompressed tar in bytes.
    pub size: u64,
    /// Number of tar entries; 0 means that nothing had changed.
    pub entries: u64,
}

/// How a layer is written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LayerOptions {
    /// Clamp every mtime to at most this (seconds since the epoch), as `SOURCE_DATE_EPOCH` asks.
    pub clamp_mtime: Option<i64>,
}

/// What makes an image besides its blobs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImageSpec {
    /// The config; its `rootfs` is filled in from `layers`.
    pub config: ImageConfig,
    /// The layers, base first.
    pub layers: Vec<Layer>,
    /// Names given to the image.
    pub names: Vec<String>,
}

/// What `remove` did, in Docker's words: `Untagged:` and `Deleted:` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Names taken away.
    pub untagged: Vec<String>,
    /// Images that had no other name and are gone.
    pub deleted: Vec<Digest>,
}

/// What a collection freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Blobs removed.
    pub blobs: usize,
    /// Unpacked layers removed.
    pub layers: usize,
    /// Bytes freed.
    pub bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there.
    pub fn open(_dir: impl AsRef<Path>) -> Result<Self> {
        todo!()
    }
    /// [`Store::open`] with options.
    pub fn open_with(_dir: impl AsRef<Path>, _options: &StoreOptions) -> Result<Self> {
        todo!()
    }
    /// Fetches what is missing of the image (or of the index's image for the platform) that `root` describes, unpacks its layers, names it.
    pub fn import(
        &self,
        _source: &dyn BlobSource,
        _root: &Descriptor,
        _options: &ImportOptions,
        _ctx: Ctx<'_>,
    ) -> Result<Imported> {
        todo!()
    }
    /// Finds an image by exact name, by digest (of index, manifest or config) or by a unique prefix of its ID.
    pub fn image(&self, _name: &str) -> Result<Image> {
        todo!()
    }
    /// All images, newest first; dangling ones too.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        todo!()
    }
    /// Gives the image one more name; a name that pointed elsewhere moves.
    pub fn tag(&self, _image: &Image, _name: &str) -> Result<()> {
        todo!()
    }
    /// Takes a name away; the image goes when it was the last one. By ID it takes all its names away, which needs `force` when there are several.
    pub fn remove(&self, _name: &str, _force: bool) -> Result<Removed> {
        todo!()
    }
    /// Frees what no name, snapshot or lease needs.
    pub fn collect(&self, _ctx: Ctx<'_>) -> Result<Collected> {
        todo!()
    }
    /// Opens a blob for reading: manifests, configs, compressed layers.
    pub fn open_blob(&self, _digest: &Digest) -> Result<Box<dyn BlobRead>> {
        todo!()
    }
    /// Whether the blob is there, and its size.
    pub fn blob_size(&self, _digest: &Digest) -> Result<Option<u64>> {
        todo!()
    }
    /// A writable root file system over the image's layers, kept under `key` until removed.
    pub fn snapshot(&self, _key: &str, _image: &Image) -> Result<Snapshot> {
        todo!()
    }
    /// The same over any layers of the store, base first (a build's intermediate state).
    pub fn snapshot_layers(
        &self,
        _key: &str,
        _layers: &[Digest],
        _options: &SnapshotOptions,
    ) -> Result<Snapshot> {
        todo!()
    }
    /// Opens an existing snapshot.
    pub fn open_snapshot(&self, _key: &str) -> Result<Snapshot> {
        todo!()
    }
    /// Removes a snapshot; its files go in the background.
    pub fn remove_snapshot(&self, _key: &str) -> Result<()> {
        todo!()
    }
    /// Turns a snapshot's changes into a layer: uncompressed form mountable, compressed blob stored.
    pub fn commit_layer(
        &self,
        _snapshot: &Snapshot,
        _options: &LayerOptions,
        _ctx: Ctx<'_>,
    ) -> Result<Layer> {
        todo!()
    }
    /// Takes in a layer from a tar stream (plain, gzip or zstd; told by its first bytes).
    pub fn add_layer(
        &self,
        _tar: &mut (dyn std::io::Read + Send),
        _options: &LayerOptions,
        _ctx: Ctx<'_>,
    ) -> Result<Layer> {
        todo!()
    }
    /// The layers of an image, as [`Store::create_image`] takes them.
    pub fn layers(&self, _image: &Image) -> Result<Vec<Layer>> {
        todo!()
    }
    /// Writes config and manifest, and names the image.
    pub fn create_image(&self, _spec: &ImageSpec) -> Result<Image> {
        todo!()
    }
}

/// A readable, seekable blob.
pub trait BlobRead: std::io::Read + std::io::Seek + Send {}
impl<T: std::io::Read + std::io::Seek + Send> BlobRead for T {}

#[expect(dead_code, reason = "skeleton")]
fn _unused(_: BoxError) {}
