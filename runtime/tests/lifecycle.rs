//! create, start, wait, kill, exec, delete, state: as root, and as an ordinary user.

mod common;

use std::fs;
use std::io::Write;
use std::time::Duration;

use common::{World, also_unprivileged, id, is_root, read};
use longshore_runtime::{CreateOptions, ExecOptions, Rootfs, Status, Stdio};

#[test]
fn runs_to_the_end() {
    let Some(world) = World::new() else { return };
    let (code, out, err) = world.sh(&id("run"), "echo out; echo err >&2; exit 3");
    assert_eq!((code, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    assert!(world.runtime.list().unwrap().is_empty(), "a dropped container is removed");
    also_unprivileged("runs_to_the_end");
}

#[test]
fn is_in_its_own_world() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "echo $$; hostname; id -u; ls /; cat /proc/1/comm; ls -l /dev | wc -l; mount | wc -l",
    ]);
    spec.set_hostname(Some("box".to_owned()));
    let (code, out, err) = world.run(&id("world"), &spec);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["1", "box", "0"], "{out}");
    assert!(lines.contains(&"bin") && lines.contains(&"sh"), "{out}");
    also_unprivileged("is_in_its_own_world");
}

#[test]
fn created_then_started_by_another() {
    let Some(world) = World::new() else { return };
    let id = id("created");
    let created =
        world.runtime.create(&id, &world.spec(&["sleep", "100"]), CreateOptions::default()).unwrap();
    assert!(created.netns().is_ok());
    let container = created.detach();
    assert_eq!(container.state().unwrap().status, Status::Created);
    let other = longshore_runtime::Runtime::new(world.dir.path().join("state")).unwrap();
    let container = other.open(&id).unwrap();
    container.start().unwrap();
    assert_eq!(container.state().unwrap().status, Status::Running);
    assert!(container.start().is_err());
    assert!(container.delete(false).is_err());
    assert_eq!(container.processes().unwrap().len(), 1);
    container.kill(libc::SIGKILL, false).unwrap();
    container.delete(true).unwrap();
    assert!(other.open(&id).unwrap_err().is_not_found());
    also_unprivileged("created_then_started_by_another");
}

