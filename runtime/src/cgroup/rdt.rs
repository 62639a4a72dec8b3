//! Classes of cache and of memory bandwidth (config-linux.md, "IntelRdt"): groups of the kernel's resctrl file system, of Intel's and of
//! other processors. A container is born in its class as in its control groups: the thread that clones enters it first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;

use crate::error::{Error, Result};

/// A container's class.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Class {
    dir: PathBuf,
    /// It was made for this container, and goes with it.
    own: bool,
    /// The container's monitoring group in it.
    monitor: Option<PathBuf>,
}

impl Class {
    /// The class that the spec asks for; nothing is made yet.
    pub(crate) fn of(rdt: &LinuxIntelRdt, resctrl: Option<&Path>, id: &str) -> Result<Self> {
        let Some(resctrl) = resctrl else {
            return Err(Error::Unsupported {
                what: "linux.intelRdt: no resctrl file system is mounted".to_owned(),
            });
        };
        let given = rdt.clos_id().as_deref().filter(|name| !name.is_empty());
        let name = given.unwrap_or(id);
        // `/` is the class that everything is in.
        let dir = if name == "/" { resctrl.to_owned() } else { resctrl.join(name) };
        if name != "/" && (name.contains(['/', '\n']) || RESERVED.contains(&name)) {
            return Err(Error::spec("linux.intelRdt.closID", format!("{name:?} cannot be a class's name")));
        }
        if rdt.mem_bw_schema().as_ref().is_some_and(|s| !s.starts_with("MB:") || s.contains('\n')) {
            return Err(Error::spec("linux.intelRdt.memBwSchema", "is not one line that begins with MB:"));
        }
        let missing = !dir.is_dir();
        if missing && given.is_some() && schemata(rdt).is_empty() {
            let reason = format!("there is no class {name:?}, and no schema to make it with");
            return Err(Error::spec("linux.intelRdt.closID", reason));
        }
        if !missing && given.is_some() {
            compare(&dir, &caches_and_bandwidth(rdt))?;
        }
        let monitor = (*rdt.enable_monitoring() == Some(true)).then(|| dir.join("mon_groups").join(id));
        // A class with a name of its own may be meant for others, too, and the kernel would remove it under them.
        let own = missing && given.is_none();
        Ok(Self { dir, own, monitor })
    }

    /// What is made for the container, from the inside out.
    pub(crate) fn made(&self) -> impl Iterator<Item = &Path> {
        self.monitor.as_deref().into_iter().chain(self.own.then_some(self.dir.as_path()))
    }

    /// Makes what is missing, and sets the schemata.
    pub(crate) fn create(&self, rdt: &LinuxIntelRdt) -> Result<()> {
        let made = fs::create_dir_all(self.monitor.as_ref().unwrap_or(&self.dir));
        made.map_err(|e| self.error("make", &self.dir, e))?;
        self.set(rdt)
    }

    /// Sets those schemata that are given.
    pub(crate) fn set(&self, rdt: &LinuxIntelRdt) -> Result<()> {
        let lines = schemata(rdt);
        if lines.is_empty() {
            return Ok(());
        }
        let file = self.dir.join("schemata");
        fs::write(&file, lines.join("\n") + "\n").map_err(|e| self.error("write", &file, e))
    }

    /// Moves the calling thread there: what it clones is born there.
    pub(crate) fn enter(&self) -> Result<()> {
        // In this order: a monitoring group takes members of its class only.
        for dir in [Some(&self.dir), self.monitor.as_ref()].into_iter().flatten() {
            let file = dir.join("tasks");
            fs::write(&file, "0").map_err(|e| self.error("write", &file, e))?;
        }
        Ok(())
    }

