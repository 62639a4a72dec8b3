//! This crate's traits for the other crates' types, each behind a feature of its own.

#[cfg(feature = "registry-client")]
mod registry;
#[cfg(feature = "runtime")]
mod runtime;

#[cfg(feature = "registry-client")]
pub use registry::{RegistryResolver, local_name};
#[cfg(feature = "runtime")]
pub use runtime::RuntimeExecutor;
