//! Corners of volumes, image layouts and starts that once went wrong.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_runtime::Stdio;
use longshore_runtime::containers::{
    AttachOptions, ExecRequest, Filters, RemoveOptions, StartOptions, StopOptions, Terminal, WaitFor,
};

use crate::crash::{kill, shims};
use crate::harness::Test;
use crate::world::{World, skip, until};

pub(crate) const TESTS: [Test; 14] = [
    ("edges::a_volume_at_etc_has_the_names_files", a_volume_at_etc_has_the_names_files),
    ("edges::the_primary_group_is_a_supplementary_one", the_primary_group_is_a_supplementary_one),
    ("edges::the_shim_holds_nothing_of_its_starters", the_shim_holds_nothing_of_its_starters),
    ("edges::landlock_holds_for_exec_too", landlock_holds_for_exec_too),
    ("edges::shared_memory_of_another_container", shared_memory_of_another_container),
    ("edges::private_memory_is_not_shared", private_memory_is_not_shared),
    ("edges::a_volume_that_comes_into_use_stays", a_volume_that_comes_into_use_stays),
    ("edges::a_borrowed_volume_outlives_its_first_container", a_borrowed_volume_outlives_its_first_container),
    ("edges::links_to_nothing_are_made_inside", links_to_nothing_are_made_inside),
    ("edges::init_reaps_and_forwards", init_reaps_and_forwards),
    ("edges::init_ends_as_its_child", init_ends_as_its_child),
    ("edges::errors_in_dockers_words", errors_in_dockers_words),
    ("edges::lost_output_is_no_detach", lost_output_is_no_detach),
    (
        "edges::a_network_that_does_not_let_go_loses_no_container",
        a_network_that_does_not_let_go_loses_no_container,
    ),
];

fn a_volume_at_etc_has_the_names_files() {
    let Some(world) = World::new() else { return };
    let (code, log) = world.run_to_end(
        "box",
        "head -1 /etc/resolv.conf && cat /etc/hostname && test -s /etc/hosts && head -1 /etc/passwd",
        |r| {
            r.host.binds = vec!["configuration:/etc".into()];
            r.config.hostname = "named".into();
        },
    );
    assert_eq!((code, log.as_str()), (0, "nameserver 192.0.2.1\nnamed\nroot:x:0:0:root:/root:/bin/sh\n"));
}

/// As Docker since CVE-2022-36109: a program that compares group lists finds it there.
fn the_primary_group_is_a_supplementary_one() {
    let Some(world) = World::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let script = "grep ^Groups: /proc/self/status; sleep 1000";
    for (name, user, groups) in [("named", "web", "34 77"), ("numbers", "12:35", "35"), ("root", "", "0")] {
        world.run(name, &["sh", "-c", script], |r| r.config.user = user.into());
        let line = format!("Groups:\t{groups} \n");
        until("it has said so", || !world.log(name).is_empty());
        assert_eq!(world.log(name), line, "{name}");
    }
    let mut request = ExecRequest::new(["grep", "^Groups:", "/proc/self/status"]);
    request.user = Some("5:6".into());
    let mut process = world.all.exec("root", &request, [Stdio::Null, Stdio::Piped, Stdio::Null]).unwrap();
    let mut said = String::new();
    let mut out = std::fs::File::from(process.take_stdio(1).unwrap());
    std::io::Read::read_to_string(&mut out, &mut said).unwrap();
    process.wait(None).unwrap();
    assert_eq!(said, "Groups:\t6 \n");
}

