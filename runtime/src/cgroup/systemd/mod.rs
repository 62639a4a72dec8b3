//! systemd as the maker of groups (org.freedesktop.systemd1(5)): a container's group is that of a transient scope unit.
//!
//! A scope begins with a process and ends when its group is empty. The container's process is to be born in the group, so another one, which
//! only waits, keeps the unit until then; it ends with whoever makes the container, and then the unit ends by itself.

mod bus;
mod message;
mod properties;

pub use message::parse;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::{Groups, Place};
use crate::error::{Error, Result};
use crate::waiting::Waiting;
use bus::{Bus, Method, Refusal};
use message::{Message, Reader};
use properties::Property;

/// The systemd that makes the control groups of containers, by [`Runtime::with_systemd`](crate::Runtime::with_systemd).
///
/// `linux.cgroupsPath` is then `SLICE:PREFIX:NAME`, as with runc: a unit `PREFIX-NAME.scope` in the slice. Annotations
/// `org.systemd.property.NAME` set further properties of it.
#[derive(Clone, Debug)]
pub struct Systemd {
    bus: PathBuf,
    slice: &'static str,
}

impl Systemd {
    /// The machine's, by the system bus: for root. Groups are in `system.slice`, where the spec names no slice.
    pub fn system() -> Self {
        Self { bus: "/run/dbus/system_bus_socket".into(), slice: "system.slice" }
    }

    /// A user's own, by that one's bus, which mostly is at `$XDG_RUNTIME_DIR/bus`. Groups are in its `user.slice`, where the spec names no
    /// slice.
    pub fn user(bus: impl Into<PathBuf>) -> Self {
        Self { bus: bus.into(), slice: "user.slice" }
    }
}

/// The unit of one container.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Unit {
    name: String,
    bus: PathBuf,
    /// systemd manages v2 groups.
    v2: bool,
}

impl Unit {
    /// Begins the unit of a new container.
    pub(crate) fn begin(
        systemd: &Systemd,
        helper: &OwnedFd,
        spec: &Spec,
        id: &str,
        v2: bool,
    ) -> Result<Place> {
        let linux = spec.linux().as_ref();
        let (slice, name) = names(systemd, linux.and_then(|l| l.cgroups_path().as_deref()), id)?;
        let resources = linux.and_then(|l| l.resources().as_ref());
        let mut more = properties::of_devices(resources)?;
        more.extend(resources.map(|r| properties::of_resources(r, v2)).transpose()?.unwrap_or_default());
        // The keeper counts, too.
        more.retain(|(name, _)| name != "TasksMax");
        more.extend(properties::of_annotations(spec.annotations().iter().flatten())?);
        let keeper = Waiting::start(helper, 0)?;
        let mut properties = properties::of_unit(id, &slice, keeper.pid);
        properties.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
        properties.extend(more);
        let mut manager = Manager::connect(&systemd.bus)?;
        manager.start(&name, &properties)?;
        let unit = Self { name, bus: systemd.bus.clone(), v2 };
        let path = manager.group(&unit.name)?;
        let groups = Groups { unit: Some(unit), ..Groups::default() };
        Ok(Place { path, groups, keeper: Some(keeper) })
    }

    /// The unit of a group whose maker was killed. It has to be ended: a group that is removed before systemd has seen it empty leaves its unit.
    pub(crate) fn of_group(systemd: &Systemd, path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        name.ends_with(".scope").then(|| Self { name, bus: systemd.bus.clone(), v2: true })
    }

    /// Changes its limits.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<()> {
        let mut properties = properties::of_resources(resources, self.v2)?;
        if resources.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
            properties.extend(properties::of_devices(Some(resources))?);
        }
        if properties.is_empty() {
            return Ok(());
        }
        Manager::connect(&self.bus)?.set(&self.name, &properties)
    }

    /// Moves a process into its group.
    pub(crate) fn attach(&self, pid: u32) -> Result<()> {
        Manager::connect(&self.bus)?.attach(&self.name, pid)
    }

    /// Ends it, and forgets how it ended.
    pub(crate) fn end(&self) -> Result<()> {
        Manager::connect(&self.bus)?.stop(&self.name)
    }
}

/// Slice and unit of `SLICE:PREFIX:NAME`.
fn names(systemd: &Systemd, path: Option<&Path>, id: &str) -> Result<(String, String)> {
    let bad = |why: String| Error::spec("linux.cgroupsPath", why);
    let path = path.unwrap_or(Path::new("")).to_str().ok_or_else(|| bad("is no text".to_owned()))?;
    if path.is_empty() {
        return Ok((systemd.slice.to_owned(), format!("{}-{id}.scope", crate::cgroup::PREFIX)));
    }
    let parts: Vec<&str> = path.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(bad(format!("systemd wants it to be slice:prefix:name, not {path:?}")));
    };
    if name.is_empty() || name.ends_with(".slice") {
        return Err(bad(format!("{path:?} names no unit that a process can be in")));
    }
    let slice = if slice.is_empty() { systemd.slice } else { slice };
    let dash = if prefix.is_empty() { "" } else { "-" };
    Ok((slice.to_owned(), format!("{prefix}{dash}{name}.scope")))
}

/// systemd's manager object.
struct Manager {
    bus: Bus,
}

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PATH: &str = "/org/freedesktop/systemd1";

fn method(member: &str) -> Method<'_> {
    Method { destination: SYSTEMD, path: PATH, interface: MANAGER, member }
}

impl Manager {
    fn connect(bus: &Path) -> Result<Self> {
        Ok(Self { bus: Bus::connect(bus)? })
    }

