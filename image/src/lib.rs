//! Content-addressed container image store.
#![forbid(unsafe_code)]

mod blob;
mod ctx;
mod error;
mod image;
mod snapshot;
mod store;

pub use blob::{BlobSource, BoxError, FromFn, from_fn};
pub use ctx::{Ctx, Event};
pub use error::{Error, Result};
pub use image::{DockerConfig, Healthcheck, Image, ImageConfig};
pub use snapshot::{DiffOutcome, OverlayDirs, Snapshot, SnapshotOptions};
pub use store::{
    Collected, Durability, ImageRecord, ImageSpec, ImportOptions, Imported, Layer, LayerOptions, Removed, Store, StoreOptions,
};
