//! Sparse files: content where it was, holes where they were, with both drivers and all of GNU tar's formats.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "layers_common/mod.rs"]
mod common;

use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::{Tree, add, assert_same, is_root, skip};
use longshore_image::SnapshotOptions;

fn make(path: &Path, size: u64, regions: &[(u64, usize)]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (i, (offset, length)) in regions.iter().enumerate() {
        let content: Vec<u8> = (0..*length).map(|n| (n / 7 + i) as u8 | 1).collect();
        file.write_all_at(&content, *offset).unwrap();
    }
}

#[test]
fn content_and_holes_are_where_they_were() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    std::fs::create_dir(&root).unwrap();
    make(&root.join("pages"), 1 << 20, &[(0, 4096), (65_536, 8192), (1_044_480, 4096)]);
    make(&root.join("head"), 3_000_001, &[(0, 5000)]);
    make(&root.join("tail"), 3_000_001, &[(2_999_000, 1001)]);
    make(&root.join("middle"), 20_000_000, &[(10_000_000, 100_000), (15_000_000, 10)]);
    make(&root.join("hole"), 5_000_000, &[]);
    make(&root.join("many"), 20 << 20, &(0..1000).map(|i| (i * 20_480, 4096)).collect::<Vec<_>>());
    make(&root.join("huge"), 30 << 30, &[(0, 292), (29 << 30, 292)]);
    let expected = describe(&root);
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=1.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=0.0"],
    ];
    for format in formats {
        let tar = scratch.path().join("sparse.tar");
        let mut gnu = Command::new("tar");
        gnu.args(["-cS", "--hole-detection=seek"]).args(format).arg("-f").arg(&tar).arg("-C").arg(&root);
        assert!(gnu.arg(".").status().unwrap().success());
        assert!(std::fs::metadata(&tar).unwrap().len() < 10 << 20);
        for directories in [false, true] {
            let store = common::store(&scratch.path().join(format!("store-{directories}")), directories);
            let layer = add(&store, &std::fs::read(&tar).unwrap()).unwrap();
            let used = store.disk_usage().unwrap().layers;
            assert!(used < 60 << 20, "{used} bytes for layers of holes");
            let mut options = SnapshotOptions::default();
            options.read_only = true;
            let ids = std::slice::from_ref(&layer.diff_id);
            let snapshot = store.snapshot_layers("sparse", ids, &options).unwrap();
            let mount = snapshot.mount().unwrap();
            assert_same(&describe(&common::path_of(&mount)), &expected);
            drop(mount);
            store.remove_snapshot("sparse").unwrap();
        }
    }
}

/// Sizes, and what is where, without reading gigabytes of zeros.
fn describe(root: &Path) -> Tree {
    let mut tree = Tree::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let file = std::fs::File::open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        let ranges = if size > 1 << 30 {
            vec![(0, 1 << 20), ((29 << 30) - (1 << 20), (29 << 30) + (1 << 20)), (size - (1 << 20), size)]
        } else {
            vec![(0, size)]
        };
        let (mut sum, mut buffer) = (DefaultHasher::new(), vec![0; 1 << 20]);
        for (mut at, end) in ranges {
            while at < end {
                let n = file.read_at(&mut buffer, at).unwrap();
                assert!(n > 0, "{} ends at {at} of {size}", path.display());
                // Pieces begin where they begin in the file, however much was read at once.
                for (i, piece) in
                    buffer[..n].chunks(512).enumerate().filter(|(_, p)| *p != &[0; 512][..p.len()])
                {
                    sum.write_u64(at + 512 * i as u64);
                    sum.write(piece);
                }
                at += n as u64;
            }
        }
        tree.insert(
            format!("/{}", path.file_name().unwrap().display()),
            format!("{size} bytes {:x}", sum.finish()),
        );
    }
    tree
}
