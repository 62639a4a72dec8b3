use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use crate::BoxError;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's cancel flag was raised; nothing is half-visible, the call can be tried again.
    #[error("cancelled")]
    Cancelled,
    /// A system call on a file of the store failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried, e.g. `rename`.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No image has this name, digest or ID prefix.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// The prefix of an ID fits several images.
    #[error("image ID {prefix} is ambiguous: {} images begin so", found.len())]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
        /// The IDs that fit.
        found: Vec<Digest>,
    },
    /// The store does not hold this blob.
    #[error("blob {digest} is not in the store")]
    NoSuchBlob {
        /// The blob's digest.
        digest: Digest,
    },
    /// The store does not hold this layer in its mountable form.
    #[error("layer {diff_id} is not in the store")]
    NoSuchLayer {
        /// The layer's diff ID.
        diff_id: Digest,
    },
    /// No snapshot has this key.
    #[error("no such snapshot: {key}")]
    NoSuchSnapshot {
        /// What was asked for.
        key: String,
    },
    /// A snapshot with this key is there already.
    #[error("snapshot {key} exists")]
    SnapshotExists {
        /// The key.
        key: String,
    },
    /// A snapshot stands on the image; only force takes its name away.
    #[error("{} is using its referenced image {}", by.join(", "), short(id))]
    InUse {
        /// The image's ID.
        id: Digest,
        /// Keys of the snapshots.
        by: Vec<String>,
    },
    /// The image has several names, and removing it by ID takes them all; only force does that.
    #[error("image {} is referenced by {} names", short(id), names.len())]
    SeveralNames {
        /// The image's ID.
        id: Digest,
        /// Its names.
        names: Vec<String>,
    },
    /// A name that cannot be a key of the store.
    #[error("invalid name {name:?}: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bytes are not those that the digest promised.
    #[error("content has digest {found}, expected {expected}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The number of bytes is not what the descriptor promised.
    #[error("{digest} has {found} bytes, expected {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// What was promised, in bytes.
        expected: u64,
        /// What came, in bytes; for a blob that is too long, how many were seen.
        found: u64,
    },
    /// The source of an import failed.
    #[error("cannot fetch {digest}")]
    Fetch {
        /// The blob.
        digest: Digest,
        /// The source's error.
        source: BoxError,
    },
    /// A manifest, index, config, archive or record that says something it must not.
    #[error("{what} is invalid: {reason}")]
    Invalid {
        /// The document, e.g. `manifest sha256:...`.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a layer's tar that is malformed, or that would reach outside.
    #[error("layer entry {entry:?}: {reason}")]
    Entry {
        /// The entry's path as the archive spells it (lossy), cut to a sane length.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a layer belongs to an id that this process's user namespace does not have.
    #[error(
        "layer entry {entry:?} belongs to {uid}:{gid}, and this user's ranges in /etc/subuid and /etc/subgid have no such id"
    )]
    NoSuchOwner {
        /// The entry's path as the archive spells it (lossy), cut to a sane length.
        entry: String,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A layer's stream (tar or its compression) is broken as a whole.
    #[error("layer stream: {reason}")]
    Stream {
        /// What is wrong with it.
        reason: String,
    },
    /// A limit against hostile input was reached.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What was counted, with its unit.
        what: String,
        /// How much is allowed.
        limit: u64,
    },
    /// An index offers nothing for the platform.
    #[error("no image for platform {wanted}; there is {}", list(offered))]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// What the index has.
        offered: Vec<String>,
    },
    /// What [`parse_platform`](crate::parse_platform) was given names none.
    #[error("{text:?}: {reason}")]
    Platform {
        /// What it was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Only images were wanted ([`ImportOptions::images_only`](crate::ImportOptions::images_only)), and this is an artifact.
    #[error("unsupported media type {media_type}")]
    Artifact {
        /// Of its config.
        media_type: String,
    },
    /// The kernel or the caller's rights lack what this needs.
    #[error("{what} is not supported here: {reason}")]
    Unsupported {
        /// What was tried.
        what: &'static str,
        /// Why it does not go.
        reason: String,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::NoSuchImage { .. }
                | Self::NoSuchBlob { .. }
                | Self::NoSuchLayer { .. }
                | Self::NoSuchSnapshot { .. }
        )
    }

    /// Whether the same call may succeed later: cancelled, a source that failed, a disk that was full.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Cancelled | Self::Fetch { .. } => true,
            Self::Io { source, .. } => {
                use io::ErrorKind as K;
                matches!(
                    source.kind(),
                    K::StorageFull | K::QuotaExceeded | K::TimedOut | K::OutOfMemory | K::ResourceBusy
                ) || source.raw_os_error().is_some_and(|e| {
                    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].iter().any(|n| n.raw_os_error() == e)
                })
            }
            _ => false,
        }
    }

    /// Whether the content that came is at fault, rather than the machine or the caller.
    pub fn is_bad_content(&self) -> bool {
        matches!(
            self,
            Self::DigestMismatch { .. }
                | Self::SizeMismatch { .. }
                | Self::Invalid { .. }
                | Self::Entry { .. }
                | Self::Stream { .. }
                | Self::Limit { .. }
        )
    }

    /// Whether the disk (or the user's part of it) is full.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether the file system takes no changes.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    pub(crate) fn io(op: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { op, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Gives back our own error from an [`io::Error`] that carries one.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(foreign) => Self::Stream { reason: foreign.to_string() },
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: &dyn std::fmt::Display) -> Self {
        Self::Invalid { what: what.into(), reason: reason.to_string() }
    }
}

/// `.map_err(at("rename", path))`.
pub(crate) fn at<E: Into<io::Error>>(op: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Error {
    move |e| Error::io(op, path, e)
}

fn short(id: &Digest) -> &str {
    id.digest().get(..12).unwrap_or(id.digest())
}

fn list(of: &[String]) -> String {
    if of.is_empty() { "nothing".to_owned() } else { of.join(", ") }
}
