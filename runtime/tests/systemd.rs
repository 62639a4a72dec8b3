//! systemd as the maker of groups: Debian's own, as the first process of user-mode-linux, with runc beside.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::panic,
    reason = "test code"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{World, id, skip, user_mode_linux};
use longshore_runtime::{CreateOptions, Error, Running, Runtime, Systemd};
use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::json;

/// Set for the process that is in such a world: `system`, `user`, or `creator`.
const WORLD: &str = "LONGSHORE_SYSTEMD_WORLD";

type Case = (&'static str, fn(&World));

const SYSTEM: &[Case] = &[
    ("the unit and its groups are as runc's", as_runc),
    ("update, and the unit is gone after delete", update_and_delete),
    ("a limit of one process", one_process),
    ("an end for want of memory leaves no unit", out_of_memory),
    ("what systemd refuses is told, and leaves nothing", refused),
    ("a unit that runs is not touched", taken),
    ("a killed creator leaves nothing", killed_creator),
    ("an ordinary user's own systemd", of_a_user),
];

#[test]
fn in_user_mode_linux() {
    match std::env::var(WORLD).as_deref() {
        Ok("system") => return run(SYSTEM),
        Ok("creator") => return create_and_wait(),
        Ok("user") => return as_user(),
        Ok(_) => return,
        Err(_) => {}
    }
    for program in ["/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/sbin/runc"] {
        if !Path::new(program).is_file() {
            return skip(&format!("{program} is not installed"));
        }
    }
    let Some(said) = user_mode_linux(&init()) else { return };
    assert!(said.contains("all cases passed"), "{said}");
}

/// systemd with no units but a bus and this test.
fn init() -> String {
    let exe = std::env::current_exe().unwrap();
    format!(
        "#!/bin/sh\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmpfs /run; mount -t tmpfs -o mode=1777 tmpfs /tmp\n\
         mount -t devtmpfs dev /dev 2>/dev/null; mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup; mkdir -p /run/units; cd /run/units\n\
         printf '[Unit]\\nRequires=dbus.socket work.service\\n' >default.target\n\
         printf '[Unit]\\nDefaultDependencies=no\\n[Socket]\\nListenStream=/run/dbus/system_bus_socket\\n' >dbus.socket\n\
         printf '[Unit]\\nDefaultDependencies=no\\nRequires=dbus.socket\\n[Service]\\nType=notify\\n' >dbus.service\n\
         echo 'ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation' >>dbus.service\n\
         printf '[Unit]\\nDefaultDependencies=no\\nAfter=dbus.socket\\n[Service]\\nStandardOutput=null\\n' >work.service\n\
         printf 'ExecStart=/bin/sh /run/work.sh\\nEnvironment={WORLD}=system HOME=/tmp TMPDIR=/tmp\\n' >>work.service\n\
         echo 'Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' >>work.service\n\
         echo 'exec >/dev/console 2>&1; cd /tmp; {} --exact in_user_mode_linux --nocapture; echo o >/proc/sysrq-trigger' >/run/work.sh\n\
         SYSTEMD_UNIT_PATH=/run/units exec /lib/systemd/systemd --log-target=console --log-level=warning --show-status=no\n",
        exe.display()
    )
}

/// All of them, then what failed.
fn run(cases: &[Case]) {
    let mut failed = Vec::new();
    for (name, case) in cases {
        let began = Instant::now();
        let mut world = World::new().expect("busybox");
        world.runtime = world.runtime.clone().with_systemd(Systemd::system());
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world))).is_err() {
            failed.push(*name);
        }
        eprintln!("case {name}: {:?}", began.elapsed());
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
    println!("all cases passed");
}

fn with(world: &World, args: &[&str], path: &str, resources: serde_json::Value) -> Spec {
    let mut spec = world.spec(args);
    let resources: LinuxResources = serde_json::from_value(resources).unwrap();
    spec.linux_mut().as_mut().unwrap().set_resources(Some(resources)).set_cgroups_path(Some(path.into()));
    spec
}

fn start(runtime: &Runtime, id: &str, spec: &Spec) -> Running {
    runtime.create(id, spec, CreateOptions::default()).unwrap().start().unwrap()
}

fn group_of(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    Path::new("/sys/fs/cgroup").join(text.trim().strip_prefix("0::/").expect("a v2 group"))
}

fn value(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap().trim().to_owned()
}

