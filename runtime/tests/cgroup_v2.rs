//! cgroup v2, and nothing else: the same cases in a private mount namespace with v2's layout (no limits there where the controllers stay
//! with v1), and in Debian's user-mode-linux, a kernel whose only hierarchy is v2.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "test code"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{World, id, is_root, read, skip, user_mode_linux};
use longshore_runtime::{Container, CreateOptions, Error, ExecOptions, Running, Status};
use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::json;

/// Set for the process that is in such a world: `layout` or `uml`.
const WORLD: &str = "LONGSHORE_CGROUP_V2_WORLD";

type Case = (&'static str, fn(&World));

/// What needs the layout alone.
const LAYOUT: &[Case] = &[
    ("born in its group", born_in_its_group),
    ("exec joins the group", exec_joins),
    ("exec where the processes are in groups below", exec_below),
    ("freeze and thaw", freeze),
    ("kill reaches every process", kill_all),
    ("device rules", devices),
    ("the default devices without rules", default_devices),
    ("groups are gone after delete", groups_go),
];

/// What needs controllers.
const LIMITS: &[Case] = &[
    ("limits are written", limits_are_written),
    ("limits of -1", no_limits),
    ("pids.max is in force", pids_in_force),
    ("memory.max is in force, and the end by it is told", memory_in_force),
    ("word of memory that runs out", oom_events),
    ("an exec'd process killed for memory is told", exec_oom),
    ("cpu.max is in force", cpu_in_force),
    ("unified", unified),
    ("update", update),
    ("statistics", statistics),
    ("a controller that is not there is an error", missing_controller),
    ("inside, the group is the root of a writable hierarchy", delegation_inside),
    ("an ordinary user in a delegated group", delegated),
];

#[test]
fn in_a_private_layout() {
    match std::env::var(WORLD).as_deref() {
        Ok("layout") => return run(&[LAYOUT]),
        Ok("delegated") => return as_delegated(),
        Ok(_) => return,
        Err(_) => {}
    }
    if !is_root() {
        return skip("needs root: an own mount namespace with cgroup2 at /sys/fs/cgroup");
    }
    let script = "mount --make-rprivate / && for m in $(grep -o '/sys/fs/cgroup[^ ]*' /proc/mounts | sort -r); do umount $m || exit 1; done; \
                  mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "x"]).arg(std::env::current_exe().unwrap());
    let out = command
        .args(["--exact", "in_a_private_layout", "--nocapture"])
        .env(WORLD, "layout")
        .output()
        .expect("unshare(1) runs");
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("all cases passed"), "{said}");
}

#[test]
fn in_user_mode_linux() {
    match std::env::var(WORLD).as_deref() {
        Ok("uml") => return run(&[LAYOUT, LIMITS]),
        Ok(_) => return,
        Err(_) => {}
    }
    let Some(said) = user_mode_linux(&init()) else { return };
    assert!(said.contains("all cases passed") && said.contains("ended with 0"), "{said}");
}

fn init() -> String {
    let exe = std::env::current_exe().unwrap();
    format!(
        "#!/bin/sh\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmpfs /run; mount -t tmpfs -o mode=1777 tmpfs /tmp\n\
         mount -t devtmpfs dev /dev 2>/dev/null; mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mkdir -p /run/m/lib; ln -s /usr/lib/uml/modules /run/m/lib/modules; modprobe -d /run/m overlay\n\
         ip link set lo up 2>/dev/null\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp TMPDIR=/tmp {WORLD}=uml\n\
         cd /tmp; '{}' --exact in_user_mode_linux --nocapture 2>&1\n\
         echo \"ended with $?\"\n\
         echo o >/proc/sysrq-trigger; sleep 10\n",
        exe.display()
    )
}

/// All of them, then what failed.
fn run(lists: &[&[Case]]) {
    let only = std::env::var("LONGSHORE_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, case) in lists.iter().copied().flatten().filter(|c| c.0.contains(&only)) {
        let began = Instant::now();
        let world = World::new().expect("busybox");
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world))).is_err() {
            failed.push(*name);
        }
        eprintln!("case {name}: {:?}", began.elapsed());
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
    println!("all cases passed");
}

