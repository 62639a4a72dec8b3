//! Capability names and sets.

use std::collections::HashSet;
use std::fs;

use oci_spec::runtime::{Capability, LinuxCapabilities};

/// capabilities(7), by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Number of `CAP_SETGID`.
pub(crate) const SETGID: u32 = 6;
/// Number of `CAP_SETUID`.
pub(crate) const SETUID: u32 = 7;
/// Number of `CAP_SYS_ADMIN`.
pub(crate) const SYS_ADMIN: u32 = 21;
/// Number of `CAP_SYS_RESOURCE`.
pub(crate) const SYS_RESOURCE: u32 = 24;

/// The five sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// The spec's sets as far as `available` goes, and the names of those that cannot be granted: config.md wants a warning for them, not
/// a failure.
pub(crate) fn sets(spec: &LinuxCapabilities, available: u64) -> (Sets, Vec<String>) {
    let mask = |set: &Option<HashSet<Capability>>| {
        set.iter().flatten().filter_map(number).fold(0u64, |m, n| m | 1 << n)
    };
    let wanted =
        [spec.bounding(), spec.effective(), spec.permitted(), spec.inheritable(), spec.ambient()].map(mask);
    let missing = wanted.iter().fold(0, |all, m| all | m) & !available;
    let [bounding, effective, permitted, inheritable, ambient] = wanted.map(|m| m & available);
    // The kernel's own rules: effective within permitted, inheritable within bounding, ambient within permitted and inheritable
    // (capabilities(7)).
    let inheritable = inheritable & bounding;
    let sets = Sets {
        bounding,
        permitted,
        effective: effective & permitted,
        inheritable,
        ambient: ambient & permitted & inheritable,
    };
    let names = NAMES
        .iter()
        .enumerate()
        .filter(|(n, _)| missing & (1 << n) != 0)
        .map(|(_, name)| format!("CAP_{name}"));
    (sets, names.collect())
}

fn number(capability: &Capability) -> Option<u32> {
    let name = capability.to_string().to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|n| *n == name).map(|n| n as u32)
}

/// All names, by number.
pub(crate) fn names() -> Vec<String> {
    NAMES.iter().map(|name| format!("CAP_{name}")).collect()
}

/// Highest capability that the kernel knows.
pub(crate) fn last() -> u32 {
    fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|s| s.trim().parse().ok())
        .unwrap_or(40)
        .min(63)
}

/// Every capability that the kernel knows.
pub(crate) fn all() -> u64 {
    u64::MAX >> (63 - last())
}

/// This thread's bounding and permitted set, both: what a child without a user namespace can be given.
pub(crate) fn own() -> u64 {
    let bounding = |n: &u32| crate::sys::in_bounding_set(*n);
    let permitted = crate::sys::permitted_capabilities();
    (0..NAMES.len() as u32).filter(|n| permitted & 1 << n != 0).filter(bounding).fold(0, |m, n| m | 1 << n)
}

/// One of [`own`].
pub(crate) fn has(number: u32) -> bool {
    crate::sys::permitted_capabilities() & 1 << number != 0 && crate::sys::in_bounding_set(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_cut_to_what_can_be_granted() {
        let set: HashSet<_> =
            [Capability::Chown, Capability::SysResource, Capability::NetBindService].into_iter().collect();
        let mut spec = LinuxCapabilities::default();
        spec.set_bounding(Some(set.clone()))
            .set_permitted(Some(set.clone()))
            .set_effective(Some(set.clone()));
        spec.set_inheritable(None).set_ambient(Some(set));
        let (sets, missing) = sets(&spec, all() & !(1 << SYS_RESOURCE));
        assert_eq!(sets.permitted, 1 | 1 << 10);
        assert_eq!(sets.ambient, 0, "ambient needs inheritable");
        assert_eq!(missing, ["CAP_SYS_RESOURCE"]);
    }
}
