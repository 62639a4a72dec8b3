use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::Digest;

use crate::{Error, Result};

static NEVER: AtomicBool = AtomicBool::new(false);

/// What every long call takes: where progress goes, and whether to give up.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// Called from worker threads, often; must be quick.
    pub progress: &'a (dyn Fn(Event<'_>) + Sync),
    /// Once true, the call ends soon in [`Error::Cancelled`].
    pub cancel: &'a AtomicBool,
}

impl Ctx<'_> {
    /// No progress, never cancelled.
    pub const fn none() -> Ctx<'static> {
        Ctx { progress: &|_| {}, cancel: &NEVER }
    }

    /// Ends in [`Error::Cancelled`] once the flag is up.
    pub fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Ctx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ctx").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

/// What happened to one blob or layer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The store already holds it.
    Exists {
        /// The blob's digest.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Bytes of a blob have arrived.
    Fetched {
        /// The blob's digest.
        digest: &'a Digest,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A blob is verified and durable.
    Stored {
        /// The blob's digest.
        digest: &'a Digest,
    },
    /// A layer can be mounted.
    Unpacked {
        /// The layer's diff ID.
        diff_id: &'a Digest,
        /// Number of tar entries.
        entries: u64,
    },
}
