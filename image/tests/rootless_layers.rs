//! Layers and snapshots of an ordinary user: directories, mounted by a user namespace of the container's own.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::too_many_lines, reason = "tests")]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "layers_common/mod.rs"]
mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{Raw, add, archive, device, dir, file, hard, is_root, pax, raw, skip, symlink};
use longshore_image::{Ctx, OverlayDirs};

/// Runs the named test again as uid 1000, in a directory which that user owns.
fn as_user(test: &str) {
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(1000), Some(1000)).unwrap();
    let program = scratch.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(&program)
        .args([test, "--exact", "--nocapture"])
        .env("TMPDIR", scratch.path())
        .status();
    assert!(status.unwrap().success(), "{test} as uid 1000");
}

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
        pax(&[("SCHILY.xattr.user.note", b"kept"), ("SCHILY.xattr.security.capability", &[1; 20])]),
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

    drop((snapshot, committed));
    store.remove_snapshot("web").unwrap();
    store.remove_snapshot("after").unwrap();
    drop((base, above, layer));
    store.collect(Ctx::none()).unwrap();
    assert_eq!(std::fs::read_dir(store.path().join("layers")).unwrap().count(), 0);
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
