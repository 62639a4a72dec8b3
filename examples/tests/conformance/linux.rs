//! config-linux.md.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::Want::{Code, Lines, Out, Refused};
use crate::world::{Bundle, Case, Oci, Trial, case, finish, trial};

pub(crate) fn cases() -> Vec<Case> {
    [devices(), groups(), kernel(), paths(), seccomp(), users(), scheduling()].into_iter().flatten().collect()
}

fn devices() -> Vec<Case> {
    let device = |more: Value| {
        let mut device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
        device.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"linux": {"devices": [device]}})
    };
    let stat = "stat -c '%a %u %g %t:%T %F' /dev/x";
    vec![
        case(
            "default devices",
            json!({}),
            "for d in null zero full random urandom tty; do stat -c '%F %t:%T %a' /dev/$d; done | tr '\\n' ' '",
            Out(
                "character special file 1:3 666 character special file 1:5 666 character special file 1:7 666 character special file 1:8 666 character special file 1:9 666 character special file 5:0 666",
            ),
        ),
        case(
            "symbolic links of /dev",
            json!({}),
            "for l in fd stdin stdout stderr; do readlink /dev/$l; done",
            Out("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2"),
        ),
        case("/dev/ptmx", json!({}), "readlink /dev/ptmx; stat -c %a /dev/pts/ptmx", Out("pts/ptmx\n666")),
        case(
            "linux.devices",
            device(json!({"fileMode": 0o640, "uid": 3, "gid": 4})),
            stat,
            Out("640 3 4 1:3 character special file"),
        ),
        case(
            "linux.devices with a mode of more than permissions",
            device(json!({"fileMode": 0o20_640})),
            stat,
            Out("640 0 0 1:3 character special file"),
        ),
        case(
            "linux.devices: a block device",
            device(json!({"type": "b", "major": 7, "minor": 9})),
            "stat -c '%t:%T %F' /dev/x",
            Out("7:9 block special file"),
        ),
        case(
            "linux.devices: a FIFO",
            device(json!({"type": "p", "path": "/dev/fifo"})),
            "stat -c %F /dev/fifo",
            Out("fifo"),
        ),
        case(
            "linux.devices: type u",
            device(json!({"type": "u"})),
            "stat -c '%t:%T %F' /dev/x",
            Out("1:3 character special file"),
        ),
        case(
            "linux.devices outside of /dev",
            device(json!({"path": "/new/dir/x"})),
            "stat -c %F /new/dir/x",
            Out("character special file"),
        ),
        case(
            "linux.devices: a default device with a mode of its own",
            device(json!({"path": "/dev/null", "fileMode": 0o600})),
            "stat -c %a /dev/null",
            Out("600"),
        )
        .runc("its own rules do not let it open that /dev/null again"),
        case(
            "linux.devices: another file in its place is an error",
            device(json!({"path": "/bin/busybox"})),
            "true",
            Refused,
        )
        .runc("it leaves the file as it is"),
        case("linux.devices: an unknown type is an error", device(json!({"type": "z"})), "true", Refused),
        case(
            "default devices are allowed",
            json!({}),
            "for d in null zero full random urandom; do dd if=/dev/$d of=/dev/null bs=1 count=0 2>&1 | grep -c denied; done | sort -u",
            Out("0"),
        ),
        case(
            "/dev/net/tun is allowed, as runc and crun do",
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 10, "minor": 200}]}}),
            "(: <>/dev/x) 2>&1 | grep -c 'not permitted'; true",
            Out("0"),
        ),
        case(
            "other devices are denied",
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 11}]}}),
            "echo x >/dev/x",
            Code(1),
        ),
        case(
            "linux.resources.devices allows",
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 11}],
            "resources": {"devices+": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}]}}}),
            "echo x >/dev/x && echo hi",
            Out("hi"),
        ),
        case(
            "linux.resources.devices denies after it allowed",
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 11}],
            "resources": {"devices+": [{"allow": true, "access": "rwm"}, {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}]}}}),
            "echo x >/dev/x",
            Code(1),
        ),
        case(
            "linux.resources.devices: an unknown access is an error",
            json!({"linux": {"resources": {"devices+": [{"allow": true, "type": "c", "access": "x"}]}}}),
            "true",
            Refused,
        )
        .runc("it writes it to the kernel together with rules that it merges away"),
    ]
}

