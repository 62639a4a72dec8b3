//! Builds container images from Dockerfiles: no daemon, no shell-outs, one call.
//!
//! A [`Builder`] turns a Dockerfile and a [`Context`] into an image of a `longshore_image::Store`. What it needs beyond the store
//! comes through four small traits: [`Resolver`] finds base images, [`Executor`] runs `RUN`, [`BuildCache`] remembers what steps made,
//! [`Fetcher`] gets what `ADD` of a URL names. Adapters for the other longshore crates are behind the features `runtime`, `network`
//! and `registry-client`; without them this crate knows nothing but the store.
//!
//! ```
//! use longshore_build::{BuildEvent, BuildOptions, Builder, Context, MemoryCache, StoreResolver};
//! use longshore_image::{Ctx, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path().join("store"))?;
//! let (resolver, cache) = (StoreResolver(&store), MemoryCache::new());
//! let builder = Builder::new(&store, &resolver).cache(&cache);
//!
//! let dockerfile = "FROM scratch\nCOPY <<hello.txt /\nHello!\nhello.txt\nCMD [\"/hello\"]\n";
//! let mut options = BuildOptions::default();
//! options.tags.push("docker.io/library/hello:latest".into());
//! let mut print = |event: BuildEvent<'_>| println!("{event:?}");
//! let built = builder.build(dockerfile, &Context::empty(), &options, &mut print, Ctx::none())?;
//! assert_eq!(built.image.diff_ids().len(), 1);
//!
//! // The second time there is nothing to do.
//! let again = builder.build(dockerfile, &Context::empty(), &options, &mut print, Ctx::none())?;
//! assert_eq!((again.executed, again.cached), (0, 1));
//! assert_eq!(again.image.id(), built.image.id());
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! [`syntax::parse`] makes a lossless tree of the file, [`lint::lint`] remarks on it. The tree becomes a plan: stages, what each
//! stands on, and which of them the target needs. Needed stages run in threads, as soon as those that they need are done. Each step
//! that makes a layer first asks the cache, with keys over the layers below it (by content, not by history) and what it does:
//!
//! - `RUN` gets a writable snapshot of the layers so far; what it changed becomes the next layer. Mount points that had to be made
//!   for it are left out by reading the layer's tar, never by deleting in the root.
//! - `COPY`, `ADD` and `WORKDIR` write nothing into a root. Destinations are resolved in a read-only view, one component at a time by
//!   descriptor, and the layer's tar is made from the result: no link can send a write elsewhere, and no privilege is needed.
//! - Everything else changes the config, which is never taken from the cache.
//!
//! Of a context, files whose device, inode, size, times and mode are those of an earlier build are not read again.
//!
//! # On disk
//!
//! [`FileCache`] keeps one file per key in a directory of its own. Downloads and inflated archives of `ADD` are files without a name in
//! the store's `tmp/`, so they end with their process. While a build runs, the store holds snapshots named
//! `build-PID-TIME-N`; they are removed however the build ends, after `kill -9` by the next build or collection of the store.
//! What a killed build's `RUN` left running is ended by the next `RUN` of an executor with the same scratch directory (see
//! `RuntimeExecutor::sweep`). [`BuildOptions::cache_dir`] holds a directory and a lock file for each `RUN --mount=type=cache`.
//!
//! # Modules
//!
//! [`syntax`] (the language), [`lint`] (remarks); the rest is at the top. Where builders disagree this one does as BuildKit
//! does; the README has the table.
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

#[cfg(feature = "runtime")]
pub use adapters::RuntimeExecutor;
#[cfg(feature = "registry-client")]
pub use adapters::{RegistryResolver, local_name};
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

/// Private parsers of foreign bytes, for the fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    /// The whole file, its remarks, and its plan; the items must tile the file.
    pub fn dockerfile(text: &str) {
        let file = crate::syntax::parse(text);
        assert_eq!(file.to_string(), text, "the items tile the file");
        crate::lint::lint(&file);
        let _ =
            crate::plan::Plan::new(&file, &crate::BuildOptions::default(), &longshore_image::host_platform());
    }

    /// One word, expanded.
    pub fn expansion(text: &str) {
        let lookup = |name: &str| name.len().is_multiple_of(2).then(|| name.repeat(3));
        for escape in ['\\', '`'] {
            let expander = crate::Expander::new(escape, &lookup);
            let _ = expander.word(text);
            let _ = expander.words(text);
            let _ = expander.clone().heredoc().word(text);
        }
    }

    /// Ignore rules and a path: what matches a directory matches all below it, unless a later rule takes it in again.
    pub fn ignore(rules: &str, path: &str) {
        if let Ok(rules) = crate::pattern::Ignore::parse(rules) {
            let (_, matched) = rules.check(path, &[]);
            let below = format!("{path}/x");
            let (_, more) = rules.check(&below, &matched);
            assert!(matched.iter().zip(&more).all(|(a, b)| !a || *b), "a match holds below");
            let _ = rules.may_include_below(path);
        }
    }

    /// `RUN --mount`, `--chmod`.
    pub fn options(text: &str) {
        let _ = crate::mounts::parse(text, &|v| Ok(v.to_owned()));
        if let Ok(change) = crate::copy::ModeChange::parse(text) {
            assert!(change.apply(0o644, false) <= 0o7777, "a mode has twelve bits");
        }
    }

    /// An archive that `ADD` unpacks: every path in the layer is relative and plain.
    pub fn archive(bytes: &[u8]) {
        crate::archive::fuzz(bytes);
    }
}
