//! What the shim does by itself: restarts, health, limits, volumes, removal; and all of it again as an ordinary user.

use std::os::unix::process::CommandExt;
use std::process::Command;

use longshore_runtime::containers::{
    Filters, HealthConfig, Mount, RemoveOptions, StartOptions, StopOptions, Update, WaitFor,
};

use crate::crash::shims;
use crate::harness::Test;
use crate::world::{World, skip, until};

pub(crate) const TESTS: [Test; 12] = [
    ("supervision::limits_change_while_it_runs", limits_change_while_it_runs),
    ("supervision::many_at_once", many_at_once),
    ("supervision::three_tries_are_three", three_tries_are_three),
    ("supervision::always_until_stopped", always_until_stopped),
    ("supervision::health_comes_and_goes", health_comes_and_goes),
    ("supervision::volumes_outlive_containers", volumes_outlive_containers),
    ("supervision::ends_though_others_write_on", ends_though_others_write_on),
    ("supervision::patience_without_end", patience_without_end),
    ("supervision::signals_between_two_lives", signals_between_two_lives),
    ("supervision::removes_itself", removes_itself),
    ("supervision::pause_and_kill", pause_and_kill),
    ("supervision::the_same_as_an_ordinary_user", the_same_as_an_ordinary_user),
];

fn three_tries_are_three() {
    let Some(world) = World::new() else { return };
    world.run("retry", &["sh", "-c", "echo try; exit 3"], |r| {
        r.host.restart_policy = "on-failure:3".parse().unwrap();
    });
    until("it gave up", || world.status("retry") == "exited");
    assert_eq!(world.log("retry"), "try\n".repeat(4));
    let inspect = world.all.inspect("retry").unwrap();
    assert_eq!((inspect.restart_count, inspect.state.exit_code), (3, 3));
}

fn always_until_stopped() {
    let Some(world) = World::new() else { return };
    world.run("always", &["sh", "-c", "echo up; sleep 0.05"], |r| {
        r.host.restart_policy = "always".parse().unwrap();
    });
    until("it came back", || world.log("always").lines().count() >= 3);
    world.all.stop("always", &StopOptions::timeout(1)).unwrap();
    assert_eq!(world.status("always"), "exited");
    let lines = world.log("always").lines().count();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(world.log("always").lines().count(), lines);
    assert_eq!(world.all.restore().unwrap().len(), 1);
    world.all.remove("always", &RemoveOptions::new(true, false)).unwrap();
}

/// Without a PID namespace of its own, what it has started outlives its first process. An ordinary user's containers have one.
fn ends_though_others_write_on() {
    let Some(world) = World::new().filter(|_| rustix::process::geteuid().is_root()) else { return };
    let id = world.run("left", &["sh", "-c", "yes & sleep 1; exit 3"], |r| {
        r.host.pid_mode = "host".into();
        // The log is what takes longer to write than the lines.
        r.host.log_config.options = [("max-size".to_owned(), "1m".to_owned())].into();
    });
    until("it has ended", || world.status("left") == "exited");
    assert_eq!(world.all.inspect("left").unwrap().state.exit_code, 3);
    let left = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|p| std::fs::read_link(p.path().join("root")).is_ok_and(|root| root.ends_with(&id)))
            .count()
    };
    until("nothing of it runs", || left() == 0);
}

fn signals_between_two_lives() {
    let Some(world) = World::new() else { return };
    world.run("again", &["false"], |r| r.host.restart_policy = "unless-stopped".parse().unwrap());
    let count = || world.all.inspect("again").unwrap().restart_count;
    // By now it rests for longer than it takes to say something to it.
    let rests = || world.status("again") == "restarting";
    until("it rests", || count() >= 4 && rests());
    let before = count();
    let _ = world.all.kill("again", "USR1");
    until("no signal that ends nothing has ended it", || count() > before && rests());
    world.all.kill("again", "TERM").unwrap();
    until("it is over", || world.status("again") == "exited");
    assert_eq!(world.all.restore().unwrap(), [] as [String; 0]);
}

