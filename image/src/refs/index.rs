//! `index.json`: derived from the names, and what other tools write into it.

use std::fs::{self, File};
use std::io::{self, Read};

use oci_spec::image::{Descriptor, ImageIndex};
use serde_json::Value;

use super::{LOCK, Record, Refs, check};
use crate::Result;
use crate::error::at;

/// Is there while `index.json` may not say what `refs/` says.
const STALE: &str = "index.stale";
/// `index.json` before and behind its entries, of which each takes a line: one more name does not need all others read again, and
/// an index that begins otherwise was written by another tool.
const INDEX_HEAD: &str = "{\"manifests\":[\n";
const INDEX_TAIL: &str = "\n],\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"schemaVersion\":2}";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Most bytes of an index that another tool has written.
const MOST: u64 = 16 << 20;

/// An index that another tool has written.
pub(crate) struct Foreign {
    text: String,
    /// What it says that `refs/` does not.
    pub(crate) new: Vec<Entry>,
}

/// An image in an index; without a name it is a dangling one.
pub(crate) struct Entry {
    pub(crate) name: Option<String>,
    pub(crate) target: Descriptor,
}

impl Refs {
    /// Rewrites `index.json` when it is older than `refs/`, as after a crash between the two. One of another tool waits to be adopted.
    pub(crate) fn refresh_index(&self) -> Result<()> {
        if self.fresh() {
            return Ok(());
        }
        let _lock = self.dir.lock(LOCK)?;
        // Whoever was at it may have finished.
        if self.fresh() || self.foreign_text()?.is_some() { Ok(()) } else { self.derive_index(Vec::new()) }
    }

    /// The index, if another tool has written it since we did.
    pub(crate) fn foreign(&self) -> Result<Option<Foreign>> {
        let Some(text) = self.foreign_text()? else { return Ok(None) };
        let Ok(index) = serde_json::from_str::<ImageIndex>(&text) else { return Ok(None) };
        // After a crash it may be older than what the names say.
        let stale = self.dir.join(STALE).exists();
        let mut new = Vec::new();
        for target in index.manifests() {
            let annotations = target.annotations().as_ref();
            let name = annotations.and_then(|a| a.get(REF_NAME)).filter(|name| check(name).is_ok()).cloned();
            let known = match name.as_deref().map(|name| self.get(name)) {
                None => self.grouped()?.iter().any(|known| is(&known.record, target)),
                Some(Ok(found)) => found.is_some_and(|record| stale || is(&record, target)),
                Some(Err(e)) if e.is_bad_content() => false,
                Some(Err(e)) => return Err(e),
            };
            if !known {
                new.push(Entry { name, target: target.clone() });
            }
        }
        Ok(Some(Foreign { text, new }))
    }

    /// Takes over what another tool has written: the images get their names, the index becomes ours again. Entries that could not be taken
    /// over stay in it. `false` if it was written again meanwhile: then look at it again.
    pub(crate) fn adopt(&self, foreign: &Foreign, taken: &[(Option<String>, Record)]) -> Result<bool> {
        let _lock = self.dir.lock(LOCK)?;
        if self.foreign_text()?.as_ref() != Some(&foreign.text) {
            return Ok(false);
        }
        for (name, record) in taken {
            self.set_locked(name.as_slice(), record)?;
        }
        let refused = foreign.new.iter().filter(|e| !taken.iter().any(|(_, record)| is(record, &e.target)));
        self.derive_index(refused.map(|entry| line(&entry.target)).collect())?;
        Ok(true)
    }

    pub(super) fn fresh(&self) -> bool {
        let modified = |path: &str| fs::metadata(self.dir.join(path)).and_then(|m| m.modified());
        !self.dir.join(STALE).exists()
            && matches!((modified("index.json"), modified("refs")), (Ok(index), Ok(refs)) if index >= refs)
    }

    /// Runs a change of these names, then makes `index.json` agree. The caller holds the lock.
    pub(super) fn changing(
        &self,
        names: &[&str],
        to: Option<&Record>,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let fresh = self.fresh();
        // Names can be taken away on a full disk too, or it could never be emptied: the index then follows at the next open.
        let excused = |result: Result<()>| match result {
            Err(e) if e.is_full() && to.is_none() => Ok(()),
            other => other,
        };
        let stale = self.dir.join(STALE);
        self.dir.step("create", &stale)?;
        excused(fs::write(&stale, b"").map_err(at("create", &stale)))?;
        change()?;
        excused(self.follow(fresh, names, to))
    }

