//! Where mounts may go, what they come from, and where links of the image lead them.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use common::{World, also_unprivileged, id, is_root};
use longshore_runtime::CreateOptions;
use oci_spec::runtime::{LinuxIdMappingBuilder, Mount, Spec};

fn mount(spec: &mut Spec, kind: &str, source: impl Into<PathBuf>, to: &str, options: &[&str]) {
    let mut mount = Mount::default();
    mount.set_destination(to.into()).set_typ(Some(kind.to_owned())).set_source(Some(source.into()));
    mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
    spec.mounts_mut().as_mut().unwrap().push(mount);
}

/// A directory beside the root file system, with a file.
fn data(world: &World) -> PathBuf {
    let data = world.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content\n").unwrap();
    data
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2025-52881: nothing covers a procfs, neither by name nor through a link of the image, but the files
/// that LXCFS stands in for.
#[test]
fn nothing_covers_a_procfs() {
    let Some(world) = World::new() else { return };
    let data = data(&world);
    symlink("/proc/self", world.rootfs().join("link")).unwrap();
    symlink("proc/sys/kernel/../..", world.rootfs().join("etc/../deep")).unwrap();
    for (kind, source, to) in [
        ("bind", data.clone(), "/proc"),
        ("bind", data.clone(), "/proc/self"),
        ("bind", data.join("file"), "/proc/self/attr/exec"),
        ("bind", data.join("file"), "/proc/sys/kernel/core_pattern"),
        ("bind", data.clone(), "/./proc//../proc/sys"),
        ("bind", data.clone(), "/link/attr"),
        ("bind", data.clone(), "/deep/sys"),
        ("tmpfs", "tmpfs".into(), "/proc"),
        ("tmpfs", "tmpfs".into(), "/proc/self/attr"),
        ("tmpfs", "tmpfs".into(), "/link/attr"),
        ("sysfs", "sysfs".into(), "/proc"),
        ("proc", "proc".into(), "/proc/sys"),
    ] {
        let mut spec = world.spec(&["true"]);
        mount(&mut spec, kind, source, to, if kind == "bind" { &["rbind"] } else { &[] });
        let error = world.runtime.create(&id("proc"), &spec, CreateOptions::default()).unwrap_err();
        assert!(error.to_string().contains("proc"), "{kind} at {to}: {error}");
    }
    let mut spec = world.spec(&["cat", "/proc/uptime"]);
    mount(&mut spec, "bind", data.join("file"), "/proc/uptime", &["bind"]);
    assert_eq!(world.run(&id("proc"), &spec).1, "content\n");
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("nothing_covers_a_procfs");
}

/// A target whose way goes over links, absolute and dangling ones, is made where they lead inside the root, as docker and runc do.
#[test]
fn links_on_the_way_to_a_target() {
    let Some(world) = World::new() else { return };
    let (root, data) = (world.rootfs(), data(&world));
    for (link, to) in [
        ("absolute", "/made/absolute"),
        ("relative", "made/relative"),
        ("up", "../../../../made/up"),
        ("chain", "/absolute/../chain"),
        ("for-file", "/made/by/file"),
        ("etc/long", "/made/./long/../long"),
    ] {
        symlink(to, root.join(link)).unwrap();
    }
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "cat /absolute/file /relative/file /up/file /chain/sub/file /for-file /etc/long/a/b/file /new/er/file",
    ]);
    for to in ["/absolute", "/relative", "/up", "/chain/sub", "/etc/long/a/b", "/new/er"] {
        mount(&mut spec, "bind", &data, to, &["bind"]);
    }
    mount(&mut spec, "bind", data.join("file"), "/for-file", &["bind"]);
    let (code, out, err) = world.run(&id("links"), &spec);
    assert_eq!((code, out.lines().count()), (0, 7), "{out} {err}");
    for made in ["absolute", "relative", "up", "chain/sub", "long/a/b"] {
        assert!(root.join("made").join(made).is_dir(), "{made}");
    }
    assert_eq!(fs::read(root.join("made/by/file")).unwrap(), b"");
    assert!(!world.dir.path().join("made").exists() && !Path::new("/made").exists());

    symlink("loop-b", root.join("loop-a")).unwrap();
    symlink("loop-a", root.join("loop-b")).unwrap();
    symlink("bin/sh/none", root.join("through-a-file")).unwrap();
    for to in ["/loop-a", "/loop-a/x", "/through-a-file", "/through-a-file/x"] {
        let mut spec = world.spec(&["true"]);
        mount(&mut spec, "bind", &data, to, &["bind"]);
        let error = world.runtime.create(&id("links"), &spec, CreateOptions::default()).unwrap_err();
        assert!(error.to_string().contains("target"), "{to}: {error}");
    }
    also_unprivileged("links_on_the_way_to_a_target");
}

