//! config.md, "Mounts", and config-linux.md's file systems.

use serde_json::{Value, json};

use crate::world::Want::{Code, Lines, Out, Refused};
use crate::world::{Case, case};

fn mounts(more: Value) -> Value {
    json!({"mounts+": more})
}

fn tmpfs(at: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn bind(from: &str, at: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": "bind", "source": from, "options": options})
}

/// The options in mountinfo of what is mounted at `/mnt`.
const OPTIONS: &str = "grep ' /mnt ' /proc/self/mountinfo | cut -d' ' -f6 | tr , '\\n'";
/// Its propagation.
const PROPAGATION: &str =
    r#"awk '$5 == "/mnt" { for (i = 7; $i != "-"; i++) print $i }' /proc/self/mountinfo | cut -d: -f1"#;

pub(crate) fn cases() -> Vec<Case> {
    [file_systems(), options(), binds(), recursive()].into_iter().flatten().collect()
}

fn file_systems() -> Vec<Case> {
    vec![
        case(
            "the file systems of config-linux.md",
            json!({}),
            "for d in /proc /dev /dev/pts /dev/shm /sys; do grep -c \" $d \" /proc/mounts; done | sort -u",
            Out("1"),
        ),
        case(
            "mounts in their order",
            mounts(json!([tmpfs("/mnt", &["size=1m"]), tmpfs("/mnt/below", &["size=1m"])])),
            "grep -c ' /mnt' /proc/mounts",
            Out("2"),
        ),
        case(
            "a later mount hides an earlier one",
            mounts(json!([tmpfs("/mnt", &["mode=700"]), tmpfs("/mnt", &["mode=711"])])),
            "stat -c %a /mnt",
            Out("711"),
        )
        .runc("runc 1.1.5 gives it the mode of the directory below"),
        case(
            "a destination that is missing is made",
            mounts(json!([tmpfs("/new/place", &[])])),
            "grep -c ' /new/place ' /proc/mounts",
            Out("1"),
        ),
        case(
            "a destination by a link stays inside the root",
            mounts(json!([
                bind("@BUNDLE@/rootfs/etc", "/mnt/x", &["bind"]),
                tmpfs("/proc/self/root/mnt", &[])
            ])),
            "echo hi",
            Refused,
        )
        .not_runc("runc 1.1.5 follows it, inside the root"),
        case(
            "a destination that is not absolute is taken from /",
            mounts(json!([tmpfs("mnt", &[])])),
            "grep -c ' /mnt ' /proc/mounts",
            Out("1"),
        ),
        case("a mount of /", mounts(json!([])), "grep -c ' / ' /proc/mounts", Out("1")),
        case(
            "an unknown file system is an error",
            mounts(json!([{"destination": "/mnt", "type": "nope", "source": "x"}])),
            "true",
            Refused,
        ),
        case(
            "no source",
            mounts(json!([{"destination": "/mnt", "type": "tmpfs"}])),
            "grep -c ' /mnt ' /proc/mounts",
            Out("1"),
        ),
        case(
            "no mounts at all",
            json!({"mounts": [], "linux": {"maskedPaths": null, "readonlyPaths": null}}),
            "echo hi",
            Out("hi"),
        )
        .runc("it needs /proc in the container"),
        case("options empty", mounts(json!([tmpfs("/mnt", &[])])), "grep -c ' /mnt ' /proc/mounts", Out("1")),
        case(
            "data go to the file system",
            mounts(json!([tmpfs("/mnt", &["size=1m", "mode=1770", "uid=3", "gid=4"])])),
            "stat -c '%a %u %g' /mnt; dd if=/dev/zero of=/mnt/x bs=1M count=2 2>/dev/null || echo full",
            Out("1770 3 4\nfull"),
        )
        .runc("runc 1.1.5 gives it the mode of the directory below"),
        case(
            "data that the file system does not know is an error",
            mounts(json!([tmpfs("/mnt", &["nope=1"])])),
            "true",
            Refused,
        ),
        case(
            "a cgroup mount",
            mounts(
                json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}]),
            ),
            "ls /sys/fs/cgroup | wc -l | grep -qv '^0$' && ! mkdir /sys/fs/cgroup/x 2>/dev/null && echo hi",
            Out("hi"),
        ),
        case(
            "a cgroup mount that may be written",
            mounts(
                json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime"]}]),
            ),
            "cd /sys/fs/cgroup/pids && mkdir x && rmdir x && echo hi",
            Out("hi"),
        ),
        case("mqueue", json!({}), "grep -c ' /dev/mqueue mqueue ' /proc/mounts", Out("1")),
        case("tmpcopyup", mounts(json!([tmpfs("/etc", &["tmpcopyup"])])), "ls /etc | wc -l", Out("0")),
    ]
}

