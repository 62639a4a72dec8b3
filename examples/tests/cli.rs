//! What a user of docker expects of the command line: exit codes, one line for an error, the noun forms.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Longshore, have, skip, succeed};

/// Busybox as the image `bb`; `None` where this machine cannot.
fn with_busybox(dir: &Path) -> Option<Longshore> {
    if !have(&["busybox", "tar"]) {
        return None;
    }
    let root = dir.join("busybox");
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    let from = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).is_file())?;
    std::fs::copy(from, root.join("bin/busybox")).expect("copy");
    for applet in ["sh", "echo", "cat", "head", "sleep", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    std::fs::write(root.join("text"), "not a program\n").expect("write");
    let tar = dir.join("busybox.tar");
    succeed(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."), 30);
    let longshore = Longshore::new(dir.join("root"));
    longshore.ok(&["import", &tar.display().to_string(), "bb"]);
    Some(longshore)
}

#[test]
fn exit_codes_are_dockers() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let run =
        |rest: &[&str]| longshore.run(&[&["run", "--rm", "--network", "none"], rest].concat()).status.code();
    assert_eq!(longshore.ok(&["run", "--rm", "--network", "none", "bb", "echo", "hello"]), "hello\n");
    assert_eq!(run(&["bb", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(run(&["bb", "nope"]), Some(127));
    assert_eq!(run(&["bb", "/text"]), Some(126));
    assert_eq!(run(&["--pull", "never", "no-such-image"]), Some(125));
    assert_eq!(run(&["--no-such-flag", "bb"]), Some(125));
    assert_eq!(longshore.ok(&["ps", "-aq"]), "", "--rm removes");
}

#[test]
fn flags_are_written_as_for_docker() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let show = ["sh", "-c", "echo $A $0 $PWD $(busybox hostname)", "-eA=c"];
    let flags = ["-eA=b", "-w/bin", "-hfoo", "-u0", "-la=b", "-i=false", "--read-only=false", "--init=0"];
    let line = [&["run", "--rm=t", "--network", "none"], &flags[..], &["bb"], &show].concat();
    assert_eq!(longshore.ok(&line), "b -eA=c /bin foo\n");
    assert_eq!(longshore.ok(&["ps", "--all=true", "-q=true"]), "");
    longshore.ok(&[
        "run",
        "--rm",
        "-deA=b",
        "--rm=false",
        "--network=none",
        "--name=box",
        "bb",
        "sleep",
        "1000",
    ]);
    if common::root() {
        assert_eq!(
            longshore.ok(&["exec", "-t=false", "-u0", "-eB=c", "box", "sh", "-c", "echo $A$B"]),
            "bc\n"
        );
        let said = longshore.fails(125, &["exec", "-zroot", "box", "true"]);
        assert!(said.contains("unknown flag: -zroot"), "{said}");
    }
    assert_eq!(longshore.ok(&["logs", "--follow=false", "box"]), "");
    longshore.ok(&["stop", "-t0", "box"]);
    assert_eq!(longshore.ok(&["ps", "-an1", "--format={{.Names}}"]), "box\n", "--rm=false keeps");
    longshore.ok(&["rm", "box", "-f=true"]);
    let idle = ["--disable-content-trust", "--isolation", "default", "--kernel-memory", "10m"];
    longshore.ok(&[&["run", "--rm", "--network", "none"], &idle[..], &["bb", "true"]].concat());
    for args in [["run", "--isolation=hyperv", "bb"], ["pull", "--disable-content-trust=false", "bb"]] {
        assert!(longshore.fails(125, &args).contains("invalid value"));
    }
    for args in [["run", "--rm=maybe", "bb"], ["run", "-t=maybe", "bb"]] {
        assert!(longshore.fails(125, &args).contains("maybe"));
    }
}

#[test]
fn inspect_measures_a_container_if_it_is_asked_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let script = "head -c 300000 /dev/urandom > /file";
    longshore.ok(&["run", "--name", "box", "--network", "none", "bb", "sh", "-c", script]);
    let number = |args: &[&str]| longshore.ok(args).trim().parse::<u64>().expect("a number");
    let image = number(&["inspect", "-f", "{{.Size}}", "bb"]);
    let own = number(&["inspect", "--size", "-f", "{{.SizeRw}}", "box"]);
    assert_eq!(own, 300_000);
    assert_eq!(number(&["container", "inspect", "-s", "-f", "{{.SizeRootFs}}", "box"]), image + own);
    assert!(!longshore.ok(&["inspect", "box"]).contains("SizeR"));
}

#[test]
fn a_supervisor_with_more_clients_than_it_can_take_rests() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    if !common::have(&["prlimit"]) {
        return;
    }
    let id = longshore.ok(&["run", "-d", "--network", "none", "bb", "sleep", "1000"]).trim().to_owned();
    let init = longshore.ok(&["inspect", "-f", "{{.State.Pid}}", &id]).trim().to_owned();
    let numbers = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields = stat.rsplit(") ").next().expect("fields").split(' ').map(str::to_owned);
        fields.collect::<Vec<_>>()
    };
    let shim = numbers(&init)[1].clone();
    common::succeed(std::process::Command::new("prlimit").args(["--pid", &shim, "--nofile=32:32"]), 60);
    let place = std::fs::File::open(longshore.root.join("containers").join(&id)).expect("its directory");
    // Its path may be too long for an address.
    let socket = format!("/proc/self/fd/{}/sock", std::os::fd::AsRawFd::as_raw_fd(&place));
    let connect = || std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
    let crowd: Vec<_> = (0..64).map(|_| connect()).collect();
    let ticks =
        || numbers(&shim)[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum::<u64>();
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let used = ticks() - before;
    // Of a hundred in a second; going round and round takes most of them.
    assert!(used < 25, "{used}");
    drop(crowd);
    longshore.ok(&["stop", "-t", "0", &id]);
    longshore.ok(&["rm", &id]);
}

