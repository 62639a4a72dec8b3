//! Identity maps of user namespaces (user_namespaces(7)).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxIdMapping, User};

use crate::caps;
use crate::error::{Error, Result};

/// Both maps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps {
    uid: Vec<[u32; 3]>,
    gid: Vec<[u32; 3]>,
    /// We may write any map.
    privileged: bool,
}

impl Maps {
    pub(crate) fn new(uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Self {
        let flat = |maps: &[LinuxIdMapping]| {
            maps.iter().map(|m| [m.container_id(), m.host_id(), m.size()]).collect()
        };
        let privileged = caps::has(caps::SETGID) && caps::has(caps::SETUID);
        Self { uid: flat(uid), gid: flat(gid), privileged }
    }

    /// One ID each, our own: what the kernel permits without any privilege.
    fn is_single(&self) -> bool {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        matches!(self.uid.as_slice(), [[_, host, 1]] if *host == uid)
            && matches!(self.gid.as_slice(), [[_, host, 1]] if *host == gid)
    }

    /// `setgroups(2)` stays permitted inside.
    pub(crate) fn may_set_groups(&self) -> bool {
        self.privileged || !self.is_single()
    }

    /// Refuses a user of the process whom the maps do not have: the kernel would only say "invalid argument".
    pub(crate) fn check(&self, user: &User) -> Result<()> {
        let has =
            |map: &[[u32; 3]], id: u32| map.iter().any(|[inside, _, size]| id.wrapping_sub(*inside) < *size);
        let refuse = |field: &str, id: u32| {
            Err(Error::Unsupported {
                what: format!(
                    "process.user.{field} {id}: the container's user namespace has no such ID; linux.{field}Mappings must contain it \
                     (more than one ID takes newuidmap, newgidmap and a range in /etc/subuid and /etc/subgid)"
                ),
            })
        };
        if !has(&self.uid, user.uid()) {
            return refuse("uid", user.uid());
        }
        if !has(&self.gid, user.gid()) {
            return refuse("gid", user.gid());
        }
        match user.additional_gids().iter().flatten().find(|gid| !has(&self.gid, **gid)) {
            Some(gid) => refuse("gid", *gid),
            None => Ok(()),
        }
    }

    /// Writes them for a process that waits for it.
    pub(crate) fn write(&self, pid: u32) -> Result<()> {
        if self.privileged {
            file(pid, "uid_map", &text(&self.uid))?;
            return file(pid, "gid_map", &text(&self.gid));
        }
        if self.is_single() {
            file(pid, "setgroups", "deny")?;
            file(pid, "uid_map", &text(&self.uid))?;
            return file(pid, "gid_map", &text(&self.gid));
        }
        // Ranges of /etc/subuid and /etc/subgid are granted by these two set-user-ID programs alone.
        tool("newuidmap", pid, &self.uid)?;
        tool("newgidmap", pid, &self.gid)
    }
}

/// This process is in a user namespace already, as what rootless podman starts: no device node can be made in there.
pub(crate) fn is_inside() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// `setgroups(2)` is permitted to this process.
pub(crate) fn may_set_groups() -> bool {
    let denied = fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "deny");
    !denied && caps::has(caps::SETGID)
}

fn text(map: &[[u32; 3]]) -> String {
    map.iter().map(|[inside, outside, size]| format!("{inside} {outside} {size}\n")).collect()
}

fn file(pid: u32, name: &str, text: &str) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    // One write(2) or the kernel refuses it: fs::write does it in one for such sizes.
    fs::write(&path, text).map_err(|source| Error::Os { what: format!("write {}", path.display()), source })
}

fn tool(name: &str, pid: u32, map: &[[u32; 3]]) -> Result<()> {
    let output = Command::new(name)
        .arg(pid.to_string())
        .args(map.iter().flatten().map(u32::to_string))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Os { what: format!("run {name}"), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Unsupported { what: format!("identity map of a range: {name}: {said}") })
}
