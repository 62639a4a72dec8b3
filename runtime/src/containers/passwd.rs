//! Who `user[:group]` is, by the container's own `/etc/passwd` and `/etc/group`. Nothing of the host's name services takes part.

use super::rootview::RootView;
use super::{Error, Result};

/// Larger files are refused.
const MAX: u64 = 4 << 20;

/// Numbers for the kernel, and the home directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Resolves a user, and further groups by name or number.
pub(super) fn resolve(view: &RootView, user: &str, more_groups: &[String]) -> Result<Identity> {
    let read = |path: &str| {
        let bytes = view.read(path, MAX).map_err(Error::io("read the container's", path))?;
        Ok::<_, Error>(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default())
    };
    identify(&read("/etc/passwd")?, &read("/etc/group")?, user, more_groups)
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut f = line.trim().split(':');
        let (name, _, uid, gid, _, home) = (f.next()?, f.next()?, f.next()?, f.next()?, f.next(), f.next());
        Some(Account { name, uid: listed(uid)?, gid: listed(gid)?, home: home.unwrap_or("") })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut f = line.trim().split(':');
        let (name, _, gid, members) = (f.next()?, f.next()?, f.next()?, f.next());
        Some((name, listed(gid)?, members.unwrap_or("")))
    })
}

/// A number of the files. A line with one that is out of range counts for nothing: the highest would mean "leave as it is" to the kernel.
fn listed(text: &str) -> Option<u32> {
    id(text).ok().flatten()
}

fn identify(passwd: &str, group: &str, user: &str, more_groups: &[String]) -> Result<Identity> {
    let (name, group_name) = user.split_once(':').map_or((user, ""), |(u, g)| (u, g));
    let name = if name.is_empty() { "0" } else { name };
    // A number is always an ID, whatever a line of the file is called.
    let mut who = match id(name)? {
        Some(uid) => match accounts(passwd).find(|a| a.uid == uid) {
            Some(a) => Identity { uid, gid: a.gid, groups: Vec::new(), home: a.home.into() },
            None => Identity { uid, home: "/".into(), ..Identity::default() },
        },
        None => accounts(passwd)
            .find(|a| a.name == name)
            .map(|a| Identity { uid: a.uid, gid: a.gid, groups: Vec::new(), home: a.home.into() })
            .ok_or_else(|| {
                Error::invalid(format!("unable to find user {name}: no matching entries in passwd file"))
            })?,
    };
    let find_group = |name: &str| match id(name)? {
        Some(gid) => Ok(gid),
        None => groups(group).find(|(n, _, _)| *n == name).map(|(_, gid, _)| gid).ok_or_else(|| {
            Error::invalid(format!("Unable to find group {name}: no matching entries in group file"))
        }),
    };
    if group_name.is_empty() {
        let account = accounts(passwd).find(|a| a.uid == who.uid).map(|a| a.name);
        let member = |members: &str| members.split(',').any(|m| account.is_some_and(|a| a == m));
        who.groups = groups(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid).collect();
    } else {
        who.gid = find_group(group_name)?;
    }
    for name in more_groups {
        who.groups.push(find_group(name)?);
    }
    // Programs that drop or check groups look at these alone (CVE-2022-36109).
    who.groups.push(who.gid);
    who.groups.sort_unstable();
    who.groups.dedup();
    if who.home.is_empty() {
        who.home = "/".into();
    }
    Ok(who)
}

fn id(text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(n) if n <= i32::MAX as u32 => Ok(Some(n)),
        _ => Err(Error::invalid("uids and gids must be in range 0-2147483647")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:*:99:98:x:/:\n1000:x:0:0:trap:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nadm:x:4:web\nwww:x:33:\n77:x:0:\n";

    fn who(user: &str) -> Result<(u32, u32, Vec<u32>, String)> {
        identify(PASSWD, GROUP, user, &[]).map(|i| (i.uid, i.gid, i.groups, i.home))
    }

    #[test]
    fn users_as_docker_reads_them() {
        assert_eq!(who("").unwrap(), (0, 0, vec![0, 10], "/root".into()));
        assert_eq!(who("web").unwrap(), (33, 33, vec![4, 10, 33], "/var/www".into()));
        assert_eq!(who("33").unwrap(), (33, 33, vec![4, 10, 33], "/var/www".into()));
        assert_eq!(who("web:adm").unwrap(), (33, 4, vec![4], "/var/www".into()));
        assert_eq!(who("5:6").unwrap(), (5, 6, vec![6], "/".into()));
        assert_eq!(who("1000").unwrap().0, 1000, "a number is an ID though a user is called so");
        assert_eq!(who("5:77").unwrap().1, 77);
        assert!(who("nosuch").unwrap_err().to_string().contains("no matching entries in passwd file"));
        assert!(who("web:nosuch").is_err() && who("4294967295").is_err() && who("0x0").is_err());
        assert_eq!(
            identify(PASSWD, GROUP, "web", &["www".into(), "500".into()]).unwrap().groups,
            [4, 10, 33, 500]
        );
        let trap = "evil:x:4294967295:0::/:\nhalf:x:5:2147483648::/:\n";
        assert!(identify(trap, "", "evil", &[]).is_err() && identify(trap, "", "half", &[]).is_err());
        assert!(identify("", "g:x:4294967295:root\n", "0:g", &[]).is_err());
        assert!(identify(PASSWD, "g:x:4294967295:root\n", "", &[]).unwrap().groups == [0]);
        assert_eq!(
            identify("", "", "", &[]).unwrap(),
            Identity { groups: vec![0], home: "/".into(), ..Identity::default() }
        );
    }
}
