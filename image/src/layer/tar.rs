//! The strict tar reader: a stream of normalised entries from ustar, PAX and GNU archives.
//!
//! Not the `tar` crate's: that one skips over malformed PAX records, takes the last of duplicates, and knows neither
//! GNU's PAX sparse formats nor budgets; each of these has been a vulnerability somewhere (CVE-2025-62518,
//! CVE-2025-58183, CVE-2026-33055). What two sane readers could understand differently is refused here.

use super::Limits;
use super::header::{Fault, Header, gnu_real_size, gnu_sparse};
use super::pax::{Pax, PaxSparse};
use super::source::{BLOCK, Source};
use crate::{Error, Result};

/// Zeros behind the end marker; archives are padded to a record of at most 1 MiB or so.
const TRAILER: u64 = 16 << 20;
/// Regions of one sparse file.
const REGIONS: usize = 1 << 20;

/// An entry as a file system would hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As the archive spells it, for messages.
    pub(crate) name: Vec<u8>,
    /// Relative, without `.` and `..` and doubled slashes; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
    /// Names as in the archive, e.g. `user.mime_type`; unfiltered.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits, setuid, setgid and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    pub(crate) nanos: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File(Data),
    /// Normalised like a path.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// Where a file's content lies in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    /// Byte position in the tar, a multiple of 512.
    pub(crate) offset: u64,
    /// Bytes there.
    pub(crate) stored: u64,
    /// The file's size.
    pub(crate) size: u64,
    /// For a sparse file: (position in the file, length) of what is stored, ascending.
    pub(crate) map: Option<Vec<(u64, u64)>>,
}

/// What extension headers have said about the entry that follows.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

pub(crate) struct TarReader<'a, 's> {
    source: &'s mut Source<'a>,
    limits: &'s Limits,
    entries: u64,
    /// Unread content of the current entry, and the padding behind it.
    content: u64,
    padding: u64,
}

impl<'a, 's> TarReader<'a, 's> {
    pub(crate) fn new(source: &'s mut Source<'a>, limits: &'s Limits) -> Self {
        Self { source, limits, entries: 0, content: 0, padding: 0 }
    }

    /// Entries so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry; content of the one before that was not read is skipped. After `None` the stream is at its end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut pending = Pending::default();
        loop {
            self.skip(self.content)?;
            let Some(block) = self.source.block()? else { return end(&pending) };
            if block.iter().all(|b| *b == 0) {
                end(&pending)?;
                self.trailer()?;
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(|reason| entry_error(&block[..100], reason))?;
            if !self.extension(&header, &mut pending)? {
                self.entries += 1;
                if self.entries > self.limits.entries {
                    let limit = self.limits.entries;
                    return Err(Error::Limit { what: "entries of a layer".to_owned(), limit });
                }
                let name = pending.name(&header).to_vec();
                return self
                    .entry(&header, &block, pending)
                    .map_err(|e| match e {
                        Stop::Fault(reason) => entry_error(&name, reason),
                        Stop::Error(e) => e,
                    })
                    .map(Some);
            }
        }
    }

    /// Hands on the content of the current entry as it is stored.
    pub(crate) fn content(&mut self, to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let length = std::mem::take(&mut self.content);
        self.source.each(length, to)
    }

    fn skip(&mut self, content: u64) -> Result<()> {
        self.content = 0;
        let length = content + std::mem::take(&mut self.padding);
        self.source.each(length, |_| Ok(()))
    }