#[test]
fn tells_what_cannot_be_executed() {
    let Some(world) = World::new() else { return };
    fs::write(world.rootfs().join("bin/text"), "x").unwrap();
    let start = |program: &str| {
        let created = world.runtime.create(&id("exec"), &world.spec(&[program]), CreateOptions::default());
        created.and_then(longshore_runtime::Created::start).unwrap_err()
    };
    assert!(start("nowhere").is_program_not_found());
    assert!(start("/nowhere").is_program_not_found());
    fs::set_permissions(world.rootfs().join("bin/text"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    fs::write(world.rootfs().join("bin/plain"), "x").unwrap();
    assert!(start("plain").is_program_not_executable());
    assert!(start("text").is_program_not_executable());
    assert!(start("/tmp").is_program_not_executable());
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("tells_what_cannot_be_executed");
}

/// Engines clean up after a `create` that fails, not all of them after a `start`.
#[test]
fn a_directory_that_cannot_be_entered_shows_at_creation() {
    let Some(world) = World::new() else { return };
    fs::write(world.rootfs().join("file"), "").unwrap();
    let mut spec = world.spec(&["sh", "-c", "pwd"]);
    spec.process_mut().as_mut().unwrap().set_cwd("/file".into());
    let error = world.runtime.create(&id("cwd"), &spec, CreateOptions::default()).unwrap_err();
    assert!(error.to_string().contains("process.cwd /file"), "{error}");
    assert!(world.runtime.list().unwrap().is_empty());
    also_unprivileged("a_directory_that_cannot_be_entered_shows_at_creation");
}

#[test]
fn exec_in_a_running_one() {
    let Some(world) = World::new() else { return };
    let created =
        world.runtime.create(&id("host"), &world.spec(&["sleep", "100"]), CreateOptions::default()).unwrap();
    let running = created.start().unwrap();
    let process = world
        .spec(&["sh", "-c", "read x; echo got $x; cat /proc/1/comm; ps | wc -l; exit 7"])
        .process()
        .clone()
        .unwrap();
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Piped, Stdio::Piped, Stdio::Inherit];
    let mut exec = running.container().exec(&process, options).unwrap();
    let mut stdin = fs::File::from(exec.take_stdio(0).unwrap());
    stdin.write_all(b"word\n").unwrap();
    let out = read(exec.take_stdio(1));
    assert!(out.starts_with("got word\nsleep\n"), "{out}");
    assert_eq!(exec.wait(None).unwrap().unwrap().code, 7);
    let nothing = world.spec(&["nothing"]).process().clone().unwrap();
    assert!(running.container().exec(&nothing, ExecOptions::default()).unwrap_err().is_program_not_found());
    also_unprivileged("exec_in_a_running_one");
}

/// Init does not end before what `exec` started in its PID namespace is reaped, and that is our child.
#[test]
fn ends_with_an_exec_that_nobody_waits_for() {
    let Some(world) = World::new() else { return };
    let create =
        || world.runtime.create(&id("orphan"), &world.spec(&["sleep", "100"]), CreateOptions::default());
    let sleep = world.spec(&["sleep", "99"]).process().clone().unwrap();
    // Dropped, held, and started while another thread waits already.
    let running = create().unwrap().start().unwrap();
    drop(running.container().exec(&sleep, ExecOptions::default()).unwrap());
    let mut held = running.container().exec(&sleep, ExecOptions::default()).unwrap();
    drop(running);
    assert_eq!(held.wait(None).unwrap().unwrap().signal, Some(libc::SIGKILL));

    let mut running = create().unwrap().start().unwrap();
    let container = running.container().clone();
    let waiter = std::thread::spawn(move || running.wait(None).unwrap().unwrap().signal);
    std::thread::sleep(Duration::from_millis(50));
    drop(container.exec(&sleep, ExecOptions::default()).unwrap());
    container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(waiter.join().unwrap(), Some(libc::SIGKILL));
    also_unprivileged("ends_with_an_exec_that_nobody_waits_for");
}

#[test]
fn has_a_terminal() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec(&["sh", "-c", "tty; test -t 0 && test -t 1 && echo yes; ls -l /dev/console"]);
    spec.process_mut().as_mut().unwrap().set_terminal(Some(true));
    let mut created = world.runtime.create(&id("tty"), &spec, CreateOptions::default()).unwrap();
    let console = created.take_console().expect("a terminal was asked for");
    let mut running = created.start().unwrap();
    let out = drain(console);
    assert_eq!(running.wait(None).unwrap().unwrap().code, 0, "{out}");
    assert!(out.contains("/dev/console") || out.contains("/dev/pts/0"), "{out}");
    assert!(out.contains("yes"), "{out}");
    also_unprivileged("has_a_terminal");
}

/// A terminal's controlling side answers EIO when the other side is closed.
fn drain(console: std::os::fd::OwnedFd) -> String {
    let mut bytes = Vec::new();
    let _ = std::io::Read::read_to_end(&mut fs::File::from(console), &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn wait_has_a_time_limit_and_signals_arrive() {
    let Some(world) = World::new() else { return };
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let created =
        world.runtime.create(&id("wait"), &world.spec(&["sh", "-c", script]), world.piped()).unwrap();
    let mut running = created.start().unwrap();
    assert!(running.wait(Some(Duration::from_millis(20))).unwrap().is_none());
    let mut ready = [0; 6];
    let mut out = fs::File::from(running.take_stdio(1).unwrap());
    std::io::Read::read_exact(&mut out, &mut ready).unwrap();
    running.container().kill(libc::SIGTERM, false).unwrap();
    let exit = running.wait(None).unwrap().unwrap();
    assert_eq!((exit.code, exit.signal), (9, None));
    also_unprivileged("wait_has_a_time_limit_and_signals_arrive");
}

#[test]
fn overlay_root_of_its_own() {
    let Some(world) = World::new() else { return };
    let [upper, work] = ["upper", "work"].map(|n| world.dir.path().join(n));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    let mut options = world.piped();
    options.rootfs = Rootfs::Overlay { lower: vec![world.rootfs()], upper: upper.clone(), work };
    let created = world
        .runtime
        .create(&id("overlay"), &world.spec(&["sh", "-c", "echo new > /new; rm /bin/ls"]), options)
        .unwrap();
    let mut running = created.start().unwrap();
    assert_eq!(running.wait(None).unwrap().unwrap().code, 0, "{}", read(running.take_stdio(2)));
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new\n");
    assert!(world.rootfs().join("bin/ls").symlink_metadata().is_ok());
    also_unprivileged("overlay_root_of_its_own");
}

#[test]
fn limits_are_in_force() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};
    let mut spec = world.spec(&["sh", "-c", "cat /sys/fs/cgroup/pids/pids.max; cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /proc/self/cgroup; i=0; while [ $i -lt 50 ]; do sleep 1 & i=$((i+1)); done"]);
    let resources = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(32i64 << 20).build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(10i64).build().unwrap())
        .build()
        .unwrap();
    spec.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    let id = id("limits");
    let (code, out, err) = world.run(&id, &spec);
    assert!(out.starts_with("10\n33554432\n"), "{code} {out} {err}");
    assert!(err.contains("fork"), "{err}");
    assert!(!std::path::Path::new("/sys/fs/cgroup/pids").join(format!("longshore-{id}")).exists());
}

