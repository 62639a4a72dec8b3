//! Parsers of foreign bytes, for the fuzz targets.

#[cfg(feature = "systemd")]
pub use crate::cgroup::systemd::parse as dbus;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::caps;
use crate::cgroup::{Hierarchy, Layout};
use crate::error::{Error, Result};
use crate::namespaces::Namespaces;
use crate::plan::{Input, Mode, Plan, RootSource, compile};
use crate::seccomp::Filter;

/// Compiles a `config.json` as `create` and `exec` would, as far as nothing is made or started.
pub fn plan(json: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(json) else { return };
    for (mode, user) in [(Mode::Init, false), (Mode::Init, true), (Mode::Exec, false)] {
        let _ = compiled(&spec, mode, user);
    }
}

fn compiled(spec: &Spec, mode: Mode, user: bool) -> Result<Plan> {
    let process = spec.process().as_ref().ok_or_else(|| Error::spec("process", "missing"))?;
    let linux = spec.linux().as_ref();
    let filter = linux.and_then(|l| l.seccomp().as_ref()).map(Filter::compile).transpose()?;
    // Paths of namespaces are opened, so those of the spec are left out.
    let namespaces = Namespaces::new(&Spec::default())?;
    let hierarchy = |mount: &str, controllers: &[&str]| Hierarchy {
        mount: PathBuf::from(mount),
        controllers: controllers.iter().map(ToString::to_string).collect(),
    };
    let v1 = vec![
        hierarchy("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
        hierarchy("/sys/fs/cgroup/systemd", &["name=systemd"]),
    ];
    let given = process.capabilities().clone().unwrap_or_else(crate::runtime::no_capabilities);
    let (sets, _) = caps::sets(&given, caps::all());
    compile(&Input {
        mode,
        id: "fuzz",
        spec,
        process,
        bundle: Path::new("/nonexistent"),
        root: RootSource::Path(PathBuf::from("/nonexistent")),
        stdio: [Some(10), None, Some(11)],
        preserve: &[12],
        layout: &Layout { v1, v2: None, resctrl: None },
        cgroup_path: Path::new("/fuzz"),
        cgroup_namespace: user,
        new_namespaces: namespaces.new,
        new_user: user,
        time_offsets: None,
        joins: &[],
        in_user_namespace: user,
        may_set_groups: !user,
        oom_score_adj: process.oom_score_adj(),
        caps: Some(sets),
        available_caps: caps::all(),
        filter: filter.as_ref(),
        landlock: None,
        sync_hooks: true,
        listener: Some(13),
        status: 14,
        keep: &[10, 11, 12, 13, 14],
        mount_subpaths: &[],
        mount_sources: &[],
        no_pivot: false,
        extra_env: &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without SELinux no mount takes a label: which ones would be given it.
    #[test]
    fn mounts_with_a_label() {
        let mut spec = crate::spec::default_spec(["true"]);
        spec.root_mut().as_mut().unwrap().set_path("/".into());
        let given = |spec: &Spec| {
            let plan = compiled(spec, Mode::Init, false).unwrap().bytes;
            let count = |text: &[u8]| plan.windows(text.len()).filter(|window| *window == text).count();
            [&b"context\0"[..], b"security.selinux\0", b"some:label:s0:c1,c2\0"].map(count)
        };
        spec.linux_mut().as_mut().unwrap().set_mount_label(Some(String::new()));
        assert_eq!(given(&spec), [0, 0, 0]);
        spec.linux_mut().as_mut().unwrap().set_mount_label(Some("some:label:s0:c1,c2".to_owned()));
        // /dev, /dev/pts, /dev/shm, the directories of the cgroup hierarchies, what hides masked ones; and /dev/mqueue.
        assert_eq!(given(&spec), [5, 1, 6]);
    }

    /// A hierarchy of several controllers is found by each one's name: once as an option of its mount, once as a link.
    #[test]
    fn links_to_a_hierarchy() {
        let mut spec = crate::spec::default_spec(["true"]);
        spec.root_mut().as_mut().unwrap().set_path("/".into());
        let plan = compiled(&spec, Mode::Init, true).unwrap().bytes;
        let count = |text: &[u8]| plan.windows(text.len()).filter(|window| *window == text).count();
        assert_eq!([&b"\0cpu\0"[..], b"\0cpuacct\0", b"\0systemd\0"].map(count), [2, 2, 2]);
    }

    /// What a fuzzer does, for a moment: values of a real document exchanged for others of every kind.
    #[test]
    fn odd_documents() {
        let mut spec = crate::spec::rootless_spec(["sh", "-c", "true"], 1000, 1000);
        // Thousands of documents: a short filter.
        let filter = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{
                "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}],
            }],
        });
        spec.linux_mut().as_mut().unwrap().set_seccomp(Some(serde_json::from_value(filter).unwrap()));
        let document = serde_json::to_value(spec).unwrap();
        let odd = serde_json::json!([
            null, true, -1, 0, 1, u64::MAX, i64::MIN, 4_294_967_296u64, "", "\0", "/", "..", "../../x", "/proc/self", "a=b", "r",
            "rbind", "4294967295", "é", [], [null], [""], {}, {"": ""}
        ]);
        let mut paths = Vec::new();
        collect(&document, String::new(), &mut paths);
        assert!(paths.len() > 100);
        for path in &paths {
            for value in odd.as_array().unwrap() {
                let mut changed = document.clone();
                *changed.pointer_mut(path).unwrap() = value.clone();
                super::plan(changed.to_string().as_bytes());
            }
        }
        super::plan(b"{}");
    }

    fn collect(value: &serde_json::Value, path: String, paths: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                map.iter().for_each(|(key, v)| collect(v, format!("{path}/{key}"), paths));
            }
            // Of long lists the first few tell all.
            serde_json::Value::Array(list) => {
                list.iter().take(4).enumerate().for_each(|(i, v)| collect(v, format!("{path}/{i}"), paths));
            }
            _ => {}
        }
        paths.push(path);
    }
}
