//! Known escapes, one test for each that `escapes.rs` and `mounts.rs` do not have: tried, and seen to fail from inside and outside.
//!
//! `LONGSHORE_RACES` sets how often those run that race (2,000 for a long run).
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{World, also_unprivileged, id, is_root, read};
use longshore_runtime::{CreateOptions, Created, ExecOptions, Running, Stdio};
use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespaceType as T, Mount, Process, Spec};

fn races() -> usize {
    std::env::var("LONGSHORE_RACES").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

fn bind(spec: &mut Spec, source: &Path, to: &str) {
    let mut mount = Mount::default();
    mount.set_destination(to.into()).set_typ(Some("bind".into())).set_source(Some(source.into()));
    mount.set_options(Some(vec!["rbind".into()]));
    spec.mounts_mut().as_mut().unwrap().push(mount);
}

fn sleeping(world: &World) -> Running {
    let created = world.runtime.create(&id("cve"), &world.spec(&["sleep", "1000"]), CreateOptions::default());
    created.and_then(Created::start).unwrap()
}

fn exec(world: &World, running: &Running, script: &str, change: impl FnOnce(&mut Process)) -> String {
    let mut process = world.spec(&["sh", "-c", script]).process().clone().unwrap();
    change(&mut process);
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
    let mut exec = running.container().exec(&process, options).unwrap();
    let out = read(exec.take_stdio(1));
    exec.wait(None).unwrap();
    out
}

/// Exchanges two names again and again until told to stop.
fn exchange(a: &Path, b: &Path, stop: &AtomicBool) {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    while !stop.load(Ordering::Relaxed) {
        rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).unwrap();
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Runs containers while the two names in their root are exchanged.
fn racing(world: &World, a: &str, b: &str, each: impl Fn()) {
    let stop = AtomicBool::new(false);
    let root = world.rootfs();
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&root.join(a), &root.join(b), &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..races() {
                each();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

/// CVE-2016-9962: what `exec` brings into the container cannot be looked into from there before it is the container's own.
#[test]
fn joining_process_is_not_dumpable() {
    let Some(world) = World::new() else { return };
    let running = sleeping(&world);
    // A watcher inside reads whatever descriptors and memory of other processes it can get at.
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
    // Asked twice for its name: once it has executed its program, it may be looked into.
    let script = "own() { test \"$(cat $1/comm 2>/dev/null)\" = longshore:init; }; \
                  while :; do for p in /proc/[0-9]*; do own $p || continue; n=$(ls -l $p/fd 2>/dev/null | grep -c -- '->'); \
                  m=$(head -c1 $p/mem 2>/dev/null | wc -c); own $p && echo $n$m; done; done";
    let process = world.spec(&["sh", "-c", script]).process().clone().unwrap();
    let mut watcher = running.container().exec(&process, options).unwrap();
    for _ in 0..races() {
        exec(&world, &running, "true", |_| ());
    }
    watcher.kill(libc::SIGKILL).unwrap();
    watcher.wait(None).unwrap();
    let seen = read(watcher.take_stdio(1));
    assert!(seen.lines().all(|line| line == "00"), "{seen}");
    also_unprivileged("joining_process_is_not_dumpable");
}

/// CVE-2019-18837, CVE-2021-30465, CVE-2024-45310: a mount target whose directory turns into a link to elsewhere while it is used.
#[test]
fn target_swapped_for_a_link() {
    let Some(world) = World::new() else { return };
    let at = |name: &str| world.dir.path().join(name);
    fs::create_dir(at("outside")).unwrap();
    fs::create_dir(at("data")).unwrap();
    fs::create_dir(world.rootfs().join("dir")).unwrap();
    symlink(at("outside"), world.rootfs().join("link")).unwrap();
    racing(&world, "dir", "link", || {
        let mut spec = world.spec(&["true"]);
        bind(&mut spec, &at("data"), "/dir/made/here");
        // It may fail; it may not lead outside.
        let created = world.runtime.create(&id("target"), &spec, CreateOptions::default());
        let _ = created.and_then(Created::start).map(|mut running| running.wait(None));
    });
    assert_eq!(fs::read_dir(at("outside")).unwrap().count(), 0, "something was made outside");
    // Others mount things, too: what is ours lies here.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.dir.path().to_str().unwrap()), "something is mounted outside: {mounts}");
    also_unprivileged("target_swapped_for_a_link");
}

/// CVE-2020-15257: no abstract sockets that a container with the host's network could reach.
#[test]
fn no_abstract_sockets() {
    let Some(world) = World::new() else { return };
    let created =
        world.runtime.create(&id("abstract"), &world.spec(&["true"]), CreateOptions::default()).unwrap();
    let text = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!text.lines().any(|l| l.contains('@') && l.contains("longshore")), "{text}");
    drop(created);
}

/// CVE-2021-43784: an ID map longer than a message or a page is refused, not cut.
#[test]
fn long_id_maps_are_not_cut() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let mut spec = world.spec(&["true"]);
    let linux = spec.linux_mut().as_mut().unwrap();
    let mut user = oci_spec::runtime::LinuxNamespace::default();
    user.set_typ(T::User);
    linux.namespaces_mut().as_mut().unwrap().push(user);
    let line = |n: u32| {
        LinuxIdMappingBuilder::default().container_id(n).host_id(100_000 + n).size(1u32).build().unwrap()
    };
    let maps: Vec<_> = (0..8000).map(line).collect();
    linux.set_uid_mappings(Some(maps.clone())).set_gid_mappings(Some(maps));
    assert!(world.runtime.create(&id("maps"), &spec, CreateOptions::default()).is_err());
    assert!(world.runtime.list().unwrap().is_empty());
}

/// CVE-2022-0492, CVE-2023-25809: a group's files cannot be written from inside, whether or not it has a cgroup namespace.
#[test]
fn cgroup_files_are_read_only() {
    let Some(world) = World::new() else { return };
    let script = "for f in $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name notify_on_release); do \
                  (echo 1 > $f) 2>/dev/null && echo wrote $f; done; mkdir /sys/fs/cgroup/*/x /sys/fs/cgroup/x 2>/dev/null && echo made; echo end";
    assert_eq!(world.sh(&id("cgroup"), script).1, "end\n");
    let mut spec = world.spec(&["sh", "-c", script]);
    common::without(&mut spec, T::Cgroup);
    assert_eq!(world.run(&id("cgroup"), &spec).1, "end\n");
    also_unprivileged("cgroup_files_are_read_only");
}

/// CVE-2022-24769, CVE-2022-29162, CVE-2022-27650: nothing inheritable, neither in init nor in what `exec` starts.
#[test]
fn nothing_is_inheritable() {
    let Some(world) = World::new() else { return };
    let script = "grep -E '^Cap(Inh|Amb)' /proc/self/status | tr -d '\\n'";
    let none = "CapInh:\t0000000000000000CapAmb:\t0000000000000000";
    assert_eq!(world.sh(&id("caps"), script).1, none);
    let running = sleeping(&world);
    assert_eq!(exec(&world, &running, script, |_| ()), none);
    assert_eq!(
        exec(&world, &running, script, |process| {
            process.set_capabilities(None);
        }),
        none
    );
    also_unprivileged("nothing_is_inheritable");
}

/// CVE-2022-0811: kernel parameters that are not a namespace's own.
#[test]
fn kernel_parameters_of_the_machine() {
    let Some(world) = World::new() else { return };
    let refused = |key: &str, change: &dyn Fn(&mut Spec)| {
        let mut spec = world.spec(&["true"]);
        change(&mut spec);
        let all = [(key.to_owned(), "1".to_owned())].into_iter().collect();
        spec.linux_mut().as_mut().unwrap().set_sysctl(Some(all));
        let result = world.runtime.create(&id("sysctl"), &spec, CreateOptions::default());
        assert!(result.is_err(), "{key}");
    };
    for key in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "kernel.modprobe",
        "vm.overcommit_memory",
        "net.ipv4.ip_forward+kernel.core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4.ip_forward=1\nkernel.core_pattern",
        "kernel.shm_rmid_forced/../core_pattern",
        "",
    ] {
        refused(key, &|_| ());
    }
    refused("net.ipv4.ip_forward", &|spec| common::without(spec, T::Network));
    refused("kernel.shmmax", &|spec| common::without(spec, T::Ipc));
    // A namespace that is joined may be the host's.
    for (kind, file, key) in
        [(T::Network, "net", "net.ipv4.ip_default_ttl"), (T::Ipc, "ipc", "kernel.shm_rmid_forced")]
    {
        refused(key, &|spec| {
            common::without(spec, kind);
            let mut joined = oci_spec::runtime::LinuxNamespace::default();
            joined.set_typ(kind).set_path(Some(format!("/proc/self/ns/{file}").into()));
            spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap().push(joined);
        });
    }
    let mut spec = world.spec(&["cat", "/proc/sys/net/ipv4/ip_forward"]);
    let all = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into_iter().collect();
    spec.linux_mut().as_mut().unwrap().set_sysctl(Some(all));
    assert_eq!(world.run(&id("sysctl"), &spec).1, "1\n");
    also_unprivileged("kernel_parameters_of_the_machine");
}

/// A control group that others live in is not the container's to kill or to remove.
#[test]
fn who_shares_the_group_lives_on() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
    let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists()).unwrap();
    let name = id("shared");
    let group = root.join(&name);
    fs::create_dir(&group).unwrap();
    let mut neighbour = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(group.join("cgroup.procs"), neighbour.id().to_string()).unwrap();
    let mut spec = world.spec(&["sleep", "1000"]);
    spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(format!("/{name}").into()));
    let running =
        world.runtime.create(&id("guest"), &spec, CreateOptions::default()).unwrap().start().unwrap();
    assert!(fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().count() >= 2);
    drop(running);
    assert!(neighbour.try_wait().unwrap().is_none(), "the neighbour was killed");
    assert_eq!(fs::read_to_string(group.join("cgroup.procs")).unwrap(), format!("{}\n", neighbour.id()));
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(&name));
    }
    let _ = fs::remove_dir(group);
}

