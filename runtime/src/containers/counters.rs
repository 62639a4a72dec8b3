//! Counters of a running container, from its cgroups (version 1 or 2) and its network namespace.

use std::fs;
use std::path::{Path, PathBuf};

use super::Stats;
use crate::Container;

/// Fills in what can be read; what cannot stays zero.
pub(super) fn read(pid: u32, container: &Container, stats: &mut Stats) {
    let groups = groups(pid, container.id());
    let file = |controller: &str, name: &str| {
        groups
            .iter()
            .find(|(c, _)| c == controller)
            .and_then(|(_, dir)| fs::read_to_string(dir.join(name)).ok())
    };
    let number =
        |controller: &str, name: &str| file(controller, name).and_then(|t| t.trim().parse::<u64>().ok());
    let field = |text: &Option<String>, key: &str| {
        text.as_ref()?
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    let cpu2 = field(&file("", "cpu.stat"), "usage_usec").map(|n| n * 1000);
    stats.cpu_nanos = number("cpuacct", "cpuacct.usage").or(cpu2).unwrap_or(0);
    let machine = machine_memory();
    if let Some(used) = number("memory", "memory.usage_in_bytes") {
        let cache = field(&file("memory", "memory.stat"), "total_inactive_file").unwrap_or(0);
        stats.memory = used.saturating_sub(cache);
        stats.memory_limit = number("memory", "memory.limit_in_bytes").unwrap_or(machine).min(machine);
    } else if let Some(used) = number("", "memory.current") {
        stats.memory = used.saturating_sub(field(&file("", "memory.stat"), "inactive_file").unwrap_or(0));
        stats.memory_limit = number("", "memory.max").unwrap_or(machine).min(machine);
    }
    stats.pids = number("pids", "pids.current")
        .or_else(|| number("", "pids.current"))
        .or_else(|| container.processes().ok().map(|p| p.len() as u64))
        .unwrap_or(0);
    (stats.block_read, stats.block_write) =
        blocks(&file("blkio", "blkio.throttle.io_service_bytes"), &file("", "io.stat"));
    (stats.net_rx, stats.net_tx) = network(pid);
}

/// The container's cgroup directories: controller ("" for version 2) and path. An ordinary user's often has none of its own, and is in one
/// with half of the machine.
fn groups(pid: u32, id: &str) -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount_of = |controller: &str| {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let (kind, options) = (right.split(' ').next()?, right.rsplit(' ').next()?);
            let ours = if controller.is_empty() {
                kind == "cgroup2"
            } else {
                kind == "cgroup" && options.split(',').any(|o| o == controller)
            };
            ours.then(|| left.split(' ').nth(4).map(PathBuf::from)).flatten()
        })
    };
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        path.split('/').any(|part| part == id).then_some((controllers, path))
    });
    lines
        .flat_map(|(controllers, path)| controllers.split(',').map(move |c| (c, path)))
        .filter_map(|(c, path)| Some((c.to_owned(), mount_of(c)?.join(path.trim_start_matches('/')))))
        .collect()
}

fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn blocks(v1: &Option<String>, v2: &Option<String>) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in v1.iter().flat_map(|t| t.lines()) {
        let mut parts = line.split_ascii_whitespace().skip(1);
        match (parts.next(), parts.next().and_then(|n| n.parse::<u64>().ok())) {
            (Some("Read"), Some(n)) => sum.0 += n,
            (Some("Write"), Some(n)) => sum.1 += n,
            _ => {}
        }
    }
    for word in v2.iter().flat_map(|t| t.split_ascii_whitespace()) {
        match word.split_once('=') {
            Some(("rbytes", n)) => sum.0 += n.parse().unwrap_or(0),
            Some(("wbytes", n)) => sum.1 += n.parse().unwrap_or(0),
            _ => {}
        }
    }
    sum
}

/// Bytes received and sent on all interfaces of the process's network namespace but loopback.
fn network(pid: u32) -> (u64, u64) {
    let text =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("net/dev")).unwrap_or_default();
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let n: Vec<u64> = counters.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
            (name.trim() != "lo").then_some((*n.first()?, *n.get(8)?))
        })
        .fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1))
}
