//! From a record to an OCI runtime spec, with Docker's defaults.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Process, Spec};
use serde_json::{Value, json};

use super::passwd::Identity;
use super::record::{Record, StoredMount};
use super::{Error, ExecRequest, Result, parse};

mod devices;
mod security;

pub(super) use security::{check as check_security, masked, readonly};

/// Bytes of `/dev/shm` where nobody says.
pub(super) const SHM_SIZE: i64 = 64 << 20;

/// Where POSIX shared memory is.
pub(super) const SHM: &str = "/dev/shm";

/// What a start knows beside the record.
pub(super) struct Facts<'a> {
    pub(super) identity: &'a Identity,
    /// The container's directory, where `hosts`, `hostname` and `resolv.conf` are.
    pub(super) dir: &'a Path,
    /// The program behind `--init`.
    pub(super) init: &'a Path,
    /// Effective user and group of this process.
    pub(super) own: (u32, u32),
    /// The ids of its user namespace, where there are several.
    pub(super) id_maps: Option<&'a (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
    /// Paths of namespaces of other containers that this one joins: kind (as in the OCI spec) and path.
    pub(super) join: &'a [(String, String)],
}

/// The spec of a container's start.
pub(super) fn spec(record: &Record, facts: &Facts<'_>) -> Result<Spec> {
    let rootless = facts.own.0 != 0 || facts.id_maps.is_some();
    let host = &record.host;
    let mut linux = json!({
        "resources": resources(record, rootless)?,
        "cgroupsPath": cgroups_path(record),
        "namespaces": namespaces(record, facts, rootless),
        "maskedPaths": if host.privileged { vec![] } else { host.masked_paths.clone().unwrap_or_else(|| security::masked(host)) },
        "readonlyPaths": if host.privileged { vec![] } else { host.readonly_paths.clone().unwrap_or_else(|| security::readonly(host)) },
        "devices": devices::extra(host, rootless)?,
    });
    if !host.sysctls.is_empty() {
        linux["sysctl"] = json!(host.sysctls);
    }
    if let Some((uid, gid)) = facts.id_maps {
        linux["uidMappings"] = json!(uid);
        linux["gidMappings"] = json!(gid);
    } else if rootless {
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": facts.own.0, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": facts.own.1, "size": 1}]);
    }
    let mut annotations = json!({});
    if let Some(policy) = security::landlock(host) {
        annotations[crate::Landlock::ANNOTATION] = json!(policy);
    }
    let value = json!({
        "ociVersion": "1.0.2",
        "process": process(record, facts)?,
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "hostname": hostname(record),
        "mounts": mounts(record, facts, rootless)?,
        "annotations": annotations,
        "linux": linux,
    });
    let mut spec: Spec = serde_json::from_value(value).map_err(|e| bad_spec(&e))?;
    if record.host.uts_mode == "host" {
        spec.set_hostname(None);
    } else if !record.config.domainname.is_empty() {
        spec.set_domainname(Some(record.config.domainname.clone()));
    }
    security::seccomp(&mut spec, host)?;
    Ok(spec)
}

fn bad_spec(e: &serde_json::Error) -> Error {
    Error::invalid(format!("cannot express this container: {e}"))
}

/// Where the reaper of `--init` is in the container, as with Docker.
pub(super) const INIT_TARGET: &str = "/sbin/docker-init";

/// A process 1 that reaps is of use only where there is a process 1 of the container's own.
pub(super) fn wants_init(host: &super::HostConfig) -> bool {
    host.init == Some(true) && host.pid_mode.is_empty()
}

fn hostname(record: &Record) -> &str {
    &record.config.hostname
}

fn process(record: &Record, facts: &Facts<'_>) -> Result<Value> {
    let (config, host, who) = (&record.config, &record.host, facts.identity);
    let mut args: Vec<String> = Vec::new();
    if wants_init(host) {
        args.extend([INIT_TARGET.into(), "--".into()]);
    }
    args.push(record.path.clone());
    args.extend(record.args.iter().cloned());
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": who.uid, "gid": who.gid, "additionalGids": who.groups},
        "args": args,
        "env": environment(record, who),
        "cwd": if config.working_dir.is_empty() { "/" } else { &config.working_dir },
        "noNewPrivileges": security::no_new_privileges(host),
        "capabilities": security::capabilities(host, who.uid)?,
        "rlimits": rlimits(record),
    });
    if host.oom_score_adj != 0 {
        process["oomScoreAdj"] = json!(host.oom_score_adj);
    }
    Ok(process)
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn environment(record: &Record, who: &Identity) -> Vec<String> {
    let has =
        |name: &str| record.config.env.iter().any(|e| e.split_once('=').is_some_and(|(n, _)| n == name));
    let mut env = Vec::with_capacity(record.config.env.len() + 4);
    if !has("PATH") {
        env.push(PATH.into());
    }
    if !has("HOSTNAME") {
        env.push(format!("HOSTNAME={}", record.config.hostname));
    }
    if record.config.tty && !has("TERM") {
        env.push("TERM=xterm".into());
    }
    env.extend(record.config.env.iter().cloned());
    if !has("HOME") {
        env.push(format!("HOME={}", who.home));
    }
    env
}

