//! Known ways out of a container, each tried, and seen to fail from both sides.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::{World, also_unprivileged, id};
use longshore_runtime::{CreateOptions, Stdio};

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

/// The null device behind masks and standard streams: root inside must not change the host's mode and owner.
#[test]
fn null_device_of_the_host() {
    use std::os::unix::fs::MetadataExt;
    let Some(world) = World::new() else { return };
    let stat = || fs::metadata("/dev/null").map(|m| (m.mode(), m.uid(), m.gid())).unwrap();
    let before = stat();
    // Its own mode and owner: what may be changed is told by success, and the machine takes no harm.
    let script = "for f in /proc/keys /proc/timer_list /proc/self/fd/0 /proc/self/fd/2; do \
                  chmod 666 $f && echo chmod $f; chown 0:0 $f && echo chown $f; done; \
                  chmod 600 /dev/null; chown 1:1 /dev/null; \
                  echo x > /dev/null && cat /dev/null /proc/keys && cat && echo y >&2 && echo usable";
    let host = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
    for kind in ["null", "fd"] {
        let mut options = CreateOptions::default();
        options.stdio = match kind {
            "null" => [Stdio::Null, Stdio::Piped, Stdio::Null],
            _ => [Stdio::Fd(host()), Stdio::Piped, Stdio::Fd(host())],
        };
        let spec = world.spec(&["sh", "-c", script]);
        let mut running = world
            .runtime
            .create(&id("null"), &spec, options)
            .and_then(longshore_runtime::Created::start)
            .unwrap();
        let out = common::read(running.take_stdio(1));
        running.wait(None).unwrap();
        let after = stat();
        mend_null(before);
        assert_eq!(after, before, "{kind}");
        assert_eq!(out, "usable\n", "{kind}");
    }
    // `exec`, and a user other than root, to whom the streams are given.
    let created = world.runtime.create(&id("null"), &world.spec(&["sleep", "100"]), world.piped()).unwrap();
    let mut running = created.start().unwrap();
    let mut options = longshore_runtime::ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
    let mut spec = world.spec(&["sh", "-c", "chmod 660 /proc/self/fd/0; chown 1:1 /proc/self/fd/1"]);
    if common::is_root() {
        spec.process_mut().as_mut().unwrap().user_mut().set_uid(1);
    }
    let process = spec.process().as_ref().unwrap();
    let mut exec = running.container().exec(process, options).unwrap();
    exec.wait(None).unwrap();
    running.container().kill(9, true).unwrap();
    running.wait(None).unwrap();
    let after = stat();
    mend_null(before);
    assert_eq!(after, before, "exec");
    also_unprivileged("null_device_of_the_host");
}

/// A failed test must not leave the machine without its null device.
fn mend_null((mode, uid, gid): (u32, u32, u32)) {
    if common::is_root() {
        std::os::unix::fs::chown("/dev/null", Some(uid), Some(gid)).expect("restored");
        fs::set_permissions("/dev/null", std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("restored");
    }
}

/// A path inside a volume that a container swaps for a link to the host, while others mount it.
#[test]
fn subpath_swapped_for_a_link() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(world) = World::new() else { return };
    let at = |name: &str| world.dir.path().join(name);
    fs::create_dir_all(at("volume/good")).unwrap();
    fs::create_dir(at("host")).unwrap();
    fs::write(at("host/secret"), "").unwrap();
    symlink(at("host"), at("volume/link")).unwrap();
    let (good, link, stop) = (at("volume/good"), at("volume/link"), AtomicBool::new(false));
    let mut mounted = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &good, rustix::fs::CWD, &link, flags).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        let mut seen = String::new();
        let races = std::env::var("LONGSHORE_RACES").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
        for _ in 0..races {
            let mut spec = world.spec(&["ls", "/data"]);
            let mut mount = oci_spec::runtime::Mount::default();
            mount.set_destination("/data".into()).set_typ(Some("bind".into()));
            mount.set_source(Some(at("volume"))).set_options(Some(vec!["rbind".into()]));
            spec.mounts_mut().as_mut().unwrap().push(mount);
            let mut options = world.piped();
            options.mount_subpaths = vec![("/data".into(), "good".into())];
            let created = world.runtime.create(&id("swap"), &spec, options);
            if let Ok(mut running) = created.and_then(longshore_runtime::Created::start) {
                seen += &common::read(running.take_stdio(1));
                running.wait(None).unwrap();
                mounted += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(seen, "", "the host's directory was seen");
    });
    assert!(mounted > 0, "never mounted");
    also_unprivileged("subpath_swapped_for_a_link");
}