    /// Starts a transient unit, and waits until it runs.
    fn start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        self.hear_of_jobs()?;
        let mut answer = self.start_job(unit, properties)?;
        if answer.as_ref().is_err_and(Refusal::is_unit_exists) {
            // One that failed stays until somebody has looked. One that runs is not touched by this.
            self.forget(unit)?;
            answer = self.start_job(unit, properties)?;
        }
        let action = format!("start {unit}");
        match self.finish(&answer.map_err(|refusal| refusal.error(&action))?)?.as_str() {
            "done" => Ok(()),
            other => Err(Error::Systemd { action, reason: format!("the job's result is {other}") }),
        }
    }

    fn start_job(&mut self, unit: &str, properties: &[Property]) -> Result<Result<Message, Refusal>> {
        self.bus.call(&method("StartTransientUnit"), "ssa(sv)a(sa(sv))", |body| {
            body.string(unit);
            body.string("fail");
            properties::write(body, properties);
            body.array(8, |_| {});
        })
    }

    fn set(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let answer = self.bus.call(&method("SetUnitProperties"), "sba(sv)", |body| {
            body.string(unit);
            // Until the machine's next start: the unit is not there for longer.
            body.u32(1);
            properties::write(body, properties);
        })?;
        answer.map(drop).map_err(|refusal| refusal.error(&format!("set properties of {unit}")))
    }

    fn attach(&mut self, unit: &str, pid: u32) -> Result<()> {
        let answer = self.bus.call(&method("AttachProcessesToUnit"), "ssau", |body| {
            body.string(unit);
            // No group below the unit's.
            body.string("");
            body.array(4, |body| body.u32(pid));
        })?;
        answer.map(drop).map_err(|refusal| refusal.error(&format!("move process {pid} into {unit}")))
    }

    fn stop(&mut self, unit: &str) -> Result<()> {
        self.hear_of_jobs()?;
        let answer = self.bus.call(&method("StopUnit"), "ss", |body| {
            body.string(unit);
            body.string("replace");
        })?;
        match answer {
            Ok(job) => drop(self.finish(&job)?),
            Err(refusal) if refusal.is_no_unit() => return Ok(()),
            Err(refusal) => return Err(refusal.error(&format!("stop {unit}"))),
        }
        self.forget(unit)
    }

    /// Takes a failed unit from systemd's memory.
    fn forget(&mut self, unit: &str) -> Result<()> {
        match self.bus.call(&method("ResetFailedUnit"), "s", |body| body.string(unit))? {
            Err(refusal) if !refusal.is_no_unit() => Err(refusal.error(&format!("reset {unit}"))),
            _ => Ok(()),
        }
    }

    /// The path of a unit's group.
    fn group(&mut self, unit: &str) -> Result<PathBuf> {
        let path = object_path(unit);
        let get = Method {
            destination: SYSTEMD,
            path: &path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
        };
        let action = || format!("ask for the group of {unit}");
        let answer = self.bus.call(&get, "ss", |body| {
            body.string("org.freedesktop.systemd1.Scope");
            body.string("ControlGroup");
        })?;
        let answer = answer.map_err(|refusal| refusal.error(&action()))?;
        let mut body = Reader::new(&answer.body);
        let group = body.signature().filter(|s| *s == "s").and_then(|_| body.string()).unwrap_or_default();
        // A scope that has ended has none; and what is not the unit's own must not be killed with the container, whatever is said.
        let inside = crate::plan::inside(Path::new(group)).ok();
        let inside = inside.filter(|path| Path::new(path).file_name().is_some_and(|name| name == unit));
        let reason = || Error::Systemd { action: action(), reason: format!("{group:?} is none") };
        Ok(Path::new("/").join(inside.ok_or_else(reason)?))
    }

    fn hear_of_jobs(&mut self) -> Result<()> {
        self.bus.subscribe(&format!(
            "type='signal',sender='{SYSTEMD}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'"
        ))
    }

    /// Waits for the end of the job that an answer names: its result.
    fn finish(&mut self, answer: &Message) -> Result<String> {
        let job = Reader::new(&answer.body).string().unwrap_or_default().to_owned();
        self.bus.signal("the end of a job", |signal| {
            let mut body = Reader::new(&signal.body);
            body.u32().filter(|_| signal.member.as_deref() == Some("JobRemoved"))?;
            let ended = body.string()?;
            body.string()?;
            body.string().filter(|_| ended == job).map(str::to_owned)
        })
    }
}

/// Where a unit is on the bus: all but letters and digits is written as `_` and two hexadecimal digits.
fn object_path(unit: &str) -> String {
    let mut path = format!("{PATH}/unit/");
    for (n, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || n > 0 && byte.is_ascii_digit() {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units() {
        let names = |path: &str| names(&Systemd::system(), Some(Path::new(path)), "web");
        let pair = |slice: &str, unit: &str| (slice.to_owned(), unit.to_owned());
        assert_eq!(names("").unwrap(), pair("system.slice", "longshore-web.scope"));
        assert_eq!(names("a-b.slice:docker:x").unwrap(), pair("a-b.slice", "docker-x.scope"));
        assert_eq!(names("::x").unwrap(), pair("system.slice", "x.scope"));
        for bad in ["/a/b", "a:b", "a:b:c:d", "a:b:", "a.slice:b:c.slice"] {
            assert!(names(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_on_the_bus() {
        assert_eq!(object_path("1a-b2.scope"), "/org/freedesktop/systemd1/unit/_31a_2db2_2escope");
    }
}
