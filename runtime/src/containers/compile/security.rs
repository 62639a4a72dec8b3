use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde_json::{Value, json};

use crate::Landlock;
use crate::containers::{Error, HostConfig, Result};

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// All that the kernel knows.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

pub(in crate::containers) fn masked(host: &HostConfig) -> Vec<String> {
    if unconfined_paths(host) { Vec::new() } else { crate::spec::masked_paths() }
}
pub(in crate::containers) fn readonly(host: &HostConfig) -> Vec<String> {
    if unconfined_paths(host) { Vec::new() } else { crate::spec::readonly_paths() }
}

fn option<'a>(host: &'a HostConfig, name: &str) -> Option<&'a str> {
    host.security_opt.iter().rev().find_map(|o| {
        let (key, value) = o.split_once(['=', ':']).unwrap_or((o, ""));
        (key == name).then_some(value)
    })
}
fn unconfined_paths(host: &HostConfig) -> bool {
    option(host, "systempaths") == Some("unconfined")
}
pub(super) fn no_new_privileges(host: &HostConfig) -> bool {
    matches!(option(host, "no-new-privileges"), Some("" | "true"))
}

/// The policy of `landlock=POLICY`, as JSON.
pub(super) fn landlock(host: &HostConfig) -> Option<&str> {
    option(host, "landlock")
}

/// Refuses what is not known, so that nobody believes in a protection that is not there.
pub(in crate::containers) fn check(host: &HostConfig) -> Result<()> {
    for o in &host.security_opt {
        let (key, value) = o.split_once(['=', ':']).unwrap_or((o, ""));
        let known = match key {
            "no-new-privileges" => matches!(value, "" | "true" | "false"),
            "systempaths" => value == "unconfined",
            "landlock" => Landlock::from_json(value)
                .map(drop)
                .map_err(|e| {
                    Error::invalid(format!(
                        "Decoding landlock policy failed: {}",
                        crate::containers::error::chain(&e)
                    ))
                })
                .map(|()| true)?,
            "seccomp" => value == "unconfined" || profile(value).is_ok(),
            "apparmor" => value == "unconfined" || value.is_empty(),
            "label" => value == "disable",
            _ => false,
        };
        if !known {
            return Err(Error::invalid(if o.contains(['=', ':']) {
                format!("invalid --security-opt 2: {o:?}")
            } else {
                format!("Invalid --security-opt: {o:?}")
            }));
        }
    }
    host.device_cgroup_rules.iter().try_for_each(|rule| super::devices::parse_rule(rule).map(drop))?;
    capabilities(host, 0).map(drop)
}

pub(super) fn capabilities(host: &HostConfig, uid: u32) -> Result<Value> {
    let name = |flag: &str, text: &String| {
        let upper = text.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if full == "CAP_ALL" || ALL.contains(&full.as_str()) {
            Ok(full)
        } else {
            Err(Error::invalid(format!("invalid {flag}: unknown capability: \"{full}\"")))
        }
    };
    let add: Vec<String> = host.cap_add.iter().map(|c| name("CapAdd", c)).collect::<Result<_>>()?;
    let drop: Vec<String> = host.cap_drop.iter().map(|c| name("CapDrop", c)).collect::<Result<_>>()?;
    let all = |list: &[String]| list.iter().any(|c| c == "CAP_ALL");
    let mut set: Vec<&str> = if host.privileged || all(&add) {
        ALL.to_vec()
    } else if all(&drop) {
        Vec::new()
    } else {
        DEFAULT.to_vec()
    };
    set.extend(add.iter().map(String::as_str).filter(|c| *c != "CAP_ALL" && ALL.contains(c)));
    if !host.privileged {
        set.retain(|c| !drop.iter().any(|d| d == c) || (all(&drop) && add.iter().any(|a| a == c)));
    }
    set.sort_unstable();
    set.dedup();
    // The kernel gives a plain user what its file's bits say and no more; Docker leaves the bounding set as it is.
    let own: &[&str] = if uid == 0 { &set } else { &[] };
    Ok(json!({"bounding": set, "effective": own, "permitted": own, "inheritable": [], "ambient": []}))
}

/// `seccomp=unconfined`, the text of a profile, or Docker's default for these capabilities.
pub(super) fn seccomp(spec: &mut Spec, host: &HostConfig) -> Result<()> {
    let value = option(host, "seccomp");
    if host.privileged || value == Some("unconfined") {
        return Ok(());
    }
    let profile = match (value, spec.process()) {
        (Some(text), _) => profile(text)?,
        (None, Some(process)) => crate::spec::default_seccomp(process),
        (None, None) => return Ok(()),
    };
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(Some(profile));
    }
    Ok(())
}

/// A profile as the OCI runtime-spec's `linux.seccomp` has it.
fn profile(text: &str) -> Result<LinuxSeccomp> {
    serde_json::from_str(text).map_err(|e| Error::invalid(format!("opening seccomp profile failed: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |l: &[&str]| l.iter().map(ToString::to_string).collect();
        let host = HostConfig { cap_add: list(add), cap_drop: list(drop), ..HostConfig::default() };
        serde_json::from_value(capabilities(&host, 0).unwrap()["bounding"].clone()).unwrap()
    }

    #[test]
    fn sets_as_docker_makes_them() {
        assert_eq!(caps(&[], &[]).len(), 14);
        assert_eq!(caps(&["sys_admin"], &["ALL"]), ["CAP_SYS_ADMIN"]);
        assert_eq!(caps(&["ALL"], &["MKNOD"]).len(), ALL.len() - 1);
        assert!(!caps(&[], &["chown"]).contains(&"CAP_CHOWN".into()));
        let bad = HostConfig { cap_add: vec!["FLY".into()], ..HostConfig::default() };
        assert!(check(&bad).is_err());
        for bad in ["seccomp=", "label=user:x", "nonsense", "apparmor=docker-default"] {
            assert!(
                check(&HostConfig { security_opt: vec![bad.into()], ..HostConfig::default() }).is_err(),
                "{bad}"
            );
        }
        assert!(
            check(&HostConfig {
                security_opt: vec!["no-new-privileges:true".into()],
                ..HostConfig::default()
            })
            .is_ok()
        );
    }
}