fn with(world: &World, args: &[&str], resources: serde_json::Value) -> Spec {
    let mut spec = world.spec(args);
    let resources: LinuxResources = serde_json::from_value(resources).unwrap();
    spec.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    spec
}

fn start(world: &World, spec: &Spec) -> Running {
    world.runtime.create(&id("v2"), spec, CreateOptions::default()).unwrap().start().unwrap()
}

fn sleeper(world: &World, resources: serde_json::Value) -> Running {
    start(world, &with(world, &["sleep", "1000"], resources))
}

/// A process's group, by the kernel.
fn group_of(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|l| l.strip_prefix("0::/")).expect("a v2 group");
    Path::new("/sys/fs/cgroup").join(path)
}

fn value(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).trim().to_owned()
}

fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn born_in_its_group(world: &World) {
    let name = id("born");
    let created =
        world.runtime.create(&name, &world.spec(&["sleep", "1000"]), CreateOptions::default()).unwrap();
    // The thread that created it has never been there.
    let group = group_of(created.pid());
    assert!(group.to_string_lossy().ends_with(&name), "{}", group.display());
    assert_eq!(value(&group, "cgroup.procs"), created.pid().to_string());
    assert_ne!(group_of(std::process::id()), group);
    let running = created.start().unwrap();
    assert_eq!(group_of(running.pid()), group);
    let inside = world.sh(&id("inside"), "cat /proc/self/cgroup").1;
    assert!(inside.lines().any(|l| l == "0::/"), "its cgroup namespace begins there: {inside}");
}

fn exec(world: &World, container: &Container, args: &[&str]) -> (i32, String) {
    let process = world.spec(args).process().clone().unwrap();
    let mut options = ExecOptions::default();
    options.stdio = world.piped().stdio;
    let mut running = container.exec(&process, options).unwrap();
    let out = read(running.take_stdio(1));
    (running.wait(None).unwrap().unwrap().code, out)
}

fn exec_joins(world: &World) {
    let running = start(world, &world.spec(&["sleep", "1000"]));
    let process = world.spec(&["sleep", "1000"]).process().clone().unwrap();
    let mut other = running.container().exec(&process, ExecOptions::default()).unwrap();
    assert_eq!(group_of(other.pid()), group_of(running.pid()));
    let mut both = [running.pid(), other.pid()];
    both.sort_unstable();
    assert_eq!(running.container().processes().unwrap(), both);
    other.kill(9).unwrap();
    other.wait(None).unwrap();
}

/// As under systemd or dockerd in a container: a group whose controllers are given to those below it takes no process itself.
fn exec_below(world: &World) {
    let script = "cd /sys/fs/cgroup; mkdir init; echo 1 >init/cgroup.procs; for c in $(cat cgroup.controllers); do echo +$c >cgroup.subtree_control; done; \
                  cat cgroup.subtree_control >/given; exec sleep 1000";
    let mut spec = world.spec(&["sh", "-c", script]);
    for mount in
        spec.mounts_mut().iter_mut().flatten().filter(|m| m.destination() == Path::new("/sys/fs/cgroup"))
    {
        mount.set_options(Some(["nosuid", "noexec", "nodev", "rw"].map(str::to_owned).to_vec()));
    }
    spec.root_mut().as_mut().unwrap().set_readonly(Some(false));
    let running = start(world, &spec);
    let given = world.rootfs().join("given");
    assert!(wait_for(|| fs::read_to_string(&given).is_ok_and(|text| text.ends_with('\n'))));
    assert_ne!(fs::read_to_string(&given).unwrap().trim(), "", "a controller is given to the group below");
    let (code, out) = exec(world, running.container(), &["cat", "/proc/self/cgroup"]);
    assert_eq!(code, 0);
    assert!(out.lines().any(|line| line == "0::/init"), "{out}");
}