fn patience_without_end() {
    let Some(world) = World::new() else { return };
    let program = "trap 'sleep 0.5; exit 3' TERM; echo ready; while true; do sleep 0.1; done";
    world.run("slow", &["sh", "-c", program], |_| {});
    until("it is ready", || world.log("slow") == "ready\n");
    world.all.stop("slow", &StopOptions::timeout(i64::MAX)).unwrap();
    assert_eq!(world.all.inspect("slow").unwrap().state.exit_code, 3);
}

fn health_comes_and_goes() {
    let Some(world) = World::new() else { return };
    let ms = 1_000_000;
    let check = HealthConfig {
        test: vec!["CMD-SHELL".into(), "echo checked; test -e /tmp/well".into()],
        interval: 50 * ms,
        start_period: 100 * ms,
        start_interval: 20 * ms,
        retries: 2,
        timeout: 5000 * ms,
    };
    world.run("sick", &["sleep", "100"], |r| r.health = Some(check));
    let health = || world.all.inspect("sick").unwrap().state.health.unwrap();
    assert!(health().failing_streak < 2 && health().status != "healthy");
    until("it is unhealthy", || health().status == "unhealthy");
    assert_eq!(health().log.last().unwrap().output, "checked\n");
    let id = world.all.inspect("sick").unwrap().id;
    std::fs::write(world.dir.join("roots").join(id).join("tmp/well"), "").unwrap();
    until("it is healthy", || health().status == "healthy");
    assert!(health().log.len() <= 5);
    assert_eq!(world.all.list(false, &Filters::new().with("health", "healthy"), false).unwrap().len(), 1);
}

fn volumes_outlive_containers() {
    let Some(world) = World::new() else { return };
    let (code, log) =
        world.run_to_end("first", "cat /data/from-image; echo new > /data/x; echo b > /bound/y", |r| {
            let bound = world.dir.join("bound");
            r.host.binds = vec!["shared:/data".into(), format!("{}:/bound", bound.display())];
            r.host.tmpfs.insert("/scratch".into(), "size=1m".into());
        });
    assert_eq!((code, log.as_str()), (0, "content\n"));
    assert_eq!(std::fs::read_to_string(world.dir.join("bound/y")).unwrap(), "b\n");
    let (code, log) = world.run_to_end("second", "cat /v/x; echo no > /v/z || echo refused", |r| {
        r.host.mounts = vec!["type=volume,src=shared,dst=/v,ro".parse::<Mount>().unwrap()];
        r.host.readonly_rootfs = true;
    });
    assert_eq!(code, 0);
    assert!(log.starts_with("new\n") && log.contains("refused"), "{log}");
    assert!(world.all.volumes().remove("shared", false).unwrap_err().is_conflict());
    for name in ["first", "second"] {
        world.all.remove(name, &RemoveOptions::new(false, true)).unwrap();
    }
    assert_eq!(std::fs::read_to_string(world.dir.join("volumes/shared/_data/x")).unwrap(), "new\n");
    assert_eq!(world.all.volumes().prune(true, &Filters::new()).unwrap().removed, ["shared"]);
}

fn removes_itself() {
    let Some(world) = World::new() else { return };
    let id = world.create("gone", &["sh", "-c", "exit 2"], |r| {
        r.host.auto_remove = true;
        r.config.volumes.insert("/anon".into(), Default::default());
    });
    let stream = world.all.start("gone", &StartOptions::attach(Default::default())).unwrap().unwrap();
    drop(stream);
    match world.all.wait(&id, WaitFor::Removed) {
        // It was faster; then nobody has waited for the rest of it.
        Err(e) if e.is_not_found() => until("its shim is gone", || shims(&world).is_empty()),
        ended => drop(ended.unwrap()),
    }
    assert!(world.all.list(true, &Filters::new(), false).unwrap().is_empty());
    assert!(world.all.volumes().list(&Filters::new()).unwrap().is_empty());
    assert_eq!(std::fs::read_dir(world.dir.join("roots")).unwrap().count(), 0);
}