/// What systemd has in mind about a unit.
fn show(unit: &str) -> BTreeMap<String, String> {
    let out = Command::new("systemctl").args(["show", unit]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn is_gone(unit: &str) -> bool {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if show(unit).get("LoadState").is_some_and(|state| state == "not-found") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn as_runc(world: &World) {
    let resources = json!({
        "memory": {"limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432},
        "cpu": {"shares": 512, "quota": 20_000, "period": 50_000},
        "pids": {"limit": 17},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}],
    });
    let mut spec = with(world, &["sleep", "1000"], "a-b.slice:prefix:same", resources);
    let annotations = [("TimeoutStopUSec", "uint64 123456789"), ("OOMPolicy", "'continue'")];
    let annotations = annotations.map(|(k, v)| (format!("org.systemd.property.{k}"), v.to_owned()));
    spec.set_annotations(Some(annotations.into()));
    let seen = |pid: u32| {
        let group = group_of(pid);
        assert_eq!(group, Path::new("/sys/fs/cgroup/a.slice/a-b.slice/prefix-same.scope"));
        let files = ["memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "pids.max"];
        let files = files.map(|file| value(&group, file));
        let mut shown = show("prefix-same.scope");
        // What is of one unit alone, of this moment, or worded otherwise.
        let own = ["Description", "ControlGroupId", "InvocationID", "DeviceAllow", "DropInPaths"];
        shown.retain(|key, value| {
            let now = ["Timestamp", "NSec", "Current", "Available"].iter().any(|part| key.contains(part));
            let counted = key.starts_with("IP") || key.starts_with("IO") && value.parse::<u64>().is_ok();
            !now && !counted && !own.contains(&key.as_str())
        });
        (files, shown)
    };
    let running = start(&world.runtime, "same", &spec);
    let ours = seen(running.pid());
    assert_eq!(ours.0[0], "67108864");
    assert_eq!(ours.1.get("TimeoutStopUSec").map(String::as_str), Some("2min 3.456789s"));
    drop(running);
    assert!(is_gone("prefix-same.scope"));

    let bundle = world.dir.path().to_owned();
    // Its own list of what runc 1.1 knows.
    spec.linux_mut().as_mut().unwrap().set_seccomp(None);
    fs::write(bundle.join("config.json"), serde_json::to_string(&spec).unwrap()).unwrap();
    let pid_file = bundle.join("pid");
    let status = Command::new("runc")
        .args(["--systemd-cgroup", "run", "--detach", "--pid-file"])
        .arg(&pid_file)
        .arg("--bundle")
        .arg(&bundle)
        .arg("same")
        .stdin(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let mut theirs = seen(fs::read_to_string(pid_file).unwrap().parse().unwrap());
    assert!(Command::new("runc").args(["delete", "--force", "same"]).status().unwrap().success());
    // Ours asks for what was killed for memory to be forgotten.
    assert_eq!(
        theirs.1.insert("CollectMode".to_owned(), "inactive-or-failed".to_owned()).as_deref(),
        Some("inactive")
    );
    assert_eq!(ours, theirs);
    assert!(is_gone("prefix-same.scope"));
}

fn update_and_delete(world: &World) {
    let name = id("update");
    let limits = json!({"memory": {"limit": 67_108_864}, "cpu": {"quota": 30_000, "period": 60_000}});
    let running = start(&world.runtime, &name, &with(world, &["sleep", "1000"], "", limits));
    let unit = format!("longshore-{name}.scope");
    let group = group_of(running.pid());
    assert_eq!(group, Path::new("/sys/fs/cgroup/system.slice").join(&unit));
    assert_eq!(
        fs::read_to_string(group.join("cgroup.procs")).unwrap().trim(),
        running.pid().to_string(),
        "alone"
    );
    let resources = json!({"memory": {"limit": 33_554_432}, "cpu": {"period": 40_000}, "pids": {"limit": 9}});
    // Another program that knows the container by its record.
    let other = Runtime::new(world.dir.path().join("state")).unwrap().open(&name).unwrap();
    other.update(&serde_json::from_value(resources).unwrap()).unwrap();
    assert_eq!(value(&group, "memory.max"), "33554432");
    assert_eq!((value(&group, "pids.max").as_str(), value(&group, "cpu.max").as_str()), ("9", "30000 40000"));
    let shown = show(&unit);
    let is = |key: &str, value: &str| assert_eq!(shown.get(key).map(String::as_str), Some(value), "{key}");
    is("MemoryMax", "33554432");
    is("CPUQuotaPerSecUSec", "750ms");
    is("CPUQuotaPeriodUSec", "40ms");
    is("TasksMax", "9");
    running.detach();
    other.delete(true).unwrap();
    assert!(!group.exists() && is_gone(&unit));
}

fn one_process(world: &World) {
    let spec = with(world, &["true"], "", json!({"pids": {"limit": 1}}));
    let (code, out, err) = world.run(&id("one"), &spec);
    assert_eq!(code, 0, "{out}{err}");
    let (code, ..) =
        world.run(&id("one"), &with(world, &["sh", "-c", "(true); true"], "", json!({"pids": {"limit": 1}})));
    assert!(code != 0, "the limit is in force");
}

fn out_of_memory(world: &World) {
    let name = id("oom");
    let limit = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let dd = ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];
    let mut running = start(&world.runtime, &name, &with(world, &dd, "", limit));
    assert_eq!(running.wait_to_end().unwrap().signal, Some(9));
    drop(running);
    assert!(is_gone(&format!("longshore-{name}.scope")));
}

fn refused(world: &World) {
    let refused = |path: &str| {
        let name = id("refused");
        let error =
            world.runtime.create(&name, &with(world, &["true"], path, json!({})), CreateOptions::default());
        assert!(world.runtime.open(&name).is_err());
        error.map(drop).unwrap_err()
    };
    let error = refused("a--b.slice:x:y");
    assert!(matches!(&error, Error::Systemd { reason, .. } if reason.contains("a--b.slice")), "{error:?}");
    assert!(is_gone("x-y.scope"));
    assert!(matches!(refused("/a/b"), Error::Spec { .. }));
    let mut spec = with(world, &["true"], "", json!({}));
    let annotation = ("org.systemd.property.NoSuchThing".to_owned(), "true".to_owned());
    spec.set_annotations(Some([annotation].into()));
    let error = world.runtime.create(&id("refused"), &spec, CreateOptions::default()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Systemd { .. }), "{error:?}");
    let nobody = world.runtime.clone().with_systemd(Systemd::user("/run/nobody"));
    let error =
        nobody.create(&id("refused"), &with(world, &["true"], "", json!({})), CreateOptions::default());
    assert!(matches!(error, Err(Error::Os { .. })));
}

fn taken(world: &World) {
    let spec = with(world, &["sleep", "1000"], ":some:name", json!({}));
    let running = start(&world.runtime, &id("first"), &spec);
    let error = world.runtime.create(&id("second"), &spec, CreateOptions::default()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Systemd { reason, .. } if reason.contains("UnitExists")), "{error:?}");
    assert!(group_of(running.pid()).ends_with("some-name.scope"));
    drop(running);
    assert!(is_gone("some-name.scope"));
}

/// One in the middle of a start: its container's hook waits.
fn killed_creator(world: &World) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_user_mode_linux", "--nocapture"])
        .env(WORLD, "creator")
        .env("CREATOR_DIR", world.dir.path())
        .spawn()
        .unwrap();
    let group = Path::new("/sys/fs/cgroup/system.slice/longshore-left.scope");
    let until = Instant::now() + Duration::from_secs(60);
    while !world.dir.path().join("hook").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(group.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(world.runtime.gc().unwrap(), ["left"]);
    assert!(!group.exists() && is_gone("longshore-left.scope"));
}

/// uid 1000 with a systemd of its own, from outside that one's part of the hierarchy.
fn of_a_user(world: &World) {
    let dir = world.dir.path();
    std::os::unix::fs::chown(dir, Some(1000), Some(1000)).unwrap();
    let copy = dir.join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let script = format!(
        "mkdir -p /run/bus /run/user/1000 && chown 1000:1000 /run/user/1000 && cd /run/bus && cp /run/units/dbus.socket . && \
         sed -i 's|=/run/dbus/system_bus_socket|=/run/user/1000/bus|' dbus.socket && sed 's/--system /--session /' /run/units/dbus.service >dbus.service && \
         printf '[Unit]\\nRequires=dbus.socket\\n' >default.target && cd /run/units && \
         printf '[Service]\\nType=notify\\nUser=1000\\nGroup=1000\\nDelegate=pids memory\\nSlice=user-1000.slice\\n' >user@1000.service && \
         printf 'Environment=XDG_RUNTIME_DIR=/run/user/1000 SYSTEMD_UNIT_PATH=/run/bus\\nExecStart=/lib/systemd/systemd --user\\n' >>user@1000.service && \
         printf '[Unit]\\nDefaultDependencies=no\\n' >>user@1000.service && systemctl daemon-reload && systemctl start user@1000.service && \
         exec env TMPDIR={0} {WORLD}=user setpriv --reuid=1000 --regid=1000 --clear-groups {0}/test --exact in_user_mode_linux --nocapture",
        dir.display()
    );
    let out = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("as a user: fine"), "{said}");
}

