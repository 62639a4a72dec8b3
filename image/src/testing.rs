//! What this crate's own tests share.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::dir::StoreDir;
use crate::layer::Layers;
use crate::snapshot::Snapshots;
use crate::{Durability, StoreOptions};

/// A store directory with nothing but layers and snapshots in it.
pub(crate) struct Scratch {
    pub(crate) layers: Layers,
    pub(crate) snapshots: Snapshots,
    _dir: tempfile::TempDir,
}

pub(crate) fn scratch(directories: bool) -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tmp", "locks"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let options = StoreOptions { durability: Durability::None, directories, ..StoreOptions::default() };
    let store = StoreDir::new(dir.path().to_owned(), options);
    let layers = Layers::open(&store).unwrap();
    let snapshots = Snapshots::open_all(&store, &layers).unwrap();
    Scratch { layers, snapshots, _dir: dir }
}

/// Both drivers, or what of them works here.
pub(crate) fn each_driver(test: impl Fn(&Scratch)) {
    let first = scratch(false);
    if first.layers.mounts_erofs() {
        test(&first);
    } else {
        skip("no right or no kernel to mount EROFS files");
    }
    test(&scratch(true));
}

/// Says why a test did not run; where everything is there by agreement, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "must not be skipped: {reason}");
    eprintln!("skipped: {reason}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The path under which a detached mount can be walked.
pub(crate) fn path_of(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/", mount.as_raw_fd()).into()
}

/// Everything about a tree that a container could see, one line for each name.
pub(crate) fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut links: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let path = root.join(&relative);
        let shown = format!("/{}", relative.display());
        let meta =
            if relative.as_os_str().is_empty() { std::fs::metadata(&path) } else { path.symlink_metadata() };
        let meta = meta.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut line = format!(
            "{:o} {}:{} {}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_dir() {
            let mut below: Vec<_> =
                std::fs::read_dir(&path).unwrap().map(|e| relative.join(e.unwrap().file_name())).collect();
            below.sort();
            below.reverse();
            todo.extend(below);
        } else if meta.is_file() {
            let content = std::fs::read(&path).unwrap();
            let sum = content.iter().fold(0_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
            line += &format!(" {} bytes {sum:x}", content.len());
        } else if meta.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
        } else {
            line += &format!(" device {:x}", meta.rdev());
        }
        if meta.nlink() > 1 && !meta.is_dir() {
            let first = links.entry((meta.dev(), meta.ino())).or_insert_with(|| shown.clone());
            line += &format!(" {} links, first {first}", meta.nlink());
        }
        for (name, value) in xattrs(&path) {
            line += &format!(" {name}={}", String::from_utf8_lossy(&value).escape_debug());
        }
        all.insert(shown, line);
    }
    all
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65536];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.insert(String::from_utf8_lossy(name).into_owned(), value[..n].to_vec());
    }
    found
}

/// Panics with the lines that differ, not with two whole trees.
pub(crate) fn assert_same(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) {
    let mut wrong = Vec::new();
    for key in left.keys().chain(right.keys()).collect::<std::collections::BTreeSet<_>>() {
        if left.get(key) != right.get(key) {
            wrong.push(format!("{key}\n  {:?}\n  {:?}", left.get(key), right.get(key)));
        }
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "differ:\n{}", wrong.join("\n"));
}