fn pause_and_kill() {
    let Some(world) = World::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    world.run("ice", &["sh", "-c", "while true; do sleep 0.01; done"], |_| {});
    world.all.pause("ice").unwrap();
    assert_eq!(world.status("ice"), "paused");
    assert!(world.all.pause("ice").unwrap_err().is_conflict());
    world.all.unpause("ice").unwrap();
    world.all.pause("ice").unwrap();
    world.all.stop("ice", &StopOptions::timeout(1)).unwrap();
    assert_eq!(world.all.inspect("ice").unwrap().state.exit_code, 137);
}

fn limits_change_while_it_runs() {
    let Some(world) = World::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    world.run("box", &["sleep", "100"], |r| r.host.memory = 64 << 20);
    assert_eq!(world.all.stats("box").unwrap().memory_limit, 64 << 20);
    let mut update = Update::default();
    (update.memory, update.memory_swap) = (Some(32 << 20), Some(64 << 20));
    update.restart_policy = Some("always".parse().unwrap());
    world.all.update("box", &update).unwrap();
    let stats = world.all.stats("box").unwrap();
    assert_eq!((stats.memory_limit, stats.pids), (32 << 20, 1));
    assert_eq!(world.all.processes("box").unwrap()[0].arguments, ["sleep", "100"]);
    // Not by hand, which would end it for good.
    let pid = rustix::process::Pid::from_raw(world.all.inspect("box").unwrap().state.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("the new policy starts it again", || world.all.inspect("box").unwrap().restart_count == 1);
    until("it runs again", || world.status("box") == "running");
    assert_eq!(world.all.stats("box").unwrap().memory_limit, 32 << 20);
    // A limit that is really one.
    let (code, _) = world.run_to_end("greedy", "tail /dev/zero", |r| {
        (r.host.memory, r.host.memory_swap) = (16 << 20, 16 << 20);
    });
    assert_eq!((code, world.all.inspect("greedy").unwrap().state.oom_killed), (137, true));
}

/// Proportional set size in KiB of a process.
fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

fn many_at_once() {
    let Some(world) = World::new() else { return };
    let count: usize = std::env::var("LONGSHORE_MANY").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let ids: Vec<String> =
        (0..count).map(|n| world.run(&format!("many{n}"), &["sleep", "1000"], |_| {})).collect();
    let began = std::time::Instant::now();
    assert_eq!(world.all.list(false, &Filters::new(), false).unwrap().len(), count);
    let listed = began.elapsed();
    let inits: Vec<u32> = ids.iter().map(|id| world.all.inspect(id).unwrap().state.pid).collect();
    let parents = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok()).unwrap_or(0)
    };
    let (shims, all): (u64, u64) = inits
        .iter()
        .map(|pid| (pss(parents(pid)), pss(*pid)))
        .fold((0, 0), |s, p| (s.0 + p.0, s.1 + p.0 + p.1));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| world.all.stop(id, &StopOptions::timeout(0)).unwrap());
        }
    });
    eprintln!(
        "{count} containers: shim {} KiB, with init {} KiB each; list {listed:?}; stop of all {:?}",
        shims / count as u64,
        all / count as u64,
        began.elapsed()
    );
    assert!(world.all.list(false, &Filters::new(), false).unwrap().is_empty());
    assert_eq!(world.all.prune(&Filters::new()).unwrap().removed.len(), count);
}

fn the_same_as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(1000), Some(1000)).unwrap();
    // The program itself may lie where that user cannot go.
    let program = home.path().join("containers");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    command.env("TMPDIR", home.path()).current_dir(home.path()).uid(1000).gid(1000);
    // Another test's child may hold the copy open for writing, as it was when that was forked, until it executes its program.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let output = loop {
        match command.output() {
            Err(e)
                if e.kind() == std::io::ErrorKind::ExecutableFileBusy && std::time::Instant::now() < end =>
            {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            output => break output,
        }
    };
    let Ok(output) = output else {
        let _: Option<()> = skip("cannot become user 1000");
        return;
    };
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