fn freeze(world: &World) {
    let running = start(world, &world.spec(&["sleep", "1000"]));
    let container = running.container();
    let group = group_of(running.pid());
    container.pause().unwrap();
    assert!(value(&group, "cgroup.events").contains("frozen 1"));
    assert_eq!(container.state().unwrap().status, Status::Paused);
    assert!(matches!(container.pause(), Err(Error::WrongStatus { .. })));
    container.resume().unwrap();
    assert!(value(&group, "cgroup.events").contains("frozen 0"));
    assert_eq!(container.state().unwrap().status, Status::Running);
    container.pause().unwrap();
    container.delete(true).unwrap();
    assert!(!group.exists(), "a frozen one can be removed");
}

fn kill_all(world: &World) {
    let mut spec = world.spec(&["sh", "-c", "for i in 1 2 3 4 5; do setsid sleep 1000 & done; sleep 1000"]);
    // Without a PID namespace nothing but the group holds them together.
    common::without(&mut spec, oci_spec::runtime::LinuxNamespaceType::Pid);
    for mount in spec.mounts_mut().iter_mut().flatten().filter(|m| m.destination() == Path::new("/proc")) {
        mount
            .set_typ(Some("bind".to_owned()))
            .set_source(Some("/proc".into()))
            .set_options(Some(vec!["rbind".to_owned()]));
    }
    spec.linux_mut().as_mut().unwrap().set_masked_paths(None).set_readonly_paths(None);
    let running = start(world, &spec);
    let group = group_of(running.pid());
    assert!(wait_for(|| value(&group, "cgroup.procs").lines().count() == 7 - 1));
    let pids = running.container().processes().unwrap();
    let container = running.detach();
    container.delete(true).unwrap();
    assert!(!group.exists());
    let lives = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty());
    assert!(wait_for(|| !pids.iter().any(lives)), "{pids:?}");
}

fn try_device(world: &World, rules: serde_json::Value) -> String {
    let mut spec = with(
        world,
        &[
            "sh",
            "-c",
            "(echo x >/dev/x) 2>&1 | grep -o 'not permitted\\|No such device'; echo done; cat /dev/null",
        ],
        json!({"devices": rules}),
    );
    let device = json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 11, "fileMode": 438}]);
    spec.linux_mut().as_mut().unwrap().set_devices(serde_json::from_value(device).unwrap());
    let (code, out, err) = world.run(&id("device"), &spec);
    assert_eq!(code, 0, "{out}{err}");
    out
}

fn devices(world: &World) {
    let nothing = json!({"allow": false, "access": "rwm"});
    let kmsg = |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 1, "minor": 11, "access": access});
    let denied = "not permitted\ndone\n";
    assert_eq!(try_device(world, json!([nothing])), denied);
    assert_eq!(try_device(world, json!([nothing, kmsg(true, "w")])), "done\n");
    assert_eq!(try_device(world, json!([nothing, kmsg(true, "r")])), denied, "to read is not to write");
    assert_eq!(
        try_device(world, json!([nothing, kmsg(true, "rwm"), kmsg(false, "w")])),
        denied,
        "the last rule decides"
    );
    assert_eq!(try_device(world, json!([{"allow": true, "access": "rwm"}])), "done\n", "privileged");
    let any_minor = json!({"allow": true, "type": "c", "major": 1, "access": "rw"});
    assert_eq!(try_device(world, json!([nothing, any_minor])), "done\n");
}

fn default_devices(world: &World) {
    assert_eq!(try_device(world, json!([])), "not permitted\ndone\n");
    let (code, out, err) = world.sh(&id("defaults"), "for d in null zero full random urandom; do dd if=/dev/$d of=/dev/null bs=1 count=1 2>/dev/null || exit 1; done");
    assert_eq!(code, 0, "{out}{err}");
}

fn groups_go(world: &World) {
    let running = start(world, &world.spec(&["sleep", "1000"]));
    let group = group_of(running.pid());
    drop(running);
    assert!(!group.exists());
}

