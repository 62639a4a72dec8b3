//! A layer as a tree in memory: every entry finds its place here, never on the host.
//!
//! Both drivers build on it, so that both agree on what a layer means: symbolic links in the middle of a path are
//! followed inside the layer, later entries replace earlier ones, whiteouts only speak about the layers below.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use super::Limits;
use super::header::Fault;
use super::tar::{Data, Entry, Kind, Meta};

/// Index of a node; the root is 0.
pub(crate) type Id = u32;

pub(crate) const ROOT: Id = 0;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Like the kernel's limit on symbolic links in one path.
const LINKS: u32 = 40;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    /// Names for the same file.
    pub(crate) links: u32,
    pub(crate) body: Body,
    pub(crate) xattrs: Option<Box<Xattrs>>,
}

pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug)]
pub(crate) enum Body {
    Dir(Box<Dir>),
    File(Box<Data>),
    Symlink(Box<[u8]>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    /// Hides what lower layers have under this name.
    Whiteout,
}

#[derive(Debug, Default)]
pub(crate) struct Dir {
    pub(crate) parent: Id,
    /// Its own name in the parent.
    pub(crate) name: Box<[u8]>,
    pub(crate) children: BTreeMap<Box<[u8]>, Id>,
    /// Hides what lower layers have in this directory.
    pub(crate) opaque: bool,
    /// Holds whiteouts.
    pub(crate) whiteouts: bool,
    /// Named by no entry, only by paths of others: a layer below may know its owner and mode.
    pub(crate) implied: bool,
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// The directory that the entry before lay in: most share it with their neighbours.
    last_parent: (Vec<u8>, Id),
    /// Directories that only paths of others imply cost no entry; they are bounded here.
    most: usize,
    /// Bytes that the links in one path may add to it.
    longest: usize,
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is (or is another name for) this node.
    At {
        node: Id,
        parent: Id,
        name: Vec<u8>,
        /// What had the name before and has lost it.
        replaced: Option<Id>,
        /// For a hard link: where the file is found under another name.
        linked: Option<(Id, Vec<u8>)>,
    },
    /// It described no file: a marker, or nothing new.
    Nowhere,
}

impl Dir {
    /// What overlay must be told about the directory, by attributes `{trusted,user}.overlay.*`.
    ///
    /// It believes a directory that only one layer has to be free of whiteouts, and lists their names, unless the
    /// directory seems to be copied from elsewhere: an origin of no bytes says so and no more.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (&'static str, &'static [u8])> + use<> {
        let origin: (&str, &[u8]) = ("origin", b"");
        let opaque: (&str, &[u8]) = ("opaque", b"y");
        self.opaque.then_some(opaque).into_iter().chain(self.whiteouts.then_some(origin))
    }
}