/// As after a boot: everything was ended at once, and nobody wrote down how.
#[test]
fn what_was_running_comes_back_after_a_boot() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let start = |name: &str, policy: &str| {
        let id = longshore.ok(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "--restart",
            policy,
            "--stop-timeout",
            "0",
            "bb",
            "sleep",
            "1000",
        ]);
        id.trim().to_owned()
    };
    let [always, unless, stopped, by_hand, never] = [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("by-hand", "always"),
        ("never", "no"),
    ]
    .map(|(name, policy)| start(name, policy));
    longshore.ok(&["stop", &stopped, &by_hand]);
    for id in [&always, &unless, &never] {
        let init = longshore.ok(&["inspect", "-f", "{{.State.Pid}}", id]).trim().to_owned();
        let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).expect("it runs");
        let shim =
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).expect("a parent").to_owned();
        assert_ne!(shim, "1", "{stat}");
        common::succeed(std::process::Command::new("kill").args(["-9", &shim, &init]), 60);
    }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !longshore.ok(&["ps", "-q"]).is_empty() {
        assert!(std::time::Instant::now() < end, "{}", longshore.ok(&["ps", "-a"]));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(longshore.ok(&["system", "restore"]), format!("{always}\n{unless}\n{by_hand}\n"));
    assert_eq!(longshore.ok(&["system", "restore"]), "");
    let up = longshore.ok(&["ps", "--format", "{{.Names}}"]);
    assert_eq!(up.lines().collect::<std::collections::BTreeSet<_>>(), ["always", "by-hand", "unless"].into());
    longshore.ok(&["rm", "-f", &always, &unless, &stopped, &by_hand, &never]);
}

#[test]
fn limits_that_do_not_hold_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mine) = with_busybox(dir.path()) else { return };
    let said = |longshore: &Longshore, flags: &[&str]| {
        let out = longshore
            .run(&[&["run", "--rm", "--network", "none"], flags, &["bb", "sh", "-c", "echo ran"]].concat());
        assert_eq!((out.status.code(), common::text(&out.stdout).as_str()), (Some(0), "ran\n"), "{flags:?}");
        common::text(&out.stderr)
    };
    assert_eq!(said(&mine, &[]), "");
    let home = tempfile::tempdir().expect("a directory");
    let Some(ordinary) = Longshore::ordinary(home.path()) else { return };
    ordinary.import(&dir.path().join("busybox.tar").display().to_string(), "bb");
    assert_eq!(said(&ordinary, &[]), "");
    // A user to whom somebody has delegated cgroups has his limits.
    let told = said(&ordinary, &["--memory", "20m", "--pids-limit", "5", "--cpus", "0.5"]);
    let all = "WARNING: Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.\n\
               WARNING: Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.\n\
               WARNING: Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.\n";
    if common::root() {
        assert_eq!(told, all);
        let out = ordinary.run(&[
            "run",
            "-d",
            "--name",
            "back",
            "--network",
            "none",
            "--pids-limit",
            "5",
            "bb",
            "true",
        ]);
        assert_eq!(common::text(&out.stdout).trim().len(), 64, "the ID alone");
        assert_eq!(common::text(&out.stderr).lines().count(), 1);
        has_no_figures(&ordinary);
        assert!(said(&ordinary, &["--cgroup-parent", "/else"]).contains("Cgroup parent discarded."));
    }
}

