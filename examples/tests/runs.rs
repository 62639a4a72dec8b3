//! `longshore-oci run` of a program that ends at once, again and again: no end is lost, and none comes late.
//!
//! `LONGSHORE_STARTS` sets how often (2,000 for a long run), and that each has to end within 5 s.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{copy_program, have, root, text};

#[test]
fn a_fast_end_is_not_lost() {
    if !have(&["busybox", "timeout"]) {
        return;
    }
    let given = std::env::var("LONGSHORE_STARTS").ok().and_then(|n| n.parse::<u32>().ok());
    let dir = tempfile::tempdir().expect("a directory");
    let mut users = vec![None];
    // An ordinary user, too: what it starts goes through one process more.
    if root() {
        users.push(Some(1000));
        std::os::unix::fs::chown(dir.path(), Some(1000), Some(1000)).expect("chown");
    }
    let program = dir.path().join("longshore-oci");
    copy_program("longshore-oci", &program);
    bundle(dir.path());
    for user in users {
        let command = |args: &[&str]| {
            let mut command = Command::new("timeout");
            command.args(["-k", "5", "60"]).arg(&program).arg("--root");
            command.arg(dir.path().join(format!("state-{user:?}"))).args(args).current_dir(dir.path());
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
            command.stdin(Stdio::null());
            command
        };
        let _ = fs::remove_file(dir.path().join("config.json"));
        let spec: &[&str] = if user.is_some() || !root() { &["spec", "--rootless"] } else { &["spec"] };
        assert!(command(spec).status().expect("it runs").success());
        let config = fs::read_to_string(dir.path().join("config.json")).expect("config.json");
        let config =
            config.replace("\"terminal\": true", "\"terminal\": false").replace("\"sh\"", "\"true\"");
        fs::write(dir.path().join("config.json"), config).expect("config.json");
        let count = given.unwrap_or(25);
        let mut slowest = Duration::ZERO;
        for n in 0..count {
            let started = Instant::now();
            let out = command(&["run", "true"]).output().expect("it runs");
            slowest = slowest.max(started.elapsed());
            assert!(out.status.success(), "{n}: {}: {}", out.status, text(&out.stderr));
        }
        println!("user {user:?}: slowest of {count}: {slowest:?}");
        assert!(slowest < Duration::from_secs(if given.is_some() { 5 } else { 60 }), "{slowest:?}");
        assert_eq!(text(&command(&["list", "-q"]).output().expect("it runs").stdout), "");
    }
}

fn bundle(dir: &Path) {
    let rootfs = dir.join("rootfs");
    for name in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(rootfs.join(name)).expect("mkdir");
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("copy");
    symlink("busybox", rootfs.join("bin/true")).expect("link");
}
