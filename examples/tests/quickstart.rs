//! The quickstart ends well and leaves nothing behind, as root and as an ordinary user.

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use common::{copy_program, example, have, skip, succeed};

/// In a network namespace of its own, where every link and every table can only be the quickstart's.
#[test]
fn as_root() {
    if !common::root() {
        return skip("this is the test of root's quickstart");
    }
    if !have(&["unshare", "ip", "nft"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let script = "set -e; ip link set lo up; ip -o link >\"$2/before\"; \"$1\"; ip -o link >\"$2/after\"; nft list ruleset >\"$2/rules\"";
    let seen = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh"]).arg(example("quickstart")).arg(seen.path());
    let said = succeed(command.env("TMPDIR", dir.path()), 60);
    assert!(said.contains("published port") && said.contains("Welcome to my web site"), "{said}");
    assert!(said.contains("0 steps executed"), "the second build says that all was cached: {said}");
    let read = |name: &str| fs::read_to_string(seen.path().join(name)).expect("what the script saw");
    assert_eq!(read("before"), read("after"));
    assert_eq!(read("rules"), "");
    assert_clean(dir.path(), &said);
}

/// Whoever stops reading, or interrupts it in the middle, finds nothing left either.
#[test]
fn cut_short() {
    if !common::root() {
        return skip("this is the test of root's quickstart");
    }
    if !have(&["unshare", "ip", "nft"]) {
        return;
    }
    let interrupted = |line: &str, signal: &str| {
        format!(
            "\"$1\" >\"$2/said\" 2>&1 & pid=$!; until grep -q '{line}' \"$2/said\"; do sleep 0.01; done; kill -{signal} $pid; wait $pid; code=$?"
        )
    };
    let cases = [
        ("{ \"$1\"; echo $? >\"$2/status\"; } | head -3; code=$(cat \"$2/status\")".to_owned(), "0"),
        (interrupted("quickstart:", "TERM"), "143"),
        (interrupted("build again", "HUP"), "129"),
        (interrupted("pull into", "INT"), "130"),
    ];
    for (work, code) in cases {
        let (dir, seen) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("another"));
        let script = format!(
            "ip link set lo up; ip -o link >\"$2/before\"; {work}; echo $code >\"$2/code\"; ip -o link >\"$2/after\"; nft list ruleset >\"$2/rules\""
        );
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &script, "sh"]).arg(example("quickstart")).arg(seen.path());
        succeed(command.env("TMPDIR", dir.path()), 60);
        let read = |name: &str| fs::read_to_string(seen.path().join(name)).expect("what the script saw");
        assert_eq!(read("code").trim(), code, "{work}");
        assert_eq!(read("before"), read("after"), "{work}");
        assert_eq!(read("rules"), "", "{work}");
        let left: Vec<_> = fs::read_dir(dir.path()).expect("the directory").flatten().collect();
        assert!(left.is_empty(), "{work}: files left behind: {left:?}");
        common::assert_no_traces(&[&dir.path().display().to_string()]);
    }
}

#[test]
fn an_unknown_argument_does_nothing() {
    let run = |arg: &str| common::output(Command::new(example("quickstart")).arg(arg), 20);
    let said = run("--bogus");
    assert_eq!(said.status.code(), Some(2));
    assert!(common::text(&said.stderr).contains("Usage: quickstart"));
    let said = run("--help");
    assert_eq!(said.status.code(), Some(0));
    assert!(common::text(&said.stdout).contains("Usage: quickstart"));
}

#[test]
fn as_an_ordinary_user() {
    if !common::root() {
        // Already one.
        let dir = tempfile::tempdir().expect("a directory");
        let said = succeed(Command::new(example("quickstart")).env("TMPDIR", dir.path()), 60);
        return assert_rootless(dir.path(), &said);
    }
    if !have(&["setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    chown(dir.path(), Some(1000), Some(1000)).expect("chown");
    // The user may not be able to reach the target directory.
    let program = dir.path().join("quickstart");
    copy_program("quickstart", &program);
    let work = dir.path().join("tmp");
    fs::create_dir(&work).expect("mkdir");
    chown(&work, Some(1000), Some(1000)).expect("chown");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "env", "-i"]);
    command.arg(format!("TMPDIR={}", work.display())).arg("PATH=/usr/bin:/bin").arg(&program);
    let said = succeed(command.current_dir("/"), 60);
    assert_rootless(&work, &said);
}

fn assert_rootless(work: &Path, said: &str) {
    assert!(said.contains("user namespace") && said.contains("Welcome to my web site"), "{said}");
    assert!(said.contains("left out"), "it says what it left out: {said}");
    assert_clean(work, said);
}

fn assert_clean(work: &Path, said: &str) {
    // At once: a shim that is still on its way out is one too many.
    let mut left = common::traces(&[&work.display().to_string()]);
    left.retain(|trace| trace.starts_with("process "));
    assert_eq!(left, Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(work).expect("the directory").flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "files left behind: {left:?}");
    let id =
        said.lines().find_map(|line| line.split("container ").nth(1)).expect("the container's ID").trim();
    assert_eq!(id.len(), 12, "{id}");
    common::assert_no_traces(&[id, &work.display().to_string()]);
}