/// A file of the container's group in the hierarchy of a controller; v1, v2.
const GROUP: &str = "group() { d=$(grep -E \"[:,]$1[,:]\" /proc/self/cgroup | cut -d: -f3); r=$(grep -E \" /sys/fs/cgroup/[a-z,]*$1\" /proc/mounts); cat /sys/fs/cgroup/$1/$2; }; ";

fn group(name: &'static str, resources: Value, script: &str, want: crate::world::Want) -> Case {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]});
    let patch = json!({"mounts+": [mount], "linux": {"resources": resources}});
    case(name, patch, &format!("{GROUP}{script}"), want)
}

fn groups() -> Vec<Case> {
    vec![
        case(
            "linux.cgroupsPath absolute",
            json!({"linux": {"cgroupsPath": "/conformance-abs"}}),
            "grep -c ':/conformance-abs$' /proc/self/cgroup | grep -v '^0$' | wc -l",
            Out("1"),
        ),
        case(
            "linux.cgroupsPath relative",
            json!({"linux": {"cgroupsPath": "conformance-relative"}}),
            "grep -c '/conformance-relative$' /proc/self/cgroup | grep -v '^0$' | wc -l",
            Out("1"),
        ),
        case(
            "linux.cgroupsPath cannot leave the hierarchy",
            json!({"linux": {"cgroupsPath": "/../../conformance-up"}}),
            "grep -c ':/conformance-up$' /proc/self/cgroup | grep -v '^0$' | wc -l",
            Out("1"),
        ),
        group(
            "memory.limit",
            json!({"memory": {"limit": 67108864}}),
            "group memory memory.limit_in_bytes",
            Out("67108864"),
        ),
        group(
            "memory.reservation",
            json!({"memory": {"reservation": 33554432}}),
            "group memory memory.soft_limit_in_bytes",
            Out("33554432"),
        ),
        group(
            "memory.swappiness",
            json!({"memory": {"swappiness": 7}}),
            "group memory memory.swappiness",
            Out("7"),
        ),
        group(
            "memory.disableOOMKiller",
            json!({"memory": {"disableOOMKiller": true}}),
            "group memory memory.oom_control | head -1",
            Out("oom_kill_disable 1"),
        ),
        group(
            "memory of -1 is no limit",
            json!({"memory": {"limit": -1}}),
            "group memory memory.limit_in_bytes",
            Out("9223372036854771712"),
        ),
        group(
            "memory empty",
            json!({"memory": {}}),
            "group memory memory.limit_in_bytes",
            Out("9223372036854771712"),
        ),
        group("cpu.shares", json!({"cpu": {"shares": 512}}), "group cpu cpu.shares", Out("512")),
        group(
            "cpu.quota and period",
            json!({"cpu": {"quota": 20000, "period": 50000}}),
            "group cpu cpu.cfs_quota_us; group cpu cpu.cfs_period_us",
            Out("20000\n50000"),
        ),
        group(
            "cpu.period alone",
            json!({"cpu": {"period": 50000}}),
            "group cpu cpu.cfs_period_us",
            Out("50000"),
        ),
        group(
            "cpu.cpus and mems",
            json!({"cpu": {"cpus": "0", "mems": "0"}}),
            "group cpuset cpuset.cpus; group cpuset cpuset.mems",
            Out("0\n0"),
        ),
        group("cpu.idle", json!({"cpu": {"idle": 1}}), "group cpu cpu.idle", Out("1"))
            .runc("runtime-spec 1.1 brought cpu.idle, runc 1.1.5 has 1.0"),
        group(
            "cpu.burst",
            json!({"cpu": {"quota": 50000, "burst": 10000}}),
            "group cpu cpu.cfs_burst_us",
            Out("10000"),
        )
        .runc("runtime-spec 1.1 brought cpu.burst, runc 1.1.5 has 1.0"),
        group("pids.limit", json!({"pids": {"limit": 17}}), "group pids pids.max", Out("17")),
        group("pids.limit of -1 is none", json!({"pids": {"limit": -1}}), "group pids pids.max", Out("max")),
        group(
            "pids.limit is in force",
            json!({"pids": {"limit": 3}}),
            "for i in 1 2 3 4 5 6; do sleep 2 & done; echo started",
            Code(2),
        ),
        group(
            "blockIO.throttle",
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1048576}]}}),
            "group blkio blkio.throttle.read_bps_device",
            Out("254:0 1048576"),
        )
        .not_runc("the number of the disk is this machine's"),
        group(
            "resources empty",
            json!({"cpu": {}, "pids": null, "blockIO": {}, "network": {}, "hugepageLimits": []}),
            "echo hi",
            Out("hi"),
        ),
        group(
            "a limit that the kernel refuses is an error",
            json!({"cpu": {"cpus": "4000"}}),
            "echo hi",
            Refused,
        ),
        group(
            "memory.limit is in force",
            json!({"memory": {"limit": 16777216}}),
            "dd if=/dev/zero of=/dev/null bs=64M count=1",
            Code(137),
        ),
    ]
}

