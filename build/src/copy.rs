//! Where the files of a `COPY` or `ADD` go: BuildKit's rules.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use crate::Result;
use crate::changes::{Changes, Content, Node, NodeKind};
use crate::select::{Item, Match, Source};
use crate::tree::{Found, resolve};

/// How files are put down.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Absolute destination; a `/` at its end means a directory.
    pub(crate) dest: String,
    /// `--chown`, looked up; without it files of a context are root's, and others keep their owner.
    pub(crate) owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub(crate) mode: Option<ModeChange>,
}

impl Target {
    fn new_owner(&self) -> (u32, u32) {
        self.owner.unwrap_or((0, 0))
    }

    pub(crate) fn mode_of(&self, mode: u32, is_dir: bool) -> u32 {
        self.mode.as_ref().map_or(mode, |m| m.apply(mode, is_dir))
    }

    /// Makes the directory that the destination stands in (or is); then the destination's path without links.
    pub(crate) fn prepare(&self, changes: &mut Changes<'_>) -> Result<(PathBuf, Option<Found>)> {
        let parent = match self.dest.rfind('/') {
            Some(n) => &self.dest[..n],
            None => "",
        };
        let (real, _) = resolve(changes, Path::new(parent), true)?;
        changes.make_dirs(&real, self.new_owner())?;
        let (real, found) = resolve(changes, Path::new(&self.dest), true)?;
        if found.is_none() {
            // A link at the end may point to where nothing is yet.
            changes.make_dirs(real.parent().unwrap_or(Path::new("")), self.new_owner())?;
        }
        Ok((real, found))
    }
}

/// Adds all that one source word matched.
pub(crate) fn place(changes: &mut Changes<'_>, source: &Source, m: &Match, target: &Target) -> Result<()> {
    let mut place = Placer { changes, source, target, inodes: HashMap::new() };
    let (mut real, found) = target.prepare(place.changes)?;
    if !m.parents.is_empty() {
        place.changes.make_dirs(&real, target.new_owner())?;
        for parent in m.parents.iter().filter(|p| p.entry.is_dir()) {
            place.put(real.join(&parent.rel), parent)?;
        }
        let last = m.parents.last().expect("not empty");
        real.push(&last.rel);
    } else if m.is_dir {
        place.changes.make_dirs(&real, target.new_owner())?;
    } else if found == Some(Found::Dir) {
        real.push(&m.base);
    }
    for item in &m.items {
        if item.rel.as_os_str().is_empty() {
            if !m.is_dir {
                place.put(real.clone(), item)?;
            }
        } else {
            place.put(real.join(&item.rel), item)?;
        }
    }
    Ok(())
}

struct Placer<'c, 'b, 's> {
    changes: &'c mut Changes<'b>,
    source: &'s Source,
    target: &'s Target,
    /// Hard links between the files of one source.
    inodes: HashMap<(u64, u64), PathBuf>,
}

impl Placer<'_, '_, '_> {
    fn put(&mut self, path: PathBuf, item: &Item) -> Result<()> {
        let s = &item.entry.stat;
        let owner =
            self.target.owner.unwrap_or(if self.source.owners { (s.st_uid, s.st_gid) } else { (0, 0) });
        let kind = match item.entry.kind {
            FileType::Directory => NodeKind::Dir,
            FileType::Symlink => NodeKind::Link(item.link.clone().unwrap_or_default()),
            FileType::RegularFile => self.file(&path, item),
            // As BuildKit: a device's content is none of the context's or image's, and FIFOs are left out.
            FileType::CharacterDevice | FileType::BlockDevice => {
                NodeKind::File { content: Content::Bytes(Arc::default()), size: 0 }
            }
            _ => return Ok(()),
        };
        let mode = match kind {
            NodeKind::Link(_) => 0o777,
            _ => self.target.mode_of(item.entry.mode(), item.entry.is_dir()),
        };
        let (uid, gid) = owner;
        self.changes.put(path, Node { kind, mode, uid, gid, mtime: item.entry.mtime().0, xattrs: Vec::new() })
    }

    fn file(&mut self, path: &Path, item: &Item) -> NodeKind {
        let s = &item.entry.stat;
        // A context has no hard links: which of its files share an inode depends on how it was checked out.
        if self.source.owners && s.st_nlink > 1 {
            if let Some(first) = self.inodes.get(&(s.st_dev, s.st_ino)).filter(|f| f.as_path() < path) {
                return NodeKind::Hardlink(first.clone());
            }
            self.inodes.insert((s.st_dev, s.st_ino), path.to_path_buf());
        }
        let content = Content::Tree {
            tree: self.source.tree.clone(),
            path: item.path.clone(),
            mtime: item.entry.mtime(),
        };
        NodeKind::File { content, size: item.entry.size() }
    }
}

