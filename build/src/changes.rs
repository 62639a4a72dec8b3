//! What `COPY`, `ADD` and `WORKDIR` add to a root, gathered as a set of nodes and streamed as a layer tar.
//!
//! Nothing is written into a mounted root: destinations are resolved in a read-only view, and the layer is made from the
//! result. So no link in an image can send a write elsewhere, and neither mount nor privilege is needed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use crate::tree::{Entry, Found, Lookup, Tree, xattrs};
use crate::{Error, Result};

/// Where a file's bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Bytes(Arc<[u8]>),
    /// A file of a tree, and its modification time when it was looked at.
    Tree {
        tree: Arc<Tree>,
        path: PathBuf,
        mtime: (i64, u32),
    },
    /// A piece of a file, such as a member of an archive.
    Part {
        file: Arc<File>,
        offset: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Dir,
    File {
        content: Content,
        size: u64,
    },
    Link(PathBuf),
    /// To a path of the same layer.
    Hardlink(PathBuf),
    Device {
        kind: FileType,
        rdev: u64,
    },
    Fifo,
}

/// One entry of the layer.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Node {
    pub(crate) fn dir(mode: u32, (uid, gid): (u32, u32), mtime: i64) -> Self {
        Self { kind: NodeKind::Dir, mode, uid, gid, mtime, xattrs: Vec::new() }
    }

    /// The metadata of a directory that is already there.
    fn existing(entry: &Entry) -> Self {
        Self::dir(entry.mode(), (entry.stat.st_uid, entry.stat.st_gid), entry.mtime().0)
    }
}

/// A root as it stands, and what is to be added.
pub(crate) struct Changes<'a> {
    base: &'a Tree,
    nodes: BTreeMap<PathBuf, Node>,
    now: i64,
    /// [`replace`](Self::replace) has added hard links.
    linked: bool,
}

impl Lookup for Changes<'_> {
    fn at(&self, path: &Path) -> Result<Option<Found>> {
        match self.nodes.get(path).map(|n| &n.kind) {
            Some(NodeKind::Dir) => Ok(Some(Found::Dir)),
            Some(NodeKind::Link(target)) => Ok(Some(Found::Link(target.clone()))),
            Some(NodeKind::File { .. } | NodeKind::Hardlink(_)) => Ok(Some(Found::File)),
            Some(_) => Ok(Some(Found::Other)),
            None => self.base.at(path),
        }
    }
}

impl<'a> Changes<'a> {
    /// `now` is the modification time, in seconds since the epoch, of directories that have to be made.
    pub(crate) fn new(base: &'a Tree, now: i64) -> Self {
        Self { base, nodes: BTreeMap::new(), now, linked: false }
    }

    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    /// Makes the directory and its missing parents; the path is free of links.
    pub(crate) fn make_dirs(&mut self, path: &Path, owner: (u32, u32)) -> Result<()> {
        let mut at = PathBuf::new();
        for part in path {
            at.push(part);
            match self.at(&at)? {
                Some(Found::Dir) => {}
                Some(_) => return Err(Error::io(format!("/{}", at.display()), rustix::io::Errno::NOTDIR)),
                None => {
                    self.nodes.insert(at.clone(), Node::dir(0o755, owner, self.now));
                }
            }
        }
        Ok(())
    }

