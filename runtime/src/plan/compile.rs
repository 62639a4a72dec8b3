//! The order of things.
//!
//! Up to two processes walk the plan. Where the container takes a user or time namespace, or joins one by path, an *outer* process
//! prepares them and forks the container's init with the rest (`CLONE_PARENT`: init is the caller's child either way); otherwise init
//! is cloned straight into its namespaces.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use super::{
    Arg, Builder, Plan, StepExt, attributes, devices, hooks, landlock, mounts, options, process, slot,
};
use crate::caps;
use crate::cgroup::Layout;
use crate::error::{Error, Result};
use crate::landlock::Ruleset;
use crate::seccomp::Filter;
use crate::state::Status;
use crate::sys::wire::{msg, op};

/// Which kind of process the plan starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The container's init.
    Init,
    /// One more process of a running container.
    Exec,
}

/// Where the root file system comes from.
#[derive(Debug)]
pub(crate) enum RootSource<'a> {
    /// A directory.
    Path(PathBuf),
    /// A detached mount, inherited at this number.
    Fd(RawFd),
    /// An overlay for the container's mount namespace to make.
    Overlay { lower: &'a [PathBuf], upper: &'a Path, work: &'a Path },
    /// The process joins a mount namespace that has its root.
    None,
}

/// What a plan is compiled from: the spec, and what the parent has prepared.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) mode: Mode,
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    /// What relative paths start from.
    pub(crate) bundle: &'a Path,
    pub(crate) root: RootSource<'a>,
    /// Descriptors for 0, 1 and 2; none: the caller's own.
    pub(crate) stdio: [Option<RawFd>; 3],
    /// Descriptors for 3 and up.
    pub(crate) preserve: &'a [RawFd],
    pub(crate) layout: &'a Layout,
    pub(crate) cgroup_path: &'a Path,
    /// A new cgroup namespace.
    pub(crate) cgroup_namespace: bool,
    /// New namespaces, less user, time and cgroup.
    pub(crate) new_namespaces: u64,
    /// A new user namespace.
    pub(crate) new_user: bool,
    /// Contents of `timens_offsets`, with a new time namespace.
    pub(crate) time_offsets: Option<String>,
    /// Namespaces to join: descriptor and `CLONE_NEW*` flags, in order.
    pub(crate) joins: &'a [(RawFd, u64)],
    /// In a user namespace, new or joined.
    pub(crate) in_user_namespace: bool,
    /// `setgroups(2)` is permitted.
    pub(crate) may_set_groups: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) caps: Option<caps::Sets>,
    /// What the process has before it drops.
    pub(crate) available_caps: u64,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) landlock: Option<&'a Ruleset>,
    /// Wait for the parent: its hooks, network devices that it brings.
    pub(crate) sync_hooks: bool,
    /// Where a created container waits for its start; none: on the status socket.
    pub(crate) listener: Option<RawFd>,
    pub(crate) status: RawFd,
    /// All descriptors that the helper inherits.
    pub(crate) keep: &'a [RawFd],
    /// Bind mounts of a path inside their source: destination, path.
    pub(crate) mount_subpaths: &'a [(PathBuf, PathBuf)],
    /// Sources of bind mounts that the caller has opened.
    pub(crate) mount_sources: &'a [mounts::OpenSource],
    pub(crate) no_pivot: bool,
    /// More environment (`LISTEN_FDS`).
    pub(crate) extra_env: &'a [String],
}

impl Input<'_> {
    /// An outer process is needed.
    pub(crate) fn has_outer(&self) -> bool {
        self.new_user || self.time_offsets.is_some() || !self.joins.is_empty()
    }
}

/// Compiles the plan.
pub(crate) fn compile(input: &Input<'_>) -> Result<Plan> {
    let mut b = Builder::new();
    let b = &mut b;
    b.call("umask", libc::SYS_umask, [0.into()]);
    let name = b.text("name", crate::launch::HELPER_NAME)?;
    b.call(
        "PR_SET_NAME",
        libc::SYS_prctl,
        [libc::PR_SET_NAME.into(), name.into(), 0.into(), 0.into(), 0.into()],
    );
    close_others(b, input.keep);
    if input.mode == Mode::Exec {
        attributes::affinity(b, input, false)?;
    }
    if input.has_outer() {
        outer(b, input)?;
    }
    if input.mode == Mode::Init {
        attributes::early(b, input);
    }
    not_dumpable(b);
    match input.mode {
        Mode::Init => container(b, input)?,
        Mode::Exec if input.process.terminal() == Some(true) => devices::terminal(b, input, false)?,
        Mode::Exec => process::stdio(b, input),
    }
    program(b, input)?;
    Ok(std::mem::replace(b, Builder::new()).finish(input.status))
}

