use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use oci_spec::image::Digest;

use super::Store;
use crate::compress;
use crate::content::{ContentRead, ContentWrite};
use crate::digest::{HashRead, Hasher};
use crate::layer::Verdict;
use crate::lease::STORE;
use crate::refs::Record;
use crate::{Ctx, Error, Result};

/// What [`Store::verify`] does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Take away what is damaged, and unpack layers again whose blob is sound. An image that lacks a blob then can be pulled again.
    pub repair: bool,
}

/// What [`Store::verify`] saw.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyOutcome {
    /// Blobs hashed.
    pub blobs: usize,
    /// Layers compared.
    pub layers: usize,
    /// Images looked at.
    pub images: usize,
    /// Bytes hashed.
    pub bytes: u64,
    /// What is wrong. Empty: all is well.
    pub problems: Vec<Problem>,
}

/// Something wrong in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A blob whose bytes do not have its digest. Repair removes it.
    DamagedBlob {
        /// Its name.
        digest: Digest,
    },
    /// A layer that is not what its diff ID says: its tar, the index over it, or any file, owner, mode, time or attribute of a
    /// directory. Repair unpacks it again, or removes it.
    DamagedLayer {
        /// Its name.
        diff_id: Digest,
        /// What was seen.
        reason: String,
    },
    /// A layer kept as a directory that an image or snapshot needs, and that no sound blob is left to compare with. Importing the image
    /// again fetches one.
    UnprovenLayer {
        /// Its name.
        diff_id: Digest,
    },
    /// An image needs a blob that is not there. Importing the image again fetches it.
    MissingBlob {
        /// The image's ID.
        image: Digest,
        /// The blob.
        digest: Digest,
    },
    /// An image needs a layer that is not there. Repair unpacks it from its blob.
    MissingLayer {
        /// The image's ID.
        image: Digest,
        /// The layer.
        diff_id: Digest,
    },
    /// A stored manifest or config does not say what it must.
    BadImage {
        /// The image's ID.
        image: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A file in `refs/` that is not one. Repair removes it.
    BadRef {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedBlob { digest } => write!(f, "blob {digest} is damaged"),
            Self::DamagedLayer { diff_id, reason } => write!(f, "layer {diff_id} is damaged: {reason}"),
            Self::UnprovenLayer { diff_id } => {
                write!(f, "layer {diff_id} has no sound blob to compare it with")
            }
            Self::MissingBlob { image, digest } => write!(f, "image {image} lacks blob {digest}"),
            Self::MissingLayer { image, diff_id } => write!(f, "image {image} lacks layer {diff_id}"),
            Self::BadImage { image, reason } => write!(f, "image {image}: {reason}"),
            Self::BadRef { path, reason } => write!(f, "name file {}: {reason}", path.display()),
        }
    }
}

impl Store {
    /// Reads everything and compares it with its digests: blobs, names, and layers as a container will see them. A layer that is a
    /// directory is compared with the tar in its blob; one whose files belong to a range of ids in that user namespace only, elsewhere a sound
    /// blob is enough.
    pub fn verify(&self, options: &VerifyOptions, ctx: Ctx<'_>) -> Result<VerifyOutcome> {
        self.adopt_what_fits(ctx)?;
        let _shared = self.0.dir.lock_shared(STORE)?;
        let mut outcome = VerifyOutcome::default();
        self.verify_blobs(options, &mut outcome, ctx)?;
        self.verify_layers(options, &mut outcome, ctx)?;
        self.verify_refs(options, &mut outcome)?;
        for image in self.0.refs.grouped()? {
            ctx.check()?;
            outcome.images += 1;
            self.verify_image(&image.record, options, &mut outcome, ctx)?;
        }
        Ok(outcome)
    }

    fn verify_blobs(&self, options: &VerifyOptions, outcome: &mut VerifyOutcome, ctx: Ctx<'_>) -> Result<()> {
        for digest in self.0.blobs.list()? {
            ctx.check()?;
            // One that was removed meanwhile is no problem here; whether an image misses it is seen later.
            let Ok(blob) = self.0.blobs.open(&digest) else { continue };
            let mut reader = HashRead::new(blob, Hasher::for_digest(&digest)?);
            let sound = drain(&mut reader, ctx)? && std::mem::take(&mut reader.hasher).finish() == digest;
            outcome.blobs += 1;
            outcome.bytes += reader.bytes;
            if !sound {
                if options.repair {
                    self.0.blobs.remove(&digest)?;
                }
                outcome.problems.push(Problem::DamagedBlob { digest });
            }
        }
        Ok(())
    }