/// What cannot be taken down is shown, told, and taken down when it can be.
fn a_network_that_does_not_let_go_loses_no_container() {
    let Some(world) = World::new() else { return };
    let broken = world.dir.join("broken");
    let states = || {
        let all = world.all.list(true, &Filters::new(), false).unwrap();
        let mut states: Vec<_> = all.into_iter().map(|s| (s.name, s.state)).collect();
        states.sort();
        states
    };
    std::fs::write(&broken, "").unwrap();
    for (name, auto_remove) in [("kept", false), ("passing", true)] {
        world.run(name, &["sh", "-c", "exit 3"], |r| {
            r.host.network_mode = "broken".into();
            r.host.auto_remove = auto_remove;
        });
        assert_eq!(world.all.wait(name, WaitFor::NotRunning).unwrap(), 3);
    }
    let exited = |name: &str| (name.to_owned(), "exited".to_owned());
    until("both are shown", || states() == [exited("kept"), exited("passing")]);
    assert_eq!(
        (world.status("kept"), world.all.wait("kept", WaitFor::NotRunning).unwrap()),
        ("exited".into(), 3)
    );
    // Its shim is killed: it has ended all the same, and cannot be removed yet.
    let orphan = world.run("orphan", &["sleep", "1000"], |r| r.host.network_mode = "broken".into());
    let (shim, _) = shims(&world).into_iter().find(|(_, id)| *id == orphan).unwrap();
    kill(shim);
    until("it is known to have ended", || world.status("orphan") == "exited");
    assert_eq!(world.all.wait("orphan", WaitFor::NotRunning).unwrap(), 137);
    assert!(world.all.remove("orphan", &RemoveOptions::new(true, false)).is_err());
    assert!(world.all.start("orphan", &StartOptions::default()).is_err());
    let id = world.create("unstarted", &["true"], |r| {
        r.host.network_mode = "nowhere".into();
        r.host.auto_remove = true;
    });
    let error = world.all.start(&id, &StartOptions::default()).unwrap_err();
    assert!(format!("{error:?}").contains("no network nowhere"), "{error:?}");
    assert!(!world.dir.join("detached").exists());
    std::fs::remove_file(&broken).unwrap();
    until("those that remove themselves are gone", || states() == [exited("kept"), exited("orphan")]);
    world.all.remove("orphan", &RemoveOptions::default()).unwrap();
    assert!(world.dir.join("detached").exists());
}

/// `volume rm` against `create -v`: whoever is first, no container is left without its data.
fn a_volume_that_comes_into_use_stays() {
    let Some(world) = World::new() else { return };
    let (volumes, done) = (world.all.volumes(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = volumes.remove("data", false);
            }
        });
        for n in 0..200 {
            let id = world.create(&format!("user{n}"), &["true"], |r| r.host.binds = vec!["data:/d".into()]);
            let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..3 {
                    assert!(volumes.inspect("data").is_ok(), "removed under a container, round {n}");
                }
            }));
            done.store(kept.is_err(), Ordering::Relaxed);
            kept.unwrap();
            world.all.remove(&id, &RemoveOptions::default()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// `--volumes-from` of a container that goes with `rm -v`.
fn a_borrowed_volume_outlives_its_first_container() {
    let Some(world) = World::new() else { return };
    world.create("first", &["true"], |r| r.config.volumes = [("/v".to_owned(), Default::default())].into());
    let (code, _) = world.run_to_end("second", "echo kept > /v/file", |r| {
        r.host.volumes_from = vec!["first".into()];
    });
    assert_eq!(code, 0);
    world.all.remove("first", &RemoveOptions::new(false, true)).unwrap();
    assert_eq!(world.all.volumes().list(&Default::default()).unwrap().len(), 1);
    world.all.start("second", &StartOptions::default()).unwrap();
    assert_eq!(world.all.wait("second", WaitFor::NotRunning).unwrap(), 0);
    let (_, log) = world.run_to_end("third", "cat /v/file", |r| r.host.volumes_from = vec!["second".into()]);
    assert_eq!(log, "kept\n");
}

/// Images have `/etc/resolv.conf -> /run/...` or `/var/lib/x -> /srv/x` before there is such a thing.
fn links_to_nothing_are_made_inside() {
    let Some(world) = World::new() else { return };
    let id = world.create("links", &["sh", "-c", "pwd -P; cat /etc/resolv.conf; echo x > /vol/x"], |r| {
        r.config.working_dir = "/app/here".into();
        r.host.binds = vec!["data:/vol".into()];
    });
    let root = world.dir.join("roots").join(id);
    symlink("/run/missing/stub.conf", root.join("etc/resolv.conf")).unwrap();
    symlink("../../../srv/app", root.join("app")).unwrap();
    symlink("/srv/volume", root.join("vol")).unwrap();
    world.all.start("links", &StartOptions::default()).unwrap();
    assert_eq!(world.all.wait("links", WaitFor::NotRunning).unwrap(), 0);
    assert_eq!(world.log("links"), "/srv/app/here\nnameserver 192.0.2.1\n");
    let volume = world.all.volumes().inspect("data").unwrap();
    assert_eq!(std::fs::read_to_string(format!("{}/x", volume.mountpoint)).unwrap(), "x\n");
}

fn init_reaps_and_forwards() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo got it; exit 5' TERM; (sh -c 'sleep 0.1 & exit' &); cat /proc/1/cmdline | tr '\\0' ' '; echo; \
         while true; do sleep 0.05; done";
    world.run("tree", &["sh", "-c", script], |r| r.host.init = Some(true));
    until("it is at work", || world.log("tree").contains("/sbin/docker-init -- sh"));
    // The orphan has ended and is nobody's zombie.
    let zombies = || world.all.processes("tree").unwrap().iter().filter(|p| p.arguments.is_empty()).count();
    until("its orphan is reaped", || zombies() == 0 && world.all.processes("tree").unwrap().len() <= 3);
    world.all.stop("tree", &StopOptions::timeout(20)).unwrap();
    assert_eq!(world.all.inspect("tree").unwrap().state.exit_code, 5);
    assert!(world.log("tree").ends_with("got it\n"));
}

