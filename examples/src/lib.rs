//! The reference composition: the five crates put together the way that Docker is.
//!
//! [`Host`] is a directory with an image store, containers, networks and a build cache in it. It implements the traits
//! that the crates leave open: [`StoreImages`] gives containers their root file systems, [`HostNetworks`] attaches them,
//! [`StoreContent`] feeds a push. Each is a few lines, meant to be read and to be replaced.
//!
//! [`registry_server`] is a registry in memory for the quickstart and for tests.

mod commit;
mod executor;
mod fetcher;
mod host;
mod images;
mod layout;
mod networks;
mod plain;
mod transfer;

pub mod registry_server;
pub mod user_namespace;

pub use commit::{CommitOptions, Pause, change_config, commit};
pub use executor::HostExecutor;
pub use fetcher::HttpFetcher;
pub use host::{Host, HostOptions};
pub use images::{StoreImages, find_image};
pub use layout::Layout;
pub use networks::HostNetworks;
pub use plain::{is_control, plain};
pub use transfer::{Progress, StoreContent};

/// A foreign error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The composition's result: it adds no errors of its own to those of the crates.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;
