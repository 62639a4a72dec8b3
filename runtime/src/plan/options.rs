//! Mount options, as `config.md` and mount(8) name them.

/// `MOUNT_ATTR_*` of mount_setattr(2) and fsmount(2).
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What a mount's `options` come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `bind` or `rbind`; recursive.
    pub(crate) bind: Option<bool>,
    /// Attributes to set and to clear on this mount.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The same for the whole tree (`rro`, `rnosuid`...).
    pub(crate) rec_set: u64,
    pub(crate) rec_clear: u64,
    /// `MS_SHARED`... and whether for the whole tree.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// File-system parameters: name and value.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// `tmpcopyup`.
    pub(crate) copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub(crate) idmap: Option<bool>,
    /// Super block is to be read-only (`ro` without `bind`).
    pub(crate) super_readonly: bool,
}

impl Options {
    pub(crate) fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option.as_ref());
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "defaults" | "remount" | "async" | "loud" | "norelatime" | "rnorelatime" | "acl" => {}
            _ => {
                if let Some((flag, recursive)) = propagation(option) {
                    self.propagation.push((flag, recursive));
                } else if let Some((set, clear)) = attributes(option) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attributes) {
                    self.rec_set = self.rec_set & !clear | set;
                    self.rec_clear = self.rec_clear & !set | clear;
                } else {
                    let (name, value) = match option.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (option, None),
                    };
                    self.data.push((name.to_owned(), value));
                }
            }
        }
        self.super_readonly = self.set & attr::RDONLY != 0;
    }
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option {
        "shared" | "slave" | "private" | "unbindable" => (option, false),
        _ => (option.strip_prefix('r')?, true),
    };
    propagation_flag(name).map(|flag| (flag, recursive))
}

/// `linux.rootfsPropagation` and mount options: the `MS_*` flag.
pub(crate) fn propagation_flag(name: &str) -> Option<u64> {
    Some(match name {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    })
}

/// Attributes to set and to clear.
fn attributes(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "noatime" => (attr::NOATIME, attr::ATIME),
        "relatime" | "atime" | "nostrictatime" => (0, attr::ATIME),
        "strictatime" => (attr::STRICTATIME, attr::ATIME),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mount_8() {
        let o = Options::parse(&["rbind", "ro", "nosuid", "rprivate", "rnoexec", "size=64k", "gid=5"]);
        assert_eq!(o.bind, Some(true));
        assert_eq!(o.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(o.rec_set, attr::NOEXEC);
        assert_eq!(o.propagation, [(libc::MS_PRIVATE, true)]);
        assert_eq!(
            o.data,
            [("size".to_owned(), Some("64k".to_owned())), ("gid".to_owned(), Some("5".to_owned()))]
        );
        assert_eq!(Options::parse(&["ro", "rw"]).set, 0);
        assert_eq!(Options::parse(&["noatime", "strictatime"]).set, attr::STRICTATIME);
        assert_eq!(Options::parse(&["relatime"]).rec_clear, 0);
    }
}
