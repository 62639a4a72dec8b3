//! Known ways out of a container, each tried, and seen to fail from both sides.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::{World, also_unprivileged, id};
use longshore_runtime::CreateOptions;

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561: an image whose /proc is a link must not choose where masks go.
#[test]
fn proc_is_a_link() {
    let Some(world) = World::new() else { return };
    fs::remove_dir(world.rootfs().join("proc")).unwrap();
    symlink("/tmp", world.rootfs().join("proc")).unwrap();
    let error =
        world.runtime.create(&id("proc"), &world.spec(&["true"]), CreateOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("proc_is_a_link");
}

/// CVE-2024-21626: no descriptor of the host is open inside, and none serves as working directory.
#[test]
fn working_directory_by_a_leaked_descriptor() {
    let Some(world) = World::new() else { return };
    let (_, out, err) = world.sh(&id("fds"), "ls /proc/self/fd | tr '\\n' ' '");
    assert_eq!(out, "0 1 2 3 ", "{err}");
    for n in 3..32 {
        let mut spec = world.spec(&["sh", "-c", "pwd; ls ../../../.."]);
        spec.process_mut().as_mut().unwrap().set_cwd(format!("/proc/self/fd/{n}").into());
        let started = world
            .runtime
            .create(&id("cwd"), &spec, CreateOptions::default())
            .and_then(longshore_runtime::Created::start);
        assert!(started.is_err(), "descriptor {n} is still an open directory");
    }
    also_unprivileged("working_directory_by_a_leaked_descriptor");
}

/// CVE-2026-41579: an image whose /dev is a link gets its devices inside its root, or not at all.
#[test]
fn dev_is_a_link() {
    let Some(world) = World::new() else { return };
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(world.rootfs().join("dev")).unwrap();
    symlink(&outside, world.rootfs().join("dev")).unwrap();
    let _ = world.runtime.create(&id("dev"), &world.spec(&["true"]), CreateOptions::default());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "a device was made on the host");
    also_unprivileged("dev_is_a_link");
}

/// CVE-2019-5736: the program of the starting process is sealed, and never the host's.
#[test]
fn own_program_is_not_the_host_s() {
    let Some(world) = World::new() else { return };
    let created =
        world.runtime.create(&id("exe"), &world.spec(&["sleep", "9"]), CreateOptions::default()).unwrap();
    if let Ok(exe) = fs::read_link(format!("/proc/{}/exe", created.pid())) {
        assert!(exe.to_string_lossy().contains("memfd:longshore"), "{}", exe.display());
        assert!(fs::OpenOptions::new().write(true).open(format!("/proc/{}/exe", created.pid())).is_err());
    }
    let maps = fs::read_to_string(format!("/proc/{}/maps", created.pid())).unwrap_or_default();
    assert!(maps.lines().count() < 20, "the host's memory is shared:\n{maps}");
    also_unprivileged("own_program_is_not_the_host_s");
}
