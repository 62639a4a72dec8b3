//! Layers and snapshots of an ordinary user: directories, mounted by a user namespace of the container's own.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::too_many_lines, reason = "tests")]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "layers_common/mod.rs"]
mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::{
    FIRST, INSIDE, Raw, SIZE, add, archive, as_user, device, dir, file, hard, is_root, pax, raw, skip,
    symlink, with_range,
};
use longshore_image::{Ctx, Error, OverlayDirs};

/// A shell command in a new user and mount namespace with the overlay mounted at `$ROOT`, as a runtime would do it.
fn inside(overlay: &OverlayDirs, at: &Path, script: &str) -> String {
    let lower: Vec<_> = overlay.lower.iter().map(|p| p.display().to_string()).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let (Some(upper), Some(work)) = (&overlay.upper, &overlay.work) {
        options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
    }
    if overlay.userxattr {
        options += ",userxattr";
    }
    let out = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-ec"])
        .arg(format!("mount -t overlay -o '{options}' none \"$ROOT\"; cd \"$ROOT\"; {script}"))
        .env("ROOT", at)
        .output()
        .unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn base() -> Vec<u8> {
    archive(&[
        Raw { ids: (33, 33), mode: 0o2755, ..dir("var") },
        Raw { ids: (33, 33), ..file("var/mine", "mine") },
        Raw { mode: 0o0, ..file("var/closed", "closed") },
        Raw { mode: 0o0, ..dir("sealed") },
        file("sealed/in", "in"),
        hard("var/again", "var/mine"),
        symlink("link", "/var/mine"),
        device("null", b'3', 1, 3),
        hard("null2", "null"),
        raw("fifo", b'6'),
        pax(&[("SCHILY.xattr.user.note", b"kept"), ("SCHILY.xattr.security.capability", &CAPABILITY)]),
        file("noted", "x"),
        dir("opaque"),
        file("opaque/old", "old"),
        file("gone", "gone"),
    ])
}

#[test]
fn an_ordinary_user_unpacks_mounts_and_commits() {
    if is_root() {
        return as_user("an_ordinary_user_unpacks_mounts_and_commits");
    }
    let top = tempfile::tempdir().unwrap();
    let store = common::store(&top.path().join("store"), false);
    let base = add(&store, &base()).unwrap();
    let above = archive(&[file(".wh.gone", ""), file("opaque/.wh..wh..opq", ""), file("opaque/new", "new")]);
    let above = add(&store, &above).unwrap();
    let root = top.path().join("root");
    std::fs::create_dir(&root).unwrap();

    let snapshot = common::writable(&store, "web", &[&base, &above]);
    let overlay = snapshot.overlay().expect("directories can be named");
    assert!(overlay.userxattr);
    let seen = inside(
        &overlay,
        &root,
        "find . | LC_ALL=C sort | tr '\\n' ' '; stat -c ' %a %u %h' var/mine var; cat sealed/in",
    );
    let names = ". ./fifo ./link ./noted ./opaque ./opaque/new ./sealed ./sealed/in ./var ./var/again ./var/closed ./var/mine";
    assert_eq!(seen, format!("{names}  755 0 2\n 2755 0 2\nin"));
    assert_eq!(store.open_snapshot("web").unwrap().diff(&mut Vec::new(), Ctx::none()).unwrap().entries, 0);

    let script = "rm var/closed; echo new > var/mine; rm -r opaque; mkdir opaque; echo x > opaque/fresh; mkdir -m 0 shut; setfattr -n user.a -v b noted";
    inside(&overlay, &root, script);
    let layer = store.commit_layer(&snapshot, &Default::default(), Ctx::none()).unwrap();
    let committed = common::writable(&store, "after", &[&base, &above, &layer]);
    let script = "find . | LC_ALL=C sort | tr '\\n' ' '; cat var/mine; getfattr --only-values -n user.a noted; stat -c ' %a' shut";
    let again = inside(&committed.overlay().unwrap(), &root, script);
    let names = ". ./fifo ./link ./noted ./opaque ./opaque/fresh ./sealed ./sealed/in ./shut ./var ./var/again ./var/mine ";
    assert_eq!(again, format!("{names}new\nb 0\n"));
    let owned = std::fs::metadata(overlay.upper.unwrap().join("var/mine")).unwrap();
    assert_eq!(owned.uid(), rustix::process::geteuid().as_raw());

    let opaque = archive(&[file(".wh..wh..opq", ""), file("alone", "")]);
    let opaque = add(&store, &opaque).unwrap();
    let emptied = common::writable(&store, "emptied", &[&base, &above, &opaque]);
    assert_eq!(inside(&emptied.overlay().unwrap(), &root, "echo *"), "alone\n");

    drop((snapshot, committed, emptied));
    store.remove_snapshot("emptied").unwrap();
    store.remove_snapshot("web").unwrap();
    store.remove_snapshot("after").unwrap();
    drop((base, above, opaque, layer));
    store.collect(Ctx::none()).unwrap();
    assert_eq!(std::fs::read_dir(store.path().join("layers")).unwrap().count(), 0);
}

#[test]
fn with_a_range_files_keep_their_owners() {
    if std::env::var_os(INSIDE).is_some() {
        return keep_owners(&std::env::temp_dir());
    }
    if !is_root() {
        return skip("needs root to become an ordinary user with a range of ids");
    }
    let scratch = with_range(&["with_a_range_files_keep_their_owners", "--exact"]);
    let store = scratch.path().join("work/store");
    let layers: Vec<_> =
        std::fs::read_dir(store.join("layers")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(layers.iter().all(|path| path.extension().is_some_and(|e| e == "ids")), "{layers:?}");
    let mine = layers.iter().map(|path| path.join("fs/var/mine")).find(|path| path.exists()).unwrap();
    let owner = |path: &Path| path.symlink_metadata().map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!(owner(&mine), (FIRST + 32, FIRST + 32));
    assert_eq!(owner(&mine.with_file_name("closed")), (1000, 1000));
    assert_eq!(owner(&store.join("snapshots/kept/upper/var/new")), (FIRST + 41, FIRST + 41));
    // Outside of the namespace the store opens, also over what a killed process left there, and says what it cannot do.
    let dead = store.join("tmp/layer-1-1/fs");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("file"), "").unwrap();
    for (path, id) in [(dead.parent().unwrap(), 1000), (&dead, FIRST)] {
        std::os::unix::fs::chown(path, Some(id), Some(id)).unwrap();
    }
    let status = Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(scratch.path().join("test"))
        .args(["outside_of_the_range", "--exact", "--nocapture"])
        .env("TMPDIR", scratch.path().join("work"))
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
    assert!(dead.exists());
}

fn keep_owners(top: &Path) {
    let store = common::store(&top.join("store"), false);
    let base = add(&store, &base()).unwrap();
    let above = archive(&[
        file(".wh.gone", ""),
        Raw { ids: (7, 8), ..dir("opaque") },
        file("opaque/.wh..wh..opq", ""),
    ]);
    let above = add(&store, &above).unwrap();
    let view = common::view(&store, &[&base, &above]);
    let said = |path: &str| view[path].split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(said("/var"), "42755 33:33");
    assert_eq!(said("/var/mine"), "100755 33:33");
    assert_eq!(said("/var/closed"), "100000 0:0");
    assert_eq!(said("/opaque"), "40755 7:8");
    let noted = &view["/noted"];
    assert!(noted.contains("user.note=kept") && noted.contains("security.capability=\\u{1}"), "{noted}");
    assert!(!view.contains_key("/gone") && !view.contains_key("/null") && view.contains_key("/fifo"));

    let kept = common::writable(&store, "kept", &[&base, &above]);
    let overlay = kept.overlay().expect("directories can be named");
    assert!(overlay.userxattr);
    let mount = kept.mount().unwrap();
    let root = common::path_of(&mount);
    std::fs::write(root.join("var/new"), "new").unwrap();
    std::os::unix::fs::chown(root.join("var/new"), Some(42), Some(42)).unwrap();
    std::os::unix::fs::chown(root.join("var/closed"), Some(1), Some(SIZE)).unwrap();
    std::fs::remove_dir(root.join("opaque")).unwrap();
    let mut changed = common::describe(&root);
    drop(mount);
    let layer = store.commit_layer(&kept, &Default::default(), Ctx::none()).unwrap();
    let mut again = common::view(&store, &[&base, &above, &layer]);
    for tree in [&mut changed, &mut again] {
        tree.remove("/");
    }
    common::assert_same(&again, &changed);
    let found = store.verify(&Default::default(), Ctx::none()).unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);

    let far = archive(&[Raw { ids: (0, SIZE + 1), ..file("far", "") }]);
    let error = add(&store, &far).unwrap_err();
    assert!(matches!(&error, Error::NoSuchOwner { entry, gid: 65_536, .. } if entry == "far"), "{error}");

    let gone = common::writable(&store, "gone", &[&base]);
    let root = gone.mount().unwrap();
    std::fs::create_dir(common::path_of(&root).join("var/foreign")).unwrap();
    std::os::unix::fs::chown(common::path_of(&root).join("var/foreign"), Some(9), Some(9)).unwrap();
    drop(root);
    store.remove_snapshot("gone").unwrap();
    store.settle();
    assert_eq!(std::fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

/// `cap_net_raw=ep`, as the kernel keeps it (capabilities(7)): version 2 and flag, then the permitted and inheritable sets.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Part of [`with_a_range_files_keep_their_owners`].
#[test]
fn outside_of_the_range() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let store = common::store(&std::env::temp_dir().join("store"), false);
    let kept = store.open_snapshot("kept").unwrap();
    assert!(kept.overlay().is_none());
    let refused = [kept.mount().map(drop).unwrap_err(), kept.diff(&mut Vec::new(), Ctx::none()).unwrap_err()];
    assert!(refused.iter().all(|e| matches!(e, Error::Unsupported { .. })), "{refused:?}");
    // A layer that is there for the range only is unpacked again.
    let base = add(&store, &base()).unwrap();
    assert!(common::writable(&store, "single", &[&base]).overlay().is_some());
}

#[test]
fn namespaces_are_there() {
    let works = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .status()
        .is_ok_and(|s| s.success());
    if !works {
        skip("no user namespaces");
    }
}

/// What denies its owner access is no damage.
#[test]
fn sealed_directories_verify() {
    if is_root() {
        return as_user("sealed_directories_verify");
    }
    let top = tempfile::tempdir().unwrap();
    let store = common::store(&top.path().join("store"), false);
    let layer = add(&store, &base()).unwrap();
    let snapshot = common::writable(&store, "web", &[&layer]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let found = store.verify(&Default::default(), Ctx::none()).unwrap();
                assert_eq!(found.problems, []);
            });
        }
    });
    let sealed = snapshot.overlay().unwrap().lower[0].join("sealed");
    assert_eq!(std::fs::metadata(sealed).unwrap().mode() & 0o7777, 0);
}