fn limits_are_written(world: &World) {
    let running = sleeper(
        world,
        json!({
            "memory": {"limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432},
            "cpu": {"shares": 512, "quota": 20_000, "period": 50_000},
            "pids": {"limit": 17},
        }),
    );
    let group = group_of(running.pid());
    assert_eq!(value(&group, "memory.max"), "67108864");
    if group.join("memory.swap.max").exists() {
        assert_eq!(value(&group, "memory.swap.max"), "33554432", "swap alone");
    }
    assert_eq!(value(&group, "memory.low"), "33554432");
    assert_eq!(value(&group, "cpu.max"), "20000 50000");
    assert_eq!(value(&group, "cpu.weight"), "20");
    assert_eq!(value(&group, "pids.max"), "17");
}

fn no_limits(world: &World) {
    let running = sleeper(
        world,
        json!({"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}),
    );
    let group = group_of(running.pid());
    assert_eq!((value(&group, "memory.max").as_str(), value(&group, "pids.max").as_str()), ("max", "max"));
    assert_eq!(value(&group, "cpu.max"), "max 100000");
}

fn pids_in_force(world: &World) {
    let spec = with(
        world,
        &["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 5 & done; echo all"],
        json!({"pids": {"limit": 4}}),
    );
    let (code, out, err) = world.run(&id("pids"), &spec);
    assert!(code != 0 && !out.contains("all") && err.contains("fork"), "{code} {out}{err}");
}

fn memory_in_force(world: &World) {
    let spec = with(
        world,
        &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"],
        json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}}),
    );
    let mut running = start(world, &spec);
    let exit = running.wait(None).unwrap().unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, true), "{exit:?}");
    assert!(running.container().stats().unwrap().oom_kills.is_some_and(|n| n > 0));
    let mut fine = start(world, &with(world, &["true"], json!({"memory": {"limit": 16_777_216}})));
    assert!(!fine.wait(None).unwrap().unwrap().oom_killed);
}

fn oom_events(world: &World) {
    let script = "dd if=/dev/zero of=/dev/null bs=100M count=1; exec sleep 1000";
    let limit = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let spec = with(world, &["sh", "-c", script], limit);
    let created = world.runtime.create(&id("v2"), &spec, CreateOptions::default()).unwrap();
    let mut events = created.container().oom_events().unwrap();
    assert!(!events.wait(Some(Duration::ZERO)).unwrap(), "it has not started");
    let running = created.start().unwrap();
    assert!(events.wait(Some(Duration::from_secs(60))).unwrap());
    drop(running);
    // The end of the group ends the waiting.
    while events.wait(Some(Duration::from_secs(60))).unwrap() {}
}

fn exec_oom(world: &World) {
    let running = sleeper(world, json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}}));
    let process =
        world.spec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]).process().clone().unwrap();
    let mut other = running.container().exec(&process, ExecOptions::default()).unwrap();
    let exit = other.wait(None).unwrap().unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, true), "{exit:?}");
    assert_eq!(running.container().state().unwrap().status, Status::Running);
}

fn cpu_in_force(world: &World) {
    let running = start(
        world,
        &with(
            world,
            &["sh", "-c", "while :; do :; done"],
            json!({"cpu": {"quota": 5_000, "period": 50_000}}),
        ),
    );
    let throttled = || running.container().stats().unwrap().throttled_periods.unwrap_or(0);
    assert!(wait_for(|| throttled() > 2), "it was never held back");
}

fn unified(world: &World) {
    let running = sleeper(world, json!({"unified": {"memory.high": "50331648", "pids.max": "12"}}));
    let group = group_of(running.pid());
    assert_eq!(
        (value(&group, "memory.high").as_str(), value(&group, "pids.max").as_str()),
        ("50331648", "12")
    );
    for file in ["nope.max", "../x", "cgroup"] {
        let spec = with(world, &["true"], json!({"unified": {file: "1"}}));
        assert!(world.runtime.create(&id("v2"), &spec, CreateOptions::default()).is_err(), "{file}");
    }
}

fn update(world: &World) {
    let running = sleeper(
        world,
        json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}, "cpu": {"quota": 30_000, "period": 60_000}}),
    );
    let group = group_of(running.pid());
    let update = |resources: serde_json::Value| {
        running.container().update(&serde_json::from_value(resources).unwrap()).unwrap();
    };
    update(json!({"memory": {"limit": 33_554_432}, "pids": {"limit": 10}}));
    assert_eq!(
        (value(&group, "memory.max").as_str(), value(&group, "pids.max").as_str()),
        ("33554432", "10")
    );
    assert_eq!(value(&group, "cpu.max"), "30000 60000", "what is not named is kept");
    update(json!({"cpu": {"quota": 15_000}}));
    assert_eq!(value(&group, "cpu.max"), "15000 60000", "the period is kept");
    update(json!({"cpu": {"period": 40_000}}));
    assert_eq!(value(&group, "cpu.max"), "15000 40000", "the quota is kept");
}

