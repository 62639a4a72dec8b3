//! Mounts. Everything goes by descriptor: the source is opened, turned into a detached mount, dressed, and moved onto a target that was
//! resolved inside the root (`openat2(2)` with `RESOLVE_IN_ROOT`), so no symbolic link of the root file system leads out of it.

use std::os::fd::RawFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::compile::Input;
use super::options::{Options, attr};
use super::{Arg, Builder, StepExt, slot};
use crate::cgroup;
use crate::error::{Error, Result};
use crate::sys::wire::op;

pub(super) const IN_ROOT: u64 = 0x10;
pub(super) const NO_SYMLINKS: u64 = 0x04;
pub(super) const NO_MAGICLINKS: u64 = 0x02;
pub(super) const CLOEXEC: u64 = libc::O_CLOEXEC as u64;
pub(super) const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;
const RECURSIVE: u64 = libc::AT_RECURSIVE as u64;
const OPEN_TREE_CLONE: u64 = 1;
/// `MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH`.
const MOVE_BY_FD: u64 = 0x44;
const FSCONFIG_SET_FLAG: u64 = 0;
const FSCONFIG_SET_STRING: u64 = 1;
const FSCONFIG_CMD_CREATE: u64 = 6;

/// All mounts of the spec, in order.
pub(super) fn mounts(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    for mount in input.spec.mounts().iter().flatten() {
        one(b, input, mount)?;
    }
    Ok(())
}

fn one(b: &mut Builder, input: &Input<'_>, mount: &Mount) -> Result<()> {
    let destination = mount.destination();
    let kind = mount.typ().as_deref().unwrap_or("");
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    b.label(format!("mount {} at {}", if kind.is_empty() { "bind" } else { kind }, destination.display()));
    let path = inside(destination)?;
    let on_proc = may_cover_proc(kind, &options, mount, &path)?;
    if options.bind.is_some() || kind == "bind" || kind == "none" && mount.source().is_some() {
        return bind(b, input, mount, &options, &path, on_proc);
    }
    match kind {
        "cgroup" | "cgroup2" => return cgroup_mount(b, input, kind, &options, &path),
        "" => return Err(Error::spec(format!("mounts[{}].type", destination.display()), "missing")),
        _ => {}
    }
    let source = mount.source().as_deref().unwrap_or(Path::new(kind)).to_string_lossy().into_owned();
    // /proc and /sys must be what they seem: a symbolic link there would let the image choose where masks and writes go.
    let resolve = if matches!(kind, "proc" | "sysfs") { IN_ROOT | NO_SYMLINKS } else { IN_ROOT };
    if options.copy_up && kind != "tmpfs" {
        return Err(Error::spec(
            format!("mounts[{}].options", destination.display()),
            "tmpcopyup is for tmpfs only",
        ));
    }
    // Read-only only when all is in it.
    let later = if options.copy_up { options.set & attr::RDONLY } else { 0 };
    let mut at_once = Options { set: options.set & !later, ..options.clone() };
    at_once.data.extend(context(input, kind));
    create(b, kind, &source, &at_once, slot::A)?;
    if kind == "mqueue" {
        label_root(b, input)?;
    }
    target(b, &path, false, resolve, slot::B)?;
    if !on_proc {
        not_on_proc(b, slot::B);
    }
    if options.copy_up {
        let attributes = !options.data.iter().any(|(key, _)| key == "mode");
        b.op(
            "tmpcopyup",
            op::COPY_UP,
            [Arg::Slot(slot::B), Arg::Slot(slot::A), u64::from(attributes).into()],
        );
    }
    if later != 0 {
        set_attributes(b, slot::A, later, 0, 0, false);
    }
    attach(b, slot::A, slot::B);
    propagate(b, slot::A, &options);
    b.close(slot::A);
    b.close(slot::B);
    Ok(())
}

