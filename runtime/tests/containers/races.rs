//! `cp` and volumes while someone swaps directories for links that lead out: nothing outside is read or written.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_runtime::containers::{
    CopyOptions, Mount, RemoveOptions, StartOptions, VolumeOptions, WaitFor,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::harness::Test;
use crate::world::World;

pub(crate) const TESTS: [Test; 5] = [
    ("races::cp_stays_inside", cp_stays_inside),
    ("races::volumes_stay_inside", volumes_stay_inside),
    ("races::sizes_stay_inside", sizes_stay_inside),
    ("races::cp_names_as_docker", cp_names_as_docker),
    ("races::cp_never_follows_out", cp_never_follows_out),
];

fn rounds(usual: usize) -> usize {
    std::env::var("LONGSHORE_RACES").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// No program has it in itself.
const SECRET: &str = "longshore's own outside secret";

/// What nobody may read or write: a directory with a secret.
struct Outside(PathBuf);

impl Outside {
    fn new(world: &World) -> Self {
        let dir = world.dir.join("outside");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), SECRET).unwrap();
        Self(dir)
    }
    fn assert_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.0).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(std::fs::read_to_string(self.0.join("file")).unwrap(), SECRET);
    }
}

/// Swaps two names until told to stop, as a hostile container would.
fn swapping(a: &Path, b: &Path, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
                std::thread::yield_now();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

/// A directory `place/d` with a file in it and beside it `place/link`, which leads out by the host's own path.
fn trap(place: &Path, outside: &Outside) -> (PathBuf, PathBuf) {
    let (dir, link) = (place.join("d"), place.join("link"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("file"), "mine").unwrap();
    std::os::unix::fs::symlink(&outside.0, &link).unwrap();
    (dir, link)
}

fn cp_stays_inside() {
    let Some(world) = World::new() else { return };
    let outside = Outside::new(&world);
    let root = rustix::process::geteuid().is_root();
    let id = world.run("box", &["sleep", "1000"], |_| {});
    let (dir, link) = trap(&world.dir.join("roots").join(&id).join("data"), &outside);
    let (source, out) = (world.dir.join("source"), world.dir.join("out"));
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/planted"), "x").unwrap();
    let options = CopyOptions::default();
    swapping(&dir, &link, || {
        for n in 0..rounds(150) {
            // Whether it succeeds depends on what stands there; what counts is where it goes.
            let _ = world.all.copy_from_host("box", &source, "/data/d", &options);
            let _ = world.all.copy_from_host("box", &source.join("sub/planted"), "/data/d/file", &options);
            let _ = std::fs::remove_dir_all(&out);
            std::fs::create_dir(&out).unwrap();
            for path in ["/data/d/.", "/data/d/file"] {
                let _ = world.all.copy_to_host("box", path, &out, &CopyOptions::new(false, n % 2 == 1));
            }
            let mut tar = Vec::new();
            if n % 8 == 0 {
                let _ = world.all.export("box", &mut tar);
            }
            let got = std::fs::read_to_string(out.join("file")).unwrap_or_default();
            assert_ne!(got, SECRET);
            assert!(!tar.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()));
            // The other half of the rounds meets a container that does not run.
            if root && n == rounds(150) / 2 {
                world.all.kill("box", "KILL").unwrap();
            }
        }
    });
    outside.assert_untouched();
}

fn volumes_stay_inside() {
    let Some(world) = World::new() else { return };
    let outside = Outside::new(&world);
    let volume = world.all.volumes().create("shared", &Default::default()).unwrap();
    let data = PathBuf::from(&volume.mountpoint);
    let (dir, link) = trap(&data, &outside);
    let mut mount: Mount = "source=shared,target=/v".parse().unwrap();
    mount.volume_options = Some(VolumeOptions { subpath: "d".into(), ..VolumeOptions::default() });
    world.create("sub", &["sh", "-c", "cat /v/file; echo x > /v/planted"], |r| r.host.mounts = vec![mount]);
    let run = |name: &str| {
        if world.all.start(name, &StartOptions::default()).is_ok() {
            let _ = world.all.wait(name, WaitFor::NotRunning);
        }
    };
    swapping(&dir, &link, || (0..rounds(40)).for_each(|_| run("sub")));
    assert!(!world.log("sub").contains(SECRET));
    outside.assert_untouched();
    // And the content's own directory, by who could write to the volumes' directory.
    world.create("whole", &["sh", "-c", "cat /w/file /w/d/file; echo x > /w/planted"], |r| {
        r.host.binds = vec!["shared:/w".into()];
    });
    let aside = data.with_file_name("aside");
    std::os::unix::fs::symlink(&outside.0, &aside).unwrap();
    swapping(&data, &aside, || (0..rounds(40)).for_each(|_| run("whole")));
    assert!(!world.log("whole").contains(SECRET));
    outside.assert_untouched();
    for name in ["sub", "whole"] {
        world.all.remove(name, &RemoveOptions::new(true, false)).unwrap();
    }
}

fn sizes_stay_inside() {
    let Some(world) = World::new() else { return };
    let outside = world.dir.join("outside");
    world.create("box", &["true"], |r| r.host.binds = vec!["vol:/vol".into()]);
    let data = PathBuf::from(world.all.volumes().inspect("vol").unwrap().mountpoint);
    let (dir, link) = (data.join("d"), data.join("link"));
    for place in [&outside, &dir] {
        (0..20).for_each(|n| std::fs::create_dir_all(place.join(format!("sub{n}"))).unwrap());
    }
    std::fs::File::create(outside.join("sub7/file")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(dir.join("file"), [0; 1000]).unwrap();
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let long = |size: u64| size - link.symlink_metadata().unwrap().len();
    assert_eq!(long(world.all.volumes().size("vol").unwrap()), 1000);
    swapping(&dir, &link, || {
        for _ in 0..rounds(200) {
            assert!(world.all.volumes().size("vol").unwrap() < 1 << 30, "what lies outside was counted");
        }
    });
    world.all.remove("box", &RemoveOptions::new(true, true)).unwrap();
}

fn cp_names_as_docker() {
    let Some(world) = World::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let id = world.create("box", &["true"], |r| r.host.binds = vec!["vol:/vol".into()]);
    let (root, host) = (world.dir.join("roots").join(id), world.dir.join("host"));
    std::fs::create_dir_all(host.join("tree/sub")).unwrap();
    std::fs::write(host.join("tree/sub/f"), "deep").unwrap();
    std::fs::write(host.join("one"), "one").unwrap();
    std::os::unix::fs::symlink("one", host.join("link")).unwrap();
    let options = CopyOptions::default();
    let put = |from: &str, to: &str| world.all.copy_from_host("box", &host.join(from), to, &options);
    let get = |from: &str, to: &str| world.all.copy_to_host("box", from, &host.join(to), &options);
    put("one", "/data").unwrap();
    put("one", "/data/renamed").unwrap();
    put("tree", "/data").unwrap();
    put("tree/.", "/data/content").unwrap();
    put("tree", "/data/as").unwrap();
    put("link", "/data").unwrap();
    put("one", "/vol").unwrap();
    for (file, text) in [
        ("one", "one"),
        ("renamed", "one"),
        ("tree/sub/f", "deep"),
        ("content/sub/f", "deep"),
        ("as/sub/f", "deep"),
    ] {
        assert_eq!(std::fs::read_to_string(root.join("data").join(file)).unwrap(), text, "{file}");
    }
    assert_eq!(std::fs::read_link(root.join("data/link")).unwrap(), Path::new("one"));
    let volume = world.all.volumes().inspect("vol").unwrap().mountpoint;
    assert_eq!(std::fs::read_to_string(format!("{volume}/one")).unwrap(), "one");
    assert!(
        put("tree", "/data/one").is_err()
            && put("one", "/missing/x").is_err()
            && put("one", "/missing/").is_err()
    );
    assert!(put("missing", "/data").is_err() && get("/missing", ".").is_err());
    // Through a link of the container, inside: what it leads to is written.
    std::os::unix::fs::symlink("/data/one", root.join("tmp/to-one")).unwrap();
    std::fs::write(host.join("two"), "two").unwrap();
    put("two", "/tmp/to-one").unwrap();
    assert_eq!(std::fs::read_to_string(root.join("data/one")).unwrap(), "two");

    get("/data/tree", "got").unwrap();
    get("/data/tree", ".").unwrap();
    get("/data/tree/.", "bare").unwrap();
    get("/data/one", "file").unwrap();
    get("/data/link", "link2").unwrap();
    world
        .all
        .copy_to_host("box", "/tmp/to-one", &host.join("followed"), &CopyOptions::new(false, true))
        .unwrap();
    for (file, text) in [
        ("got/sub/f", "deep"),
        ("tree/sub/f", "deep"),
        ("bare/sub/f", "deep"),
        ("file", "two"),
        ("followed", "two"),
    ] {
        assert_eq!(std::fs::read_to_string(host.join(file)).unwrap(), text, "{file}");
    }
    assert_eq!(std::fs::read_link(host.join("link2")).unwrap(), Path::new("one"));
}

/// Links of the container lead nowhere on the host, links of the host nowhere in the container.
fn cp_never_follows_out() {
    let Some(world) = World::new() else { return };
    let outside = Outside::new(&world);
    let id = world.run("box", &["sleep", "1000"], |_| {});
    let (root, host) = (world.dir.join("roots").join(id), world.dir.join("host"));
    std::fs::create_dir_all(&host).unwrap();
    let long = format!("../../../../../../../..{}", outside.0.display());
    for (name, to) in
        [("abs", outside.0.to_str().unwrap()), ("rel", long.as_str()), ("magic", "/proc/self/root")]
    {
        std::os::unix::fs::symlink(to, root.join("data").join(name)).unwrap();
        for path in
            [format!("/data/{name}/file"), format!("/data/{name}/../outside/file"), format!("/data/{name}/.")]
        {
            let to = host.join(name);
            std::fs::create_dir_all(&to).unwrap();
            let _ = world.all.copy_to_host("box", &path, &to, &CopyOptions::new(false, true));
            assert_ne!(std::fs::read_to_string(to.join("file")).unwrap_or_default(), SECRET, "{path}");
        }
        let _ = world.all.copy_from_host(
            "box",
            Path::new("/bin/busybox"),
            &format!("/data/{name}/x"),
            &CopyOptions::default(),
        );
    }
    outside.assert_untouched();
}
