//! The crate's only unsafe code: starting the helper, and the few calls that `rustix` does not wrap.
#![expect(
    unsafe_code,
    reason = "clone3, waitid with resource usage and descriptor passing have no safe wrapper"
)]

mod bpf;
mod spawn;
mod wait;
pub(crate) mod wire;

pub(crate) use bpf::attach_device_program;
pub(crate) use spawn::{Spawn, spawn};
pub(crate) use wait::{Ended, readable, wait};

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};

/// The helper program, see `child/main.rs`.
const HELPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/child.elf"));

/// The helper in a memfd that nobody, not even root inside a container, can write to (CVE-2019-5736).
pub(crate) fn helper() -> io::Result<OwnedFd> {
    let fd = memory(c"longshore", HELPER)?;
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(fd)
}

/// A memfd with these bytes.
pub(crate) fn memory(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC since Linux 6.3: without it, vm.memfd_noexec=1 would take the right to execute away.
    let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = rustix::io::write(&fd, rest)?;
        rest = rest.get(n..).unwrap_or_default();
    }
    Ok(fd)
}

/// The bytes of a plain old value.
pub(crate) fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: `T` is one of the wire's `repr(C)` structs without padding, or an array of integers.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// One message of the helper, and the descriptor it may carry. `None`: the socket is closed.
pub(crate) fn receive(socket: RawFd) -> io::Result<Option<(wire::Message, Option<OwnedFd>)>> {
    let mut message = wire::Message::default();
    let mut control = [0u64; 4];
    let mut iov = libc::iovec { iov_base: (&raw mut message).cast(), iov_len: size_of::<wire::Message>() };
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    loop {
        // SAFETY: the header points at live locals of the lengths it names.
        let n = unsafe { libc::recvmsg(socket, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if n < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                // The peer ended with our answer unread.
                Some(libc::ECONNRESET) => return Ok(None),
                _ => return Err(error),
            }
        }
        if n == 0 {
            return Ok(None);
        }
        break;
    }
    // SAFETY: the kernel filled the control buffer as far as msg_controllen says; the macros check the bounds.
    let fd = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if first.is_null()
            || (*first).cmsg_level != libc::SOL_SOCKET
            || (*first).cmsg_type != libc::SCM_RIGHTS
        {
            None
        } else {
            Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
        }
    };
    Ok(Some((message, fd)))
}

/// Whether the kernel knows an action of seccomp filters.
pub(crate) fn seccomp_knows(action: u32) -> bool {
    let mode = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the kernel reads one live u32.
    unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const action) == 0 }
}

/// Version of Landlock's interface (landlock_create_ruleset(2)), if it is active.
pub(crate) fn landlock_version() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: asked for its version, the call reads no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|v| *v > 0)
}

/// This thread's permitted capabilities, as a mask.
pub(crate) fn permitted_capabilities() -> u64 {
    let header = [0x2008_0522u32, 0];
    // Effective, permitted, inheritable: the low halves, then the high ones.
    let mut data = [0u32; 6];
    // SAFETY: both point at live arrays of the sizes that this version of the header asks for.
    let r = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if r == 0 { u64::from(data[1]) | u64::from(data[4]) << 32 } else { 0 }
}

/// Whether this thread's bounding set has a capability.
pub(crate) fn in_bounding_set(capability: u32) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) == 1 }
}

/// Gives a detached mount the IDs of a user namespace.
pub(crate) fn idmap(tree: &OwnedFd, users: &OwnedFd, recursive: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let attributes = [libc::MOUNT_ATTR_IDMAP, 0, 0, users.as_raw_fd() as u64];
    // SAFETY: `attributes` is a `struct mount_attr`, four u64, and lives through the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user namespace that owns a namespace (ioctl_ns(2)). `EPERM`: it is none of the caller's, nor below it.
pub(crate) fn owner(namespace: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    const NS_GET_USERNS: u64 = 0xb701;
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `pidfd_send_signal(2)` for real-time signals and 0, which `rustix` has no name for.
pub(crate) fn pidfd_send_signal(pidfd: &impl std::os::fd::AsFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: no pointer but null.
    let r =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, 0usize, 0) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A read-only mount of a file alone, attached nowhere: `open_tree(2)` and `mount_setattr(2)`.
pub(crate) fn readonly_clone(path: &CStr) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends with a NUL.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    let tree = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attributes = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    // SAFETY: `attributes` is a `struct mount_attr`, four u64, and lives through the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if set == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}
