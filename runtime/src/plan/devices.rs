//! Device nodes, the links beside them, and the console.

use std::path::Path;

use super::compile::Input;
use super::mounts::{
    CLOEXEC, IN_ROOT, NO_SYMLINKS, attach, inside, not_on_proc, open_tree, set_attributes, target,
};
use super::options::attr;
use super::{Arg, Builder, StepExt, slot};
use crate::error::{Error, Result};
use crate::sys::wire::op;

/// A device node to make.
#[derive(Clone, Debug)]
struct Node {
    path: String,
    mode: u32,
    device: u64,
    uid: u32,
    gid: u32,
    /// It is of `linux.devices`: nothing else may stand in its place.
    listed: bool,
}

/// config-linux.md, "Default Devices".
const DEFAULT: [(&str, u32, u32); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];

/// config-linux.md, "Default Devices" and "Dev symbolic links" of runtime-linux.md.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];

/// Makes the default devices and those of `linux.devices`, and the links.
pub(super) fn devices(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let mounts = input.spec.mounts().as_deref().unwrap_or_default();
    // A /dev that is the caller's own is complete already, and not ours to change.
    if mounts
        .iter()
        .any(|m| m.destination() == Path::new("/dev") && m.typ().as_deref().is_none_or(|t| t == "bind"))
    {
        return Ok(());
    }
    let mut nodes = Vec::new();
    for device in input.spec.linux().iter().filter_map(|l| l.devices().as_ref()).flatten() {
        nodes.push(node(device)?);
    }
    for (path, major, minor) in DEFAULT {
        if !nodes.iter().any(|n| n.path == path) {
            let device = libc::makedev(major, minor);
            let (path, mode) = (path.to_owned(), libc::S_IFCHR | 0o666);
            nodes.push(Node { path, mode, device, uid: 0, gid: 0, listed: false });
        }
    }
    for node in nodes.iter().filter(|_| input.in_user_namespace) {
        b.label(format!("device /{}", node.path));
        bind_host_device(b, node)?;
    }
    let mut open = None;
    for node in nodes.iter().filter(|_| !input.in_user_namespace) {
        b.label(format!("device /{}", node.path));
        make_node(b, node, &mut open)?;
    }
    for (to, path) in LINKS {
        b.label(format!("link /{path}"));
        let name = enter(b, path, &mut open)?;
        let to = b.text("link", to)?;
        b.call("symlinkat", libc::SYS_symlinkat, [to.into(), Arg::Slot(slot::DIR), name.into()])
            .forgive(libc::EEXIST);
    }
    b.close(slot::DIR);
    Ok(())
}

fn node(device: &oci_spec::runtime::LinuxDevice) -> Result<Node> {
    let path = device.path();
    let field = || format!("linux.devices[{}]", path.display());
    use oci_spec::runtime::LinuxDeviceType as T;
    let kind = match device.typ() {
        T::C | T::U => libc::S_IFCHR,
        T::B => libc::S_IFBLK,
        T::P => libc::S_IFIFO,
        T::A => return Err(Error::spec(field(), "type a names no device")),
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| Error::spec(field(), "device number out of range"));
    Ok(Node {
        path: inside(path)?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        device: if kind == libc::S_IFIFO {
            0
        } else {
            libc::makedev(number(device.major())?, number(device.minor())?)
        },
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        listed: true,
    })
}

/// Opens the directory of a path below the root in [`slot::DIR`], making it where it is missing: the only safe parent for a name, which
/// this returns. `open` is the one that is open.
fn enter(b: &mut Builder, path: &str, open: &mut Option<String>) -> Result<u64> {
    let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
    if open.as_deref() != Some(dir) {
        if open.is_some() {
            b.close(slot::DIR);
        }
        target(b, dir, false, IN_ROOT, slot::DIR)?;
        *open = Some(dir.to_owned());
    }
    b.text("linux.devices.path", name)
}

