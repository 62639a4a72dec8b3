//! runtime.md: state, life cycle, operations, errors.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::world::{Bundle, Oci, Trial, trial};

fn sleeper<'a>(oci: &'a Oci) -> Bundle<'a> {
    Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}, "annotations": {"org.example": "x"}}))
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = states();
    all.extend(operations());
    all.extend(signals());
    all
}

fn states() -> Vec<Trial> {
    vec![
        trial("state has the members of runtime.md", |oci| {
            let bundle = sleeper(oci);
            bundle.create();
            let state = oci.state(&bundle.id);
            assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
            assert_eq!(state["id"], bundle.id.as_str());
            assert_eq!(state["status"], "created");
            assert_eq!(state["bundle"], bundle.path("").as_str());
            assert_eq!(state["annotations"], json!({"org.example": "x"}));
            let pid = state["pid"].as_u64().expect("a number");
            assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
            oci.ok(&["start", &bundle.id]);
            let running = oci.state(&bundle.id);
            assert_eq!((running["status"].as_str(), running["pid"].as_u64()), (Some("running"), Some(pid)));
            oci.ok(&["kill", &bundle.id, "KILL"]);
            bundle.wait_for("stopped");
        }),
        trial("state of what does not exist is an error", |oci| {
            assert!(oci.fails(&["state", "nothing"]).contains("does not exist"));
        }),
        trial("state of a stopped one can be asked until delete", |oci| {
            let bundle = Bundle::new(oci, &json!({}));
            bundle.start();
            bundle.wait_for("stopped");
            bundle.wait_for("stopped");
            oci.ok(&["delete", &bundle.id]);
            assert!(oci.fails(&["state", &bundle.id]).contains("does not exist"));
        }),
        trial("state of a paused one", |oci| {
            let bundle = sleeper(oci);
            bundle.start();
            oci.ok(&["pause", &bundle.id]);
            assert_eq!(oci.status(&bundle.id), "paused");
            oci.ok(&["resume", &bundle.id]);
            assert_eq!(oci.status(&bundle.id), "running");
        }),
    ]
}

fn operations() -> Vec<Trial> {
    vec![
        trial("create does not run the program", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["touch", "/ran"]}}));
            bundle.create();
            let ran = bundle.path("rootfs/ran");
            assert!(!std::path::Path::new(&ran).exists());
            oci.ok(&["start", &bundle.id]);
            bundle.wait_for("stopped");
            assert!(std::path::Path::new(&ran).exists());
        }),
        trial("create with an ID that is taken is an error, without effect", |oci| {
            let bundle = sleeper(oci);
            bundle.create();
            let pid = oci.state(&bundle.id)["pid"].clone();
            let said = bundle.try_create().expect_err("create fails");
            assert!(said.contains("exist"), "{said}");
            assert_eq!(oci.state(&bundle.id)["pid"], pid);
            assert_eq!(oci.status(&bundle.id), "created");
        }),
        trial("create without an ID, or with an illegal one, is an error", |oci| {
            let bundle = sleeper(oci);
            let path = bundle.path("");
            oci.fails(&["create", "--bundle", &path]);
            for id in ["", "a/b", "..", "a b", "\u{e9}"] {
                oci.fails(&["create", "--bundle", &path, id]);
            }
        }),
        trial("create from a bundle that is none is an error", |oci| {
            oci.fails(&["create", "--bundle", "/nope", "conform-nope"]);
            let dir = tempfile::tempdir().expect("a directory");
            oci.fails(&["create", "--bundle", &dir.path().display().to_string(), "conform-nope"]);
            assert!(oci.fails(&["state", "conform-nope"]).contains("does not exist"));
        }),
        trial("create from what is not JSON is an error, and leaves nothing", |oci| {
            let bundle = sleeper(oci);
            for text in ["", "{", "[]", "{\"ociVersion\": 1}", "nonsense"] {
                bundle.put("config.json", text);
                bundle.try_create().expect_err(text);
                assert!(oci.fails(&["state", &bundle.id]).contains("does not exist"));
            }
        }),
        trial("an edit of config.json after create has no effect", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["touch", "/first"]}}));
            bundle.create();
            bundle.write(&json!({"process": {"args": ["touch", "/second"]}}));
            oci.ok(&["start", &bundle.id]);
            bundle.wait_for("stopped");
            assert!(std::path::Path::new(&bundle.path("rootfs/first")).exists());
            assert!(!std::path::Path::new(&bundle.path("rootfs/second")).exists());
        }),
        trial("start of what does not exist is an error", |oci| {
            assert!(oci.fails(&["start", "nothing"]).contains("does not exist"));
            oci.fails(&["start"]);
        }),
        trial("start of what is not created is an error, without effect", |oci| {
            let bundle = sleeper(oci);
            bundle.start();
            let pid = oci.state(&bundle.id)["pid"].clone();
            oci.fails(&["start", &bundle.id]);
            assert_eq!((oci.status(&bundle.id).as_str(), &oci.state(&bundle.id)["pid"]), ("running", &pid));
            oci.ok(&["kill", &bundle.id, "KILL"]);
            bundle.wait_for("stopped");
            oci.fails(&["start", &bundle.id]);
            assert_eq!(oci.status(&bundle.id), "stopped");
        }),
        trial("delete of what does not exist is an error", |oci| {
            assert!(oci.fails(&["delete", "nothing"]).contains("does not exist"));
            oci.fails(&["delete"]);
        }),
        trial("delete of a running one is an error, without effect", |oci| {
            let bundle = sleeper(oci);
            bundle.start();
            let said = oci.fails(&["delete", &bundle.id]);
            assert!(said.contains("that is not stopped"), "{said}");
            assert_eq!(oci.status(&bundle.id), "running");
        }),
        trial("delete removes what create made, and nothing else; the ID is free", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["touch", "/kept"]}}));
            for _ in 0..2 {
                bundle.start();
                bundle.wait_for("stopped");
                oci.ok(&["delete", &bundle.id]);
            }
            assert!(std::path::Path::new(&bundle.path("rootfs/kept")).exists());
            let left = std::fs::read_dir(oci.state.path()).expect("its state").flatten();
            assert!(!left.into_iter().any(|e| *e.file_name() == *bundle.id));
        }),
        trial("delete of a created one", |oci| {
            let bundle = sleeper(oci);
            bundle.create();
            let pid = oci.state(&bundle.id)["pid"].to_string();
            oci.ok(&["delete", "--force", &bundle.id]);
            // Whoever adopts it may be slow to reap it; a zombie has no command line.
            let command = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let gone = crate::common::wait_for(std::time::Duration::from_secs(5), || command().is_empty());
            assert!(gone, "{pid} is there");
        }),
    ]
}

