//! Random layers and random changes: both drivers agree, and a diff applied to what it was made from gives what it was made of.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "layers_common/mod.rs"]
mod common;

use std::os::unix::fs::{PermissionsExt, symlink as make_link};
use std::path::Path;

use common::{
    Raw, Tree, add, archive, assert_same, describe, device, dir, file, hard, is_root, path_of, raw, skip,
    symlink, view,
};
use longshore_image::{Ctx, Store};
use proptest::prelude::*;

/// Paths that meet each other often.
fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![8 => "[abc]", 1 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"))
}

fn entry() -> impl Strategy<Value = Raw> {
    let link = prop_oneof![path(), path().prop_map(|p| format!("/{p}"))];
    let kind = prop_oneof![
        4 => (path(), 0..2000_usize).prop_map(|(p, n)| file(p, vec![n as u8; n])),
        4 => path().prop_map(dir),
        3 => (path(), link).prop_map(|(p, to)| symlink(p, to)),
        3 => (path(), path()).prop_map(|(p, to)| hard(p, to)),
        2 => path().prop_map(|p| {
            let at = p.rfind('/').map_or(0, |i| i + 1);
            file(format!("{}.wh.{}", &p[..at], &p[at..]), "")
        }),
        1 => path().prop_map(|p| file(format!("{p}/.wh..wh..opq"), "")),
        1 => path().prop_map(|p| raw(p, b'6')),
        1 => (path(), 0..2_u32).prop_map(|(p, n)| device(p, b'3', n, n)),
    ];
    (kind, 0..0o7777_u32, 0..3_u32, 0..2_000_000_000_u64).prop_map(|(entry, mode, id, mtime)| Raw {
        mode,
        ids: (id, id),
        mtime,
        ..entry
    })
}

