//! Layers and snapshots: what a container sees of them, with both drivers.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "layers_common/mod.rs"]
mod common;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{
    Raw, add, archive, assert_same, describe, device, dir, file, is_root, path_of, skip, view, writable,
};
use longshore_image::{Ctx, Error, Store};

/// With both drivers, as root.
fn each_driver(test: impl Fn(&Store)) {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    for directories in [false, true] {
        let top = tempfile::tempdir().unwrap();
        test(&common::store(top.path(), directories));
    }
}

#[test]
fn a_layer_looks_like_what_gnu_tar_unpacks() {
    each_driver(|store| {
        let from = tempfile::tempdir().unwrap();
        let root = from.path().join("root");
        let script = r#"
            mkdir -p root/a/b root/empty root/dev && cd root && umask 022
            echo hello > a/b/hello && ln a/b/hello a/hard && ln -s b/hello a/soft && ln -s /etc/passwd abs
            head -c 100000 /dev/urandom > a/random && : > a/zero && mkfifo a/fifo
            mknod dev/null c 1 3 && mknod dev/loop b 7 300 && chmod 4755 a/random && chown 1000:100000 a/b
            touch -d '1969-12-31T23:59:58.25Z' a/zero && touch -d 2038-02-01T00:00:00.123456789Z a/b/hello
            setfattr -n user.name -v value a/b/hello 2>/dev/null || true
            long=$(printf 'x%.0s' $(seq 250)); mkdir -p $long/$long && echo deep > $long/$long/$long
            ln -s $(printf 'y%.0s' $(seq 600)) a/longlink
            for i in $(seq 300); do echo $i > empty/file-with-a-number-$i; done
            touch './!before the dots' && mkdir './-dash'
            chmod 1777 empty; chmod 0700 .
        "#;
        assert!(
            Command::new("sh").arg("-ec").arg(script).current_dir(from.path()).status().unwrap().success()
        );
        let mut layers = Vec::new();
        for format in ["posix", "gnu"] {
            let xattrs: &[&str] = if format == "posix" { &["--xattrs", "--xattrs-include=*"] } else { &[] };
            let made = Command::new("tar")
                .args(["-c", "--sort=name", &format!("--format={format}")])
                .args(xattrs)
                .arg("-C")
                .arg(&root)
                .arg(".")
                .output()
                .unwrap();
            assert!(made.status.success());
            let layer = add(store, &made.stdout).unwrap();
            let out = from.path().join(format);
            fs::create_dir(&out).unwrap();
            let mut untar = Command::new("tar")
                .args(["-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"])
                .arg(&out)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            untar.stdin.take().unwrap().write_all(&made.stdout).unwrap();
            assert!(untar.wait().unwrap().success());
            assert_same(&view(store, &[&layer]), &describe(&out));
            layers.push(layer);
        }
        // Of an EROFS file the tar in it counts, to the byte.
        assert_eq!(store.verify(&Default::default(), Ctx::none()).unwrap().problems, []);
        assert_eq!(
            fs::read_dir(store.path().join("layers"))
                .unwrap()
                .filter(|e| { e.as_ref().unwrap().file_name().to_string_lossy().starts_with("sha256-") })
                .count(),
            2
        );
    });
}