fn init_ends_as_its_child() {
    let Some(world) = World::new() else { return };
    let cases: [(&[&str], i32); 5] = [
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["nope"], 127),
        (&["/nope"], 127),
        (&["/etc/passwd"], 126),
    ];
    for (n, (command, code)) in cases.into_iter().enumerate() {
        let name = format!("c{n}");
        let id = world.create(&name, command, |r| {
            r.host.init = Some(true);
            r.host.readonly_rootfs = n == 0;
            r.host.auto_remove = n == 1;
        });
        let attach = StartOptions::attach(AttachOptions::default());
        let mut stream = world.all.start(&id, &attach).unwrap().unwrap();
        let ended = std::iter::from_fn(|| stream.recv().unwrap()).last();
        assert_eq!(ended, Some(longshore_runtime::containers::Output::Exited(code)), "{command:?}");
    }
}

/// A pipe that a shell or a terminal program left open for its children.
fn the_shim_holds_nothing_of_its_starters() {
    let Some(world) = World::new() else { return };
    // Without close-on-exec.
    let (read, write) = rustix::pipe::pipe().unwrap();
    world.run("box", &["sleep", "1000"], |_| {});
    drop(write);
    let mut fds = [rustix::event::PollFd::new(&read, rustix::event::PollFlags::IN)];
    let minute = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    // Nobody can write to it any more.
    assert_eq!(rustix::event::poll(&mut fds, Some(&minute)).unwrap(), 1);
    assert_eq!(world.status("box"), "running");
}

fn errors_in_dockers_words() {
    let Some(world) = World::new() else { return };
    let cases = [
        (
            "nope",
            "none",
            "failed to start the container's process: exec: \"nope\": executable file not found in $PATH",
        ),
        (
            "/nope",
            "none",
            "failed to start the container's process: exec: \"/nope\": stat /nope: no such file or directory",
        ),
        (
            "/etc/passwd",
            "none",
            "failed to start the container's process: exec: \"/etc/passwd\": permission denied",
        ),
        ("true", "backend", "failed to set up container networking: no network backend"),
    ];
    for (n, (program, network, words)) in cases.into_iter().enumerate() {
        if network != "none" && !rustix::process::geteuid().is_root() {
            continue;
        }
        let id = world.create(&format!("c{n}"), &[program], |r| r.host.network_mode = network.into());
        let error = world.all.start(&id, &StartOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), words);
    }
}

fn lost_output_is_no_detach() {
    let Some(world) = World::new() else { return };
    let id = world.create("talker", &["sh", "-c", "while true; do echo y; done"], |_| {});
    let stream = world.all.start(&id, &StartOptions::attach(AttachOptions::default())).unwrap().unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    drop(read);
    let error = Terminal::new(write.as_fd(), write.as_fd()).attach(stream).unwrap_err();
    assert!(error.is_broken_pipe(), "{error}");
    assert_eq!(world.status("talker"), "running");
}

