//! Nothing escapes: neither the context, nor an image's root, nor the cache's directory. After the list of past attacks on builders.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use common::{Script, Tar, World};
use longshore_build::Error;
use std::os::unix::fs::symlink;

/// A file next to the context that no build may read or write.
const SECRET: &str = "outside";

fn world() -> World {
    let world = World::directories();
    world.base();
    std::fs::write(world.dir.path().join("outside"), SECRET).unwrap();
    world
}

fn holds_secret(world: &World, file: &str) -> bool {
    match world.build(file) {
        Ok(built) => world.files(&built.image).values().any(|f| f.kind == '-' && f.text.contains(SECRET)),
        Err(_) => false,
    }
}

#[test]
fn links_out_of_the_context_read_nothing() {
    let world = world();
    let context = world.context_path();
    symlink(world.dir.path().join("outside"), context.join("absolute")).unwrap();
    symlink("../outside", context.join("relative")).unwrap();
    symlink(world.dir.path(), context.join("dir")).unwrap();
    symlink("..", context.join("parent")).unwrap();
    world.write("sub/f", "x");
    symlink("../../outside", context.join("sub/link")).unwrap();
    for source in [
        "absolute",
        "relative",
        "dir/outside",
        "parent/outside",
        "dir",
        "parent",
        "../outside",
        "sub/../../outside",
        "*",
        "dir/*",
        "parent/*",
        "sub",
    ] {
        for copy in ["COPY", "ADD", "COPY --parents"] {
            assert!(!holds_secret(&world, &format!("FROM base\n{copy} {source} /x/\n")), "{copy} {source}");
        }
    }
    assert!(longshore_build::Context::dir(&context).unwrap().read_dockerfile("absolute").is_err());
}

#[test]
fn ignore_rules_take_in_nothing_from_outside() {
    let world = world();
    symlink("..", world.context_path().join("parent")).unwrap();
    world.write("f", "x");
    world.write(".dockerignore", "*\n!../outside\n!parent/outside\n!/../../outside\n");
    assert!(!holds_secret(&world, "FROM base\nCOPY . /x/\n"));
}

#[test]
fn what_is_ignored_is_hidden_under_every_name() {
    let world = world();
    let context = world.context_path();
    world.write("secrets/key", SECRET);
    world.write("top.key", SECRET);
    world.write("d/in/f", "x");
    world.write("d/one", SECRET);
    world.write(".dockerignore", "secrets\n*.key\nd/one\n!secrets/nothing/here\n");
    for (target, link) in [
        ("secrets", "pub"),
        ("pub", "twice"),
        ("top.key", "file"),
        (".", "top"),
        ("..", "d/up"),
        ("/secrets", "abs"),
    ] {
        symlink(target, context.join(link)).unwrap();
    }
    for source in [
        "pub",
        "twice",
        "pub/key",
        "pub/*",
        "file",
        "abs",
        "top",
        "top/secrets",
        "top/*",
        "top/d/*",
        "d/*",
        "d/up",
        "d/up/secrets",
        "d/up/d/*",
        "*",
        "p*/key",
    ] {
        for copy in ["COPY", "ADD", "COPY --parents"] {
            assert!(!holds_secret(&world, &format!("FROM base\n{copy} {source} /x/\n")), "{copy} {source}");
        }
    }
    assert!(matches!(
        world.build("FROM base\nCOPY pub/key /x\n").unwrap_err(),
        Error::NotFound { line: 2, .. }
    ));
    // What is not ignored is there through a link.
    let built = world.build("FROM base\nCOPY top/d/in /x\n").unwrap();
    assert!(world.last_layer(&built.image).contains_key("x/f"));
}

#[test]
fn destinations_stay_in_the_root() {
    let world = world();
    world.write("f", "x");
    for (dest, wanted) in [
        ("/up/f", "escape/f"),
        ("/../../f", "f"),
        ("up/../../../f", "f"),
        ("/abs/../../../f", "f"),
        ("/dangling", "created/here"),
        ("/lib/f", "usr/lib/f"),
    ] {
        let built = world.build(&format!("FROM base\nCOPY f {dest}\n")).unwrap();
        let layer = world.last_layer(&built.image);
        assert!(layer.contains_key(wanted), "{dest}: {:?}", layer.keys());
        assert!(layer.keys().all(|p| !p.contains("..") && !p.starts_with('/')));
    }
    for file in ["WORKDIR /up/../../w", "WORKDIR ../../../w"] {
        let built = world.build(&format!("FROM base\n{file}\n")).unwrap();
        assert!(world.last_layer(&built.image).contains_key("w"), "{file}");
    }
    let built = world.build("FROM base\nCOPY <<../../evil /d/\nx\n../../evil\n").unwrap();
    assert!(world.last_layer(&built.image).contains_key("d/evil"));
}

