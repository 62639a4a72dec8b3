//! Which files a `COPY` takes: patterns, `.dockerignore`, `--exclude`, `--parents`, and what identifies their content.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::digests::DigestCache;
use crate::pattern::{Glob, Ignore, clean};
use crate::tree::{Dir, Entry, Found, Lookup, Tree, resolve};
use crate::{Error, Result};

/// Most files that one instruction may take.
const MAX_FILES: usize = 4_000_000;
/// Longest path in bytes: the kernel's limit, without which a tree could be as deep as a file system allows.
const MAX_PATH: usize = 4095;

/// A tree to copy from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) tree: Arc<Tree>,
    pub(crate) ignore: Arc<Ignore>,
    /// Owners count: those of a context are whoever checked it out, and become root.
    pub(crate) owners: bool,
}

/// What `.dockerignore` hides is not there, under whatever name it is asked for: links are followed through this.
impl Lookup for Source {
    fn at(&self, path: &Path) -> Result<Option<Found>> {
        let found = self.tree.at(path)?;
        let hidden = found.is_some()
            && self.ignore.check_path(path).0
            && !(found == Some(Found::Dir) && self.ignore.may_include_below(&path.to_string_lossy()));
        Ok(found.filter(|_| !hidden))
    }
}

/// One file that is taken.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Relative to what matched; empty for itself.
    pub(crate) rel: PathBuf,
    /// In the tree, without links in it.
    pub(crate) path: PathBuf,
    pub(crate) entry: Entry,
    pub(crate) link: Option<PathBuf>,
}

/// What one source word matched.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// Name that a file keeps in a destination directory.
    pub(crate) base: OsString,
    pub(crate) is_dir: bool,
    /// Parents first, each directory sorted.
    pub(crate) items: Vec<Item>,
    /// With `--parents`: the directories above it, and its path below the destination.
    pub(crate) parents: Vec<Item>,
}

pub(crate) struct Selection<'a> {
    source: &'a Source,
    exclude: &'a Ignore,
    matches: Vec<Match>,
    count: usize,
    parents: bool,
    check: &'a dyn Fn() -> Result<()>,
}

