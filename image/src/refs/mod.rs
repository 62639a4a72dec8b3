//! Names: one file per name in `refs/`, and `index.json`, which is derived from them.

mod index;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use oci_spec::image::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

pub(crate) use self::index::Entry;
use crate::dir::StoreDir;
use crate::error::at;
use crate::{Error, Result};

/// Held while names change, so that an image losing its last name is not lost with it.
const LOCK: &str = "refs";
/// Longest name in bytes.
const MAX_NAME: usize = 512;

/// What a name points to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The index or manifest that was asked for.
    pub(crate) target: Descriptor,
    /// The manifest of the chosen platform.
    pub(crate) manifest: Descriptor,
    /// The image ID.
    pub(crate) config: Digest,
    /// Whether a registry is known to have it under this name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) published: bool,
}

#[derive(Serialize, Deserialize)]
struct RefFile {
    /// Empty for an image that is kept without a name.
    name: String,
    #[serde(flatten)]
    record: Record,
}

/// An image and all its names.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) record: Record,
    pub(crate) names: Vec<String>,
    /// Those of the names that are published.
    pub(crate) published: Vec<String>,
}

/// What [`Refs::unset`] did.
#[derive(Debug, Default)]
pub(crate) struct Unset {
    /// The names taken away.
    pub(crate) names: Vec<String>,
    /// Images that have no name and no keeper left.
    pub(crate) gone: Vec<Record>,
}

/// `refs/` of a store.
#[derive(Clone, Debug)]
pub(crate) struct Refs {
    dir: StoreDir,
}

impl Refs {
    pub(crate) fn open(dir: &StoreDir) -> Result<Self> {
        dir.create_dir_all(&dir.join("refs"))?;
        Ok(Self { dir: dir.clone() })
    }

    pub(crate) fn get(&self, name: &str) -> Result<Option<Record>> {
        if name.is_empty() {
            return Ok(None);
        }
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => decode(&path, &bytes).map(|file| (file.name == name).then_some(file.record)),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::InvalidFilename => {
                Ok(None)
            }
            Err(e) => Err(at("read", path)(e)),
        }
    }

    /// Gives the image these names; without any it is kept as a dangling one. Images that lose their last name dangle too.
    pub(crate) fn set(&self, names: &[String], record: &Record) -> Result<()> {
        names.iter().try_for_each(|name| check(name))?;
        let _lock = self.dir.lock(LOCK)?;
        self.set_locked(names, record)
    }

    fn set_locked(&self, names: &[String], record: &Record) -> Result<()> {
        if names.is_empty() && self.grouped()?.iter().any(|n| same(&n.record, record) && !n.names.is_empty())
        {
            return Ok(());
        }
        let mut wanted = Vec::new();
        let mut before = Vec::new();
        for name in names {
            match self.get(name) {
                Ok(Some(old)) if same(&old, record) && (old.published || !record.published) => continue,
                Ok(old) => before.extend(old.filter(|old| !same(old, record))),
                // A damaged one is replaced.
                Err(e) if e.is_bad_content() => {}
                Err(e) => return Err(e),
            }
            wanted.push(name.as_str());
        }
        if names.is_empty() {
            // The index does not list it.
            return self.write("", record);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.changing(&wanted, Some(record), || {
            before.iter().try_for_each(|old| self.write("", old))?;
            wanted.iter().try_for_each(|name| self.write(name, record))
        })
    }

    /// Takes those of the names away that still stand for this image; with `keep` it stays as a dangling one.
    pub(crate) fn unset(&self, names: &[String], id: &Digest, keep: bool) -> Result<Unset> {
        let _lock = self.dir.lock(LOCK)?;
        let mut unset = Unset::default();
        for mut image in self.grouped()?.into_iter().filter(|image| image.record.config == *id) {
            let all = image.names.len();
            image.names.retain(|name| names.contains(name));
            let last = !image.names.is_empty() && image.names.len() == all;
            unset.names.append(&mut image.names);
            if last && keep {
                self.write("", &image.record)?;
            } else if last {
                self.dir.remove_file(&self.dangling_path(&image.record))?;
                unset.gone.push(image.record);
            }
        }
        if unset.names.is_empty() {
            return Ok(unset);
        }
        let taken: Vec<&str> = unset.names.iter().map(String::as_str).collect();
        self.changing(&taken, None, || {
            for name in &taken {
                self.dir.remove_file(&self.path(name))?;
            }
            self.dir.sync_dir(&self.dir.join("refs"))
        })?;
        Ok(unset)
    }

    /// Notes that a registry has the image under this name, if the name still stands for it.
    pub(crate) fn publish(&self, name: &str, record: &Record) -> Result<()> {
        let _lock = self.dir.lock(LOCK)?;
        match self.get(name)? {
            Some(now) if same(&now, record) && !now.published => {
                let published = Record { published: true, ..now };
                self.changing(&[name], Some(&published), || self.write(name, &published))
            }
            _ => Ok(()),
        }
    }

    /// Forgets a dangling image; nothing happens to one that has a name by now.
    pub(crate) fn forget(&self, record: &Record) -> Result<bool> {
        let _lock = self.dir.lock(LOCK)?;
        self.dir.remove_file(&self.dangling_path(record))
    }

    /// All images with their names (sorted; none for a dangling one). Files that cannot be read are skipped: `verify` reports them.
    pub(crate) fn grouped(&self) -> Result<Vec<Named>> {
        let mut images: BTreeMap<(String, String), Named> = BTreeMap::new();
        for file in self.files()? {
            let Ok(file) = file.1 else { continue };
            let key = (file.record.manifest.digest().to_string(), file.record.target.digest().to_string());
            let published = file.record.published;
            let new = || Named { record: file.record, names: Vec::new(), published: Vec::new() };
            let named = images.entry(key).or_insert_with(new);
            if !file.name.is_empty() {
                named.published.extend(published.then(|| file.name.clone()));
                named.names.push(file.name);
            }
        }
        let mut images: Vec<Named> = images.into_values().collect();
        for named in &mut images {
            named.names.sort();
            named.published.sort();
        }
        Ok(images)
    }

    /// The files that do not say what a ref must say.
    pub(crate) fn broken(&self) -> Result<Vec<(PathBuf, Error)>> {
        Ok(self.files()?.into_iter().filter_map(|(path, file)| file.err().map(|e| (path, e))).collect())
    }

    /// An error if one of the files does not say what a ref must say.
    pub(crate) fn intact(&self) -> Result<()> {
        self.broken()?.into_iter().next().map_or(Ok(()), |(_, e)| Err(e))
    }

    fn files(&self) -> Result<Vec<(PathBuf, Result<RefFile>)>> {
        let refs = self.dir.join("refs");
        let mut files = Vec::new();
        for entry in fs::read_dir(&refs).map_err(at("read", &refs))? {
            let path = entry.map_err(at("read", &refs))?.path();
            match fs::read(&path) {
                Ok(bytes) => files.push((path.clone(), decode(&path, &bytes))),
                // Removed since the listing.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(at("read", path)(e)),
            }
        }
        Ok(files)
    }

    fn write(&self, name: &str, record: &Record) -> Result<()> {
        let path = if name.is_empty() { self.dangling_path(record) } else { self.path(name) };
        let file = RefFile { name: name.to_owned(), record: record.clone() };
        let value = serde_json::to_value(&file).expect("a ref has only string keys");
        self.dir.write(&path, &crate::model::canonical(&value))
    }

    /// A readable file name where the name permits it, else its hash; the file itself says the whole name.
    fn path(&self, name: &str) -> PathBuf {
        let mut file = String::new();
        for byte in name.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b':' => {
                    file.push(byte as char);
                }
                _ => file.push_str(&format!("%{byte:02x}")),
            }
        }
        // A leading % (which no escape of these begins with) keeps it apart from every name's own spelling.
        if file.len() > 200 || file.starts_with('.') {
            file = format!("%={}", crate::digest::sha256(name.as_bytes()).digest());
        }
        self.dir.join("refs").join(file)
    }

    fn dangling_path(&self, record: &Record) -> PathBuf {
        let both = format!("{}{}", record.manifest.digest(), record.target.digest());
        self.dir.join("refs").join(format!("%-{}", crate::digest::sha256(both.as_bytes()).digest()))
    }
}