#[test]
fn hostile_archives() {
    use tar::EntryType::{Link, Regular, Symlink};
    let world = world();
    let outside = world.dir.path().join("outside");
    let outside = outside.to_str().unwrap();
    for (name, tar) in [
        ("hard link out", Tar::new().raw("l", Link, "../../etc/passwd", b"").end()),
        ("hard link to host", Tar::new().raw("l", Link, outside, b"").end()),
        ("whiteout", Tar::new().raw(".wh.etc", Regular, "", b"").end()),
    ] {
        world.write("a.tar", tar);
        assert!(world.build("FROM base\nADD a.tar /\n").is_err(), "{name}");
    }
    // A link among the members leads nowhere but into the root.
    let tar = Tar::new()
        .raw("l", Symlink, "/../../../t", b"")
        .raw("l/f", Regular, "", b"x")
        .raw("/abs2", Regular, "", b"y")
        .raw("../dots", Regular, "", b"x")
        .raw("a/../../../deep", Regular, "", b"x")
        .end();
    world.write("a.tar", tar);
    let built = world.build("FROM base\nADD a.tar /\n").unwrap();
    let layer = world.last_layer(&built.image);
    for inside in ["t/f", "abs2", "dots", "deep"] {
        assert!(layer.contains_key(inside), "{inside}: {:?}", layer.keys());
    }
    assert!(layer.keys().all(|p| !p.contains("..") && !p.starts_with('/')));
    world.write(".wh.passwd", "");
    assert!(world.build("FROM base\nCOPY .wh.passwd /etc/\n").is_err());
}

#[test]
fn bombs_are_refused() {
    let world = world();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = tar::Header::new_gnu();
    let size = 200u64 << 20;
    header.set_path("zeros").unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    std::io::Write::write_all(&mut gz, header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), size), &mut gz).unwrap();
    let bomb = gz.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    world.write("bomb.tar.gz", bomb);
    assert!(matches!(world.build("FROM base\nADD bomb.tar.gz /\n").unwrap_err(), Error::TooLarge { .. }));
}

#[test]
fn directories_deeper_than_a_path_is_long_are_refused() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.unwrap_or(20_000).min(20_000);
    if files < 3000 {
        return common::skip("needs 3000 open files");
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).unwrap();
    let world = world();
    let top = world.context_path().join("deep");
    std::fs::create_dir(&top).unwrap();
    let mut at = std::os::fd::OwnedFd::from(std::fs::File::open(&top).unwrap());
    for _ in 0..2100 {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let errors = ["COPY deep /d", "COPY deep/d/d* /d"]
        .map(|line| world.build(&format!("FROM base\n{line}\n")).unwrap_err());
    assert!(std::process::Command::new("rm").arg("-rf").arg(top).status().unwrap().success());
    for error in errors {
        assert!(matches!(&error, Error::TooLarge { limit: 4095, .. }), "{error:?}");
    }
}

#[test]
fn account_files_are_read_inside_the_root() {
    let world = World::directories();
    let root = Tar::new()
        .dir("etc", 0o755)
        .link("etc/passwd", "/../../../../../etc/passwd")
        .link("etc/group", "group")
        .end();
    world.image("base", &root);
    world.write("f", "x");
    // A link to itself, in a loop: no entry, and no way out.
    let error = world.build("FROM base\nCOPY --chown=root f /f\n").unwrap_err();
    assert!(matches!(error, Error::Instruction { .. } | Error::Io { .. }), "{error}");
}

#[test]
fn config_is_never_answered_from_the_cache() {
    // CVE-2024-24557: what a cache entry of another Dockerfile says of health checks or triggers must not get in.
    let world = world();
    let script = Script::simple();
    let first =
        world.run("FROM base\nHEALTHCHECK CMD one\nONBUILD RUN one\nRUN write /f x\n", &script).0.unwrap();
    let second = world.run("FROM base\nHEALTHCHECK CMD two\nRUN write /f x\n", &script).0.unwrap();
    assert_eq!(second.cached, 1);
    assert_ne!(first.image.id(), second.image.id());
    let docker = &second.image.config().docker;
    assert_eq!(docker.healthcheck.as_ref().unwrap().test, ["CMD-SHELL", "two"]);
    assert!(docker.on_build.is_none());
    // An image that only looks the same from outside is no parent: keys are made of layers.
    world.image("base", &Tar::new().dir("other", 0o755).end());
    assert_eq!(world.run("FROM base\nRUN write /f x\n", &script).0.unwrap().executed, 1);
}

#[test]
fn mounts_that_escape_are_refused() {
    let world = world();
    let script = Script::simple();
    symlink("..", world.context_path().join("parent")).unwrap();
    for mount in [
        "type=bind,source=../outside,target=/m",
        "type=bind,source=parent/outside,target=/m",
        "target=/m,bind-propagation=shared",
        "type=bind,from=base,source=up/none,target=/m",
    ] {
        assert!(world.run(&format!("FROM base\nRUN --mount={mount} x\n"), &script).0.is_err(), "{mount}");
    }
}