impl Tree {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bound = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            nodes: vec![implied_dir(ROOT, b"")],
            last_parent: (Vec::new(), ROOT),
            most: bound(limits.entries.saturating_mul(2)).min(Id::MAX as usize / 2),
            longest: bound(limits.path),
        }
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn dir(&self, id: Id) -> Option<&Dir> {
        match &self.node(id).body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn dir_mut(&mut self, id: Id) -> &mut Dir {
        match &mut self.nodes[id as usize].body {
            Body::Dir(dir) => dir,
            other => unreachable!("a parent is a directory, not {other:?}"),
        }
    }

    /// Paths of the directories that no entry describes, the root aside. Only so many, and only those in UTF-8: it is a
    /// repair for sloppy archives, not worth more.
    pub(crate) fn implied(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((id, path)) = todo.pop() {
            for (name, child) in self.dir(id).iter().flat_map(|dir| &dir.children) {
                let (Some(dir), Ok(name)) = (self.dir(*child), std::str::from_utf8(name)) else { continue };
                let below = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                if below.len() > 1024 || found.len() == 1024 {
                    continue;
                }
                if dir.implied {
                    found.push(below.clone());
                }
                todo.push((*child, below));
            }
        }
        found.sort();
        found
    }

    /// Bytes that files and symbolic links hold, each counted once whatever names it has: what Docker calls a layer's size.
    pub(crate) fn content(&self) -> u64 {
        let held = |node: &Node| match &node.body {
            Body::File(data) => data.size,
            Body::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        self.nodes.iter().filter(|node| node.links > 0).map(held).fold(0, u64::saturating_add)
    }

    /// Number of nodes, replaced ones included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Puts an entry where it belongs.
    pub(crate) fn place(&mut self, mut entry: Entry) -> Result<Placed, Fault> {
        if self.nodes.len() > self.most {
            return Err("its layer has too many directories".to_owned());
        }
        // On anything but files and directories the kernel knows no user attributes.
        let bears = matches!(entry.kind, Kind::Dir | Kind::File(_));
        entry.xattrs.retain(|(name, _)| bears && keeps_xattr(name));
        let (dir, name) = split(&entry.path);
        if dir.split(|b| *b == b'/').any(|part| part.starts_with(WHITEOUT)) {
            // AUFS kept its hard links in `.wh..wh.plnk/`; nobody else may lie below a whiteout.
            return if dir.starts_with(b".wh..wh.") {
                Ok(Placed::Nowhere)
            } else {
                Err("it lies below a whiteout".to_owned())
            };
        }
        if name.is_empty() {
            self.describe_dir(ROOT, entry);
            return Ok(Placed::Nowhere);
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(dir, name);
        }
        let (name, dir) = (name.to_vec(), dir.to_vec());
        let parent = self.parent(&dir)?;
        match entry.kind {
            Kind::HardLink(ref target) => self.hard_link(parent, name, target),
            Kind::Dir => Ok(self.make_dir(parent, name, entry)),
            _ => Ok(self.make_other(parent, name, entry)),
        }
    }

    fn whiteout(&mut self, dir: &[u8], name: &[u8]) -> Result<Placed, Fault> {
        if name == OPAQUE {
            let dir = self.parent(&dir.to_vec())?;
            self.dir_mut(dir).opaque = true;
            return Ok(Placed::Nowhere);
        }
        let hidden = &name[WHITEOUT.len()..];
        if name.starts_with(b".wh..wh.") {
            return Ok(Placed::Nowhere);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err("a whiteout of no name".to_owned());
        }
        let hidden = hidden.to_vec();
        let parent = self.parent(&dir.to_vec())?;
        self.hide(parent, hidden);
        Ok(Placed::Nowhere)
    }

    /// What this layer itself has under the name stays; only what lies below is hidden.
    fn hide(&mut self, parent: Id, name: Vec<u8>) {
        let existing = self.dir_mut(parent).children.get(name.as_slice()).copied();
        match existing {
            None => {
                let node = self.push(Meta::default(), Body::Whiteout, Vec::new());
                let dir = self.dir_mut(parent);
                dir.children.insert(name.into(), node);
                dir.whiteouts = true;
            }
            Some(id) => {
                if let Body::Dir(dir) = &mut self.nodes[id as usize].body {
                    dir.opaque = true;
                }
            }
        }
    }

    fn make_dir(&mut self, parent: Id, name: Vec<u8>, entry: Entry) -> Placed {
        let existing = self.dir_mut(parent).children.get(name.as_slice()).copied();
        if let Some(id) = existing
            && self.dir(id).is_some()
        {
            self.describe_dir(id, entry);
            return Placed::Nowhere;
        }
        let hides = existing.is_some_and(|id| matches!(self.node(id).body, Body::Whiteout));
        let dir = Dir { parent, name: name.clone().into(), opaque: hides, ..Dir::default() };
        let node = self.push(entry.meta, Body::Dir(Box::new(dir)), entry.xattrs);
        self.put(parent, name, node)
    }

    fn make_other(&mut self, parent: Id, name: Vec<u8>, entry: Entry) -> Placed {
        let mut meta = entry.meta;
        let body = match entry.kind {
            Kind::File(data) => Body::File(Box::new(data)),
            Kind::Symlink(target) => {
                // Linux knows no other.
                meta.mode = 0o777;
                Body::Symlink(target.into())
            }
            // Overlay takes it for a whiteout, wherever it comes from; so it means the same as `.wh.NAME`.
            Kind::Char(0, 0) => {
                self.hide(parent, name);
                return Placed::Nowhere;
            }
            Kind::Char(major, minor) => Body::Char(major, minor),
            Kind::Block(major, minor) => Body::Block(major, minor),
            Kind::Fifo => Body::Fifo,
            Kind::Dir | Kind::HardLink(_) => unreachable!("placed elsewhere"),
        };
        let node = self.push(meta, body, entry.xattrs);
        self.put(parent, name, node)
    }

    fn hard_link(&mut self, parent: Id, name: Vec<u8>, target: &[u8]) -> Result<Placed, Fault> {
        let (dir, last) = split(target);
        let missing = || "the target of its hard link is not in the layer".to_owned();
        let target_dir = self.walk(dir, false)?.ok_or_else(missing)?;
        let children = &self.dir(target_dir).ok_or_else(missing)?.children;
        let node = *children.get(last).ok_or_else(missing)?;
        match self.node(node).body {
            Body::Dir(_) => return Err("a hard link to a directory".to_owned()),
            Body::Whiteout => return Err(missing()),
            _ => {}
        }
        if target_dir == parent && last == name {
            return Ok(Placed::Nowhere);
        }
        let old = self.dir(parent).and_then(|dir| dir.children.get(name.as_slice()));
        // It would take the place of a directory that its target lies in: whoever unpacks has no target left by then.
        if old.is_some_and(|old| self.holds(*old, target_dir)) {
            return Err(missing());
        }
        self.nodes[node as usize].links += 1;
        let from = (target_dir, last.to_vec());
        let Placed::At { node, parent, name, replaced, .. } = self.put(parent, name, node) else {
            unreachable!("put always places");
        };
        Ok(Placed::At { node, parent, name, replaced, linked: Some(from) })
    }

    /// Whether `below` is the directory `top` or lies in it.
    fn holds(&self, top: Id, below: Id) -> bool {
        let up = |id: &Id| self.dir(*id).map(|dir| dir.parent).filter(|_| *id != ROOT);
        std::iter::successors(Some(below), up).any(|id| id == top)
    }

    fn describe_dir(&mut self, id: Id, entry: Entry) {
        let node = &mut self.nodes[id as usize];
        node.meta = entry.meta;
        node.xattrs = boxed(entry.xattrs);
        self.dir_mut(id).implied = false;
    }

    fn push(&mut self, meta: Meta, body: Body, xattrs: Xattrs) -> Id {
        let id = Id::try_from(self.nodes.len()).expect("the limit on entries lies below 2^32");
        self.nodes.push(Node { meta, links: 1, body, xattrs: boxed(xattrs) });
        id
    }

    fn put(&mut self, parent: Id, name: Vec<u8>, node: Id) -> Placed {
        let replaced = self.remove(parent, &name).filter(|id| !matches!(self.node(*id).body, Body::Whiteout));
        self.dir_mut(parent).children.insert(name.clone().into(), node);
        Placed::At { node, parent, name, replaced, linked: None }
    }

    fn remove(&mut self, parent: Id, name: &[u8]) -> Option<Id> {
        let old = self.dir_mut(parent).children.remove(name)?;
        self.nodes[old as usize].links -= 1;
        // A directory or a link that the cached path went through may be gone.
        self.last_parent = (Vec::new(), ROOT);
        self.drop_below(old);
        Some(old)
    }

    /// Takes names away from all that a removed directory held, so that link counts stay true.
    fn drop_below(&mut self, top: Id) {
        let mut stack = vec![top];
        while let Some(id) = stack.pop() {
            if let Body::Dir(dir) = &mut self.nodes[id as usize].body {
                for child in std::mem::take(&mut dir.children).into_values() {
                    self.nodes[child as usize].links -= 1;
                    stack.push(child);
                }
            }
        }
    }

    /// The directory that an entry lies in, made where it is missing.
    fn parent(&mut self, path: &Vec<u8>) -> Result<Id, Fault> {
        if self.last_parent.0 == *path {
            return Ok(self.last_parent.1);
        }
        let id = self.walk(path, true)?.expect("missing directories were made");
        self.last_parent = (path.clone(), id);
        Ok(id)
    }

    /// Follows a path as the kernel does after chroot: links are followed, `..` at the root stays there.
    fn walk(&mut self, path: &[u8], make: bool) -> Result<Option<Id>, Fault> {
        let mut at = ROOT;
        let mut links = 0;
        let mut added = 0;
        // Parts still to go, the next one last.
        let mut parts: Vec<Vec<u8>> = parts(path);
        while let Some(part) = parts.pop() {
            let Some(dir) = self.dir(at) else { return Err("its path leads through a file".to_owned()) };
            if part == b".." {
                at = dir.parent;
                continue;
            }
            match dir.children.get(part.as_slice()).map(|id| (*id, &self.node(*id).body)) {
                Some((id, Body::Dir(_))) => at = id,
                Some((_, Body::Symlink(target))) => {
                    links += 1;
                    added += target.len();
                    if links > LINKS || added > self.longest {
                        return Err("its path leads through too many symbolic links".to_owned());
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    parts.extend(self::parts(target));
                }
                Some((_, Body::Whiteout)) | None if !make => return Ok(None),
                Some((_, Body::Whiteout)) | None if part.len() > 255 => {
                    return Err("a link in its path has a name longer than 255 bytes".to_owned());
                }
                Some((_, Body::Whiteout)) | None => at = self.imply(at, part),
                Some(_) => return Err("its path leads through a file".to_owned()),
            }
        }
        Ok(Some(at))
    }

    fn imply(&mut self, parent: Id, name: Vec<u8>) -> Id {
        let mut node = implied_dir(parent, &name);
        let id = Id::try_from(self.nodes.len()).expect("the limit on entries lies below 2^32");
        match self.dir_mut(parent).children.entry(name.into()) {
            Slot::Vacant(slot) => {
                slot.insert(id);
            }
            Slot::Occupied(mut whiteout) => {
                whiteout.insert(id);
                if let Body::Dir(dir) = &mut node.body {
                    dir.opaque = true;
                }
            }
        }
        self.nodes.push(node);
        id
    }
}

/// What an image may set: user attributes, file capabilities and ACLs. Overlay's own would let a layer hide or redirect
/// files of others; the rest (`trusted.*`, `security.selinux`, ...) belongs to the host.
pub(crate) fn keeps_xattr(name: &[u8]) -> bool {
    (name.len() > 5 && name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

fn implied_dir(parent: Id, name: &[u8]) -> Node {
    let dir = Dir { parent, name: name.into(), implied: true, ..Dir::default() };
    let meta = Meta { mode: 0o755, ..Meta::default() };
    Node { meta, links: 1, body: Body::Dir(Box::new(dir)), xattrs: None }
}

fn boxed(xattrs: Xattrs) -> Option<Box<Xattrs>> {
    (!xattrs.is_empty()).then(|| Box::new(xattrs))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// The parts of a path, last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let kept = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
    kept.rev().map(<[u8]>::to_vec).collect()
}
