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
    let (built, log) =
        world.run("FROM busybox\nRUN --network=none ip -o link\nRUN --network=host hostname\n", &executor);
    built.unwrap();
    assert!(log.output.contains("lo:"), "{}", log.output);
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
