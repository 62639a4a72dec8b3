//! Blocking OCI distribution client.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, Platform};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An image's name: registry, repository, tag and/or digest, normalised as Docker does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference(());

impl Reference {
    /// `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        todo!()
    }
    /// `library/debian`.
    pub fn repository(&self) -> &str {
        todo!()
    }
    /// The tag, if one was given or defaulted.
    pub fn tag(&self) -> Option<&str> {
        todo!()
    }
    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        todo!()
    }
    /// As Docker shows it: `debian:bookworm` for `docker.io/library/debian:bookworm`.
    pub fn familiar(&self) -> String {
        todo!()
    }
}
impl std::fmt::Display for Reference {
    /// The full, normalised name: `docker.io/library/debian:bookworm`. What the image store keys on.
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
impl std::str::FromStr for Reference {
    type Err = Error;
    fn from_str(_s: &str) -> Result<Self> {
        todo!()
    }
}

/// What every long call takes.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// Called from worker threads.
    pub progress: &'a (dyn Fn(Event<'_>) + Sync),
    /// Once true, the call ends soon in [`Error::Cancelled`].
    pub cancel: &'a AtomicBool,
}

/// What happened to one blob.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A transfer began.
    Started {
        /// The blob.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Bytes have moved.
    Bytes {
        /// The blob.
        digest: &'a Digest,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The connection broke and the transfer goes on from `offset`.
    Resumed {
        /// The blob.
        digest: &'a Digest,
        /// Where it goes on.
        offset: u64,
    },
    /// The other side already has it.
    Exists {
        /// The blob.
        digest: &'a Digest,
    },
    /// Mounted from another repository.
    Mounted {
        /// The blob.
        digest: &'a Digest,
    },
    /// Complete and verified.
    Done {
        /// The blob.
        digest: &'a Digest,
    },
}

/// A registry client: connections, tokens, host settings. Cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct Client(());

/// Makes a [`Client`].
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder(());

impl ClientBuilder {
    /// Where user names and secrets come from.
    pub fn credentials(self, _credentials: impl Credentials + 'static) -> Self {
        todo!()
    }
    /// Talk plain HTTP (or unverified TLS) to this host; loopback hosts are always tried with HTTP, as Docker does.
    pub fn insecure(self, _host: &str) -> Self {
        todo!()
    }
    /// Builds it.
    pub fn build(self) -> Result<Client> {
        todo!()
    }
}

impl Client {
    /// Starts a builder.
    pub fn builder() -> ClientBuilder {
        todo!()
    }
    /// What the reference points to now: the descriptor of a manifest or an index (HEAD, or GET where HEAD tells too little).
    pub fn resolve(&self, _reference: &Reference) -> Result<Descriptor> {
        todo!()
    }
    /// Manifest or index with its exact bytes.
    pub fn manifest(&self, _reference: &Reference) -> Result<(Descriptor, Bytes)> {
        todo!()
    }
    /// Manifests and blobs of one repository, for a store's import: `source.open(&descriptor, offset)`.
    pub fn source(&self, _reference: &Reference) -> Result<Source> {
        todo!()
    }
    /// Pushes the manifest (or index) `root` and all that it names; `content` opens what is not there yet. Returns what was done.
    pub fn push(&self, _reference: &Reference, _root: &Descriptor, _content: &dyn Content, _ctx: Ctx<'_>) -> Result<Pushed> {
        todo!()
    }
    /// The manifest of an index that fits the platform best.
    pub fn select(&self, _index: &[u8], _platform: Option<&Platform>) -> Result<Descriptor> {
        todo!()
    }
}

/// One repository to read from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source(());

impl Source {
    /// Opens a manifest or blob, verified while it streams: the reader ends in an error if size or digest differ. Resumes by itself.
    pub fn open(&self, _descriptor: &Descriptor, _offset: u64) -> Result<Box<dyn Read + Send>> {
        todo!()
    }
}

/// Where a push gets its bytes from (a store, a directory, memory).
pub trait Content: Send + Sync {
    /// Opens the blob or manifest from its start.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Box<dyn std::error::Error + Send + Sync>>;
}

/// What a push did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pushed {
    /// What the reference points to now.
    pub descriptor: Descriptor,
    /// Blobs sent.
    pub sent: usize,
    /// Blobs that were there or mounted.
    pub reused: usize,
}

/// Where user names and secrets come from, per registry host.
pub trait Credentials: Send + Sync {
    /// The credential for this registry, or `None` for anonymous.
    fn get(&self, registry: &str) -> Result<Option<Credential>>;
}

/// A credential. Its `Debug` redacts.
#[derive(Clone)]
#[non_exhaustive]
pub enum Credential {
    /// User and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
}

/// Reads docker's `config.json` and its helpers.
#[derive(Clone, Debug)]
pub struct DockerConfigFile(());
impl DockerConfigFile {
    /// Reads the file.
    pub fn open(_path: impl AsRef<Path>) -> Result<Self> {
        todo!()
    }
}
