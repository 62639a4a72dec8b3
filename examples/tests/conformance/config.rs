//! config.md, without mounts and hooks.

use serde_json::json;

use crate::world::Want::{Code, Lines, Out, Refused};
use crate::world::{Case, case, program};

pub(crate) fn cases() -> Vec<Case> {
    [versions(), root(), process(), user(), limits(), capabilities(), names(), odd()]
        .into_iter()
        .flatten()
        .collect()
}

fn versions() -> Vec<Case> {
    let lax = "runc 1.1.5 does not look at ociVersion";
    vec![
        case("ociVersion 1.0.0", json!({"ociVersion": "1.0.0"}), "echo hi", Out("hi")),
        case(
            "ociVersion of a development version",
            json!({"ociVersion": "1.3.0-dev+x"}),
            "echo hi",
            Out("hi"),
        ),
        case(
            "an ociVersion that is no version is an error",
            json!({"ociVersion": "one"}),
            "echo hi",
            Refused,
        )
        .runc(lax),
        case("an unsupported ociVersion is an error", json!({"ociVersion": "2.0.0"}), "echo hi", Refused)
            .runc(lax),
    ]
}

fn root() -> Vec<Case> {
    vec![
        case(
            "root.path relative to the bundle",
            json!({"root": {"path": "./rootfs/."}}),
            "echo hi",
            Out("hi"),
        ),
        case("root.path absolute", json!({"root": {"path": "@BUNDLE@/rootfs"}}), "echo hi", Out("hi")),
        case(
            "root.path that is not there is an error",
            json!({"root": {"path": "nope"}}),
            "echo hi",
            Refused,
        ),
        case("root is required", json!({"root": null}), "echo hi", Refused),
        case(
            "root.readonly",
            json!({"root": {"readonly": true}}),
            "touch /x 2>/dev/null || touch /dev/y && echo ro",
            Out("ro"),
        ),
        case("root is writable by default", json!({}), "touch /x && echo rw", Out("rw")),
    ]
}

fn process() -> Vec<Case> {
    vec![
        program(
            "process.args with arguments",
            json!({"process": {"args": ["echo", "a b", "", "c"]}}),
            Out("a b  c"),
        ),
        program("process.args by path", json!({"process": {"args": ["/bin/echo", "x"]}}), Out("x")),
        program(
            "process.args relative to cwd",
            json!({"process": {"cwd": "/bin", "args": ["./echo", "x"]}}),
            Out("x"),
        ),
        program(
            "process.args is searched in process.env's PATH",
            json!({"process": {"env": ["PATH=/nope:/bin"], "args": ["echo", "x"]}}),
            Out("x"),
        ),
        program("process is required by start", json!({"process": null}), Refused),
        program("process.args is required", json!({"process": {"args": null}}), Refused),
        program("process.args has one entry at least", json!({"process": {"args": []}}), Refused),
        program("a program that is not there", json!({"process": {"args": ["nope"]}}), Refused),
        program("a program that is a directory", json!({"process": {"args": ["/tmp"]}}), Refused),
        case("exit code", json!({}), "exit 42", Code(42)),
        case("exit by signal", json!({"process": {"args": []}}), "sh -c 'kill -9 $$'; exit $?", Code(137)),
        case("process.cwd", json!({"process": {"cwd": "/tmp"}}), "pwd", Out("/tmp")),
        case(
            "process.cwd that is missing is made",
            json!({"process": {"cwd": "/a/b c"}}),
            "pwd",
            Out("/a/b c"),
        ),
        case(
            "process.cwd in a read-only root",
            json!({"process": {"cwd": "/made"}, "root": {"readonly": true}}),
            "pwd",
            Out("/made"),
        ),
        program("process.args is required", json!({"process": {"args": null}}), Refused),
        program("process.args without a program is an error", json!({"process": {"args": []}}), Refused),
        program(
            "process.args with an empty program is an error",
            json!({"process": {"args": [""]}}),
            Refused,
        ),
        program("a start needs a process", json!({"process": null}), Refused),
        case("process.cwd must be absolute", json!({"process": {"cwd": "tmp"}}), "pwd", Refused),
        case("process.cwd is required", json!({"process": {"cwd": null}}), "pwd", Refused),
        case(
            "process.cwd by a link out of the root stays inside",
            json!({"process": {"cwd": "/proc/self/cwd/../../etc"}}),
            "pwd -P",
            Out("/etc"),
        ),
        case(
            "process.env",
            json!({"process": {"env": ["PATH=/bin", "A=b c", "B="]}}),
            "echo \"$A-${B-unset}-$HOME\"",
            Out("b c--/"),
        ),
        case(
            "process.env with a name twice",
            json!({"process": {"env": ["PATH=/bin", "A=1", "A=2"]}}),
            "echo $A",
            Out("2"),
        ),
        case("process.terminal false", json!({}), "tty", Code(1)),
        case(
            "process.consoleSize without a terminal is ignored",
            json!({"process": {"consoleSize": {"width": 80, "height": 20}}}),
            "echo hi",
            Out("hi"),
        ),
        case(
            "process.noNewPrivileges true",
            json!({}),
            "grep NoNewPrivs /proc/self/status | tr -d '\\t '",
            Out("NoNewPrivs:1"),
        ),
        case(
            "process.noNewPrivileges false",
            json!({"process": {"noNewPrivileges": false}}),
            "grep NoNewPrivs /proc/self/status | tr -d '\\t '",
            Out("NoNewPrivs:0"),
        ),
        case(
            "process.oomScoreAdj",
            json!({"process": {"oomScoreAdj": 321}}),
            "cat /proc/self/oom_score_adj",
            Out("321"),
        ),
        case(
            "process.oomScoreAdj not set is left as it is",
            json!({}),
            "cat /proc/self/oom_score_adj",
            Out("0"),
        ),
        case("standard input is the caller's", json!({}), "cat; echo end", Out("end")),
        case("no descriptors leak", json!({}), "ls /proc/self/fd | wc -l", Out("4")),
    ]
}

