//! `verify` proves what a container will see, and repair brings it back; temporary snapshots go with their owner.

#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use common::{Source, settled, stores};
use longshore_image::{Ctx, Error, ImportOptions, Problem, SnapshotOptions, Store, VerifyOptions};

fn layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder.append_data(&mut header, path, content).unwrap();
    };
    use tar::EntryType as T;
    put("etc/", T::Directory, 0o755, "", b"");
    put("etc/passwd", T::Regular, 0o644, "", b"root:x:0:0::/root:/bin/sh\n");
    put("etc/mtab", T::Symlink, 0o777, "/proc/mounts", b"");
    put("etc/other", T::Link, 0o644, "etc/passwd", b"");
    put("etc/.wh.gone", T::Regular, 0o644, "", b"");
    put("srv/", T::Directory, 0o750, "", b"");
    put("srv/.wh..wh..opq", T::Regular, 0o644, "", b"");
    put("srv/shut", T::Regular, 0o000, "", b"nobody may read it");
    put("srv/twice", T::Regular, 0o644, "", b"first");
    put("srv/twice", T::Regular, 0o644, "", b"second");
    put("usr/lib/deep/file", T::Regular, 0o755, "", &[7; 300_000]);
    builder.into_inner().unwrap()
}

fn pulled(store: &Store) -> (Source, longshore_image::Image) {
    let mut source = Source::default();
    let root = source.image(&[layer()]);
    let mut options = ImportOptions::default();
    options.names.push("x".to_owned());
    let image = store.import(&source, &root, &options, Ctx::none()).unwrap().image;
    (source, image)
}

fn problems(store: &Store, repair: bool) -> Vec<Problem> {
    let mut options = VerifyOptions::default();
    options.repair = repair;
    store.verify(&options, Ctx::none()).unwrap().problems
}

fn in_layers(store: &Store) -> PathBuf {
    fs::read_dir(store.path().join("layers")).unwrap().next().unwrap().unwrap().path()
}

/// Changes a file and gives it back the time that it had, as a failing disk would.
fn unseen(path: &Path, change: impl FnOnce(&Path)) {
    let before = fs::symlink_metadata(path).unwrap().modified().unwrap();
    change(path);
    fs::File::options().read(true).open(path).unwrap().set_modified(before).unwrap();
}