/// `WORKDIR`: the directory with its missing parents, links followed.
pub(crate) fn make_workdir(changes: &mut Changes<'_>, dir: &str, owner: (u32, u32)) -> Result<()> {
    let (real, _) = resolve(changes, Path::new(dir), true)?;
    changes.make_dirs(&real, owner)
}

/// `--chmod`: octal digits, or `chmod(1)`'s symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    Set(u32),
    /// `who`, operator, `what`, in order.
    Symbols(Vec<(String, char, String)>),
}

impl ModeChange {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "invalid chmod parameter: '{text}'. It should be octal string and between 0 and 07777, or symbolic"
            )
        };
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).map(Self::Set).ok_or_else(bad);
        }
        let mut symbols = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(bad)?;
            let who = if at == 0 { "a" } else { &clause[..at] };
            let mut rest = &clause[at..];
            while let Some(operator) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |n| n + 1);
                let what = &rest[1..end];
                if !who.chars().all(|c| "ugoa".contains(c)) || !what.chars().all(|c| "rwxXstugo".contains(c))
                {
                    return Err(bad());
                }
                symbols.push((who.to_owned(), operator, what.to_owned()));
                rest = &rest[end..];
            }
        }
        if symbols.is_empty() { Err(bad()) } else { Ok(Self::Symbols(symbols)) }
    }

    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let symbols = match self {
            Self::Set(m) => return *m,
            Self::Symbols(s) => s,
        };
        let mut mode = mode;
        for (who, operator, what) in symbols {
            let has = |c: char| who.contains(c) || who.contains('a');
            let places: Vec<u32> =
                [('u', 6), ('g', 3), ('o', 0)].into_iter().filter(|(c, _)| has(*c)).map(|(_, s)| s).collect();
            let mut bits = 0;
            for c in what.chars() {
                let of = |n: u32| (mode >> n) & 7;
                let value = match c {
                    'r' => 4,
                    'w' => 2,
                    'x' => 1,
                    'X' if is_dir || mode & 0o111 != 0 => 1,
                    'u' => of(6),
                    'g' => of(3),
                    'o' => of(0),
                    _ => 0,
                };
                places.iter().for_each(|s| bits |= value << s);
                bits |= match c {
                    's' => (u32::from(has('u')) * 0o4000) | (u32::from(has('g')) * 0o2000),
                    't' => 0o1000,
                    _ => 0,
                };
            }
            let all: u32 = places.iter().map(|s| 7 << s).sum();
            mode = match operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => mode & !all | bits,
            };
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chmod() {
        for (text, mode, is_dir, wanted) in [
            ("755", 0o600, false, 0o755),
            ("0", 0o600, false, 0),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("u+x-w", 0o600, false, 0o500),
        ] {
            assert_eq!(ModeChange::parse(text).unwrap().apply(mode, is_dir), wanted, "{text}");
        }
        for bad in ["", "8", "77777", "rwx", "u=q", "z+x", "-1a"] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }
}
