//! Writes a layer as an EROFS image: a head with the superblock, the tar byte for byte, and an index behind it.
//!
//! ```text
//! [4 KiB, superblock at 1024][tar, padded to 512][inodes, xattrs, small directories][directories, copies of odd sparse files]
//! ```
//! Blocks have 512 bytes, as in tar, so that the content of a file is a range of blocks inside the tar: nothing is
//! copied, and the diff ID is the digest of a byte range of the file. Format: Documentation/filesystems/erofs.rst and
//! fs/erofs/erofs_fs.h of Linux. The same tar always gives the same file.

mod dirent;
mod layout;
mod sparse;
mod xattr;

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use oci_spec::image::Digest;

use self::layout::{Layout, Spot};
use super::tree::{Body, Id, Node, Tree};
use crate::error::at;
use crate::{Error, Result};

/// Where the tar begins.
pub(crate) const HEAD: u64 = 4096;
pub(crate) const BLOCK: u64 = 512;
const BLOCK_BITS: u8 = 9;
const INODE: u64 = 64;
const SLOT: u64 = 32;
const MAGIC: u32 = 0xE0F5_E1E2;
const CHUNKED: u32 = 4;

/// How an inode's data is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Plain = 0,
    Inline = 2,
    Chunks = 4,
}

/// Writes the index of `tree` behind the tar of `tar_bytes` bytes in `file`, then the superblock.
pub(crate) fn finish(
    file: &File,
    path: &Path,
    tree: &Tree,
    tar_bytes: u64,
    id: &Digest,
    limit: u64,
) -> Result<u64> {
    let base = (HEAD + tar_bytes).next_multiple_of(BLOCK);
    let layout = Layout::new(tree, base)?;
    if layout.total() > limit.saturating_add(HEAD + tar_bytes) || layout.total() / BLOCK > u64::from(u32::MAX)
    {
        return Err(Error::Limit { what: "bytes of a layer's index".to_owned(), limit });
    }
    let mut out = Out { file: BufWriter::with_capacity(1 << 20, file), at: HEAD + tar_bytes };
    let mut write = || -> std::io::Result<()> {
        out.zeros_to(base)?;
        for id in &layout.order {
            write_inode(&mut out, tree, &layout, *id)?;
        }
        for id in &layout.order {
            write_data(&mut out, tree, &layout, *id, file)?;
        }
        out.file.flush()?;
        file.set_len(layout.total())?;
        file.write_all_at(&superblock(&layout, base, id), 1024)
    };
    let mut start = file;
    start.seek(SeekFrom::Start(HEAD + tar_bytes)).and_then(|_| write()).map_err(at("write", path))?;
    Ok(layout.total())
}

/// Output that knows its position.
struct Out<'f> {
    file: BufWriter<&'f File>,
    at: u64,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Small gaps become zeros, large ones holes.
    fn zeros_to(&mut self, position: u64) -> std::io::Result<()> {
        let gap = position.checked_sub(self.at).expect("the layout only goes forward");
        if gap <= 4096 {
            return self.put(&[0; 4096][..gap as usize]);
        }
        self.at = position;
        self.file.seek(SeekFrom::Start(position)).map(drop)
    }
}

fn superblock(layout: &Layout, base: u64, id: &Digest) -> [u8; 128] {
    let mut sb = [0; 128];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &(layout.root_nid() as u16).to_le_bytes());
    put(16, &(layout.order.len() as u64).to_le_bytes());
    put(36, &((layout.total() / BLOCK) as u32).to_le_bytes());
    put(40, &((base / BLOCK) as u32).to_le_bytes());
    put(48, &uuid(id));
    put(64, b"longshore\0");
    put(80, &(if layout.chunked { CHUNKED } else { 0 }).to_le_bytes());
    sb
}

/// Overlay tells lower file systems apart by it.
fn uuid(id: &Digest) -> [u8; 16] {
    let hex = id.digest().as_bytes();
    let nibble = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
    std::array::from_fn(|i| {
        hex.get(2 * i..2 * i + 2).map_or(0, |pair| nibble(pair[0]) << 4 | nibble(pair[1]))
    })
}

