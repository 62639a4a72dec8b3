//! Directory data: blocks of sorted entries, each block a table of 12-byte records and the names behind it.

use super::layout::Layout;
use super::{BLOCK, file_type};
use crate::layer::tree::{Dir, Id, Tree};

const RECORD: usize = 12;

/// Bytes of a directory's data.
pub(super) fn size(dir: &Dir) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for name in names(dir) {
        let need = RECORD + name.0.len();
        if used + need > BLOCK as usize {
            (blocks, used) = (blocks + 1, 0);
        }
        used += need;
    }
    blocks * BLOCK + used as u64
}

pub(super) fn blocks(tree: &Tree, layout: &Layout, own: Id, dir: &Dir) -> Vec<u8> {
    let mut out = Vec::with_capacity(size(dir) as usize);
    let mut entries: Vec<(&[u8], Id)> = Vec::new();
    let mut used = 0;
    for (name, id) in names(dir) {
        let id = match name {
            b"." => own,
            b".." => dir.parent,
            _ => id,
        };
        let need = RECORD + name.len();
        if used + need > BLOCK as usize {
            block(tree, layout, &entries, &mut out);
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
            entries.clear();
            used = 0;
        }
        used += need;
        entries.push((name, id));
    }
    block(tree, layout, &entries, &mut out);
    out
}

fn block(tree: &Tree, layout: &Layout, entries: &[(&[u8], Id)], out: &mut Vec<u8>) {
    let mut offset = RECORD * entries.len();
    for (name, id) in entries {
        out.extend(layout.nid(*id).to_le_bytes());
        out.extend((offset as u16).to_le_bytes());
        out.extend([kind(file_type(&tree.node(*id).body)), 0]);
        offset += name.len();
    }
    entries.iter().for_each(|(name, _)| out.extend(*name));
}

/// `.`, `..` and the children in the order of their bytes; the ids of the dots are for the caller to fill in.
fn names(dir: &Dir) -> impl Iterator<Item = (&[u8], Id)> {
    let dots: [&[u8]; 2] = [b".", b".."];
    let mut dots = dots.into_iter().peekable();
    let mut children = dir.children.iter().peekable();
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some(dot), Some((name, _))) if *dot > &***name => children.next().map(|(n, id)| (&**n, *id)),
        (Some(_), _) => dots.next().map(|dot| (dot, 0)),
        (None, _) => children.next().map(|(n, id)| (&**n, *id)),
    })
}

/// `EROFS_FT_*`.
fn kind(file_type: u16) -> u8 {
    match file_type {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        _ => 7,
    }
}