/// CVE-2023-25173: the groups are the primary one and those that were asked for, none of the host's.
#[test]
fn groups_are_those_asked_for() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let mut spec = world.spec(&["id", "-G"]);
    spec.process_mut()
        .as_mut()
        .unwrap()
        .user_mut()
        .set_uid(7)
        .set_gid(8)
        .set_additional_gids(Some(vec![9, 10]));
    assert_eq!(world.run(&id("groups"), &spec).1, "8 9 10\n");
    let running = sleeping(&world);
    let out = exec(&world, &running, "id -G", |process| {
        process.user_mut().set_gid(8);
    });
    assert_eq!(out, "8\n");
}

/// CVE-2024-21626, the part of `exec`: no descriptor of the host as working directory.
#[test]
fn exec_in_a_leaked_directory() {
    let Some(world) = World::new() else { return };
    let running = sleeping(&world);
    for n in 3..32 {
        let mut process = world.spec(&["true"]).process().clone().unwrap();
        process.set_cwd(format!("/proc/self/fd/{n}").into());
        assert!(running.container().exec(&process, ExecOptions::default()).is_err(), "descriptor {n}");
    }
    assert_eq!(exec(&world, &running, "ls /proc/self/fd | tr '\\n' ' '", |_| ()), "0 1 2 3 ");
    also_unprivileged("exec_in_a_leaked_directory");
}

