//! Snapshots that are whole copies: without the right to mount, on file systems that share blocks, and what a diff must not miss.

#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "layers_common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::{Raw, add, archive, copying, describe, dir, file, hard, is_root, skip, symlink};
use longshore_image::{Ctx, Snapshot, Store};

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// What the diff would write, by name.
fn changes(snapshot: &Snapshot) -> Vec<String> {
    let mut tar = Vec::new();
    snapshot.diff(&mut tar, Ctx::none()).unwrap();
    let mut tar = tar::Archive::new(&tar[..]);
    tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
}

fn base() -> Vec<u8> {
    archive(&[
        dir("one"),
        file("one/x", "of one"),
        dir("two"),
        file("two/x", "of two"),
        dir("etc"),
        file("etc/same", "12345"),
        file("etc/kept", "kept"),
        Raw { mode: 0o4111, ..file("etc/closed", "closed") },
        Raw { mode: 0, ..dir("sealed") },
        file("sealed/in", "in"),
        hard("etc/again", "etc/kept"),
        symlink("link", "etc/same"),
    ])
}

/// Size and time of a file say nothing: both can be made what they were, and in reproducible images all times are the same.
#[test]
fn a_diff_misses_no_content() {
    let scratch = tempfile::tempdir().unwrap();
    let store = copying(scratch.path(), true);
    let base = add(&store, &base()).unwrap();
    let snapshot = common::writable(&store, "s", &[&base]);
    assert_eq!(changes(&snapshot), Vec::<String>::new());
    let root = snapshot.root().unwrap();
    let at = |path: &str| root.join(path);
    let keeping_times = |paths: &[&str], act: &dyn Fn()| {
        let times: Vec<_> = paths.iter().map(|p| fs::metadata(at(p)).unwrap().modified().unwrap()).collect();
        act();
        for (path, time) in paths.iter().zip(times) {
            fs::File::open(at(path)).unwrap().set_modified(time).unwrap();
        }
    };
    keeping_times(&["etc/same"], &|| fs::write(at("etc/same"), "54321").unwrap());
    assert_eq!(changes(&snapshot), ["etc/same"]);
    // Touched and put back: nothing to tell.
    keeping_times(&["etc/same"], &|| fs::write(at("etc/same"), "12345").unwrap());
    assert_eq!(changes(&snapshot), Vec::<String>::new());
    // Two directories change places; the files in them were never touched, and look the same.
    keeping_times(&["."], &|| {
        for (from, to) in [("one", "three"), ("two", "one"), ("three", "two")] {
            fs::rename(at(from), at(to)).unwrap();
        }
    });
    assert_eq!(changes(&snapshot), ["one/x", "two/x"]);
    keeping_times(&["."], &|| {
        fs::remove_file(at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("link")).map(drop).unwrap();
    });
    assert_eq!(changes(&snapshot), [".wh.link", "one/x", "two/x"]);
}

/// An ordinary user needs no user namespace for it, nor any right to mount.
#[test]
fn an_ordinary_user_copies_changes_and_commits() {
    if is_root() {
        return common::as_user("an_ordinary_user_copies_changes_and_commits");
    }
    let scratch = tempfile::tempdir().unwrap();
    let store = copying(scratch.path(), false);
    let base = add(&store, &base()).unwrap();
    let snapshot = common::writable(&store, "s", &[&base]);
    assert!(snapshot.overlay().is_none());
    let root = snapshot.root().unwrap();
    let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("etc/closed"), mode("sealed")), (0o4111, 0));
    assert_eq!(changes(&snapshot), Vec::<String>::new());
    fs::write(root.join("etc/new"), "new").unwrap();
    fs::remove_file(root.join("one/x")).unwrap();
    let layer = store.commit_layer(&snapshot, &Default::default(), Ctx::none()).unwrap();
    assert_eq!((mode("etc/closed"), mode("sealed")), (0o4111, 0));
    let again = common::writable(&store, "t", &[&base, &layer]);
    let all = |snapshot: &Snapshot| {
        let root = snapshot.root().unwrap();
        for path in ["sealed", "etc/closed"] {
            run("chmod", &["700", &root.join(path).display().to_string()]);
        }
        let mut all = describe(&root);
        all.remove("/");
        all
    };
    common::assert_same(&all(&again), &all(&snapshot));
    let mut out = Vec::new();
    store.export(&again, &mut out, Ctx::none()).unwrap();
    assert!(!out.is_empty());
    store.remove_snapshot("s").unwrap();
    store.remove_snapshot("t").unwrap();
    store.settle();
    assert_eq!(store.verify(&Default::default(), Ctx::none()).unwrap().problems, []);
}

/// On btrfs a copy takes hardly any room: blocks are shared, holes stay holes everywhere.
#[test]
fn blocks_are_shared_where_the_file_system_can() {
    const TEST: &str = "blocks_are_shared_where_the_file_system_can";
    if let Some(mount) = std::env::var_os(common::INSIDE) {
        return shared(Path::new(&mount));
    }
    if !is_root() {
        return skip("mounting needs root");
    }
    if Command::new("mkfs.btrfs").arg("--version").output().is_err() {
        return skip("mkfs.btrfs is not installed");
    }
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (disk, mount) = (scratch.path().join("disk"), scratch.path().join("mnt"));
    fs::create_dir(&mount).unwrap();
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    run("mkfs.btrfs", &["-q", &disk.display().to_string()]);
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", r#"mount -o loop "$0" "$1"; shift; exec "$@""#])
        .args([&disk, &mount])
        .arg(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture"])
        .env(common::INSIDE, &mount)
        .status();
    assert!(status.unwrap().success());
}

fn shared(mount: &Path) {
    let store: Store = copying(&mount.join("store"), true);
    let big: Vec<u8> = (0..32_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let base = add(&store, &archive(&[file("big", &big)])).unwrap();
    let free = || {
        rustix::fs::syncfs(fs::File::open(mount).unwrap()).unwrap();
        let stat = rustix::fs::statvfs(mount).unwrap();
        stat.f_bfree * stat.f_frsize
    };
    let before = free();
    let copies: Vec<_> = (0..4).map(|n| common::writable(&store, &format!("s{n}"), &[&base])).collect();
    let taken = before.saturating_sub(free());
    assert!(taken < big.len() as u64, "{taken} bytes for four copies of {}", big.len());
    for copy in &copies {
        assert!(fs::read(copy.root().unwrap().join("big")).unwrap() == big);
    }
    fs::write(copies[0].root().unwrap().join("big"), "other").unwrap();
    assert_eq!(changes(&copies[0]), ["big"]);
    assert_eq!(changes(&copies[1]), Vec::<String>::new());
}
