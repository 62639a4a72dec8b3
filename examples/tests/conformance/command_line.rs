//! runc's command line, as engines and other suites use it: flags, texts, files, formats.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::common::wait_for;
use crate::world::{Bundle, Oci, Trial, finish, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = flags();
    all.extend(exec());
    all.extend(listing());
    all.extend(files());
    all.extend(terminals());
    all.extend(limits());
    all
}

fn sleeper<'a>(oci: &'a Oci) -> Bundle<'a> {
    let bundle = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
    bundle.start();
    // `start` of runc returns before its process has become the program.
    let pid = oci.state(&bundle.id)["pid"].clone();
    let runs = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\0"));
    assert!(wait_for(Duration::from_secs(60), runs), "it becomes the program");
    bundle
}

fn flags() -> Vec<Trial> {
    vec![
        trial("flags before and after the ID", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["echo", "hi"]}}));
            assert_eq!(oci.ok(&["run", &bundle.id, "--bundle", &bundle.path("")]), "hi\n");
            oci.ok(&["delete", &bundle.id, "--force"]);
        }),
        trial("-b, and --flag=value", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["echo", "hi"]}}));
            assert_eq!(oci.ok(&["run", "-b", &bundle.path(""), &bundle.id]), "hi\n");
            assert_eq!(oci.ok(&["run", &format!("--bundle={}", bundle.path("")), &bundle.id]), "hi\n");
        }),
        trial("the bundle is the current directory by default", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["echo", "hi"]}}));
            let ended = finish(oci.command(&["run", &bundle.id]).current_dir(bundle.path("")));
            assert_eq!((ended.code, ended.stdout.as_str()), (0, "hi\n"), "{ended:?}");
        }),
        trial("flags that are accepted", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["echo", "hi"]}}));
            let path = bundle.path("");
            let out = oci.ok(&[
                "--rootless",
                "auto",
                "--log-format",
                "text",
                "run",
                "--no-pivot",
                "--no-new-keyring",
                "--no-subreaper",
                "--bundle",
                &path,
                &bundle.id,
            ]);
            assert_eq!(out, "hi\n");
            oci.ok(&["--rootless=false", "list"]);
        }),
        trial("delete --force of what does not exist is no error", |oci| {
            oci.ok(&["delete", "--force", "nothing"]);
            oci.ok(&["delete", "-f", "nothing"]);
        }),
        trial("delete --force of a running one", |oci| {
            let bundle = sleeper(oci);
            oci.ok(&["delete", "--force", &bundle.id]);
            assert!(oci.fails(&["state", &bundle.id]).contains("does not exist"));
        }),
        trial("errors are texts that callers look for", |oci| {
            let bundle = sleeper(oci);
            let said = bundle.try_create().expect_err("the ID is taken");
            assert!(
                said.contains("container with id exists")
                    || said.contains("container with given ID already exists"),
                "{said}"
            );
            assert!(oci.fails(&["state", "nothing"]).contains("container does not exist"));
            let said = oci.fails(&["delete", &bundle.id]);
            assert!(
                said.contains(&format!("cannot delete container {} that is not stopped: running", bundle.id)),
                "{said}"
            );
            assert!(oci.fails(&["resume", &bundle.id]).contains("not paused"));
            assert!(oci.fails(&["start", &bundle.id]).contains("cannot start an already running container"));
            oci.ok(&["kill", &bundle.id, "KILL"]);
            bundle.wait_for("stopped");
            assert!(oci.fails(&["start", &bundle.id]).contains("cannot start a container that has stopped"));
            assert!(oci.fails(&["exec", &bundle.id, "true"]).contains("cannot exec in a stopped container"));
            assert!(oci.fails(&["pause", &bundle.id]).contains("container not running"));
        }),
        trial("a program that is missing, in words that engines look for", |oci| {
            let said =
                Bundle::new(oci, &json!({"process": {"args": ["nope"]}})).run().stderr.replace("\\\"", "\"");
            assert!(said.contains("exec: \"nope\": executable file not found in $PATH"), "{said}");
            let said =
                Bundle::new(oci, &json!({"process": {"args": ["/nope"]}})).run().stderr.replace("\\\"", "\"");
            assert!(said.contains("exec: \"/nope\": stat /nope: no such file or directory"), "{said}");
            let said =
                Bundle::new(oci, &json!({"process": {"args": ["/tmp"]}})).run().stderr.replace("\\\"", "\"");
            assert!(said.contains("permission denied") || said.contains("is a directory"), "{said}");
        }),
        trial("--version, features, --help", |oci| {
            assert!(oci.ok(&["--version"]).contains("spec: 1."));
            let features: Value = serde_json::from_str(&oci.ok(&["features"])).expect("JSON");
            assert!(features["ociVersionMax"].is_string() && features["linux"]["namespaces"].is_array());
            assert!(features["hooks"].as_array().is_some_and(|h| h.len() == 6));
            oci.ok(&["--help"]);
        }),
        trial("a command or flag that is unknown is an error", |oci| {
            oci.fails(&["nonsense"]);
            oci.fails(&["list", "--nonsense"]);
        }),
        trial(
            "--systemd-cgroup where there is no systemd is an error that says so, and leaves nothing",
            |oci| {
                if std::path::Path::new("/run/systemd/system").exists() {
                    return;
                }
                let bundle = Bundle::new(oci, &json!({"process": {"args": ["touch", "/ran"]}}));
                let said = oci.fails(&["--systemd-cgroup", "run", "--bundle", &bundle.path(""), &bundle.id]);
                assert!(said.contains("systemd"), "{said}");
                assert!(!std::path::Path::new(&bundle.path("rootfs/ran")).exists());
                oci.fails(&["state", &bundle.id]);
            },
        ),
    ]
}