/// Descriptors of the host that lack close-on-exec must not stay open in a container that may be parked for days.
fn close_others(b: &mut Builder, keep: &[RawFd]) {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from = 3;
    for fd in keep.iter().copied().chain([u32::MAX]) {
        if from < fd {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            b.call("close_range", libc::SYS_close_range, [from.into(), last.into(), 0.into()]);
        }
        from = fd.saturating_add(1);
    }
}

/// Nobody inside may look into this process before it is the container's own (CVE-2016-9962).
fn not_dumpable(b: &mut Builder) {
    b.call(
        "PR_SET_DUMPABLE",
        libc::SYS_prctl,
        [libc::PR_SET_DUMPABLE.into(), 0.into(), 0.into(), 0.into(), 0.into()],
    );
}

fn outer(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    b.label("join namespace");
    if input.mode == Mode::Exec {
        not_dumpable(b);
    }
    let mut joined_user = false;
    for (fd, flags) in input.joins {
        b.call("setns", libc::SYS_setns, [(*fd).into(), (*flags).into()]);
        joined_user |= flags & libc::CLONE_NEWUSER as u64 != 0;
    }
    if input.new_user {
        b.label("user namespace");
        b.call("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER.into()]);
        // The parent writes the maps through /proc, whose files belong to root while this process is not dumpable.
        b.call(
            "PR_SET_DUMPABLE",
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE.into(), 1.into(), 0.into(), 0.into(), 0.into()],
        );
        b.label("linux.uidMappings");
        b.op("wait for the maps", op::SYNC, [msg::MAPS.into(), 0.into()]);
    }
    if input.new_user || joined_user {
        b.label("root of the user namespace");
        let id = Arg::from(0);
        // Not every map has a root; what needs one then fails by itself.
        b.call("setresgid", libc::SYS_setresgid, [id, id, id]).forgive(libc::EINVAL);
        b.call("setresuid", libc::SYS_setresuid, [id, id, id]).forgive(libc::EINVAL);
    }
    if let Some(offsets) = &input.time_offsets {
        b.label("time namespace");
        b.call("unshare", libc::SYS_unshare, [libc::CLONE_NEWTIME.into()]);
        if !offsets.is_empty() {
            b.label("linux.timeOffsets");
            let path = b.c(c"/proc/self/timens_offsets");
            let bytes = b.bytes(offsets.as_bytes());
            let at = Arg::from(libc::AT_FDCWD);
            b.op(
                "write timens_offsets",
                op::WRITE_FILE,
                [at, path.into(), bytes.into(), offsets.len().into(), 0.into()],
            );
        }
    }
    b.label("namespaces");
    b.op("clone3", op::FORK, [input.new_namespaces.into()]);
    Ok(())
}

