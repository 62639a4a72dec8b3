use std::path::PathBuf;

use crate::BoxError;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Dockerfile is not well formed.
    #[error("dockerfile parse error on line {line}: {message}")]
    Parse {
        /// 1-based line.
        line: usize,
        /// What is wrong, with a suggestion where one is near.
        message: String,
    },
    /// An instruction is well formed and cannot be carried out as it stands.
    #[error("line {line}: {message}")]
    Instruction {
        /// 1-based line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A feature of the language that this crate does not carry out.
    #[error("line {line}: {feature} is not supported")]
    Unsupported {
        /// 1-based line.
        line: usize,
        /// The feature as it is written, such as `ADD` of a git repository.
        feature: String,
    },
    /// The Dockerfile asks for a right that the caller has not given, see
    /// [`BuildOptions::allow_host_network`](crate::BuildOptions::allow_host_network).
    #[error("line {line}: {entitlement} is not allowed")]
    NotAllowed {
        /// 1-based line.
        line: usize,
        /// BuildKit's name of the right: `network.host`.
        entitlement: &'static str,
    },
    /// `--target` names a stage that is not there.
    #[error("target stage \"{name}\" could not be found")]
    NoStage {
        /// The name that was asked for.
        name: String,
    },
    /// A base image, or an image that `COPY --from` or a mount names, was not to be had.
    #[error("cannot resolve image {name}")]
    Resolve {
        /// The name as the Dockerfile says it, after expansion.
        name: String,
        /// Why.
        source: BoxError,
    },
    /// A source of `COPY`, `ADD` or a bind mount is not in the context, stage or image.
    #[error("line {line}: \"{path}\": not found")]
    NotFound {
        /// 1-based line.
        line: usize,
        /// The path as it was looked for.
        path: String,
    },
    /// A `RUN` ended with another code than 0.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Run {
        /// Step number, from 1.
        step: usize,
        /// 1-based line.
        line: usize,
        /// Program and arguments, separated by spaces.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// The executor could not run a command at all.
    #[error("line {line}: cannot run '{command}'")]
    Execute {
        /// 1-based line.
        line: usize,
        /// Program and arguments, separated by spaces.
        command: String,
        /// Why.
        source: BoxError,
    },
    /// A `RUN` in a build without an executor.
    #[error("line {line}: RUN needs an executor, and the builder has none")]
    NoExecutor {
        /// 1-based line.
        line: usize,
    },
    /// `ADD` of a URL failed.
    #[error("line {line}: cannot fetch {url}")]
    Fetch {
        /// 1-based line.
        line: usize,
        /// The address, without user name and password.
        url: String,
        /// Why.
        source: BoxError,
    },
    /// What was fetched is not what `--checksum` says.
    #[error("line {line}: checksum of {url} is {actual}, not {expected}")]
    Checksum {
        /// 1-based line.
        line: usize,
        /// The address.
        url: String,
        /// The digest in the Dockerfile.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// A file of the context changed while it was being read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file, relative to its root.
        path: PathBuf,
    },
    /// A limit that protects the builder was reached.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What was measured.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A pattern of a `.dockerignore` file or of `--exclude` is malformed.
    #[error("malformed pattern \"{pattern}\"")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// The image store failed.
    #[error("image store")]
    Store(#[source] longshore_image::Error),
    /// The build cache failed.
    #[error("build cache")]
    Cache(#[source] BoxError),
    /// A stage's thread panicked: a bug here, or in the executor, fetcher, resolver or cache that was given.
    #[error("panic in a build stage: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The caller's cancel flag was raised; nothing is left behind, the build can be tried again.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// A stage, image or file that is named is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoStage { .. })
    }

    /// The same call may succeed when it is made again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Changed { .. } | Self::Fetch { .. } | Self::Resolve { .. })
    }

    /// The 1-based line of the Dockerfile at fault, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Parse { line, .. }
            | Self::Instruction { line, .. }
            | Self::Unsupported { line, .. }
            | Self::NotFound { line, .. }
            | Self::Run { line, .. }
            | Self::Execute { line, .. }
            | Self::NoExecutor { line }
            | Self::Fetch { line, .. }
            | Self::Checksum { line, .. } => Some(*line),
            _ => None,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { path: path.into(), source: source.into() }
    }

    pub(crate) fn instruction(line: usize, message: impl Into<String>) -> Self {
        Self::Instruction { line, message: message.into() }
    }
}

impl From<longshore_image::Error> for Error {
    fn from(error: longshore_image::Error) -> Self {
        match error {
            longshore_image::Error::Cancelled => Self::Cancelled,
            other => Self::Store(other),
        }
    }
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