fn exec() -> Vec<Trial> {
    vec![
        trial("exec: output, exit code, flags of the command", |oci| {
            let bundle = sleeper(oci);
            assert_eq!(oci.ok(&["exec", &bundle.id, "echo", "-n", "hi"]), "hi");
            assert_eq!(oci.run(&["exec", &bundle.id, "sh", "-c", "exit 9"]).code, 9);
            assert_eq!(oci.run(&["exec", &bundle.id, "sh", "-c", "kill -9 $$"]).code, 137);
        }),
        trial("exec: --env, --cwd, --user, --additional-gids", |oci| {
            let bundle = sleeper(oci);
            assert_eq!(
                oci.ok(&[
                    "exec",
                    "--env",
                    "A=b",
                    "--env",
                    "C=d",
                    "--cwd",
                    "/tmp",
                    &bundle.id,
                    "sh",
                    "-c",
                    "echo $A$C; pwd"
                ]),
                "bd\n/tmp\n"
            );
            assert_eq!(
                oci.ok(&[
                    "exec",
                    "--user",
                    "5:6",
                    "-g",
                    "7",
                    "-g",
                    "8",
                    &bundle.id,
                    "sh",
                    "-c",
                    "id -u; id -G"
                ]),
                "5\n6 7 8\n"
            );
            oci.ok(&["exec", "--user=", &bundle.id, "true"]);
        }),
        trial("exec: --user takes two numbers and nothing else", |oci| {
            let bundle = sleeper(oci);
            // CVE-2026-30892: what is no number is no user, and never another one.
            for odd in [
                "x",
                ":",
                "+0",
                "-1",
                "0x0",
                " 0",
                "0 ",
                "1e3",
                "4294967295",
                "4294967296",
                "18446744073709551616",
                "1:-1",
                "0:+0",
            ] {
                oci.fails(&["exec", &format!("--user={odd}"), &bundle.id, "true"]);
            }
        })
        .runc("it takes a plus, and what its integers can hold"),
        trial("HOME is that of the root's /etc/passwd, whose numbers are digits", |oci| {
            let patch = json!({"process": {"args": ["sh", "-c", "echo $HOME"]}});
            for (users, home) in [("a:x:0:0::/a:\n", "/a\n"), ("a:x:+0:0::/a:\nb:x:0:0::/b:\n", "/b\n")] {
                let bundle = Bundle::new(oci, &patch);
                bundle.put("rootfs/etc/passwd", users);
                assert_eq!(oci.ok(&["run", "--bundle", &bundle.path(""), &bundle.id]), home);
            }
        })
        .runc("it takes a plus"),
        trial("exec: --cap and --no-new-privs", |oci| {
            let bundle = sleeper(oci);
            let status =
                oci.ok(&["exec", "--cap", "CAP_CHOWN", &bundle.id, "grep", "CapBnd", "/proc/self/status"]);
            assert!(
                u64::from_str_radix(status.split_whitespace().nth(1).unwrap_or_default(), 16)
                    .is_ok_and(|m| m & 1 == 1),
                "{status}"
            );
        }),
        trial("exec: what is missing, and where there is nothing", |oci| {
            let bundle = sleeper(oci);
            let ended = oci.run(&["exec", &bundle.id, "nope"]);
            assert_eq!(ended.code, 255);
            assert!(ended.stderr.contains("executable file not found in $PATH"), "{ended:?}");
            assert!(oci.fails(&["exec", "nothing", "true"]).contains("does not exist"));
            oci.fails(&["exec", &bundle.id]);
            assert_ne!(oci.run(&["exec", "--cwd", "/nope/nope", &bundle.id, "true"]).code, 0);
        }),
        trial("exec: --process, --detach, --pid-file", |oci| {
            let bundle = sleeper(oci);
            let process = json!({"args": ["sh", "-c", "echo $A $PWD >/made; exec sleep 30 >/dev/null 2>&1 </dev/null"], "cwd": "/tmp", "env": ["PATH=/bin", "A=x"], "user": {"uid": 0, "gid": 0}});
            bundle.put("process.json", &process.to_string());
            let file = bundle.path("pid");
            oci.ok(&[
                "exec",
                "--process",
                &bundle.path("process.json"),
                "--detach",
                "--pid-file",
                &file,
                &bundle.id,
            ]);
            let pid = bundle.get("pid");
            assert!(std::path::Path::new(&format!("/proc/{}", pid.trim())).exists(), "{pid:?}");
            assert!(
                crate::common::wait_for(Duration::from_secs(5), || bundle.get("rootfs/made") == "x /tmp\n")
            );
        }),
        trial("exec is in the container's namespaces and groups", |oci| {
            let bundle = sleeper(oci);
            let pid = oci.state(&bundle.id)["pid"].to_string();
            for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
                let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
                assert_eq!(
                    oci.ok(&["exec", &bundle.id, "readlink", &format!("/proc/self/ns/{kind}")]).trim(),
                    theirs.display().to_string()
                );
            }
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
            assert_eq!(oci.ok(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]), groups);
        }),
        trial("exec --cgroup: a group below the container's, which must be there", |oci| {
            let bundle = sleeper(oci);
            let pid = oci.state(&bundle.id)["pid"].to_string();
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
            let path = groups.lines().find_map(|line| line.split_once(":pids:")).expect("a group of pids").1;
            fs::create_dir(format!("/sys/fs/cgroup/pids{path}/below")).expect("a group below");
            let said = oci.ok(&["exec", "--cgroup", "pids:/below", &bundle.id, "cat", "/proc/self/cgroup"]);
            for (line, own) in said.lines().zip(groups.lines()) {
                let below = if own.contains(":pids:") { "/below" } else { "" };
                assert_eq!(line, format!("{own}{below}"));
            }
            oci.fails(&["exec", "--cgroup", "pids:/nope", &bundle.id, "true"]);
            oci.fails(&["exec", "--cgroup", "nope:/below", &bundle.id, "true"]);
        }),
        trial("exec in a created one", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
            bundle.create();
            assert_eq!(oci.ok(&["exec", &bundle.id, "echo", "hi"]), "hi\n");
            assert_eq!(oci.status(&bundle.id), "created");
        }),
        trial("exec in a paused one is an error", |oci| {
            let bundle = sleeper(oci);
            oci.ok(&["pause", &bundle.id]);
            assert!(oci.fails(&["exec", &bundle.id, "true"]).contains("paused"));
            oci.ok(&["resume", &bundle.id]);
        }),
        trial("exec with a terminal of its own", |oci| {
            let bundle = sleeper(oci);
            let script = format!(
                "'{}' --root '{}' exec -t {} tty",
                program(oci),
                oci.state.path().display(),
                bundle.id
            );
            let ended = finish(std::process::Command::new("script").args(["-qefc", &script, "/dev/null"]));
            assert!(ended.stdout.contains("/dev/pts/") || ended.stdout.contains("/dev/console"), "{ended:?}");
        }),
    ]
}