/// What the machine uses is not what a container without cgroups of its own uses.
fn has_no_figures(longshore: &Longshore) {
    longshore.ok(&["run", "-d", "--name", "asleep", "--network", "none", "bb", "sleep", "1000"]);
    let row = "{{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.BlockIO}} {{.PIDs}}";
    let said = longshore.ok(&["stats", "--no-stream", "--format", row, "asleep"]);
    assert_eq!(said, "0.00% 0B / 0B 0.00% 0B / 0B 1\n");
    longshore.ok(&["rm", "-f", "asleep"]);
}

#[test]
fn an_error_is_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let cases: [(&[&str], &str); 5] = [
        (&["inspect", "nothing"], "No such object: nothing"),
        (&["stop", "nothing"], "No such container: nothing"),
        (&["rmi", "nothing"], "No such image: nothing"),
        (&["tag", "bb", "Bad:name"], "invalid reference"),
        (&["pull", "127.0.0.1:1/nothing"], "127.0.0.1:1"),
    ];
    for (args, words) in cases {
        let said = longshore.fails(1, args);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("longshore: ") && said.contains(words), "{said}");
    }
}

#[test]
fn names_conflict_and_images_in_use_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let id = longshore.ok(&["create", "--name", "box", "--network", "none", "bb", "true"]);
    let said = longshore.fails(125, &["run", "--name", "box", "--network", "none", "bb", "true"]);
    assert!(said.contains("The container name \"/box\" is already in use by container"), "{said}");
    let said = longshore.fails(1, &["rmi", "bb"]);
    assert!(said.contains("is using its referenced image"), "{said}");
    assert_eq!(longshore.ok(&["container", "ls", "-aq", "--no-trunc"]), id);
    assert_eq!(longshore.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "box created\n");
    assert_eq!(
        longshore.ok(&["inspect", "-f", "{{.Name}} {{json .Config.Cmd}}", "box"]),
        "/box [\"true\"]\n"
    );
    longshore.ok(&["container", "rm", "box"]);
    assert!(longshore.ok(&["rmi", "bb"]).contains("Deleted: sha256:"));
    assert_eq!(longshore.ok(&["image", "ls", "-q"]), "");
}

/// What several containers of an image run is in memory once; the one that brought it there may end, or be killed.
#[test]
fn containers_of_an_image_share_its_pages() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let start = |name: &str| {
        longshore.ok(&["run", "-d", "--name", name, "--network", "none", "bb", "sleep", "600"]);
        let pid = longshore.ok(&["inspect", "-f", "{{.State.Pid}}", name]);
        let path = format!("/proc/{}/smaps_rollup", pid.trim());
        move || {
            let text = std::fs::read_to_string(&path).expect("a container's memory");
            let line = text.lines().find(|line| line.starts_with("Shared_Clean:")).expect("it is told");
            line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("kB")
        }
    };
    let (first, second) = (start("first"), start("second"));
    assert!(first() > 200 && second() > 200, "{} kB and {} kB are shared", first(), second());
    longshore.ok(&["kill", "first"]);
    let third = start("third");
    let fourth = start("fourth");
    assert!(third() > 200 && fourth() > 200, "{} kB and {} kB are shared", third(), fourth());
    longshore.ok(&["rm", "-f", "first", "second", "third", "fourth"]);
    longshore.ok(&["run", "--rm", "--network", "none", "bb", "true"]);
}

#[test]
fn an_image_goes_through_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let file = dir.path().join("bb.tar").display().to_string();
    let id = longshore.ok(&["images", "-q", "--no-trunc", "bb"]);
    longshore.ok(&["save", "-o", &file, "bb"]);
    longshore.ok(&["rmi", "bb"]);
    assert_eq!(longshore.ok(&["load", "-i", &file]), "Loaded image: bb:latest\n");
    assert_eq!(longshore.ok(&["images", "-q", "--no-trunc", "bb"]), id);
    assert!(longshore.ok(&["image", "verify"]).contains("all as it should be"));
}

#[test]
fn completions_know_the_commands() {
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    for shell in ["bash", "zsh", "fish"] {
        let script = longshore.ok(&["completion", shell]);
        assert!(script.contains("longshore") && script.contains("unpause"), "{shell}");
    }
}

