//! Builds in real containers.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use common::{World, busybox, skip};
use longshore_build::{BuildOptions, Error, RuntimeExecutor, Secret};
use longshore_runtime::Runtime;

fn world() -> Option<(World, RuntimeExecutor)> {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    let Some(root) = busybox() else {
        skip("needs a static busybox");
        return None;
    };
    let world = World::new();
    world.image("busybox", &root);
    let runtime = Runtime::new(world.dir.path().join("runtime")).unwrap();
    let executor = RuntimeExecutor::new(&runtime, world.dir.path().join("scratch"))
        .resolv_conf("nameserver 192.0.2.1\n");
    Some((world, executor))
}

#[test]
fn commands_run_and_are_cached() {
    let Some((world, executor)) = world() else { return };
    let file = "FROM busybox\nENV A=1\nWORKDIR /w\nRUN echo $A > f && id -u && cat /etc/resolv.conf\nUSER www\nRUN id -u; id -G; env; test -w /tmp\n";
    let (built, log) = world.run(file, &executor);
    let built = built.unwrap();
    assert!(log.output.starts_with("0\nnameserver 192.0.2.1\n33\n34 4\n"), "{}", log.output);
    assert!(log.output.contains("HOME=/var/www\n"), "{}", log.output);
    let files = world.files(&built.image);
    assert_eq!(files["w/f"].text, "1\n");
    assert!(!files.contains_key("etc/resolv.conf"), "a mount point is no file of the image");
    assert_eq!((built.executed, built.cached), (3, 0));
    let (again, log) = world.run(file, &executor);
    let again = again.unwrap();
    assert_eq!((again.executed, again.cached, log.cached.len()), (0, 3, 3));
    assert_eq!(again.image.id(), built.image.id());
}

#[test]
fn a_failure_names_its_step() {
    let Some((world, executor)) = world() else { return };
    let (built, _) = world.run("FROM busybox\nRUN true\n\nRUN sh -c 'exit 3'\n", &executor);
    let error = built.unwrap_err();
    assert_eq!(error.to_string(), "The command '/bin/sh -c sh -c 'exit 3'' returned a non-zero code: 3");
    assert!(matches!(error, Error::Run { step: 3, line: 4, code: 3, .. }));
    let (built, _) = world.run("FROM busybox\nRUN [\"/no/such\"]\n", &executor);
    assert!(matches!(built.unwrap_err(), Error::Execute { line: 2, .. }));
}

#[test]
fn mounts() {
    let Some((world, executor)) = world() else { return };
    world.write("src/a", "A");
    world.write("hidden", "H");
    world.write(".dockerignore", "hidden");
    let file = "FROM busybox AS one\nRUN mkdir /out && echo built > /out/x && ln -s / /out/root\n\
        FROM busybox\n\
        RUN --mount=type=bind,target=/ctx,rw cat /ctx/src/a; ls -A /ctx; echo w > /ctx/src/a\n\
        RUN --mount=from=one,source=/out,target=/o cat /o/x; ! touch /o/y\n\
        RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && ls /t\n\
        RUN --mount=type=secret,id=s,mode=0444 cat /run/secrets/s; ls -l /run/secrets/s\n\
        RUN --mount=type=secret,id=s,env=TOKEN echo in env: $TOKEN\n\
        RUN --mount=type=cache,target=/c,id=../../x echo 1 >> /c/n; cat /c/n\n\
        RUN --mount=type=cache,target=/c,id=../../x,sharing=locked echo 2 >> /c/n; cat /c/n\n\
        RUN <<EOF\n#!/bin/sh\necho script $0\nEOF\n\
        RUN <<A cat && echo done\nheredoc\nA\n";
    let mut options = BuildOptions::default();
    options.secrets.push(Secret::new("s", "hunter2"));
    options.cache_dir = Some(world.dir.path().join("caches"));
    options.jobs = Some(1);
    let (built, log) = world.build_with(file, Some(&executor), &options);
    let built = built.unwrap();
    for wanted in [
        "A.dockerignore\nsrc\n",
        "built\n",
        "x\n",
        "hunter2-r--r--r--",
        "in env: hunter2\n",
        "1\n1\n2\n",
        "script /dev/.longshore-heredoc\n",
        "heredoc\ndone\n",
    ] {
        assert!(log.output.contains(wanted), "{wanted:?} in {}", log.output);
    }
    assert_eq!(std::fs::read_to_string(world.context_path().join("src/a")).unwrap(), "A");
    let files = world.files(&built.image);
    for gone in ["ctx", "o", "t", "c", "run/secrets", "run/secrets/s"] {
        assert!(!files.contains_key(gone), "{gone}");
    }
    let config = String::from_utf8(built.image.config().to_json()).unwrap();
    assert!(!config.contains("hunter2"));
}

