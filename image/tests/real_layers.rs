//! Real and odd archives: what a container sees is what GNU tar and umoci unpack.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::too_many_lines, reason = "tests")]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "layers_common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{
    Raw, add, archive, assert_same, describe, device, dir, file, hard, is_root, pax, raw, skip, symlink, view,
};
use longshore_image::{ImageSpec, Layer, Store};

/// GNU tar's idea of the archive.
fn untar(tar: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let status = Command::new("tar")
        .args(["-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f"])
        .arg(tar)
        .arg("-C")
        .arg(to)
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn debian_is_what_gnu_tar_unpacks() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    let Some(tar) = std::env::var_os("LONGSHORE_DEBIAN_TAR") else {
        return skip("LONGSHORE_DEBIAN_TAR does not name a Debian root file system");
    };
    let top = tempfile::tempdir().unwrap();
    let expected = top.path().join("gnu");
    untar(Path::new(&tar), &expected);
    let expected = describe(&expected);
    for directories in [false, true] {
        let store = common::store(&top.path().join(format!("store-{directories}")), directories);
        let layer = add(&store, &std::fs::read(&tar).unwrap()).unwrap();
        assert!(layer.entries > 5000);
        assert_same(&view(&store, &[&layer]), &expected);
    }
}

/// Names the layers as an image, and lets umoci unpack it from the store's own directory.
fn umoci(store: &Store, layers: &[&Layer], to: &Path) -> common::Tree {
    let mut spec = ImageSpec::default();
    spec.layers = layers.iter().map(|l| (*l).clone()).collect();
    spec.names = vec!["odd".to_owned()];
    spec.config.oci = serde_json::from_str(
        r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
    )
    .unwrap();
    store.create_image(&spec).unwrap();
    let image = format!("{}:odd", store.path().display());
    let out = Command::new("umoci").args(["raw", "unpack", "--image", &image]).arg(to).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    describe(to)
}

#[test]
fn odd_but_honest_layers_are_what_umoci_unpacks() {
    if !is_root() || Command::new("umoci").arg("--version").output().is_err() {
        return skip("needs root and umoci");
    }
    let gnu_long = |name: &str| Raw {
        content: format!("{name}\0").into_bytes(),
        gnu: true,
        ..raw("././@LongLink", b'L')
    };
    let long = format!("long/{}", "n".repeat(200));
    let base = archive(&[
        Raw { mode: 0o750, ids: (1, 2), ..dir("./") },
        dir("etc"),
        file("etc/passwd", "root"),
        file("./etc//./group", "root"),
        Raw { mtime: 0, ..file("/usr/bin/tool", "tool") },
        symlink("bin", "usr/bin"),
        file("bin/through", "a link"),
        symlink("abs", "/usr"),
        file("abs/share", "through an absolute link"),
        dir("d"),
        file("d/1", "1"),
        file("d/2", "2"),
        dir("d/sub"),
        file("d/sub/3", "3"),
        hard("d/hard", "d/1"),
        hard("hardsym", "bin"),
        file("seven", "7"),
        Raw { kind: 0, patch: |b| b[257..265].fill(0), ..file("v7", "v7") },
        Raw { kind: 0, patch: |b| b[257..265].fill(0), ..file("v7dir/", "") },
        gnu_long(&long),
        Raw { gnu: true, ..file("x", "long") },
        device("null", b'3', 1, 3),
        device("blk", b'4', 259, 70_000),
        raw("fifo", b'6'),
        pax(&[("path", "d/ü-\u{1F980}".as_bytes()), ("mtime", b"1500000000.25")]),
        file("x", "unicode"),
        file("twice", "first"),
        Raw { mode: 0o600, ..file("twice", "second") },
        dir("was-dir"),
        file("was-dir/x", "x"),
        file("was-dir", "a file now"),
        file("was-file", "x"),
        dir("was-file"),
        file("was-file/x", "x"),
        Raw { mode: 0o2770, ids: (3, 4), ..dir("srv") },
        pax(&[("SCHILY.xattr.user.a", b"b")]),
        Raw { mode: 0o700, ids: (3, 4), ..dir("srv/www") },
        Raw { mode: 0o1777, ..dir("tmp") },
        Raw { mode: 0o4711, ids: (5, 6), ..file("suid", "s") },
    ]);
    let middle = archive(&[
        file("etc/.wh.group", ""),
        dir("d"),
        file("d/.wh..wh..opq", ""),
        file("d/new", "new"),
        file(".wh.seven", ""),
        dir("was-dir"),
        file("was-dir/again", "a directory"),
        file(".wh.nothing", ""),
        file("srv/www/html/x", "implies three"),
    ]);
    let top = archive(&[
        file("seven", "back"),
        dir("d"),
        file("d/.wh.new", ""),
        dir("d/sub"),
        file("d/sub/fresh", "x"),
        symlink("was-file", "d"),
        Raw { mode: 0o700, ids: (9, 9), ..dir("etc") },
    ]);
    for directories in [false, true] {
        let scratch = tempfile::tempdir().unwrap();
        let store = common::store(&scratch.path().join("store"), directories);
        let layers = [&base, &middle, &top].map(|tar| add(&store, tar).unwrap());
        let layers: Vec<_> = layers.iter().collect();
        let mut expected = umoci(&store, &layers, &scratch.path().join("umoci"));
        let mut seen = view(&store, &layers);
        // umoci's directories have the time of what was last made in them where no entry came after; ours that of the entry.
        for tree in [&mut seen, &mut expected] {
            for line in tree.values_mut().filter(|line| line.starts_with('4')) {
                *line = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
            }
        }
        assert_same(&seen, &expected);
    }
}
