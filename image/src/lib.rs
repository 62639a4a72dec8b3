//! Content-addressed container image store.
#![forbid(unsafe_code)]

mod blob;
mod ctx;
#[expect(dead_code, reason = "its users come next")]
mod dir;
mod error;
mod image;
#[expect(dead_code, reason = "its users come next")]
mod layer;
mod snapshot;
mod store;

pub use blob::{BlobSource, BoxError, FromFn, from_fn};
pub use ctx::{Ctx, Event};
pub use error::{Error, Result};
pub use image::{DockerConfig, Healthcheck, Image, ImageConfig};
pub use layer::Limits;
pub use snapshot::{DiffOutcome, OverlayDirs, Snapshot, SnapshotOptions};
pub use store::{
    Collected, Durability, FaultHook, ImageRecord, ImageSpec, ImportOptions, Imported, Layer, LayerOptions,
    Removed, Store, StoreOptions,
};