fn user() -> Vec<Case> {
    vec![
        case(
            "process.user.uid and gid",
            json!({"process": {"user": {"uid": 1234, "gid": 567}}}),
            "id -u; id -g; id -G",
            Out("1234\n567\n567"),
        ),
        case(
            "process.user.additionalGids",
            json!({"process": {"user": {"uid": 1, "gid": 2, "additionalGids": [3, 400]}}}),
            "id -G",
            Out("2 3 400"),
        ),
        case("groups of the caller are not kept", json!({}), "id -G", Out("0")),
        case("process.user.umask", json!({"process": {"user": {"umask": 0o077}}}), "umask", Out("0077")),
        case("process.user.umask by default", json!({}), "umask", Out("0022")),
        case("process.user.umask 0", json!({"process": {"user": {"umask": 0}}}), "umask", Out("0000")),
        case("no process.user is root", json!({"process": {"user": null}}), "id -u", Out("0")),
        case(
            "process.user.username is for Windows",
            json!({"process": {"user": {"username": "nobody"}}}),
            "id -u",
            Out("0"),
        ),
        case(
            "standard streams can be opened again by another user",
            json!({"process": {"user": {"uid": 9, "gid": 9}}}),
            "echo hi >/proc/self/fd/1",
            Out("hi"),
        ),
    ]
}

fn limits() -> Vec<Case> {
    let limit = |kind: &str, soft: u64, hard: u64| json!({"type": kind, "soft": soft, "hard": hard});
    vec![
        case(
            "process.rlimits",
            json!({"process": {"rlimits": [limit("RLIMIT_NOFILE", 100, 200)]}}),
            "ulimit -Sn; ulimit -Hn",
            Out("100\n200"),
        ),
        case(
            "process.rlimits of all kinds",
            json!({"process": {"rlimits": [
                limit("RLIMIT_CORE", 0, 0), limit("RLIMIT_CPU", 1000, 2000), limit("RLIMIT_FSIZE", 1 << 30, 1 << 31), limit("RLIMIT_NPROC", 500, 500),
            ]}}),
            "ulimit -c; ulimit -St; ulimit -u",
            Out("0\n1000\n500"),
        ),
        case(
            "process.rlimits with a type twice is an error",
            json!({"process": {"rlimits": [limit("RLIMIT_NOFILE", 10, 20), limit("RLIMIT_NOFILE", 30, 40)]}}),
            "ulimit -n",
            Refused,
        ),
        case(
            "process.rlimits of a type that cannot be mapped is an error",
            json!({"process": {"rlimits": [limit("RLIMIT_FOO", 1, 2)]}}),
            "true",
            Refused,
        ),
        case(
            "process.rlimits with soft above hard is an error",
            json!({"process": {"rlimits": [limit("RLIMIT_NOFILE", 30, 20)]}}),
            "true",
            Refused,
        ),
    ]
}

