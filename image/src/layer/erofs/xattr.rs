//! Extended attributes behind an inode: a header of 12 bytes, then name and value of each, padded to 4.

use std::borrow::Cow;

const HEADER: usize = 12;

/// The kernel's numbers for name prefixes (`EROFS_XATTR_INDEX_*`).
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let prefixes: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    match name {
        b"system.posix_acl_access" => Some((2, b"")),
        b"system.posix_acl_default" => Some((3, b"")),
        _ => prefixes.iter().find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?))),
    }
}

/// Bytes that the attributes take; 0 without any.
pub(super) fn size(xattrs: &[(Cow<'_, [u8]>, &[u8])]) -> u64 {
    body(xattrs).len() as u64
}

/// The inode's field: 0, or one more than the body behind its header holds words of 4 bytes.
pub(super) fn count(xattrs: &[(Cow<'_, [u8]>, &[u8])]) -> u16 {
    match body(xattrs).len() {
        0 => 0,
        n => u16::try_from((n - HEADER) / 4 + 1).expect("bounded when the layout was made"),
    }
}

pub(super) fn body(xattrs: &[(Cow<'_, [u8]>, &[u8])]) -> Vec<u8> {
    let known = xattrs.iter().filter_map(|(name, value)| Some((split(name)?, value)));
    let mut out = Vec::new();
    for ((index, name), value) in known {
        if out.is_empty() {
            out.resize(HEADER, 0);
        }
        out.extend([name.len() as u8, index]);
        out.extend((value.len() as u16).to_le_bytes());
        out.extend(name);
        out.extend(*value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}