/// All that the words name, in order. A word without wildcard must match; one with wildcards need not.
pub(crate) fn select(
    source: &Source,
    words: &[String],
    exclude: &Ignore,
    parents: bool,
    line: usize,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Match>> {
    let mut s = Selection { source, exclude, matches: Vec::new(), count: 0, parents, check };
    for word in words {
        s.word(word, line)?;
    }
    Ok(s.matches)
}

impl Selection<'_> {
    fn word(&mut self, word: &str, line: usize) -> Result<()> {
        let (pivot, path) = match word.split_once("/./") {
            Some((before, after)) if self.parents => {
                (clean(before), format!("{}/{}", clean(before), clean(after)))
            }
            _ => (String::new(), clean(word)),
        };
        let path = path.trim_start_matches('/').to_owned();
        if Glob::is_literal(&path) || self.source.tree.entry(Path::new(&path))?.is_some() && !self.parents {
            if !self.take(Path::new(&path), &pivot)? {
                return Err(Error::NotFound { line, path: format!("/{path}") });
            }
            return Ok(());
        }
        let mut found = Vec::new();
        let parts: Vec<&str> = path.split('/').collect();
        self.glob(PathBuf::new(), &parts, &mut found)?;
        found.sort();
        found.dedup();
        for path in found {
            self.take(&path, &pivot)?;
        }
        Ok(())
    }

    /// Matches component by component, so that only directories that can matter are read. `**` crosses directories with `--parents` only.
    fn glob(&self, at: PathBuf, parts: &[&str], found: &mut Vec<PathBuf>) -> Result<()> {
        (self.check)()?;
        short(&at)?;
        let Some((part, rest)) = parts.split_first() else {
            found.push(at);
            return Ok(());
        };
        if Glob::is_literal(part) {
            let next = at.join(part);
            let (real, what) = resolve(self.source, &next, false)?;
            return if what.is_some() {
                self.glob(if rest.is_empty() { next } else { real }, rest, found)
            } else {
                Ok(())
            };
        }
        let (real, Some(Found::Dir)) = resolve(self.source, &at, true)? else { return Ok(()) };
        let Some(dir) = self.source.tree.dir(&real)? else { return Ok(()) };
        let deep = self.parents && *part == "**";
        if deep {
            self.glob(at.clone(), if rest.is_empty() { &["*"] } else { rest }, found)?;
        }
        let glob = Glob::new(part, false)?;
        for (name, entry) in dir.list()? {
            if found.len() > MAX_FILES {
                return Err(Error::TooLarge { what: "number of files".into(), limit: MAX_FILES as u64 });
            }
            if deep {
                if entry.is_dir() {
                    self.glob(real.join(&name), parts, found)?;
                }
            } else if name.to_str().is_some_and(|n| glob.matches(n))
                && (rest.is_empty() || entry.is_dir() || entry.is_link())
            {
                self.glob(real.join(&name), rest, found)?;
            }
        }
        Ok(())
    }

    /// Takes a path with all below it; false if it is not there or ignored.
    fn take(&mut self, path: &Path, pivot: &str) -> Result<bool> {
        // The last link is followed, as Docker does for what is named; links found below are copied as links.
        let (real, found) = resolve(self.source, path, true)?;
        let Some(found) = found else { return Ok(false) };
        let entry =
            self.source.tree.entry(&real)?.ok_or_else(|| Error::io(&real, rustix::io::Errno::NOENT))?;
        let is_dir = found == Found::Dir;
        let base = path.file_name().unwrap_or_default().to_owned();
        if !is_dir && self.exclude.check(&base.to_string_lossy(), &[]).0 {
            return Ok(true);
        }
        let parents = if self.parents { self.parents_of(path, pivot)? } else { Vec::new() };
        let mut m =
            Match { base, is_dir, items: vec![self.item(PathBuf::new(), real.clone(), entry)?], parents };
        if is_dir && let Some(dir) = self.source.tree.dir(&real)? {
            let (_, matched) = self.source.ignore.check_path(&real);
            self.walk(&dir, (Path::new(""), &real), &matched, &[], &mut m.items)?;
        }
        self.matches.push(m);
        Ok(true)
    }

    fn parents_of(&self, path: &Path, pivot: &str) -> Result<Vec<Item>> {
        let below = path.strip_prefix(pivot).unwrap_or(path);
        let mut items = Vec::new();
        let mut at = path.ancestors().nth(below.components().count()).unwrap_or(Path::new("")).to_path_buf();
        let mut rel = PathBuf::new();
        for part in below {
            at.push(part);
            rel.push(part);
            let (real, _) = resolve(self.source, &at, true)?;
            if let Some(entry) = self.source.tree.entry(&real)? {
                items.push(Item { rel: rel.clone(), path: real, entry, link: None });
            }
        }
        Ok(items)
    }

    fn item(&mut self, rel: PathBuf, path: PathBuf, entry: Entry) -> Result<Item> {
        (self.check)()?;
        short(&path)?;
        self.count += 1;
        if self.count > MAX_FILES {
            return Err(Error::TooLarge { what: "number of files".into(), limit: MAX_FILES as u64 });
        }
        let link = if entry.is_link() { Some(self.source.tree.read_link(&path)?) } else { None };
        Ok(Item { rel, path, entry, link })
    }

    /// Takes all below a directory, given its path relative to what matched, and in the tree.
    fn walk(
        &mut self,
        dir: &Dir<'_>,
        (rel, real): (&Path, &Path),
        ignored: &[bool],
        excluded: &[bool],
        out: &mut Vec<Item>,
    ) -> Result<()> {
        for (name, entry) in dir.list()? {
            let (rel, real) = (rel.join(&name), real.join(&name));
            let text = real.to_string_lossy();
            let (skip, matched) = self.source.ignore.check(&text, ignored);
            let (skip_too, matched_too) = self.exclude.check(&rel.to_string_lossy(), excluded);
            let keep_below = (!skip || self.source.ignore.may_include_below(&text))
                && (!skip_too || self.exclude.may_include_below(&rel.to_string_lossy()));
            if entry.kind == rustix::fs::FileType::Socket
                || !entry.is_dir() && (skip || skip_too)
                || !keep_below
            {
                continue;
            }
            let is_dir = entry.is_dir();
            let before = out.len();
            let item = self.item(rel.clone(), real.clone(), entry)?;
            out.push(item);
            if is_dir && let Some(dir) = dir.open_dir(&name)? {
                self.walk(&dir, (&rel, &real), &matched, &matched_too, out)?;
                // An ignored directory is only there for what a `!` rule took in below it.
                if (skip || skip_too) && out.len() == before + 1 {
                    out.pop();
                }
            }
        }
        Ok(())
    }
}

fn short(path: &Path) -> Result<()> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::TooLarge { what: "length of a path".into(), limit: MAX_PATH as u64 });
    }
    Ok(())
}

/// What identifies the content of a selection: names, types, modes, owners where they count, and bytes; no times.
pub(crate) fn digest(
    source: &Source,
    matches: &[Match],
    digests: &DigestCache,
    check: &(dyn Fn() -> Result<()> + Sync),
) -> Result<String> {
    let files: Vec<&Item> = matches.iter().flat_map(|m| m.items.iter().chain(&m.parents)).collect();
    let sums = digests.of_files(&source.tree, &files, check)?;
    let mut sums = sums.into_iter();
    let mut hash = Sha256::new();
    for m in matches {
        field(&mut hash, m.base.as_bytes());
        hash.update([u8::from(m.is_dir)]);
        for (part, items) in [&m.items, &m.parents].into_iter().enumerate() {
            hash.update([part as u8]);
            hash.update((items.len() as u64).to_le_bytes());
            for item in items {
                let sum = sums.next().flatten();
                // A directory's own mode is not copied when its contents are.
                hash_item(&mut hash, item, sum.as_ref(), source.owners);
            }
        }
    }
    Ok(crate::keys::hex(&hash.finalize()))
}

fn hash_item(hash: &mut Sha256, item: &Item, sum: Option<&[u8; 32]>, owners: bool) {
    let s = &item.entry.stat;
    field(hash, item.rel.as_os_str().as_bytes());
    hash.update(s.st_mode.to_le_bytes());
    if owners {
        hash.update(s.st_uid.to_le_bytes());
        hash.update(s.st_gid.to_le_bytes());
    }
    field(hash, item.link.as_deref().map_or(OsStr::new(""), Path::as_os_str).as_bytes());
    field(hash, sum.map_or(&[][..], |s| s));
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