/// From new namespaces to a made container.
fn container(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let linux = input.spec.linux().as_ref();
    if input.cgroup_namespace {
        b.label("cgroup namespace");
        b.call("unshare", libc::SYS_unshare, [libc::CLONE_NEWCGROUP.into()]);
    }
    if input.sync_hooks {
        b.label("hooks");
        b.op("wait for the hooks", op::SYNC, [msg::HOOKS.into(), 0.into()]);
    }
    if input.in_user_namespace && input.new_namespaces & libc::CLONE_NEWNET as u64 != 0 {
        b.label("network namespace");
        let path = b.c(c"/proc/self/ns/net");
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        b.call("open", libc::SYS_openat, [libc::AT_FDCWD.into(), path.into(), flags.into()]).out(slot::A);
        b.op("pass", op::SEND_FD, [msg::NETNS.into(), Arg::Slot(slot::A)]);
        b.close(slot::A);
    }
    if input.new_namespaces & libc::CLONE_NEWNET as u64 != 0 {
        loopback(b);
    }
    names(b, input)?;
    b.label("mount propagation");
    let propagation = match linux.and_then(|l| l.rootfs_propagation().as_deref()) {
        None | Some("") => None,
        Some(name) => Some(root_propagation(name)?),
    };
    let slash = b.c(c"/");
    // What the host mounts later may arrive (slave), nothing goes back.
    let shared = propagation.is_some_and(|p| p & libc::MS_SHARED != 0);
    let flags = if shared { libc::MS_SHARED } else { libc::MS_SLAVE };
    b.call(
        "mount --make-rslave",
        libc::SYS_mount,
        [0.into(), slash.into(), 0.into(), (libc::MS_REC | flags).into(), 0.into()],
    );
    if linux.is_some_and(|l| l.masked_paths().as_ref().is_some_and(|m| !m.is_empty())) {
        mounts::null_device(b);
    }
    if shared {
        hold_back(b, input)?;
    }
    root(b, input)?;
    mounts::mounts(b, input)?;
    devices::devices(b, input)?;
    if input.process.terminal() == Some(true) {
        devices::terminal(b, input, true)?;
    } else {
        process::stdio(b, input);
    }
    process::make_cwd(b, input)?;
    sysctl(b, input)?;
    mounts::masked_and_readonly(b, input)?;
    hooks::hooks(b, input, "createContainer", Status::Created)?;
    mounts::pivot(b, input.no_pivot);
    b.label("root.readonly");
    if input.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) {
        let path = b.c(c"/");
        b.call(
            "open",
            libc::SYS_openat,
            [libc::AT_FDCWD.into(), path.into(), (libc::O_PATH | libc::O_CLOEXEC).into()],
        )
        .out(slot::A);
        mounts::set_attributes(b, slot::A, options::attr::RDONLY, 0, 0, false);
        b.close(slot::A);
    }
    if let Some(propagation) = propagation {
        b.label("linux.rootfsPropagation");
        b.call("mount", libc::SYS_mount, [0.into(), slash.into(), 0.into(), propagation.into(), 0.into()]);
    }
    Ok(())
}

/// What the root is mounted on is shared with the host: made private, so that neither the root nor what is mounted in it gets there, and
/// `pivot_root` accepts it. Volumes on other mounts stay shared.
fn hold_back(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let below = match &input.root {
        RootSource::Path(path) => mounts::mount_point(path)?,
        _ => PathBuf::from("/"),
    };
    let path = b.text("root.path", below.as_os_str().as_encoded_bytes())?;
    b.call(
        "mount --make-private",
        libc::SYS_mount,
        [0.into(), path.into(), 0.into(), libc::MS_PRIVATE.into(), 0.into()],
    );
    Ok(())
}

fn root_propagation(name: &str) -> Result<u64> {
    let (flag, recursive) = match options::propagation_flag(name) {
        Some(flag) => (Some(flag), 0),
        None => (name.strip_prefix('r').and_then(options::propagation_flag), libc::MS_REC),
    };
    flag.map(|f| f | recursive)
        .ok_or_else(|| Error::spec("linux.rootfsPropagation", format!("unknown value {name}")))
}

fn names(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let names = [
        ("hostname", input.spec.hostname(), libc::SYS_sethostname),
        ("domainname", input.spec.domainname(), libc::SYS_setdomainname),
    ];
    for (field, name, nr) in names {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            b.label(field);
            let text = b.text(field, name)?;
            b.call("set", nr, [text.into(), name.len().into()]);
        }
    }
    Ok(())
}

/// A new network namespace's loopback is down; every runtime brings it up, as nothing else may ever be in there.
fn loopback(b: &mut Builder) {
    b.label("loopback");
    // struct ifreq of netdevice(7): the name in 16 bytes, then the flags.
    let mut request = [0u8; size_of::<libc::ifreq>()];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
    let request = b.bytes(&request);
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    b.call("socket", libc::SYS_socket, [libc::AF_INET.into(), kind.into(), 0.into()]).out(slot::A);
    b.call("SIOCSIFFLAGS", libc::SYS_ioctl, [Arg::Slot(slot::A), libc::SIOCSIFFLAGS.into(), request.into()]);
    b.close(slot::A);
}