fn kernel() -> Vec<Case> {
    let sysctl = |key: &str, value: &str| json!({"linux": {"sysctl": {key: value}}});
    vec![
        case("linux.sysctl of the network namespace", sysctl("net.ipv4.ip_forward", "1"), "cat /proc/sys/net/ipv4/ip_forward", Out("1")),
        case("linux.sysctl with slashes", sysctl("net/ipv4/conf/lo/forwarding", "1"), "cat /proc/sys/net/ipv4/conf/lo/forwarding", Out("1")),
        case("linux.sysctl of the IPC namespace", sysctl("kernel.msgmax", "12345"), "cat /proc/sys/kernel/msgmax", Out("12345")),
        case("linux.intelRdt without resctrl is an error", json!({"linux": {"intelRdt": {"closID": "longshore-nope"}}}), "true", Refused).runc("it ignores the section"),
        case("linux.mountLabel without SELinux is an error", json!({"linux": {"mountLabel": "system_u:object_r:container_file_t:s0"}}), "true", Refused),
        case("linux.sysctl of the whole machine is an error", sysctl("kernel.panic", "0"), "true", Refused),
        case("linux.sysctl of a namespace that is not the container's is an error", json!({"linux": {"sysctl": {"net.ipv4.ip_forward": "1"},
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]}), "true", Refused),
        case("linux.sysctl that is unknown is an error", sysctl("net.ipv4.nope", "1"), "true", Refused),
        case("linux.personality PER_LINUX32", json!({"linux": {"personality": {"domain": "LINUX32"}}}), "cat /proc/self/personality; uname -m", Out("00000008\ni686"))
            .runc("runc 1.1.5 does not know personality"),
        case("linux.personality PER_LINUX", json!({"linux": {"personality": {"domain": "LINUX"}}}), "cat /proc/self/personality", Out("00000000")),
        case("linux.personality that is unknown is an error", json!({"linux": {"personality": {"domain": "PLAN9"}}}), "true", Refused)
            .runc("runc 1.1.5 does not know personality"),
        case("time namespace with offsets", json!({"linux": {"namespaces+": [{"type": "time"}], "timeOffsets": {"boottime": {"secs": 1_000_000}}}}),
            "test $(cut -d. -f1 /proc/uptime) -gt 1000000 && echo later", Out("later")).runc("runc 1.1.5 does not know time namespaces"),
    ]
}

