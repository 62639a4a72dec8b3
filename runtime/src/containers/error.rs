use std::path::{Path, PathBuf};

use super::BoxError;

/// What can go wrong with supervised containers. [`Error::exit_code`] is Docker's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No container has this ID, ID prefix or name.
    #[error("No such container: {0}")]
    NotFound(String),
    /// No volume has this name.
    #[error("get {0}: no such volume")]
    VolumeNotFound(String),
    /// More than one container's ID starts so.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// Another container has the name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Its holder.
        id: String,
    },
    /// The image is not there.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// The container is not in a state that permits this.
    #[error("{0}")]
    Conflict(String),
    /// The container does not run.
    #[error("Container {0} is not running")]
    NotRunning(String),
    /// A request that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The program in the container could not be started.
    #[error("failed to start the container's process: {message}")]
    Start {
        /// What the runtime said, with its causes.
        message: String,
        /// 127: not found; 126: not executable; 125: anything else.
        code: i32,
    },
    /// The shim process ended or answered nonsense.
    #[error("the container's supervisor failed: {0}")]
    Shim(String),
    /// The container's supervisor could not do what it was asked for, in its own words.
    #[error("{0}")]
    Failed(String),
    /// It was ended before it was done ([`super::OpenOptions::cancel`]). What was to be seen at the end only is not seen.
    #[error("cancelled")]
    Cancelled,
    /// The runtime failed.
    #[error("container runtime")]
    Runtime(#[source] Box<crate::Error>),
    /// The image store failed.
    #[error("cannot {doing}")]
    Images {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// The network failed.
    #[error("failed to {doing} container networking")]
    Networks {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// A file or system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A record on disk does not read as one.
    #[error("bad record {}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
}

/// This module's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Docker's exit code for `run`: 127 program not found, 126 not executable, else 125.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Start { code, .. } => *code,
            _ => 125,
        }
    }
    /// The container, volume or image does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::VolumeNotFound(_) | Self::NoSuchImage(_))
    }
    /// The state of things stands against it (name taken, running, not running); another time it may go.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::NameInUse { .. } | Self::Conflict(_) | Self::NotRunning(_))
    }

    /// Nobody reads what was written: a program for a shell ends then without a word.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
    pub(super) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

impl From<crate::Error> for Error {
    fn from(source: crate::Error) -> Self {
        Self::Runtime(Box::new(source))
    }
}

/// The message with all its causes, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