#[test]
fn seccomp_is_in_force() {
    let Some(world) = World::new() else { return };
    let script =
        "grep -E '^(Seccomp|Cap|NoNew)' /proc/self/status; unshare -m true; mount -t tmpfs x /tmp; echo end";
    let (code, out, err) = world.sh(&id("seccomp"), script);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("Seccomp:\t2") && out.contains("CapInh:\t0000000000000000"), "{out}");
    assert!(err.contains("unshare: ") && err.contains("mount: "), "{err}");
    also_unprivileged("seccomp_is_in_force");
}

#[test]
fn masks_and_read_only_paths() {
    let Some(world) = World::new() else { return };
    let script = "cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic; touch /proc/irq/x; \
                  touch /dev/x && echo writable; ls -l /dev/null | cut -c1; readlink /dev/fd; test -c /dev/zero && echo zero";
    let (_, out, err) = world.sh(&id("masks"), script);
    assert!(out.starts_with("0\n0\n"), "{out} {err}");
    assert!(out.contains("writable\nc\n/proc/self/fd\nzero\n"), "{out}");
    assert!(err.contains("ead-only file system"), "{err}");
    also_unprivileged("masks_and_read_only_paths");
}

#[test]
fn detached_root_and_nothing_on_the_host() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, world.rootfs(), flags).unwrap();
    let mut options = world.piped();
    options.rootfs = Rootfs::Detached(std::os::fd::AsFd::as_fd(&tree));
    let mut spec = world.spec(&["sh", "-c", "ls /; cat /proc/self/mountinfo | head -1"]);
    spec.root_mut().as_mut().unwrap().set_path("/nonexistent".into());
    let mut running = world.runtime.create(&id("detached"), &spec, options).unwrap().start().unwrap();
    let out = read(running.take_stdio(1));
    assert!(out.contains("bin\n"), "{out}");
    assert_eq!(running.wait(None).unwrap().unwrap().code, 0);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn binds_with_their_options() {
    let Some(world) = World::new() else { return };
    let data = world.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content").unwrap();
    // A link in the image must not lead the mount out of the root.
    fs::create_dir(world.rootfs().join("data-outside")).unwrap();
    std::os::unix::fs::symlink("/../../../../data-outside", world.rootfs().join("link")).unwrap();
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "cat /data/file; touch /data/x; cat /one; cat /link/sub/file; cat /proc/self/mountinfo",
    ]);
    let bind = |to: &str, from: std::path::PathBuf, options: &[&str]| {
        let mut mount = oci_spec::runtime::Mount::default();
        mount.set_destination(to.into()).set_typ(Some("bind".to_owned())).set_source(Some(from));
        mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
        mount
    };
    let mounts = spec.mounts_mut().as_mut().unwrap();
    mounts.push(bind("/data", data.clone(), &["rbind", "ro", "nosuid"]));
    mounts.push(bind("/one", data.join("file"), &["bind"]));
    mounts.push(bind("/link/sub", data.clone(), &["bind"]));
    let (code, out, err) = world.run(&id("bind"), &spec);
    assert!(out.starts_with("contentcontentcontent"), "{code} {out} {err}");
    assert!(err.contains("ead-only file system"), "{err}");
    assert!(out.lines().any(|l| l.contains(" /data ro,nosuid")), "{out}");
    assert!(world.rootfs().join("data-outside/sub").is_dir());
    also_unprivileged("binds_with_their_options");
}

