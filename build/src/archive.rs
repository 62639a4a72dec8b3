//! Archives that `ADD` unpacks: tar, plain or in gzip or zstd. Members go into the layer's nodes, never through a path of the host.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, MemfdFlags};
use sha2::{Digest as _, Sha256};

use crate::changes::{Changes, Content, Node, NodeKind};
use crate::copy::Target;
use crate::tree::{Found, Lookup, resolve};
use crate::{Error, Result};

/// Most bytes that an archive may unpack to.
const MAX_UNPACKED: u64 = 32 << 30;
/// Most bytes out per byte in, from the first 64 MiB on: a decompression bomb has more.
const MAX_RATIO: u64 = 1000;
const MAX_MEMBERS: usize = 4_000_000;

/// An archive, inflated.
pub(crate) struct Archive {
    file: File,
    name: PathBuf,
}

impl Archive {
    /// Told by its content; `None` if the file is no archive.
    pub(crate) fn open(mut file: File, name: &Path, line: usize) -> Result<Option<Self>> {
        let fail = |e| Error::io(name, e);
        let mut head = Vec::new();
        (&mut file).take(1024).read_to_end(&mut head).map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let unsupported =
            |what: &str| Err(Error::Unsupported { line, feature: format!("ADD of an archive in {what}") });
        let inflated: Box<dyn Read> = match head.as_slice() {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(file).map_err(fail)?),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => return unsupported("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return unsupported("xz"),
            head if is_tar(head) => return Ok(Some(Self { file, name: name.to_owned() })),
            _ => return Ok(None),
        };
        let mut inflated = inflated;
        let mut first = Vec::new();
        // What cannot be inflated is copied as it is, as Docker does.
        if inflated.by_ref().take(512).read_to_end(&mut first).is_err() || !is_tar(&first) {
            return Ok(None);
        }
        let limit = size.saturating_mul(MAX_RATIO).clamp(64 << 20, MAX_UNPACKED);
        let whole = std::io::Cursor::new(first).chain(inflated);
        let (file, _) = spool_from(whole, limit, &|| Ok(()))?;
        Ok(Some(Self { file, name: name.to_owned() }))
    }
}

/// A header block with a right checksum, or the zeros of an empty archive.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    header.cksum().is_ok_and(|c| c == sum) && block[0] != 0
}

/// Takes a stream into memory that can be seeked in; the digest is in hexadecimal.
pub(crate) fn spool(
    body: Box<dyn Read + Send>,
    limit: u64,
    check: &dyn Fn() -> Result<()>,
) -> Result<(File, String)> {
    spool_from(body, limit, check)
}

fn spool_from(mut body: impl Read, limit: u64, check: &dyn Fn() -> Result<()>) -> Result<(File, String)> {
    let fail = |e: std::io::Error| Error::io("temporary file", e);
    let mut file = File::from(
        rustix::fs::memfd_create("longshore-build", MemfdFlags::CLOEXEC).map_err(|e| fail(e.into()))?,
    );
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        check()?;
        let n = body.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > limit {
            return Err(Error::TooLarge { what: "unpacked or downloaded file".to_owned(), limit });
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(fail)?;
    }
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    Ok((file, crate::keys::hex(&hash.finalize())))
}

/// Adds all members below the destination, which becomes a directory. Members keep their own owners and modes, whatever
/// `--chown` and `--chmod` say: those are for the directories that have to be made, as in BuildKit.
pub(crate) fn extract(
    archive: Archive,
    changes: &mut Changes<'_>,
    target: &Target,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let (dest, _) = resolve(changes, Path::new(&target.dest), true)?;
    changes.make_dirs(&dest, target.owner.unwrap_or((0, 0)))?;
    let Archive { file, name } = archive;
    let fail = |e| Error::io(&name, e);
    let bytes = Arc::new(file.try_clone().map_err(fail)?);
    let mut reader = tar::Archive::new(file);
    for (count, entry) in reader.entries_with_seek().map_err(fail)?.enumerate() {
        check()?;
        if count > MAX_MEMBERS {
            return Err(Error::TooLarge {
                what: format!("number of members of {}", name.display()),
                limit: MAX_MEMBERS as u64,
            });
        }
        let mut entry = entry.map_err(fail)?;
        member(&mut entry, &dest, changes, &bytes, &name)?;
    }
    Ok(())
}