fn make_node(b: &mut Builder, node: &Node, open: &mut Option<String>) -> Result<()> {
    let name = enter(b, &node.path, open)?;
    let first = b.next();
    b.call(
        "mknodat",
        libc::SYS_mknodat,
        [Arg::Slot(slot::DIR), name.into(), node.mode.into(), node.device.into()],
    )
    .forgive(libc::EEXIST);
    if node.uid != 0 || node.gid != 0 {
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        b.call(
            "fchownat",
            libc::SYS_fchownat,
            [Arg::Slot(slot::DIR), name.into(), node.uid.into(), node.gid.into(), flags.into()],
        );
    }
    b.skip_err_to_here(first);
    if node.listed {
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        b.call("openat", libc::SYS_openat, [Arg::Slot(slot::DIR), name.into(), flags.into()]).out(slot::A);
        let kind = node.mode & libc::S_IFMT;
        let (major, minor) = (libc::major(node.device), libc::minor(node.device));
        let args = [Arg::Slot(slot::A), kind.into(), major.into(), minor.into()];
        b.op("is the device that is wanted", op::IS_DEVICE, args);
        b.close(slot::A);
    }
    Ok(())
}

/// In a user namespace nodes cannot be made; the host's own is bound instead.
fn bind_host_device(b: &mut Builder, node: &Node) -> Result<()> {
    let source = b.text("linux.devices.path", format!("/{}", node.path))?;
    open_tree(b, libc::AT_FDCWD.into(), source, false, slot::A);
    // Devices can be written on a read-only mount; the mode and owner of the host's node cannot be changed.
    set_attributes(b, slot::A, attr::RDONLY, 0, 0, false);
    target(b, &node.path, true, IN_ROOT, slot::B)?;
    not_on_proc(b, slot::B);
    attach(b, slot::A, slot::B);
    b.close(slot::A);
    b.close(slot::B);
    Ok(())
}

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// A new terminal from the container's own devpts; its controlling side goes to the parent.
pub(super) fn terminal(b: &mut Builder, input: &Input<'_>, in_root: bool) -> Result<()> {
    b.label("process.terminal");
    let flags = (libc::O_RDWR | libc::O_NOCTTY) as u64 | CLOEXEC;
    let how: Vec<u8> = [flags, 0, if in_root { IN_ROOT } else { 0 } | NO_SYMLINKS]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let how = b.bytes(&how);
    let (dir, path) = match in_root {
        true => (Arg::Slot(slot::ROOT), b.c(c"dev/pts/ptmx")),
        false => (libc::AT_FDCWD.into(), b.c(c"/dev/pts/ptmx")),
    };
    b.call("open /dev/pts/ptmx", libc::SYS_openat2, [dir, path.into(), how.into(), 24.into()])
        .out(slot::CONSOLE);
    b.op("is a devpts", op::IS_FS, [Arg::Slot(slot::CONSOLE), DEVPTS_MAGIC.into()]);
    let zero = b.bytes(&0i32.to_ne_bytes());
    b.call("TIOCSPTLCK", libc::SYS_ioctl, [Arg::Slot(slot::CONSOLE), libc::TIOCSPTLCK.into(), zero.into()]);
    // By descriptor, not by name: /dev/pts/N may have been replaced (CVE-2025-52565).
    b.call(
        "TIOCGPTPEER",
        libc::SYS_ioctl,
        [Arg::Slot(slot::CONSOLE), libc::TIOCGPTPEER.into(), flags.into()],
    )
    .out(slot::TTY);
    if let Some(size) = input.process.console_size() {
        let size: Vec<u8> =
            [size.height() as u16, size.width() as u16, 0, 0].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let size = b.bytes(&size);
        b.call("TIOCSWINSZ", libc::SYS_ioctl, [Arg::Slot(slot::TTY), libc::TIOCSWINSZ.into(), size.into()]);
    }
    let uid = input.process.user().uid();
    if uid != 0 {
        b.call("fchown", libc::SYS_fchown, [Arg::Slot(slot::TTY), uid.into(), (-1).into()])
            .forgive(libc::EINVAL)
            .forgive(libc::EPERM);
    }
    if in_root {
        b.label("/dev/console");
        let empty = b.empty();
        open_tree(b, Arg::Slot(slot::TTY), empty, false, slot::A);
        target(b, "dev/console", true, IN_ROOT, slot::B)?;
        not_on_proc(b, slot::B);
        attach(b, slot::A, slot::B);
        b.close(slot::A);
        b.close(slot::B);
    }
    b.label("process.terminal");
    b.op("pass the terminal", op::SEND_FD, [crate::sys::wire::msg::CONSOLE.into(), Arg::Slot(slot::CONSOLE)]);
    b.close(slot::CONSOLE);
    Ok(())
}