fn rlimits(record: &Record) -> Vec<Value> {
    let limit = |n: i64| if n < 0 { u64::MAX } else { n as u64 };
    record
        .host
        .ulimits
        .iter()
        .map(|u| json!({"type": format!("RLIMIT_{}", u.name.to_uppercase()), "hard": limit(u.hard), "soft": limit(u.soft)}))
        .collect()
}

pub(super) fn cgroups_path(record: &Record) -> String {
    let parent = if record.host.cgroup_parent.is_empty() { "/longshore" } else { &record.host.cgroup_parent };
    format!("{}/{}", parse::clean(Path::new(parent)).trim_end_matches('/'), record.id)
}

fn namespaces(record: &Record, facts: &Facts<'_>, rootless: bool) -> Vec<Value> {
    let host = &record.host;
    let mut list = vec![json!({"type": "mount"})];
    let mut add = |kind: &str, shared: bool| {
        if let Some((_, path)) = facts.join.iter().find(|(k, _)| k == kind) {
            list.push(json!({"type": kind, "path": path}));
        } else if !shared {
            list.push(json!({"type": kind}));
        }
    };
    add("pid", host.pid_mode == "host");
    add("ipc", host.ipc_mode == "host");
    add("uts", host.uts_mode == "host");
    add("network", record.network.mode == "host");
    add("cgroup", host.cgroupns_mode == "host");
    if rootless {
        list.push(json!({"type": "user"}));
    }
    list
}

fn resources(record: &Record, rootless: bool) -> Result<Value> {
    let host = &record.host;
    // An ordinary user's container cannot make devices, so there is none to keep it from.
    let mut resources = if rootless { json!({}) } else { json!({"devices": devices::rules(host)?}) };
    let mut memory = serde_json::Map::new();
    if host.memory > 0 {
        memory.insert("limit".into(), json!(host.memory));
        let swap = if host.memory_swap == 0 { host.memory.saturating_mul(2) } else { host.memory_swap };
        memory.insert("swap".into(), json!(swap));
    }
    if host.memory_reservation > 0 {
        memory.insert("reservation".into(), json!(host.memory_reservation));
    }
    if let Some(n) = host.memory_swappiness.filter(|n| *n >= 0) {
        memory.insert("swappiness".into(), json!(n));
    }
    if host.oom_kill_disable == Some(true) {
        memory.insert("disableOOMKiller".into(), json!(true));
    }
    if !memory.is_empty() {
        resources["memory"] = memory.into();
    }
    let cpu = cpu(record);
    if !cpu.is_empty() {
        resources["cpu"] = cpu.into();
    }
    if let Some(limit) = host.pids_limit.filter(|n| *n != 0) {
        resources["pids"] = json!({"limit": limit});
    }
    let block_io = devices::block_io(host)?;
    if !block_io.is_empty() {
        resources["blockIO"] = block_io.into();
    }
    Ok(resources)
}

/// The limits alone, for a container that runs.
pub(super) fn limits(record: &Record) -> Result<oci_spec::runtime::LinuxResources> {
    serde_json::from_value(resources(record, true)?).map_err(|e| bad_spec(&e))
}

