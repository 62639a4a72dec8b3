//! Layers in their mountable form, by diff ID.

use std::io::Read;

use oci_spec::image::Digest;

use crate::dir::StoreDir;
use crate::{Ctx, Result};

/// Budgets against hostile layers; every one has a default that real images stay far below.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of one layer.
    pub entries: u64,
    /// Uncompressed bytes of one layer.
    pub bytes: u64,
    /// Uncompressed bytes per compressed byte, counted after the first MiB.
    pub ratio: u64,
    /// Bytes of a path or link target.
    pub path: u64,
    /// Bytes of one entry's extended attributes.
    pub xattrs: u64,
    /// Bytes of one entry's PAX or GNU records.
    pub pax: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4 << 20,
            bytes: 256 << 30,
            ratio: 2_000,
            path: 16 << 10,
            xattrs: 256 << 10,
            pax: 1 << 20,
        }
    }
}

/// What was in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Tar entries.
    pub(crate) entries: u64,
    /// Bytes of the uncompressed tar, padding included.
    pub(crate) bytes: u64,
}

/// All layers of a store, by whichever driver (EROFS file or directory).
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    #[expect(dead_code, reason = "the drivers are not here yet")]
    dir: StoreDir,
}

impl Layers {
    /// Makes its directories below the store's if they are not there.
    pub(crate) fn open(dir: &StoreDir) -> Result<Self> {
        Ok(Self { dir: dir.clone() })
    }

    pub(crate) fn contains(&self, _diff_id: &Digest) -> bool {
        todo!()
    }

    /// Reads the uncompressed tar to its end of file, and publishes the layer if its digest is `diff_id`.
    /// Single flight per diff ID across threads and processes; one that is there already is read and verified no less.
    /// An error of `tar` ends it; the caller knows the real reason.
    pub(crate) fn unpack(
        &self,
        _diff_id: &Digest,
        _tar: &mut dyn Read,
        _limits: &Limits,
        _ctx: Ctx<'_>,
    ) -> Result<Unpacked> {
        todo!()
    }

    /// The same where the diff ID (SHA-256) is not known beforehand.
    pub(crate) fn ingest(
        &self,
        _tar: &mut dyn Read,
        _limits: &Limits,
        _ctx: Ctx<'_>,
    ) -> Result<(Digest, Unpacked)> {
        todo!()
    }

    /// The very bytes of the tar where the driver keeps them; `None` for directories.
    pub(crate) fn open_tar(&self, _diff_id: &Digest) -> Result<Option<Box<dyn Read + Send>>> {
        todo!()
    }

    /// Takes it out of sight at once; `false` when it was not there.
    pub(crate) fn remove(&self, _diff_id: &Digest) -> Result<bool> {
        todo!()
    }

    pub(crate) fn list(&self) -> Result<Vec<Digest>> {
        todo!()
    }

    /// Bytes on disk.
    pub(crate) fn usage(&self, _diff_id: &Digest) -> Result<u64> {
        todo!()
    }

    /// Compares the layer with its diff ID as deeply as the driver can (tar bytes; for directories, the recorded tree digest).
    pub(crate) fn verify(&self, _diff_id: &Digest, _ctx: Ctx<'_>) -> Result<()> {
        todo!()
    }
}