/// The layers one above the other, or why one was refused.
fn stack(store: &Store, tars: &[Vec<u8>]) -> Result<Tree, String> {
    let layers: Vec<_> =
        tars.iter().map(|tar| add(store, tar).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    Ok(view(store, &layers.iter().collect::<Vec<_>>()))
}

/// A change to a mounted root; what cannot be done is left out.
#[derive(Clone, Debug)]
enum Change {
    Write(String, usize),
    Dir(String),
    Link(String, String),
    Hard(String, String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Attribute(String, u8),
    Time(String, u32),
}

fn change() -> impl Strategy<Value = Change> {
    // A path with `..` could leave the mount, which is a directory of the host's here.
    let path = || prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        (path(), 0..100_000_usize).prop_map(|(p, n)| Change::Write(p, n)),
        path().prop_map(Change::Dir),
        (path(), path()).prop_map(|(p, to)| Change::Link(p, to)),
        (path(), path()).prop_map(|(p, to)| Change::Hard(p, to)),
        path().prop_map(Change::Remove),
        (path(), path()).prop_map(|(p, to)| Change::Rename(p, to)),
        (path(), 0..0o7777_u32).prop_map(|(p, m)| Change::Mode(p, m)),
        (path(), any::<u8>()).prop_map(|(p, v)| Change::Attribute(p, v)),
        (path(), any::<u32>()).prop_map(|(p, t)| Change::Time(p, t)),
    ]
}

fn apply(root: &Path, change: &Change) {
    use std::fs;
    let at = |path: &str| root.join(path);
    let safe = |path: &str| {
        // Through a link one could get anywhere.
        let parents = Path::new(path).ancestors().filter(|p| !p.as_os_str().is_empty());
        !parents.into_iter().any(|p| root.join(p).is_symlink())
    };
    match change {
        Change::Write(p, n) if safe(p) => fs::write(at(p), vec![*n as u8; *n]),
        Change::Dir(p) if safe(p) => fs::create_dir(at(p)),
        Change::Link(p, to) if safe(p) => make_link(to, at(p)),
        Change::Hard(p, to) if safe(p) && safe(to) => fs::hard_link(at(to), at(p)),
        Change::Remove(p) if safe(p) => fs::remove_file(at(p)).or_else(|_| fs::remove_dir_all(at(p))),
        Change::Rename(p, to) if safe(p) && safe(to) => fs::rename(at(p), at(to)),
        Change::Mode(p, m) if safe(p) => fs::set_permissions(at(p), PermissionsExt::from_mode(*m)),
        Change::Attribute(p, v) if safe(p) => {
            let value = [*v; 3];
            rustix::fs::lsetxattr(at(p), "user.changed", &value, rustix::fs::XattrFlags::empty())
                .map_err(Into::into)
        }
        Change::Time(p, t) if safe(p) => fs::File::open(at(p)).and_then(|f| {
            f.set_modified(
                std::time::UNIX_EPOCH + std::time::Duration::new(u64::from(*t), *t % 1_000_000_000),
            )
        }),
        _ => Ok(()),
    }
    .unwrap_or_default();
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("LONGSHORE_PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn both_drivers_agree() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    let scratch = tempfile::tempdir().unwrap();
    let erofs = common::store(&scratch.path().join("erofs"), false);
    let directory = common::store(&scratch.path().join("directory"), true);
    let layers = prop::collection::vec(prop::collection::vec(entry(), 0..12), 1..4);
    proptest!(cases(), |(layers in layers)| {
        let tars: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
        match (stack(&erofs, &tars), stack(&directory, &tars)) {
            (Ok(one), Ok(two)) => assert_same(&one, &two),
            (one, two) => assert_eq!(one.err(), two.err()),
        }
    });
}

#[test]
fn a_diff_applied_gives_what_it_was_made_of() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    for (directories, copies) in [(false, false), (true, false), (false, true), (true, true)] {
        let scratch = tempfile::tempdir().unwrap();
        let store = common::store(scratch.path(), directories);
        let changing = if copies { common::copying(scratch.path(), directories) } else { store.clone() };
        let base = archive(&[
            dir("a"),
            dir("a/a"),
            file("a/a/a", "1"),
            file("a/b", "2"),
            dir("b"),
            file("b/a", "3"),
            hard("b/b", "b/a"),
            symlink("b/c", "a"),
            file("c", "4"),
        ]);
        let base = add(&store, &base).unwrap();
        let changes = prop::collection::vec(change(), 1..25);
        proptest!(cases(), |(changes in changes)| {
            let snapshot = common::writable(&changing, "changing", &[&base]);
            let mount = snapshot.mount().unwrap();
            changes.iter().for_each(|change| apply(&path_of(&mount), change));
            drop(mount);
            // While it is mounted, new names of one file may have different numbers.
            let mount = snapshot.mount().unwrap();
            let mut expected = describe(&path_of(&mount));
            drop(mount);
            // The time of the root directory is not part of a layer.
            expected.remove("/");
            let commit = |snapshot| {
                let layer = store.commit_layer(snapshot, &Default::default(), Ctx::none()).unwrap();
                let mut seen = view(&store, &[&base, &layer]);
                seen.remove("/");
                assert_same(&seen, &expected);
            };
            commit(&snapshot);
            if copies && changes.len() % 4 == 0 {
                // Elsewhere the kernel's notes of what has changed are lost: all is compared.
                let all = scratch.path().join("snapshots");
                let mut moved = std::process::Command::new("cp");
                moved.arg("-a").args([all.join("changing"), all.join("moved")]);
                assert!(moved.status().unwrap().success());
                commit(&store.open_snapshot("moved").unwrap());
                store.remove_snapshot("moved").unwrap();
            }
            store.remove_snapshot("changing").unwrap();
        });
    }
}

#[test]
fn all_of_it_with_a_range_of_ids() {
    common::all_with_range("all_of_it_with_a_range_of_ids");
}

/// A copy is what the overlay shows.
#[test]
fn a_copy_is_like_the_mount() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    for directories in [false, true] {
        let scratch = tempfile::tempdir().unwrap();
        let store = common::store(scratch.path(), directories);
        let copying = common::copying(scratch.path(), directories);
        let layers = prop::collection::vec(prop::collection::vec(entry(), 0..12), 1..4);
        proptest!(cases(), |(layers in layers)| {
            let tars: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
            let layers: Result<Vec<_>, _> = tars.iter().map(|tar| add(&store, tar)).collect();
            let Ok(layers) = layers else { return Ok(()) };
            let layers: Vec<_> = layers.iter().collect();
            let snapshot = common::writable(&copying, "copy", &layers);
            let mut copied = describe(&snapshot.root().unwrap());
            let mut nothing = Vec::new();
            assert_eq!(snapshot.diff(&mut nothing, Ctx::none()).unwrap().entries, 0);
            store.remove_snapshot("copy").unwrap();
            let mut shown = view(&store, &layers);
            // Overlay says how many names a file has in its layer, also where some are hidden.
            for line in copied.values_mut().chain(shown.values_mut()) {
                if let Some((count, _)) = line.split_once(" links, first") {
                    *line = count.rsplit_once(' ').unwrap().0.to_owned();
                }
            }
            assert_same(&copied, &shown);
        });
    }
}