/// `linux.mountLabel` as a mount option. The kernel labels what is in a procfs, a sysfs and a cgroup itself, and lets nobody choose; an
/// mqueue takes no option.
fn context(input: &Input<'_>, kind: &str) -> Option<(String, Option<String>)> {
    let labelled = !matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2");
    mount_label(input).filter(|_| labelled).map(|label| ("context".to_owned(), Some(label.to_owned())))
}

fn mount_label<'a>(input: &Input<'a>) -> Option<&'a str> {
    let label = input.spec.linux().as_ref()?.mount_label().as_deref();
    label.filter(|label| !label.is_empty())
}

/// Labels the root directory of the mount in [`slot::A`].
fn label_root(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(label) = mount_label(input) else { return Ok(()) };
    let about = b.last_label();
    b.label(format!("{about}: linux.mountLabel"));
    let (here, name, value) = (b.c(c"."), b.c(c"security.selinux"), b.text("linux.mountLabel", label)?);
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    b.call("openat", libc::SYS_openat, [Arg::Slot(slot::A), here.into(), flags.into()]).out(slot::B);
    let args = [Arg::Slot(slot::B), name.into(), value.into(), (label.len() + 1).into(), 0.into()];
    b.call("fsetxattr", libc::SYS_fsetxattr, args);
    b.close(slot::B);
    b.label(about);
    Ok(())
}

/// What LXCFS stands in for, and such: the only files of a procfs that may be covered. The same as runc's.
const COVERABLE: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

const PROC_MAGIC: u64 = 0x9fa0;

/// Whether the mount may lie on a procfs; an error, if its destination says that it would. A procfs that is covered lets the image, or a
/// volume, choose what programs, masks and label writes see (CVE-2019-16884, CVE-2025-52881). Links may lead there too, so where this says
/// no, [`not_on_proc`] asks again.
fn may_cover_proc(kind: &str, options: &Options, mount: &Mount, path: &str) -> Result<bool> {
    let refuse =
        |reason| Err(Error::spec(format!("mounts[{}].destination", mount.destination().display()), reason));
    if path == "proc" {
        // A bind mount must be of a procfs, and is asked for that.
        return match options.bind.is_some() || matches!(kind, "proc" | "bind" | "none") {
            true => Ok(true),
            false => refuse("only a procfs can be mounted at /proc"),
        };
    }
    let Some(below) = path.strip_prefix("proc/") else { return Ok(kind == "proc") };
    match COVERABLE.contains(&below) {
        true => Ok(true),
        false => refuse("cannot be mounted because it is inside /proc"),
    }
}

/// Fails if the target lies on a procfs.
pub(super) fn not_on_proc(b: &mut Builder, target: u8) {
    b.op("is not inside /proc", op::NOT_FS, [Arg::Slot(target), PROC_MAGIC.into()]);
}

/// A path of the spec as one below the root: no leading slash, no `..`.
pub(crate) fn inside(path: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                parts.push(
                    name.to_str().ok_or_else(|| Error::spec(path.display().to_string(), "is not UTF-8"))?,
                );
            }
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    Ok(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// A new file system as a detached mount.
pub(super) fn create(b: &mut Builder, kind: &str, source: &str, options: &Options, out: u8) -> Result<()> {
    let about = b.last_label();
    let name = b.text("mounts.type", kind)?;
    b.call("fsopen", libc::SYS_fsopen, [name.into(), 1.into()]).out(slot::C);
    let key = b.c(c"source");
    let value = b.text("mounts.source", source)?;
    b.call("fsconfig source", libc::SYS_fsconfig, config(slot::C, FSCONFIG_SET_STRING, key, value));
    for (key, value) in &options.data {
        let name = b.text("mounts.options", key)?;
        let (command, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, b.text("mounts.options", value)?),
            None => (FSCONFIG_SET_FLAG, 0),
        };
        b.label(format!("{about}: option {key}"));
        b.call("fsconfig", libc::SYS_fsconfig, config(slot::C, command, name, value));
    }
    b.label(about);
    b.call("fsconfig create", libc::SYS_fsconfig, config(slot::C, FSCONFIG_CMD_CREATE, 0, 0));
    b.call("fsmount", libc::SYS_fsmount, [Arg::Slot(slot::C), 1.into(), options.set.into()]).out(out);
    b.close(slot::C);
    Ok(())
}