fn program(oci: &Oci) -> String {
    oci.command(&[]).get_program().to_string_lossy().into_owned()
}

fn listing() -> Vec<Trial> {
    vec![
        trial("list: table, JSON, quiet, none", |oci| {
            assert_eq!(oci.ok(&["list", "--quiet"]), "");
            let none = oci.ok(&["list", "--format", "json"]);
            assert!(["null", "[]"].contains(&none.trim()), "{none}");
            let bundle = sleeper(oci);
            assert_eq!(oci.ok(&["list", "-q"]).trim(), bundle.id);
            assert_eq!(oci.ok(&["list", "-q", "--format", "json"]).trim(), bundle.id);
            let table = oci.ok(&["list"]);
            let mut lines = table.lines();
            assert_eq!(
                lines.next().unwrap_or_default().split_whitespace().collect::<Vec<_>>(),
                ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
            );
            let row: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
            assert_eq!(
                (row[0], row[2], row[3], row[5]),
                (bundle.id.as_str(), "running", bundle.path("").as_str(), "root")
            );
            let all: Value = serde_json::from_str(&oci.ok(&["list", "-f", "json"])).expect("JSON");
            let state = oci.state(&bundle.id);
            for member in ["id", "pid", "status", "bundle", "ociVersion", "rootfs", "created"] {
                assert_eq!(all[0][member], state[member], "{member}");
                assert!(!state[member].is_null(), "{member}");
            }
        }),
        trial("ps: table and JSON", |oci| {
            let bundle = sleeper(oci);
            let pid = oci.state(&bundle.id)["pid"].clone();
            let pids: Value =
                serde_json::from_str(&oci.ok(&["ps", "--format", "json", &bundle.id])).expect("JSON");
            assert_eq!(pids, json!([pid]));
            let table = oci.ok(&["ps", &bundle.id]);
            assert!(
                table.starts_with("UID") && table.contains("sleep 60") && table.lines().count() == 2,
                "{table}"
            );
            let table = oci.ok(&["ps", &bundle.id, "-o", "pid,args"]);
            assert!(table.contains("sleep 60") && table.lines().count() == 2, "{table}");
        }),
        trial("events --stats has runc's members", |oci| {
            let bundle = Bundle::new(
                oci,
                &json!({"process": {"args": ["sleep", "60"]}, "linux": {"resources": {"memory": {"limit": 67108864}, "pids": {"limit": 20}}}}),
            );
            bundle.start();
            let event: Value =
                serde_json::from_str(&oci.ok(&["events", "--stats", &bundle.id])).expect("JSON");
            assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(bundle.id)));
            let data = &event["data"];
            assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|n| n > 0), "{data}");
            assert!(
                data["cpu"]["usage"]["kernel"].is_u64() && data["cpu"]["usage"]["user"].is_u64(),
                "{data}"
            );
            assert_eq!(data["memory"]["usage"]["limit"], 67_108_864, "{data}");
            assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|n| n > 0), "{data}");
            assert!(
                data["memory"]["usage"]["max"].is_u64() && data["memory"]["usage"]["failcnt"].is_u64(),
                "{data}"
            );
            assert_eq!((&data["pids"]["current"], &data["pids"]["limit"]), (&json!(1), &json!(20)));
            assert!(
                data["cpu"]["throttling"].is_object()
                    && data["blkio"].is_object()
                    && data["hugetlb"].is_object(),
                "{data}"
            );
            assert!(data["memory"]["raw"].as_object().is_some_and(|raw| raw.contains_key("cache")), "{data}");
        }),
        trial("events tells of memory that runs out, and ends with the container", |oci| {
            let hog = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo killed >/done; sleep 60";
            let bundle = Bundle::new(
                oci,
                &json!({"process": {"args": ["sh", "-c", hog]}, "linux": {"resources": {"memory": {"limit": 16777216, "swap": 16777216}}}}),
            );
            bundle.create();
            let out = fs::File::create(bundle.path("events")).expect("a file");
            let mut events = oci.command(&["events", "--interval", "100ms", &bundle.id]);
            let mut events = events.stdout(out).spawn().expect("it starts");
            let of_kind = |kind: &str| {
                let lines = bundle.get("events");
                let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                events.filter(|event| event["type"] == kind && event["id"] == bundle.id.as_str()).count()
            };
            assert!(wait_for(Duration::from_secs(60), || of_kind("stats") > 0), "{}", bundle.get("events"));
            oci.ok(&["start", &bundle.id]);
            assert!(wait_for(Duration::from_secs(60), || bundle.get("rootfs/done") == "killed\n"));
            assert!(wait_for(Duration::from_secs(60), || of_kind("oom") > 0), "{}", bundle.get("events"));
            oci.ok(&["delete", "--force", &bundle.id]);
            assert!(wait_for(Duration::from_secs(60), || matches!(events.try_wait(), Ok(Some(_)))));
        }),
    ]
}