#[test]
fn hooks_run_in_their_places() {
    let Some(world) = World::new() else { return };
    let log = world.dir.path().join("log");
    let mut spec = world.spec(&["sh", "-c", "cat /hook"]);
    let hook = |kind: &str, path: &str, script: String| {
        let mut hook = oci_spec::runtime::Hook::default();
        hook.set_path(path.into())
            .set_args(Some(vec!["sh".to_owned(), "-c".to_owned(), script]))
            .set_timeout(Some(10));
        hook.set_env(Some(vec!["PATH=/bin:/usr/bin".to_owned(), format!("KIND={kind}")]));
        Some(vec![hook])
    };
    let outside =
        |kind| hook(kind, "/bin/sh", format!("(echo $KIND $SECRET; cat; echo) >> {}", log.display()));
    let mut hooks = oci_spec::runtime::Hooks::default();
    hooks
        .set_create_runtime(outside("createRuntime"))
        .set_create_container(outside("createContainer"))
        .set_start_container(hook(
            "startContainer",
            "/bin/sh",
            "cat > /hook; echo $$ $SECRET >> /hook".to_owned(),
        ))
        .set_poststart(outside("poststart"))
        .set_poststop(outside("poststop"));
    spec.set_hooks(Some(hooks.clone()));
    spec.process_mut().as_mut().unwrap().env_mut().as_mut().unwrap().push("SECRET=leaked".to_owned());
    let id = id("hooks");
    let created = world.runtime.create(&id, &spec, world.piped()).unwrap();
    let pid = created.pid();
    let mut running = created.start().unwrap();
    let out = read(running.take_stdio(1));
    assert!(out.contains(&format!("{pid},\"bundle\"")) && out.contains("\"status\":\"created\""), "{out}");
    drop(running);
    let text = fs::read_to_string(&log).unwrap();
    let kinds: Vec<_> =
        text.lines().filter(|l| !l.is_empty() && !l.starts_with('{')).map(str::trim).collect();
    assert_eq!(kinds, ["createRuntime", "createContainer", "poststart", "poststop"], "{text}");
    assert!(text.contains("\"status\":\"creating\"") && text.contains("\"status\":\"stopped\""), "{text}");
    assert!(!text.contains("leaked") && !out.contains("leaked"));
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        let mut hooks = oci_spec::runtime::Hooks::default();
        let failing = hook(kind, "/bin/sh", "exit 42".to_owned());
        match kind {
            "createRuntime" => hooks.set_create_runtime(failing),
            "createContainer" => hooks.set_create_container(failing),
            _ => hooks.set_start_container(failing),
        };
        spec.set_hooks(Some(hooks));
        let error = world
            .runtime
            .create(&id, &spec, CreateOptions::default())
            .and_then(longshore_runtime::Created::start)
            .unwrap_err();
        assert!(error.to_string().contains(kind) && error.to_string().contains("42"), "{error}");
    }
    also_unprivileged("hooks_run_in_their_places");
}

/// What is frozen before its start says so as often as it is asked, waits, and dies of SIGKILL.
#[test]
fn paused_before_its_start() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let id = id("paused");
    let spec = world.spec(&["sleep", "1000"]);
    let created = world.runtime.create(&id, &spec, CreateOptions::default()).unwrap();
    let container = world.runtime.open(&id).unwrap();
    container.pause().unwrap();
    for _ in 0..20 {
        assert_eq!(container.state().unwrap().status, Status::Paused);
    }
    assert!(container.start().is_err(), "nobody there would answer");
    container.resume().unwrap();
    for _ in 0..20 {
        assert_eq!(container.state().unwrap().status, Status::Created);
    }
    let mut running = created.start().unwrap();
    container.pause().unwrap();
    container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(running.wait_to_end().unwrap().signal, Some(libc::SIGKILL));
}