fn config(fd: u8, command: u64, key: u64, value: u64) -> [Arg; 5] {
    [Arg::Slot(fd), command.into(), key.into(), value.into(), 0.into()]
}

/// Opens a target below the root, making it where it is missing.
pub(super) fn target<'a>(
    b: &'a mut Builder,
    path: &str,
    file: bool,
    resolve: u64,
    out: u8,
) -> Result<&'a mut crate::sys::wire::Step> {
    let text = b.text("mounts.destination", path)?;
    let mode = if file { 0o644u64 } else { 0o755 };
    let root = Arg::Slot(slot::ROOT);
    let args = [root, text.into(), path.len().into(), u64::from(file).into(), resolve.into(), mode.into()];
    Ok(b.op("target", op::TARGET, args).out(out))
}

/// Moves a detached mount onto a target.
pub(super) fn attach(b: &mut Builder, tree: u8, target: u8) {
    let empty = b.empty();
    b.call(
        "move_mount",
        libc::SYS_move_mount,
        [Arg::Slot(tree), empty.into(), Arg::Slot(target), empty.into(), MOVE_BY_FD.into()],
    );
}

/// `struct mount_attr` and the call.
pub(super) fn set_attributes(
    b: &mut Builder,
    tree: u8,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) {
    let attr: Vec<u8> = [set, clear, propagation, 0].iter().flat_map(|v| v.to_ne_bytes()).collect();
    let attr = b.bytes(&attr);
    let empty = b.empty();
    let flags = EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    b.call(
        "mount_setattr",
        libc::SYS_mount_setattr,
        [Arg::Slot(tree), empty.into(), flags.into(), attr.into(), 32.into()],
    );
}

fn propagate(b: &mut Builder, tree: u8, options: &Options) {
    for (flag, recursive) in &options.propagation {
        set_attributes(b, tree, 0, 0, *flag, *recursive);
    }
}

/// A copy of a mount tree, detached.
pub(super) fn open_tree(b: &mut Builder, dir: Arg, path: u64, recursive: bool, out: u8) {
    let flags = OPEN_TREE_CLONE | CLOEXEC | EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    b.call("open_tree", libc::SYS_open_tree, [dir, path.into(), flags.into()]).out(out);
}

fn bind(
    b: &mut Builder,
    input: &Input<'_>,
    mount: &Mount,
    options: &Options,
    path: &str,
    on_proc: bool,
) -> Result<()> {
    let file = source(b, input, mount, options.bind != Some(false))?;
    if path == "proc" {
        b.op("is a procfs", op::IS_FS, [Arg::Slot(slot::A), PROC_MAGIC.into()]);
    }
    if options.set | options.clear != 0 {
        set_attributes(b, slot::A, options.set, options.clear | atime(options.set), 0, false);
    }
    if options.rec_set | options.rec_clear != 0 {
        set_attributes(b, slot::A, options.rec_set, options.rec_clear | atime(options.rec_set), 0, true);
    }
    target(b, path, file, IN_ROOT, slot::B)?;
    if !on_proc {
        not_on_proc(b, slot::B);
    }
    attach(b, slot::A, slot::B);
    if options.propagation.is_empty() {
        set_attributes(b, slot::A, 0, 0, libc::MS_PRIVATE, true);
    }
    propagate(b, slot::A, options);
    b.close(slot::A);
    b.close(slot::B);
    Ok(())
}