fn files() -> Vec<Trial> {
    vec![
        trial("--pid-file", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
            bundle.try_create_with(&["--pid-file", &bundle.path("pid")]).expect("it is created");
            assert_eq!(bundle.get("pid"), oci.state(&bundle.id)["pid"].to_string());
        }),
        trial("run --detach", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
            let line = format!(
                "'{}' --root '{}' run --detach --pid-file '{}' --bundle '{}' {} >'{}' 2>&1 </dev/null",
                program(oci),
                oci.state.path().display(),
                bundle.path("pid"),
                bundle.path(""),
                bundle.id,
                bundle.path("out")
            );
            let ended = finish(std::process::Command::new("sh").args(["-c", &line]));
            assert_eq!(ended.code, 0, "{}", bundle.out());
            assert_eq!(oci.status(&bundle.id), "running");
            assert_eq!(bundle.get("pid"), oci.state(&bundle.id)["pid"].to_string());
        }),
        trial("run removes the container at its end", |oci| {
            let bundle = Bundle::new(oci, &json!({}));
            bundle.run();
            assert!(oci.fails(&["state", &bundle.id]).contains("does not exist"));
        }),
        trial("run --keep does not", |oci| {
            let bundle = Bundle::new(oci, &json!({}));
            oci.ok(&["run", "--keep", "--bundle", &bundle.path(""), &bundle.id]);
            assert_eq!(oci.status(&bundle.id), "stopped");
        }),
        trial("--log with --log-format json has lines as engines read them", |oci| {
            let dir = tempfile::tempdir().expect("a directory");
            let log = dir.path().join("log");
            oci.fails(&["--log", &log.display().to_string(), "--log-format", "json", "state", "nothing"]);
            let text = fs::read_to_string(&log).expect("the log");
            let line: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON");
            assert_eq!(line["level"], "error");
            assert_eq!(line["msg"], "container does not exist");
            assert!(line["time"].as_str().is_some_and(|t| t.contains('T')), "{line}");
        }),
        trial("without --log an error is on standard error, in logrus's form", |oci| {
            let ended = oci.run(&["state", "nothing"]);
            assert_eq!(ended.code, 1);
            assert!(
                ended.stderr.starts_with("time=\"")
                    && ended.stderr.contains("level=error msg=\"container does not exist\""),
                "{ended:?}"
            );
        }),
        trial("--preserve-fds", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sh", "-c", "cat <&3; cat <&4"]}}));
            bundle.put("three", "3\n");
            bundle.put("four", "4\n");
            let line = format!(
                "exec 3<'{}' 4<'{}'; '{}' --root '{}' run --preserve-fds 2 --bundle '{}' {}",
                bundle.path("three"),
                bundle.path("four"),
                program(oci),
                oci.state.path().display(),
                bundle.path(""),
                bundle.id
            );
            let ended = finish(std::process::Command::new("sh").args(["-c", &line]));
            assert_eq!((ended.code, ended.stdout.as_str()), (0, "3\n4\n"), "{ended:?}");
        }),
        trial("LISTEN_FDS", |oci| {
            let bundle = Bundle::new(
                oci,
                &json!({"process": {"args": ["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3"]}}),
            );
            bundle.put("three", "3\n");
            let line = format!(
                "exec 3<'{}'; LISTEN_FDS=1 LISTEN_PID=$$ exec '{}' --root '{}' run --bundle '{}' {}",
                bundle.path("three"),
                program(oci),
                oci.state.path().display(),
                bundle.path(""),
                bundle.id
            );
            let ended = finish(std::process::Command::new("sh").args(["-c", &line]));
            assert_eq!((ended.code, ended.stdout.as_str()), (0, "1 1\n3\n"), "{ended:?}");
        }),
        trial("spec writes what runc's does", |oci| {
            for flags in [&[][..], &["--rootless"]] {
                let (ours, theirs) =
                    (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
                let read = |dir: &tempfile::TempDir| -> Value {
                    serde_json::from_slice(&fs::read(dir.path().join("config.json")).expect("config.json"))
                        .expect("JSON")
                };
                let at = ours.path().display().to_string();
                oci.ok(&[&["spec", "--bundle", &at], flags].concat());
                oci.fails(&[&["spec", "--bundle", &at], flags].concat());
                let ended = finish(
                    std::process::Command::new("runc")
                        .args([&["spec", "--bundle", &theirs.path().display().to_string()], flags].concat()),
                );
                assert_eq!(ended.code, 0, "{ended:?}");
                let (mut ours, mut theirs) = (read(&ours), read(&theirs));
                for spec in [&mut ours, &mut theirs] {
                    assert!(spec["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")));
                    spec["ociVersion"] = Value::Null;
                    for set in spec["process"]["capabilities"]
                        .as_object_mut()
                        .into_iter()
                        .flat_map(|c| c.values_mut())
                    {
                        if let Some(list) = set.as_array_mut() {
                            list.sort_by_key(ToString::to_string);
                        }
                    }
                    spec["hostname"] = Value::Null;
                }
                assert_eq!(ours, theirs, "{flags:?}");
            }
        }),
    ]
}