/// CVE-2025-31133: the image's /dev/null is a link to a kernel parameter, always and in turns; what hides a file is the null device.
#[test]
fn null_device_of_the_image() {
    let Some(world) = World::new() else { return };
    let dev = world.rootfs().join("dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    fs::write(dev.join("other"), "").unwrap();
    let script = "test -s /proc/keys && echo seen; test -c /proc/keys || test ! -e /proc/keys || echo no device; \
                  (echo x > /proc/keys) 2>/dev/null; cat /proc/sys/kernel/core_pattern";
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut spec = world.spec(&["sh", "-c", script]);
    spec.mounts_mut().as_mut().unwrap().retain(|m| !m.destination().starts_with("/dev"));
    racing(&world, "dev/null", "dev/other", || {
        let created = world.runtime.create(&id("null"), &spec, world.piped()).and_then(Created::start);
        if let Ok(mut running) = created {
            assert_eq!(read(running.take_stdio(1)), pattern);
            running.wait(None).unwrap();
        }
    });
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    also_unprivileged("null_device_of_the_image");
}

/// CVE-2025-52565: /dev/console of the image is a link, or turns into one; the terminal goes nowhere else.
#[test]
fn console_of_the_image() {
    let Some(world) = World::new() else { return };
    let outside = world.dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let dev = world.rootfs().join("dev");
    symlink(&outside, dev.join("console")).unwrap();
    fs::write(dev.join("other"), "").unwrap();
    let inode = fs::metadata(&outside).unwrap().ino();
    let mut spec = world.spec(&["true"]);
    spec.process_mut().as_mut().unwrap().set_terminal(Some(true));
    let mounts = spec.mounts_mut().as_mut().unwrap();
    mounts.retain(|m| m.destination() != Path::new("/dev"));
    fs::create_dir_all(dev.join("pts")).unwrap();
    racing(&world, "dev/console", "dev/other", || {
        let created = world.runtime.create(&id("console"), &spec, CreateOptions::default());
        let _ = created.and_then(Created::start).map(|mut running| running.wait(None));
    });
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
    assert_eq!(fs::metadata(&outside).unwrap().ino(), inode);
    also_unprivileged("console_of_the_image");
}

/// CVE-2019-5736: an image whose entry point is `/proc/self/exe` gets at no program of the host.
#[test]
fn entry_point_is_its_own_program() {
    let Some(world) = World::new() else { return };
    let exe = std::env::current_exe().unwrap();
    let before = fs::metadata(&exe).map(|m| (m.len(), m.mtime_nsec())).unwrap();
    symlink("/proc/self/exe", world.rootfs().join("bin/entry")).unwrap();
    fs::write(world.rootfs().join("bin/script"), "#!/proc/self/exe\n").unwrap();
    let script = world.rootfs().join("bin/script");
    fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for program in ["/bin/entry", "/bin/script", "/proc/self/exe"] {
        let created = world.runtime.create(&id("entry"), &world.spec(&[program]), world.piped());
        if let Ok(mut running) = created.and_then(Created::start) {
            running.wait(Some(Duration::from_secs(10))).unwrap();
        }
    }
    let script = "for p in /proc/[0-9]*; do (echo x > $p/exe) 2>/dev/null && echo wrote $p; done; echo end";
    let running = sleeping(&world);
    assert_eq!(exec(&world, &running, script, |_| ()), "end\n");
    assert_eq!(fs::metadata(&exe).map(|m| (m.len(), m.mtime_nsec())).unwrap(), before);
    also_unprivileged("entry_point_is_its_own_program");
}

/// CVE-2016-3697, CVE-2026-30892: numbers that the kernel takes for "as it is" do not leave a process root, neither init nor what joins it.
#[test]
fn a_number_that_is_no_user() {
    let Some(world) = World::new() else { return };
    let running = sleeping(&world);
    let changes: [fn(&mut oci_spec::runtime::User); 3] = [
        |user| _ = user.set_uid(u32::MAX),
        |user| _ = user.set_gid(u32::MAX),
        |user| _ = user.set_additional_gids(Some(vec![1, u32::MAX])),
    ];
    for change in changes {
        let mut spec = world.spec(&["id"]);
        change(spec.process_mut().as_mut().unwrap().user_mut());
        let error = world.runtime.create(&id("user"), &spec, CreateOptions::default()).unwrap_err();
        let mut process = spec.process().clone().unwrap();
        process.set_args(Some(vec!["id".to_owned()]));
        let other = running.container().exec(&process, ExecOptions::default()).unwrap_err();
        if is_root() {
            assert!(error.to_string().contains("process.user") && other.to_string().contains("process.user"));
        }
    }
    drop(running);
    also_unprivileged("a_number_that_is_no_user");
}

/// CVE-2024-0132, CVE-2025-23266: a hook of the host has the environment that its own entry names, and nothing of the image's.
#[test]
fn hooks_have_an_environment_of_their_own() {
    let Some(world) = World::new() else { return };
    let seen = world.dir.path().join("seen");
    let script = format!("echo $OWN$LD_PRELOAD$LD_LIBRARY_PATH >>{}", seen.display());
    let hook =
        serde_json::json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["OWN=mine"]}]);
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let hooks: serde_json::Map<_, _> = kinds.iter().map(|kind| ((*kind).to_owned(), hook.clone())).collect();
    let mut spec = world.spec(&["true"]);
    spec.set_hooks(serde_json::from_value(hooks.into()).unwrap());
    let env = ["LD_PRELOAD=/tmp/evil.so", "LD_LIBRARY_PATH=/tmp", "PATH=/bin"].map(str::to_owned).to_vec();
    spec.process_mut().as_mut().unwrap().set_env(Some(env));
    assert_eq!(world.run(&id("hooks"), &spec).0, 0);
    // The handle is dropped by now: `poststop` has run.
    assert_eq!(fs::read_to_string(&seen).unwrap(), "mine\n".repeat(kinds.len()));
    also_unprivileged("hooks_have_an_environment_of_their_own");
}

