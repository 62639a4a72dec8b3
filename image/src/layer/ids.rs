//! Which ids a process may give to files.

use std::fs;

use super::directory::Owner;
use super::tar::{Entry, Kind, shown};
use crate::{Error, Result};

/// Whose files this process makes, and of which ids.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    pub(crate) owner: Owner,
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
}

impl Ids {
    /// Of this process: root of the whole machine, root of a user namespace with more ids than one, or one user.
    pub(crate) fn own() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self::from_maps(rustix::process::geteuid().is_root(), &read("uid_map"), &read("gid_map"))
    }

    fn from_maps(root: bool, uid_map: &str, gid_map: &str) -> Self {
        let (uids, gids) = (ranges(uid_map), ranges(gid_map));
        let whole = uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
        let several =
            |ranges: &[(u32, u32)]| ranges.iter().map(|(_, size)| u64::from(*size)).sum::<u64>() > 1;
        let owner = match root {
            true if whole => Owner::Root,
            true if several(&uids) && several(&gids) => Owner::Range,
            _ => Owner::User,
        };
        Self { owner, uids, gids }
    }

    /// Refuses a file of an owner whom the range does not have: the kernel would only say "invalid argument".
    pub(super) fn check(&self, entry: &Entry) -> Result<()> {
        let has = |ranges: &[(u32, u32)], id: u32| {
            ranges.iter().any(|(first, size)| id.checked_sub(*first).is_some_and(|n| n < *size))
        };
        let (uid, gid) = (entry.meta.uid, entry.meta.gid);
        let speaks = !matches!(entry.kind, Kind::HardLink(_));
        if self.owner == Owner::Range && speaks && !(has(&self.uids, uid) && has(&self.gids, gid)) {
            return Err(Error::NoSuchOwner { entry: shown(&entry.name), uid, gid });
        }
        Ok(())
    }
}

/// First id inside and number of ids of each line of a map (user_namespaces(7)).
fn ranges(map: &str) -> Vec<(u32, u32)> {
    let number = |field: Option<&str>| field?.parse().ok();
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((number(fields.next())?, number(fields.nth(1))?))
    };
    map.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maps_say_whose_files_are_made() {
        let whole = "         0          0 4294967295\n";
        let range = "         0       1000          1\n         1     100000      65536\n";
        let one = "0 1000 1\n";
        let owner = |root, uids, gids| Ids::from_maps(root, uids, gids).owner;
        assert_eq!(owner(true, whole, whole), Owner::Root);
        assert_eq!(owner(false, whole, whole), Owner::User);
        assert_eq!(owner(true, range, range), Owner::Range);
        assert_eq!(owner(true, range, one), Owner::User);
        assert_eq!(owner(false, range, range), Owner::User);
        assert_eq!(owner(true, one, one), Owner::User);
        assert_eq!(owner(true, "", ""), Owner::User);
        assert_eq!(Ids::from_maps(true, range, range).uids, [(0, 1), (1, 65536)]);
    }
}