fn member<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    dest: &Path,
    changes: &mut Changes<'_>,
    bytes: &Arc<File>,
    name: &Path,
) -> Result<()> {
    let fail = |e| Error::io(name, e);
    let path = entry.path().map_err(fail)?.into_owned();
    let Some(rel) = inside(&path) else {
        return Err(fail(std::io::Error::other(format!(
            "member {} points out of the archive",
            path.display()
        ))));
    };
    let Some(file_name) = rel.file_name() else { return Ok(()) };
    // Parents are resolved in the root: a link among the members leads nowhere else.
    let (parent, _) = resolve(changes, &dest.join(rel.parent().unwrap_or(Path::new(""))), true)?;
    changes.make_dirs(&parent, (0, 0))?;
    let real = parent.join(file_name);
    let header = entry.header().clone();
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let xattrs = xattrs(entry)?;
    let kind = match header.entry_type() {
        tar::EntryType::Directory => NodeKind::Dir,
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let offset = entry.raw_file_position();
            NodeKind::File { content: Content::Part { file: Arc::clone(bytes), offset }, size: entry.size() }
        }
        tar::EntryType::Symlink => NodeKind::Link(link(entry, name)?),
        tar::EntryType::Link => return hardlink(entry, dest, real, changes, name),
        tar::EntryType::Fifo => NodeKind::Fifo,
        tar::EntryType::Char | tar::EntryType::Block => {
            let device = |n: std::io::Result<Option<u32>>| n.map(Option::unwrap_or_default).map_err(fail);
            let rdev = rustix::fs::makedev(device(header.device_major())?, device(header.device_minor())?);
            let is_char = header.entry_type() == tar::EntryType::Char;
            NodeKind::Device {
                kind: if is_char { FileType::CharacterDevice } else { FileType::BlockDevice },
                rdev,
            }
        }
        _ => return Ok(()),
    };
    let is_dir = matches!(kind, NodeKind::Dir);
    let (uid, gid) = (number(header.uid().map_err(fail)?), number(header.gid().map_err(fail)?));
    let mode = header.mode().map_err(fail)? & 0o7777;
    let mtime = i64::try_from(header.mtime().map_err(fail)?).unwrap_or(0);
    let real = replaced(changes, real, is_dir)?;
    changes.put(real, Node { kind, mode, uid, gid, mtime, xattrs })
}

/// A directory member where there is a link to a directory goes into that directory.
fn replaced(changes: &Changes<'_>, real: PathBuf, is_dir: bool) -> Result<PathBuf> {
    if is_dir && matches!(changes.at(&real)?, Some(Found::Link(_))) {
        let (followed, found) = resolve(changes, &real, true)?;
        if found == Some(Found::Dir) {
            return Ok(followed);
        }
    }
    Ok(real)
}

/// The member's path below the archive's top; `None` if it has `..` in it.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(p) => out.push(p),
            Component::ParentDir | Component::Prefix(_) => return None,
            Component::CurDir | Component::RootDir => {}
        }
    }
    Some(out)
}

fn link<R: Read>(entry: &tar::Entry<'_, R>, name: &Path) -> Result<PathBuf> {
    let target = entry.link_name().map_err(|e| Error::io(name, e))?;
    target
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| Error::io(name, std::io::Error::other("link without a target")))
}

fn hardlink<R: Read>(
    entry: &tar::Entry<'_, R>,
    dest: &Path,
    real: PathBuf,
    changes: &mut Changes<'_>,
    name: &Path,
) -> Result<()> {
    let target = link(entry, name)?;
    let fail = |m: String| Error::io(name, std::io::Error::other(m));
    let rel = inside(&target)
        .ok_or_else(|| fail(format!("link to {} points out of the archive", target.display())))?;
    let (first, _) = resolve(changes, &dest.join(rel), false)?;
    let Some(node) = changes.node(&first).filter(|n| !matches!(n.kind, NodeKind::Dir)).cloned() else {
        return Err(fail(format!("link to {}, which is not in the archive", target.display())));
    };
    // A layer's links must come after what they point to; where they sort before, the content is written twice.
    let kind = if first < real && matches!(node.kind, NodeKind::File { .. }) {
        NodeKind::Hardlink(first)
    } else {
        node.kind.clone()
    };
    changes.put(real, Node { kind, ..node })
}

fn xattrs<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<(String, Vec<u8>)>> {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for e in extensions.flatten() {
        let name = e.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr."));
        if let Some(n) = name.filter(|n| {
            *n == "security.capability" || n.starts_with("user.") && !n.starts_with("user.overlay.")
        }) {
            out.push((n.to_owned(), e.value_bytes().to_vec()));
        }
    }
    Ok(out)
}

/// Adds one file with content from elsewhere: at the destination, or in it under `name` if it is a directory.
pub(crate) fn place_file(
    changes: &mut Changes<'_>,
    target: &Target,
    name: &str,
    content: Content,
    size: u64,
    mode: u32,
    mtime: i64,
) -> Result<()> {
    let (mut real, found) = target.prepare(changes)?;
    if found == Some(Found::Dir) {
        let name = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())).file_name();
        real.push(
            name.ok_or_else(|| Error::io(&real, std::io::Error::other("the address has no file name")))?,
        );
    }
    let (uid, gid) = target.owner.unwrap_or((0, 0));
    let kind = NodeKind::File { content, size };
    changes.put(real, Node { kind, mode: target.mode_of(mode, false), uid, gid, mtime, xattrs: Vec::new() })
}

pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok((file, _)) = spool_from(bytes, 1 << 20, &|| Ok(())) else { return };
    let Ok(Some(archive)) = Archive::open(file, Path::new("fuzz"), 1) else { return };
    let base = crate::tree::Tree::empty();
    let mut changes = Changes::new(&base, 0);
    let target = Target { dest: "/d".to_owned(), owner: None, mode: None };
    if extract(archive, &mut changes, &target, &|| Ok(())).is_ok()
        && let Ok(nodes) = changes.finish()
    {
        assert!(
            nodes.iter().all(|(p, _)| p.components().all(|c| matches!(c, Component::Normal(_)))),
            "paths are plain"
        );
    }
}