fn signals() -> Vec<Trial> {
    vec![
        trial("kill sends the signal", |oci| {
            let bundle = Bundle::new(
                oci,
                &json!({"process": {"args": ["sh", "-c", "trap 'echo got >/got; exit' USR1; echo up >/up; while :; do sleep 0.1; done"]}}),
            );
            bundle.start();
            assert!(crate::common::wait_for(std::time::Duration::from_secs(5), || bundle.get("rootfs/up")
                == "up\n"));
            oci.ok(&["kill", &bundle.id, "USR1"]);
            bundle.wait_for("stopped");
            assert_eq!(bundle.get("rootfs/got"), "got\n");
        }),
        trial("kill takes names and numbers, TERM by default", |oci| {
            for signal in ["KILL", "SIGKILL", "kill", "9", ""] {
                let bundle = Bundle::new(
                    oci,
                    &json!({"process": {"args": ["sh", "-c", "trap 'exit' TERM; echo up >/up; while :; do sleep 0.1; done"]}}),
                );
                bundle.start();
                assert!(crate::common::wait_for(std::time::Duration::from_secs(5), || bundle
                    .get("rootfs/up")
                    == "up\n"));
                let args = ["kill", &bundle.id, signal];
                oci.ok(if signal.is_empty() { &args[..2] } else { &args });
                bundle.wait_for("stopped");
            }
        }),
        trial("what run and exec are told, their process is", |oci| {
            let waits = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done";
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sh", "-c", waits]}}));
            told(oci.command(&["run", "--bundle", &bundle.path(""), &bundle.id]));
            let bundle = sleeper(oci);
            bundle.start();
            told(oci.command(&["exec", &bundle.id, "sh", "-c", waits]));
        }),
        trial("kill of an unknown signal is an error", |oci| {
            let bundle = sleeper(oci);
            bundle.start();
            oci.fails(&["kill", &bundle.id, "NOPE"]);
            assert_eq!(oci.status(&bundle.id), "running");
        }),
        trial("kill of a created one", |oci| {
            let bundle = sleeper(oci);
            bundle.create();
            oci.ok(&["kill", &bundle.id, "KILL"]);
            bundle.wait_for("stopped");
        }),
        trial("kill of a stopped one is an error, without effect", |oci| {
            let bundle = Bundle::new(oci, &json!({}));
            bundle.start();
            bundle.wait_for("stopped");
            let said = oci.fails(&["kill", &bundle.id, "KILL"]);
            assert!(said.contains("container not running"), "{said}");
            assert_eq!(oci.status(&bundle.id), "stopped");
        }),
        trial("kill of what does not exist is an error", |oci| {
            assert!(oci.fails(&["kill", "nothing", "KILL"]).contains("does not exist"));
            oci.fails(&["kill"]);
        }),
        trial("kill --all reaches every process", |oci| {
            let bundle = Bundle::new(
                oci,
                &json!({"process": {"args": ["sh", "-c", "(trap 'echo child >>/got; exit' USR1; echo >/up; while :; do sleep 0.1; done) & trap 'echo init >>/got; wait; exit' USR1; wait"]}}),
            );
            bundle.start();
            assert!(crate::common::wait_for(std::time::Duration::from_secs(5), || bundle.get("rootfs/up")
                == "\n"));
            oci.ok(&["kill", "--all", &bundle.id, "USR1"]);
            bundle.wait_for("stopped");
            let got = bundle.get("rootfs/got");
            assert!(got.contains("init") && got.contains("child"), "{got:?}");
        }),
    ]
}

/// It says `up`, is sent a signal, and ends as its container's process does.
fn told(mut command: Command) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert_eq!(out.next().as_deref(), Some("up"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert_eq!(out.next().as_deref(), Some("got"));
    assert_eq!(child.wait().expect("it ends").code(), Some(7));
}
