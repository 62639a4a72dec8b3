//! The namespaces that a spec asks for.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::error::{Error, Result};

/// A spec's namespaces, opened.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of new ones.
    pub(crate) new: u64,
    /// Those to join, in the order in which they can be.
    joins: Vec<(OwnedFd, u64)>,
}

impl Namespaces {
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        let mut namespaces = Self::default();
        let mut seen = 0;
        for namespace in spec.linux().iter().filter_map(|l| l.namespaces().as_ref()).flatten() {
            let flag = flag(namespace.typ());
            if seen & flag != 0 {
                return Err(Error::spec("linux.namespaces", format!("{} is named twice", namespace.typ())));
            }
            seen |= flag;
            match namespace.path().as_deref().filter(|p| !p.as_os_str().is_empty()) {
                None => namespaces.new |= flag,
                Some(path) => {
                    let file = File::open(path).map_err(|source| Error::Os {
                        what: format!("open namespace {}", path.display()),
                        source,
                    })?;
                    namespaces.joins.push((file.into(), flag));
                }
            }
        }
        // The user namespace first: it owns the others.
        namespaces.joins.sort_by_key(|(_, flag)| *flag != libc::CLONE_NEWUSER as u64);
        namespaces.check(spec)?;
        Ok(namespaces)
    }

    fn check(&self, spec: &Spec) -> Result<()> {
        if self.all() & libc::CLONE_NEWNS as u64 == 0 {
            return Err(Error::Unsupported { what: "linux.namespaces without a mount namespace".to_owned() });
        }
        let named = |name: &Option<String>| name.as_ref().is_some_and(|n| !n.is_empty());
        if (named(spec.hostname()) || named(spec.domainname())) && !self.has(libc::CLONE_NEWUTS) {
            return Err(Error::spec("hostname", "needs a UTS namespace of the container's own"));
        }
        Ok(())
    }

    /// New or joined.
    pub(crate) fn all(&self) -> u64 {
        self.joins.iter().fold(self.new, |all, (_, flag)| all | flag)
    }

    pub(crate) fn has(&self, flag: i32) -> bool {
        self.all() & flag as u64 != 0
    }

    /// Takes the flag out of the new ones.
    pub(crate) fn take(&mut self, flag: i32) -> bool {
        let had = self.new & flag as u64 != 0;
        self.new &= !(flag as u64);
        had
    }

    pub(crate) fn joins(&self) -> Vec<(RawFd, u64)> {
        self.joins.iter().map(|(fd, flag)| (fd.as_raw_fd(), *flag)).collect()
    }
}

fn flag(kind: LinuxNamespaceType) -> u64 {
    use LinuxNamespaceType as T;
    (match kind {
        T::Mount => libc::CLONE_NEWNS,
        T::Cgroup => libc::CLONE_NEWCGROUP,
        T::Uts => libc::CLONE_NEWUTS,
        T::Ipc => libc::CLONE_NEWIPC,
        T::User => libc::CLONE_NEWUSER,
        T::Pid => libc::CLONE_NEWPID,
        T::Network => libc::CLONE_NEWNET,
        T::Time => libc::CLONE_NEWTIME,
    }) as u64
}
