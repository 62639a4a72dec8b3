//! Decides where every inode and every directory goes, before anything is written.

use super::sparse::Plan;
use super::{BLOCK, Data, HEAD, INODE, SLOT, dirent, node_xattrs, xattr};
use crate::Result;
use crate::layer::tar::entry_error;
use crate::layer::tree::{Body, Id, ROOT, Tree};

/// Where one node is.
#[derive(Debug)]
pub(super) struct Spot {
    /// Of the inode, from the begin of the index.
    pub(super) position: u64,
    /// First block of what lies outside the inode area.
    pub(super) block: u32,
    /// Whether the second part of the index holds data of its own.
    pub(super) outside: bool,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) data: Data,
    pub(super) plan: Option<Box<Plan>>,
}

#[derive(Debug)]
pub(super) struct Layout {
    /// Nodes as their inodes follow each other: those of one directory together.
    pub(super) order: Vec<Id>,
    pub(super) chunked: bool,
    /// Where the index begins in the file.
    pub(super) base: u64,
    /// Index into `spots` by node; `u32::MAX` where a replaced node has none.
    slots: Vec<u32>,
    spots: Vec<Spot>,
    end: u64,
}

impl Layout {
    pub(super) fn new(tree: &Tree, base: u64) -> Result<Self> {
        let order = order(tree);
        let mut layout = Self {
            chunked: false,
            base,
            slots: vec![u32::MAX; tree.len()],
            spots: Vec::with_capacity(order.len()),
            end: 0,
            order,
        };
        // The root's number must not be 0: some programs skip directory entries with inode number 0.
        let mut position = INODE;
        for id in layout.order.clone() {
            let spot = spot(tree, id, position)?;
            position = spot.position + spot_size(tree, id, &spot);
            layout.chunked |= spot.data == Data::Chunks;
            layout.slots[id as usize] = layout.spots.len() as u32;
            layout.spots.push(spot);
        }
        let mut next = (base + position).div_ceil(BLOCK);
        for spot in &mut layout.spots {
            if spot.outside {
                // Checked against the format's 32 bits as a whole, before anything is written.
                spot.block = next as u32;
                let size = spot.plan.as_ref().map_or(spot.size, |plan| plan.copied());
                next += size.div_ceil(BLOCK);
            }
        }
        layout.end = next * BLOCK;
        Ok(layout)
    }

    pub(super) fn spot(&self, id: Id) -> &Spot {
        &self.spots[self.slots[id as usize] as usize]
    }

    /// Number of the inode.
    pub(super) fn nid(&self, id: Id) -> u64 {
        self.spot(id).position / SLOT
    }

    pub(super) fn root_nid(&self) -> u64 {
        self.nid(ROOT)
    }

    /// Bytes of the whole file.
    pub(super) fn total(&self) -> u64 {
        self.end
    }
}

fn order(tree: &Tree) -> Vec<Id> {
    let mut order = vec![ROOT];
    let mut seen = vec![false; tree.len()];
    seen[ROOT as usize] = true;
    let mut stack = vec![ROOT];
    while let Some(dir) = stack.pop().and_then(|id| tree.dir(id)) {
        let from = stack.len();
        for child in dir.children.values() {
            if !std::mem::replace(&mut seen[*child as usize], true) {
                order.push(*child);
                if tree.dir(*child).is_some() {
                    stack.push(*child);
                }
            }
        }
        stack[from..].reverse();
    }
    order
}

fn spot(tree: &Tree, id: Id, after: u64) -> Result<Spot> {
    let node = tree.node(id);
    let xattrs = xattr::size(&node_xattrs(node));
    let too_many = node.xattrs.iter().flat_map(|x| x.iter()).any(|(_, v)| v.len() > usize::from(u16::MAX));
    if too_many || xattrs / 4 >= u64::from(u16::MAX) {
        return Err(entry_error(&name_of(tree, id), "its extended attributes are too large"));
    }
    let mut spot = Spot {
        position: 0,
        block: 0,
        outside: false,
        size: 0,
        links: node.links,
        data: Data::Plain,
        plan: None,
    };
    let mut inline = None;
    match &node.body {
        Body::Dir(dir) => {
            spot.size = dirent::size(dir);
            spot.links = 2 + dir.children.values().filter(|c| tree.dir(**c).is_some()).count() as u32;
            inline = Some(spot.size);
        }
        Body::Symlink(target) => {
            spot.size = target.len() as u64;
            inline = Some(spot.size);
        }
        Body::File(data) => {
            spot.size = data.size;
            if let Some(map) = &data.map {
                let plan = Plan::new(data, map);
                spot.outside = plan.copied() > 0;
                spot.data = Data::Chunks;
                spot.plan = Some(Box::new(plan));
            } else if data.size > 0 {
                spot.block = ((HEAD + data.offset) / BLOCK) as u32;
            }
        }
        Body::Char(..) | Body::Block(..) | Body::Fifo | Body::Whiteout => {}
    }
    spot.position = align(after, INODE);
    if let Some(size) = inline {
        // Inline data must lie in one block; the attributes before it need not.
        let at = spot.position + INODE + xattrs;
        if at % BLOCK + size <= BLOCK {
            spot.data = Data::Inline;
        } else if (INODE + xattrs) % BLOCK + size <= BLOCK {
            spot.position = spot.position.next_multiple_of(BLOCK);
            spot.data = Data::Inline;
        } else {
            spot.outside = true;
        }
    }
    Ok(spot)
}

/// The next slot from which `size` bytes do not cross a block.
fn align(position: u64, size: u64) -> u64 {
    let position = position.next_multiple_of(SLOT);
    if position % BLOCK + size > BLOCK { position.next_multiple_of(BLOCK) } else { position }
}

/// Bytes of the inode area that the node takes.
fn spot_size(tree: &Tree, id: Id, spot: &Spot) -> u64 {
    let head = INODE + xattr::size(&node_xattrs(tree.node(id)));
    head + match spot.data {
        Data::Plain => 0,
        Data::Inline => spot.size,
        Data::Chunks => spot.plan.as_ref().map_or(0, |plan| 4 * plan.chunks()),
    }
}

/// Some name of a node, for messages.
fn name_of(tree: &Tree, id: Id) -> Vec<u8> {
    let named = (0..tree.len() as Id)
        .filter_map(|dir| tree.dir(dir))
        .find_map(|dir| dir.children.iter().find(|(_, child)| **child == id).map(|(name, _)| name.to_vec()));
    named.unwrap_or_default()
}
