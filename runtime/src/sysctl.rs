//! Which kernel parameters a container may set: those that belong to a namespace of its own (CVE-2022-0811).

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::error::{Error, Result};

/// Refuses a key that is not the container's own.
pub(crate) fn check(key: &str, spec: &Spec) -> Result<()> {
    let refuse = |reason: &str| Err(Error::spec(format!("linux.sysctl.{key}"), reason));
    let path = path(key);
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:".contains(&b))
        || path.split('/').any(|p| p.is_empty() || p == "..")
    {
        return refuse("is not a kernel parameter's name");
    }
    let own = |kind| {
        let namespaces = spec.linux().iter().filter_map(|l| l.namespaces().as_ref()).flatten();
        namespaces.into_iter().any(|n| n.typ() == kind)
    };
    let (kind, name) = match path.as_str() {
        "kernel/hostname" => return refuse("is set by the field hostname"),
        "kernel/domainname" => (LinuxNamespaceType::Uts, "UTS"),
        p if p.starts_with("net/") => (LinuxNamespaceType::Network, "network"),
        p if p.starts_with("fs/mqueue/")
            || p.starts_with("kernel/msg")
            || p.starts_with("kernel/shm")
            || p == "kernel/sem" =>
        {
            (LinuxNamespaceType::Ipc, "IPC")
        }
        p if p.starts_with("user/") => (LinuxNamespaceType::User, "user"),
        _ => return refuse("is not of a namespace"),
    };
    if own(kind) { Ok(()) } else { refuse(&format!("needs a {name} namespace of the container's own")) }
}

/// The file below `/proc/sys`. As sysctl(8): when the first separator is a slash, dots are part of names.
pub(crate) fn path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes().get(at) == Some(&b'/') => key.to_owned(),
        _ => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    }
}
