//! A content-addressed store of container images: taken in from anywhere, verified, mounted, changed, committed, written out again.
//!
//! No daemon and no database: a [`Store`] is one directory of plain files that any number of threads and processes share, and an
//! [OCI image layout] that other tools read as it lies. Every call is blocking; long ones take a [`Ctx`] for progress and cancellation.
//!
//! ```
//! use longshore_image::{Ctx, ImageSpec, ImportOptions, LayerOptions, Store, from_fn};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let (here, there) = (temp.path().join("here"), temp.path().join("there"));
//! // A layer is a tar, in whatever compression; an image is layers and a config.
//! let store = Store::open(&here)?;
//! let mut tar = tar::Builder::new(Vec::new());
//! let mut header = tar::Header::new_gnu();
//! header.set_size(6);
//! header.set_mode(0o644);
//! tar.append_data(&mut header, "etc/motd", &b"hello\n"[..])?;
//! let layer = store.add_layer(&mut &tar.into_inner()?[..], &LayerOptions::default(), Ctx::none())?;
//! let mut spec = ImageSpec::default();
//! spec.layers.push(layer);
//! spec.names.push("example.com/hello:1".to_owned());
//! let image = store.create_image(&spec)?;
//!
//! // Any `BlobSource` will do for an import: a registry, an archive, a closure, here another store.
//! let other = Store::open(&there)?;
//! let source = from_fn(|descriptor: &oci_spec::image::Descriptor, offset| {
//!     let mut blob = store.open_blob(descriptor.digest())?;
//!     std::io::Seek::seek(&mut blob, std::io::SeekFrom::Start(offset))?;
//!     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(blob)
//! });
//! let mut options = ImportOptions::default();
//! options.names.push("example.com/hello:1".to_owned());
//! let imported = other.import(&source, image.target(), &options, Ctx::none())?;
//! assert_eq!(imported.image.id(), image.id());
//!
//! // A container's root file system stands on the layers, and keeps the image in use.
//! let snapshot = other.snapshot("web", &imported.image)?;
//! assert_eq!(snapshot.layers(), image.diff_ids());
//! assert!(other.remove("example.com/hello:1", false).is_err());
//! other.remove_snapshot("web")?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | part | does |
//! |---|---|
//! | [`Store`] | everything below together; its page shows the directory |
//! | [`Store::import`], [`BlobSource`] | an image from a registry or elsewhere: fetched, hashed, inflated, hashed again and unpacked in one pass, layers in parallel |
//! | [`Store::adopt`] | what other tools write into the directory, which is an OCI layout to them |
//! | [`Store::load`], [`Store::save`] | archives of `docker save` and of the OCI |
//! | [`Store::snapshot`], [`Snapshot`] | writable root file systems: mounted detached, or as directories for an overlay in a user namespace; or copies, where there is no overlay |
//! | [`Store::commit_layer`], [`Store::add_layer`], [`Store::create_image`] | new layers and images |
//! | [`Store::spec`], [`Store::rebase`], [`Store::squash`], [`Store::create_index`], [`Store::export`] | images from images |
//! | [`Store::remove`], [`Store::collect`], [`Store::prune`] | taking away |
//! | [`Store::disk_usage`], [`Store::layer_usage`], [`Store::layer_changes`] | what takes room, and what of it for nothing |
//! | [`Store::verify`] | comparing everything with its digests, and repair |
//! | [`content`] | blobs by digest as traits, a store of them in memory, and the conformance suite for others |
//! | [`Limits`] | budgets against hostile layers |
//!
//! # What can be relied on
//!
//! - **Nothing unverified becomes visible.** Size and digest of every blob, the diff ID of every layer. Bytes that were hashed are kept
//!   and never serialised again. Manifests must be what their media types say, of at most 4 MiB, indexes nested at most 4 deep.
//! - **Nothing half done becomes visible.** A name is written last. After a crash at any step, what is named is whole; leftovers belong to a
//!   lock that died with its process, and go at the next [`Store::open`] or [`Store::collect`].
//! - **What was reported done survives power loss**, or is reported missing ([`Durability::Durable`]). Every blob and layer is flushed before it is
//!   renamed, every directory after.
//! - **Processes do not get into each other's way.** One downloads a blob, the others wait for it; readers never wait. A collection
//!   spares what a name, a snapshot, or a value in somebody's hand ([`Layer`], the [`Image`] that an import returned) needs.
//!
//! # Lazy start
//!
//! Starting before a layer is complete (eStargz, `zstd:chunked`) is not built. There is room for it: an ingest keeps a blob's first part
//! under its digest and grows by offset, and a layer's mountable form is made from an index and a byte range, which may be filled later.
//!
//! [OCI image layout]: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
#![forbid(unsafe_code)]

mod archive;
mod blob;
mod compress;
pub mod content;
mod ctx;
mod diff;
mod diffs;
mod digest;
mod dir;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod layer;
mod lease;
mod model;
mod pipe;
mod refs;
mod snapshot;
mod store;

pub use archive::{ArchiveFormat, LoadOptions, Loaded};
pub use blob::{BlobSource, BoxError, FromFn, from_fn};
pub use compress::Compression;
pub use content::BlobRead;
pub use ctx::{Ctx, Event};
pub use error::{Error, Result};
pub use layer::Limits;
pub use model::{DockerConfig, Healthcheck, Image, ImageConfig, host_platform, parse_platform};
pub use snapshot::{DiffOutcome, OverlayDirs, SharedLayers, SharedMount, Snapshot, SnapshotOptions};
#[doc(hidden)]
pub use store::FaultHook;
pub use store::{
    Adopted, Collected, DiskUsage, Durability, ImageRecord, ImageSpec, ImportOptions, Imported, Layer,
    LayerChanges, LayerOptions, LayerUsage, Problem, Removed, Store, StoreOptions, VerifyOptions,
    VerifyOutcome,
};