    /// Adds a node in place of what is there: of a directory with all below it, unless the node is one, too. Its parents are there.
    pub(crate) fn replace(&mut self, path: PathBuf, node: Node) -> Result<()> {
        allowed(&path)?;
        let is_dir = matches!(node.kind, NodeKind::Dir);
        let over_file = self.nodes.get(&path).is_some_and(|n| !matches!(n.kind, NodeKind::Dir));
        if is_dir && over_file && self.base.at(&path)? == Some(Found::Dir) {
            // In a layer, what the first directory holds would show through the second.
            return Err(Error::io(
                format!("/{}", path.display()),
                io::Error::other("cannot replace a directory with a file and that with a directory"),
            ));
        }
        if !is_dir || over_file {
            self.remove(&path);
        }
        self.linked |= matches!(node.kind, NodeKind::Hardlink(_));
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Takes out what was added at the path and below it. What is linked to a file in there keeps its content.
    fn remove(&mut self, path: &Path) {
        let nodes = self.nodes.range(path.to_path_buf()..);
        let below: Vec<PathBuf> =
            nodes.map(|(p, _)| p).take_while(|p| p.starts_with(path)).cloned().collect();
        let gone: HashMap<PathBuf, Node> =
            below.into_iter().filter_map(|p| self.nodes.remove_entry(&p)).collect();
        if gone.is_empty() || !self.linked {
            return;
        }
        for node in self.nodes.values_mut() {
            if let NodeKind::Hardlink(first) = &node.kind
                && let Some(old) = gone.get(first)
            {
                node.kind = old.kind.clone();
            }
        }
    }

    /// Adds a node; its parents are there. A directory may replace a directory (its metadata), and anything else what is none.
    pub(crate) fn put(&mut self, path: PathBuf, node: Node) -> Result<()> {
        allowed(&path)?;
        let found = self.at(&path)?;
        let new_is_dir = matches!(node.kind, NodeKind::Dir);
        match found {
            Some(Found::Dir) if !new_is_dir => {
                return Err(Error::io(
                    format!("/{}", path.display()),
                    io::Error::other("cannot replace directory with file"),
                ));
            }
            Some(f) if new_is_dir && f != Found::Dir => {
                return Err(Error::io(
                    format!("/{}", path.display()),
                    io::Error::other("cannot copy to non-directory"),
                ));
            }
            _ => {}
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// What was added at the path.
    pub(crate) fn node(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes in order, and the parents that exist already: without those a layer's own directories would hide their metadata.
    pub(crate) fn finish(mut self) -> Result<Vec<(PathBuf, Node)>> {
        let mut parents: HashMap<PathBuf, Node> = HashMap::new();
        for path in self.nodes.keys() {
            for parent in path.ancestors().skip(1).take_while(|p| !p.as_os_str().is_empty()) {
                if self.nodes.contains_key(parent) || parents.contains_key(parent) {
                    break;
                }
                let entry =
                    self.base.entry(parent)?.ok_or_else(|| Error::io(parent, rustix::io::Errno::NOENT))?;
                parents.insert(parent.to_path_buf(), Node::existing(&entry));
            }
        }
        self.nodes.extend(parents);
        Ok(self.nodes.into_iter().collect())
    }
}

/// In a layer a name that begins with `.wh.` would delete a file.
fn allowed(path: &Path) -> Result<()> {
    if path.file_name().is_some_and(|n| n.as_bytes().starts_with(b".wh.")) {
        return Err(Error::io(
            format!("/{}", path.display()),
            io::Error::other("a layer cannot hold a name that begins with .wh."),
        ));
    }
    Ok(())
}

/// A layer tar, made as it is read.
pub(crate) struct TarStream {
    nodes: std::vec::IntoIter<(PathBuf, Node)>,
    /// Headers and padding on their way.
    buffer: io::Cursor<Vec<u8>>,
    body: Option<Body>,
    done: bool,
    /// What went wrong; the reader's caller only sees an `io::Error`.
    failed: Option<Error>,
}

struct Body {
    reader: Box<dyn Read + Send>,
    left: u64,
    size: u64,
    path: PathBuf,
    /// To see that the file is still the one that was looked at.
    check: Option<(File, (i64, u32))>,
}

impl TarStream {
    pub(crate) fn new(nodes: Vec<(PathBuf, Node)>) -> Self {
        Self {
            nodes: nodes.into_iter(),
            buffer: io::Cursor::default(),
            body: None,
            done: false,
            failed: None,
        }
    }

    /// The error behind a failed read.
    pub(crate) fn failure(self) -> Option<Error> {
        self.failed
    }

    fn advance(&mut self) -> Result<()> {
        let Some((path, mut node)) = self.nodes.next() else {
            self.done = true;
            self.buffer = io::Cursor::new(vec![0; 1024]);
            return Ok(());
        };
        let mut opened = None;
        if let NodeKind::File { content: Content::Tree { tree, path, .. }, .. } = &node.kind {
            let file = tree.open_file(path)?;
            node.xattrs = xattrs(&file).map_err(|e| Error::io(path, e))?;
            opened = Some(file);
        }
        self.buffer = io::Cursor::new(header(&path, &node)?);
        if let NodeKind::File { content, size } = node.kind {
            let (reader, check): (Box<dyn Read + Send>, _) = match content {
                Content::Bytes(b) => (Box::new(io::Cursor::new(b)), None),
                Content::Tree { path, mtime, .. } => {
                    let file = opened.expect("opened above");
                    let twin = file.try_clone().map_err(|e| Error::io(&path, e))?;
                    (Box::new(file), Some((twin, mtime)))
                }
                Content::Part { file, offset } => (Box::new(PartReader { file, offset }), None),
            };
            self.body = Some(Body { reader, left: size, size, path, check });
        }
        Ok(())
    }

    fn step(&mut self, out: &mut [u8]) -> Result<usize> {
        loop {
            let n = self.buffer.read(out).map_err(|e| Error::io("", e))?;
            if n > 0 {
                return Ok(n);
            }
            if let Some(body) = &mut self.body {
                if body.left > 0 {
                    let want = out.len().min(usize::try_from(body.left).unwrap_or(usize::MAX));
                    let n = body.reader.read(&mut out[..want]).map_err(|e| Error::io(&body.path, e))?;
                    if n == 0 {
                        return Err(Error::Changed { path: body.path.clone() });
                    }
                    body.left -= n as u64;
                    return Ok(n);
                }
                body.unchanged()?;
                let padding = (512 - body.size % 512) % 512;
                self.buffer = io::Cursor::new(vec![0; padding as usize]);
                self.body = None;
                continue;
            }
            if self.done {
                return Ok(0);
            }
            self.advance()?;
        }
    }
}

impl Body {
    fn unchanged(&self) -> Result<()> {
        let Some((file, mtime)) = &self.check else { return Ok(()) };
        let stat = rustix::fs::fstat(file).map_err(|e| Error::io(&self.path, e))?;
        let now = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        if now != *mtime || u64::try_from(stat.st_size) != Ok(self.size) {
            return Err(Error::Changed { path: self.path.clone() });
        }
        Ok(())
    }
}

impl Read for TarStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.step(out).map_err(|e| {
            let message = e.to_string();
            self.failed.get_or_insert(e);
            io::Error::other(message)
        })
    }
}

struct PartReader {
    file: Arc<File>,
    offset: u64,
}

impl Read for PartReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = std::os::unix::fs::FileExt::read_at(&*self.file, out, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// The header blocks of one entry: a pax header where ustar's fields are too small.
fn header(path: &Path, node: &Node) -> Result<Vec<u8>> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    let mut h = tar::Header::new_ustar();
    let mut pax = Pax::default();
    let mut size = 0;
    let (kind, link) = match &node.kind {
        NodeKind::Dir => {
            name.push(b'/');
            (tar::EntryType::Directory, None)
        }
        NodeKind::File { size: n, .. } => {
            size = *n;
            (tar::EntryType::Regular, None)
        }
        NodeKind::Link(t) => (tar::EntryType::Symlink, Some(t)),
        NodeKind::Hardlink(t) => (tar::EntryType::Link, Some(t)),
        NodeKind::Fifo => (tar::EntryType::Fifo, None),
        NodeKind::Device { kind, rdev } => {
            let kind =
                if *kind == FileType::BlockDevice { tar::EntryType::Block } else { tar::EntryType::Char };
            let bad = |e| Error::io(path, e);
            h.set_device_major(rustix::fs::major(*rdev)).map_err(bad)?;
            h.set_device_minor(rustix::fs::minor(*rdev)).map_err(bad)?;
            (kind, None)
        }
    };
    h.set_entry_type(kind);
    h.set_mode(node.mode);
    h.set_mtime(u64::try_from(node.mtime).unwrap_or(0));
    for (value, key) in [(u64::from(node.uid), "uid"), (u64::from(node.gid), "gid"), (size, "size")] {
        let limit = if key == "size" { 0o77_777_777_777 } else { 0o7_777_777 };
        if value > limit {
            pax.add(key, value.to_string().as_bytes());
        }
    }
    h.set_uid(u64::from(node.uid).min(0o7_777_777));
    h.set_gid(u64::from(node.gid).min(0o7_777_777));
    h.set_size(size.min(0o77_777_777_777));
    let fields = h.as_ustar_mut().expect("made as ustar");
    put(&mut fields.name, &name, "path", &mut pax);
    if let Some(target) = link {
        put(&mut fields.linkname, target.as_os_str().as_bytes(), "linkpath", &mut pax);
    }
    for (key, value) in &node.xattrs {
        pax.add(&format!("SCHILY.xattr.{key}"), value);
    }
    h.set_cksum();
    let mut out = pax.finish();
    out.extend_from_slice(h.as_bytes());
    Ok(out)
}

fn put(field: &mut [u8; 100], value: &[u8], key: &str, pax: &mut Pax) {
    if value.len() > field.len() || !value.is_ascii() {
        pax.add(key, value);
    }
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

/// Records of a pax extended header.
#[derive(Default)]
pub(crate) struct Pax(Vec<u8>);

impl Pax {
    /// `length key=value\n`, where the length counts itself.
    pub(crate) fn add(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Its blocks; none without a record.
    pub(crate) fn finish(self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut h = tar::Header::new_ustar();
        h.set_entry_type(tar::EntryType::XHeader);
        h.set_mode(0o644);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(0);
        h.set_size(self.0.len() as u64);
        h.as_ustar_mut().expect("made as ustar").name[..9].copy_from_slice(b"PaxHeader");
        h.set_cksum();
        let mut out = h.as_bytes().to_vec();
        out.extend_from_slice(&self.0);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_reads_back() {
        let base = Tree::empty();
        let mut changes = Changes::new(&base, 7);
        let long = format!("d/{}", "n".repeat(200));
        changes.make_dirs(Path::new("d"), (1, 2)).unwrap();
        let file = |n: &str| Node {
            kind: NodeKind::File { content: Content::Bytes(n.as_bytes().into()), size: n.len() as u64 },
            mode: 0o4755,
            uid: 3_000_000,
            gid: 5,
            mtime: 9,
            xattrs: vec![("user.x".into(), b"1\n2".to_vec())],
        };
        changes.put(long.clone().into(), file("hello")).unwrap();
        changes.put("ä".into(), Node { kind: NodeKind::Link("d".into()), ..file("") }).unwrap();
        assert!(changes.put("d".into(), file("")).is_err());
        let mut archive = tar::Archive::new(TarStream::new(changes.finish().unwrap()));
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut e = entry.unwrap();
            let mut text = String::new();
            e.read_to_string(&mut text).unwrap();
            let path = e.path().unwrap().to_str().unwrap().to_owned();
            seen.push((path, e.header().uid().unwrap(), text, e.header().mtime().unwrap()));
        }
        assert_eq!(seen[0], ("d/".into(), 1, String::new(), 7));
        assert_eq!((&seen[1].0, seen[1].2.as_str()), (&long, "hello"));
        assert_eq!(seen[2].0, "ä");
    }

    #[test]
    fn a_file_that_changes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "abc").unwrap();
        let tree = Arc::new(Tree::open(dir.path()).unwrap());
        let base = Tree::empty();
        let mut changes = Changes::new(&base, 0);
        let content = Content::Tree { tree, path: "f".into(), mtime: (1, 1) };
        let node = Node {
            kind: NodeKind::File { content, size: 3 },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: vec![],
        };
        changes.put("f".into(), node).unwrap();
        let mut stream = TarStream::new(changes.finish().unwrap());
        assert!(io::copy(&mut stream, &mut io::sink()).is_err());
        assert!(matches!(stream.failure(), Some(Error::Changed { .. })));
    }
}
