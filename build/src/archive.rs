//! Archives that `ADD` unpacks: tar, plain or in gzip or zstd. Members go into the layer's nodes, never through a path of the host.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_image::Ctx;
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::changes::{Changes, Content, Node, NodeKind};
use crate::copy::Target;
use crate::pattern::clean_path;
use crate::tree::{Found, resolve};
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
    pub(crate) fn open(mut file: File, name: &Path, line: usize, spool: &Spool<'_>) -> Result<Option<Self>> {
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
        let (file, _) = spool.take(whole, limit)?;
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

/// Takes streams into files that can be seeked in, and that have no name: they are gone when they are closed, however that comes.
pub(crate) struct Spool<'a> {
    /// Where the files are; without it in memory.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) ctx: Ctx<'a>,
}

impl Spool<'_> {
    fn file(&self) -> rustix::io::Result<OwnedFd> {
        let Some(dir) = &self.dir else {
            return rustix::fs::memfd_create("longshore-build", MemfdFlags::CLOEXEC);
        };
        let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        match rustix::fs::open(dir, flags | OFlags::TMPFILE, mode) {
            // A file system without files that have no name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
                let number = COUNTER.fetch_add(1, Ordering::Relaxed);
                let path = dir.join(format!("build-{}-{number}", std::process::id()));
                let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
                rustix::fs::unlink(&path)?;
                Ok(file)
            }
            other => other,
        }
    }

    /// The file, at its beginning, and the content's digest in hexadecimal.
    pub(crate) fn take(&self, mut body: impl Read, limit: u64) -> Result<(File, String)> {
        let fail = |e: std::io::Error| Error::io("temporary file", e);
        let mut file = File::from(self.file().map_err(|e| fail(e.into()))?);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut total = 0;
        loop {
            self.ctx.check()?;
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
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

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
    // `..` stops at the destination, as in Docker.
    let rel = clean_path(&path);
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
    let (uid, gid) = (number(header.uid().map_err(fail)?), number(header.gid().map_err(fail)?));
    let mode = header.mode().map_err(fail)? & 0o7777;
    let mtime = i64::try_from(header.mtime().map_err(fail)?).unwrap_or(0);
    changes.replace(real, Node { kind, mode, uid, gid, mtime, xattrs })
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
    let (first, _) = resolve(changes, &dest.join(clean_path(&target)), false)?;
    let Some(node) = changes.node(&first).filter(|n| !matches!(n.kind, NodeKind::Dir)).cloned() else {
        return Err(fail(format!("link to {}, which is not in the archive", target.display())));
    };
    // A layer's links must come after what they point to; where they sort before, the content is written twice.
    let kind = if first < real && matches!(node.kind, NodeKind::File { .. }) {
        NodeKind::Hardlink(first)
    } else {
        node.kind.clone()
    };
    changes.replace(real, Node { kind, ..node })
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
    let spool = Spool { dir: None, ctx: Ctx::none() };
    let Ok((file, _)) = spool.take(bytes, 1 << 20) else { return };
    let Ok(Some(archive)) = Archive::open(file, Path::new("fuzz"), 1, &spool) else { return };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::AtomicBool;

    fn zeros(size: u64) -> File {
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        let mut gz =
            flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::fast());
        gz.write_all(header.as_bytes()).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(size), &mut gz).unwrap();
        let mut file = gz.finish().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    #[test]
    fn archives_are_inflated_on_disk_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool { dir: Some(dir.path().to_owned()), ctx: Ctx::none() };
        let archive = Archive::open(zeros(8 << 20), Path::new("a"), 1, &spool).unwrap().unwrap();
        let stat = archive.file.metadata().unwrap();
        assert_eq!((stat.dev(), stat.nlink()), (dir.path().metadata().unwrap().dev(), 0));
        assert_eq!(stat.len(), (8 << 20) + 512);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn inflating_ends_when_it_is_told_to() {
        let cancel = AtomicBool::new(true);
        let ctx = Ctx { cancel: &cancel, ..Ctx::none() };
        let opened = Archive::open(zeros(1 << 20), Path::new("a"), 1, &Spool { dir: None, ctx });
        assert!(matches!(opened, Err(Error::Cancelled)));
    }
}
