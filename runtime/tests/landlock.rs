//! Landlock on top of everything else: what a policy does not name is refused, in the container's process and in those that join it.

#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::net::TcpListener;
use std::os::unix::fs::symlink;

use common::{World, also_unprivileged, id, is_root, read, skip};
use longshore_runtime::{Capabilities, Container, CreateOptions, Error, ExecOptions, Landlock, Stdio};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// This kernel's version is enough.
fn has(version: u32) -> bool {
    let found = Capabilities::probe().unwrap().landlock.unwrap_or(0);
    if found < version {
        skip(&format!("this kernel's Landlock is of version {found}"));
    }
    found >= version
}

fn under(world: &World, policy: &Landlock, script: &str) -> Spec {
    let mut spec = world.spec(&["sh", "-c", script]);
    policy.add_to(&mut spec);
    spec
}

/// Programs, and what every shell script needs.
fn usual() -> Landlock {
    Landlock::default().execute("/bin").write("/dev").read("/proc")
}

#[test]
fn only_named_paths_can_be_used() {
    let Some(world) = World::new().filter(|_| has(3)) else { return };
    for dir in ["data", "data/below", "public", "secret"] {
        std::fs::create_dir(world.rootfs().join(dir)).unwrap();
        std::fs::write(world.rootfs().join(dir).join("file"), dir).unwrap();
    }
    std::fs::write(world.rootfs().join("etc/one"), "one").unwrap();
    std::fs::write(world.rootfs().join("etc/other"), "other").unwrap();
    symlink("/secret", world.rootfs().join("public/link")).unwrap();
    let policy = usual().write("/data").read("/public").read("/etc/one").read("/not/there");
    let script = "
        may() { if (eval \"$1\") >/dev/null 2>&1; then echo \"yes $1\"; else echo \"no $1\"; fi; }
        may 'cat /data/file'; may 'ls /data/below'; may 'echo x >/data/new'; may 'mv /data/new /data/below/moved'; may 'rm /data/file'
        may 'cat /public/file'; may 'ls /public'; may 'echo x >/public/new'; may ': >/public/file'; may 'rm /public/file'
        may 'cat /etc/one'; may 'cat /etc/other'; may 'ls /etc'; may 'cat /secret/file'; may 'cat /public/link/file'
        may 'ls /'; may 'mkdir /made'; may 'cp /bin/busybox /data/busybox && chmod 755 /data/busybox'; may '/data/busybox true'
        may 'cat /proc/self/status'; may 'echo x >/dev/null'; may 'ln /data/below/moved /public/hard'";
    let (code, out, err) = world.run(&id("landlock"), &under(&world, &policy, script));
    let refused: Vec<_> = out.lines().filter_map(|l| l.strip_prefix("no ")).collect();
    let expected = [
        "echo x >/public/new",
        ": >/public/file",
        "rm /public/file",
        "cat /etc/other",
        "ls /etc",
        "cat /secret/file",
        "cat /public/link/file",
        "ls /",
        "mkdir /made",
        "/data/busybox true",
        "ln /data/below/moved /public/hard",
    ];
    assert_eq!(refused, expected, "{out}{err}");
    assert_eq!((code, out.lines().count()), (0, 22), "{out}{err}");
    // The same without a policy, to see that it was that.
    let (_, out, err) = world.run(&id("free"), &world.spec(&["sh", "-c", script]));
    let refused: Vec<_> = out.lines().filter_map(|l| l.strip_prefix("no ")).collect();
    assert_eq!(refused, ["cat /data/file", "rm /data/file"], "it is gone already: {out}{err}");
    also_unprivileged("only_named_paths_can_be_used");
}

#[test]
fn exec_meets_the_same_policy() {
    let Some(world) = World::new().filter(|_| has(1)) else { return };
    std::fs::write(world.rootfs().join("etc/secret"), "secret").unwrap();
    let spec = under(&world, &usual(), "exec sleep 1000");
    let created = world.runtime.create(&id("landlock"), &spec, CreateOptions::default()).unwrap();
    assert!(!created.warnings().iter().any(|w| w.contains(Landlock::ANNOTATION)), "{:?}", created.warnings());
    let running = created.start().unwrap();
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
    let script = ["sh", "-c", "cat /etc/secret; cat /proc/sys/kernel/ostype"];
    let mut exec = running.exec_with(script, options).unwrap();
    assert_eq!(read(exec.take_stdio(1)), "Linux\n");
    exec.wait(None).unwrap();
    also_unprivileged("exec_meets_the_same_policy");
}

/// With and without `no_new_privs`, which decides who may load filters when.
#[test]
fn goes_together_with_every_kind_of_privilege() {
    let Some(world) = World::new().filter(|_| has(1)) else { return };
    std::fs::write(world.rootfs().join("etc/secret"), "secret").unwrap();
    for no_new_privileges in [true, false] {
        for uid in [0, 1000] {
            let mut spec = under(&world, &usual(), "id -u; cat /etc/secret 2>/dev/null; exit 5");
            let process = spec.process_mut().as_mut().unwrap();
            process.set_no_new_privileges(Some(no_new_privileges));
            if is_root() {
                process.user_mut().set_uid(uid);
            }
            let (code, out, err) = world.run(&id("landlock"), &spec);
            let uid = if is_root() { uid } else { 0 };
            assert_eq!((code, out), (5, format!("{uid}\n")), "{no_new_privileges} {uid}: {err}");
        }
    }
    also_unprivileged("goes_together_with_every_kind_of_privilege");
}

#[test]
fn only_named_ports_can_be_used() {
    let Some(world) = World::new().filter(|_| has(4)) else { return };
    let (open, closed) = (listener(), listener());
    let policy = Landlock::default().connect_tcp([open]).bind_tcp([]);
    let script = format!(
        "try() {{ timeout 60 nc \"$@\" </dev/null 2>&1; echo $?; }}; try 127.0.0.1 {open}; try 127.0.0.1 {closed}; try -l -p {closed}"
    );
    let mut spec = under(&world, &policy, &script);
    // The host's network, where somebody listens.
    longshore_runtime::spec::share_network(&mut spec);
    let (_, out, err) = world.run(&id("landlock"), &spec);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2], lines[4]), (5, "0", "1", "1"), "{out}{err}");
    assert!(lines[1].contains("ermission denied") && lines[3].contains("ermission denied"), "{out}{err}");
    also_unprivileged("only_named_ports_can_be_used");
}

