//! Landlock (landlock(7)): what a container's processes may do to files and TCP ports, beyond what namespaces and seccomp say.
//!
//! The policy travels with the spec, as an annotation: runtime-spec has no field for it, and every later `exec` has to meet it again.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};
use crate::sys;

/// `LANDLOCK_ACCESS_FS_*`.
mod fs {
    pub(super) const EXECUTE: u64 = 1 << 0;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
    /// All of the interface's first version.
    pub(super) const FIRST: u64 = (1 << 13) - 1;
    pub(super) const READ: u64 = READ_FILE | READ_DIR;
}
const NET_BIND: u64 = 1 << 0;
const NET_CONNECT: u64 = 1 << 1;
const SCOPE_ABSTRACT: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// A Landlock policy for a container's processes: an opt-in on top of everything else.
///
/// What it names is permitted, the rest of the same kind is not. A policy that names no path leaves files alone, one that names no ports
/// for binding (or connecting) leaves that alone. Paths are the container's own, and hold for all that lies below; one that does not exist
/// when a process starts permits nothing. Files that are open already, as the standard streams are, stay open.
///
/// ```
/// use longshore_runtime::Landlock;
///
/// let policy = Landlock::default().execute("/").write("/tmp").write("/dev").connect_tcp([443]);
/// assert_eq!(Landlock::from_json(&policy.to_json())?, policy);
/// assert!(Landlock::from_json(r#"{"raed": ["/"]}"#).is_err());
/// # Ok::<(), longshore_runtime::Error>(())
/// ```
///
/// Each `exec` gets the same policy, but as a domain of its own: with [`Self::scope_signals`] it cannot signal the container's other
/// processes, and none of these can trace it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Landlock {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    write: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    execute: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_tcp: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_tcp: Option<Vec<u16>>,
    scope_signals: bool,
    scope_abstract_sockets: bool,
    required: bool,
}

impl Landlock {
    /// The annotation of the spec that holds the policy, as JSON.
    pub const ANNOTATION: &str = "org.longshore.landlock";

    /// Files may be read there, and directories listed.
    #[must_use]
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// As [`Self::read`]; and files may be changed, made and removed there, devices be controlled. Not executed.
    #[must_use]
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// As [`Self::read`], and files may be executed. The container's program, its interpreter and libraries have to lie there.
    #[must_use]
    pub fn execute(mut self, path: impl Into<PathBuf>) -> Self {
        self.execute.push(path.into());
        self
    }

    /// TCP sockets may be bound to these ports only; 0 stands for those that the kernel picks. Linux 6.7.
    #[must_use]
    pub fn bind_tcp(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.bind_tcp.get_or_insert_default().extend(ports);
        self
    }

    /// TCP sockets may be connected to these ports only, on whatever host. Linux 6.7.
    #[must_use]
    pub fn connect_tcp(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.connect_tcp.get_or_insert_default().extend(ports);
        self
    }

    /// Signals reach only processes under the same restriction. Linux 6.12.
    #[must_use]
    pub fn scope_signals(mut self) -> Self {
        self.scope_signals = true;
        self
    }

    /// No connection to abstract Unix sockets of processes that are not under the same restriction: those of the host, for one, when the
    /// container has its network. Linux 6.12.
    #[must_use]
    pub fn scope_abstract_sockets(mut self) -> Self {
        self.scope_abstract_sockets = true;
        self
    }

    /// The container is refused where the kernel cannot enforce all of this. Otherwise what it cannot is left out, and
    /// [`Created::warnings`](crate::Created::warnings) says so.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Reads a policy: an object with any of `read`, `write`, `execute` (lists of paths), `bindTcp`, `connectTcp` (lists of ports),
    /// `scopeSignals`, `scopeAbstractSockets`, `required` (booleans).
    pub fn from_json(text: &str) -> Result<Self> {
        let invalid = |reason: String| Error::spec(format!("annotations[{}]", Self::ANNOTATION), reason);
        // Into an object first: serde would take a list for one, too.
        let policy: Self = serde_json::from_str(text)
            .and_then(|object| serde_json::from_value(serde_json::Value::Object(object)))
            .map_err(|e| invalid(e.to_string()))?;
        let mut paths = policy.read.iter().chain(&policy.write).chain(&policy.execute);
        match paths.find(|path| !path.is_absolute()) {
            Some(path) => Err(invalid(format!("{} is not an absolute path", path.display()))),
            None => Ok(policy),
        }
    }

    /// The policy as [`Self::from_json`] reads it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Puts the policy into a spec.
    pub fn add_to(&self, spec: &mut Spec) {
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        annotations.insert(Self::ANNOTATION.to_owned(), self.to_json());
        spec.set_annotations(Some(annotations));
    }

