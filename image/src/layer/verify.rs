//! Proves that a layer is what its diff ID says, whatever form it lies in.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use oci_spec::image::Digest;

use super::source::{Hash, Source};
use super::tar::TarReader;
use super::{
    DEFAULT, Layers, Limits, Owner, Record, SEAL, Unpacked, check, compare, expect, read_mark, suffix,
};
use crate::error::at;
use crate::{Ctx, Error, Result};

/// What [`Layers::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sound,
    Damaged(String),
    /// A directory without a sound blob to compare it with.
    Unproven,
}

/// The tar from the n-th blob that holds it, counted from 0.
type Tars<'a> = &'a mut dyn FnMut(usize) -> Option<Box<dyn Read + Send>>;

impl Layers {
    /// Proves each form of the layer that is here: what a container will see is what the tar of this diff ID says.
    ///
    /// `tar` gives that tar, for directories, from the first blob that has it, the second...; an EROFS file holds it, and a hash of the rest.
    pub(crate) fn verify(&self, diff_id: &Digest, tar: Tars<'_>, ctx: Ctx<'_>) -> Result<Verdict> {
        let _alone = self.alone(std::slice::from_ref(diff_id), self.owner())?;
        let mut verdict = None;
        let file = self.path(diff_id, ".erofs");
        if file.exists() {
            verdict = Some(self.verify_erofs(diff_id, &file, ctx)?);
        }
        for owner in [if self.owner() == Owner::Root { Owner::Root } else { Owner::User }, Owner::Range] {
            let directory = self.path(diff_id, suffix(owner));
            if !directory.exists() || verdict.as_ref().is_some_and(|v| *v != Verdict::Sound) {
                continue;
            }
            verdict = Some(match owner {
                // Only in its user namespace can it be read; here it can be unpacked again.
                Owner::Range if self.owner() != Owner::Range => prove_blob(diff_id, tar, ctx)?,
                _ => self.verify_directory(diff_id, owner, &directory, tar, ctx)?,
            });
        }
        verdict.ok_or_else(|| Error::NoSuchLayer { diff_id: diff_id.clone() })
    }

    fn verify_erofs(&self, diff_id: &Digest, path: &Path, ctx: Ctx<'_>) -> Result<Verdict> {
        let judge = || -> Result<()> {
            let file = File::open(path).map_err(at("open", path))?;
            let record = read_mark(&file, path)?;
            let mut seal = [0; 32];
            file.read_exact_at(&mut seal, SEAL as u64).map_err(at("read", path))?;
            if compare::seal(&file, record.unpacked.bytes).map_err(at("read", path))? != seal {
                return Err(Error::invalid(path.display().to_string(), &"its index is damaged"));
            }
            let mut tar =
                self.open_tar(diff_id)?.ok_or_else(|| Error::NoSuchLayer { diff_id: diff_id.clone() })?;
            let (found, _) = check(Hash::like(Some(diff_id))?, &mut tar, &LIMITLESS, ctx)?;
            expect(diff_id, found)
        };
        verdict(judge())
    }

    fn verify_directory(
        &self,
        diff_id: &Digest,
        owner: Owner,
        path: &Path,
        tars: Tars<'_>,
        ctx: Ctx<'_>,
    ) -> Result<Verdict> {
        let json = path.join("layer.json");
        let record: Record = match fs::read(&json).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(record)) => record,
            Ok(Err(e)) => return Ok(Verdict::Damaged(e.to_string())),
            Err(e) => return Ok(Verdict::Damaged(e.to_string())),
        };
        for mut tar in (0..).map_while(tars) {
            let mut source = Source::new(&mut tar, Hash::like(Some(diff_id))?, None, &LIMITLESS, ctx);
            let mut reader = TarReader::new(&mut source, &LIMITLESS);
            let (tree, contents) = match compare::read(&mut reader, &LIMITLESS) {
                Ok(read) => read,
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(e) if e.is_retryable() => return Err(e),
                // The blob is at fault, not the layer.
                Err(_) => continue,
            };
            let unpacked = Unpacked { entries: reader.entries(), bytes: source.position(), content: None };
            if source.finish() != *diff_id {
                continue;
            }
            if Record::new(unpacked, record.skipped, &tree) != record {
                return Ok(Verdict::Damaged("its record is another".to_owned()));
            }
            let found = compare::directory(&path.join("fs"), owner, &tree, &contents, ctx);
            return match found {
                Ok(None) => Ok(Verdict::Sound),
                Ok(Some(difference)) => Ok(Verdict::Damaged(difference)),
                Err(e) => verdict(Err(e)),
            };
        }
        Ok(Verdict::Unproven)
    }
}

/// Whether one of the tars is that of the layer.
fn prove_blob(diff_id: &Digest, tars: Tars<'_>, ctx: Ctx<'_>) -> Result<Verdict> {
    for mut tar in (0..).map_while(tars) {
        let found = check(Hash::like(Some(diff_id))?, &mut tar, &LIMITLESS, ctx);
        match verdict(found.and_then(|(found, _)| expect(diff_id, found)))? {
            Verdict::Sound => return Ok(Verdict::Sound),
            Verdict::Damaged(_) | Verdict::Unproven => {}
        }
    }
    Ok(Verdict::Unproven)
}

fn verdict(result: Result<()>) -> Result<Verdict> {
    match result {
        Ok(()) => Ok(Verdict::Sound),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        // Neither is the layer's fault.
        Err(e) if e.is_retryable() => Err(e),
        Err(e) => Ok(Verdict::Damaged(e.to_string())),
    }
}

/// What a layer of the store once had to keep to may have been more than today's budget.
const LIMITLESS: Limits = Limits { entries: u64::MAX / 4, bytes: u64::MAX / 4, ..DEFAULT };
