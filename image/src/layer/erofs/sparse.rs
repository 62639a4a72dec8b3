//! Sparse files as chunks: each chunk is a run of blocks in the tar, in a copy, or a hole.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{BLOCK, BLOCK_BITS, HEAD};
use crate::layer::tar::Data;

/// The number of no block: a hole.
const HOLE: u32 = u32::MAX;
const MOST_BITS: u8 = BLOCK_BITS + 31;

/// How the chunks of one file are found.
#[derive(Debug)]
pub(super) struct Plan {
    /// Binary logarithm of a chunk's size.
    pub(super) bits: u8,
    size: u64,
    /// Chunks that are copied behind the index, ascending, because the tar does not hold them in one aligned piece.
    copies: Option<Vec<u64>>,
}

impl Plan {
    pub(super) fn new(data: &Data, map: &[(u64, u64)]) -> Self {
        // The block map may take as much room as a quarter of the content, or 64 KiB.
        let most = (data.stored / 16).max(16 << 10);
        let fewest = (BLOCK_BITS..MOST_BITS).find(|bits| data.size >> bits <= most).unwrap_or(MOST_BITS);
        let aligned = map
            .iter()
            .filter(|(_, length)| *length > 0)
            .flat_map(|(offset, length)| {
                let whole = offset + length == data.size;
                [offset.trailing_zeros(), if whole { u64::BITS } else { length.trailing_zeros() }]
            })
            .min()
            .unwrap_or(u64::BITS)
            .min(u32::from(MOST_BITS)) as u8;
        if aligned >= fewest {
            return Self { bits: aligned.clamp(fewest, fewest.max(16)), size: data.size, copies: None };
        }
        let mut copies: Vec<u64> = Vec::new();
        let bits = fewest.max(12);
        for (offset, length) in map.iter().filter(|(_, length)| *length > 0) {
            let first = offset >> bits;
            let first = copies.last().map_or(first, |last| first.max(last + 1));
            copies.extend(first..=(offset + length - 1) >> bits);
        }
        Self { bits, size: data.size, copies: Some(copies) }
    }

    pub(super) fn chunks(&self) -> u64 {
        self.size.div_ceil(1 << self.bits)
    }

    /// Bytes of the copies.
    pub(super) fn copied(&self) -> u64 {
        self.copies.as_ref().map_or(0, |c| (c.len() as u64) << self.bits)
    }

    /// The first block of each chunk.
    pub(super) fn block_map<'p>(
        &'p self,
        data: &'p Data,
        copies_at: u32,
    ) -> Box<dyn Iterator<Item = u32> + 'p> {
        let per_chunk = 1_u64 << (self.bits - BLOCK_BITS);
        if let Some(copies) = &self.copies {
            let mut next = copies.iter().enumerate().peekable();
            return Box::new((0..self.chunks()).map(move |chunk| {
                next.next_if(|(_, c)| **c == chunk)
                    .map_or(HOLE, |(i, _)| copies_at + (i as u64 * per_chunk) as u32)
            }));
        }
        let mut regions = data.map.iter().flatten().copied().filter(|(_, length)| *length > 0).peekable();
        let mut stored = HEAD + data.offset;
        Box::new((0..self.chunks()).map(move |chunk| {
            let at = chunk << self.bits;
            while let Some((_, length)) = regions.next_if(|(offset, length)| offset + length <= at) {
                stored += length;
            }
            match regions.peek() {
                Some((offset, _)) if *offset <= at => ((stored + at - offset) / BLOCK) as u32,
                _ => HOLE,
            }
        }))
    }

    /// Writes the copied chunks: (position among the copies, bytes), ascending.
    pub(super) fn copy(
        &self,
        data: &Data,
        mut write: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
        file: &File,
    ) -> std::io::Result<()> {
        let Some(copies) = &self.copies else { return Ok(()) };
        let mut stored = HEAD + data.offset;
        let mut buffer = vec![0; 64 << 10];
        let mut index = 0;
        for (offset, length) in data.map.iter().flatten() {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let chunk = at >> self.bits;
                while copies[index] < chunk {
                    index += 1;
                }
                let most = (end - at).min(((chunk + 1) << self.bits) - at).min(buffer.len() as u64);
                let piece = &mut buffer[..most as usize];
                file.read_exact_at(piece, stored)?;
                write(((index as u64) << self.bits) + (at - (chunk << self.bits)), piece)?;
                at += most;
                stored += most;
            }
        }
        Ok(())
    }
}