    /// Makes `index.json` agree with names that have changed.
    fn follow(&self, fresh: bool, names: &[&str], to: Option<&Record>) -> Result<()> {
        let new = || names.iter().filter_map(|name| to.map(|record| index_line(name, record)));
        if fresh && let Some(lines) = self.index_lines()? {
            let keys: Vec<String> =
                names.iter().map(|name| format!("{REF_NAME:?}:{}", Value::from(*name))).collect();
            let others = lines.into_iter().filter(|line| !keys.iter().any(|key| line.contains(key)));
            return self.write_index(others.chain(new()).collect());
        }
        match self.foreign_text()?.and_then(|text| merged(&text, names, new())) {
            Some(text) => self.write_text(&text),
            None => self.derive_index(Vec::new()),
        }
    }

    /// Other tools find images through `index.json`, by the annotation `org.opencontainers.image.ref.name`.
    fn derive_index(&self, mut lines: Vec<String>) -> Result<()> {
        let images = self.grouped()?;
        lines.extend(images.iter().flat_map(|n| n.names.iter().map(|name| index_line(name, &n.record))));
        self.write_index(lines)
    }

    /// The entries of an index that was written here; `None` for any other.
    fn index_lines(&self) -> Result<Option<Vec<String>>> {
        let path = self.dir.join("index.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                return Ok(None);
            }
            Err(e) => return Err(at("read", path)(e)),
        };
        let body = text.strip_prefix(INDEX_HEAD).and_then(|rest| rest.strip_suffix(INDEX_TAIL));
        // No string in JSON contains a line's end.
        Ok(body.map(|body| body.split(",\n").filter(|l| !l.is_empty()).map(str::to_owned).collect()))
    }

    /// An index that another tool has written. Where ours lies, only its first bytes are read.
    fn foreign_text(&self) -> Result<Option<String>> {
        let path = self.dir.join("index.json");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at("open", path)(e)),
        };
        let mut head = [0; INDEX_HEAD.len()];
        match file.read_exact(&mut head) {
            Ok(()) if head == *INDEX_HEAD.as_bytes() => return Ok(None),
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(at("read", path)(e)),
        }
        let mut text = head.to_vec();
        file.take(MOST).read_to_end(&mut text).map_err(at("read", path))?;
        // One that is broken, or being written at this moment, is nobody's.
        Ok(String::from_utf8(text).ok().filter(|text| serde_json::from_str::<ImageIndex>(text).is_ok()))
    }

    fn write_index(&self, mut lines: Vec<String>) -> Result<()> {
        lines.sort();
        self.write_text(&format!("{INDEX_HEAD}{}{INDEX_TAIL}", lines.join(",\n")))
    }

    fn write_text(&self, text: &str) -> Result<()> {
        self.dir.write(&self.dir.join("index.json"), text.as_bytes())?;
        self.dir.remove_file(&self.dir.join(STALE)).map(drop)
    }
}

/// Whether the image is what an entry of an index stands for.
fn is(record: &Record, target: &Descriptor) -> bool {
    [record.manifest.digest(), record.target.digest()].contains(&target.digest())
}

/// Another tool's index with names changed, which stays recognisable as one; `None` if it is broken.
fn merged(text: &str, names: &[&str], new: impl Iterator<Item = String>) -> Option<String> {
    let mut index: Value = serde_json::from_str(text).ok()?;
    let entries = index.get_mut("manifests")?.as_array_mut()?;
    entries.retain(|entry| entry["annotations"][REF_NAME].as_str().is_none_or(|name| !names.contains(&name)));
    entries.extend(new.filter_map(|line| serde_json::from_str::<Value>(&line).ok()));
    Some(index.to_string())
}

/// One name's entry in the index.
fn index_line(name: &str, record: &Record) -> String {
    let mut descriptor = record.manifest.clone();
    let mut annotations = descriptor.annotations().clone().unwrap_or_default();
    annotations.insert(REF_NAME.to_owned(), name.to_owned());
    descriptor.set_annotations(Some(annotations));
    line(&descriptor)
}

fn line(descriptor: &Descriptor) -> String {
    let value = serde_json::to_value(descriptor).expect("a descriptor has only string keys");
    String::from_utf8(crate::model::canonical(&value)).expect("JSON is UTF-8")
}
