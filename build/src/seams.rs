use std::io::{Read, Write};
use std::path::Path;

use longshore_image::{Ctx, Image, Snapshot, Store};
use oci_spec::image::Platform;

use crate::BoxError;

/// Finds the images that `FROM`, `COPY --from` and mounts name.
pub trait Resolver: Send + Sync {
    /// The image in the store, pulled first if need be.
    fn resolve(&self, name: &str, platform: Option<&Platform>, ctx: Ctx<'_>) -> Result<Image, BoxError>;
}

/// Runs `RUN`.
pub trait Executor: Send + Sync {
    /// Runs the command to its end; its output goes to `output`. Returns the exit code.
    ///
    /// Once `ctx.cancel` is true it must end the command and return soon, with any error.
    fn execute(
        &self,
        command: &Command<'_>,
        output: &mut (dyn Write + Send),
        ctx: Ctx<'_>,
    ) -> Result<i32, BoxError>;

    /// Files that the executor itself puts over the root, such as `/etc/resolv.conf`. Where the root has none, the empty file that
    /// it is mounted on does not become part of the image.
    fn mounted_files(&self) -> &[&str] {
        &["/etc/resolv.conf", "/etc/hosts"]
    }
}

/// Remembers what a step made.
pub trait BuildCache: Send + Sync {
    /// The value kept under this key.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoxError>;
    /// Keeps a value.
    fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError>;
}

/// Gets what `ADD` of a URL names.
pub trait Fetcher: Send + Sync {
    /// Opens the address; redirects are followed by the fetcher, and what it may reach is its decision.
    fn fetch(&self, url: &str, ctx: Ctx<'_>) -> Result<Fetched, BoxError>;
}

/// An answer of a [`Fetcher`].
#[non_exhaustive]
pub struct Fetched {
    /// The content.
    pub body: Box<dyn Read + Send>,
    /// `Last-Modified`, in seconds since the epoch; becomes the file's modification time.
    pub modified: Option<i64>,
}

impl Fetched {
    /// Without a time.
    pub fn new(body: impl Read + Send + 'static) -> Self {
        Self { body: Box::new(body), modified: None }
    }

    /// With the time of its last change, in seconds since the epoch.
    #[must_use]
    pub fn modified(mut self, seconds: i64) -> Self {
        self.modified = Some(seconds);
        self
    }
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("modified", &self.modified).finish_non_exhaustive()
    }
}

/// One `RUN`, with everything about it decided.
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
    /// The user's number, looked up in the root.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// `--network`: `default`, `none`, `host`.
    pub network: &'a str,
    /// Host name inside.
    pub hostname: &'a str,
    /// What is mounted over the root while it runs.
    pub mounts: &'a [Mount<'a>],
}

/// One `RUN --mount`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Mount<'a> {
    /// Absolute path in the root.
    pub target: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What is there.
    pub kind: MountKind<'a>,
}

/// See [`Mount`].
#[derive(Clone)]
#[non_exhaustive]
pub enum MountKind<'a> {
    /// A path of another root; what is written there is thrown away with the snapshot.
    Snapshot {
        /// The root.
        snapshot: &'a Snapshot,
        /// Path in it, relative and without links.
        path: String,
    },
    /// A directory of the host that outlives the build.
    Dir(&'a Path),
    /// Empty, in memory.
    Tmpfs {
        /// Most bytes; `None` leaves it to the kernel.
        size: Option<u64>,
    },
    /// A file with this content.
    File {
        /// The bytes.
        content: &'a [u8],
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// It must never reach a disk.
        secret: bool,
    },
}

impl std::fmt::Debug for MountKind<'_> {
    /// Leaves out a file's content: it may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot { snapshot, path } => {
                f.debug_struct("Snapshot").field("key", &snapshot.key()).field("path", path).finish()
            }
            Self::Dir(path) => f.debug_tuple("Dir").field(path).finish(),
            Self::Tmpfs { size } => f.debug_struct("Tmpfs").field("size", size).finish(),
            Self::File { mode, .. } => f.debug_struct("File").field("mode", mode).finish_non_exhaustive(),
        }
    }
}

/// Only what the store already has, under the exact name.
#[derive(Clone, Debug)]
pub struct StoreResolver<'a>(pub &'a Store);

impl Resolver for StoreResolver<'_> {
    fn resolve(&self, name: &str, _platform: Option<&Platform>, _ctx: Ctx<'_>) -> Result<Image, BoxError> {
        Ok(self.0.image(name)?)
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<T: Resolver + ?Sized> Resolver for $pointer {
            fn resolve(&self, name: &str, platform: Option<&Platform>, ctx: Ctx<'_>) -> Result<Image, BoxError> {
                (**self).resolve(name, platform, ctx)
            }
        }
        impl<T: Executor + ?Sized> Executor for $pointer {
            fn execute(&self, command: &Command<'_>, output: &mut (dyn Write + Send), ctx: Ctx<'_>) -> Result<i32, BoxError> {
                (**self).execute(command, output, ctx)
            }
            fn mounted_files(&self) -> &[&str] {
                (**self).mounted_files()
            }
        }
        impl<T: BuildCache + ?Sized> BuildCache for $pointer {
            fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoxError> {
                (**self).get(key)
            }
            fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError> {
                (**self).put(key, value)
            }
        }
        impl<T: Fetcher + ?Sized> Fetcher for $pointer {
            fn fetch(&self, url: &str, ctx: Ctx<'_>) -> Result<Fetched, BoxError> {
                (**self).fetch(url, ctx)
            }
        }
    )*};
}
forward!(&T, Box<T>, std::sync::Arc<T>);