fn decode(path: &std::path::Path, bytes: &[u8]) -> Result<RefFile> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("ref {}", path.display()), &e))
}

pub(crate) fn same(a: &Record, b: &Record) -> bool {
    a.manifest.digest() == b.manifest.digest() && a.target.digest() == b.target.digest()
}

/// Any printable text is a name; what it means is the caller's business.
fn check(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 512 bytes"
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "it contains white space or control characters"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { name: name.chars().take(MAX_NAME).collect(), reason })
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    use super::*;
    use crate::StoreOptions;

    fn record(n: u8) -> Record {
        let digest = crate::digest::sha256(&[n]);
        let target = Descriptor::new(MediaType::ImageManifest, 1, digest.clone());
        Record { manifest: target.clone(), target, config: digest, published: false }
    }

    /// Another process may move a name between somebody's look at it and what he does with it.
    #[test]
    fn a_name_that_stands_for_another_image_by_now_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        for below in ["tmp", "locks"] {
            fs::create_dir(temp.path().join(below)).unwrap();
        }
        let refs = Refs::open(&StoreDir::new(temp.path().to_owned(), StoreOptions::default())).unwrap();
        let (old, new) = (record(1), record(2));
        refs.set(&["a".to_owned()], &old).unwrap();
        refs.set(&["b".to_owned()], &new).unwrap();

        let both = ["a".to_owned(), "b".to_owned()];
        refs.publish("b", &old).unwrap();
        assert!(refs.grouped().unwrap().iter().all(|image| image.published.is_empty()));
        let unset = refs.unset(&both, &old.config, true).unwrap();
        assert_eq!((unset.names, unset.gone.len()), (vec!["a".to_owned()], 0));
        assert!(refs.unset(&both, &old.config, false).unwrap().names.is_empty());
        refs.publish("b", &new).unwrap();
        let all = refs.grouped().unwrap();
        let dangling = all.iter().find(|image| same(&image.record, &old)).unwrap();
        assert!(dangling.names.is_empty());
        let named = all.iter().find(|image| same(&image.record, &new)).unwrap();
        assert_eq!((&named.names[..], &named.published[..]), (&both[1..], &both[1..]));
        assert!(refs.fresh());
    }
}