/// CVE-2024-21626, the part of hooks: what the embedding program has open without close-on-exec, no hook gets.
#[test]
fn hooks_have_no_descriptors_of_the_host() {
    let Some(world) = World::new() else { return };
    let seen = world.dir.path().join("seen");
    let secret = fs::File::create(world.dir.path().join("secret")).unwrap();
    // Unlike what std opens, it goes to every program that is executed.
    let open = rustix::io::dup(&secret).unwrap();
    let inside = "ls /proc/self/fd | tr '\\n' ' ' >>/seen";
    let outside = format!("ls /proc/self/fd | tr '\\n' ' ' >>{}", seen.display());
    let hook =
        |script: &str| serde_json::json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "env": []}]);
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let mut hooks: serde_json::Map<_, _> =
        kinds.iter().map(|kind| ((*kind).to_owned(), hook(&outside))).collect();
    hooks.insert("startContainer".to_owned(), hook(inside));
    let mut spec = world.spec(&["true"]);
    spec.set_hooks(serde_json::from_value(hooks.into()).unwrap());
    spec.root_mut().as_mut().unwrap().set_readonly(Some(false));
    assert_eq!(world.run(&id("hooks"), &spec).0, 0);
    drop(open);
    // 3 is the directory that is read.
    assert_eq!(fs::read_to_string(&seen).unwrap(), "0 1 2 3 ".repeat(kinds.len()));
    assert_eq!(fs::read_to_string(world.rootfs().join("seen")).unwrap(), "0 1 2 3 ");
    also_unprivileged("hooks_have_no_descriptors_of_the_host");
}