/// A source that the caller has opened is the one that is mounted, whatever lies at its path by then.
#[test]
fn sources_by_descriptor() {
    let Some(world) = World::new() else { return };
    let data = data(&world);
    let other = world.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "other\n").unwrap();
    let open = |path: &Path| -> OwnedFd {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
    };
    let mut spec = world.spec(&["sh", "-c", "cat /dir/file /one; touch /dir/x"]);
    mount(&mut spec, "bind", "/nonexistent", "/dir", &["rbind", "ro"]);
    mount(&mut spec, "bind", "/nonexistent", "/one", &["bind"]);
    let sources = || vec![("/dir".into(), open(&data)), ("/one".into(), open(&data.join("file")))];
    let mut options = world.piped();
    options.mount_sources = sources();
    let mut running = world.runtime.create(&id("fd"), &spec, options).unwrap().start().unwrap();
    assert_eq!(common::read(running.take_stdio(1)), "content\ncontent\n");
    assert!(common::read(running.take_stdio(2)).contains("ead-only"));
    running.wait(None).unwrap();
    drop(running);

    let mut options = world.piped();
    options.mount_sources = sources();
    fs::rename(&data, world.dir.path().join("away")).unwrap();
    symlink(&other, &data).unwrap();
    match world.runtime.create(&id("fd"), &spec, options).and_then(longshore_runtime::Created::start) {
        Ok(mut running) => assert_eq!(common::read(running.take_stdio(1)), "content\ncontent\n"),
        // Without privileges it is found again by its path, or not at all.
        Err(error) => assert!(!common::is_root(), "{error}"),
    }
    let mut options = CreateOptions::default();
    options.mount_sources = vec![("/nowhere".into(), open(&other))];
    let error = world.runtime.create(&id("fd"), &spec, options).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
    also_unprivileged("sources_by_descriptor");
}

/// `idmap`: files of the source belong to others inside, for a container with and without a user namespace.
#[test]
fn ids_of_a_mount() {
    let Some(world) = World::new() else { return };
    let data = data(&world);
    let script = "stat -c %u:%g /data /data/file; touch /data/made";
    let mapping = |inside: u32, outside: u32, size: u32| {
        LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(size).build().unwrap()
    };
    let mut spec = world.spec(&["sh", "-c", script]);
    mount(&mut spec, "bind", &data, "/data", &["rbind", "ridmap"]);
    if !is_root() {
        let error = world.runtime.create(&id("idmap"), &spec, CreateOptions::default()).unwrap_err();
        assert!(matches!(error, longshore_runtime::Error::Unsupported { .. }), "{error:?}");
        return;
    }
    let error = world.runtime.create(&id("idmap"), &spec, CreateOptions::default()).unwrap_err();
    assert!(error.to_string().contains("uidMappings"), "{error}");

    std::os::unix::fs::chown(&data, Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(1005), Some(1006)).unwrap();
    let mapped = spec.mounts_mut().as_mut().unwrap().last_mut().unwrap();
    mapped.set_options(Some(vec!["bind".into()]));
    mapped
        .set_uid_mappings(Some(vec![mapping(1000, 0, 10)]))
        .set_gid_mappings(Some(vec![mapping(1001, 0, 10)]));
    assert_eq!(world.run(&id("idmap"), &spec).1, "0:0\n5:5\n");
    let made = fs::metadata(data.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1001));
    // The same of a source that the caller has opened.
    spec.mounts_mut().as_mut().unwrap().last_mut().unwrap().set_source(Some("/nonexistent".into()));
    let mut options = world.piped();
    options.mount_sources = vec![("/data".into(), fs::File::open(&data).unwrap().into())];
    let created = world.runtime.create(&id("idmap"), &spec, options);
    let mut running = created.and_then(longshore_runtime::Created::start).unwrap();
    assert_eq!(common::read(running.take_stdio(1)), "0:0\n5:5\n");
    drop(running);

    // A user namespace: what is root's on disk is root's inside, whom the host knows as 100000.
    let root = std::os::unix::fs::chown::<&Path>;
    root(&data, Some(0), Some(0)).unwrap();
    root(&data.join("file"), Some(7), Some(8)).unwrap();
    fs::remove_file(data.join("made")).unwrap();
    let mut spec = world.spec(&["sh", "-c", script]);
    mount(&mut spec, "bind", &data, "/data", &["rbind", "ridmap", "nosuid"]);
    let linux = spec.linux_mut().as_mut().unwrap();
    let mut users = oci_spec::runtime::LinuxNamespace::default();
    users.set_typ(oci_spec::runtime::LinuxNamespaceType::User);
    linux.namespaces_mut().as_mut().unwrap().push(users);
    let map = Some(vec![mapping(0, 100_000, 65_536)]);
    linux.set_uid_mappings(map.clone()).set_gid_mappings(map);
    let (code, out, err) = world.run(&id("idmap"), &spec);
    assert_eq!((code, out.as_str()), (0, "0:0\n7:8\n"), "{err}");
    assert_eq!(fs::metadata(data.join("made")).unwrap().uid(), 0);
    also_unprivileged("ids_of_a_mount");
}

