//! `--ipc container:X`: X's `/dev/shm`, which only X's mount namespace knows.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{CWD, FsWord, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::containers::sys;

const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// A detached copy of the mount at `/dev/shm` of a mount namespace, to be moved elsewhere. `owner` is the user namespace that it takes to go
/// there, for an ordinary user. A process of its own goes, for there is no way back.
pub(super) fn shared_memory(
    mounts: BorrowedFd<'_>,
    owner: Option<BorrowedFd<'_>>,
) -> std::io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let code =
        sys::in_child(|| match copy(mounts, owner).and_then(|tree| pass(theirs.as_fd(), tree.as_fd())) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        })?;
    if code != 0 {
        return Err(std::io::Error::from_raw_os_error(code));
    }
    take(ours.as_fd())
}

/// System calls alone: what runs here is a copy of another process.
fn copy(mounts: BorrowedFd<'_>, owner: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Errno> {
    if let Some(owner) = owner {
        move_into_link_name_space(owner, Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(mounts, Some(LinkNameSpaceType::Mount))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = openat2(CWD, c"/dev/shm", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    // The other container may have put something else there; that would not be shared memory.
    if fstatfs(&there)?.f_type != TMPFS_MAGIC {
        return Err(Errno::INVAL);
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&there, c"", flags)
}

fn pass(to: BorrowedFd<'_>, tree: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let trees = [tree];
    control.push(SendAncillaryMessage::ScmRights(&trees));
    sendmsg(to, &[IoSlice::new(b"t")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn take(from: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).ok_or_else(|| std::io::Error::other("no mount came"))
}
