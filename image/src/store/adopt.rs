use std::io;

use oci_spec::image::Descriptor;

use super::names::record_of;
use super::{ImportOptions, Store};
use crate::lease::STORE;
use crate::refs::Entry;
use crate::{Ctx, Error, Image, Result};

/// What [`Store::adopt`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Adopted {
    /// Images that are now the store's own, by the name that the other tool gave them; `None` where it gave none that can be one.
    pub images: Vec<(Option<String>, Image)>,
    /// What could not be taken over, by its digest, and why: it is incomplete or damaged, not for this platform, or an artifact.
    pub refused: Vec<(Descriptor, Error)>,
}

impl Store {
    /// Takes over what other tools have written into the directory as into any OCI layout, e.g. `skopeo copy ... oci:DIR:NAME`.
    ///
    /// Everything is verified and unpacked as for an import. Calls that look for images or take them away do this by themselves; it costs
    /// nothing while `index.json` is as this store wrote it. Of a name that both have changed, the index's word counts. Other tools know
    /// no leases: what they have not yet named in the index, or what a full disk does not let us take over, is lost to a [`Store::collect`]; and
    /// what they take out of the index comes back. On a read-only file system it is an error, and those calls see the store's own images.
    pub fn adopt(&self, ctx: Ctx<'_>) -> Result<Adopted> {
        loop {
            let Some(foreign) = self.0.refs.foreign()? else { return Ok(Adopted::default()) };
            let mut adopted = Adopted::default();
            for Entry { name, target } in &foreign.new {
                match self.take_over(target, ctx) {
                    Ok(image) => adopted.images.push((name.clone(), image)),
                    Err(e) if is_refusal(&e) => adopted.refused.push((target.clone(), e)),
                    Err(e) => return Err(e),
                }
            }
            let named: Vec<_> =
                adopted.images.iter().map(|(name, image)| (name.clone(), record_of(image))).collect();
            if !named.is_empty() {
                // Nobody has made sure yet that the blobs stay.
                self.0.dir.sync_fs(self.path())?;
            }
            let _shared = self.0.dir.lock_shared(STORE)?;
            if self.0.refs.adopt(&foreign, &named)? {
                return Ok(adopted);
            }
        }
    }

    /// [`Store::adopt`] for a call with another purpose, which a full disk, or one that takes no changes, must not hinder.
    pub(super) fn adopt_what_fits(&self, ctx: Ctx<'_>) -> Result<()> {
        match self.adopt(ctx) {
            Err(e) if e.is_full() || e.is_read_only() => Ok(()),
            adopted => adopted.map(drop),
        }
    }

    /// An import whose source has nothing: all must be here.
    fn take_over(&self, target: &Descriptor, ctx: Ctx<'_>) -> Result<Image> {
        let nothing = crate::from_fn(|descriptor: &Descriptor, _| {
            Err::<io::Empty, Error>(Error::NoSuchBlob { digest: descriptor.digest().clone() })
        });
        let options = ImportOptions { images_only: true, ..ImportOptions::default() };
        let mut target = target.clone();
        // Those of the index speak about the name.
        target.set_annotations(None);
        self.take_in(&nothing, &target, &options, ctx).map(|(imported, _)| imported.image)
    }
}

/// Whether the image is at fault, not this machine or moment.
fn is_refusal(error: &Error) -> bool {
    let artifact =
        matches!(error, Error::Artifact { .. } | Error::NoPlatform { .. } | Error::Unsupported { .. });
    artifact || matches!(error, Error::Fetch { .. }) || error.is_not_found() || error.is_bad_content()
}