    fn expect_content(&mut self, size: u64) -> Result<(), Fault> {
        if size > self.limits.bytes {
            return Err(format!("its size {size} exceeds the limit of {}", self.limits.bytes));
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// Takes in a header that only speaks about the next one; `false` if it is an entry itself.
    fn extension(&mut self, header: &Header, pending: &mut Pending) -> Result<bool> {
        if !matches!(header.kind, b'x' | b'g' | b'L' | b'K') {
            return Ok(false);
        }
        let fault = |reason: Fault| entry_error(&header.path, reason);
        let limit = if matches!(header.kind, b'x' | b'g') { self.limits.pax } else { self.limits.path + 1 };
        if header.size > limit {
            return Err(fault(format!(
                "{} bytes of extension records, at most {limit} are allowed",
                header.size
            )));
        }
        self.expect_content(header.size).map_err(fault)?;
        let mut data = Vec::with_capacity(usize::try_from(header.size).unwrap_or_default());
        self.content(|piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        pending.take(header.kind, &data).map_err(fault)?;
        Ok(true)
    }

    fn entry(&mut self, header: &Header, block: &[u8; BLOCK], pending: Pending) -> Result<Entry, Stop> {
        let name = pending.name(header).to_vec();
        let link = pending.link(header).to_vec();
        let pax = pending.pax.unwrap_or_default();
        let sparse_name = pax.sparse.as_ref().and_then(|s| s.name.clone());
        let size = pax.size.unwrap_or(header.size);
        let path = normalise(sparse_name.as_ref().unwrap_or(&name), self.limits)?;
        let meta = meta(header, &pax)?;
        if !matches!(header.kind, b'0' | b'S') && pax.sparse.is_some() {
            return Err("sparse records on what is not a file".to_owned().into());
        }
        let kind = match header.kind {
            b'0' | b'S' => Kind::File(self.file(header, block, size, pax.sparse)?),
            // The size of a hard link tells that of its target in some archives; no reader takes it for content.
            b'1' => Kind::HardLink(normalise(&link, self.limits)?),
            _ if size != 0 => {
                return Err("content where there can be none".to_owned().into());
            }
            b'2' => Kind::Symlink(target(link, self.limits)?),
            b'3' => device(header).map(|(major, minor)| Kind::Char(major, minor))?,
            b'4' => device(header).map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(format!("unsupported entry type {:?}", char::from(other)).into()),
        };
        if !matches!(kind, Kind::Dir) && path.is_empty() {
            return Err("the root of a layer must be a directory".to_owned().into());
        }
        let held: usize = pax.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
        if held as u64 > self.limits.xattrs {
            return Err(format!("more than {} bytes of extended attributes", self.limits.xattrs).into());
        }
        Ok(Entry { name, path, kind, meta, xattrs: pax.xattrs })
    }

    fn file(
        &mut self,
        header: &Header,
        block: &[u8; BLOCK],
        stored: u64,
        sparse: Option<PaxSparse>,
    ) -> Result<Data, Stop> {
        let (map, size) = match (header.kind, sparse) {
            (b'S', Some(_)) => return Err("two kinds of sparse map".to_owned().into()),
            (b'S', None) => {
                let map = self.gnu_map(block)?;
                self.expect_content(stored)?;
                (Some(map), gnu_real_size(block)?)
            }
            (_, None) => {
                self.expect_content(stored)?;
                (None, stored)
            }
            (_, Some(sparse)) => {
                let size = sparse.real_size.ok_or_else(|| "sparse file without its size".to_owned())?;
                self.expect_content(stored)?;
                (Some(self.pax_map(sparse)?), size)
            }
        };
        let data = Data { offset: self.source.position(), stored: self.content, size, map };
        check_map(&data, self.limits)?;
        Ok(data)
    }

    fn gnu_map(&mut self, block: &[u8; BLOCK]) -> Result<Vec<(u64, u64)>, Stop> {
        let (mut map, mut more) = gnu_sparse(block, false)?;
        while more {
            let block = self.source.block()?.ok_or_else(|| "its sparse map is cut off".to_owned())?;
            let (regions, next) = gnu_sparse(&block, true)?;
            map.extend(regions);
            more = next;
            if map.len() > REGIONS {
                return Err("too many sparse regions".to_owned().into());
            }
        }
        Ok(map)
    }

    fn pax_map(&mut self, sparse: PaxSparse) -> Result<Vec<(u64, u64)>, Stop> {
        if sparse.map_in_data {
            return self.map_in_data();
        }
        if sparse.count.is_some_and(|n| n != sparse.map.len() as u64) {
            return Err("its sparse map is not as long as it says".to_owned().into());
        }
        Ok(sparse.map)
    }

    /// PAX 1.0: decimal lines (count, then offset and length of each region), padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<(u64, u64)>, Stop> {
        let mut lines = Lines { blocks: self, block: [0; BLOCK], at: BLOCK };
        let count = lines.number()?;
        if count > REGIONS as u64 {
            return Err("too many sparse regions".to_owned().into());
        }
        let mut map = Vec::new();
        for _ in 0..count {
            map.push((lines.number()?, lines.number()?));
        }
        Ok(map)
    }

    /// What follows the first of the two zero blocks must be zeros, and not without end.
    fn trailer(&mut self) -> Result<()> {
        let mut left = TRAILER;
        loop {
            let piece = self.source.piece(BUFFER)?;
            if piece.is_empty() {
                return Ok(());
            }
            if piece.iter().any(|b| *b != 0) {
                return Err(Error::Stream { reason: "data behind the end of the tar".to_owned() });
            }
            left = left.checked_sub(piece.len() as u64).ok_or(Error::Limit {
                what: "zero bytes behind the end of the tar".to_owned(),
                limit: TRAILER,
            })?;
        }
    }
}

const BUFFER: usize = 256 << 10;

/// Why an entry could not be read: it is at fault, or the stream is.
enum Stop {
    Fault(Fault),
    Error(Error),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

struct Lines<'l, 'a, 's> {
    blocks: &'l mut TarReader<'a, 's>,
    block: [u8; BLOCK],
    at: usize,
}

impl Lines<'_, '_, '_> {
    fn number(&mut self) -> Result<u64, Stop> {
        let mut value = 0_u64;
        for digits in 0..=20 {
            let byte = self.byte()?;
            if byte == b'\n' && digits > 0 {
                return Ok(value);
            }
            if !byte.is_ascii_digit() {
                break;
            }
            value = value
                .checked_mul(10)
                .and_then(|v| v.checked_add(u64::from(byte - b'0')))
                .ok_or_else(|| "sparse map out of range".to_owned())?;
        }
        Err("malformed sparse map".to_owned().into())
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        if self.at == BLOCK {
            if self.blocks.content < BLOCK as u64 {
                return Err("its sparse map is cut off".to_owned().into());
            }
            self.block = self.blocks.source.block()?.ok_or_else(|| "its sparse map is cut off".to_owned())?;
            self.blocks.content -= BLOCK as u64;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}

impl Pending {
    fn take(&mut self, kind: u8, data: &[u8]) -> Result<(), Fault> {
        match kind {
            b'g' => return Pax::check_global(data),
            b'x' if self.pax.is_none() => self.pax = Some(Pax::parse(data)?),
            b'L' if self.long_name.is_none() => self.long_name = Some(long(data)?),
            b'K' if self.long_link.is_none() => self.long_link = Some(long(data)?),
            _ => return Err("two extension headers of one kind for one entry".to_owned()),
        }
        let pax = self.pax.as_ref();
        let twice = (self.long_name.is_some() && pax.is_some_and(|p| p.path.is_some()))
            || (self.long_link.is_some() && pax.is_some_and(|p| p.link.is_some()));
        if twice { Err("both GNU and PAX rename the entry".to_owned()) } else { Ok(()) }
    }

    fn name<'p>(&'p self, header: &'p Header) -> &'p [u8] {
        self.long_name.as_ref().or(self.pax.as_ref().and_then(|p| p.path.as_ref())).unwrap_or(&header.path)
    }

    fn link<'p>(&'p self, header: &'p Header) -> &'p [u8] {
        self.long_link.as_ref().or(self.pax.as_ref().and_then(|p| p.link.as_ref())).unwrap_or(&header.link)
    }
}

/// GNU's long names end with a NUL that belongs to the format.
fn long(data: &[u8]) -> Result<Vec<u8>, Fault> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    if end == 0 || data[end..].iter().any(|b| *b != 0) {
        return Err("malformed GNU long name".to_owned());
    }
    Ok(data[..end].to_vec())
}

fn meta(header: &Header, pax: &Pax) -> Result<Meta, Fault> {
    let id = |own: u64, record: Option<u64>, what: &str| {
        u32::try_from(record.unwrap_or(own))
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| format!("{what} is out of range"))
    };
    let (mtime, nanos) = pax.mtime.unwrap_or((header.mtime, 0));
    Ok(Meta {
        mode: (header.mode & 0o7777) as u16,
        uid: id(header.uid, pax.uid, "uid")?,
        gid: id(header.gid, pax.gid, "gid")?,
        mtime,
        nanos,
    })
}

/// Linux has 12 bits for the major number and 20 for the minor.
fn device(header: &Header) -> Result<(u32, u32), Fault> {
    if header.major >= 1 << 12 || header.minor >= 1 << 20 {
        return Err(format!("device number {}:{} is out of range", header.major, header.minor));
    }
    Ok((header.major as u32, header.minor as u32))
}

fn target(link: Vec<u8>, limits: &Limits) -> Result<Vec<u8>, Fault> {
    // Linux: PATH_MAX with its NUL.
    if link.is_empty() || link.len() as u64 > limits.path.min(4095) {
        return Err("its target is empty or too long".to_owned());
    }
    Ok(link)
}

/// Makes a path relative to the layer's root, purely by its text; one that leaves the root is refused.
pub(crate) fn normalise(raw: &[u8], limits: &Limits) -> Result<Vec<u8>, Fault> {
    if raw.is_empty() {
        return Err("empty path".to_owned());
    }
    if raw.len() as u64 > limits.path {
        return Err(format!("its path is longer than {} bytes", limits.path));
    }
    let mut path: Vec<u8> = Vec::with_capacity(raw.len());
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if path.is_empty() {
                    return Err("its path leaves the layer".to_owned());
                }
                path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0));
            }
            _ if part.len() > 255 => return Err("a name is longer than 255 bytes".to_owned()),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

