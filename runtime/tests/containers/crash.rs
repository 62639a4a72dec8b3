//! Killed at random: creators, shims, inits. Afterwards records and reality agree.

use std::collections::BTreeSet;

use longshore_runtime::containers::{RemoveOptions, StartOptions, StopOptions};

use crate::harness::Test;
use crate::world::{World, until};

pub(crate) const TESTS: [Test; 2] =
    [("crash::a_killed_shim_leaves_no_lie", a_killed_shim_leaves_no_lie), ("crash::storm", storm)];

/// Process IDs of the shims below a directory.
pub(crate) fn shims(world: &World) -> Vec<(i32, String)> {
    let context = world.dir.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|e| {
            let pid = e.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read_to_string(e.path().join("cmdline")).ok()?;
            let args: Vec<&str> = line.split('\0').collect();
            (args.get(1)?.starts_with("--longshore-shim") && args.get(3) == Some(&context.as_str()))
                .then(|| (pid, args[2].to_owned()))
        })
        .collect()
}

pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

fn a_killed_shim_leaves_no_lie() {
    let Some(world) = World::new() else { return };
    world.run("orphan", &["sh", "-c", "while true; do echo tick; sleep 0.01; done"], |_| {});
    let init = world.all.inspect("orphan").unwrap().state.pid;
    until("it writes", || !world.log("orphan").is_empty());
    let (shim, id) = shims(&world).pop().unwrap();
    kill(shim);
    until("the record is mended", || world.status("orphan") == "exited");
    let state = world.all.inspect("orphan").unwrap().state;
    assert_eq!((state.exit_code, state.pid), (137, 0));
    until("its processes are gone", || !alive(init));
    assert!(!world.dir.join("runtime").join(&id).exists());
    world.log("orphan").lines().for_each(|l| assert_eq!(l, "tick"));
    world.all.start("orphan", &StartOptions::default()).unwrap();
    assert_eq!(world.status("orphan"), "running");
    world.all.stop("orphan", &StopOptions::timeout(0)).unwrap();
}

fn storm() {
    let Some(world) = World::new() else { return };
    let number =
        |name: &str, usual: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let (kills, count) = (number("LONGSHORE_KILLS", 60), number("LONGSHORE_STORM", 8));
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(world.create(
            &format!("c{n}"),
            &["sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); done"],
            |r| {
                r.host.log_config.options =
                    [("max-size".to_string(), "64k".to_string()), ("max-file".into(), "3".into())].into();
            },
        ));
    }
    // These end by themselves: with 7, or by a kill with 137.
    for n in 0..3 {
        ids.push(world.create(&format!("short{n}"), &["sh", "-c", "echo 0; exit 7"], |_| {}));
    }
    // The start of each life whose end was seen, and its exit code.
    let mut ends = std::collections::BTreeMap::new();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut killed = 0;
    while killed < kills {
        let name = format!("c{}", random(count));
        let short = format!("short{}", random(3));
        let state = world.all.inspect(&short).unwrap().state;
        if state.running {
            // Its turn comes.
        } else if state.status == "exited" && !ends.contains_key(&state.started_at) {
            assert!([7, 137].contains(&state.exit_code), "{state:?}");
            ends.insert(state.started_at, state.exit_code);
        } else {
            if let Some(code) = ends.get(&state.started_at) {
                assert_eq!(state.exit_code, *code, "an exit code that was written has changed");
            }
            let _ = world.all.start(&short, &StartOptions::default());
        }
        let what = random(4);
        killed += u64::from(what < 3);
        match what {
            0 => {
                let mut victims = shims(&world);
                if !victims.is_empty() {
                    kill(victims.swap_remove(random(victims.len() as u64) as usize).0);
                }
            }
            1 => kill(world.all.inspect(&name).unwrap().state.pid as i32),
            // The creator: a process of its own that is killed while it starts a container.
            2 => {
                let mut creator = std::process::Command::new(std::env::current_exe().unwrap());
                let mut creator = creator.arg("--start").arg(&world.dir).arg(&name).spawn().unwrap();
                std::thread::sleep(std::time::Duration::from_micros(random(20_000)));
                let _ = creator.kill();
                creator.wait().unwrap();
            }
            _ => {
                let _ = world.all.start(&name, &StartOptions::default());
            }
        }
    }
    agree(&world, count);
    let codes: BTreeSet<i32> = ends.values().copied().collect();
    eprintln!("{kills} kills, {count} containers; {} ends seen, with {codes:?}", ends.len());
    let names = (0..count).map(|n| format!("c{n}")).chain((0..3).map(|n| format!("short{n}")));
    for name in names {
        world.all.remove(&name, &RemoveOptions::new(true, false)).unwrap();
    }
    until("no shim is left", || shims(&world).is_empty());
    // A cgroup is named after its container, in whatever hierarchy.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for id in &ids {
            assert!(!hierarchy.path().join("longshore").join(id).exists(), "cgroup of {id}");
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*world.dir.to_string_lossy()), "{mounts}");
    let left: Vec<_> =
        std::fs::read_dir(world.dir.join("runtime")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(std::fs::read_dir(world.dir.join("roots")).unwrap().count(), 0);
}

/// Every record that says running has its process and its shim, and no other has; no log has a torn line.
fn agree(world: &World, count: u64) {
    // A start under way when its creator was killed comes to its end, one way or the other.
    until("nothing is half-way", || {
        let running: BTreeSet<String> = (0..count)
            .map(|n| world.all.inspect(&format!("c{n}")).unwrap())
            .filter(|i| i.state.running)
            .map(|i| i.id)
            .collect();
        let shimmed: BTreeSet<String> = shims(world).into_iter().map(|(_, id)| id).collect();
        running == shimmed
    });
    for n in 0..count {
        let mut inspect = world.all.inspect(&format!("c{n}")).unwrap();
        // The last kill may have hit its init just now: then its shim says so soon.
        until("what runs is alive", || {
            inspect = world.all.inspect(&inspect.id).unwrap();
            !inspect.state.running || alive(inspect.state.pid)
        });
        if inspect.state.running {
            world.all.stop(&inspect.id, &StopOptions::timeout(0)).unwrap();
        } else {
            assert_eq!(inspect.state.pid, 0);
        }
        for suffix in ["", ".1", ".2"] {
            let Ok(log) = std::fs::read_to_string(format!("{}{suffix}", inspect.log_path)) else { continue };
            assert!(log.is_empty() || log.ends_with('\n'));
            for line in log.lines() {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = entry["log"].as_str().and_then(|text| text.strip_suffix('\n'));
                assert!(text.is_some_and(|number| number.parse::<u64>().is_ok()), "{line}");
            }
        }
    }
}

/// The creator that [`storm`] kills.
pub(crate) fn start(dir: &std::path::Path, name: &str) {
    if let Ok(all) = crate::world::open(dir) {
        let _ = all.start(name, &StartOptions::default());
    }
}