/// CVE-2022-1708, where the engine itself listens: what a hook says is bounded, and a hook that talks without end, or does not read,
/// holds nobody up.
#[test]
fn what_hooks_say_is_bounded() {
    let Some(world) = World::new() else { return };
    let with_hook = |script: &str, timeout: i64| {
        let hook = serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": timeout}]);
        let mut spec = world.spec(&["true"]);
        spec.set_hooks(serde_json::from_value(serde_json::json!({"createRuntime": hook})).unwrap());
        // More than a pipe holds.
        spec.set_annotations(Some([("long".to_owned(), "x".repeat(200_000))].into()));
        world.runtime.create(&id("hooks"), &spec, CreateOptions::default()).map(|created| created.pid())
    };
    with_hook("head -c 1000000 /dev/zero >&2", 60).unwrap();
    let error = with_hook("head -c 1000000 /dev/zero | tr '\\0' y >&2; exit 3", 60).unwrap_err().to_string();
    assert!(error.contains("exit status 3: yyy") && error.len() < 5000, "{}", error.len());
    let error = with_hook("exec yes >&2", 1).unwrap_err().to_string();
    assert!(error.contains("timed out") && error.len() < 5000, "{error}");
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("what_hooks_say_is_bounded");
}

/// The same for the hooks that run in the container's namespaces: their time counts while they do not read, who does read gets it all, and
/// one that ends without a look harms neither the start nor the container's process.
#[test]
fn hooks_inside_need_not_read() {
    let Some(world) = World::new() else { return };
    let run = |kind: &str, script: &str, timeout: i64| {
        let hook = serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": timeout}]);
        let mut spec = world.spec(&["sh", "-c", "exit 5"]);
        let namespaces = spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
        // The init of a PID namespace does not feel every signal. (Without privileges there is no /proc without one.)
        namespaces.retain(|n| n.typ() != T::Pid || !is_root());
        spec.set_hooks(serde_json::from_value(serde_json::json!({kind: hook})).unwrap());
        spec.set_annotations(Some([("long".to_owned(), "x".repeat(200_000))].into()));
        let created = world.runtime.create(&id("hooks"), &spec, CreateOptions::default())?;
        created.start()?.wait_to_end().map(|exit| exit.code)
    };
    for kind in ["createContainer", "startContainer"] {
        let error = run(kind, "exec sleep 1000", 1).unwrap_err();
        assert!(format!("{error:?}").contains("timed out"), "{error:?}");
        assert_eq!(run(kind, "[ $(wc -c) -gt 200000 ]", 60).unwrap(), 5);
        assert_eq!(run(kind, "exit 0", 60).unwrap(), 5);
    }
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("hooks_inside_need_not_read");
}