fn check_map(data: &Data, limits: &Limits) -> Result<(), Fault> {
    let Some(map) = &data.map else { return Ok(()) };
    // Holes cost nothing, but what the file seems to hold must still be a number a file system can hold.
    if data.size > limits.bytes {
        return Err(format!("its size {} exceeds the limit of {}", data.size, limits.bytes));
    }
    let mut end = 0_u64;
    let mut stored = 0_u64;
    for (offset, length) in map {
        let next = offset.checked_add(*length).filter(|n| *offset >= end && *n <= data.size);
        end = next.ok_or_else(|| "its sparse map overlaps or exceeds the file".to_owned())?;
        stored += length;
    }
    if stored == data.stored { Ok(()) } else { Err("its sparse map and its size differ".to_owned()) }
}

fn end(pending: &Pending) -> Result<Option<Entry>> {
    if pending.is_empty() {
        Ok(None)
    } else {
        Err(Error::Stream { reason: "the tar ends between an extension header and its entry".to_owned() })
    }
}

/// An error that names the entry, at a length fit for a message.
pub(crate) fn entry_error(name: &[u8], reason: impl Into<String>) -> Error {
    Error::Entry { entry: shown(name), reason: reason.into() }
}

/// The name for messages, cut to a sane length.
pub(super) fn shown(name: &[u8]) -> String {
    let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
    String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned()
}