fn statistics(world: &World) {
    let running = sleeper(world, json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
    let stats = running.container().stats().unwrap();
    assert!(stats.cpu.is_some_and(|d| !d.is_zero()) && stats.memory.is_some_and(|n| n > 0), "{stats:?}");
    assert_eq!((stats.memory_limit, stats.pids, stats.pids_limit), (Some(67_108_864), Some(1), Some(20)));
}

fn missing_controller(world: &World) {
    let spec = with(world, &["true"], json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}));
    let error =
        world.runtime.create(&id("v2"), &spec, CreateOptions::default()).expect_err("no hugetlb there");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
}

fn delegation_inside(world: &World) {
    let script = "mkdir /sys/fs/cgroup/init && echo 1 >/sys/fs/cgroup/init/cgroup.procs && echo +pids >/sys/fs/cgroup/cgroup.subtree_control \
                  && mkdir /sys/fs/cgroup/sub && echo 5 >/sys/fs/cgroup/sub/pids.max && cat /sys/fs/cgroup/sub/pids.max";
    let mut spec = world.spec(&["sh", "-c", script]);
    for mount in
        spec.mounts_mut().iter_mut().flatten().filter(|m| m.destination() == Path::new("/sys/fs/cgroup"))
    {
        mount.set_options(Some(["nosuid", "noexec", "nodev", "rw"].map(str::to_owned).to_vec()));
    }
    let (code, out, err) = world.run(&id("delegated"), &spec);
    assert_eq!((code, out.as_str()), (0, "5\n"), "{err}");
}

/// A group that belongs to uid 1000, who makes containers below it.
fn delegated(_: &World) {
    let group = Path::new("/sys/fs/cgroup/delegated");
    let own = group.join("own");
    fs::create_dir(group).unwrap();
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu").unwrap();
    fs::create_dir(&own).unwrap();
    for dir in [group, &own] {
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(dir.join(file), Some(1000), Some(1000)).unwrap();
        }
    }
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(1000), Some(1000)).unwrap();
    let copy = home.path().join("test");
    // By another process: a child that another thread starts meanwhile would have it open for writing.
    let mut install = Command::new("install");
    let copied = install.args(["-m", "755"]).arg(std::env::current_exe().unwrap()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let script = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", own.display());
    let out = Command::new("sh")
        .args(["-c", &script, "x", "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"])
        .arg(&copy)
        .args(["--exact", "in_a_private_layout", "--nocapture"])
        .env(WORLD, "delegated")
        .env("TMPDIR", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("delegated: fine"), "{said}");
    let left: Vec<_> =
        fs::read_dir(group).unwrap().flatten().filter(|e| e.path().is_dir()).map(|e| e.file_name()).collect();
    assert_eq!(left, ["own"], "no group is left");
}

/// As that user.
fn as_delegated() {
    let world = World::new().expect("busybox");
    let name = id("rootless");
    let mut spec =
        with(&world, &["sleep", "1000"], json!({"pids": {"limit": 9}, "memory": {"limit": 67_108_864}}));
    spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(format!("/delegated/{name}").into()));
    let running = start(&world, &spec);
    let group = group_of(running.pid());
    assert_eq!(group, Path::new("/sys/fs/cgroup/delegated").join(&name));
    assert_eq!((value(&group, "pids.max").as_str(), value(&group, "memory.max").as_str()), ("9", "67108864"));
    running.container().pause().unwrap();
    assert_eq!(running.container().state().unwrap().status, Status::Paused);
    running.container().resume().unwrap();
    assert_eq!(exec(&world, running.container(), &["echo", "hi"]), (0, "hi\n".to_owned()));
    drop(running);
    assert!(!group.exists());
    println!("delegated: fine");
}
