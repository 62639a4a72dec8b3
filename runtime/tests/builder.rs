//! The short way to a container, and what the kernel says it can do.

mod common;

use std::time::Duration;

use common::{World, also_unprivileged, id, is_root, read};
use longshore_runtime::{Capabilities, Container, CreateOptions, Error, Seccomp, Stdio};

#[test]
fn from_words_to_an_exit() {
    let Some(world) = World::new() else { return };
    let file = world.dir.path().join("file");
    std::fs::write(&file, "bound\n").unwrap();
    let mut running = Container::builder(world.rootfs())
        .args([
            "sh",
            "-c",
            "pwd; hostname; echo $WORD; cat /file; touch /x; touch /tmp/x && echo t; id -u; exit 3",
        ])
        .current_dir("/tmp")
        .hostname("box")
        .env("WORD", "old")
        .env("WORD", "new")
        .bind(&file, "/file", &["ro"])
        .tmpfs("/tmp")
        .read_only()
        .stdout(Stdio::Piped)
        .stderr(Stdio::Piped)
        .spawn(&world.runtime)
        .unwrap_or_else(|error| panic!("{error:?}"));
    let (out, err) = (read(running.take_stdout()), read(running.take_stderr()));
    let exit = running.wait_to_end().unwrap();
    assert_eq!((exit.code, out.as_str()), (3, "/tmp\nbox\nnew\nbound\nt\n0\n"), "{err}");
    assert!(err.contains("ead-only file system") && exit.wall > Duration::ZERO && exit.max_rss > 0, "{err}");
    drop(running);
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("from_words_to_an_exit");
}

#[test]
fn a_handle_does_everything() {
    let Some(world) = World::new() else { return };
    fn is_send<T: Send + Sync>(_: &T) {}
    let builder = || Container::builder(world.rootfs()).args(["sleep", "100"]).seccomp(Seccomp::Unconfined);
    let mut running = builder().memory(64 << 20).pids(20).cpus(0.5).spawn(&world.runtime).unwrap();
    is_send(&running);
    assert!(running.wait_timeout(Duration::from_millis(10)).unwrap().is_none());
    assert_eq!(running.exec(["sh", "-c", "exit 5"]).unwrap().wait(None).unwrap().unwrap().code, 5);
    if is_root() {
        let stats = running.stats().unwrap();
        assert_eq!((stats.memory_limit, stats.pids_limit), (Some(64 << 20), Some(20)));
        running.pause().unwrap();
        running.resume().unwrap();
        let resources =
            builder().pids(30).to_spec().unwrap().linux().clone().unwrap().resources().clone().unwrap();
        running.update(&resources).unwrap();
        assert_eq!(running.stats().unwrap().pids_limit, Some(30));
    }
    running.kill(libc::SIGKILL).unwrap();
    let exit = running.wait_to_end().unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    for bad in [
        builder().cpus(f64::NAN),
        builder().cpus(0.0),
        builder().memory(u64::MAX),
        builder().current_dir("x"),
    ] {
        assert!(matches!(bad.spawn(&world.runtime).unwrap_err(), Error::Spec { .. }));
    }
    also_unprivileged("a_handle_does_everything");
}

#[test]
fn out_of_memory_is_told() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let mut running = Container::builder(world.rootfs())
        .args(["sh", "-c", "x=xxxxxxxx; while :; do x=$x$x; done"])
        .memory(16 << 20)
        .stderr(Stdio::Null)
        .spawn(&world.runtime)
        .unwrap();
    let exit = running.wait_to_end().unwrap();
    assert!(exit.oom_killed, "{exit:?}");
}

/// Whose memory runs out is told, whatever has run before in the groups that its spec names; and it is told while it happens.
#[test]
fn out_of_memory_is_told_of_the_right_container() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let group = id("oom");
    let start = |script: &str| {
        let builder = Container::builder(world.rootfs()).args(["sh", "-c", script]).memory(16 << 20);
        let mut spec = builder.to_spec().unwrap();
        // A group below one that stays, so that the second container meets the first one's.
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(format!("/{group}").into()));
        world.runtime.create(&id("oom"), &spec, CreateOptions::default()).unwrap()
    };
    // A child is killed; who had it lives on.
    let hungry = "sh -c 'x=xxxxxxxx; while :; do x=$x$x; done'; exec sleep 1000";
    let created = start(hungry);
    let mut events = created.container().oom_events().unwrap();
    assert!(!events.wait(Some(Duration::ZERO)).unwrap(), "it has not started");
    let mut first = created.start().unwrap();
    assert!(events.wait(Some(Duration::from_secs(60))).unwrap());
    while first.stats().unwrap().oom_kills == Some(0) {
        assert!(first.wait_timeout(Duration::from_millis(10)).unwrap().is_none());
    }
    let mut second = start("exit 3").start().unwrap();
    let exit = second.wait_to_end().unwrap();
    assert_eq!((exit.code, exit.oom_killed), (3, false), "{exit:?}");
    first.kill(libc::SIGKILL).unwrap();
    assert!(first.wait_to_end().unwrap().oom_killed);
    drop((first, second));
    // The end of the group ends the waiting.
    while events.wait(Some(Duration::from_secs(60))).unwrap() {}
    assert!(world.runtime.list().unwrap().is_empty());
}

#[test]
fn probing_says_what_then_works() {
    let Some(world) = World::new() else { return };
    let found = Capabilities::probe().unwrap();
    assert!(found.containers.is_yes() && found.user_namespaces.is_yes(), "{found:?}");
    assert!(found.seccomp.is_yes() && found.seccomp_notify.is_yes(), "{found:?}");
    assert_eq!(found.cgroups.is_yes(), is_root(), "{found:?}");
    assert_eq!(found.grantable.is_empty(), !is_root(), "{found:?}");
    assert_eq!(world.sh(&common::id("probe"), "true").0, 0);
    also_unprivileged("probing_says_what_then_works");
}
