//! config.md, "POSIX-platform Hooks", and the steps of runtime.md's life cycle.

use serde_json::{Value, json};

use crate::world::{Bundle, Oci, Trial, trial};

/// Hooks that write their kind into the bundle's `order`.
fn ordered(kinds: &[&str]) -> Value {
    let hook = |kind: &&str| {
        (
            (*kind).to_owned(),
            json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {kind} >>@BUNDLE@/order")]}]),
        )
    };
    Value::Object(kinds.iter().map(hook).collect())
}

fn failing(kind: &str) -> Value {
    json!({"hooks": {kind: [{"path": "/bin/false"}], "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", "echo poststop >>@BUNDLE@/order"]}]},
        "process": {"args": ["touch", "/ran"]}})
}

/// `create` fails, nothing has run, nothing is left.
fn ends_creation(oci: &Oci, kind: &str) {
    let bundle = Bundle::new(oci, &failing(kind));
    let said = bundle.try_create().expect_err("create fails");
    assert!(said.contains("hook") || said.contains("false"), "{said}");
    assert_eq!(bundle.get("rootfs/ran"), "");
    assert!(!std::path::Path::new(&bundle.path("rootfs/ran")).exists());
    let said = oci.fails(&["state", &bundle.id]);
    assert!(said.contains("does not exist"), "{said}");
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("hooks run in the life cycle's order", |oci| {
            let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
            let bundle = Bundle::new(oci, &json!({"hooks": ordered(&kinds), "process": {"args": ["true"]}}));
            bundle.create();
            assert_eq!(bundle.get("order"), "prestart\ncreateRuntime\n");
            oci.ok(&["start", &bundle.id]);
            bundle.wait_for("stopped");
            assert_eq!(bundle.get("order"), "prestart\ncreateRuntime\npoststart\n");
            oci.ok(&["delete", &bundle.id]);
            assert_eq!(bundle.get("order"), "prestart\ncreateRuntime\npoststart\npoststop\n");
        }).runc("runc 1.1.5 runs poststart hooks in create"),
        trial("hooks of one kind run in their order", |oci| {
            let hook = |n: u32| json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo {n} >>@BUNDLE@/order")]});
            let bundle = Bundle::new(oci, &json!({"hooks": {"createRuntime": [hook(1), hook(2), hook(3)]}}));
            bundle.create();
            assert_eq!(bundle.get("order"), "1\n2\n3\n");
        }),
        trial("a hook reads the state", |oci| {
            let hook = |kind: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >@BUNDLE@/{kind}")]}]);
            let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
            let hooks: Value = Value::Object(kinds.iter().map(|k| ((*k).to_owned(), hook(k))).collect());
            let bundle = Bundle::new(oci, &json!({"hooks": hooks, "annotations": {"a": "b"}, "process": {"args": ["sleep", "60"]}}));
            bundle.start();
            let pid = oci.state(&bundle.id)["pid"].clone();
            oci.ok(&["kill", &bundle.id, "KILL"]);
            bundle.wait_for("stopped");
            oci.ok(&["delete", &bundle.id]);
            let statuses = [("prestart", "creating"), ("createRuntime", "creating"), ("poststart", "running"), ("poststop", "stopped")];
            for (kind, status) in statuses {
                let state: Value = serde_json::from_str(&bundle.get(kind)).unwrap_or_else(|e| panic!("{kind}: {e}"));
                assert_eq!(state["id"], bundle.id.as_str(), "{kind}");
                assert_eq!(state["status"], status, "{kind}");
                assert_eq!(state["bundle"], bundle.path("").as_str(), "{kind}");
                assert_eq!(state["annotations"], json!({"a": "b"}), "{kind}");
                assert!(state["ociVersion"].is_string(), "{kind}");
                if status != "stopped" {
                    assert_eq!(state["pid"], pid, "{kind}");
                }
            }
        }).runc("runc 1.1.5 runs poststart hooks in create"),
        trial("createContainer hooks see the container's mounts, and the host's root", |oci| {
            let script = "cat >/dev/null; readlink /proc/self/ns/mnt >@BUNDLE@/ns; ls @BUNDLE@/rootfs/proc/self >/dev/null && echo mounted >@BUNDLE@/mounted";
            let bundle = Bundle::new(oci, &json!({"hooks": {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}}));
            bundle.create();
            assert_eq!(bundle.get("mounted"), "mounted\n");
            let own = std::fs::read_link("/proc/self/ns/mnt").expect("a namespace");
            assert!(bundle.get("ns").starts_with("mnt:["));
            assert_ne!(bundle.get("ns").trim(), own.display().to_string());
        }),
        trial("startContainer hooks run in the container, before its program", |oci| {
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "/bin/cat >/state; echo hook >>/order"]});
            let bundle = Bundle::new(oci, &json!({"hooks": {"startContainer": [hook]}, "process": {"args": ["sh", "-c", "echo program >>/order"]}}));
            bundle.create();
            assert_eq!(bundle.get("rootfs/order"), "");
            oci.ok(&["start", &bundle.id]);
            bundle.wait_for("stopped");
            assert_eq!(bundle.get("rootfs/order"), "hook\nprogram\n");
            let state: Value = serde_json::from_str(&bundle.get("rootfs/state")).expect("JSON");
            assert_eq!((state["id"].as_str(), state["status"].as_str()), (Some(bundle.id.as_str()), Some("created")));
        }),
        trial("a hook has its own environment and arguments", |oci| {
            let hook = json!({"path": "/bin/sh", "args": ["other-name", "-c", "echo $0 $A $TERM >@BUNDLE@/said"], "env": ["A=b", "PATH=/bin"]});
            let bundle = Bundle::new(oci, &json!({"hooks": {"createRuntime": [hook]}}));
            bundle.create();
            assert_eq!(bundle.get("said"), "other-name b\n");
        }),
        trial("a hook that is too slow fails", |oci| {
            let hook = json!({"path": "/bin/sleep", "args": ["sleep", "20"], "timeout": 1});
            let bundle = Bundle::new(oci, &json!({"hooks": {"createRuntime": [hook]}}));
            bundle.try_create().expect_err("create fails");
        }),
        trial("a failed poststart hook fails start", |oci| {
            let bundle = Bundle::new(oci, &json!({"hooks": {"poststart": [{"path": "/bin/false"}]}, "process": {"args": ["sleep", "60"]}}));
            bundle.create();
            oci.fails(&["start", &bundle.id]);
        }).runc("runc 1.1.5 runs poststart hooks in create"),
        trial("a failed poststop hook does not keep the container", |oci| {
            let bundle = Bundle::new(oci, &json!({"hooks": {"poststop": [{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", "echo second >@BUNDLE@/order"]}]}}));
            bundle.start();
            bundle.wait_for("stopped");
            oci.ok(&["delete", &bundle.id]);
            assert_eq!(bundle.get("order"), "second\n", "the later ones still run");
            assert!(oci.fails(&["state", &bundle.id]).contains("does not exist"));
        }).runc("runc 1.1.5 fails delete, and leaves the later hooks out"),
        trial("a failed startContainer hook fails start", |oci| {
            let bundle = Bundle::new(oci, &json!({"hooks": {"startContainer": [{"path": "/bin/false"}]}, "process": {"args": ["touch", "/ran"]}}));
            bundle.create();
            let _ = oci.run(&["start", &bundle.id]);
            bundle.wait_for("stopped");
            assert!(!std::path::Path::new(&bundle.path("rootfs/ran")).exists());
        }),
        trial("a hook without a path is an error", |oci| {
            let bundle = Bundle::new(oci, &json!({"hooks": {"createRuntime": [{"args": ["x"]}]}}));
            bundle.try_create().expect_err("create fails");
        }),
        trial("a hook's path must be absolute", |oci| {
            let bundle = Bundle::new(oci, &json!({"hooks": {"createRuntime": [{"path": "true"}]}}));
            bundle.try_create().expect_err("create fails");
        }),
    ];
    trials.push(trial("a failed prestart hook ends creation", |oci| {
        ends_creation(oci, "prestart");
    }));
    trials.push(trial("a failed createRuntime hook ends creation", |oci| {
        ends_creation(oci, "createRuntime");
    }));
    trials.push(trial("a failed createContainer hook ends creation", |oci| {
        ends_creation(oci, "createContainer");
    }));
    trials
}