/// `tmpcopyup`: what the image has there is in the tmpfs that covers it, and stays untouched itself.
#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    let Some(world) = World::new() else { return };
    let var = world.rootfs().join("var");
    fs::create_dir_all(var.join("deep/er")).unwrap();
    fs::create_dir(world.dir.path().join("outside")).unwrap();
    fs::write(world.dir.path().join("outside/file"), "outside").unwrap();
    fs::write(var.join("deep/er/file"), "x".repeat(100_000)).unwrap();
    fs::write(var.join("program"), "").unwrap();
    symlink(world.dir.path().join("outside"), var.join("link")).unwrap();
    for (name, mode) in [("program", 0o4755), ("deep", 0o1770), ("", 0o750)] {
        fs::set_permissions(var.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    for n in 0..300 {
        fs::write(var.join(format!("deep/a-name-that-takes-its-place-{n}")), "").unwrap();
    }
    let script = "mkfifo /etc/fifo 2>/dev/null; cd /var; stat -c '%a %F %s %u:%g %n' . program deep deep/er/file; readlink link; ls deep | wc -l; \
                  wc -c <deep/er/file; touch new 2>/dev/null && echo writable; stat -f -c %T . ; exit 0";
    for (options, writable) in [(&["tmpcopyup", "nosuid"][..], true), (&["tmpcopyup", "ro"], false)] {
        let mut spec = world.spec(&["sh", "-c", script]);
        mount(&mut spec, "tmpfs", "tmpfs", "/var", options);
        let (code, out, err) = world.run(&id("copyup"), &spec);
        let out: Vec<_> = out.lines().collect();
        assert_eq!(code, 0, "{out:?} {err}");
        assert!(out[0].starts_with("750 directory") && out[0].ends_with("0:0 ."), "{out:?} {err}");
        assert_eq!(out[1], "4755 regular empty file 0 0:0 program");
        assert!(out[2].starts_with("1770 directory"), "{out:?}");
        assert_eq!(out[3], "644 regular file 100000 0:0 deep/er/file");
        assert_eq!(out[4..7], [world.dir.path().join("outside").to_str().unwrap(), "301", "100000"]);
        assert_eq!((out.contains(&"writable"), out.last()), (writable, Some(&"tmpfs")), "{out:?}");
        assert!(!var.join("new").exists());
    }
    let failing = |kind, options| {
        let mut spec = world.spec(&["true"]);
        mount(&mut spec, kind, kind, "/var", options);
        world.runtime.create(&id("copyup"), &spec, CreateOptions::default()).unwrap_err().to_string()
    };
    let full = failing("tmpfs", &["tmpcopyup", "size=64k"]);
    assert_eq!(full, "mount tmpfs at /var: tmpcopyup");
    assert!(failing("mqueue", &["tmpcopyup"]).contains("for tmpfs only"));
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("a_tmpfs_begins_with_what_it_covers");
}
