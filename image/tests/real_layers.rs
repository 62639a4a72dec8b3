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
        Raw { mode: 0o710, ids: (3, 4), ..dir("opt/tool") },
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
        file("opt/tool/x", "implies two, of which nobody speaks of the first"),
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
    let [erofs, directories] = [false, true].map(|directories| {
        let scratch = tempfile::tempdir().unwrap();
        let store = common::store(&scratch.path().join("store"), directories);
        let layers = [&base, &middle, &top].map(|tar| add(&store, tar).unwrap());
        let layers: Vec<_> = layers.iter().collect();
        let mut expected = umoci(&store, &layers, &scratch.path().join("umoci"));
        let mut seen = view(&store, &layers);
        let whole = seen.clone();
        // umoci's directories have the time of what was last made in them where no entry came after; ours that of the entry.
        for tree in [&mut seen, &mut expected] {
            for line in tree.values_mut().filter(|line| line.starts_with('4')) {
                *line = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
            }
        }
        assert_same(&seen, &expected);
        whole
    });
    assert_same(&erofs, &directories);
}

#[test]
fn every_format_of_gnu_tar_is_read_as_gnu_tar_reads_it() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    let top = tempfile::tempdir().unwrap();
    let script = r#"
        mkdir -p root/a/b root/empty && cd root && umask 022
        echo hello > a/b/hello && ln a/b/hello a/hard && ln -s b/hello a/soft
        head -c 100000 /dev/urandom > a/random && : > a/zero && chmod 4755 a/random && chown 1000:2000 a/b
        truncate -s 3M a/sparse && printf x | dd of=a/sparse bs=1 seek=2000000 conv=notrunc status=none
        truncate -s 9G a/huge && printf end | dd of=a/huge bs=1M seek=9000 conv=notrunc status=none
        touch -d 2030-02-01T00:00:00Z a/b/hello && touch -d 1970-01-01T00:00:00Z a/zero
        if [ "$1" != v7 ]; then
            mkfifo a/fifo; mknod null c 1 3; n=$(printf 'n%.0s' $(seq 60)); mkdir -p $n/$n; echo deep > $n/$n/$n
        fi
        if [ "$1" = gnu ] || [ "$1" = oldgnu ] || [ "$1" = posix ]; then
            ln -s $(printf 'y%.0s' $(seq 600)) a/longlink; touch $(printf 'x%.0s' $(seq 250)); chown 3000000:4000000000 a/zero
            touch -d 1960-01-01T00:00:00Z a/b
        fi
        chmod 1777 empty
    "#;
    let formats = ["v7", "ustar", "oldgnu", "gnu", "posix", "posix 0.0", "posix 0.1", "posix 1.0"];
    for (n, how) in formats.into_iter().enumerate() {
        let (format, sparse) = how.split_once(' ').unwrap_or((how, ""));
        let work = top.path().join(n.to_string());
        std::fs::create_dir(&work).unwrap();
        let made =
            Command::new("sh").args(["-ec", script, "sh", format]).current_dir(&work).status().unwrap();
        assert!(made.success(), "{how}");
        if !matches!(format, "oldgnu" | "gnu" | "posix") || how == "posix" {
            // More than its size field can say, or more zeros than one cares to read.
            std::fs::remove_file(work.join("root/a/huge")).unwrap();
        }
        let tar = work.join("made.tar");
        let mut make = Command::new("tar");
        make.args(["-c", "--sort=name", &format!("--format={format}"), "-f"])
            .arg(&tar)
            .arg("-C")
            .arg(work.join("root"));
        match sparse {
            "" if how == "posix" || matches!(format, "v7" | "ustar") => {}
            "" => {
                make.arg("--sparse");
            }
            version => {
                make.args(["--sparse", &format!("--sparse-version={version}")]);
            }
        }
        assert!(make.arg(".").stderr(Stdio::null()).status().unwrap().success(), "{how}");
        let gnu = work.join("gnu");
        untar(&tar, &gnu);
        // Nine gigabytes of zeros are looked at by their end only.
        let huge = |root: &Path| {
            use std::os::unix::fs::FileExt;
            let mut end = vec![0; 8];
            let file = std::fs::File::open(root.join("a/huge")).ok()?;
            file.read_at(&mut end, (9000 << 20) - 2).unwrap();
            Some((file.metadata().unwrap().len(), end))
        };
        let expected_huge = huge(&gnu);
        let _ = std::fs::remove_file(gnu.join("a/huge"));
        let expected = describe_without_times_of(&gnu, &["/", "/a"]);
        for directories in [false, true] {
            let store = common::store(&work.join(format!("store-{directories}")), directories);
            let layer = add(&store, &std::fs::read(&tar).unwrap()).unwrap();
            let snapshot = common::writable(&store, "look", &[&layer]);
            let mount = snapshot.mount().unwrap();
            let root = common::path_of(&mount);
            assert_eq!(huge(&root), expected_huge, "{how}");
            let _ = std::fs::remove_file(root.join("a/huge"));
            assert_same(&describe_without_times_of(&root, &["/", "/a"]), &expected);
        }
    }
}

/// A writable root directory has a time of its own, and something was removed from the other.
fn describe_without_times_of(root: &Path, dirs: &[&str]) -> common::Tree {
    let mut tree = describe(root);
    for dir in dirs {
        let line = tree.get_mut(*dir).unwrap();
        *line = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    }
    tree
}
