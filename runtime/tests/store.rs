//! Stores of records: both pass the suite, and a runtime works the same over each.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{World, also_unprivileged, id, read};
use longshore_runtime::store::{Disk, Memory, StateStore, conformance};
use longshore_runtime::{CreateOptions, Runtime, Status, Stdio};

#[test]
fn on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicU32::new(0);
    conformance::check(|| {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Disk::new(dir.path().join(n.to_string())).unwrap()
    });
    conformance::check(|| {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(Disk::new(dir.path().join(n.to_string())).unwrap())
    });
}

#[test]
fn in_memory() {
    conformance::check(Memory::default);
    conformance::check(|| Arc::new(Memory::default()));
}

fn null<'a>() -> CreateOptions<'a> {
    let mut options = CreateOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
    options
}

/// The whole life, over a store in memory: no file is written, and the container is found by its ID like any other.
#[test]
fn a_life_without_files() {
    let Some(world) = World::new() else { return };
    let runtime = Runtime::with_store(Memory::default()).unwrap();
    let id = id("memory");
    let spec = world.spec(&["sh", "-c", "echo up; read x || exec sleep 1000"]);
    let created = runtime.create(&id, &spec, null()).unwrap();
    assert!(runtime.create(&id, &spec, null()).unwrap_err().is_exists());
    let container = runtime.open(&id).unwrap();
    assert_eq!(container.state().unwrap().status, Status::Created);
    assert_eq!(runtime.list().unwrap().len(), 1);
    assert!(runtime.gc().unwrap().is_empty());
    let mut running = created.start().unwrap();
    assert_eq!(container.state().unwrap().status, Status::Running);
    assert_eq!(container.state().unwrap().pid, Some(running.pid()));
    let mut options = longshore_runtime::ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
    let mut exec = running.exec_with(["echo", "in"], options).unwrap();
    assert_eq!(read(exec.take_stdio(1)), "in\n");
    exec.wait(None).unwrap();
    assert!(container.start().is_err(), "it runs already");
    container.kill(9, false).unwrap();
    assert_eq!(running.wait(None).unwrap().unwrap().signal, Some(9));
    assert_eq!(container.state().unwrap().status, Status::Stopped);
    drop(running);
    assert!(runtime.open(&id).unwrap_err().is_not_found());
    assert!(runtime.list().unwrap().is_empty());
    // Its ID is free again.
    let mut running = runtime.create(&id, &world.spec(&["true"]), null()).unwrap().start().unwrap();
    assert!(running.wait(None).unwrap().unwrap().success());
    drop(running);
    assert_eq!(fs::read_dir(world.dir.path().join("state")).unwrap().count(), 0);
    also_unprivileged("a_life_without_files");
}

/// Created by one handle, started by another of the same runtime; deleted before its start, it ends; a failed start is told as ever.
#[test]
fn started_by_its_id() {
    let Some(world) = World::new() else { return };
    let runtime = Runtime::with_store(Memory::default()).unwrap();
    let id = id("parked");
    let container = runtime.create(&id, &world.spec(&["sleep", "1000"]), null()).unwrap().detach();
    runtime.clone().open(&id).unwrap().start().unwrap();
    assert_eq!(container.state().unwrap().status, Status::Running);
    assert!(container.delete(false).is_err(), "it runs");
    container.delete(true).unwrap();
    assert!(runtime.list().unwrap().is_empty());

    let created = runtime.create(&id, &world.spec(&["sleep", "1000"]), null()).unwrap();
    let pid = created.pid();
    created.detach().delete(false).unwrap();
    let zombie =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    assert!(!zombie(pid), "the process of a deleted one is there");

    // Found when it was created, gone when it is started.
    let program = world.rootfs().join("bin/gone");
    fs::copy("/bin/busybox", &program).unwrap();
    let created = runtime.create(&id, &world.spec(&["/bin/gone"]), null()).unwrap();
    fs::remove_file(&program).unwrap();
    let error = created.start().unwrap_err();
    assert!(error.is_program_not_found(), "{error}");
    assert!(runtime.list().unwrap().is_empty());
    also_unprivileged("started_by_its_id");
}

/// A store of one's own, behind a pointer.
#[test]
fn any_store_will_do() {
    let Some(world) = World::new() else { return };
    let disk = world.dir.path().join("elsewhere");
    let stores: [Box<dyn StateStore>; 2] = [Box::new(Disk::new(&disk).unwrap()), Box::new(Memory::default())];
    for store in stores {
        let runtime = Runtime::with_store(store).unwrap();
        let mut running =
            runtime.create(&id("any"), &world.spec(&["echo", "hi"]), null()).unwrap().start().unwrap();
        assert_eq!(read(running.take_stdio(1)), "hi\n");
        assert!(running.wait(None).unwrap().unwrap().success());
    }
    assert!(Path::new(&disk).read_dir().unwrap().next().is_none());
    also_unprivileged("any_store_will_do");
}
