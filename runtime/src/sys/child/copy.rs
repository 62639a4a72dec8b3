//! `tmpcopyup`: what lies in a directory, copied into the file system that is about to cover it. Nothing here follows a link or goes to
//! another mount, whoever else writes to the directory meanwhile.

use crate::kernel::nr;
use crate::ops::{
    AT_EMPTY_PATH, EINVAL, ENOENT, ENOTDIR, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_WRONLY, PATH_MAX, Stat, call, close,
    open, stat,
};

const EXDEV: i64 = 18;
const ENAMETOOLONG: i64 = 36;
const O_EXCL: u64 = 0o200;
const O_NONBLOCK: u64 = 0o4000;
const RESOLVE_NO_XDEV: u64 = 0x01;
const TYPE: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
const LINK: u16 = 0o120_000;
/// How deep directories may lie in one another; every level takes two descriptors.
const DEPTH: u32 = 100;

/// Copies what is in one directory to another; with `attributes`, mode and owner of the directory itself, too.
pub(crate) fn copy(from: u64, to: u64, attributes: bool) -> i64 {
    // Both may have been opened as places only (O_PATH).
    let here = c".".as_ptr() as u64;
    let (source, target) = (open(from, here, O_DIRECTORY, 0, 0), open(to, here, O_DIRECTORY, 0, 0));
    if source < 0 || target < 0 {
        return source.min(target);
    }
    let mut result = entries(source as u64, target as u64, DEPTH);
    if result >= 0 && attributes {
        result = stat(source as u64).map_or_else(|e| e, |like| dress(target as u64, &like));
    }
    close(source);
    close(target);
    result
}

fn entries(from: u64, to: u64, depth: u32) -> i64 {
    if depth == 0 {
        return -ENAMETOOLONG;
    }
    let mut buffer = [0u64; 256];
    loop {
        let n = call(nr::GETDENTS64, &[from, buffer.as_mut_ptr() as u64, size_of_val(&buffer) as u64]);
        if n <= 0 {
            return n;
        }
        let mut at = 0;
        while at < n as usize {
            // struct linux_dirent64: d_reclen is the u16 at offset 16, the name begins at 19.
            let record = buffer.as_ptr() as usize + at;
            // SAFETY: the kernel has filled whole records up to `n`, each ending with a NUL within its length.
            let (len, name) = unsafe { (*((record + 16) as *const u16), (record + 19) as *const u8) };
            at += len as usize;
            if !is_dots(name) {
                let result = entry(from, to, name as u64, depth);
                if result < 0 {
                    return result;
                }
            }
        }
    }
}

fn is_dots(name: *const u8) -> bool {
    // SAFETY: a NUL ends the name; nothing behind it is read.
    unsafe { *name == b'.' && (*name.add(1) == 0 || *name.add(1) == b'.' && *name.add(2) == 0) }
}

fn entry(from: u64, to: u64, name: u64, depth: u32) -> i64 {
    let found = open(from, name, O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_XDEV);
    if found < 0 {
        // Gone meanwhile, or something is mounted there.
        return if found == -ENOENT || found == -EXDEV { 0 } else { found };
    }
    let result = match stat(found as u64) {
        Err(e) => e,
        Ok(like) => match like.mode & TYPE {
            DIRECTORY => directory(found as u64, to, name, &like, depth),
            REGULAR => regular(from, to, name),
            LINK => link(found as u64, to, name, &like),
            _ => node(to, name, &like),
        },
    };
    close(found);
    result
}

fn directory(found: u64, to: u64, name: u64, like: &Stat, depth: u32) -> i64 {
    let made = call(nr::MKDIRAT, &[to, name, 0o700]);
    if made < 0 {
        return made;
    }
    let target = open(to, name, O_DIRECTORY | O_NOFOLLOW, 0, 0);
    if target < 0 {
        return target;
    }
    let source = open(found, c".".as_ptr() as u64, O_DIRECTORY, 0, 0);
    let mut result = if source < 0 { source } else { entries(source as u64, target as u64, depth - 1) };
    close(source);
    if result >= 0 {
        result = dress(target as u64, like);
    }
    close(target);
    result
}

fn regular(from: u64, to: u64, name: u64) -> i64 {
    // What is there now may be something else: a pipe does not make this wait, and is left out.
    let source = open(from, name, O_NOFOLLOW | O_NONBLOCK, 0, RESOLVE_NO_XDEV);
    if source < 0 {
        return if source == -ENOENT || source == -ENOTDIR { 0 } else { source };
    }
    let result = match stat(source as u64) {
        Ok(like) if like.mode & TYPE == REGULAR => bytes(source as u64, to, name, &like),
        other => other.err().unwrap_or(0),
    };
    close(source);
    result
}

fn bytes(source: u64, to: u64, name: u64, like: &Stat) -> i64 {
    let target = open(to, name, O_WRONLY | O_CREAT | O_EXCL, 0o600, 0);
    if target < 0 {
        return target;
    }
    let mut result;
    loop {
        result = call(nr::SENDFILE, &[target as u64, source, 0, 1 << 30]);
        if result <= 0 {
            break;
        }
    }
    if result == 0 {
        result = dress(target as u64, like);
    }
    close(target);
    result
}

#[inline(never)]
fn link(found: u64, to: u64, name: u64, like: &Stat) -> i64 {
    let mut text = [0u8; PATH_MAX];
    let len = call(nr::READLINKAT, &[found, c"".as_ptr() as u64, text.as_mut_ptr() as u64, PATH_MAX as u64 - 1]);
    if len < 0 {
        return len;
    }
    let made = call(nr::SYMLINKAT, &[text.as_ptr() as u64, to, name]);
    if made < 0 {
        return made;
    }
    // AT_SYMLINK_NOFOLLOW
    unmapped(call(nr::FCHOWNAT, &[to, name, like.uid.into(), like.gid.into(), 0x100]))
}

fn node(to: u64, name: u64, like: &Stat) -> i64 {
    let (major, minor) = (u64::from(like.major), u64::from(like.minor));
    let device = minor & 0xff | major << 8 | (minor & !0xff) << 12;
    let made = call(nr::MKNODAT, &[to, name, like.mode.into(), device]);
    if made < 0 {
        return made;
    }
    unmapped(call(nr::FCHOWNAT, &[to, name, like.uid.into(), like.gid.into(), 0x100]))
}

/// Owner, then mode: a new owner takes the set-user-ID bit away.
fn dress(fd: u64, like: &Stat) -> i64 {
    let empty = c"".as_ptr() as u64;
    let owned = unmapped(call(nr::FCHOWNAT, &[fd, empty, like.uid.into(), like.gid.into(), AT_EMPTY_PATH]));
    if owned < 0 { owned } else { call(nr::FCHMOD, &[fd, u64::from(like.mode & 0o7777)]) }
}

/// An owner that the user namespace does not know cannot be given away to: the copy stays root's.
fn unmapped(result: i64) -> i64 {
    if result == -EINVAL { 0 } else { result }
}
