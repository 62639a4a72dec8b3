//! A creator that is killed at the worst moment.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{World, also_unprivileged, id};
use longshore_runtime::{CreateOptions, Created, Runtime};
use oci_spec::runtime::{Hook, Hooks, Spec};

/// Names the directory in which this program is to create a container, and to be killed.
const CREATOR: &str = "LONGSHORE_TEST_CREATOR";

fn until(what: &str, test: impl Fn() -> bool) {
    for _ in 0..2000 {
        if test() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("in vain: {what}");
}

/// Fields of `/proc/PID/stat` after the name: state, parent...
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// A process of its own that creates the container of `dir/spec.json`, and sticks before the state is written: a hook has put a FIFO there.
fn stuck_creator(test: &str, world: &World, id: &str) -> Child {
    let dir = world.dir.path();
    let mut spec = world.spec(&["sleep", "100"]);
    let fifo = dir.join("state").join(id).join(".state.json");
    let mut hook = Hook::default();
    hook.set_path("/bin/sh".into()).set_args(Some(vec![
        "sh".into(),
        "-c".into(),
        format!("cat >/dev/null; mkfifo {}", fifo.display()),
    ]));
    hook.set_env(Some(vec!["PATH=/usr/bin:/bin".into()]));
    let mut hooks = Hooks::default();
    hooks.set_create_runtime(Some(vec![hook]));
    spec.set_hooks(Some(hooks));
    fs::write(dir.join("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(CREATOR, dir)
        .env("LONGSHORE_TEST_ID", id)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the hook has run", || fifo.exists());
    // Time for the way from the hook to the end of the set-up.
    std::thread::sleep(Duration::from_millis(300));
    child
}

/// In the creator: does not come back.
fn create(dir: &Path) {
    let spec: Spec = serde_json::from_slice(&fs::read(dir.join("spec.json")).unwrap()).unwrap();
    let runtime = Runtime::new(dir.join("state")).unwrap();
    let _created = runtime
        .create(&std::env::var("LONGSHORE_TEST_ID").unwrap(), &spec, CreateOptions::default())
        .unwrap();
    unreachable!("nobody reads the FIFO");
}

#[test]
fn before_the_hand_over_takes_the_process_along() {
    let test = "before_the_hand_over_takes_the_process_along";
    if let Some(dir) = std::env::var_os(CREATOR) {
        return create(Path::new(&dir));
    }
    let Some(world) = World::new() else { return };
    let id = id("orphan");
    let mut creator = stuck_creator(test, &world, &id);
    let parked = children(creator.id());
    assert_eq!(parked.len(), 1, "the creator has made its process");
    creator.kill().unwrap();
    creator.wait().unwrap();
    until("the parked process ends", || stat(parked[0]).is_none_or(|(state, _)| state == 'Z'));
    let id = id.as_str();
    assert_eq!(world.runtime.gc().unwrap(), [id]);
    assert!(!world.dir.path().join("state").join(id).exists());
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        assert!(!hierarchy.path().join(format!("longshore-{id}")).exists(), "{:?}", hierarchy.path());
    }
    // Nor is the next creator in the way of one that was not collected.
    let mut creator = stuck_creator(test, &world, id);
    assert!(world.runtime.gc().unwrap().is_empty(), "one in the making is left alone");
    creator.kill().unwrap();
    creator.wait().unwrap();
    assert_eq!(world.sh(id, "echo again").1, "again\n");
    also_unprivileged(test);
}

/// Creators, and inits, that are killed at any moment: what they leave is collected, or has its container.
/// `LONGSHORE_KILLS` sets how many (500 for a long run).
#[test]
fn at_any_moment() {
    let test = "at_any_moment";
    if let Some(dir) = std::env::var_os(CREATOR) {
        return create_and_leave(Path::new(&dir));
    }
    let Some(world) = World::new() else { return };
    let kills = std::env::var("LONGSHORE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(16);
    let name = id("storm");
    // A time that no other test sleeps: it tells this run's processes from others.
    let time = format!("77{}", std::process::id());
    let spec = world.spec(&["sleep", &time]);
    fs::write(world.dir.path().join("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let mut random = 88_172_645_463_325_252u64 ^ u64::from(std::process::id());
    for n in 0..kills {
        let creator = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CREATOR, world.dir.path())
            .env("LONGSHORE_TEST_ID", format!("{name}-{n}"))
            .stdout(Stdio::null())
            .spawn();
        let mut creator = creator.unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 40_000));
        if n % 3 == 0
            && let Ok(container) = world.runtime.open(&format!("{name}-{n}"))
        {
            // It may be about to start, or gone.
            let _ = container.kill(libc::SIGKILL, false);
        }
        creator.kill().unwrap();
        creator.wait().unwrap();
        if n % 16 == 15 || n + 1 == kills {
            remove_all(&world, &name, &time);
        }
    }
    assert_eq!(fs::read_dir(world.dir.path().join("state")).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.dir.path().to_str().unwrap()), "{mounts}");
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let groups = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let left: Vec<_> = groups.filter(|g| g.file_name().to_string_lossy().contains(&name)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    also_unprivileged(test);
}

/// All that is left has its container, and goes with it.
fn remove_all(world: &World, name: &str, time: &str) {
    world.runtime.gc().unwrap();
    let known: Vec<String> = world.runtime.list().unwrap().into_iter().map(|s| s.id).collect();
    let orphans = || {
        let owned = known.iter().filter_map(|id| world.runtime.open(id).ok()?.processes().ok());
        let owned: Vec<u32> = owned.flatten().collect();
        processes(name, time).into_iter().filter(|pid| !owned.contains(pid)).collect::<Vec<_>>()
    };
    // One that had no state yet ends by itself.
    until("every process has a container", || orphans().is_empty());
    for id in &known {
        world.runtime.open(id).unwrap().delete(true).unwrap();
    }
    until("no process is left", || processes(name, time).is_empty());
}

/// In the creator: makes it, starts it, leaves it, and waits for its own end.
fn create_and_leave(dir: &Path) {
    let spec: Spec = serde_json::from_slice(&fs::read(dir.join("spec.json")).unwrap()).unwrap();
    let runtime = Runtime::new(dir.join("state")).unwrap();
    let id = std::env::var("LONGSHORE_TEST_ID").unwrap();
    if let Ok(running) = runtime.create(&id, &spec, CreateOptions::default()).and_then(Created::start) {
        running.detach();
    }
    std::thread::sleep(Duration::from_secs(60));
}

/// Processes of this run: the containers', and those on the way to it.
fn processes(name: &str, time: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: u32, file: &str, what: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.windows(what.len()).any(|w| w == what.as_bytes())
    };
    pids.filter(|pid| {
        let lives = stat(*pid).is_some_and(|(state, _)| state != 'Z');
        lives && (has(*pid, "cmdline", &format!("sleep\0{time}")) || has(*pid, "cgroup", name))
    })
    .collect()
}
