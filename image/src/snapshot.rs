use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::image::Digest;

use crate::dir::StoreDir;
use crate::layer::Layers;
use crate::{Ctx, Result};

/// A container's writable root file system over an image's layers: kept on disk until removed, mounted only where asked.
#[derive(Clone, Debug)]
pub struct Snapshot(());

/// The directories of an overlay mount, for whoever mounts it in a user namespace of its own.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OverlayDirs {
    /// Read-only layers, top first.
    pub lower: Vec<PathBuf>,
    /// Where changes go; `None` for a read-only view.
    pub upper: Option<PathBuf>,
    /// Overlay's work directory, on the upper's file system.
    pub work: Option<PathBuf>,
    /// Whether overlay's own xattrs are `user.overlay.*` (as in a user namespace) instead of `trusted.overlay.*`.
    pub userxattr: bool,
}

/// How a snapshot is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// A view without a writable layer.
    pub read_only: bool,
    /// The ID of the image that it is made for: this image is then in use, and is not removed without force.
    pub image: Option<Digest>,
}

impl Snapshot {
    /// The key that it was made with.
    pub fn key(&self) -> &str {
        todo!()
    }
    /// The ID of the image that it was made for.
    pub fn image(&self) -> Option<&Digest> {
        todo!()
    }
    /// The layers that it stands on, base first.
    pub fn layers(&self) -> &[Digest] {
        todo!()
    }
    /// The overlay's directories. Layers that are EROFS files cannot be named so: `None`, use [`Snapshot::mount`].
    pub fn overlay(&self) -> Option<OverlayDirs> {
        todo!()
    }
    /// Mounts it detached: visible nowhere, gone with the last descriptor. Needs `CAP_SYS_ADMIN` in the user namespace of the mount namespace.
    pub fn mount(&self) -> Result<OwnedFd> {
        todo!()
    }
    /// Writes what changed against the layers as a layer tar (deterministic order, whiteouts as in the OCI image-spec).
    pub fn diff(&self, _out: &mut dyn Write, _ctx: Ctx<'_>) -> Result<DiffOutcome> {
        todo!()
    }
    /// Bytes and inodes of the writable layer.
    pub fn usage(&self) -> Result<(u64, u64)> {
        todo!()
    }
}

/// All snapshots of a store.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    #[expect(dead_code, reason = "the drivers are not here yet")]
    dir: StoreDir,
    #[expect(dead_code, reason = "the drivers are not here yet")]
    layers: Layers,
}

impl Snapshots {
    /// Makes its directory below the store's if it is not there.
    pub(crate) fn open_all(dir: &StoreDir, layers: &Layers) -> Result<Self> {
        Ok(Self { dir: dir.clone(), layers: layers.clone() })
    }
    /// Makes a snapshot over layers that are all there ([`Error::NoSuchLayer`](crate::Error::NoSuchLayer) else); the caller holds the store's shared lock.
    pub(crate) fn prepare(
        &self,
        _key: &str,
        _layers: &[Digest],
        _options: &SnapshotOptions,
    ) -> Result<Snapshot> {
        todo!()
    }
    pub(crate) fn open(&self, _key: &str) -> Result<Snapshot> {
        todo!()
    }
    pub(crate) fn list(&self) -> Result<Vec<Snapshot>> {
        todo!()
    }
    pub(crate) fn remove(&self, _key: &str) -> Result<()> {
        todo!()
    }
}

/// What a diff contained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffOutcome {
    /// Entries written, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}