/// What `--console-socket` and `--pidfd-socket` pass.
fn receive(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().expect("a connection");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("a message");
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).expect("a descriptor")
}

fn read_until(console: &mut fs::File, wanted: &str) -> String {
    let mut said = String::new();
    let mut buffer = [0; 256];
    while !said.contains(wanted) {
        match console.read(&mut buffer) {
            Ok(n @ 1..) => said.push_str(&String::from_utf8_lossy(&buffer[..n])),
            _ => break,
        }
    }
    said
}

fn terminals() -> Vec<Trial> {
    vec![
        trial("--console-socket takes the terminal; consoleSize", |oci| {
            let patch = json!({"process": {"terminal": true, "consoleSize": {"height": 33, "width": 77},
                "args": ["sh", "-c", "tty; stty size; ls -l /proc/self/fd/0 /dev/console | wc -l; read x; echo got $x"]}});
            let bundle = Bundle::new(oci, &patch);
            let socket = bundle.path("console");
            let listener = UnixListener::bind(&socket).expect("a socket");
            bundle.try_create_with(&["--console-socket", &socket]).expect("it is created");
            let mut console = fs::File::from(receive(&listener));
            oci.ok(&["start", &bundle.id]);
            let said = read_until(&mut console, "\n2\r\n");
            assert!(said.contains("33 77"), "{said:?}");
            assert!(said.starts_with("/dev/"), "{said:?}");
            console.write_all(b"that\n").expect("a line");
            let said = read_until(&mut console, "got that");
            assert!(said.contains("got that"), "{said:?}");
        }),
        trial("--pidfd-socket takes a pidfd of what create, run and exec start", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
            let socket = bundle.path("pidfd");
            let listener = UnixListener::bind(&socket).expect("a socket");
            let pid_of = |pidfd: OwnedFd| {
                let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd));
                let info = fs::read_to_string(info).expect("a pidfd's information");
                info.lines().find_map(|l| l.strip_prefix("Pid:")).expect("a PID").trim().to_owned()
            };
            let pid_file = bundle.path("pid");
            bundle
                .try_create_with(&["--pidfd-socket", &socket, "--pid-file", &pid_file])
                .expect("it is created");
            assert_eq!(pid_of(receive(&listener)), fs::read_to_string(&pid_file).expect("a PID"));
            oci.ok(&["start", &bundle.id]);
            oci.ok(&[
                "exec",
                "-d",
                "--pidfd-socket",
                &socket,
                "--pid-file",
                &pid_file,
                &bundle.id,
                "sleep",
                "60",
            ]);
            assert_eq!(pid_of(receive(&listener)), fs::read_to_string(&pid_file).expect("a PID"));
        })
        .runc("runc 1.2 brought it"),
        trial("with a terminal, create lets go of its caller's streams", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"terminal": true, "args": ["sleep", "60"]}}));
            let socket = bundle.path("console");
            let listener = UnixListener::bind(&socket).expect("a socket");
            // Pipes: it ends only when nobody has them any more.
            oci.ok(&["create", "--console-socket", &socket, "--bundle", &bundle.path(""), &bundle.id]);
            drop(receive(&listener));
        }),
        trial(
            "a terminal without --console-socket is an error when it detaches, and the other way round",
            |oci| {
                let bundle = Bundle::new(oci, &json!({"process": {"terminal": true}}));
                let said = bundle.try_create().expect_err("no socket");
                assert!(
                    said.contains("cannot allocate tty if runc will detach without setting console socket"),
                    "{said}"
                );
                let bundle = Bundle::new(oci, &json!({}));
                let said = bundle.try_create_with(&["--console-socket", "/nope"]).expect_err("no terminal");
                assert!(
                    said.contains("cannot use console socket if runc will not detach or allocate tty"),
                    "{said}"
                );
            },
        ),
        trial("run with a terminal in the foreground", |oci| {
            let bundle = Bundle::new(
                oci,
                &json!({"process": {"terminal": true, "args": ["sh", "-c", "tty && exit 5"]}}),
            );
            let script = format!(
                "'{}' --root '{}' run --bundle '{}' {}",
                program(oci),
                oci.state.path().display(),
                bundle.path(""),
                bundle.id
            );
            let ended = finish(std::process::Command::new("script").args(["-qefc", &script, "/dev/null"]));
            assert_eq!(ended.code, 5, "{ended:?}");
            assert!(ended.stdout.contains("/dev/"), "{ended:?}");
        }),
        trial("exec --console-socket", |oci| {
            let bundle = sleeper(oci);
            let socket = bundle.path("console");
            let listener = UnixListener::bind(&socket).expect("a socket");
            oci.ok(&[
                "exec",
                "--tty",
                "--detach",
                "--console-socket",
                &socket,
                "--pid-file",
                &bundle.path("pid"),
                &bundle.id,
                "sh",
                "-c",
                "tty; read x; echo got $x",
            ]);
            let mut console = fs::File::from(receive(&listener));
            console.write_all(b"that\n").expect("a line");
            let said = read_until(&mut console, "got that");
            assert!(said.contains("/dev/pts/") && said.contains("got that"), "{said:?}");
        }),
    ]
}