fn capabilities() -> Vec<Case> {
    let status = "grep Cap /proc/self/status | tr -d '\\t'";
    let none = "0000000000000000";
    assert_eq!(none.len(), 16);
    vec![
        case("process.capabilities: five sets", json!({"process": {"capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}, "user": {"uid": 0}}}),
            // The shell of root has them all again after its own execve: bounding and permitted by root's rule.
            status, Lines(&["CapBnd:0000000000002021", "CapInh:0000000000000020", "CapAmb:0000000000000020"])),
        case("process.capabilities of a user come by ambient ones", json!({"process": {"user": {"uid": 5}, "capabilities": {
                "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}}),
            status, Lines(&["CapEff:0000000000000020", "CapPrm:0000000000000020"])),
        case("process.capabilities of a user without ambient ones", json!({"process": {"user": {"uid": 5}, "capabilities": {
                "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": [], "ambient": []}}}),
            status, Lines(&["CapEff:0000000000000000", "CapPrm:0000000000000000"])),
        case("process.capabilities absent grants none", json!({"process": {"capabilities": null}}), status, Lines(&["CapBnd:0000000000000000", "CapEff:0000000000000000"])),
        case("process.capabilities empty grants none", json!({"process": {"capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}}}),
            status, Lines(&["CapBnd:0000000000000000", "CapEff:0000000000000000"])),
        case("a capability that the kernel does not have is left out", json!({"process": {"capabilities": {"bounding": ["CAP_FOO", "CAP_KILL"], "permitted": ["CAP_KILL", "CAP_FOO"], "effective": ["CAP_KILL"], "inheritable": [], "ambient": []}}}),
            "echo hi", Out("hi")),
        case("a capability that cannot be granted is left out", json!({"process": {"capabilities": {"bounding": ["CAP_SYS_RESOURCE", "CAP_KILL"], "permitted": ["CAP_SYS_RESOURCE", "CAP_KILL"], "effective": ["CAP_KILL"]}}}),
            "echo hi", Out("hi")).not_runc("runc 1.1.5 fails where the caller lacks it"),
    ]
}

fn names() -> Vec<Case> {
    vec![
        case("hostname", json!({"hostname": "a-name"}), "hostname", Out("a-name")),
        case("hostname of 64 characters", json!({"hostname": "n".repeat(64)}), "hostname | wc -c", Out("65")),
        case(
            "hostname without a UTS namespace is an error",
            json!({"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "network"}]}}),
            "hostname",
            Refused,
        ),
        case(
            "domainname",
            json!({"domainname": "example.org"}),
            "cat /proc/sys/kernel/domainname",
            Out("example.org"),
        )
        .runc("runtime-spec 1.1 brought domainname, runc 1.1.5 has 1.0"),
    ]
}

fn odd() -> Vec<Case> {
    let dash = "-".repeat(300);
    vec![
        case(
            "unknown properties are ignored",
            json!({"x": {"y": 1}, "process": {"x": []}, "linux": {"x": "y", "resources": {"x": 1}}, "root": {"x": 1}}),
            "echo hi",
            Out("hi"),
        ),
        case(
            "unknown annotations are ignored",
            json!({"annotations": {"org.example/x": "y", "a": "", dash: "\u{1F980}"}}),
            "echo hi",
            Out("hi"),
        ),
        case("no annotations at all", json!({"annotations": {}}), "echo hi", Out("hi")),
        case(
            "strings that are empty are as if absent",
            json!({"domainname": "", "process": {"apparmorProfile": "", "selinuxLabel": ""},
            "linux": {"cgroupsPath": "", "rootfsPropagation": "", "mountLabel": ""}}),
            "echo hi",
            Out("hi"),
        ),
        case(
            "lists that are empty",
            json!({"hooks": {}, "process": {"rlimits": []}, "linux": {"uidMappings": [], "gidMappings": [], "devices": [], "maskedPaths": [], "readonlyPaths": [], "sysctl": {}}}),
            "echo hi",
            Out("hi"),
        ),
        case(
            "other platforms' sections are ignored",
            json!({"solaris": {"milestone": "x"}, "windows": {"layerFolders": ["x"]}, "vm": {"kernel": {"path": "/x"}}}),
            "echo hi",
            Out("hi"),
        ),
        case("the container's processes die with its init", json!({}), "sleep 1000 & echo hi", Out("hi")),
        case(
            "no linux section",
            json!({"linux": null, "hostname": null, "mounts": []}),
            "echo hi",
            Out("hi"),
        )
        .not_runc("it makes its mounts in the host's own mount namespace"),
    ]
}
