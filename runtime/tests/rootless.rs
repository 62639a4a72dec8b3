//! What an ordinary user meets: limits that nobody delegated, IDs that nobody mapped, other containers' namespaces.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;

use common::{World, also_unprivileged, id, is_root};
use longshore_runtime::{CreateOptions, Error, ExecOptions};
use oci_spec::runtime::{
    LinuxMemoryBuilder, LinuxNamespaceType as T, LinuxPidsBuilder, LinuxResourcesBuilder, Spec,
};

/// Makes the spec's namespace that of a process.
fn join(spec: &mut Spec, kind: T, name: &str, pid: u32) {
    let namespaces = spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
    let namespace = namespaces.iter_mut().find(|n| n.typ() == kind).unwrap();
    namespace.set_path(Some(format!("/proc/{pid}/ns/{name}").into()));
}

/// Another container's network, PID and IPC namespaces, as `docker run --network container:x --pid container:x --ipc container:x`.
#[test]
fn joins_another_container() {
    let Some(world) = World::new() else { return };
    let first = world.runtime.create(&id("first"), &world.spec(&["sleep", "1234"]), CreateOptions::default());
    let first = first.unwrap().start().unwrap();
    let link = |kind: &str| fs::read_link(format!("/proc/{}/ns/{kind}", first.pid())).unwrap();
    for (kind, name) in [(T::Network, "net"), (T::Pid, "pid"), (T::Ipc, "ipc"), (T::Uts, "uts")] {
        let mut spec = world.spec(&["sh", "-c", &format!("readlink /proc/self/ns/{name}; ps; id -u")]);
        if kind == T::Uts {
            spec.set_hostname(None);
        }
        join(&mut spec, kind, name, first.pid());
        let (code, out, err) = world.run(&id("second"), &spec);
        assert_eq!(code, 0, "{name}: {err}");
        assert_eq!(out.lines().next(), Some(link(name).to_str().unwrap()), "{out}");
        assert_eq!(out.lines().last(), Some("0"), "{out}");
        assert_eq!(out.contains("sleep 1234"), kind == T::Pid, "{name}: {out}");
    }
    // All of them at once, and one more process in what came of it.
    let mut spec = world.spec(&["sleep", "100"]);
    for (kind, name) in [(T::Network, "net"), (T::Pid, "pid"), (T::Ipc, "ipc")] {
        join(&mut spec, kind, name, first.pid());
    }
    let second = world.runtime.create(&id("second"), &spec, CreateOptions::default()).unwrap();
    let second = second.start().unwrap();
    let process =
        world.spec(&["sh", "-c", "ps | grep -c '[s]leep 1234' && id -u"]).process().clone().unwrap();
    let mut exec = second.container().exec(&process, ExecOptions::default()).unwrap();
    assert_eq!(exec.wait(None).unwrap().unwrap().code, 0);
    also_unprivileged("joins_another_container");
}

/// The machine's own namespace is not an ordinary user's to join.
#[test]
fn a_namespace_of_another_user() {
    let Some(world) = World::new() else { return };
    if is_root() {
        return also_unprivileged("a_namespace_of_another_user");
    }
    let mut spec = world.spec(&["true"]);
    join(&mut spec, T::Network, "net", std::process::id());
    let error = world.runtime.create(&id("foreign"), &spec, CreateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
}

#[test]
fn a_user_that_is_not_mapped() {
    let Some(world) = World::new() else { return };
    if is_root() {
        return also_unprivileged("a_user_that_is_not_mapped");
    }
    let mut spec = world.spec(&["sleep", "100"]);
    spec.process_mut().as_mut().unwrap().user_mut().set_uid(1000);
    let error = world.runtime.create(&id("user"), &spec, CreateOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what } if what.contains("uid 1000")), "{error:?}");
    let process = spec.process().clone().unwrap();
    spec.process_mut().as_mut().unwrap().user_mut().set_uid(0);
    let running =
        world.runtime.create(&id("user"), &spec, CreateOptions::default()).unwrap().start().unwrap();
    let error = running.container().exec(&process, ExecOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what } if what.contains("uid 1000")), "{error:?}");
}

/// Limits without a delegated cgroup are told to be not in force; they do not end the start.
#[test]
fn limits_that_nobody_delegated() {
    let Some(world) = World::new() else { return };
    if is_root() {
        return also_unprivileged("limits_that_nobody_delegated");
    }
    let mut spec = world.spec(&["true"]);
    let resources = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(64i64 << 20).build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(10i64).build().unwrap())
        .build()
        .unwrap();
    spec.linux_mut().as_mut().unwrap().set_resources(Some(resources.clone()));
    let created = world.runtime.create(&id("limits"), &spec, CreateOptions::default()).unwrap();
    let told = created.warnings().join("\n");
    assert!(told.contains("linux.resources.memory") && told.contains("linux.resources.pids"), "{told}");
    assert!(created.container().update(&resources).is_err(), "a change that cannot be made is an error");
    assert!(created.start().unwrap().wait(None).unwrap().unwrap().success());
}
