use std::collections::{BTreeSet, HashMap};

use oci_spec::image::Digest;

use super::Store;
use crate::lease::STORE;
use crate::refs::{Named, Record, same};
use crate::{Ctx, Error, Image, Result};

/// One row of `docker images`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageRecord {
    /// Its names, sorted; empty for a dangling image.
    pub names: Vec<String>,
    /// The image.
    pub image: Image,
    /// Those of its names under which a registry is known to have it.
    pub published: Vec<String>,
    /// Bytes that the files of all layers hold ([`Layer::content`](crate::Layer::content)).
    pub size: u64,
}

/// What `remove` did, in Docker's words: `Untagged:` and `Deleted:` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Names taken away.
    pub untagged: Vec<String>,
    /// Images that had no other name and are gone.
    pub deleted: Vec<Digest>,
}

impl Store {
    /// Finds an image by exact name, by digest (of index, manifest or config) or by a unique prefix of its ID.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.adopt_what_fits(Ctx::none())?;
        let record = match self.0.refs.get(name)? {
            Some(record) => record,
            None => self.by_id(name)?.record,
        };
        self.parse(&record, None)
    }

    /// All images, newest first; dangling ones too. An image whose blobs are damaged is left out: [`Store::verify`] tells.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        self.adopt_what_fits(Ctx::none())?;
        let mut sizes = HashMap::new();
        let mut images = Vec::new();
        for Named { record, names, published } in self.0.refs.grouped()? {
            match self.parse(&record, None) {
                Ok(image) => {
                    let size = image.diff_ids().iter().map(|d| self.cached_size(d, &mut sizes)).sum();
                    images.push(ImageRecord { names, image, published, size });
                }
                Err(e) if e.is_not_found() || e.is_bad_content() => {}
                Err(e) => return Err(e),
            }
        }
        images.sort_by(|a, b| created(&b.image).cmp(created(&a.image)).then_with(|| a.names.cmp(&b.names)));
        Ok(images)
    }

    /// The image's names, sorted.
    pub fn names_of(&self, image: &Image) -> Result<Vec<String>> {
        self.names_of_id(image.id())
    }

    /// Those of the image's names under which a registry is known to have it, sorted: it was imported by them
    /// ([`ImportOptions::published`](crate::ImportOptions::published)) or [published](Store::publish) since.
    pub fn published_names(&self, image: &Image) -> Result<Vec<String>> {
        let named = self.0.refs.grouped()?.into_iter().filter(|n| n.record.config == *image.id());
        let mut names: Vec<String> = named.flat_map(|n| n.published).collect();
        names.sort();
        Ok(names)
    }

    /// Notes that a registry has the image under this name, as after a push. Nothing happens if the name stands for another one by now.
    pub fn publish(&self, image: &Image, name: &str) -> Result<()> {
        let _shared = self.0.dir.lock_shared(STORE)?;
        self.0.refs.publish(name, &record_of(image))
    }

    /// All names, sorted, with the ID of their image. Reads nothing but the names.
    pub fn names(&self) -> Result<Vec<(String, Digest)>> {
        self.adopt_what_fits(Ctx::none())?;
        let mut names: Vec<_> = self
            .0
            .refs
            .grouped()?
            .into_iter()
            .flat_map(|n| n.names.into_iter().map(move |name| (name, n.record.config.clone())))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// Gives the image one more name; a name that pointed elsewhere moves, and an image that loses its last name so stays as a dangling one.
    pub fn tag(&self, image: &Image, name: &str) -> Result<()> {
        let _shared = self.0.dir.lock_shared(STORE)?;
        let record = record_of(image);
        if let Err(missing) = self.complete(image) {
            // It may have been removed since the caller found it, and be on its way in again without its layers yet. One that is
            // kept although it is damaged takes a name like any other.
            let kept = self.0.refs.grouped()?.iter().any(|kept| same(&kept.record, &record));
            if !kept {
                return Err(missing);
            }
        }
        self.0.refs.set(&[name.to_owned()], &record)
    }

    /// Whether all that the image needs is here, by name; nothing is read but its documents.
    pub(super) fn complete(&self, image: &Image) -> Result<()> {
        self.parse(&record_of(image), None)?;
        for layer in image.manifest().layers() {
            self.need(layer.digest())?;
        }
        match image.diff_ids().iter().find(|diff_id| !self.0.layers.exists(diff_id)) {
            Some(diff_id) => Err(Error::NoSuchLayer { diff_id: diff_id.clone() }),
            None => Ok(()),
        }
    }

    /// Takes a name away; the image goes when it was the last one. By ID it takes all its names away, which needs `force` when there are several.
    ///
    /// An image that a snapshot was made for is not removed: [`Error::InUse`]. With `force` it loses its names and stays, dangling, until
    /// the snapshot is gone. Space comes back with [`Store::collect`].
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        self.adopt_what_fits(Ctx::none())?;
        let _shared = self.0.dir.lock_shared(STORE)?;
        if let Some(record) = self.0.refs.get(name)? {
            let last = self.names_of_id(&record.config)? == [name];
            return self.untag(&record.config, &[name.to_owned()], last, force);
        }
        let found = self.by_id(name)?;
        let names = self.names_of_id(&found.record.config)?;
        if names.len() > 1 && !force {
            return Err(Error::SeveralNames { id: found.record.config, names });
        }
        self.untag(&found.record.config, &names, true, force)
    }

    pub(crate) fn has_name(&self, name: &str) -> Result<bool> {
        self.0.refs.get(name).map(|record| record.is_some())
    }

    fn untag(&self, id: &Digest, names: &[String], last: bool, force: bool) -> Result<Removed> {
        let users = if last { self.users(id)? } else { Vec::new() };
        if !users.is_empty() && !force {
            return Err(Error::InUse { id: id.clone(), by: users });
        }
        let unset = self.0.refs.unset(names, id, !users.is_empty())?;
        if let (Some(name), true) = (names.first(), unset.names.is_empty()) {
            // Another was faster.
            return Err(Error::NoSuchImage { name: name.clone() });
        }
        let mut removed = Removed { untagged: unset.names, deleted: Vec::new() };
        if !last || !users.is_empty() {
            return Ok(removed);
        }
        if !self.users(id)?.is_empty() {
            // A snapshot was made for it meanwhile.
            unset.gone.iter().try_for_each(|record| self.0.refs.set(&[], record))?;
            return Ok(removed);
        }
        let left: Vec<_> = self.0.refs.grouped()?.into_iter().filter(|n| n.record.config == *id).collect();
        for dangling in left.iter().filter(|n| n.names.is_empty()) {
            self.0.refs.forget(&dangling.record)?;
        }
        if left.iter().all(|n| n.names.is_empty()) {
            removed.deleted.push(id.clone());
        }
        Ok(removed)
    }

    /// Keys of the snapshots that were made for the image.
    pub fn users(&self, id: &Digest) -> Result<Vec<String>> {
        let mut keys: Vec<String> = self
            .0
            .snapshots
            .list()?
            .iter()
            .filter(|s| s.image() == Some(id))
            .map(|s| s.key().to_owned())
            .collect();
        keys.sort();
        Ok(keys)
    }

    fn names_of_id(&self, id: &Digest) -> Result<Vec<String>> {
        let mut names: Vec<String> = self
            .0
            .refs
            .grouped()?
            .into_iter()
            .filter(|n| n.record.config == *id)
            .flat_map(|n| n.names)
            .collect();
        names.sort();
        Ok(names)
    }

    /// By digest of index, manifest or config, or by a prefix of the config's hex.
    fn by_id(&self, name: &str) -> Result<Named> {
        let missing = || Error::NoSuchImage { name: name.to_owned() };
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) && !name.contains(':') {
            return Err(missing());
        }
        let fits = |record: &Record| {
            [record.target.digest(), record.manifest.digest(), &record.config]
                .iter()
                .any(|d| d.as_ref() == name)
                || record.config.digest().starts_with(hex)
        };
        let found: Vec<Named> = self.0.refs.grouped()?.into_iter().filter(|n| fits(&n.record)).collect();
        let ids: BTreeSet<&str> = found.iter().map(|n| n.record.config.as_ref()).collect();
        if ids.len() > 1 {
            let found = ids.iter().filter_map(|id| id.parse().ok()).collect();
            return Err(Error::AmbiguousId { prefix: name.to_owned(), found });
        }
        // Of several manifests with this config, one that has a name says more.
        found.into_iter().max_by_key(|n| !n.names.is_empty()).ok_or_else(missing)
    }

    fn cached_size(&self, diff_id: &Digest, sizes: &mut HashMap<Digest, u64>) -> u64 {
        *sizes.entry(diff_id.clone()).or_insert_with(|| self.0.diffs.get(diff_id).map_or(0, |d| d.content()))
    }
}

/// What a name must hold to point to the image.
pub(super) fn record_of(image: &Image) -> Record {
    Record {
        target: image.target().clone(),
        manifest: image.descriptor().clone(),
        config: image.id().clone(),
        published: false,
    }
}

/// RFC 3339 in UTC sorts as text; other offsets only nearly.
fn created(image: &Image) -> &str {
    image.config().oci.created().as_deref().unwrap_or_default()
}
