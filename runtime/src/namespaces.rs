//! The namespaces that a spec asks for.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::caps;
use crate::error::{Context, Error, Result};
use crate::sys;

/// A spec's namespaces, opened.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of new ones.
    pub(crate) new: u64,
    /// Those to join, in the order in which they can be.
    joins: Vec<(OwnedFd, u64)>,
    /// What was added to the spec's, and why.
    pub(crate) warning: Option<&'static str>,
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
        namespaces.enter_owner()?;
        if !namespaces.has(libc::CLONE_NEWNS) {
            // Without, the container's mounts would be made on the host, and stay there.
            namespaces.new |= libc::CLONE_NEWNS as u64;
            namespaces.warning =
                Some("linux.namespaces has no mount namespace: the container gets one all the same");
        }
        // The user namespace first: it owns the others.
        namespaces.joins.sort_by_key(|(_, flag)| *flag != libc::CLONE_NEWUSER as u64);
        namespaces.check(spec)?;
        Ok(namespaces)
    }

    /// Only who has `CAP_SYS_ADMIN` in the user namespace that owns a namespace, and in its own, may join it. An ordinary user has that by
    /// entering the owner, where it made that; a user namespace of the container's own would lead away from it, so the owner takes its
    /// place.
    fn enter_owner(&mut self) -> Result<()> {
        if self.joins.is_empty()
            || self.joins.iter().any(|(_, flag)| *flag == libc::CLONE_NEWUSER as u64)
            || caps::has(caps::SYS_ADMIN)
        {
            return Ok(());
        }
        let refuse = |why: &str| Error::Unsupported { what: format!("linux.namespaces.path: {why}") };
        let foreign = "the namespace does not belong to a user namespace that this user has made";
        let owners = self.joins.iter().map(|(fd, _)| sys::owner(fd)).collect::<Result<Vec<_>, _>>();
        let owners = owners.map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => refuse(foreign),
            _ => Error::os("find the owner of a namespace")(e),
        })?;
        let mut identities = owners.iter().map(identity).collect::<Result<Vec<_>>>()?;
        identities.dedup();
        if identities.len() > 1 {
            return Err(refuse("the namespaces have different owners, which takes privileges"));
        }
        let own = File::open("/proc/self/ns/user").map_err(Error::os("open /proc/self/ns/user"))?;
        if identities == [identity(&own.into())?] {
            return Err(refuse(foreign));
        }
        self.joins.extend(owners.into_iter().next().map(|fd| (fd, libc::CLONE_NEWUSER as u64)));
        self.new &= !(libc::CLONE_NEWUSER as u64);
        Ok(())
    }

    fn check(&self, spec: &Spec) -> Result<()> {
        let named = |name: &Option<String>| name.as_ref().is_some_and(|n| !n.is_empty());
        if (named(spec.hostname()) || named(spec.domainname())) && !self.has(libc::CLONE_NEWUTS) {
            return Err(Error::spec("hostname", "needs a UTS namespace of the container's own"));
        }
        let keys = spec.linux().iter().flat_map(oci_spec::runtime::Linux::sysctl).flat_map(|all| all.keys());
        for (flag, file, prefixes) in
            [(libc::CLONE_NEWNET, "net", &["net"][..]), (libc::CLONE_NEWIPC, "ipc", &["kernel", "fs"])]
        {
            let key = keys.clone().find(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
            if let Some(key) = key.filter(|_| !self.joins.is_empty())
                && self.joins_own(flag, file)?
            {
                let why = format!("{key} is not allowed in the {file} namespace of the host");
                return Err(Error::spec("linux.sysctl", why));
            }
        }
        Ok(())
    }

    /// Whether the one that is joined is the caller's own.
    fn joins_own(&self, kind: i32, file: &str) -> Result<bool> {
        let path = format!("/proc/self/ns/{file}");
        let own = File::open(&path).map_err(Error::os("open a namespace of our own"))?;
        let own = identity(&own.into())?;
        for (fd, _) in self.joins.iter().filter(|(_, flag)| *flag == kind as u64) {
            if identity(fd)? == own {
                return Ok(true);
            }
        }
        Ok(false)
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

fn identity(fd: &OwnedFd) -> Result<(u64, u64)> {
    rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino)).context("stat a namespace")
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