#[test]
fn every_change_of_a_directory_layer_is_seen_and_mended() {
    let (_temp, store) = stores().remove(1);
    let (_source, image) = pulled(&store);
    assert_eq!(problems(&store, false), []);
    let root = in_layers(&store).join("fs");
    let sound = common::listing(&root);
    let privileged = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    type Change = fn(&Path);
    let mut changes: Vec<(&str, Change)> = vec![
        ("content", |root| {
            unseen(&root.join("usr/lib/deep/file"), |path| {
                fs::File::options().write(true).open(path).unwrap().write_all_at(&[8], 200_000).unwrap();
            });
        }),
        ("length", |root| {
            unseen(&root.join("etc/passwd"), |path| {
                fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            });
        }),
        ("mode", |root| {
            fs::set_permissions(root.join("etc/passwd"), fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("mode of a directory", |root| {
            fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("time", |root| {
            let file = fs::File::open(root.join("usr/lib/deep/file")).unwrap();
            file.set_modified(std::time::SystemTime::now()).unwrap();
        }),
        ("more", |root| unseen(&root.join("usr"), |path| fs::write(path.join("more"), "").unwrap())),
        ("less", |root| unseen(&root.join("srv"), |path| fs::remove_file(path.join("twice")).unwrap())),
        ("whiteout", |root| unseen(&root.join("etc"), |path| fs::remove_file(path.join("gone")).unwrap())),
        ("link target", |root| {
            unseen(&root.join("etc"), |path| {
                fs::remove_file(path.join("mtab")).unwrap();
                symlink("/etc/shadow", path.join("mtab")).unwrap();
            });
        }),
        ("a name of its own", |root| {
            unseen(&root.join("etc"), |path| {
                fs::remove_file(path.join("other")).unwrap();
                fs::copy(path.join("passwd"), path.join("other")).unwrap();
                let time = fs::metadata(path.join("passwd")).unwrap().modified().unwrap();
                fs::File::open(path.join("other")).unwrap().set_modified(time).unwrap();
            });
        }),
        ("record", |root| {
            fs::write(root.with_file_name("layer.json"), r#"{"entries":1,"bytes":2}"#).unwrap();
        }),
    ];
    if privileged {
        changes.push(("owner", |root| chown(root.join("etc/passwd"), Some(7), Some(7)).unwrap()));
        changes.push(("opaque", |root| {
            common::run("setfattr", &["-x", "trusted.overlay.opaque", root.join("srv").to_str().unwrap()]);
        }));
    }
    for (what, change) in changes {
        change(&root);
        let found = problems(&store, false);
        assert!(
            matches!(&found[..], [Problem::DamagedLayer { diff_id, .. }] if *diff_id == image.diff_ids()[0]),
            "{what}: {found:?}"
        );
        assert_eq!(problems(&store, true).len(), 1, "{what}");
        assert_eq!(problems(&store, false), [], "{what}: not mended");
        assert_eq!(common::listing(&root), sound, "{what}");
    }
}

#[test]
fn every_byte_of_an_erofs_layer_counts() {
    let (_temp, store) = stores().remove(0);
    let (_source, image) = pulled(&store);
    let path = in_layers(&store);
    if path.is_dir() {
        return common::skip("this kernel or user mounts no EROFS files");
    }
    let sound = fs::read(&path).unwrap();
    // Head and superblock, tar, inodes and directories, record: some of each.
    let places = (0..sound.len()).step_by(sound.len() / 150).chain([20, 40, 1030, sound.len() - 3]);
    for place in places {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[sound[place] ^ 0x10], place as u64).unwrap();
        let found = problems(&store, false);
        assert!(
            matches!(&found[..], [Problem::DamagedLayer { diff_id, .. }] if *diff_id == image.diff_ids()[0]),
            "byte {place}: {found:?}"
        );
        file.write_all_at(&[sound[place]], place as u64).unwrap();
    }
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 64], sound.len() as u64 - 2000).unwrap();
    assert_eq!(problems(&store, true).len(), 1);
    assert_eq!(problems(&store, false), []);
    assert_eq!(fs::read(&path).unwrap(), sound);
}

#[test]
fn a_directory_without_a_blob_is_not_called_sound() {
    let (_temp, store) = stores().remove(1);
    let (source, image) = pulled(&store);
    let blob = image.manifest().layers()[0].digest();
    fs::remove_file(store.path().join("blobs/sha256").join(blob.digest())).unwrap();
    let found = problems(&store, true);
    let unproven = Problem::UnprovenLayer { diff_id: image.diff_ids()[0].clone() };
    assert!(found.contains(&unproven) && found.len() == 2, "{found:?}");
    let mut options = ImportOptions::default();
    options.names.push("x".to_owned());
    store.import(&source, image.target(), &options, Ctx::none()).unwrap();
    assert_eq!(problems(&store, false), []);
}

#[test]
fn temporary_snapshots_go_with_their_owner() {
    for (_temp, store) in stores() {
        let (_source, image) = pulled(&store);
        let mut options = SnapshotOptions::default();
        options.temporary = true;
        let alive = store.snapshot_layers("alive", image.diff_ids(), &options).unwrap();
        let dead = store.snapshot_layers("dead", image.diff_ids(), &options).unwrap();
        store.snapshot("kept", &image).unwrap();
        drop(dead.clone());
        assert_eq!(store.sweep_snapshots().unwrap(), Vec::<String>::new());
        // As a process that was killed: nobody removes it.
        drop(dead);
        let other = Store::open(store.path()).unwrap();
        assert!(matches!(other.open_snapshot("dead"), Ok(s) if s.key() == "dead"));
        assert_eq!(other.sweep_snapshots().unwrap(), ["dead"]);
        assert!(matches!(store.open_snapshot("dead"), Err(Error::NoSuchSnapshot { .. })));
        drop(alive);
        other.collect(Ctx::none()).unwrap();
        let keys: Vec<_> = store.snapshots().unwrap().iter().map(|s| s.key().to_owned()).collect();
        assert_eq!(keys, ["kept"]);
    }
}

#[test]
fn what_was_removed_is_gone_once_the_store_has_settled() {
    for (_temp, store) in stores() {
        let empty = settled(&store);
        drop(pulled(&store));
        store.remove("x", false).unwrap();
        store.collect(Ctx::none()).unwrap();
        store.settle();
        assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
        let now = settled(&store);
        assert_eq!(now.len(), empty.len(), "{now:?}");
    }
}

#[test]
fn the_index_that_grew_is_the_index_made_anew() {
    let (_temp, store) = stores().remove(0);
    let (mut source, image) = pulled(&store);
    let other = source.image(&[layer(), common::tar(&[("own", b"x")])]);
    let mut options = ImportOptions::default();
    options.names = vec!["odd \u{22}name\u{22}".replace(' ', "_"), "y".to_owned()];
    store.import(&source, &other, &options, Ctx::none()).unwrap();
    for name in ["a", "b", "c", "x", "y"] {
        store.tag(&image, name).unwrap();
    }
    store.remove("b", false).unwrap();
    let index = store.path().join("index.json");
    let grown = fs::read(&index).unwrap();
    let made = |store: &Store| {
        drop(Store::open(store.path()).unwrap());
        assert!(!store.path().join("index.stale").exists());
        fs::read(&index).unwrap()
    };
    fs::remove_file(&index).unwrap();
    assert_eq!(made(&store), grown);
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&grown).unwrap()["manifests"].as_array().unwrap().len(),
        5
    );
    // As after a crash between a name and the index.
    fs::write(store.path().join("index.stale"), "").unwrap();
    fs::write(&index, "{}").unwrap();
    assert_eq!(made(&store), grown);
    fs::write(&index, "not of ours").unwrap();
    store.tag(&image, "d").unwrap();
    store.remove("d", false).unwrap();
    assert_eq!(made(&store), grown);
}
