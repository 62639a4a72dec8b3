//! Content-addressed container image store.
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
mod layer;
mod lease;
mod model;
mod pipe;
mod refs;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;

pub use archive::{ArchiveFormat, LoadOptions, Loaded};
pub use blob::{BlobSource, BoxError, FromFn, from_fn};
pub use compress::Compression;
pub use content::BlobRead;
pub use ctx::{Ctx, Event};
pub use error::{Error, Result};
pub use layer::Limits;
pub use model::{DockerConfig, Healthcheck, Image, ImageConfig, host_platform};
pub use snapshot::{DiffOutcome, OverlayDirs, Snapshot, SnapshotOptions};
#[doc(hidden)]
pub use store::FaultHook;
pub use store::{
    Collected, DiskUsage, Durability, ImageRecord, ImageSpec, ImportOptions, Imported, Layer, LayerOptions,
    LayerUsage, Problem, Removed, Store, StoreOptions, VerifyOptions, VerifyOutcome,
};
