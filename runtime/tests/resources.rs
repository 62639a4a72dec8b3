//! Limits and scheduling that the other tests do not meet: in force, or refused with the field's name.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;
use std::path::Path;

use common::{World, also_unprivileged, id, is_root, read, skip};
use longshore_runtime::{CreateOptions, Error, ExecOptions, Stdio};
use oci_spec::runtime::{Linux, LinuxResources, Process, Spec};
use serde_json::json;

fn with_linux(world: &World, patch: &serde_json::Value) -> Spec {
    let mut spec = world.spec(&["sleep", "1000"]);
    let mut linux = serde_json::to_value(spec.linux()).unwrap();
    linux.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    let linux: Linux = serde_json::from_value(linux).unwrap();
    spec.set_linux(Some(linux));
    spec
}

fn with_resources(world: &World, patch: serde_json::Value) -> Spec {
    let mut spec = world.spec(&["sleep", "1000"]);
    let resources: LinuxResources = serde_json::from_value(patch).unwrap();
    spec.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    spec
}

#[test]
fn huge_pages_are_limited_in_use_and_in_reservation() {
    let Some(world) = World::new().filter(|_| is_root()) else { return };
    // Where the controller is: of v2, beside v1 hierarchies or alone, or of v1.
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/hugetlb"];
    let limit = 4 << 20;
    let spec = with_resources(&world, json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]}));
    let name = id("huge");
    let created = match world.runtime.create(&name, &spec, CreateOptions::default()) {
        Err(Error::Unsupported { what }) => return skip(&what),
        created => created.unwrap(),
    };
    let read = |file: &str| {
        let files = roots.iter().map(|root| Path::new(root).join(format!("longshore-{name}/{file}")));
        files.filter_map(|file| fs::read_to_string(file).ok()).next()
    };
    let values = [
        ["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"],
        ["hugetlb.2MB.rsvd.max", "hugetlb.2MB.rsvd.limit_in_bytes"],
    ]
    .map(|files| files.iter().find_map(|file| read(file)).unwrap());
    assert_eq!(values, [format!("{limit}\n"), format!("{limit}\n")]);
    drop(created);
}

/// Nobody may believe that a limit holds which does not.
#[test]
fn what_cannot_be_had_is_refused_by_name() {
    let Some(world) = World::new() else { return };
    let refused = |spec: &Spec, field: &str| {
        let error = world.runtime.create(&id("refused"), spec, CreateOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { what } if what.contains(field)), "{error:?}");
    };
    refused(&with_linux(&world, &json!({"intelRdt": {"l3CacheSchema": "L3:0=f"}})), "linux.intelRdt");
    refused(
        &with_linux(&world, &json!({"mountLabel": "system_u:object_r:container_file_t:s0"})),
        "linux.mountLabel",
    );
    let controllers = fs::read_to_string("/proc/cgroups").unwrap();
    if is_root() && !controllers.contains("rdma") {
        let spec = with_resources(&world, json!({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}}));
        refused(&spec, "linux.resources.rdma");
    }
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("what_cannot_be_had_is_refused_by_name");
}

#[test]
fn exec_begins_and_goes_on_where_it_is_told_to() {
    let Some(world) = World::new() else { return };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
    if !own.contains(['-', ',']) {
        return skip("one processor");
    }
    let running = world
        .runtime
        .create(&id("affinity"), &world.spec(&["sleep", "1000"]), CreateOptions::default())
        .and_then(longshore_runtime::Created::start)
        .unwrap();
    let exec = |affinity: serde_json::Value| {
        let process = json!({
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
            "env": ["PATH=/bin"], "execCPUAffinity": affinity,
        });
        let process: Process = serde_json::from_value(process).unwrap();
        let mut options = ExecOptions::default();
        options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
        let mut exec = running.container().exec(&process, options)?;
        let out = read(exec.take_stdio(1));
        exec.wait(None)?;
        Ok::<_, Error>(out.split_whitespace().last().unwrap_or_default().to_owned())
    };
    for (affinity, expected) in [
        (json!({"initial": "0", "final": "1"}), "1"),
        (json!({"initial": "1"}), "1"),
        (json!({"final": "0"}), "0"),
        (json!({"final": "0-1"}), own.as_str()),
        (json!({}), own.as_str()),
    ] {
        assert_eq!(exec(affinity.clone()).unwrap(), expected, "{affinity}");
    }
    for bad in ["1-0", "9999999"] {
        let error = exec(json!({"initial": bad})).unwrap_err();
        assert!(
            matches!(&error, Error::Spec { field, .. } if field.contains("execCPUAffinity")),
            "{error:?}"
        );
    }
    drop(running);
    also_unprivileged("exec_begins_and_goes_on_where_it_is_told_to");
}
