//! `commit`, `diff` and `cp` that are ended by an interrupt or by `kill -9` at any moment: nothing is left, nothing half done is seen.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Longshore, busybox, have, wait_for};
use rustix::process::Signal;

const MINUTE: Duration = Duration::from_secs(60);

/// In the container, of bytes that do not compress.
const BIG: usize = 8 << 20;

/// A running container with a file of [`BIG`] bytes that the image has not; as root, and as an ordinary user.
fn each_user(test: fn(&Longshore, &Path)) {
    if !have(&["busybox", "tar", "setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let tar = busybox(dir.path());
    let users = [
        Some(Longshore::new(dir.path().join("root"))).filter(|_| common::root()),
        Longshore::ordinary(dir.path()),
    ];
    for longshore in users.into_iter().flatten() {
        longshore.import(&tar, "bb");
        longshore.ok(&["run", "-d", "--name", "box", "--network", "none", "bb", "sleep", "1000"]);
        let make = format!("mkdir /data; echo as it was > /data/old; head -c {BIG} /dev/urandom > /big");
        longshore.ok(&["exec", "box", "sh", "-c", &make]);
        let work = longshore.root.with_file_name("work");
        fs::create_dir_all(&work).expect("a directory");
        std::os::unix::fs::chown(&work, longshore.user, longshore.user).expect("chown");
        test(&longshore, &work);
        fs::remove_dir_all(&work).expect("the directory goes");
    }
}

/// How many times each is interrupted at some moment.
fn rounds() -> u32 {
    std::env::var("LONGSHORE_INTERRUPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

fn end(mut child: Child, signal: Signal) -> std::process::ExitStatus {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, signal).expect("a child that nobody has waited for");
    child.wait().expect("wait")
}

/// Starts it and ends it at the given part of the time that it takes. True: it had not come to its end.
fn cut(mut command: Command, round: u32, whole: Duration, signal: Signal) -> bool {
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
    std::thread::sleep(whole * round / rounds());
    !end(child, signal).success()
}

fn signals() -> impl Iterator<Item = (u32, Signal)> {
    (0..rounds()).zip([Signal::KILL, Signal::INT].into_iter().cycle())
}

/// Paths of all files and directories below.
fn tree(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                todo.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

#[test]
fn a_commit_is_whole_or_not_there() {
    each_user(|longshore, _| {
        let store = longshore.root.join("image");
        let forget = || {
            longshore.ok(&["system", "prune", "-f"]);
        };
        // Once to its end, for what stays of a first time.
        let started = Instant::now();
        longshore.ok(&["commit", "box", "made:1"]);
        let whole = started.elapsed();
        longshore.ok(&["rmi", "made:1"]);
        forget();
        let before = tree(&store);
        for (round, signal) in signals() {
            cut(longshore.command(&["commit", "box", "made:1"]), round, whole, signal);
            let thawed = || longshore.ok(&["inspect", "-f", "{{.State.Status}}", "box"]) == "running\n";
            assert!(wait_for(MINUTE, thawed), "round {round}: it stays frozen");
            if longshore.ok(&["images", "-q", "made"]).is_empty() {
                forget();
            } else {
                let size =
                    longshore.ok(&["run", "--rm", "--network", "none", "made:1", "sh", "-c", "wc -c < /big"]);
                assert_eq!(size.trim(), BIG.to_string());
                longshore.ok(&["rmi", "made:1"]);
                forget();
            }
            assert_eq!(tree(&store), before, "round {round}, {signal:?}");
            assert!(longshore.ok(&["image", "verify"]).contains("all as it should be"));
        }
    });
}

#[test]
fn a_container_does_not_stay_frozen() {
    each_user(|longshore, _| {
        if longshore.user.is_some() {
            // No cgroup, no pause: a commit does without.
            let said = longshore.fails(1, &["commit", "--pause", "box", "made:1"]);
            assert!(said.contains("no freezer cgroup is delegated"), "{said}");
            longshore.ok(&["commit", "box", "made:1"]);
            return;
        }
        let status = || longshore.ok(&["inspect", "-f", "{{.State.Status}}", "box"]);
        // More for it to do than a look at its state takes.
        longshore.ok(&["exec", "box", "sh", "-c", "for i in 1 2 3 4; do cat /big > /big$i; done"]);
        for signal in [Signal::KILL, Signal::INT] {
            let child =
                longshore.command(&["commit", "box", "made:1"]).stderr(Stdio::null()).spawn().expect("spawn");
            assert!(wait_for(MINUTE, || status() == "paused\n"));
            assert!(!end(child, signal).success());
            assert!(wait_for(MINUTE, || status() == "running\n"), "{signal:?}");
            assert_eq!(longshore.ok(&["images", "-q", "made"]), "");
        }
    });
}

#[test]
fn a_diff_leaves_nothing() {
    each_user(|longshore, _| {
        let snapshots = || tree(&longshore.root.join("image/snapshots")).len();
        let started = Instant::now();
        let changes = longshore.ok(&["diff", "box"]);
        let (whole, before) = (started.elapsed(), snapshots());
        for (round, signal) in signals() {
            let cut = cut(longshore.command(&["diff", "box"]), round, whole, signal);
            if cut && signal == Signal::INT {
                assert_eq!(snapshots(), before, "round {round}");
            }
            // What was killed leaves its traces to the next.
            assert_eq!(longshore.ok(&["diff", "box"]), changes);
            assert_eq!(snapshots(), before, "round {round}, {signal:?}");
        }
    });
}

/// `cp -`: in the middle of a file.
#[test]
fn half_a_file_is_not_seen_in_the_container() {
    each_user(|longshore, _| {
        let mut header = tar::Header::new_gnu();
        header.set_size(4 << 20);
        header.set_mode(0o644);
        header.set_cksum();
        for name in ["old", "fresh"] {
            header.set_path(name).expect("a short name");
            header.set_cksum();
            for signal in [Some(Signal::KILL), Some(Signal::INT), None] {
                let mut command = longshore.command(&["cp", "-", "box:/data"]);
                let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("spawn");
                let mut stdin = child.stdin.take().expect("a pipe");
                // More than the pipe holds: most of it has been taken.
                stdin
                    .write_all(header.as_bytes())
                    .and_then(|()| stdin.write_all(&[7; 2 << 20]))
                    .expect("it reads");
                let ended = match signal {
                    Some(signal) => end(child, signal),
                    None => {
                        drop(stdin);
                        child.wait().expect("wait")
                    }
                };
                assert!(!ended.success());
                assert_eq!(
                    longshore.ok(&["exec", "box", "sh", "-c", "ls -A /data; cat /data/old"]),
                    "old\nas it was\n"
                );
            }
        }
    });
}

#[test]
fn half_a_file_is_not_seen_on_either_side() {
    each_user(|longshore, work| {
        let (to, from) = (work.join("to"), work.join("from"));
        for dir in [&to, &from] {
            fs::create_dir(dir).expect("a directory");
            std::os::unix::fs::chown(dir, longshore.user, longshore.user).expect("chown");
        }
        let (whole_file, old) = (vec![7; BIG], "as it was");
        fs::write(from.join("big"), &whole_file).expect("write");
        let out = ["cp", "box:/big", to.to_str().expect("UTF-8")];
        let into = format!("{}/big", from.display());
        let into = ["cp", into.as_str(), "box:/data/big"];
        let started = Instant::now();
        longshore.ok(&out);
        let whole = started.elapsed();
        for (round, signal) in signals() {
            fs::write(to.join("big"), old).expect("write");
            cut(longshore.command(&out), round, whole, signal);
            let names: Vec<_> = fs::read_dir(&to).expect("read").flatten().map(|e| e.file_name()).collect();
            assert_eq!(names, ["big"], "round {round}");
            let size = fs::metadata(to.join("big")).expect("stat").len() as usize;
            assert!([old.len(), BIG].contains(&size), "round {round}: {size}");

            longshore.ok(&["exec", "box", "sh", "-c", "rm -f /data/big"]);
            cut(longshore.command(&into), round, whole, signal);
            let said = longshore.ok(&[
                "exec",
                "box",
                "sh",
                "-c",
                "ls -A /data; test ! -e /data/big || wc -c < /data/big",
            ]);
            assert!(
                ["old\n".to_owned(), format!("big\nold\n{BIG}\n")].contains(&said),
                "round {round}: {said}"
            );
        }
    });
}

/// A reader that goes away in the middle: the same as an interrupt.
#[test]
fn an_export_that_nobody_reads_ends() {
    each_user(|longshore, _| {
        let mut command = longshore.command(&["export", "box"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("spawn");
        let mut out = child.stdout.take().expect("a pipe");
        out.read_exact(&mut [0; 512]).expect("a header");
        drop(out);
        assert!(!child.wait().expect("wait").success());
        assert_eq!(longshore.ok(&["inspect", "-f", "{{.State.Status}}", "box"]), "running\n");
    });
}