/// `--ipc container:X`: what one writes to `/dev/shm` the other reads, and it is no mount of the host's.
fn shared_memory_of_another_container() {
    let Some(world) = World::new() else { return };
    let donor = world.run("donor", &["sh", "-c", "echo given > /dev/shm/from; echo up; sleep 1000"], |r| {
        r.host.ipc_mode = "shareable".into();
        r.host.shm_size = 3 << 20;
    });
    until("it has written", || world.log("donor") == "up\n");
    let join = |name: &str, script: &str, other: &str| {
        let (code, log) = world.run_to_end(name, script, |r| r.host.ipc_mode = format!("container:{other}"));
        assert_eq!(code, 0, "{log}");
        log
    };
    let script = "cat /dev/shm/from; echo back > /dev/shm/back; grep -c ' /dev/shm ' /proc/self/mountinfo; \
         grep ' /dev/shm ' /proc/self/mountinfo | grep -o 'nosuid,nodev,noexec\\|size=[0-9a-z]*'; readlink /proc/self/ns/ipc";
    let said = join("guest", script, "donor");
    let inside = "given\n1\nnosuid,nodev,noexec\nsize=3072k\n";
    assert!(said.starts_with(inside), "{said}");
    let pid = world.all.inspect(&donor).unwrap().state.pid;
    assert_eq!(
        said[inside.len()..].trim_end(),
        std::fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap().to_string_lossy()
    );
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/root/dev/shm/back")).unwrap(), "back\n");
    // Of a guest, too, as long as that lives.
    world.run("middle", &["sleep", "1000"], |r| r.host.ipc_mode = "container:donor".into());
    assert_eq!(join("third", "cat /dev/shm/back", "middle"), "back\n");
    world.all.stop("middle", &StopOptions::timeout(0)).unwrap();
    assert_eq!(join("fourth", "cat /dev/shm/from", "donor"), "given\n");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*world.dir.to_string_lossy()), "{mounts}");
}

/// As with Docker, a container's IPC namespace is its own unless it says otherwise.
fn private_memory_is_not_shared() {
    let Some(world) = World::new() else { return };
    let id = world.run("mine", &["sleep", "1000"], |_| {});
    let guest = world.create("guest", &["true"], |r| r.host.ipc_mode = "container:mine".into());
    let error = world.all.start(&guest, &StartOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "can't join IPC of container {id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
        )
    );
    let (_, log) = world.run_to_end(
        "none",
        "ls /dev/shm 2>&1 | wc -l; grep -c ' /dev/shm ' /proc/self/mountinfo",
        |r| {
            r.host.ipc_mode = "none".into();
        },
    );
    assert_eq!(log, "1\n0\n");
    let script = "readlink /proc/self/ns/ipc; grep -c ' /dev/shm ' /proc/self/mountinfo";
    let (code, log) = world.run_to_end("host", script, |r| r.host.ipc_mode = "host".into());
    let own = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    assert_eq!((code, log), (0, format!("{}\n1\n", own.display())));
}

/// `--security-opt landlock=POLICY`: for the container's process and for those that come later.
fn landlock_holds_for_exec_too() {
    let Some(world) = World::new() else { return };
    if longshore_runtime::Capabilities::probe().unwrap().landlock.is_none() {
        return skip("no Landlock").unwrap_or_default();
    }
    let policy = longshore_runtime::Landlock::default().execute("/").write("/data").write("/dev");
    let restricted = |r: &mut longshore_runtime::containers::CreateRequest| {
        r.host.security_opt = vec![format!("landlock={}", policy.to_json())];
    };
    let script = "echo x > /data/yes && echo x > /tmp/no || echo refused; sleep 1000";
    world.run("held", &["sh", "-c", script], restricted);
    until("it has tried", || world.log("held").contains("refused"));
    let request = ExecRequest::new(["sh", "-c", "echo x > /data/too && ! echo x > /tmp/no 2> /dev/null"]);
    let mut process = world.all.exec("held", &request, [Stdio::Null, Stdio::Null, Stdio::Null]).unwrap();
    assert_eq!(process.wait(None).unwrap().unwrap().code, 0);
    let mut request = longshore_runtime::containers::CreateRequest::new("busybox");
    request.host.security_opt = vec!["landlock={\"raed\":[]}".into()];
    assert!(world.all.create(&request).unwrap_err().to_string().contains("raed"));
}