/// Gets the root file system, attaches it, leaves it in [`slot::ROOT`].
fn root(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let empty = b.empty();
    let slash = b.c(c"/");
    let mut at = Arg::from(slash);
    match &input.root {
        RootSource::Path(path) => {
            b.label(format!("root.path {}", path.display()));
            let text = b.text("root.path", path.as_os_str().as_encoded_bytes())?;
            mounts::open_tree(b, libc::AT_FDCWD.into(), text, true, slot::ROOT);
            at = text.into();
        }
        RootSource::Fd(fd) => {
            b.label("detached root file system");
            b.call("dup", libc::SYS_fcntl, [(*fd).into(), libc::F_DUPFD_CLOEXEC.into(), 3.into()])
                .out(slot::ROOT);
            b.call("close", libc::SYS_close, [(*fd).into()]);
        }
        RootSource::Overlay { lower, upper, work } => {
            b.label("overlay root file system");
            let mut options = options::Options::default();
            let path = |p: &Path| {
                p.to_str().map(str::to_owned).ok_or_else(|| Error::spec("rootfs", "path is not UTF-8"))
            };
            // One by one (Linux 6.5): fsconfig(2) takes at most 255 bytes at a time, and a joined list is soon longer.
            for lower in *lower {
                options.data.push(("lowerdir+".to_owned(), Some(path(lower)?)));
            }
            options.data.push(("upperdir".to_owned(), Some(path(upper)?)));
            options.data.push(("workdir".to_owned(), Some(path(work)?)));
            options.data.push(("userxattr".to_owned(), None));
            mounts::create(b, "overlay", "overlay", &options, slot::ROOT)?;
        }
        RootSource::None => return Ok(()),
    }
    let cwd = Arg::from(libc::AT_FDCWD);
    // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS
    b.call("move_mount", libc::SYS_move_mount, [Arg::Slot(slot::ROOT), empty.into(), cwd, at, 0x14.into()]);
    // pivot_root(2) wants a root whose parent is not shared, and nothing made inside belongs on the host.
    mounts::set_attributes(b, slot::ROOT, 0, 0, libc::MS_PRIVATE, false);
    Ok(())
}

/// `linux.sysctl`, through a procfs of our own that nothing in the root can stand in for (CVE-2025-52881).
fn sysctl(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(sysctl) =
        input.spec.linux().as_ref().and_then(|l| l.sysctl().as_ref()).filter(|s| !s.is_empty())
    else {
        return Ok(());
    };
    b.label("linux.sysctl");
    mounts::create(b, "proc", "proc", &options::Options::default(), slot::PROC)?;
    let mut keys: Vec<_> = sysctl.iter().collect();
    keys.sort();
    for (key, value) in keys {
        crate::sysctl::check(key, input.spec)?;
        b.label(format!("linux.sysctl {key}"));
        let path = b.text("linux.sysctl", format!("sys/{}", crate::sysctl::path(key)))?;
        let bytes = b.bytes(value.as_bytes());
        // RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
        let resolve = 0x01 | mounts::NO_MAGICLINKS | mounts::NO_SYMLINKS;
        b.op(
            "write",
            op::WRITE_FILE,
            [Arg::Slot(slot::PROC), path.into(), bytes.into(), value.len().into(), resolve.into()],
        );
    }
    b.close(slot::PROC);
    Ok(())
}

/// From a made container to its program.
fn program(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    b.label("signals");
    b.op("reset", op::RESET_SIGNALS, []);
    // The terminal takes the place of the creator's streams now: whoever reads those waits for their end.
    process::session(b, input);
    if input.mode == Mode::Init {
        process::try_cwd(b, input)?;
        process::look_up(b, input)?;
        b.label("start");
        b.op(super::PARK, op::PARK, [input.listener.unwrap_or(-1).into()]);
        hooks::hooks(b, input, "startContainer", Status::Created)?;
    }
    process::rlimits(b, input)?;
    attributes::late(b, input)?;
    if input.mode == Mode::Exec {
        attributes::affinity(b, input, true)?;
    }
    attributes::labels(b, input)?;
    if let Some(rules) = input.landlock {
        landlock::landlock(b, rules)?;
    }
    let early_filter = input.process.no_new_privileges() != Some(true);
    if early_filter && let Some(filter) = input.filter {
        filter.load(b);
    }
    process::identity(b, input)?;
    process::cwd(b, input)?;
    process::capabilities(b, input);
    process::no_new_privileges(b, input);
    b.label("signals");
    process::unblock_signals(b);
    process::descriptors(b, input);
    if !early_filter && let Some(filter) = input.filter {
        filter.load(b);
    }
    process::execute(b, input)
}