#[test]
fn networks() {
    let Some((world, executor)) = world() else { return };
    let host = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let run = |how: &str, executor: &RuntimeExecutor, change: &dyn Fn(&mut BuildOptions)| {
        let mut options = BuildOptions::default();
        options.no_cache = true;
        change(&mut options);
        let file = format!("FROM busybox\n\nRUN {how} readlink /proc/self/ns/net; ip -o link\n");
        let (built, log) = world.build_with(&file, Some(executor), &options);
        built.map(|_| log.output)
    };
    for how in ["--network=none", ""] {
        let output = run(how, &executor, &|_| {}).unwrap();
        assert!(output.contains("lo:") && !output.contains(&host), "{how:?}: {output}");
    }
    // The host's network is for the caller to give, not for the Dockerfile to take.
    let refused = run("--network=host", &executor, &|_| {}).unwrap_err();
    assert!(matches!(refused, Error::NotAllowed { line: 3, entitlement: "network.host" }), "{refused:?}");
    assert_eq!(refused.to_string(), "line 3: network.host is not allowed");
    assert!(run("--network=host", &executor.clone().host_network(), &|_| {}).is_err());
    assert!(run("--network=host", &executor, &|o| o.allow_host_network = true).unwrap().contains(&host));
    assert!(run("--network=host", &executor, &|o| o.network = Some("host".into())).unwrap().contains(&host));
    assert!(run("", &executor, &|o| o.network = Some("host".into())).unwrap().contains(&host));
    assert!(run("", &executor.clone().host_network(), &|_| {}).unwrap().contains(&host));
    assert!(!run("", &executor, &|o| o.allow_host_network = true).unwrap().contains(&host));
}

#[test]
fn cancelled_builds_leave_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some((world, executor)) = world() else { return };
    let cancel = AtomicBool::new(false);
    let resolver = longshore_build::StoreResolver(&world.store);
    let builder = longshore_build::Builder::new(&world.store, &resolver).executor(&executor);
    let result = builder.build(
        "FROM busybox\nRUN echo begun; sleep 100\n",
        &longshore_build::Context::empty(),
        &BuildOptions::default(),
        &mut |event| {
            if matches!(event, longshore_build::BuildEvent::Output { .. }) {
                cancel.store(true, Ordering::Relaxed);
            }
        },
        longshore_image::Ctx { progress: &|_| {}, cancel: &cancel },
    );
    assert!(matches!(result.unwrap_err(), Error::Cancelled));
    assert_eq!(world.store.snapshots().unwrap().len(), 0);
    assert_eq!(std::fs::read_dir(world.dir.path().join("scratch")).unwrap().count(), 0);
}