fn cpu(record: &Record) -> serde_json::Map<String, Value> {
    let host = &record.host;
    let mut cpu = serde_json::Map::new();
    let mut set = |key: &str, value: Value| cpu.insert(key.into(), value);
    if host.cpu_shares > 0 {
        set("shares", json!(host.cpu_shares));
    }
    if host.nano_cpus > 0 {
        set("period", json!(100_000));
        set("quota", json!(host.nano_cpus / 10_000));
    }
    if host.cpu_period > 0 {
        set("period", json!(host.cpu_period));
    }
    if host.cpu_quota != 0 {
        set("quota", json!(host.cpu_quota));
    }
    if !host.cpuset_cpus.is_empty() {
        set("cpus", json!(host.cpuset_cpus));
    }
    if !host.cpuset_mems.is_empty() {
        set("mems", json!(host.cpuset_mems));
    }
    cpu
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn mounts(record: &Record, facts: &Facts<'_>, rootless: bool) -> Result<Vec<Value>> {
    let host = &record.host;
    let shm = if host.shm_size > 0 { host.shm_size } else { SHM_SIZE };
    let (shm, cg) = (format!("size={shm}"), if host.privileged { "rw" } else { "ro" });
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        // Without a mapped group 5 the option is refused.
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            if rootless {
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
            } else {
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
            },
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    if rootless && record.network.mode == "host" {
        // sysfs belongs to the network namespace's owner, who is not in this user namespace.
        list.push(mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
    } else {
        list.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", cg]));
        if !rootless {
            list.push(mount(
                "/sys/fs/cgroup",
                "cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", cg],
            ));
        }
    }
    if host.ipc_mode == "host" {
        list.push(mount(SHM, "bind", SHM, &["rbind", "nosuid", "noexec", "nodev"]));
        if rootless {
            // The host's own message queues are not this user's to mount; where the host shows them, they can be bound.
            list.retain(|m| m["destination"] != "/dev/mqueue");
            if Path::new("/dev/mqueue").is_dir() {
                list.push(mount(
                    "/dev/mqueue",
                    "bind",
                    "/dev/mqueue",
                    &["rbind", "nosuid", "noexec", "nodev"],
                ));
            }
        }
    } else if host.ipc_mode.starts_with("container:") {
        // The other container's, handed over as a mount.
        list.push(mount(SHM, "bind", SHM, &["bind", "nosuid", "noexec", "nodev"]));
    } else if host.ipc_mode != "none" {
        list.push(mount(SHM, "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]));
    }
    let mut own: Vec<Value> = Vec::new();
    for (file, target) in super::files::NAMES {
        if !record.mounts.iter().any(|m| m.shown.destination == target) {
            let source = facts.dir.join(file).to_string_lossy().into_owned();
            own.push(mount(target, "bind", &source, &["rbind", "rprivate"]));
        }
    }
    if wants_init(host) {
        let source = facts.init.to_string_lossy().into_owned();
        own.push(mount(INIT_TARGET, "bind", &source, &["bind", "ro", "nosuid", "nodev", "rprivate"]));
    }
    for m in &record.mounts {
        let of_target = |l: &Value| l["destination"] == json!(m.shown.destination);
        list.retain(|l| !of_target(l));
        own.retain(|l| !of_target(l));
        own.push(own_mount(m));
    }
    // A mount below another one must come after it, the engine's own files too: a volume may be at `/etc`.
    own.sort_by_key(|m| m["destination"].as_str().map_or(0, |d| Path::new(d).components().count()));
    list.append(&mut own);
    Ok(list)
}

fn own_mount(m: &StoredMount) -> Value {
    let mode = if m.shown.rw { "rw" } else { "ro" };
    if m.shown.kind == "tmpfs" {
        let options: Vec<&str> = ["nosuid", "nodev", mode]
            .into_iter()
            .chain(m.data.split(',').filter(|o| !o.is_empty()))
            .collect();
        let exec = if options.contains(&"exec") { "exec" } else { "noexec" };
        return mount(&m.shown.destination, "tmpfs", "tmpfs", &[&options[..], &[exec]].concat());
    }
    let propagation = if m.shown.propagation.is_empty() { "rprivate" } else { &m.shown.propagation };
    let bind = if m.non_recursive { "bind" } else { "rbind" };
    let source = Path::new(&m.shown.source);
    let above = source.parent().filter(|_| inside_source(m) == Some(VOLUME_DATA)).unwrap_or(source);
    mount(&m.shown.destination, "bind", &above.to_string_lossy(), &[bind, mode, propagation])
}

/// The directory with a volume's content, in the volume's own.
const VOLUME_DATA: &str = "_data";

/// What the engine looks up inside a mount's source, so that nobody who can write there leads it out of it.
pub(super) fn inside_source(m: &StoredMount) -> Option<&str> {
    match (m.shown.kind.as_str(), m.subpath.as_str()) {
        ("volume", "") => Some(VOLUME_DATA),
        ("volume", subpath) => Some(subpath),
        _ => None,
    }
}

/// The process of an `exec`.
pub(super) fn exec_process(record: &Record, who: &Identity, request: &ExecRequest) -> Result<Process> {
    let mut host = record.host.clone();
    host.privileged |= request.privileged;
    let mut env = environment(record, who);
    if request.user.is_some() {
        env.retain(|e| !e.starts_with("HOME=") || record.config.env.contains(e));
        if !env.iter().any(|e| e.starts_with("HOME=")) {
            env.push(format!("HOME={}", who.home));
        }
    }
    if request.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    for own in request.env.iter().filter(|e| e.contains('=')) {
        let name = own.split('=').next().unwrap_or(own);
        env.retain(|e| e.split('=').next() != Some(name));
        env.push(own.clone());
    }
    let cwd = request.working_dir.as_deref().unwrap_or(&record.config.working_dir);
    let mut process = json!({
        "terminal": request.tty,
        "user": {"uid": who.uid, "gid": who.gid, "additionalGids": who.groups},
        "args": request.args,
        "env": env,
        "cwd": if cwd.is_empty() { "/" } else { cwd },
        "noNewPrivileges": security::no_new_privileges(&record.host),
        "capabilities": security::capabilities(&host, who.uid)?,
        "rlimits": rlimits(record),
    });
    if let Some((columns, rows)) = request.console_size {
        process["consoleSize"] = json!({"width": columns, "height": rows});
    }
    serde_json::from_value(process).map_err(|e| bad_spec(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::record::VERSION;
    use crate::containers::{Config, HostConfig, MountPoint, NetworkRequest};

    fn record() -> Record {
        Record {
            version: VERSION,
            id: "a".repeat(64),
            name: "web".into(),
            created: String::new(),
            image_id: String::new(),
            path: "sh".into(),
            args: vec!["-c".into(), "true".into()],
            config: Config { hostname: "box".into(), env: vec!["A=1".into()], ..Config::default() },
            host: HostConfig::default(),
            mounts: Vec::new(),
            network: NetworkRequest { mode: "none".into(), ..NetworkRequest::default() },
            more: Vec::new(),
            left: false,
            warnings: Vec::new(),
        }
    }
    fn compile(record: &Record, uid: u32) -> Value {
        let identity = Identity { home: "/root".into(), ..Identity::default() };
        let facts = Facts {
            identity: &identity,
            dir: Path::new("/c"),
            init: Path::new("/i"),
            own: (uid, uid),
            id_maps: None,
            join: &[],
        };
        serde_json::to_value(spec(record, &facts).unwrap()).unwrap()
    }

    #[test]
    fn dockers_defaults() {
        let spec = compile(&record(), 0);
        let env = spec["process"]["env"].as_array().unwrap();
        assert_eq!(env[1], "HOSTNAME=box");
        assert!(env.contains(&json!("HOME=/root")) && env.contains(&json!("A=1")));
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 6);
        assert!(spec["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
        assert!(spec["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/interrupts")));
    }

    #[test]
    fn limits_and_modes() {
        let mut r = record();
        r.host.memory = 64 << 20;
        r.host.nano_cpus = 500_000_000;
        r.host.pids_limit = Some(20);
        r.host.privileged = true;
        r.host.pid_mode = "host".into();
        r.network.mode = "host".into();
        let spec = compile(&r, 0);
        let resources = &spec["linux"]["resources"];
        assert_eq!(
            (&resources["memory"]["swap"], &resources["cpu"]["quota"]),
            (&json!(128 << 20), &json!(50_000))
        );
        assert_eq!(resources["pids"]["limit"], 20);
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 4);
        assert!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len() > 30);
        let spec = compile(&record(), 1000);
        assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], 1000);
    }

    #[test]
    fn mounts_come_after_what_they_stand_on() {
        let mut r = record();
        r.host.init = Some(true);
        for path in ["/a/b", "/a", "/dev/shm", "/etc", "/sbin"] {
            let shown = MountPoint {
                kind: "bind".into(),
                source: "/src".into(),
                destination: path.into(),
                rw: true,
                ..MountPoint::default()
            };
            r.mounts.push(StoredMount { shown, ..StoredMount::default() });
        }
        let spec = compile(&r, 0);
        let targets: Vec<&str> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        let at = |p: &str| targets.iter().position(|t| *t == p).unwrap();
        assert!(at("/a") < at("/a/b"));
        for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"] {
            assert!(at("/etc") < at(file), "{file}");
        }
        assert!(at("/sbin") < at(INIT_TARGET));
        assert_eq!(targets.iter().filter(|t| **t == "/dev/shm").count(), 1);
    }
}