fn paths() -> Vec<Case> {
    let root = |mode: &str| json!({"linux": {"rootfsPropagation": mode}});
    let propagation =
        r#"awk '$5 == "/" { for (i = 7; $i != "-"; i++) print $i }' /proc/self/mountinfo | cut -d: -f1"#;
    vec![
        case(
            "linux.maskedPaths: a file",
            json!({}),
            "stat -c '%t:%T' /proc/version; wc -c </proc/version",
            Out("1:3\n0"),
        ),
        case(
            "linux.maskedPaths: a directory",
            json!({"linux": {"maskedPaths": ["/sys/kernel"]}}),
            "ls /sys/kernel | wc -l; touch /sys/kernel/x 2>/dev/null || echo ro",
            Out("0\nro"),
        ),
        case(
            "linux.maskedPaths: what is not there is left out",
            json!({"linux": {"maskedPaths": ["/nope", "/proc/nope/nope"]}}),
            "echo hi",
            Out("hi"),
        ),
        case(
            "linux.readonlyPaths",
            json!({}),
            "echo x 2>/dev/null >/proc/sys/kernel/hostname || echo ro",
            Out("ro"),
        ),
        case(
            "linux.readonlyPaths: a file",
            json!({"linux": {"readonlyPaths": ["/etc/f"]}, "mounts+": [{"destination": "/etc/f", "type": "bind", "source": "@BUNDLE@/config.json", "options": ["bind"]}]}),
            "echo x 2>/dev/null >>/etc/f || echo ro",
            Out("ro"),
        ),
        case(
            "linux.readonlyPaths: what is not there is left out",
            json!({"linux": {"readonlyPaths": ["/nope"]}}),
            "echo hi",
            Out("hi"),
        ),
        case("rootfsPropagation private", root("private"), propagation, Out("")),
        case("rootfsPropagation rprivate", root("rprivate"), propagation, Out("")),
        case("rootfsPropagation slave", root("slave"), "echo hi", Out("hi")),
        case("rootfsPropagation rslave", root("rslave"), "echo hi", Out("hi")),
        case("rootfsPropagation shared", root("shared"), propagation, Out("shared"))
            .runc("it leaves the root private"),
        case("rootfsPropagation unbindable", root("unbindable"), propagation, Out("unbindable"))
            .runc("it wants to bind the root after it made it unbindable"),
        case("rootfsPropagation that is unknown is an error", root("sideways"), "true", Refused),
    ]
}

fn seccomp() -> Vec<Case> {
    let filter = |default: &str, rules: Value| json!({"linux": {"seccomp": {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"], "syscalls": rules}}});
    let mkdir = json!(["mkdir", "mkdirat"]);
    vec![
        case(
            "seccomp errno",
            filter("SCMP_ACT_ALLOW", json!([{"names": mkdir, "action": "SCMP_ACT_ERRNO"}])),
            "mkdir /tmp/x 2>&1 | grep -o 'not permitted'",
            Out("not permitted"),
        ),
        case(
            "seccomp errnoRet",
            filter("SCMP_ACT_ALLOW", json!([{"names": mkdir, "action": "SCMP_ACT_ERRNO", "errnoRet": 28}])),
            "mkdir /tmp/x 2>&1 | grep -o 'No space'",
            Out("No space"),
        ),
        case(
            "seccomp kill",
            filter("SCMP_ACT_ALLOW", json!([{"names": mkdir, "action": "SCMP_ACT_KILL"}])),
            "mkdir /tmp/x 2>/dev/null; echo $?",
            Out("159"),
        ),
        case(
            "seccomp by argument",
            filter(
                "SCMP_ACT_ALLOW",
                json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}]),
            ),
            "sleep 9 & kill -USR1 $! 2>&1 | grep -o 'not permitted'; kill -USR2 $! && echo sent",
            Out("not permitted\nsent"),
        ),
        case(
            "seccomp: unknown system calls are left out",
            filter("SCMP_ACT_ALLOW", json!([{"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}])),
            "echo hi",
            Out("hi"),
        ),
        case(
            "seccomp: an unknown action is an error",
            filter("SCMP_ACT_NOPE", json!([])),
            "echo hi",
            Refused,
        ),
        case(
            "seccomp: flags",
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}}}),
            "grep -c 'Seccomp:.2' /proc/self/status; true",
            Code(0),
        ).runc("runc 1.1.5 has no seccomp flags"),
        case(
            "seccomp without noNewPrivileges",
            json!({"process": {"noNewPrivileges": false}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": mkdir, "action": "SCMP_ACT_ERRNO"}]}}}),
            "mkdir /tmp/x 2>&1 | grep -o 'not permitted'",
            Out("not permitted"),
        ),
        case(
            "seccomp: an error number for an action that has none is an error",
            filter("SCMP_ACT_ALLOW", json!([{"names": mkdir, "action": "SCMP_ACT_KILL", "errnoRet": 5}])),
            "true",
            Refused,
        )
        .runc("it ignores the number"),
        case(
            "seccomp: a default error number for an action that has none is an error",
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5}}}),
            "true",
            Refused,
        )
        .runc("it ignores the number"),
        case(
            "seccomp: metadata for a listener that is not named is an error",
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}}}),
            "true",
            Refused,
        )
        .runc("it ignores the metadata"),
        case(
            "seccomp: a listener that is not asked is ignored",
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nope", "listenerMetadata": "x"}}}),
            "echo in",
            Out("in"),
        ),
        case(
            "seccomp is inherited",
            filter("SCMP_ACT_ALLOW", json!([{"names": mkdir, "action": "SCMP_ACT_ERRNO"}])),
            "sh -c 'mkdir /tmp/x' 2>&1 | grep -o 'not permitted'",
            Out("not permitted"),
        ),
    ]
}