    /// What a kernel with this version of the interface enforces of it, and what it does not.
    fn ruleset(&self, version: u32) -> (Ruleset, Vec<&'static str>) {
        let mut rules = Ruleset::default();
        let mut missing = Vec::new();
        let mut since = |least: u32, wanted: bool, what| {
            if wanted && version < least {
                missing.push(what);
            }
            wanted && version >= least
        };
        let files = !(self.read.is_empty() && self.write.is_empty() && self.execute.is_empty());
        for (least, rights, what) in [
            (1, fs::FIRST, "files"),
            // Where the kernel does not know it, links and renames between directories are forbidden altogether.
            (2, fs::REFER, ""),
            (3, fs::TRUNCATE, "truncation of files"),
            (5, fs::IOCTL_DEV, "control of devices"),
        ] {
            if since(least, files, what) {
                rules.fs |= rights;
            }
        }
        for (right, ports) in [(NET_BIND, &self.bind_tcp), (NET_CONNECT, &self.connect_tcp)] {
            if since(4, ports.is_some(), "TCP ports") {
                rules.net |= right;
                rules.ports.extend(ports.iter().flatten().map(|port| (*port, right)));
            }
        }
        if since(6, self.scope_signals, "signals") {
            rules.scoped |= SCOPE_SIGNAL;
        }
        if since(6, self.scope_abstract_sockets, "abstract sockets") {
            rules.scoped |= SCOPE_ABSTRACT;
        }
        missing.retain(|what| !what.is_empty());
        missing.dedup();
        for (paths, rights) in [
            (&self.read, fs::READ),
            (&self.execute, fs::READ | fs::EXECUTE),
            (&self.write, rules.fs & !fs::EXECUTE),
        ] {
            rules.paths.extend(paths.iter().map(|path| (path.clone(), rights & rules.fs)));
        }
        (rules, missing)
    }
}

/// A policy as this kernel takes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// What is forbidden where nothing permits it: `handled_access_fs`, `handled_access_net`, `scoped`.
    pub(crate) fs: u64,
    pub(crate) net: u64,
    pub(crate) scoped: u64,
    /// What is permitted below paths, and for ports.
    pub(crate) paths: Vec<(PathBuf, u64)>,
    pub(crate) ports: Vec<(u16, u64)>,
}

impl Ruleset {
    /// The spec's, as far as this kernel knows it; what it does not becomes a warning.
    pub(crate) fn of(spec: &Spec, warnings: &mut Vec<String>) -> Result<Option<Self>> {
        let annotations = spec.annotations().as_ref();
        let Some(policy) = annotations.and_then(|a| a.get(Landlock::ANNOTATION)) else { return Ok(None) };
        let policy = Landlock::from_json(policy)?;
        let version = sys::landlock_version().unwrap_or(0);
        let (rules, missing) = policy.ruleset(version);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            let why = match version {
                0 => "this kernel has no Landlock, or it is not switched on".to_owned(),
                _ => format!("this kernel's Landlock is of version {version}"),
            };
            let what = format!("{}: {missing} cannot be restricted: {why}", Landlock::ANNOTATION);
            if policy.required {
                return Err(Error::Unsupported { what });
            }
            warnings.push(what);
        }
        Ok(Some(rules).filter(|rules| rules.fs | rules.net | rules.scoped != 0))
    }
}

/// Path of a rule, for error messages.
pub(crate) fn label(path: &Path) -> String {
    format!("landlock {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_enforce_less_and_say_so() {
        let policy = Landlock::default().execute("/").write("/tmp").bind_tcp([80]).scope_signals();
        let (rules, missing) = policy.ruleset(7);
        assert!(missing.is_empty());
        assert_eq!((rules.fs, rules.net, rules.scoped), (0xffff, NET_BIND, SCOPE_SIGNAL));
        assert_eq!(rules.paths[0], (PathBuf::from("/"), 0b1101));
        assert_eq!(rules.paths[1], (PathBuf::from("/tmp"), 0xfffe));
        assert_eq!(rules.ports, [(80, NET_BIND)]);
        let (rules, missing) = policy.ruleset(1);
        assert_eq!((rules.fs, rules.net, rules.scoped), (0x1fff, 0, 0));
        // A right that the kernel does not handle is none that a rule may name.
        assert_eq!(rules.paths[1].1, 0x1ffe);
        assert_eq!(missing, ["truncation of files", "control of devices", "TCP ports", "signals"]);
        let (rules, missing) = policy.ruleset(0);
        assert_eq!((rules.fs | rules.net | rules.scoped, missing[0]), (0, "files"));
    }

    #[test]
    fn policies_are_read_strictly() {
        for bad in
            ["", "[]", r#"{"read": "x"}"#, r#"{"read": ["tmp"]}"#, r#"{"bindTcp": [65536]}"#, r#"{"x": 1}"#]
        {
            assert!(matches!(Landlock::from_json(bad), Err(Error::Spec { .. })), "{bad}");
        }
        assert_eq!(Landlock::from_json("{}").unwrap(), Landlock::default());
    }
}
