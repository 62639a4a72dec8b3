//! Specs to start from.
//!
//! [`default_spec`] is what `docker run` gives a container: its fourteen capabilities, all namespaces but user and time, masked and
//! read-only kernel files, a private `/dev`. [`rootless_spec`] is the same for a user without privileges.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, LinuxSeccomp, Mount, Process, Root, Spec, User,
};

/// Docker's default set.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Kernel files that tell of, or act on, the whole machine.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The search path that a container without `PATH` gets.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What [`default_spec`] masks.
pub(crate) fn masked_paths() -> Vec<String> {
    MASKED.map(str::to_owned).to_vec()
}

/// What [`default_spec`] makes read-only.
pub(crate) fn readonly_paths() -> Vec<String> {
    READONLY.iter().map(ToString::to_string).collect()
}

/// A container as `docker run` makes it: root inside, no user namespace, `root.path` = `rootfs`, writable, no terminal, no limits.
pub fn default_spec<I, S>(args: I) -> Spec
where
    I: IntoIterator<Item = S>,
    S: Into<String>,
{
    use LinuxNamespaceType as T;
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(false));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(
            [T::Pid, T::Network, T::Ipc, T::Uts, T::Mount, T::Cgroup].map(namespace).to_vec(),
        ))
        .set_masked_paths(Some(masked_paths()))
        .set_readonly_paths(Some(readonly_paths()))
        .set_resources(Some(LinuxResources::default()))
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_devices(None);
    let process = process(args);
    linux.set_seccomp(Some(default_seccomp(&process)));
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_hostname(None)
        .set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(mounts()))
        .set_linux(Some(linux));
    spec
}

/// The same for a user without privileges: a user namespace in which the caller's `uid` and `gid` are root, devices bound from the host,
/// no cgroup mount. Its network namespace is new, with nothing in it but loopback; take [`share_network`] for the host's.
pub fn rootless_spec<I, S>(args: I, uid: u32, gid: u32) -> Spec
where
    I: IntoIterator<Item = S>,
    S: Into<String>,
{
    let mut spec = default_spec(args);
    if let Some(linux) = spec.linux_mut() {
        if let Some(namespaces) = linux.namespaces_mut() {
            namespaces.push(namespace(LinuxNamespaceType::User));
        }
        linux
            .set_uid_mappings(Some(vec![single(uid)]))
            .set_gid_mappings(Some(vec![single(gid)]))
            .set_resources(None);
    }
    if let Some(mounts) = spec.mounts_mut() {
        mounts.retain(|m| m.typ().as_deref() != Some("cgroup"));
        for mount in mounts.iter_mut().filter(|m| m.typ().as_deref() == Some("devpts")) {
            // Group 5 (tty) is not in a map of one.
            let options =
                mount.options().iter().flatten().filter(|o| !o.starts_with("gid=")).cloned().collect();
            mount.set_options(Some(options));
        }
    }
    spec
}

/// The seccomp profile that [`default_spec`] sets, which is Docker's: it depends on the capabilities, so it is to be set again when
/// the process is given others (`CAP_SYS_ADMIN` allows `mount`, `CAP_SYS_PTRACE` allows `kcmp`...).
pub fn default_seccomp(process: &Process) -> LinuxSeccomp {
    let bounding = process.capabilities().as_ref().and_then(|c| c.bounding().clone());
    crate::seccomp::default_profile(&bounding.unwrap_or_default())
}

/// Takes the network namespace out of a spec: the container shares the caller's network. In a user namespace a fresh sysfs is then not
/// permitted, so the host's `/sys` is bound read-only instead.
pub fn share_network(spec: &mut Spec) {
    let mut user_namespace = false;
    if let Some(namespaces) = spec.linux_mut().as_mut().and_then(|l| l.namespaces_mut().as_mut()) {
        namespaces.retain(|n| n.typ() != LinuxNamespaceType::Network);
        user_namespace = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::User);
    }
    if user_namespace && let Some(mounts) = spec.mounts_mut() {
        for m in mounts.iter_mut().filter(|m| m.typ().as_deref() == Some("sysfs")) {
            *m = mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "rro", "rslave"]);
        }
    }
}

fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(None);
    namespace
}

fn single(id: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(id)
        .size(1u32)
        .build()
        .expect("all three fields are set")
}

fn process<I, S>(args: I) -> Process
where
    I: IntoIterator<Item = S>,
    S: Into<String>,
{
    let set: std::collections::HashSet<Capability> = CAPABILITIES.into_iter().collect();
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    let mut process = Process::default();
    process
        .set_args(Some(args.into_iter().map(Into::into).collect()))
        .set_env(Some(vec![DEFAULT_PATH.to_owned()]))
        .set_cwd(PathBuf::from("/"))
        .set_user(User::default())
        .set_terminal(Some(false))
        .set_no_new_privileges(Some(false))
        .set_rlimits(None)
        .set_capabilities(Some(capabilities));
    process
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}

fn mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
    ]
}