#[test]
fn containers_find_each_other_by_name() {
    if !common::root() {
        return skip("networks need root");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    longshore.ok(&["network", "create", "backend"]);
    longshore.ok(&["run", "-d", "--name", "db", "--network", "backend", "bb", "sleep", "1000"]);
    let address = longshore.ok(&["inspect", "-f", "{{.NetworkSettings.Networks.backend.IPAddress}}", "db"]);
    let answer = longshore.ok(&[
        "run",
        "--rm",
        "--network",
        "backend",
        "bb",
        "busybox",
        "nslookup",
        "db",
        "127.0.0.11",
    ]);
    assert!(answer.contains(address.trim()), "{address} in {answer}");
    let said = longshore.fails(125, &["run", "--rm", "--network", "no-such", "bb", "true"]);
    assert!(said.contains("no-such"), "{said}");
    longshore.ok(&["rm", "-f", "db"]);
    assert_eq!(longshore.ok(&["network", "rm", "backend"]), "backend\n");
}

#[test]
fn exec_does_not_hand_out_the_callers_files() {
    if !common::root() {
        return skip("exec of root's containers is looked at");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    longshore.ok(&["run", "-d", "--name", "box", "--network", "none", "bb", "sleep", "1000"]);
    let file = dir.path().join("input");
    std::fs::write(&file, "as it was\n").expect("write");
    let mode =
        || std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("stat").permissions());
    let before = mode();
    let script = "cat; echo PWNED > /proc/self/fd/0; busybox chmod 4777 /proc/self/fd/0; exit 3";
    let mut command = longshore.command(&["exec", "-i", "box", "sh", "-c", script]);
    let said =
        command.stdin(std::fs::File::options().read(true).write(true).open(&file).expect("open")).output();
    let said = said.expect("it runs");
    assert_eq!((said.status.code(), common::text(&said.stdout).as_str()), (Some(3), "as it was\n"));
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "as it was\n");
    assert_eq!(mode(), before);
    let out = longshore.run(&["exec", "box", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((common::text(&out.stdout).as_str(), common::text(&out.stderr).as_str()), ("out\n", "err\n"));
}

#[test]
fn the_first_interrupt_ends_what_only_waits() {
    if !common::root() {
        return skip("signals are looked at with root's containers");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    longshore.ok(&["run", "-d", "--name", "box", "--network", "none", "bb", "sleep", "1000"]);
    let cases: [&[&str]; 4] =
        [&["logs", "-f", "box"], &["events"], &["wait", "box"], &["exec", "box", "sleep", "5"]];
    for args in cases {
        // `timeout` ends with the command's own code, and kills what the signal does not end.
        let mut command = Command::new("timeout");
        command.args(["--preserve-status", "-s", "INT", "-k", "30", "1"]);
        let line = longshore.command(args);
        command.arg(line.get_program()).args(line.get_args());
        let ended = command.output().expect("timeout(1) runs").status;
        assert_eq!(ended.code(), Some(130), "{args:?}: {ended}");
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let longshore = common::example("longshore");
    let script = "\"$1\" completion bash | head -1; \"$1\" images --bogus 2>&1 >/dev/null | true";
    let said = common::output(Command::new("sh").args(["-c", script, "sh"]).arg(longshore), 30);
    assert!(!common::text(&said.stderr).contains("panicked"), "{}", common::text(&said.stderr));
}

#[test]
fn a_killed_builds_traces_go_with_the_next_build_or_prune() {
    if !common::root() {
        return skip("an ordinary user has no bridge");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let context = dir.path().join("context");
    std::fs::create_dir(&context).expect("a directory");
    let write = |text: &str| std::fs::write(context.join("Dockerfile"), text).expect("write");
    let context_path = context.display().to_string();
    let entries = |dir: &str| std::fs::read_dir(longshore.root.join(dir)).map_or(0, Iterator::count);
    let sleeping = || {
        let all = common::text(&common::output(Command::new("ps").args(["-eo", "args"]), 30).stdout);
        all.lines().any(|line| line.trim() == "sleep 7777")
    };
    let killed_build = || {
        write("FROM bb\nRUN sleep 7777\n");
        let mut build = longshore.command(&["build", "-q", &context_path]).spawn().expect("a build");
        assert!(common::wait_for(std::time::Duration::from_secs(60), sleeping), "the command runs");
        build.kill().expect("kill -9");
        build.wait().expect("it ended");
        assert!(sleeping());
        assert_eq!((entries("build/run"), entries("image/snapshots")), (1, 1));
    };

    killed_build();
    write("FROM bb\nENV a=b\n");
    longshore.ok(&["build", "-q", &context_path]);
    assert!(!sleeping(), "the next build ends it");
    assert_eq!((entries("build/run"), entries("image/snapshots")), (0, 0));

    killed_build();
    let said = longshore.ok(&["system", "prune", "-f"]);
    assert!(said.contains("Deleted Networks:\nbridge\n"), "{said}");
    assert!(!sleeping(), "prune ends it");
    assert_eq!((entries("build/run"), entries("image/snapshots")), (0, 0));
    assert_eq!(longshore.ok(&["network", "ls", "-q"]), "host\nnone\n");
}

/// Answers any number of requests with the same page.
fn web_server(page: &'static str) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    port
}

#[test]
fn a_build_has_cache_mounts_downloads_hosts_and_its_own_ignore_rules() {
    if !common::root() {
        return skip("an ordinary user's base image is the tests' of the builder");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let context = dir.path().join("context");
    std::fs::create_dir(&context).expect("a directory");
    let port = web_server("from the web\n");
    let write = |name: &str, text: &str| std::fs::write(context.join(name), text).expect("write");
    write("key", "secret");
    write("page", "text");
    write("Dockerfile.dockerignore", "key\n");
    let build = |number: u32| {
        write(
            "Dockerfile",
            &format!(
                "FROM bb\nCOPY . /context/\nADD http://127.0.0.1:{port}/file /web/\n\
                 RUN --mount=type=cache,target=/c echo {number} >> /c/log && cat /c/log /etc/hosts > /seen\n\
                 RUN head -c 5000000 /dev/zero\n"
            ),
        );
        longshore.ok(&["build", "-t", "built", &context.display().to_string()]);
        let show = "cat /seen /web/file; echo /context/*; busybox stat -c %Y /web/file";
        longshore.ok(&["run", "--rm", "--network", "none", "built", "sh", "-c", show])
    };
    let hosts = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let rest = format!(
        "{hosts}from the web\n/context/Dockerfile /context/Dockerfile.dockerignore /context/page\n1445412480\n"
    );
    assert_eq!(build(1), format!("1\n{rest}"));
    assert_eq!(build(2), format!("1\n2\n{rest}"));
}

/// Who asks for copies gets them; whatever comes later finds out by itself.
#[test]
fn containers_can_be_copies_of_their_image() {
    let (dir, home) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let Some(longshore) = with_busybox(dir.path()) else { return };
    let ordinary = Longshore::ordinary(home.path());
    if let Some(ordinary) = &ordinary {
        ordinary.import(&dir.path().join("busybox.tar").display().to_string(), "bb");
    }
    let context = home.path().join("context");
    std::fs::create_dir(&context).expect("a directory");
    let run = "RUN --mount=type=bind,from=bb,target=/mnt cat /mnt/text >/built";
    for longshore in [Some(longshore), ordinary].into_iter().flatten() {
        let copies = |args: &[&str]| longshore.ok(&[&["--storage", "copies"], args].concat());
        let script = "echo new >/new; rm -f /text";
        copies(&["run", "--name", "copy", "--network", "none", "bb", "sh", "-c", script]);
        let id = longshore.ok(&["ps", "-aq", "--no-trunc"]);
        assert!(longshore.root.join("image/snapshots").join(id.trim_end()).join("fs/new").is_file());
        assert_eq!(longshore.ok(&["diff", "copy"]), "A /new\nD /text\n");
        longshore.ok(&["start", "-a", "copy"]);
        longshore.ok(&["commit", "copy", "changed"]);
        let cat = ["run", "--rm", "--network", "none"];
        assert_eq!(longshore.ok(&[&cat[..], &["changed", "cat", "/new"]].concat()), "new\n");
        longshore.ok(&["rm", "copy"]);

        // A bind mount of an image needs root so far.
        let run = if longshore.user.is_none() { run } else { "RUN cat /text >/built" };
        let dockerfile = format!("FROM bb\n{run}\nCOPY --from=bb /text /again\n");
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
        copies(&["build", "--network", "none", "-t", "built", &context.display().to_string()]);
        let text = "not a program\n".repeat(2);
        assert_eq!(longshore.ok(&[&cat[..], &["built", "cat", "/built", "/again"]].concat()), text);
        assert_eq!(copies(&[&cat[..], &["built", "cat", "/built", "/again"]].concat()), text);
    }
}