/// Makes a detached mount of the bind mount's source, in [`slot::A`]; true, when that is a file and no directory.
fn source(b: &mut Builder, input: &Input<'_>, mount: &Mount, recursive: bool) -> Result<bool> {
    let destination = mount.destination();
    let field = || format!("mounts[{}].source", destination.display());
    let empty = b.empty();
    if let Some(opened) = input.mount_sources.iter().find(|s| s.destination == *destination) {
        match &opened.kind {
            SourceKind::Tree(fd) => {
                b.call("dup", libc::SYS_fcntl, [(*fd).into(), libc::F_DUPFD_CLOEXEC.into(), 3.into()])
                    .out(slot::A);
            }
            SourceKind::File(fd, path) => {
                // In this mount namespace its path must lead to the very file; a mount of another namespace cannot be cloned.
                let path = b.text("mounts.source", path.as_os_str().as_encoded_bytes())?;
                open_path(b, path, 0, slot::C);
                b.op("is the file that was opened", op::SAME_FILE, [Arg::Slot(slot::C), (*fd).into()]);
                open_tree(b, Arg::Slot(slot::C), empty, recursive, slot::A);
                b.close(slot::C);
            }
        }
        return Ok(!opened.is_dir);
    }
    let source = mount.source().as_deref().ok_or_else(|| Error::spec(field(), "missing"))?;
    let source = input.bundle.join(source);
    let fail = |error| Error::Os { what: format!("bind source {}", source.display()), source: error };
    let text = b.text("mounts.source", source.as_os_str().as_encoded_bytes())?;
    if let Some((_, subpath)) = input.mount_subpaths.iter().find(|(at, _)| at == destination) {
        let file = !is_dir_inside(&source, subpath).map_err(fail)?;
        open_inside(b, text, subpath)?;
        open_tree(b, Arg::Slot(slot::C), empty, recursive, slot::A);
        b.close(slot::C);
        return Ok(file);
    }
    let file = !std::fs::metadata(&source).map_err(fail)?.is_dir();
    open_tree(b, libc::AT_FDCWD.into(), text, recursive, slot::A);
    Ok(file)
}

/// The source of a bind mount that the caller has opened.
#[derive(Debug)]
pub(crate) struct OpenSource {
    /// Where it is mounted.
    pub(crate) destination: PathBuf,
    pub(crate) is_dir: bool,
    pub(crate) kind: SourceKind,
}

/// What the helper inherits of it.
#[derive(Debug)]
pub(crate) enum SourceKind {
    /// A detached mount, made by the caller's privileges.
    Tree(RawFd),
    /// The file itself, and the path that leads to it.
    File(RawFd, PathBuf),
}

/// The mount takes along what is mounted below its source.
pub(crate) fn binds_tree(mount: &Mount) -> bool {
    Options::parse(mount.options().as_deref().unwrap_or_default()).bind != Some(false)
}

/// `idmap` (false) or `ridmap` (true) of the mount's options.
pub(crate) fn idmap_option(mount: &Mount) -> Option<bool> {
    Options::parse(mount.options().as_deref().unwrap_or_default()).idmap
}

fn open_path(b: &mut Builder, path: u64, more: i32, out: u8) {
    let flags = libc::O_PATH | libc::O_CLOEXEC | more;
    b.call("openat", libc::SYS_openat, [libc::AT_FDCWD.into(), path.into(), flags.into()]).out(out);
}

/// Where the mount that holds a path is mounted.
pub(super) fn mount_point(path: &Path) -> Result<std::path::PathBuf> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let mount = |path: &Path| statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).map(|s| s.stx_mnt_id);
    let own = mount(path)
        .map_err(|e| Error::Os { what: format!("root.path {}", path.display()), source: e.into() })?;
    Ok(path.ancestors().take_while(|above| mount(above) == Ok(own)).last().unwrap_or(path).to_owned())
}