/// CVE-2025-52881: /proc of the image turns into something else and back. Kernel parameters are set where they belong, or the start fails;
/// nothing is written to what stands in for them.
#[test]
fn proc_of_the_image_in_turns() {
    let Some(world) = World::new() else { return };
    let fake = world.rootfs().join("fake");
    let stands_in =
        ["self/attr/exec", "self/attr/apparmor/exec", "sys/net/ipv4/ip_forward", "sys/kernel/core_pattern"];
    for file in stands_in {
        fs::create_dir_all(fake.join(file).parent().unwrap()).unwrap();
        fs::write(fake.join(file), "").unwrap();
    }
    symlink("fake", world.rootfs().join("link")).unwrap();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut spec = world.spec(&["cat", "/proc/sys/net/ipv4/ip_forward"]);
    let all = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into_iter().collect();
    spec.linux_mut().as_mut().unwrap().set_sysctl(Some(all));
    let started = std::cell::Cell::new(0);
    for other in ["link", "fake"] {
        racing(&world, "proc", other, || {
            let created = world.runtime.create(&id("proc"), &spec, world.piped()).and_then(Created::start);
            if let Ok(mut running) = created {
                // Where the image has made the exchange later, its own file is what the program sees.
                let out = read(running.take_stdio(1));
                assert!(out == "1\n" || out.is_empty(), "{out}");
                running.wait(None).unwrap();
                started.set(started.get() + out.len());
            }
            // A label: where the kernel has nobody who takes it, the start fails, but never elsewhere.
            let mut labelled = spec.clone();
            labelled.process_mut().as_mut().unwrap().set_selinux_label(Some("label".to_owned()));
            let created = world.runtime.create(&id("proc"), &labelled, CreateOptions::default());
            let _ = created.and_then(Created::start).map(|mut running| running.wait(None));
        });
    }
    assert!(started.get() > 0, "it was never set");
    // The names may have been left exchanged.
    for place in ["fake", "proc"] {
        for file in stands_in {
            let text = fs::read_to_string(world.rootfs().join(place).join(file)).unwrap_or_default();
            assert_eq!(text, "", "{place}/{file}");
        }
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    also_unprivileged("proc_of_the_image_in_turns");
}
