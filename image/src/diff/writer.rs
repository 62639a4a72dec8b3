//! Writes tar: ustar where it fits, PAX records where it does not, the same bytes for the same entries.

use std::io::{self, Write};

/// One entry to write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) path: &'a [u8],
    /// The type flag.
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) nanos: u32,
    pub(crate) link: &'a [u8],
    pub(crate) device: (u32, u32),
    /// Sorted by name.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

const OCTAL_11: u64 = 0o777_7777_7777;
const OCTAL_7: u32 = 0o777_7777;

/// Writes the header blocks; content and [`pad`] are for the caller.
pub(crate) fn head(out: &mut dyn Write, head: &Head<'_>) -> io::Result<()> {
    let records = records(head);
    if !records.is_empty() {
        let base = head.path.strip_suffix(b"/").unwrap_or(head.path);
        let base = base.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let path = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
        let size = records.len() as u64;
        out.write_all(&block(&Head { path: &path, kind: b'x', mode: 0o644, size, ..Head::default() }))?;
        out.write_all(&records)?;
        pad(out, size)?;
    }
    out.write_all(&block(head))
}

/// Zeros up to the next block.
pub(crate) fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let gap = size.next_multiple_of(512) - size;
    out.write_all(&[0; 512][..gap as usize])
}

/// The end of the archive.
pub(crate) fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 1024])
}

fn records(head: &Head<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if head.gid > OCTAL_7 {
        record(&mut out, b"gid", head.gid.to_string().as_bytes());
    }
    if head.link.len() > 100 {
        record(&mut out, b"linkpath", head.link);
    }
    if head.nanos != 0 || u64::try_from(head.mtime).map_or(true, |t| t > OCTAL_11) {
        record(&mut out, b"mtime", time(head.mtime, head.nanos).as_bytes());
    }
    if split(head.path).is_none() {
        record(&mut out, b"path", head.path);
    }
    if head.size > OCTAL_11 {
        record(&mut out, b"size", head.size.to_string().as_bytes());
    }
    if head.uid > OCTAL_7 {
        record(&mut out, b"uid", head.uid.to_string().as_bytes());
    }
    for (name, value) in head.xattrs {
        record(&mut out, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    out
}

fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // " KEY=VALUE\n", and the digits of the length, which count as well.
    let body = key.len() + value.len() + 3;
    let digits = |n: usize| n.to_string().len();
    let mut length = body + digits(body);
    if body + digits(length) != length {
        length = body + digits(length);
    }
    out.extend(format!("{length} ").into_bytes());
    out.extend([key, b"=", value, b"\n"].concat());
}

/// Negative times count back from the second above.
fn time(seconds: i64, nanos: u32) -> String {
    let (sign, seconds, nanos) = match seconds {
        s if s >= 0 || nanos == 0 => (if s < 0 { "-" } else { "" }, s.unsigned_abs(), nanos),
        s => ("-", (s + 1).unsigned_abs(), 1_000_000_000 - nanos),
    };
    if nanos == 0 { format!("{sign}{seconds}") } else { format!("{sign}{seconds}.{nanos:09}") }
}

/// Prefix and name of the ustar header, if the path fits.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let at = (0..path.len().min(156)).rev().find(|i| path[*i] == b'/' && *i > 0 && *i + 1 < path.len())?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (name.len() <= 100).then_some((prefix, name))
}

fn block(head: &Head<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let (prefix, name) = split(head.path).unwrap_or((b"", &head.path[..100.min(head.path.len())]));
    put(0, name);
    put(100, &octal::<8>(head.mode.into()));
    put(108, &octal::<8>(head.uid.min(OCTAL_7).into()));
    put(116, &octal::<8>(head.gid.min(OCTAL_7).into()));
    put(124, &octal::<12>(head.size.min(OCTAL_11)));
    put(136, &octal::<12>(u64::try_from(head.mtime).unwrap_or(0).min(OCTAL_11)));
    put(148, b"        ");
    put(156, &[head.kind]);
    put(157, &head.link[..head.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &octal::<8>(head.device.0.into()));
    put(337, &octal::<8>(head.device.1.into()));
    put(345, prefix);
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..155].copy_from_slice(&octal::<7>(sum));
    block
}

/// Zero-padded, with a NUL at the end.
fn octal<const N: usize>(mut value: u64) -> [u8; N] {
    let mut field = [b'0'; N];
    field[N - 1] = 0;
    for digit in field[..N - 1].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field
}
