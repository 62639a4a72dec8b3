//! What a container does not get though it was asked for: in Docker's words where it has some.

use std::path::Path;

use super::compile;
use super::record::Record;
use crate::Runtime;
use crate::cgroup::Groups;

/// Of a container that has been made. `said` is what [`crate::Created::warnings`] has.
pub(super) fn of(runtime: &Runtime, record: &Record, said: &[String]) -> Vec<String> {
    let groups = Groups::existing(&runtime.inner.layout, Path::new(&compile::cgroups_path(record)));
    let has = |controller: &str, file: &str| {
        groups.controller(controller).is_some()
            || groups.v2.as_ref().is_some_and(|dir| dir.join(file).exists())
    };
    let mut warnings: Vec<String> = discarded(record, groups.is_empty(), has).map(str::to_owned).collect();
    // An ordinary user's container has no groups as a rule: of interest is what that changes, which is told already.
    let of_groups = |text: &String| text.starts_with("cgroup ") || text.starts_with("linux.resources.");
    warnings.extend(said.iter().filter(|text| !of_groups(text)).cloned());
    warnings
}

/// The limits that are not in force; `has` knows the controllers of v1 and the files of v2.
fn discarded(
    record: &Record,
    no_groups: bool,
    has: impl Fn(&str, &str) -> bool,
) -> impl Iterator<Item = &'static str> {
    let host = &record.host;
    let wants = [
        (
            host.memory > 0,
            has("memory", "memory.max"),
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        ),
        (
            host.memory > 0 && host.memory_swap != -1 && has("memory", "memory.max"),
            has("memory", "memory.swap.max"),
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        ),
        (
            host.memory_reservation > 0,
            has("memory", "memory.low"),
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        ),
        (
            host.memory_swappiness.is_some_and(|n| n >= 0),
            has("memory", "memory.swappiness"),
            "Your kernel does not support memory swappiness capabilities, or the cgroup is not mounted. Memory swappiness discarded.",
        ),
        (
            host.oom_kill_disable == Some(true),
            has("memory", "memory.oom_control"),
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        ),
        (
            host.pids_limit.is_some_and(|n| n > 0),
            has("pids", "pids.max"),
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        ),
        (
            host.cpu_shares > 0,
            has("cpu", "cpu.weight"),
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
        ),
        (
            host.nano_cpus > 0 || host.cpu_period > 0 || host.cpu_quota > 0,
            has("cpu", "cpu.max"),
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
        ),
        (
            !host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty(),
            has("cpuset", "cpuset.cpus"),
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
        ),
        (
            host.blkio_weight > 0,
            has("blkio", "io.weight"),
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        ),
        (
            !host.blkio_device_read_bps.is_empty(),
            has("blkio", "io.max"),
            "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
        ),
        (
            !host.blkio_device_write_bps.is_empty(),
            has("blkio", "io.max"),
            "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
        ),
        (
            !host.blkio_device_read_iops.is_empty(),
            has("blkio", "io.max"),
            "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
        ),
        (
            !host.blkio_device_write_iops.is_empty(),
            has("blkio", "io.max"),
            "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
        ),
        (
            !host.cgroup_parent.is_empty(),
            !no_groups,
            "This user may not make a cgroup there, or none is mounted. Cgroup parent discarded.",
        ),
    ];
    wants.into_iter().filter(|(wanted, there, _)| *wanted && !there).map(|(.., words)| words)
}