fn write_inode(out: &mut Out<'_>, tree: &Tree, layout: &Layout, id: Id) -> std::io::Result<()> {
    let (node, spot) = (tree.node(id), layout.spot(id));
    out.zeros_to(layout.base + spot.position)?;
    out.put(&inode(node, spot))?;
    out.put(&xattr::body(&node_xattrs(node)))?;
    match &node.body {
        Body::Symlink(target) if spot.data == Data::Inline => out.put(target),
        Body::Dir(dir) if spot.data == Data::Inline => out.put(&dirent::blocks(tree, layout, id, dir)),
        Body::File(data) if spot.data == Data::Chunks => {
            let plan = spot.plan.as_deref().expect("chunks were planned");
            plan.block_map(data, spot.block).try_for_each(|block| out.put(&block.to_le_bytes()))
        }
        _ => Ok(()),
    }
}

/// What does not fit beside its inode.
fn write_data(out: &mut Out<'_>, tree: &Tree, layout: &Layout, id: Id, file: &File) -> std::io::Result<()> {
    let (node, spot) = (tree.node(id), layout.spot(id));
    if !spot.outside {
        return Ok(());
    }
    out.zeros_to(u64::from(spot.block) * BLOCK)?;
    match &node.body {
        Body::Symlink(target) => out.put(target),
        Body::Dir(dir) => out.put(&dirent::blocks(tree, layout, id, dir)),
        Body::File(data) => {
            let plan = spot.plan.as_deref().expect("only sparse files are copied");
            let start = out.at;
            plan.copy(
                data,
                |position, bytes| {
                    out.zeros_to(start + position)?;
                    out.put(bytes)
                },
                file,
            )
        }
        _ => Ok(()),
    }
}

fn inode(node: &Node, spot: &Spot) -> [u8; INODE as usize] {
    let mut inode = [0; INODE as usize];
    let mut put = |at: usize, bytes: &[u8]| inode[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(1_u16 | (spot.data as u16) << 1).to_le_bytes());
    put(2, &xattr::count(&node_xattrs(node)).to_le_bytes());
    put(4, &(file_type(&node.body) | node.meta.mode).to_le_bytes());
    put(8, &spot.size.to_le_bytes());
    let union = match (&node.body, &spot.plan) {
        (Body::Char(major, minor) | Body::Block(major, minor), _) => {
            (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
        }
        (_, Some(plan)) => u32::from(plan.bits - BLOCK_BITS),
        (_, None) if spot.data == Data::Plain => spot.block,
        _ => 0,
    };
    put(16, &union.to_le_bytes());
    put(20, &((spot.position / SLOT) as u32).to_le_bytes());
    put(24, &node.meta.uid.to_le_bytes());
    put(28, &node.meta.gid.to_le_bytes());
    put(32, &node.meta.mtime.to_le_bytes());
    put(40, &node.meta.nanos.to_le_bytes());
    put(44, &spot.links.to_le_bytes());
    inode
}

fn file_type(body: &Body) -> u16 {
    match body {
        Body::Dir(_) => 0o040_000,
        Body::File(_) => 0o100_000,
        Body::Symlink(_) => 0o120_000,
        Body::Char(..) | Body::Whiteout => 0o020_000,
        Body::Block(..) => 0o060_000,
        Body::Fifo => 0o010_000,
    }
}

/// The entry's own attributes, and overlay's marks on directories.
fn node_xattrs(node: &Node) -> Vec<(Cow<'_, [u8]>, &[u8])> {
    let own =
        node.xattrs.iter().flat_map(|x| x.iter()).map(|(n, v)| (Cow::Borrowed(n.as_slice()), v.as_slice()));
    let dir = if let Body::Dir(dir) = &node.body { Some(dir.marks()) } else { None };
    let marks = dir.into_iter().flatten().map(|(name, value)| {
        let name = format!("trusted.overlay.{name}").into_bytes();
        (Cow::Owned(name), value)
    });
    own.chain(marks).collect()
}