fn as_user() {
    let world = World::new().expect("busybox");
    let runtime = world.runtime.clone().with_systemd(Systemd::user("/run/user/1000/bus"));
    let limits = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 7}});
    let spec = with(&world, &["sleep", "1000"], ":of:user", limits);
    let running = start(&runtime, &id("user"), &spec);
    let group = group_of(running.pid());
    let expected = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/user.slice/of-user.scope";
    assert_eq!(group, Path::new(expected));
    assert_eq!((value(&group, "memory.max").as_str(), value(&group, "pids.max").as_str()), ("67108864", "7"));
    let mut more = running.exec(["sleep", "1000"]).unwrap();
    assert_eq!(group_of(more.pid()), group);
    running.pause().unwrap();
    running.resume().unwrap();
    more.kill(9).unwrap();
    assert_eq!(more.wait(None).unwrap().unwrap().signal, Some(9));
    drop(running);
    assert!(!group.exists());
    println!("as a user: fine");
}

fn create_and_wait() {
    let dir = PathBuf::from(std::env::var_os("CREATOR_DIR").unwrap());
    let runtime = Runtime::new(dir.join("state")).unwrap().with_systemd(Systemd::system());
    let mut spec = longshore_runtime::spec::default_spec(["true"]);
    spec.root_mut().as_mut().unwrap().set_path(dir.join("rootfs"));
    let script = format!("touch {}/hook; exec sleep 1000", dir.display());
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    spec.set_hooks(Some(serde_json::from_value(hooks).unwrap()));
    let _ = runtime.create("left", &spec, CreateOptions::default());
}
