//! What this kernel lets this user do, found out by trying.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::caps;
use crate::cgroup::Layout;
use crate::error::Result;
use crate::plan;
use crate::sys::{self, Spawn};

/// Whether something can be done, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// It can.
    Yes,
    /// It cannot: why, in words for people.
    No(String),
}

impl Support {
    /// It can be done.
    pub fn is_yes(&self) -> bool {
        *self == Support::Yes
    }

    fn when(yes: bool, why_not: impl FnOnce() -> String) -> Self {
        if yes { Support::Yes } else { Support::No(why_not()) }
    }
}

impl std::fmt::Display for Support {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Support::Yes => f.write_str("yes"),
            Support::No(why) => write!(f, "no: {why}"),
        }
    }
}

/// What this kernel lets the calling thread do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// Containers at all: a mount, PID, network, IPC and UTS namespace; for an ordinary user, within a user namespace.
    pub containers: Support,
    /// A user namespace (`linux.namespaces` of type `user`).
    pub user_namespaces: Support,
    /// Time namespaces.
    pub time_namespaces: Support,
    /// More than one ID in a user namespace.
    pub id_ranges: Support,
    /// Limits: groups can be made. Without, limits are left out with a warning for an ordinary user.
    pub cgroups: Support,
    /// Controllers, those of cgroup v1 and v2.
    pub controllers: Vec<String>,
    /// Seccomp filters.
    pub seccomp: Support,
    /// Seccomp user notification (`SCMP_ACT_NOTIFY`).
    pub seccomp_notify: Support,
    /// Version of Landlock's interface, where there is one.
    pub landlock: Option<u32>,
    /// An overlay as root file system that the container itself mounts (`Rootfs::Overlay`).
    pub overlay: Support,
    /// `CAP_*` that a container outside of a user namespace can be given.
    pub grantable: Vec<String>,
    /// `process.apparmorProfile` has an effect.
    pub apparmor: Support,
    /// `process.selinuxLabel` has an effect.
    pub selinux: Support,
}

const NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

impl Capabilities {
    /// Finds it out: two processes are started that end at once, nothing stays.
    pub fn probe() -> Result<Self> {
        let helper = sys::helper().map_err(crate::Error::os("make the start-up helper's memory"))?;
        let layout = Layout::detect()?;
        let own = caps::own();
        let privileged = own & 1 << caps::SYS_ADMIN != 0;
        let user = if privileged { 0 } else { libc::CLONE_NEWUSER };
        let seccomp_action = |action: u32, name: &str| {
            Support::when(sys::seccomp_knows(action), || format!("the kernel has no {name}"))
        };
        Ok(Self {
            containers: try_namespaces(&helper, NAMESPACES | user),
            user_namespaces: try_namespaces(&helper, libc::CLONE_NEWUSER),
            time_namespaces: Support::when(Path::new("/proc/self/ns/time").exists(), || {
                "the kernel has none (CONFIG_TIME_NS)".to_owned()
            }),
            id_ranges: id_ranges(own),
            cgroups: cgroups(&layout),
            controllers: controllers(&layout),
            seccomp: seccomp_action(libc::SECCOMP_RET_ERRNO, "seccomp filters"),
            seccomp_notify: seccomp_action(libc::SECCOMP_RET_USER_NOTIF, "user notification"),
            landlock: sys::landlock_version(),
            overlay: overlay(),
            grantable: caps::names()
                .into_iter()
                .enumerate()
                .filter(|(n, _)| own & 1 << n != 0)
                .map(|(_, name)| name)
                .collect(),
            apparmor: security_module("apparmor", "/sys/module/apparmor/parameters/enabled", "Y"),
            selinux: security_module("selinux", "/sys/fs/selinux/enforce", ""),
        })
    }
}

/// Starts the helper there with a plan of no steps.
fn try_namespaces(helper: &OwnedFd, flags: i32) -> Support {
    let plan = plan::nothing();
    let tried = sys::memory(c"longshore-probe", &plan).and_then(|memory| {
        let request = Spawn {
            program: helper.as_fd(),
            plan: memory.as_fd(),
            plan_len: plan.len(),
            namespaces: flags as u64,
            cgroup: None,
            keep: &[],
        };
        let (_, pidfd) = sys::spawn(&request)?;
        sys::wait(&pidfd, None)
    });
    match tried {
        Ok(_) => Support::Yes,
        Err(error) => Support::No(match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                "no namespace is left (sysctl user.max_*_namespaces, or 32 levels of user namespaces)"
                    .to_owned()
            }
            Some(libc::EPERM) if flags & libc::CLONE_NEWUSER != 0 => format!(
                "{error} (sysctl kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns, a seccomp filter, or a \
                 chroot)"
            ),
            _ => error.to_string(),
        }),
    }
}

fn id_ranges(own: u64) -> Support {
    let need = 1 << caps::SETGID | 1 << caps::SETUID;
    if own & need == need {
        return Support::Yes;
    }
    let tool =
        |name: &str| ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|d| Path::new(d).join(name).exists());
    if !tool("newuidmap") || !tool("newgidmap") {
        return Support::No("newuidmap and newgidmap are not installed (Debian: uidmap)".to_owned());
    }
    let uid = rustix::process::getuid().as_raw();
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !has_range(file, uid) {
            return Support::No(format!("{file} grants no range to user {uid}"));
        }
    }
    Support::Yes
}

/// Lines are `name:first:count`, or with the ID in place of the name.
fn has_range(file: &str, uid: u32) -> bool {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|l| l.split(':').next()).any(|who| Some(who) == name || who.parse() == Ok(uid))
}

fn cgroups(layout: &Layout) -> Support {
    let mounts: Vec<&Path> =
        layout.v1.iter().map(|h| h.mount.as_path()).chain(layout.v2.as_deref()).collect();
    if mounts.is_empty() {
        return Support::No("no cgroup hierarchy is mounted".to_owned());
    }
    let refused =
        mounts.iter().find(|mount| rustix::fs::access(**mount, rustix::fs::Access::WRITE_OK).is_err());
    match refused {
        None => Support::Yes,
        Some(mount) => Support::No(format!("{} is not delegated to this user", mount.display())),
    }
}

fn controllers(layout: &Layout) -> Vec<String> {
    let v1 = layout.v1.iter().flat_map(|h| h.controllers.iter().cloned());
    let v2 = layout.v2.iter().flat_map(|mount| {
        let text = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let mut all: Vec<String> = v1.chain(v2).filter(|c| !c.starts_with("name=")).collect();
    all.sort();
    all.dedup();
    all
}

/// The way in which it is mounted, one layer after the other, is there since Linux 6.5.
fn overlay() -> Support {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|l| l.trim_start_matches("nodev").trim() == "overlay") {
        return Support::No("the kernel has no overlay, or its module is not loaded".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Support::when(version >= (6, 5), || format!("Linux {} is older than 6.5", release.trim()))
}

fn security_module(name: &str, file: &str, begins: &str) -> Support {
    let on = fs::read_to_string(file).is_ok_and(|text| text.starts_with(begins));
    Support::when(on, || format!("{name} is not active"))
}
