//! A test that is killed from outside leaves nothing running.

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Longshore, assert_no_traces, busybox, have, text, traces, wait_for};

/// In the process that is killed: where it shall work.
const KILLED: &str = "LONGSHORE_TEST_KILLED_IN";

#[test]
fn what_a_killed_test_started_ends() {
    if let Some(dir) = std::env::var_os(KILLED) {
        return to_be_killed(dir.as_ref());
    }
    if !have(&["busybox", "setpriv", "docker-registry"]) {
        return;
    }
    let dir = tempfile::Builder::new().prefix("killed-").tempdir().expect("a directory");
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["--exact", "what_a_killed_test_started_ends", "--nocapture"]).env(KILLED, dir.path());
    let mut child = command.stdout(Stdio::null()).spawn().expect("it starts");
    let ready = dir.path().join("ready");
    let up = wait_for(Duration::from_secs(120), || {
        ready.exists() || child.try_wait().expect("its status").is_some()
    });
    child.kill().expect("a signal");
    child.wait().expect("it ends");
    assert!(up && ready.exists(), "it did not come to that");
    let name = dir.path().display().to_string();
    wait_for(Duration::from_secs(60), || traces(&[&name]).is_empty());
    assert_no_traces(&[&name]);
    assert!(!dir.path().join("ordinary/root").exists() && !dir.path().join("root").exists());
}

/// Starts a container as each user, and a server, and never comes to an end.
fn to_be_killed(dir: &std::path::Path) {
    let tar = busybox(dir);
    let mut all: Vec<Longshore> = Longshore::ordinary(dir).into_iter().collect();
    if all[0].user.is_some() {
        all.push(Longshore::new(dir.join("root")));
    }
    for longshore in &all {
        longshore.import(&tar, "bb");
        let run = ["run", "-d", "--network", "none", "bb", "sleep", "1000"];
        let started = longshore.run(&run);
        assert!(started.status.success(), "{}", text(&started.stderr));
    }
    let _server = common::Registry::start(dir);
    std::fs::write(dir.join("ready"), "").expect("a file");
    std::thread::sleep(Duration::from_secs(1000));
}