fn options() -> Vec<Case> {
    let with =
        |name, options: &[&str], want| case(name, mounts(json!([tmpfs("/mnt", options)])), OPTIONS, want);
    vec![
        with("ro", &["ro"], Lines(&["ro"])),
        with(
            "nosuid, nodev, noexec",
            &["nosuid", "nodev", "noexec"],
            Lines(&["rw", "nosuid", "nodev", "noexec"]),
        ),
        with("the last of two that contradict", &["ro", "rw", "nosuid", "suid"], Out("rw\nrelatime")),
        with("noatime", &["noatime"], Lines(&["noatime"])),
        with("nodiratime", &["nodiratime"], Lines(&["nodiratime", "relatime"])),
        with("strictatime", &["strictatime"], Out("rw")),
        with("relatime", &["relatime"], Lines(&["relatime"])),
        with("nosymfollow", &["nosymfollow"], Lines(&["nosymfollow"])),
        with("defaults, async, loud and the like", &["async", "norelatime"], Lines(&["rw"])),
        case(
            "noexec is in force",
            mounts(json!([tmpfs("/mnt", &["noexec"])])),
            "cat /bin/busybox >/mnt/x; chmod 755 /mnt/x; /mnt/x true",
            Code(126),
        ),
        case(
            "nodev is in force",
            mounts(json!([bind("/dev", "/mnt", &["bind", "nodev"])])),
            "cat /mnt/null",
            Code(1),
        ),
    ]
}

fn binds() -> Vec<Case> {
    let etc = |options: &[&str]| mounts(json!([bind("@BUNDLE@/rootfs/etc", "/mnt", options)]));
    vec![
        case("a bind mount shows its source", etc(&["bind"]), "touch /mnt/x; ls /etc", Out("x")),
        case(
            "type none with bind",
            mounts(
                json!([{"destination": "/mnt", "type": "none", "source": "@BUNDLE@/rootfs/etc", "options": ["bind"]}]),
            ),
            "touch /mnt/x; ls /etc",
            Out("x"),
        ),
        case(
            "no type with rbind",
            mounts(json!([{"destination": "/mnt", "source": "@BUNDLE@/rootfs/etc", "options": ["rbind"]}])),
            "touch /mnt/x; ls /etc",
            Out("x"),
        ),
        case(
            "a source relative to the bundle",
            mounts(json!([bind("rootfs/etc", "/mnt", &["rbind"])])),
            "touch /mnt/x; ls /etc",
            Out("x"),
        ),
        case(
            "a source that is not there is an error",
            mounts(json!([bind("@BUNDLE@/nope", "/mnt", &["rbind"])])),
            "true",
            Refused,
        ),
        case(
            "a bind mount of a file",
            mounts(json!([bind("@BUNDLE@/config.json", "/etc/new/file", &["bind", "ro"])])),
            "grep -c ociVersion /etc/new/file && ! echo x 2>/dev/null >/etc/new/file",
            Out("1"),
        ),
        case(
            "a bind mount that is ro",
            etc(&["rbind", "ro"]),
            "touch /mnt/x 2>/dev/null || touch /etc/y && ls /etc",
            Out("y"),
        ),
        case(
            "attributes of a bind mount",
            etc(&["rbind", "nosuid", "nodev", "noexec", "noatime"]),
            OPTIONS,
            Lines(&["nosuid", "nodev", "noexec", "noatime"]),
        ),
        case(
            "bind is not recursive",
            mounts(json!([bind("/dev", "/mnt", &["bind"])])),
            "grep -c ' /mnt/' /proc/mounts",
            Code(1),
        ),
        case(
            "rbind is",
            mounts(json!([bind("/sys", "/mnt", &["rbind"])])),
            "grep -q ' /mnt/' /proc/mounts && echo more",
            Out("more"),
        ),
        case("private by default", etc(&["bind"]), PROPAGATION, Out("")),
        case("shared", etc(&["bind", "shared"]), PROPAGATION, Out("shared")),
        case("unbindable", etc(&["bind", "unbindable"]), PROPAGATION, Out("unbindable")),
        case("rprivate", etc(&["rbind", "rprivate"]), PROPAGATION, Out("")),
        case("rslave", etc(&["rbind", "rslave"]), PROPAGATION, Out("")),
    ]
}

/// Of runtime-spec 1.1.
fn recursive() -> Vec<Case> {
    let below = |option: &str| {
        let tree = json!([tmpfs("/src", &["size=1m"]), tmpfs("/src/below", &["size=1m"])]);
        let mut patch = mounts(tree);
        let sys = bind("/sys", "/mnt", &["rbind", option]);
        patch["mounts+"].as_array_mut().expect("an array").push(sys);
        patch
    };
    let every =
        |word: &str| format!("grep ' /mnt' /proc/self/mountinfo | cut -d' ' -f6 | grep -cv '{word}'; true");
    vec![
        case("rro", below("rro"), &every("^ro"), Out("0")),
        case("rnosuid", below("rnosuid"), &every("nosuid"), Out("0")),
        case("rnodev", below("rnodev"), &every("nodev"), Out("0")),
        case("rnoexec", below("rnoexec"), &every("noexec"), Out("0")),
        case("rnoatime", below("rnoatime"), &every("noatime"), Out("0")),
        case(
            "rstrictatime",
            below("rstrictatime"),
            "grep ' /mnt' /proc/self/mountinfo | cut -d' ' -f6 | grep -c atime; true",
            Out("0"),
        ),
        case("rnosymfollow", below("rnosymfollow"), &every("nosymfollow"), Out("0")),
    ]
}
