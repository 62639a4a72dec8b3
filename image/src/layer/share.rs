//! One EROFS mount of a layer for all processes that have it mounted at a time: the pages of its files are in memory once.
//!
//! Whoever mounts a layer says so in a symbolic link beside it, `sha256-HEX.held`, which leads nowhere: its text is what others need to
//! find the mount in the holder's descriptors. What is found is believed only if it is that very mount (the kernel never gives its
//! number again until the machine starts anew, and the link says of which start it speaks), of that very file. So nothing depends on the
//! link: a stale one costs a mount of one's own.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::Result;

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

impl Held {
    /// Whether this is a mount of the same layer.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.link == other.link
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Who comes between these two loses a link, and so mounts for himself.
        if fs::read_link(&self.link).is_ok_and(|text| text.as_os_str() == &*self.text) {
            let _ = fs::remove_file(&self.link);
        }
    }
}

/// Mounts a layer's file, and lets others find that. `None` where they could not: on an older kernel, or a full disk.
pub(crate) fn mount(
    file: &Path,
    mount: impl FnOnce(&Path) -> Result<OwnedFd>,
) -> Result<(OwnedFd, Option<Held>)> {
    // Taken first: of a file that is replaced meanwhile, nobody believes the mount, whichever of the two it is of.
    let print = fingerprint(file);
    let mount = mount(file)?;
    let held = print.and_then(|print| hold(file, mount.try_clone().ok()?, &print));
    Ok((mount, held))
}

fn hold(file: &Path, mount: OwnedFd, print: &str) -> Option<Held> {
    let text = format!("{} {} {} {print}", std::process::id(), mount.as_raw_fd(), number(&mount)?);
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
    // First, as anything may lie behind a stale link.
    if fingerprint(file)? != print {
        return None;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::openat(CWD, format!("/proc/{pid}/fd/{fd}"), flags, Mode::empty()).ok()?;
    (number(&found)? == mount).then_some(found)
}

fn link(file: &Path) -> PathBuf {
    file.with_extension(&HELD[1..])
}

/// What no other mount has had or will have while the machine runs.
fn number(mount: impl AsFd) -> Option<u64> {
    let found = rustix::fs::statx(mount, c"", AtFlags::EMPTY_PATH, MOUNT).ok()?;
    (found.stx_mask & MOUNT.bits() != 0).then_some(found.stx_mnt_id)
}

/// This very file, since the machine's last start: a layer that was damaged and unpacked again is another one.
fn fingerprint(file: &Path) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let meta = fs::metadata(file).ok()?;
    Some(format!("{}:{}:{}.{} {}", meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec(), boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any directory does for a mount here.
    fn open(dir: &Path) -> OwnedFd {
        fs::File::open(dir).unwrap().into()
    }

    #[test]
    fn a_mount_is_believed_only_of_the_file_and_the_boot_that_it_is_of() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("sha256-0.erofs");
        fs::write(&file, "a").unwrap();
        if number(open(temp.path())).is_none() {
            // Before Linux 6.8 nothing is shared.
            assert!(mount(&file, |_| Ok(open(temp.path()))).unwrap().1.is_none());
            return;
        }
        let (_mount, held) = mount(&file, |_| Ok(open(temp.path()))).unwrap();
        assert!(find(&file).is_some());
        // The machine was started anew: by luck the numbers are those of another mount.
        let text = fs::read_link(link(&file)).unwrap().into_os_string().into_string().unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(text.ends_with(boot.trim()), "{text}");
        fs::remove_file(link(&file)).unwrap();
        std::os::unix::fs::symlink(text.replace(boot.trim(), "another"), link(&file)).unwrap();
        assert!(find(&file).is_none());
        drop(held);
        // It was replaced while it was being mounted.
        let replaced = |file: &Path| {
            fs::write(file.with_extension("new"), "b").unwrap();
            fs::rename(file.with_extension("new"), file).unwrap();
            Ok(open(temp.path()))
        };
        let _held = mount(&file, replaced).unwrap();
        assert!(find(&file).is_none());
    }
}
