//! Life and death.

use longshore_runtime::containers::{
    AttachOptions, Filters, Output, RemoveOptions, StartOptions, StopOptions, WaitFor,
};

use crate::crash::shims;
use crate::harness::Test;
use crate::world::{World, until};

pub(crate) const TESTS: [Test; 10] = [
    ("lifecycle::runs_and_leaves_a_record", runs_and_leaves_a_record),
    ("lifecycle::stop_start_remove", stop_start_remove),
    ("lifecycle::create_pins_the_image", create_pins_the_image),
    ("lifecycle::joins_only_its_process", joins_only_its_process),
    ("lifecycle::killed_can_be_removed", killed_can_be_removed),
    ("lifecycle::a_half_removed_volume_is_no_obstacle", a_half_removed_volume_is_no_obstacle),
    ("lifecycle::a_full_disk_keeps_the_exit_code", a_full_disk_keeps_the_exit_code),
    ("lifecycle::no_shim_is_left", no_shim_is_left),
    ("lifecycle::loopback_is_up_without_a_network", loopback_is_up_without_a_network),
    ("lifecycle::errors_carry_dockers_codes", errors_carry_dockers_codes),
];

fn runs_and_leaves_a_record() {
    let Some(world) = World::new() else { return };
    let (code, log) = world.run_to_end(
        "one",
        "echo out; sleep 0.1; echo err >&2; sleep 0.1; id -u; hostname; exit 7",
        |_| {},
    );
    let inspect = world.all.inspect("one").unwrap();
    assert_eq!((code, inspect.state.exit_code, inspect.state.status.as_str()), (7, 7, "exited"));
    assert_eq!(log, format!("out\nerr\n0\n{}\n", &inspect.id[..12]));
    assert_eq!(world.all.inspect(&inspect.id[..8]).unwrap().name, "/one");
    assert!(world.all.list(false, &Filters::new(), false).unwrap().is_empty());
    assert_eq!(world.all.list(true, &Filters::new().with("exited", "7"), false).unwrap().len(), 1);
}

fn stop_start_remove() {
    let Some(world) = World::new() else { return };
    world.run(
        "web",
        &["sh", "-c", "echo x >> /data/file; trap 'exit 3' TERM; while true; do sleep 0.1; done"],
        |_| {},
    );
    assert_eq!(world.status("web"), "running");
    let taken = world.all.create(&{
        let mut request = longshore_runtime::containers::CreateRequest::new("busybox");
        request.name = Some("web".into());
        request
    });
    assert!(taken.unwrap_err().to_string().contains("already in use by container"));
    assert!(world.all.remove("web", &RemoveOptions::default()).is_err());
    world.all.stop("web", &StopOptions::timeout(5)).unwrap();
    assert_eq!(
        (world.status("web").as_str(), world.all.inspect("web").unwrap().state.exit_code),
        ("exited", 3)
    );
    world.all.start("web", &StartOptions::default()).unwrap();
    let file = world.dir.join("roots").join(world.all.inspect("web").unwrap().id).join("data/file");
    until("it has written", || std::fs::read_to_string(&file).unwrap() == "x\nx\n");
    world.all.kill("web", "KILL").unwrap();
    assert_eq!(world.all.wait("web", WaitFor::NotRunning).unwrap(), 137);
    world.all.start("web", &StartOptions::default()).unwrap();
    world.all.remove("web", &RemoveOptions::new(true, false)).unwrap();
    assert!(world.all.inspect("web").unwrap_err().is_not_found());
    assert_eq!(std::fs::read_dir(world.dir.join("roots")).unwrap().count(), 0);
}

/// The root file system is there before the first start, and goes with a container that never ran.
fn create_pins_the_image() {
    let Some(world) = World::new() else { return };
    let root = world.dir.join("roots").join(world.create("new", &["true"], |_| {}));
    assert!(root.exists());
    world.all.remove("new", &RemoveOptions::default()).unwrap();
    assert!(!root.exists());
}

/// A PID in a record is no proof: what is joined is the container's process, never another that has its number.
fn joins_only_its_process() {
    let Some(world) = World::new() else { return };
    let id = world.run("first", &["sleep", "100"], |_| {});
    let edit = |path: std::path::PathBuf, key: &str| {
        let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(state[key].as_u64().unwrap() > 0);
        state[key] = std::process::id().into();
        std::fs::write(path, state.to_string()).unwrap();
    };
    let pid = world.all.inspect("first").unwrap().state.pid;
    let net = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    edit(world.dir.join("containers").join(&id).join("state.json"), "Pid");
    let join = |r: &mut longshore_runtime::containers::CreateRequest| {
        r.host.network_mode = "container:first".into();
    };
    // An ordinary user's containers have a user namespace each, and none may join what another's owns.
    if rustix::process::geteuid().is_root() {
        world.run("second", &["sleep", "100"], join);
        assert_eq!(net(world.all.inspect("second").unwrap().state.pid), net(pid));
    }

    let path = world.dir.join("runtime").join(&id).join("state.json");
    let before = std::fs::read(&path).unwrap();
    edit(path.clone(), "pid");
    let third = world.create("third", &["true"], join);
    let error = world.all.start(&third, &StartOptions::default()).unwrap_err().to_string();
    std::fs::write(path, before).unwrap();
    assert_eq!(error, format!("cannot join network of a non running container: {id}"));
}

