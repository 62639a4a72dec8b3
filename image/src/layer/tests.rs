use std::io::Read as _;
use std::process::Command;

use super::*;
use crate::diff::writer::{self, Head};
use crate::testing::{Scratch, assert_same, describe, each_driver, is_root, path_of, skip};
use crate::{Ctx, SnapshotOptions};

/// A tar from (head, content) pairs.
fn tar(entries: &[(Head<'_>, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (head, content) in entries {
        let head = Head { size: content.len() as u64, ..head.clone() };
        writer::head(&mut out, &head).unwrap();
        out.extend_from_slice(content);
        writer::pad(&mut out, head.size).unwrap();
    }
    writer::end(&mut out).unwrap();
    out
}

fn head(path: &str, kind: u8) -> Head<'_> {
    Head { path: path.as_bytes(), kind, mode: 0o755, mtime: 1_700_000_000, ..Head::default() }
}

fn ingest(store: &Scratch, tar: &[u8]) -> Result<Digest> {
    store.layers.ingest(&mut &tar[..], &Limits::default(), Ctx::none()).map(|(id, _)| id)
}

/// Mounts layers under a fresh key and describes what a container would see.
fn view(store: &Scratch, layers: &[Digest]) -> std::collections::BTreeMap<String, String> {
    let key = format!("view-{}", layers.len());
    let snapshot = store
        .snapshots
        .prepare(&key, layers, &SnapshotOptions { read_only: true, ..Default::default() })
        .unwrap();
    let mount = snapshot.mount().unwrap();
    let seen = describe(&path_of(&mount));
    drop(mount);
    store.snapshots.remove(&key).unwrap();
    seen
}

#[test]
fn a_layer_looks_like_what_gnu_tar_unpacks() {
    if !is_root() {
        return skip("needs root to mount");
    }
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
            let id = ingest(store, &made.stdout).unwrap();
            let out = from.path().join(format);
            std::fs::create_dir(&out).unwrap();
            let mut untar = Command::new("tar")
                .args(["-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"])
                .arg(&out)
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            io::Write::write_all(&mut untar.stdin.take().unwrap(), &made.stdout).unwrap();
            assert!(untar.wait().unwrap().success());
            assert_same(&view(store, std::slice::from_ref(&id)), &describe(&out));
            if let Some(mut kept) = store.layers.open_tar(&id).unwrap() {
                let mut bytes = Vec::new();
                kept.read_to_end(&mut bytes).unwrap();
                assert!(bytes == made.stdout, "the tar is kept byte for byte");
            }
            let mut tars = || Some(Box::new(io::Cursor::new(made.stdout.clone())) as Box<dyn Read + Send>);
            assert_eq!(store.layers.verify(&id, &mut tars, Ctx::none()).unwrap(), Verdict::Sound);
        }
        assert_eq!(store.layers.list().unwrap().len(), 2);
    });
}

#[test]
fn whiteouts_hide_what_lies_below() {
    if !is_root() {
        return skip("needs root to mount");
    }
    each_driver(|store| {
        let base = ingest(
            store,
            &tar(&[
                (head("keep/", b'5'), b""),
                (head("keep/a", b'0'), b"a"),
                (head("keep/b", b'0'), b"b"),
                (head("opaque/", b'5'), b""),
                (head("opaque/old", b'0'), b"old"),
                (head("replaced/", b'5'), b""),
                (head("replaced/old", b'0'), b"old"),
                (head("gone/", b'5'), b""),
                (head("gone/old", b'0'), b"old"),
                (head("char", b'0'), b"char"),
            ]),
        )
        .unwrap();
        let top = ingest(
            store,
            &tar(&[
                (head("keep/", b'5'), b""),
                (head("keep/.wh.a", b'0'), b""),
                (head("opaque/new", b'0'), b"new"),
                (head("opaque/.wh..wh..opq", b'0'), b""),
                (head("replaced/", b'5'), b""),
                (head("replaced/new", b'0'), b"new"),
                (head(".wh.replaced", b'0'), b""),
                (head(".wh.gone", b'0'), b""),
                (head("char", b'3'), b""),
                (head(".wh..wh.plnk/1.2", b'0'), b"x"),
            ]),
        )
        .unwrap();
        let seen = view(store, &[base, top]);
        let names: Vec<_> = seen.keys().map(String::as_str).collect();
        assert_eq!(names, ["/", "/keep", "/keep/b", "/opaque", "/opaque/new", "/replaced", "/replaced/new"]);
    });
}

#[test]
fn a_snapshot_keeps_and_tells_its_changes() {
    if !is_root() {
        return skip("needs root to mount");
    }
    each_driver(|store| {
        let base = ingest(
            store,
            &tar(&[
                (Head { mode: 0o711, uid: 7, ..head("./", b'5') }, b""),
                (head("dir/", b'5'), b""),
                (head("dir/file", b'0'), b"file"),
                (head("dir/gone", b'0'), b"gone"),
                (head("old/", b'5'), b""),
                (head("old/file", b'0'), b"file"),
            ]),
        )
        .unwrap();
        let snapshot =
            store.snapshots.prepare("web", std::slice::from_ref(&base), &SnapshotOptions::default()).unwrap();
        assert!(matches!(
            store.snapshots.prepare("web", &[], &SnapshotOptions::default()),
            Err(Error::SnapshotExists { .. })
        ));
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
        let again = store.snapshots.open("web").unwrap();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let outcome = again.diff(&mut one, Ctx::none()).unwrap();
        again.diff(&mut two, Ctx::none()).unwrap();
        assert!(one == two, "a diff is always the same");
        assert_eq!(outcome.bytes, 70_003);
        let top = ingest(store, &one).unwrap();
        let mut seen = view(store, &[base, top]);
        after.remove("/socket");
        // The time of the root directory is not part of a layer.
        for tree in [&mut seen, &mut after] {
            tree.remove("/");
        }
        assert_same(&seen, &after);
        assert!(again.usage().unwrap().0 >= 70_000);
        store.snapshots.remove("web").unwrap();
        assert!(store.snapshots.open("web").unwrap_err().is_not_found());
        assert!(store.snapshots.list().unwrap().is_empty());
    });
}

#[test]
fn the_diff_id_is_checked_before_anything_is_visible() {
    each_driver(|store| {
        let bytes = tar(&[(head("a", b'0'), b"a")]);
        let wrong: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let failed = store.layers.unpack(&wrong, &mut &bytes[..], &Limits::default(), Ctx::none());
        assert!(matches!(failed, Err(Error::DigestMismatch { .. })));
        assert!(store.layers.list().unwrap().is_empty());
        let id = ingest(store, &bytes).unwrap();
        assert!(!store.layers.contains(&wrong) && store.layers.contains(&id));
        store.layers.unpack(&id, &mut &bytes[..], &Limits::default(), Ctx::none()).unwrap();
        assert!(store.layers.usage(&id).unwrap() > 0);
        assert!(store.layers.remove(&id).unwrap() && !store.layers.remove(&id).unwrap());
        assert!(store.layers.list().unwrap().is_empty());
    });
}
