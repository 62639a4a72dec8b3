//! One tar header block: numbers, checksum, dialect. Strict where implementations have disagreed to their harm.

use super::source::BLOCK;

/// What a header says, before PAX and GNU records have their say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) major: u64,
    pub(crate) minor: u64,
}

/// Why a header is refused.
pub(crate) type Fault = String;

impl Header {
    /// Parses a block that is not all zeros.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, Fault> {
        check_sum(block)?;
        let posix = &block[257..263] == b"ustar\0";
        let gnu = &block[257..265] == b"ustar  \0";
        // star's own magic at the end of a POSIX header shortens the prefix and puts times behind it.
        let prefix = match (posix, &block[508..512] == b"tar\0") {
            (true, false) => text(&block[345..500]),
            (true, true) => text(&block[345..476]),
            (false, _) => &[],
        };
        let (major, minor) = if posix || gnu {
            (number(&block[329..337], "device number")?, number(&block[337..345], "device number")?)
        } else {
            (0, 0)
        };
        let name = text(&block[..100]);
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        let kind = match block[156] {
            // Before POSIX a directory was a file whose name ends with a slash.
            0 if path.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind => kind,
        };
        Ok(Self {
            kind,
            path,
            link: text(&block[157..257]).to_vec(),
            mode: u32::try_from(number(&block[100..108], "mode")?).map_err(|_| "mode is too large")?,
            uid: number(&block[108..116], "uid")?,
            gid: number(&block[116..124], "gid")?,
            size: number(&block[124..136], "size")?,
            mtime: signed(&block[136..148], "mtime")?,
            major,
            minor,
        })
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), Fault> {
    let told = number(&block[148..156], "checksum")?;
    let sum = |byte: fn(u8) -> i64| -> i64 {
        let (head, tail) = (&block[..148], &block[156..]);
        head.iter().chain(tail).map(|b| byte(*b)).sum::<i64>() + 8 * i64::from(b' ')
    };
    // Some old implementations summed signed chars.
    let wanted = [sum(i64::from), sum(|b| i64::from(b.cast_signed()))];
    match i64::try_from(told) {
        Ok(told) if wanted.contains(&told) => Ok(()),
        _ => Err("the header's checksum is wrong".to_owned()),
    }
}

/// A non-negative number: octal, or GNU's base-256.
pub(crate) fn number(field: &[u8], what: &str) -> Result<u64, Fault> {
    u64::try_from(signed(field, what)?).map_err(|_| format!("{what} is negative"))
}

fn signed(field: &[u8], what: &str) -> Result<i64, Fault> {
    if field[0] & 0x80 != 0 {
        return base_256(field).ok_or_else(|| format!("{what} is out of range"));
    }
    let trimmed = field.trim_ascii();
    let digits = trimmed.split(|b| *b == 0).next().unwrap_or_default().trim_ascii();
    // Leading NULs stand for an empty field as well.
    let rest = &trimmed[digits.len().min(trimmed.len())..];
    if rest.iter().any(|b| *b != 0 && *b != b' ') || digits.iter().any(|b| !(b'0'..=b'7').contains(b)) {
        return Err(format!("{what} is not an octal number"));
    }
    digits
        .iter()
        .try_fold(0_i64, |n, b| n.checked_mul(8)?.checked_add(i64::from(b - b'0')))
        .ok_or_else(|| format!("{what} is out of range"))
}

/// Two's complement, big endian; the top bit only marks the encoding.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let fill = if negative { 0xff } else { 0 };
    let mut bytes = field.to_vec();
    bytes[0] = if negative { bytes[0] } else { bytes[0] & 0x7f };
    let cut = bytes.len().saturating_sub(8);
    if bytes[..cut].iter().any(|b| *b != fill) {
        return None;
    }
    let mut last = [fill; 8];
    last[8 - (bytes.len() - cut)..].copy_from_slice(&bytes[cut..]);
    let value = i64::from_be_bytes(last);
    ((value < 0) == negative).then_some(value)
}

/// GNU's sparse map inside a header (4 regions) or an extension block (21): the regions, and whether another block follows.
pub(crate) fn gnu_sparse(block: &[u8; BLOCK], extension: bool) -> Result<(Vec<(u64, u64)>, bool), Fault> {
    let (table, flag) = if extension { (&block[..504], block[504]) } else { (&block[386..482], block[482]) };
    let mut regions = Vec::new();
    for pair in table.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        regions.push((number(&pair[..12], "sparse map")?, number(&pair[12..], "sparse map")?));
    }
    Ok((regions, flag != 0))
}

/// The whole size of a file in GNU's sparse format.
pub(crate) fn gnu_real_size(block: &[u8; BLOCK]) -> Result<u64, Fault> {
    number(&block[483..495], "sparse size")
}