fn users() -> Vec<Case> {
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1000}, {"containerID": 1000, "hostID": 100_000, "size": 1000}]);
    let user = json!({"linux": {"namespaces+": [{"type": "user"}], "uidMappings": map, "gidMappings": map, "resources": null}});
    let mut as_user = user.clone();
    as_user["process"] = json!({"user": {"uid": 1000, "gid": 1000}});
    vec![
        case(
            "user namespace with maps",
            user.clone(),
            "awk '{print $1, $2, $3}' /proc/self/uid_map",
            Out("0 0 1000\n1000 100000 1000"),
        ),
        case(
            "user namespace: gid maps",
            user,
            "awk '{print $1, $2, $3}' /proc/self/gid_map",
            Out("0 0 1000\n1000 100000 1000"),
        ),
        case("user namespace: a mapped user", as_user, "id -u; id -g", Out("1000\n1000")),
        case(
            "a user namespace without maps is an error",
            json!({"linux": {"namespaces+": [{"type": "user"}]}}),
            "true",
            Refused,
        ),
        case(
            "a namespace of an unknown type is an error",
            json!({"linux": {"namespaces+": [{"type": "zone"}]}}),
            "true",
            Refused,
        ),
        case(
            "a namespace twice is an error",
            json!({"linux": {"namespaces+": [{"type": "pid"}]}}),
            "true",
            Refused,
        ),
        case(
            "a namespace's path that is not there is an error",
            json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/nope"}]}, "hostname": null}),
            "true",
            Refused,
        ),
        case(
            "a namespace's path of another type is an error",
            json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/proc/1/ns/ipc"}]}}),
            "true",
            Refused,
        ),
        case(
            "a namespace's empty path is a new one",
            json!({"linux": {"namespaces": [{"type": "mount", "path": ""}, {"type": "uts", "path": ""}, {"type": "pid", "path": ""}, {"type": "ipc"}, {"type": "network"}]}}),
            "echo $$",
            Out("1"),
        ),
    ]
}

fn scheduling() -> Vec<Case> {
    let old = "runtime-spec 1.1 and later brought it, runc 1.1.5 has 1.0";
    vec![
        case("process.ioPriority of an unknown class is an error", json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_NOPE", "priority": 6}}}), "true", Refused).runc(old),
        case("process.ioPriority", json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}}}), "busybox ionice -p $$", Out("best-effort: prio 6")).runc(old),
        case("process.scheduler nice", json!({"process": {"scheduler": {"policy": "SCHED_OTHER", "nice": 7}}}), "cut -d' ' -f19 /proc/self/stat", Out("7")).runc(old),
        case("process.scheduler batch", json!({"process": {"scheduler": {"policy": "SCHED_BATCH"}}}), "cut -d' ' -f41 /proc/self/stat", Out("3")).runc(old),
        case("process.scheduler that is unknown is an error", json!({"process": {"scheduler": {"policy": "SCHED_NOPE"}}}), "true", Refused).runc(old),
        case("linux.memoryPolicy", json!({"linux": {"memoryPolicy": {"mode": "MPOL_PREFERRED", "nodes": "0"}}}), "head -1 /proc/self/numa_maps | cut -d' ' -f2", Out("prefer:0"))
            .not_runc("the kernel may lack NUMA"),
        case("linux.memoryPolicy that is unknown is an error", json!({"linux": {"memoryPolicy": {"mode": "MPOL_NOPE"}}}), "true", Refused).runc(old),
        case("everything at once", json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}, "scheduler": {"policy": "SCHED_IDLE"}}}), "busybox ionice -p $$; cut -d' ' -f41 /proc/self/stat", Lines(&["5"])).runc(old),
    ]
}