    fn verify_layers(
        &self,
        options: &VerifyOptions,
        outcome: &mut VerifyOutcome,
        ctx: Ctx<'_>,
    ) -> Result<()> {
        // In this order: of what is needed now, the blobs are known now; of what others add later, they may not be.
        let needed = self.needed_layers()?;
        let sources = self.layer_sources()?;
        for diff_id in self.0.layers.list()? {
            ctx.check()?;
            outcome.layers += 1;
            let blobs = sources.get(&diff_id).map_or(&[][..], Vec::as_slice);
            let mut tar = |n: usize| blobs.iter().filter_map(|digest| self.open_tar(digest)).nth(n);
            match self.0.layers.verify(&diff_id, &mut tar, ctx) {
                Ok(Verdict::Sound) => {}
                Ok(Verdict::Unproven) if needed.contains(&diff_id) => {
                    outcome.problems.push(Problem::UnprovenLayer { diff_id });
                }
                // What an import that broke off left; a collection takes it away.
                Ok(Verdict::Unproven) => {}
                Ok(Verdict::Damaged(reason)) => {
                    if options.repair {
                        self.0.layers.remove(&diff_id)?;
                        self.unpack_again(&diff_id, blobs, ctx)?;
                    }
                    outcome.problems.push(Problem::DamagedLayer { diff_id, reason });
                }
                // Removed meanwhile.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn needed_layers(&self) -> Result<HashSet<Digest>> {
        let mut needed = HashSet::new();
        for image in self.0.refs.grouped()? {
            needed.extend(self.parse(&image.record, None).iter().flat_map(|i| i.diff_ids().iter().cloned()));
        }
        for snapshot in self.0.snapshots.list()? {
            needed.extend(snapshot.layers().iter().cloned());
        }
        Ok(needed)
    }

    /// Which blobs hold which layer: by what was seen when they were unpacked, and by what images say.
    fn layer_sources(&self) -> Result<HashMap<Digest, Vec<Digest>>> {
        let mut sources: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for diff_id in self.0.layers.list()? {
            let known = self.0.diffs.get(&diff_id).unwrap_or_default();
            sources.insert(diff_id, known.blobs.iter().map(|b| b.digest().clone()).collect());
        }
        for image in self.0.refs.grouped()? {
            let Ok(image) = self.parse(&image.record, None) else { continue };
            for (layer, diff_id) in image.manifest().layers().iter().zip(image.diff_ids()) {
                let blobs = sources.entry(diff_id.clone()).or_default();
                if !blobs.contains(layer.digest()) {
                    blobs.push(layer.digest().clone());
                }
            }
        }
        Ok(sources)
    }

    /// The tar in a blob, if it can be opened.
    fn open_tar(&self, digest: &Digest) -> Option<Box<dyn Read + Send>> {
        let (_, tar) = compress::decoder(self.0.blobs.open(digest).ok()?).ok()?;
        Some(Box::new(tar))
    }

    fn verify_refs(&self, options: &VerifyOptions, outcome: &mut VerifyOutcome) -> Result<()> {
        for (path, error) in self.0.refs.broken()? {
            if options.repair {
                self.0.dir.remove_file(&path)?;
            }
            outcome.problems.push(Problem::BadRef { path, reason: error.to_string() });
        }
        if options.repair {
            // Whatever became of it: it is derived.
            let _ = fs::remove_file(self.0.dir.join("index.json"));
            self.0.refs.refresh_index()?;
        }
        Ok(())
    }

    fn verify_image(
        &self,
        record: &Record,
        options: &VerifyOptions,
        outcome: &mut VerifyOutcome,
        ctx: Ctx<'_>,
    ) -> Result<()> {
        let id = &record.config;
        let image = match self.parse(record, None) {
            Ok(image) => image,
            Err(Error::NoSuchBlob { digest }) => {
                outcome.problems.push(Problem::MissingBlob { image: id.clone(), digest });
                return Ok(());
            }
            Err(e) if e.is_bad_content() => {
                outcome.problems.push(Problem::BadImage { image: id.clone(), reason: e.to_string() });
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for layer in image.manifest().layers() {
            if self.blob_size(layer.digest())? != Some(layer.size()) {
                outcome
                    .problems
                    .push(Problem::MissingBlob { image: id.clone(), digest: layer.digest().clone() });
            }
        }
        let mut seen = HashSet::new();
        for diff_id in image.diff_ids().iter().filter(|d| seen.insert(*d)) {
            if !self.0.layers.exists(diff_id) {
                if options.repair {
                    let blobs = self.layer_sources()?.remove(diff_id).unwrap_or_default();
                    self.unpack_again(diff_id, &blobs, ctx)?;
                }
                outcome.problems.push(Problem::MissingLayer { image: id.clone(), diff_id: diff_id.clone() });
            }
        }
        Ok(())
    }

    /// From any of the blobs that hold the layer; without a sound one the layer stays away.
    pub(super) fn unpack_again(&self, diff_id: &Digest, blobs: &[Digest], ctx: Ctx<'_>) -> Result<()> {
        for mut tar in blobs.iter().filter_map(|digest| self.open_tar(digest)) {
            match self.0.layers.unpack(diff_id, &mut tar, &self.0.limits, ctx) {
                Ok(_) => return Ok(()),
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(e) if e.is_retryable() => return Err(e),
                // Another blob may be sound.
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Reads to the end; `false` when the medium fails.
fn drain(reader: &mut dyn Read, ctx: Ctx<'_>) -> Result<bool> {
    let mut buf = vec![0; 256 << 10];
    loop {
        ctx.check()?;
        match reader.read(&mut buf) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(false),
        }
    }
}