fn limits() -> Vec<Trial> {
    vec![
        trial("update by flags", |oci| {
            let bundle = sleeper(oci);
            oci.ok(&[
                "update",
                "--memory",
                "64M",
                "--pids-limit",
                "30",
                "--cpu-share",
                "300",
                "--cpu-quota",
                "40000",
                "--cpu-period",
                "80000",
                &bundle.id,
            ]);
            assert_eq!(group(&bundle, "memory", "memory.limit_in_bytes"), "67108864");
            assert_eq!(group(&bundle, "pids", "pids.max"), "30");
            assert_eq!(group(&bundle, "cpu", "cpu.shares"), "300");
            assert_eq!(group(&bundle, "cpu", "cpu.cfs_quota_us"), "40000");
            oci.ok(&["update", "--cpu-rt-period", "900000", &bundle.id]);
            assert_eq!(group(&bundle, "cpu", "cpu.rt_period_us"), "900000");
            oci.fails(&["update", "--l3-cache-schema", "L3:0=f", &bundle.id]);
            oci.ok(&["update", "--pids-limit", "-1", "--memory", "-1", &bundle.id]);
            assert_eq!(group(&bundle, "pids", "pids.max"), "max");
        }),
        trial("update -r from a file and from standard input", |oci| {
            let bundle = sleeper(oci);
            bundle.put("r.json", "{\"pids\": {\"limit\": 21}, \"memory\": {\"limit\": 33554432}}");
            oci.ok(&["update", "-r", &bundle.path("r.json"), &bundle.id]);
            assert_eq!(group(&bundle, "pids", "pids.max"), "21");
            assert_eq!(group(&bundle, "memory", "memory.limit_in_bytes"), "33554432");
            let line = format!(
                "echo '{{\"pids\": {{\"limit\": 22}}}}' | '{}' --root '{}' update -r - {}",
                program(oci),
                oci.state.path().display(),
                bundle.id
            );
            let ended = finish(std::process::Command::new("sh").args(["-c", &line]));
            assert_eq!(ended.code, 0, "{ended:?}");
            assert_eq!(group(&bundle, "pids", "pids.max"), "22");
            assert_eq!(
                group(&bundle, "memory", "memory.limit_in_bytes"),
                "33554432",
                "what is not named is kept"
            );
        }),
        trial("update of what does not exist is an error", |oci| {
            assert!(oci.fails(&["update", "--pids-limit", "5", "nothing"]).contains("does not exist"));
        }),
    ]
}

fn group(bundle: &Bundle<'_>, controller: &str, file: &str) -> String {
    let path = format!("/sys/fs/cgroup/{controller}/conformance-{}/{file}", bundle.id);
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