#[test]
fn whiteouts_hide_what_lies_below() {
    each_driver(|store| {
        let base = archive(&[
            dir("keep"),
            file("keep/a", "a"),
            file("keep/b", "b"),
            dir("opaque"),
            file("opaque/old", "old"),
            dir("replaced"),
            file("replaced/old", "old"),
            dir("gone"),
            file("gone/old", "old"),
            file("char", "char"),
        ]);
        let top = archive(&[
            dir("keep"),
            file("keep/.wh.a", ""),
            file("opaque/new", "new"),
            file("opaque/.wh..wh..opq", ""),
            dir("replaced"),
            file("replaced/new", "new"),
            file(".wh.replaced", ""),
            file(".wh.gone", ""),
            device("char", b'3', 0, 0),
            file(".wh..wh.plnk/1.2", "x"),
        ]);
        let (base, top) = (add(store, &base).unwrap(), add(store, &top).unwrap());
        let seen = view(store, &[&base, &top]);
        let names: Vec<_> = seen.keys().map(String::as_str).collect();
        assert_eq!(names, ["/", "/keep", "/keep/b", "/opaque", "/opaque/new", "/replaced", "/replaced/new"]);
    });
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    each_driver(|store| {
        let base = archive(&[dir("dir"), file("dir/old", "old"), file("old", "old")]);
        let opaque = archive(&[file("./.wh..wh..opq", ""), dir("dir"), file("dir/new", "new")]);
        let above = archive(&[file("above", "above")]);
        let [base, opaque, above] = [base, opaque, above].map(|tar| add(store, &tar).unwrap());
        for (layers, names) in [
            (vec![&base, &opaque], vec!["/", "/dir", "/dir/new"]),
            (vec![&base, &opaque, &above], vec!["/", "/above", "/dir", "/dir/new"]),
            (vec![&opaque, &base], vec!["/", "/dir", "/dir/new", "/dir/old", "/old"]),
        ] {
            assert_eq!(view(store, &layers).keys().collect::<Vec<_>>(), names);
            let snapshot = writable(store, "opaque", &layers);
            let mount = snapshot.mount().unwrap();
            assert_eq!(describe(&path_of(&mount)).keys().collect::<Vec<_>>(), names);
            drop(mount);
            store.remove_snapshot("opaque").unwrap();
        }
    });
}

#[test]
fn a_snapshot_keeps_and_tells_its_changes() {
    each_driver(|store| {
        let base = archive(&[
            Raw { mode: 0o711, ids: (7, 0), ..dir("./") },
            dir("dir"),
            file("dir/file", "file"),
            file("dir/gone", "gone"),
            dir("old"),
            file("old/file", "file"),
        ]);
        let base = add(store, &base).unwrap();
        let snapshot = writable(store, "web", &[&base]);
        let again = store.snapshot_layers("web", &[], &Default::default());
        assert!(matches!(again, Err(Error::SnapshotExists { .. })));
        let mount = snapshot.mount().unwrap();
        let root = path_of(&mount);
        assert_eq!(describe(&root)["/"].split(' ').take(2).collect::<Vec<_>>(), ["40711", "7:0"]);
        let mut nothing = Vec::new();
        assert_eq!(snapshot.diff(&mut nothing, Ctx::none()).unwrap().entries, 0);
        fs::remove_file(root.join("dir/gone")).unwrap();
        fs::write(root.join("dir/new"), "new").unwrap();
        fs::hard_link(root.join("dir/new"), root.join("dir/other")).unwrap();
        fs::remove_dir_all(root.join("old")).unwrap();
        fs::create_dir(root.join("old")).unwrap();
        fs::write(root.join("old/fresh"), vec![7; 70_000]).unwrap();
        std::os::unix::fs::symlink("fresh", root.join("old/link")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
        let mut after = describe(&root);
        drop(mount);
        let again = store.open_snapshot("web").unwrap();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let outcome = again.diff(&mut one, Ctx::none()).unwrap();
        again.diff(&mut two, Ctx::none()).unwrap();
        assert!(one == two, "a diff is always the same");
        assert_eq!(outcome.bytes, 70_003);
        let top = add(store, &one).unwrap();
        let mut seen = view(store, &[&base, &top]);
        after.remove("/socket");
        // The time of the root directory is not part of a layer.
        for tree in [&mut seen, &mut after] {
            tree.remove("/");
        }
        assert_same(&seen, &after);
        assert!(again.usage().unwrap().0 >= 70_000);
        store.remove_snapshot("web").unwrap();
        assert!(store.open_snapshot("web").unwrap_err().is_not_found());
        assert!(store.snapshots().unwrap().is_empty());
    });
}