#[test]
fn the_next_build_ends_what_a_killed_one_left() {
    const INNER: &str = "LONGSHORE_KILLED";
    let Some((world, executor)) = world() else { return };
    let of = |dir: &std::path::Path| {
        let runtime = Runtime::new(dir.join("runtime")).unwrap();
        (RuntimeExecutor::new(&runtime, dir.join("scratch")), runtime)
    };
    if let Some(dir) = std::env::var_os(INNER) {
        let (executor, _) = of(dir.as_ref());
        let _ = world.run("FROM busybox\nRUN sleep 777\n", &executor);
        return;
    }
    let mut killed = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_next_build_ends_what_a_killed_one_left"])
        .env(INNER, world.dir.path())
        .env("TMPDIR", world.dir.path())
        .spawn()
        .unwrap();
    let (_, runtime) = of(world.dir.path());
    let running = || runtime.list().unwrap().into_iter().find(|s| s.status.as_str() == "running");
    let state = loop {
        assert!(killed.try_wait().unwrap().is_none(), "it builds");
        match running() {
            Some(state) => break state,
            None => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    // A living build's command is nobody's to end.
    executor.sweep().unwrap();
    assert!(running().is_some());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(running().is_some(), "{state:?}");
    // Steps side by side: none sweeps another's files away.
    let mut file = String::new();
    let mut last = "FROM busybox\nRUN true\n".to_owned();
    for i in 0..6 {
        file.push_str(&format!("FROM busybox AS s{i}\nRUN echo {i} > /f; true; echo\nRUN echo {i} > /g\n"));
        last.push_str(&format!("COPY --from=s{i} /f /g /{i}/\n"));
    }
    let mut options = BuildOptions::default();
    options.jobs = Some(6);
    world.build_with(&(file + &last), Some(&executor), &options).0.unwrap();
    assert!(runtime.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(world.dir.path().join("scratch")).unwrap().count(), 0);
}

#[test]
fn mount_points_that_are_moved_away_hurt_nobody() {
    // CVE-2024-23652: a builder that tidies up its mount points by path deletes where a link leads to.
    let Some((world, executor)) = world() else { return };
    let outside = world.dir.path().join("outside");
    std::fs::create_dir_all(outside.join("empty")).unwrap();
    let file = format!(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/foo/empty true\nRUN --mount=type=secret,id=none true\n\
         RUN mkdir /foo && ln -s {0} /bar\nRUN --mount=type=tmpfs,target=/bar/empty touch /bar/empty/f && ls {0}/empty\n",
        outside.display()
    );
    let (built, log) = world.run(&file, &executor);
    let built = built.unwrap();
    assert!(outside.join("empty").exists() && !outside.join("empty/f").exists());
    assert!(log.output.contains("f\n"), "the link leads inside the root: {}", log.output);
    let files = world.files(&built.image);
    assert!(files.contains_key("foo") && !files.contains_key("foo/empty"));
    let inside = outside.to_str().unwrap().trim_start_matches('/').to_owned();
    assert!(files.keys().all(|p| !p.starts_with(&inside)), "{:?}", files.keys());
}

#[test]
fn bind_mounts_of_hostile_stages_stay_inside() {
    // CVE-2024-1753: a stage with a link to the root, mounted writable.
    let Some((world, executor)) = world() else { return };
    std::fs::write(world.dir.path().join("canary"), "host").unwrap();
    let dir = world.dir.path().display().to_string();
    let file = format!(
        "FROM busybox AS bad\nRUN mkdir /d && ln -s / /d/root && ln -s ../../../../../../.. /d/up\n\
         FROM busybox\nRUN --mount=type=bind,from=bad,source=/d/root,target=/m,rw ls /m/bin/busybox && ! test -e /m{dir}/canary && touch /m/written\n\
         RUN --mount=type=bind,from=bad,source=/d/up,target=/m,rw ! test -e /m{dir}/canary\n"
    );
    let (built, log) = world.run(&file, &executor);
    built.unwrap_or_else(|e| panic!("{e}: {}", log.output));
    assert!(!std::path::Path::new("/written").exists());
}

#[test]
fn the_hosts_environment_and_capabilities_stay_outside() {
    let Some((world, executor)) = world() else { return };
    let (built, log) = world.run("FROM busybox\nRUN cat /proc/1/environ /proc/self/status; env\n", &executor);
    built.unwrap();
    assert!(log.output.contains("CapInh:\t0000000000000000"), "{}", log.output);
    assert!(!log.output.contains("CARGO_"), "{}", log.output);
}

#[test]
fn an_ordinary_user_builds_too() {
    if !rustix::process::geteuid().is_root() {
        return skip("needs root to become somebody else");
    }
    let Some(root) = busybox() else { return skip("needs a static busybox") };
    if std::env::var_os("LONGSHORE_AS_USER").is_none() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(home.path(), Some(1000), Some(1000)).unwrap();
        // The user must be able to reach the test program.
        let program = home.path().join("test");
        // Copied by another process: a child that another thread starts meanwhile would have it open for writing.
        let mut copy = std::process::Command::new("install");
        let copied = copy.args(["-m", "755"]).arg(std::env::current_exe().unwrap()).arg(&program).status();
        assert!(copied.unwrap().success());
        let status = std::process::Command::new("setpriv")
            .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "as_an_ordinary_user", "--nocapture"])
            .env("LONGSHORE_AS_USER", "1")
            .env("TMPDIR", home.path())
            .status()
            .unwrap();
        assert!(status.success());
    }
    drop(root);
}

#[test]
fn as_an_ordinary_user() {
    if std::env::var_os("LONGSHORE_AS_USER").is_none() {
        return;
    }
    let world = World::directories();
    world.image("busybox", &busybox().unwrap());
    world.write("f", "x");
    let runtime = Runtime::new(world.dir.path().join("runtime")).unwrap();
    let executor =
        RuntimeExecutor::new(&runtime, world.dir.path().join("scratch")).rootless(1000, 1000).resolv_conf("");
    let file = "FROM busybox\nCOPY f /d/f\nRUN id -u && cat /d/f && rm /d/f && touch /new\nRUN --mount=type=secret,id=s cat /run/secrets/s\nWORKDIR /w\n";
    let mut options = BuildOptions::default();
    options.secrets.push(Secret::new("s", "hunter2"));
    let (built, log) = world.build_with(file, Some(&executor), &options);
    let built = built.unwrap_or_else(|e| panic!("{e} {:?}: {}", std::error::Error::source(&e), log.output));
    assert_eq!(log.output, "0\nxhunter2");
    let files = world.files(&built.image);
    assert!(files.contains_key("new") && files.contains_key("w") && !files.contains_key("d/f"));
    assert_eq!(world.build_with(file, Some(&executor), &options).0.unwrap().cached, 4);
}
