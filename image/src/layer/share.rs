//! One EROFS mount of a layer for all processes that have it mounted at a time: the pages of its files are in memory once.
//!
//! Whoever mounts a layer says so in a symbolic link beside it, `sha256-HEX.held`, which leads nowhere: its text is what others need to
//! find the mount in the holder's descriptors. What is found is believed only if it is that very mount (the kernel never gives its
//! number again), of that very file. So nothing depends on the link: a stale one costs a mount of one's own.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8).
const MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Ends the name of the link.
pub(super) const HELD: &str = ".held";

/// A layer's mount that others can find while this lives.
#[derive(Debug)]
pub(crate) struct Held {
    _mount: OwnedFd,
    link: PathBuf,
    text: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Who comes between these two loses a link, and so mounts for himself.
        if fs::read_link(&self.link).is_ok_and(|text| text.as_os_str() == &*self.text) {
            let _ = fs::remove_file(&self.link);
        }
    }
}

/// Lets others find the mount of a layer's file. `None` where they could not: on an older kernel, or a full disk.
pub(crate) fn hold(file: &Path, mount: OwnedFd) -> Option<Held> {
    let text =
        format!("{} {} {} {}", std::process::id(), mount.as_raw_fd(), number(&mount)?, fingerprint(file)?);
    let link = link(file);
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&text, &link).ok()?;
    Some(Held { _mount: mount, link, text })
}

/// A mount of the layer's file that somebody holds.
pub(crate) fn find(file: &Path) -> Option<OwnedFd> {
    let text = fs::read_link(link(file)).ok()?.into_os_string().into_string().ok()?;
    let mut words = text.splitn(4, ' ');
    let (pid, fd): (u32, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (mount, print): (u64, &str) = (words.next()?.parse().ok()?, words.next()?);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::openat(CWD, format!("/proc/{pid}/fd/{fd}"), flags, Mode::empty()).ok()?;
    (number(&found)? == mount && fingerprint(file)? == print).then_some(found)
}

fn link(file: &Path) -> PathBuf {
    file.with_extension(&HELD[1..])
}

/// What no other mount has had or will have.
fn number(mount: impl AsFd) -> Option<u64> {
    let found = rustix::fs::statx(mount, c"", AtFlags::EMPTY_PATH, MOUNT).ok()?;
    (found.stx_mask & MOUNT.bits() != 0).then_some(found.stx_mnt_id)
}

/// A layer that was damaged and unpacked again is another file.
fn fingerprint(file: &Path) -> Option<String> {
    let meta = fs::metadata(file).ok()?;
    Some(format!("{}:{}:{}.{}", meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}
