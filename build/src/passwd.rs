//! Users and groups as a root's `/etc/passwd` and `/etc/group` name them.

use std::path::Path;

use crate::Result;
use crate::tree::Tree;

/// Largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// Who a command runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

/// The user and group files of a root.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub(crate) fn read(tree: &Tree) -> Result<Self> {
        let read = |path| Ok::<_, crate::Error>(tree.read(Path::new(path), MAX_FILE)?.unwrap_or_default());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { passwd: text(read("etc/passwd")?), group: text(read("etc/group")?) })
    }

    /// `USER`: `name`, `uid`, either with `:group` or `:gid`; empty is root.
    pub(crate) fn user(&self, spec: &str) -> Result<User, String> {
        let (name, group) = split(spec);
        let name = if name.is_empty() { "0" } else { name };
        let line = self.passwd_line(name);
        let mut user = match (&line, id(name)) {
            (Some(line), _) => User {
                uid: number(line, 2).ok_or_else(|| format!("malformed passwd entry of {name}"))?,
                gid: number(line, 3).ok_or_else(|| format!("malformed passwd entry of {name}"))?,
                groups: Vec::new(),
                home: line.get(5).filter(|h| !h.is_empty()).map(|h| (*h).to_owned()),
            },
            (None, Some(uid)) => User { uid, ..User::default() },
            (None, None) => {
                return Err(format!("unable to find user {name}: no matching entries in passwd file"));
            }
        };
        if let Some(group) = group {
            user.gid = self.group(group)?;
        } else if let Some(line) = line {
            user.groups = self.member_of(line[0]);
        }
        Ok(user)
    }

    /// `--chown`: a number without group is used for both, as `55` is `55:55`.
    pub(crate) fn owner(&self, spec: &str) -> Result<(u32, u32), String> {
        let (name, group) = split(spec);
        let (uid, own_group) = match id(name) {
            Some(uid) => (uid, uid),
            None => {
                let user = self.user(name)?;
                (user.uid, user.gid)
            }
        };
        Ok((uid, group.map_or(Ok(own_group), |g| self.group(g))?))
    }

    fn group(&self, name: &str) -> Result<u32, String> {
        let line = self.group.lines().map(fields).find(|f| f.first() == Some(&name));
        match (line.and_then(|l| number(&l, 2)), id(name)) {
            (Some(gid), _) | (None, Some(gid)) => Ok(gid),
            _ => Err(format!("unable to find group {name}: no matching entries in group file")),
        }
    }

    fn passwd_line(&self, name: &str) -> Option<Vec<&str>> {
        let lines = || self.passwd.lines().map(fields).filter(|f| f.len() >= 4);
        lines()
            .find(|f| f[0] == name)
            .or_else(|| lines().find(|f| f[2] == name && name.parse::<u32>().is_ok()))
    }

    fn member_of(&self, name: &str) -> Vec<u32> {
        let lines = self.group.lines().map(fields);
        lines
            .filter(|f| f.get(3).is_some_and(|m| m.split(',').any(|n| n == name)))
            .filter_map(|f| number(&f, 2))
            .collect()
    }
}

fn split(spec: &str) -> (&str, Option<&str>) {
    spec.split_once(':').map_or((spec, None), |(u, g)| (u, (!g.is_empty()).then_some(g)))
}

fn fields(line: &str) -> Vec<&str> {
    line.trim().split(':').collect()
}

fn number(fields: &[&str], n: usize) -> Option<u32> {
    id(fields.get(n)?)
}

/// A number in Docker's range. Higher ones are none: the highest would mean "leave as it is" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n <= i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups() {
        let a = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/var/www:/x\nbad\n123:x:7:8::/:\n".into(),
            group: "root:x:0:\nwww:x:34:\nadm:x:4:www,other\n".into(),
        };
        let user = |s| a.user(s).map(|u| (u.uid, u.gid, u.groups));
        assert_eq!(user(""), Ok((0, 0, vec![])));
        assert_eq!(user("www"), Ok((33, 34, vec![4])));
        assert_eq!(user("33"), Ok((33, 34, vec![4])));
        assert_eq!(user("www:adm"), Ok((33, 4, vec![])));
        assert_eq!(user("1000"), Ok((1000, 0, vec![])));
        assert_eq!(user("1000:1001"), Ok((1000, 1001, vec![])));
        assert_eq!(user("123"), Ok((7, 8, vec![])));
        assert!(user("nobody").is_err() && user("0:none").is_err());
        let trap = Accounts {
            passwd: "evil:x:4294967295:0::/:\nhalf:x:5:2147483648::/:\nweb:x:33:33::/:\n".into(),
            group: "g:x:4294967295:web\n".into(),
        };
        for name in ["evil", "half", "4294967295", "5", "2147483648", "0:g", "0:4294967295"] {
            assert!(trap.user(name).is_err(), "{name}");
        }
        assert!(trap.owner("4294967295").is_err() && trap.owner("0:2147483648").is_err());
        assert!(trap.user("web").unwrap().groups.is_empty());
        assert_eq!(a.owner("55"), Ok((55, 55)));
        assert_eq!(a.owner("www"), Ok((33, 34)));
        assert_eq!(a.owner("www:adm"), Ok((33, 4)));
        assert_eq!(a.user("www").unwrap().home.as_deref(), Some("/var/www"));
    }
}