const NAMESPACES: [(&str, &str); 5] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")];

/// `linux.namespaces` without those of `without`, for a container that may lack some.
fn without(kind: &str) -> Value {
    let list: Vec<Value> = NAMESPACES.iter().filter(|n| n.0 != kind).map(|n| json!({"type": n.0})).collect();
    let proc = match kind {
        "pid" => json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}),
        _ => json!({"destination": "/proc", "type": "proc", "source": "proc"}),
    };
    let mounts = json!([proc]);
    let hostname = if kind == "uts" { Value::Null } else { "x".into() };
    json!({"linux": {"namespaces": list, "namespaces+": [{"type": "mount"}], "readonlyPaths": [], "maskedPaths": []}, "mounts": mounts, "hostname": hostname})
}

fn inside(oci: &Oci, patch: &Value, kind: &str) -> String {
    let mut patch = patch.clone();
    patch["process"] = json!({"args": ["readlink", format!("/proc/self/ns/{kind}")]});
    let ended = Bundle::new(oci, &patch).run();
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout.trim().to_owned()
}

fn outside(kind: &str) -> String {
    finish(Command::new("readlink").arg(format!("/proc/self/ns/{kind}"))).stdout.trim().to_owned()
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a namespace that is named is new", |oci| {
            for (_, kind) in NAMESPACES {
                assert_ne!(inside(oci, &without(""), kind), outside(kind), "{kind}");
            }
            assert_ne!(inside(oci, &without(""), "mnt"), outside("mnt"));
        }),
        trial("a namespace that is not named is the caller's", |oci| {
            for (name, kind) in NAMESPACES {
                assert_eq!(inside(oci, &without(name), kind), outside(kind), "{kind}");
            }
        }),
        trial("a namespace with a path is joined", |oci| {
            let other = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
            other.start();
            let pid = oci.state(&other.id)["pid"].to_string();
            for (name, kind) in NAMESPACES.iter().take(4) {
                let mut patch = without("none");
                let list = patch["linux"]["namespaces"].as_array_mut().expect("an array");
                let entry = list.iter_mut().find(|n| n["type"] == *name).expect("is there");
                entry["path"] = format!("/proc/{pid}/ns/{kind}").into();
                let theirs = finish(Command::new("readlink").arg(format!("/proc/{pid}/ns/{kind}"))).stdout;
                if *name == "pid" {
                    patch["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
                }
                assert_eq!(inside(oci, &patch, kind), theirs.trim(), "{kind}");
            }
        }),
        trial("groups exist while it runs and are gone after delete", |oci| {
            let bundle = Bundle::new(oci, &json!({"process": {"args": ["sleep", "60"]}}));
            bundle.start();
            let pid = oci.state(&bundle.id)["pid"].to_string();
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
            let dir = |line: &str| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
                (path.ends_with(&bundle.id) && !controllers.is_empty() && !controllers.contains('='))
                    .then(|| format!("/sys/fs/cgroup/{controllers}{path}"))
            };
            let dirs: Vec<String> = groups.lines().filter_map(dir).collect();
            assert!(dirs.iter().all(|d| std::path::Path::new(d).is_dir()), "{dirs:?}");
            oci.ok(&["delete", "--force", &bundle.id]);
            assert!(!dirs.iter().any(|d| std::path::Path::new(d).exists()), "{dirs:?}");
        }),
    ]
}