    /// Removes what was made for the container.
    pub(crate) fn remove(&self) -> Result<()> {
        for dir in self.made() {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.error("remove", dir, e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn error(&self, action: &str, path: &Path, source: io::Error) -> Error {
        let resctrl = self.dir.ancestors().find(|dir| dir.join("info").is_dir());
        // Why the kernel refused: of the error numbers there are too few.
        let why = resctrl.and_then(|dir| fs::read_to_string(dir.join("info/last_cmd_status")).ok());
        let why = why.as_deref().map(str::trim).filter(|why| !why.is_empty() && *why != "ok");
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        Error::Os { what: format!("linux.intelRdt: {action} {}{why}", path.display()), source }
    }
}

/// The file system's own.
const RESERVED: [&str; 5] = [".", "..", "info", "mon_groups", "mon_data"];

/// The lines for the class's `schemata`, in the order in which the kernel is to read them.
fn schemata(rdt: &LinuxIntelRdt) -> Vec<String> {
    let mut lines = caches_and_bandwidth(rdt);
    lines.extend(rdt.schemata().iter().flatten().cloned());
    lines
}

/// `l3CacheSchema` without lines of bandwidth, then `memBwSchema`.
fn caches_and_bandwidth(rdt: &LinuxIntelRdt) -> Vec<String> {
    let caches = rdt.l3_cache_schema().iter().flat_map(|schema| schema.lines());
    let caches = caches.filter(|line| !line.starts_with("MB:") && !line.is_empty());
    caches.map(str::to_owned).chain(rdt.mem_bw_schema().clone()).collect()
}

/// A class that is there must be as the spec says.
fn compare(dir: &Path, wanted: &[String]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let file = dir.join("schemata");
    let text = fs::read_to_string(&file)
        .map_err(|source| Error::Os { what: format!("linux.intelRdt: read {}", file.display()), source })?;
    let there: Vec<Vec<(String, String)>> = text.lines().map(entries).collect();
    for line in wanted {
        let all: Vec<_> = there.iter().flatten().collect();
        if let Some((at, value)) = entries(line).iter().find(|entry| !all.contains(entry)) {
            let reason = format!("class {} is there, without {at}={value}", dir.display());
            return Err(Error::spec("linux.intelRdt.closID", reason));
        }
    }
    Ok(())
}

/// `L3:0=0f;1=f`: `L3:0` is `f`, and `L3:1`.
fn entries(line: &str) -> Vec<(String, String)> {
    let Some((name, list)) = line.trim().split_once(':') else { return Vec::new() };
    let entry = |entry: &str| {
        let (domain, value) = entry.split_once('=')?;
        let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
        Some((format!("{}:{}", name.trim(), domain.trim()), value))
    };
    list.split(';').filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdt(document: serde_json::Value) -> LinuxIntelRdt {
        serde_json::from_value(document).unwrap()
    }

    /// A directory in the place of the kernel's file system, with one class.
    fn resctrl() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("gold")).unwrap();
        fs::write(dir.path().join("gold/schemata"), "    MB:0=100;1=100\n    L3:0=0ff;1=00f\n").unwrap();
        fs::write(dir.path().join("gold/tasks"), "").unwrap();
        dir
    }

    fn read(dir: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(dir.path().join(file)).unwrap_or_default()
    }

    #[test]
    fn a_class_of_the_containers_own() {
        let dir = resctrl();
        let given = rdt(serde_json::json!({
            "l3CacheSchema": "L3:0=7f0;1=1f\nMB:0=10", "memBwSchema": "MB:0=20;1=70", "schemata": ["L2:0=f"], "enableMonitoring": true,
        }));
        let class = Class::of(&given, Some(dir.path()), "web").unwrap();
        assert!(!dir.path().join("web").exists(), "not yet");
        class.create(&given).unwrap();
        class.enter().unwrap();
        assert_eq!(read(&dir, "web/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\nL2:0=f\n");
        assert_eq!(read(&dir, "web/tasks"), "0");
        assert_eq!(read(&dir, "web/mon_groups/web/tasks"), "0");
        // The kernel's directories are removed with what they show.
        for file in ["web/mon_groups/web/tasks", "web/tasks", "web/schemata"] {
            fs::remove_file(dir.path().join(file)).unwrap();
        }
        assert_eq!(class.made().count(), 2);
        fs::remove_dir(dir.path().join("web/mon_groups/web")).unwrap();
        fs::remove_dir(dir.path().join("web/mon_groups")).unwrap();
        class.remove().unwrap();
        assert!(!dir.path().join("web").exists());
        class.remove().unwrap();
    }

    #[test]
    fn a_class_that_is_there() {
        let dir = resctrl();
        let of = |document| Class::of(&rdt(document), Some(dir.path()), "web");
        let class = of(serde_json::json!({"closID": "gold"})).unwrap();
        class.create(&rdt(serde_json::json!({"closID": "gold"}))).unwrap();
        class.enter().unwrap();
        assert_eq!(read(&dir, "gold/tasks"), "0");
        assert!(read(&dir, "gold/schemata").starts_with("    MB"), "no schema is given, none is written");
        class.remove().unwrap();
        assert!(dir.path().join("gold").exists(), "it is not ours");
        of(serde_json::json!({"closID": "gold", "l3CacheSchema": "L3:0=ff;1=F"})).unwrap();
        of(serde_json::json!({"closID": "gold", "memBwSchema": "MB:1=100"})).unwrap();
        let named = of(serde_json::json!({"closID": "silver", "l3CacheSchema": "L3:0=f"})).unwrap();
        assert_eq!(named.made().count(), 0, "others may join it");
        for other in ["L3:0=fe", "L3:2=ff", "L2:0=ff"] {
            let error = of(serde_json::json!({"closID": "gold", "l3CacheSchema": other})).unwrap_err();
            assert!(error.to_string().contains("closID"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be() {
        let dir = resctrl();
        let refused = |document: serde_json::Value| {
            Class::of(&rdt(document), Some(dir.path()), "web").unwrap_err().to_string()
        };
        assert!(refused(serde_json::json!({"closID": "none"})).contains("closID"));
        for name in ["..", "a/b", "/a", "info", "a\nb"] {
            let said = refused(serde_json::json!({"closID": name, "l3CacheSchema": "L3:0=f"}));
            assert!(said.contains("closID"), "{said}");
        }
        for schema in ["0=10", "MB:0=10\nMB:1=10"] {
            assert!(refused(serde_json::json!({"memBwSchema": schema})).contains("memBwSchema"));
        }
        let error = Class::of(&rdt(serde_json::json!({})), None, "web").unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
    }

    #[test]
    fn the_kernels_own_reason_is_told() {
        let dir = resctrl();
        fs::create_dir(dir.path().join("info")).unwrap();
        fs::write(dir.path().join("info/last_cmd_status"), "Mask out of range\n").unwrap();
        fs::create_dir(dir.path().join("web")).unwrap();
        fs::create_dir(dir.path().join("web/schemata")).unwrap();
        let given = rdt(serde_json::json!({"schemata": ["L3:0=fffffff"]}));
        let error = Class::of(&given, Some(dir.path()), "web").unwrap().create(&given).unwrap_err();
        assert!(error.to_string().contains("(Mask out of range)"), "{error}");
    }
}