/// A port where connections are taken, and closed.
fn listener() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

/// A process of the host is out of reach, though the PID namespace is shared.
#[test]
fn signals_stay_inside() {
    // An ordinary user's container cannot share the PID namespace and have a /proc.
    let Some(world) = World::new().filter(|_| has(6) && is_root()) else { return };
    let me = std::process::id();
    // Signal 0 only asks whether one might.
    let script = format!("kill -0 {me} 2>/dev/null; echo $?; sleep 100 & kill -9 $!; echo $?");
    for (policy, expected) in
        [(Landlock::default(), "0\n0\n"), (Landlock::default().scope_signals(), "1\n0\n")]
    {
        let mut spec = under(&world, &policy, &script);
        common::without(&mut spec, LinuxNamespaceType::Pid);
        let (_, out, err) = world.run(&id("landlock"), &spec);
        assert_eq!(out, expected, "{err}");
    }
}

#[test]
fn a_policy_that_forbids_the_program_is_told_as_such() {
    let Some(world) = World::new().filter(|_| has(1)) else { return };
    let builder = || Container::builder(world.rootfs()).args(["true"]).stdout(Stdio::Null);
    let error = builder().landlock(Landlock::default().read("/")).spawn(&world.runtime).unwrap_err();
    assert!(error.is_program_not_executable(), "{error:?}");
    let mut ends = builder().landlock(Landlock::default().execute("/")).spawn(&world.runtime).unwrap();
    assert!(ends.wait_to_end().unwrap().success());
    drop(ends);
    // What lies in the image leads to no descriptor of the starting process.
    symlink("/proc/self/fd/3", world.rootfs().join("trap")).unwrap();
    let policy = Landlock::default().execute("/bin").write("/trap");
    let error = builder().landlock(policy).spawn(&world.runtime).unwrap_err();
    assert!(matches!(&error, Error::Child { step, .. } if step.contains("/trap")), "{error:?}");
    let mut spec = world.spec(&["true"]);
    spec.set_annotations(Some([(Landlock::ANNOTATION.to_owned(), "{\"raed\":[]}".to_owned())].into()));
    let error = world.runtime.create(&id("landlock"), &spec, CreateOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Spec { field, .. } if field.contains("landlock")), "{error:?}");
    assert!(world.runtime.list().unwrap().is_empty());
}
