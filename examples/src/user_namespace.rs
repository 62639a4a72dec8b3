//! A user namespace with the ids that `/etc/subuid` and `/etc/subgid` grant to an ordinary user, so that images' files can have
//! other owners than one (subuid(5), user_namespaces(7)).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::Result;

/// First argument of the process that has the maps written.
const HELPER: &str = "longshore-id-maps";

const TOOL_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Users and groups of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub uid: Vec<LinuxIdMapping>,
    /// Groups.
    pub gid: Vec<LinuxIdMapping>,
}

impl IdMaps {
    /// What this user is granted: root is the user, the rest follows it. `None` where there is no range of both kinds, or nothing
    /// that could give it (Debian: package uidmap).
    pub fn granted() -> Option<Self> {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let installed = |tool: &str| TOOL_DIRS.iter().any(|dir| Path::new(dir).join(tool).exists());
        if !installed("newuidmap") || !installed("newgidmap") {
            return None;
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let passwd = read("/etc/passwd");
        let name = name_of(&passwd, uid).unwrap_or_default();
        let map = |file: &str, own: u32| {
            let ranges = ranges(&read(file), uid, name);
            (!ranges.is_empty()).then(|| follow(own, &ranges))
        };
        Some(Self { uid: map("/etc/subuid", uid)?, gid: map("/etc/subgid", gid)? })
    }

    /// All ids of the user namespace that this process is root of, for one below it; `None` when that is the machine's own.
    pub fn inherited() -> Option<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let uid = read("uid_map");
        let whole = uid.split_whitespace().eq(["0", "0", "4294967295"]);
        let inside = rustix::process::geteuid().is_root() && !whole;
        inside.then(|| Self { uid: same(&uid), gid: same(&read("gid_map")) })
    }

    fn arguments(&self) -> impl Iterator<Item = String> + '_ {
        let flat = |map: &[LinuxIdMapping]| {
            let numbers = map.iter().flat_map(|m| [m.container_id(), m.host_id(), m.size()]);
            numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
        };
        [flat(&self.uid), flat(&self.gid)].into_iter()
    }
}

/// Puts this process, which must not have threads yet, into a user namespace with these ids and a mount namespace, as root.
///
/// `newuidmap` and `newgidmap` write the maps. They must be asked from outside, so this program is started once more: its `main` begins with
/// [`id_maps_main`].
///
/// # Errors
/// When the kernel allows no user namespace, or the programs refuse the maps.
pub fn enter(maps: &IdMaps) -> Result<()> {
    let mut helper = Command::new(std::env::current_exe()?)
        .arg(HELPER)
        .arg(std::process::id().to_string())
        .args(maps.arguments())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let mut go = helper.stdin.take().ok_or("the helper has no standard input")?;
    if unshared.is_ok() {
        go.write_all(b"!")?;
    }
    drop(go);
    let ended = helper.wait_with_output()?;
    unshared?;
    if !ended.status.success() {
        return Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned().into());
    }
    Ok(())
}

/// If this process was started by [`enter`], does what it is for; its exit code.
pub fn id_maps_main(mut args: impl Iterator<Item = OsString>) -> Option<u8> {
    (args.nth(1).as_deref() == Some(OsStr::new(HELPER))).then(|| match write_maps(args) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            1
        }
    })
}

fn write_maps(args: impl Iterator<Item = OsString>) -> Result<()> {
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let [pid, uid, gid] = args.as_slice() else { return Err("started by hand".into()) };
    // Nothing to do when the namespace could not be made.
    if std::io::stdin().read(&mut [0])? == 0 {
        return Ok(());
    }
    for (tool, map) in [("newuidmap", uid), ("newgidmap", gid)] {
        let ended = Command::new(tool)
            .env_clear()
            .env("PATH", TOOL_DIRS.join(":"))
            .arg(pid)
            .args(map.split(' '))
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("cannot run {tool}: {e}"))?;
        if !ended.status.success() {
            return Err(format!("{tool}: {}", String::from_utf8_lossy(&ended.stderr).trim()).into());
        }
    }
    Ok(())
}

/// `name:x:uid:...`
fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// First id and number of ids of each line `name:first:count`, or with the user's id in place of the name.
fn ranges(text: &str, uid: u32, name: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((!name.is_empty() && who == name || who.parse() == Ok(uid)) && count > 0).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// 0 is the user's own id, the ranges follow it.
fn follow(own: u32, ranges: &[(u32, u32)]) -> Vec<LinuxIdMapping> {
    let mut next = 1_u32;
    let mut maps = vec![mapping(0, own, 1)];
    for (first, count) in ranges {
        maps.push(mapping(next, *first, *count));
        next = next.saturating_add(*count);
    }
    maps
}

/// The same ids inside as here.
fn same(map: &str) -> Vec<LinuxIdMapping> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        let (inside, count) = (fields.next()?.ok()?, fields.nth(1)?.ok()?);
        Some(mapping(inside, inside, count))
    };
    map.lines().filter_map(line).collect()
}

fn mapping(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(inside)
        .host_id(outside)
        .size(size)
        .build()
        .expect("all fields are set")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(maps: &[LinuxIdMapping]) -> Vec<[u32; 3]> {
        maps.iter().map(|m| [m.container_id(), m.host_id(), m.size()]).collect()
    }

    #[test]
    fn ranges_are_granted_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000), Some("alice"));
        assert_eq!(name_of(passwd, 1001), None);
        let text = "bob:1:2\nalice:100000:65536\n1000:300000:10\nalice:x:y\nalice:5:0\n\n:7:7\n";
        assert_eq!(ranges(text, 1000, "alice"), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(text, 1001, ""), []);
        let maps = follow(1000, &[(100_000, 65_536), (300_000, 10)]);
        assert_eq!(plain(&maps), [[0, 1000, 1], [1, 100_000, 65_536], [65_537, 300_000, 10]]);
    }

    #[test]
    fn a_namespace_below_has_the_same_ids() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(plain(&same(map)), [[0, 0, 1], [1, 1, 65_536]]);
    }
}
