//! Dockerfile builder.
#![forbid(unsafe_code)]

mod adapters;
mod archive;
mod builder;
mod cache;
mod changes;
mod context;
mod copy;
mod digests;
mod error;
mod event;
mod expand;
mod keys;
pub mod lint;
mod mounts;
mod options;
mod passwd;
mod pattern;
mod plan;
mod seams;
mod select;
mod state;
mod steps;
pub mod syntax;
mod tree;

#[cfg(feature = "registry-client")]
pub use adapters::RegistryResolver;
#[cfg(feature = "runtime")]
pub use adapters::RuntimeExecutor;
pub use builder::Builder;
pub use cache::{FileCache, MemoryCache, conformance};
pub use context::Context;
pub use error::{Error, Result};
pub use event::{BuildEvent, Built};
pub use expand::{Expanded, Expander};
pub use options::{BuildOptions, Secret};
pub use seams::{BuildCache, Command, Executor, Fetched, Fetcher, Mount, MountKind, Resolver, StoreResolver};

/// A foreign error, kept as the source of ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
