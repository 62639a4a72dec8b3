//! Dockerfile builder.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;

use longshore_image::{Ctx, Image, Snapshot, Store};
use oci_spec::image::Platform;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}
/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
/// A foreign error, kept as the source of ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Finds the images that `FROM` and `COPY --from` name.
pub trait Resolver: Send + Sync {
    /// The image in the store, pulled first if need be.
    fn resolve(&self, name: &str, platform: Option<&Platform>, ctx: Ctx<'_>) -> Result<Image, BoxError>;
}

/// Runs `RUN`.
pub trait Executor: Send + Sync {
    /// Runs the command to its end; its output goes to `output`. Returns the exit code.
    fn execute(&self, command: &Command<'_>, output: &mut (dyn Write + Send), ctx: Ctx<'_>) -> Result<i32, BoxError>;
}

/// One `RUN`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Command<'a> {
    /// The root file system.
    pub rootfs: &'a Snapshot,
    /// Program and arguments.
    pub args: &'a [String],
    /// Environment, `NAME=value`.
    pub env: &'a [String],
    /// Working directory.
    pub cwd: &'a str,
    /// `USER`: `name`, `uid`, `name:group`, `uid:gid`; empty for root.
    pub user: &'a str,
    /// `--network`: `default`, `none`, `host`.
    pub network: &'a str,
}

/// Remembers what a step made.
pub trait BuildCache: Send + Sync {
    /// The value kept under this key.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoxError>;
    /// Keeps a value.
    fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError>;
}

/// Builds images.
pub struct Builder<'a> {
    _store: &'a Store,
    _resolver: &'a dyn Resolver,
}

impl<'a> Builder<'a> {
    /// Over this store; base images come from the resolver.
    pub fn new(_store: &'a Store, _resolver: &'a dyn Resolver) -> Self {
        todo!()
    }
    /// Needed for `RUN`.
    pub fn executor(self, _executor: &'a dyn Executor) -> Self {
        todo!()
    }
    /// Where steps are remembered.
    pub fn cache(self, _cache: &'a dyn BuildCache) -> Self {
        todo!()
    }
    /// Builds; `events` gets every step's start, output and end.
    pub fn build(&self, _dockerfile: &str, _context: &Context, _options: &BuildOptions, _events: &mut dyn FnMut(BuildEvent<'_>), _ctx: Ctx<'_>) -> Result<Built> {
        todo!()
    }
}

/// The build context.
#[derive(Debug)]
pub struct Context(());
impl Context {
    /// A directory, with its `.dockerignore`.
    pub fn dir(_path: impl AsRef<Path>) -> Result<Self> {
        todo!()
    }
    /// No files.
    pub fn empty() -> Self {
        todo!()
    }
}

/// How to build.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BuildOptions {
    /// Names for the result (normalised).
    pub tags: Vec<String>,
    /// `--build-arg`.
    pub build_args: Vec<(String, String)>,
    /// `--target`.
    pub target: Option<String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
}

/// What the builder tells while it works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BuildEvent<'a> {
    /// A step begins.
    Started {
        /// Step number, from 1.
        step: usize,
        /// Steps in all.
        total: usize,
        /// The instruction as written.
        instruction: &'a str,
    },
    /// The step's result came from the cache.
    Cached {
        /// Step number.
        step: usize,
    },
    /// Output of a `RUN`.
    Output {
        /// Step number.
        step: usize,
        /// Raw bytes.
        bytes: &'a [u8],
    },
    /// A step ended.
    Finished {
        /// Step number.
        step: usize,
        /// How long it took.
        elapsed: std::time::Duration,
    },
    /// A lint or compatibility warning.
    Warning {
        /// 1-based line in the Dockerfile.
        line: usize,
        /// What is odd.
        message: &'a str,
    },
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Steps executed.
    pub executed: usize,
    /// Steps answered from the cache.
    pub cached: usize,
}