/// A removal that was killed half-way does not stand in the way of later ones.
fn a_half_removed_volume_is_no_obstacle() {
    let Some(world) = World::new() else { return };
    let volumes = world.all.volumes();
    volumes.create("data", &Default::default()).unwrap();
    std::fs::create_dir_all(volumes.dir().join(".old-data/_data")).unwrap();
    volumes.remove("data", false).unwrap();
    assert_eq!(std::fs::read_dir(volumes.dir()).unwrap().count(), 0);
}

/// Its exit code is told and recorded though there is no room for another file, and it can be removed.
fn a_full_disk_keeps_the_exit_code() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Some(world) = World::new() else { return };
    let disk = world.dir.join("containers");
    let run = |program: &str, args: &[&str]| {
        assert!(std::process::Command::new(program).args(args).arg(&disk).status().unwrap().success());
    };
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "full"]);
    std::fs::create_dir(disk.join("names")).unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let id = world.run(
            "seven",
            &["sh", "-c", "while ! test -e /data/go; do sleep 0.05; done; exit 7"],
            |_| {},
        );
        assert!(std::fs::write(disk.join("filler"), vec![1; 2 << 20]).is_err());
        std::fs::write(world.dir.join("roots").join(id).join("data/go"), "").unwrap();
        assert_eq!(world.all.wait("seven", WaitFor::NotRunning).unwrap(), 7);
        assert_eq!(world.all.inspect("seven").unwrap().state.exit_code, 7);
        until("no shim is left", || shims(&world).is_empty());
        assert_eq!(std::fs::read_dir(world.dir.join("runtime")).unwrap().count(), 0);
        world.all.remove("seven", &RemoveOptions::new(true, false)).unwrap();
    }));
    run("umount", &["-l"]);
    ended.unwrap();
}

/// Who has killed it finds it ended.
fn killed_can_be_removed() {
    let Some(world) = World::new() else { return };
    for _ in 0..20 {
        world.run("victim", &["sleep", "100"], |_| {});
        world.all.kill("victim", "KILL").unwrap();
        world.all.remove("victim", &RemoveOptions::default()).unwrap();
    }
}

/// Whoever has heard of the end finds no process any more, however fast it looks.
fn no_shim_is_left() {
    let Some(world) = World::new() else { return };
    for n in 0..20 {
        world.run("removed", &["sleep", "100"], |_| {});
        world.all.remove("removed", &RemoveOptions::new(true, false)).unwrap();
        assert_eq!(shims(&world), [], "removed, {n}");
        world.run("stopped", &["sleep", "100"], |_| {});
        world.all.stop("stopped", &StopOptions::timeout(0)).unwrap();
        assert_eq!(shims(&world), [], "stopped, {n}");
        world.all.remove("stopped", &RemoveOptions::default()).unwrap();
        world.run("waited", &["sleep", "0.05"], |r| r.host.auto_remove = true);
        // On a slow machine it is gone before anyone waits for it, and then nobody was told of its end.
        if world.all.wait("waited", WaitFor::Removed).is_ok() {
            assert_eq!(shims(&world), [], "waited, {n}");
        }
        let id = world.create("attached", &["true"], |r| r.host.auto_remove = true);
        let attach = StartOptions::attach(AttachOptions::default());
        let mut stream = world.all.start(&id, &attach).unwrap().unwrap();
        assert_eq!(stream.recv().unwrap(), Some(Output::Exited(0)));
        assert_eq!(shims(&world), [], "attached, {n}");
    }
}

fn loopback_is_up_without_a_network() {
    let Some(world) = World::new() else { return };
    // IFF_UP | IFF_LOOPBACK
    let (_, flags) = world.run_to_end("alone", "cat /sys/class/net/lo/flags; ls /sys/class/net", |r| {
        r.host.network_mode = "none".into();
    });
    assert_eq!(flags, "0x9\nlo\n");
}

fn errors_carry_dockers_codes() {
    let Some(world) = World::new() else { return };
    for (name, program, code) in
        [("missing", "/bin/nothing", 127), ("directory", "/etc", 126), ("plain", "/etc/passwd", 126)]
    {
        let id = world.create(name, &[program], |_| {});
        let error = world.all.start(&id, &StartOptions::default()).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert_eq!(world.all.inspect(name).unwrap().state.exit_code, code);
    }
}