/// What kind of target the path needs. Should it change until the mount, that fails.
fn is_dir_inside(source: &Path, subpath: &Path) -> std::io::Result<bool> {
    use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let dir = open(source, path | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(dir, subpath, path, Mode::empty(), resolve)?;
    Ok(FileType::from_raw_mode(fstat(found)?.st_mode).is_dir())
}

/// Opens a path inside a directory, in the container's mount namespace (no other mount can be cloned there), into [`slot::C`].
fn open_inside(b: &mut Builder, source: u64, subpath: &Path) -> Result<()> {
    open_path(b, source, libc::O_DIRECTORY, slot::B);
    let path = b.text("mounts.source", subpath.as_os_str().as_encoded_bytes())?;
    let how: Vec<u8> = [libc::O_PATH as u64 | CLOEXEC, 0, IN_ROOT | NO_MAGICLINKS]
        .iter()
        .flat_map(|v: &u64| v.to_ne_bytes())
        .collect();
    let how = b.bytes(&how);
    b.call("openat2", libc::SYS_openat2, [Arg::Slot(slot::B), path.into(), how.into(), 24.into()])
        .out(slot::C);
    b.close(slot::B);
    Ok(())
}

/// A new access-time mode needs the old one cleared.
fn atime(set: u64) -> u64 {
    if set & attr::ATIME != 0 { attr::ATIME } else { 0 }
}

/// A `cgroup` mount: cgroup2 where that is the machine's layout, else a tmpfs with a directory per v1 hierarchy.
fn cgroup_mount(b: &mut Builder, input: &Input<'_>, kind: &str, options: &Options, path: &str) -> Result<()> {
    let layout = input.layout;
    if kind == "cgroup2" || layout.v1.is_empty() {
        create(b, "cgroup2", "cgroup", &Options { data: Vec::new(), ..options.clone() }, slot::A)?;
        target(b, path, false, IN_ROOT, slot::B)?;
        not_on_proc(b, slot::B);
        attach(b, slot::A, slot::B);
        b.close(slot::A);
        b.close(slot::B);
        return Ok(());
    }
    let mut tmpfs = Options::parse(&["nosuid", "nodev", "noexec", "mode=755", "size=64k"]);
    tmpfs.data.extend(context(input, "tmpfs"));
    // Made while it is attached nowhere: nobody else can reach into it.
    create(b, "tmpfs", "tmpfs", &tmpfs, slot::TMPFS)?;
    target(b, path, false, IN_ROOT, slot::B)?;
    not_on_proc(b, slot::B);
    attach(b, slot::TMPFS, slot::B);
    b.close(slot::B);
    let empty = b.empty();
    for hierarchy in &layout.v1 {
        let name = hierarchy.name();
        if input.cgroup_namespace {
            hierarchy_mount(b, hierarchy, options)?;
        } else {
            let source = cgroup::join(&hierarchy.mount, input.cgroup_path);
            if !source.is_dir() {
                // Nothing was delegated there, so there is nothing to show.
                continue;
            }
            let source = b.text("cgroup", source.as_os_str().as_encoded_bytes())?;
            open_tree(b, libc::AT_FDCWD.into(), source, false, slot::A);
            set_attributes(b, slot::A, options.set, 0, 0, false);
        }
        let dir = Arg::Slot(slot::TMPFS);
        let text = b.text("cgroup", &name)?;
        // Programs look for a controller by its own name.
        for controller in hierarchy.controllers.iter().filter(|c| **c != name && !c.starts_with("name=")) {
            let link = b.text("cgroup", controller)?;
            b.call("symlinkat", libc::SYS_symlinkat, [text.into(), dir, link.into()]).forgive(libc::EEXIST);
        }
        let name = text;
        b.call("mkdirat", libc::SYS_mkdirat, [dir, name.into(), 0o755.into()]);
        // MOVE_MOUNT_F_EMPTY_PATH
        b.call(
            "move_mount",
            libc::SYS_move_mount,
            [Arg::Slot(slot::A), empty.into(), dir, name.into(), 0x4.into()],
        );
        b.close(slot::A);
    }
    if options.super_readonly {
        set_attributes(b, slot::TMPFS, attr::RDONLY, 0, 0, false);
    }
    b.close(slot::TMPFS);
    Ok(())
}

/// A hierarchy of cgroup v1, as the cgroup namespace shows it, in [`slot::A`].
fn hierarchy_mount(b: &mut Builder, hierarchy: &cgroup::Hierarchy, options: &Options) -> Result<()> {
    let mut each = Options { super_readonly: false, data: Vec::new(), ..options.clone() };
    for controller in &hierarchy.controllers {
        each.data.push(match controller.strip_prefix("name=") {
            Some(name) => ("name".to_owned(), Some(name.to_owned())),
            None => (controller.clone(), None),
        });
    }
    if hierarchy.controllers.iter().all(|c| c.starts_with("name=")) {
        each.data.push(("none".to_owned(), None));
    }
    create(b, "cgroup", "cgroup", &each, slot::A)
}

/// Paths that the container must not read, and such that it must not write.
pub(super) fn masked_and_readonly(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(linux) = input.spec.linux() else { return Ok(()) };
    let masked = linux.masked_paths().as_deref().unwrap_or_default();
    if !masked.is_empty() {
        b.label("linux.maskedPaths");
        let mut options = Options::parse(&["ro", "nosuid", "nodev", "noexec", "nr_blocks=1", "nr_inodes=1"]);
        options.data.extend(context(input, "tmpfs"));
        create(b, "tmpfs", "tmpfs", &options, slot::EMPTY)?;
    }
    for path in masked {
        b.label(format!("linux.maskedPaths {path}"));
        let text = b.text("linux.maskedPaths", inside(Path::new(path))?)?;
        b.op(
            "mask",
            op::MASK,
            [Arg::Slot(slot::ROOT), text.into(), Arg::Slot(slot::NULL), Arg::Slot(slot::EMPTY)],
        );
    }
    if !masked.is_empty() {
        b.close(slot::EMPTY);
        b.close(slot::NULL);
    }
    for path in linux.readonly_paths().iter().flatten() {
        b.label(format!("linux.readonlyPaths {path}"));
        let text = b.text("linux.readonlyPaths", inside(Path::new(path))?)?;
        let first = b.next();
        open_in_root(b, text, slot::A).forgive(libc::ENOENT).forgive(libc::ENOTDIR);
        let empty = b.empty();
        open_tree(b, Arg::Slot(slot::A), empty, true, slot::B);
        set_attributes(b, slot::B, attr::RDONLY, 0, 0, false);
        attach(b, slot::B, slot::A);
        b.close(slot::A);
        b.close(slot::B);
        b.skip_err_to_here(first);
    }
    Ok(())
}

/// Opens what is there, below the root.
pub(super) fn open_in_root(b: &mut Builder, path: u64, out: u8) -> &mut crate::sys::wire::Step {
    let how: Vec<u8> =
        [libc::O_PATH as u64 | CLOEXEC, 0, IN_ROOT].iter().flat_map(|v: &u64| v.to_ne_bytes()).collect();
    let how = b.bytes(&how);
    b.call("openat2", libc::SYS_openat2, [Arg::Slot(slot::ROOT), path.into(), how.into(), 24.into()]).out(out)
}

/// Enters the root and leaves the old one behind for good.
pub(super) fn pivot(b: &mut Builder, no_pivot: bool) {
    b.label("pivot_root");
    b.call("fchdir", libc::SYS_fchdir, [Arg::Slot(slot::ROOT)]);
    let here = b.c(c".");
    if no_pivot {
        let slash = b.c(c"/");
        b.call(
            "mount --move",
            libc::SYS_mount,
            [here.into(), slash.into(), 0.into(), libc::MS_MOVE.into(), 0.into()],
        );
        b.call("chroot", libc::SYS_chroot, [here.into()]);
    } else {
        b.call("pivot_root", libc::SYS_pivot_root, [here.into(), here.into()]);
        b.call("umount2", libc::SYS_umount2, [here.into(), libc::MNT_DETACH.into()]);
    }
    let slash = b.c(c"/");
    b.call("chdir", libc::SYS_chdir, [slash.into()]);
    b.close(slot::ROOT);
}

/// The null device that hides files: the host's, checked to be it.
pub(super) fn null_device(b: &mut Builder) {
    b.label("/dev/null");
    let path = b.c(c"/dev/null");
    open_path(b, path, libc::O_NOFOLLOW, slot::NULL);
    b.op(
        "is a null device",
        op::IS_DEVICE,
        [Arg::Slot(slot::NULL), libc::S_IFCHR.into(), 1.into(), 3.into()],
    );
}
