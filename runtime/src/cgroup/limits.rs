//! `linux.resources`, as files of v1 and v2.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxMemory, LinuxResources};

use super::{Groups, write};
use crate::error::{Error, Result};

pub(super) fn apply(
    groups: &Groups,
    resources: &LinuxResources,
    mut warnings: Option<&mut Vec<String>>,
) -> Result<()> {
    let parts: [fn(&Groups, &LinuxResources) -> Result<()>; 8] =
        [memory, cpu, pids, block_io, huge_pages, network, rdma, unified];
    for part in parts {
        match (part(groups, resources), &mut warnings) {
            (Err(Error::Unsupported { what }), Some(warnings)) => {
                warnings.push(format!("{what}: it is not in force"));
            }
            (result, _) => result?,
        }
    }
    Ok(())
}

fn pids(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    let Some(pids) = resources.pids() else { return Ok(()) };
    let limit = pids.limit();
    let value = if limit <= 0 { "max".to_owned() } else { limit.to_string() };
    set(groups, "pids", "linux.resources.pids", "pids.max", "pids.max", &value)
}

fn huge_pages(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    for limit in resources.hugepage_limits().iter().flatten() {
        let value = if limit.limit() < 0 { "max".to_owned() } else { limit.limit().to_string() };
        let size = limit.page_size();
        if size.contains('/') {
            return Err(Error::spec("linux.resources.hugepageLimits.pageSize", "contains a slash"));
        }
        let (v1, v2) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        set(groups, "hugetlb", "linux.resources.hugepageLimits", &v1, &v2, &value)?;
        // config-linux.md, "Huge page limits": reservations, where the kernel counts those (Linux 5.7).
        let dir = groups.controller("hugetlb").or(groups.v2.as_deref());
        for file in [format!("hugetlb.{size}.rsvd.limit_in_bytes"), format!("hugetlb.{size}.rsvd.max")] {
            if let Some(file) = dir.map(|dir| dir.join(file)).filter(|file| file.exists()) {
                write(&file, &value)?;
            }
        }
    }
    Ok(())
}

fn network(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    let Some(network) = resources.network() else { return Ok(()) };
    if let Some(class) = network.class_id().filter(|c| *c != 0) {
        let field = "linux.resources.network.classID";
        set(groups, "net_cls", field, "net_cls.classid", "", &class.to_string())?;
    }
    for priority in network.priorities().iter().flatten() {
        let line = format!("{} {}", priority.name(), priority.priority());
        set(groups, "net_prio", "linux.resources.network.priorities", "net_prio.ifpriomap", "", &line)?;
    }
    Ok(())
}

fn rdma(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    for (device, limit) in resources.rdma().iter().flatten() {
        let number = |n: Option<u32>| n.map_or("max".to_owned(), |n| n.to_string());
        let line = format!(
            "{device} hca_handle={} hca_object={}",
            number(limit.hca_handles()),
            number(limit.hca_objects())
        );
        set(groups, "rdma", "linux.resources.rdma", "rdma.max", "rdma.max", &line)?;
    }
    Ok(())
}

fn unified(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    for (file, value) in resources.unified().iter().flatten() {
        let Some(dir) = &groups.v2 else { return Err(missing("linux.resources.unified")) };
        if file.contains('/') || !file.contains('.') {
            return Err(Error::spec("linux.resources.unified", format!("{file} is no cgroup file")));
        }
        for line in value.lines() {
            write(&dir.join(file), line)?;
        }
    }
    Ok(())
}

fn missing(field: &str) -> Error {
    Error::Unsupported {
        what: format!("{field}: the controller is not available to this user on this machine"),
    }
}

/// Writes to the v1 file where the controller is a v1 one, else to the v2 file.
fn set(groups: &Groups, controller: &str, field: &str, v1: &str, v2: &str, value: &str) -> Result<()> {
    if let Some(dir) = groups.controller(controller) {
        return write(&dir.join(v1), value);
    }
    match &groups.v2 {
        Some(dir) if dir.join(v2).exists() => write(&dir.join(v2), value),
        _ => Err(missing(field)),
    }
}

fn memory(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    let field = "linux.resources.memory";
    let text = |n: i64, max: &str| if n < 0 { max.to_owned() } else { n.to_string() };
    if let Some(dir) = groups.controller("memory") {
        let limit_file = dir.join("memory.limit_in_bytes");
        let swap_file = dir.join("memory.memsw.limit_in_bytes");
        let limit = memory.limit().filter(|l| *l != 0);
        // The kernel wants memory+swap never below memory at any moment.
        let swap = memory.swap().filter(|s| *s != 0 && swap_file.exists());
        let raise_swap_first = match (limit, swap) {
            (Some(_), Some(swap)) => {
                let now: i64 = fs::read_to_string(&limit_file)
                    .ok()
                    .and_then(|s| s.trim().parse().ok())
                    .unwrap_or(i64::MAX);
                swap < 0 || swap >= now
            }
            _ => false,
        };
        let set_limit = || limit.map_or(Ok(()), |l| write(&limit_file, &text(l, "-1")));
        let set_swap = || swap.map_or(Ok(()), |s| write(&swap_file, &text(s, "-1")));
        if raise_swap_first {
            set_swap()?;
            set_limit()?;
        } else {
            set_limit()?;
            set_swap()?;
        }
        if let Some(value) = memory.reservation().filter(|r| *r != 0) {
            write(&dir.join("memory.soft_limit_in_bytes"), &text(value, "-1"))?;
        }
        if let Some(value) = memory.swappiness() {
            write(&dir.join("memory.swappiness"), &value.to_string())?;
        }
        if memory.disable_oom_killer() == Some(true) {
            write(&dir.join("memory.oom_control"), "1")?;
        }
        return Ok(());
    }
    if let Some(limit) = memory.limit().filter(|l| *l != 0) {
        set(groups, "memory", field, "", "memory.max", &text(limit, "max"))?;
    }
    if let Some(swap) = swap_alone(memory) {
        set(groups, "memory", field, "", "memory.swap.max", &text(swap, "max"))?;
    }
    if let Some(value) = memory.reservation().filter(|r| *r != 0) {
        set(groups, "memory", field, "", "memory.low", &text(value, "max"))?;
    }
    Ok(())
}

/// v1's value is memory plus swap, v2's swap alone (config-linux.md, memory.swap).
pub(super) fn swap_alone(memory: &LinuxMemory) -> Option<i64> {
    let swap = memory.swap().filter(|s| *s != 0)?;
    Some(if swap < 0 { swap } else { swap - memory.limit().unwrap_or(0).max(0) })
}

/// v1's 2..262144 to v2's 1..10000.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// v1's 10..1000 to v2's 1..10000.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

fn cpu(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    let field = "linux.resources.cpu";
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        if groups.controller("cpu").is_some() {
            set(groups, "cpu", field, "cpu.shares", "", &shares.to_string())?;
        } else {
            set(groups, "cpu", field, "", "cpu.weight", &cpu_weight(shares).to_string())?;
        }
    }
    let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
    if groups.controller("cpu").is_some() {
        if let Some(period) = period {
            set(groups, "cpu", field, "cpu.cfs_period_us", "", &period.to_string())?;
        }
        if let Some(quota) = quota {
            set(groups, "cpu", field, "cpu.cfs_quota_us", "", &quota.to_string())?;
        }
    } else if quota.is_some() || period.is_some() {
        let quota = quota.map(|q| if q > 0 { q.to_string() } else { "max".to_owned() });
        set(groups, "cpu", field, "", "cpu.max", &cpu_max(groups, quota, period))?;
    }
    if let Some(burst) = cpu.burst() {
        set(groups, "cpu", field, "cpu.cfs_burst_us", "cpu.max.burst", &burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        set(groups, "cpu", field, "cpu.idle", "cpu.idle", &idle.to_string())?;
    }
    if let Some(period) = cpu.realtime_period() {
        set(groups, "cpu", field, "cpu.rt_period_us", "cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime() {
        set(groups, "cpu", field, "cpu.rt_runtime_us", "cpu.rt_runtime_us", &runtime.to_string())?;
    }
    if let Some(cpus) = cpu.cpus().as_deref().filter(|c| !c.is_empty()) {
        set(groups, "cpuset", field, "cpuset.cpus", "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|c| !c.is_empty()) {
        set(groups, "cpuset", field, "cpuset.mems", "cpuset.mems", mems)?;
    }
    Ok(())
}

/// With quota and period, where one is given and the other is in force on v2: systemd keeps neither.
#[cfg(feature = "systemd")]
pub(super) fn complete(groups: &Groups, resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    let file = groups.v2.as_ref().map(|dir| dir.join("cpu.max"));
    let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let Some((quota, period)) = text.trim().split_once(' ') else { return resources };
    if let Some(cpu) =
        resources.cpu_mut().as_mut().filter(|cpu| cpu.quota().is_some() || cpu.period().is_some())
    {
        cpu.set_quota(cpu.quota().or(Some(quota.parse().unwrap_or(-1))));
        cpu.set_period(cpu.period().or(period.parse().ok()));
    }
    resources
}

/// A line for v2's `cpu.max` that keeps what is not given.
fn cpu_max(groups: &Groups, quota: Option<String>, period: Option<u64>) -> String {
    let now = || {
        let text = fs::read_to_string(groups.v2.as_ref()?.join("cpu.max")).ok()?;
        text.split_whitespace().next().map(str::to_owned)
    };
    let quota = quota.or_else(now).unwrap_or_else(|| "max".to_owned());
    // Without a period the kernel keeps its own.
    period.map_or(quota.clone(), |period| format!("{quota} {period}"))
}

fn block_io(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    let Some(io) = resources.block_io() else { return Ok(()) };
    let field = "linux.resources.blockIO";
    let v1 = groups.controller("blkio").is_some();
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        match groups.controller("blkio") {
            Some(dir) if !dir.join("blkio.weight").exists() => {
                set(groups, "blkio", field, "blkio.bfq.weight", "", &weight.to_string())?;
            }
            Some(_) => set(groups, "blkio", field, "blkio.weight", "", &weight.to_string())?,
            None => set(groups, "blkio", field, "", "io.weight", &format!("default {}", io_weight(weight)))?,
        }
    }
    let throttles = [
        (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
        (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
        (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
        (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
    ];
    for (devices, file, key) in throttles {
        for device in devices.iter().flatten() {
            let number = format!("{}:{}", device.major(), device.minor());
            if v1 {
                set(groups, "blkio", field, file, "", &format!("{number} {}", device.rate()))?;
            } else {
                set(groups, "blkio", field, "", "io.max", &format!("{number} {key}={}", device.rate()))?;
            }
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty, and nothing can enter it before it has its parent's.
pub(super) fn inherit_cpuset(root: &Path, dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent().filter(|p| dir != root && p.starts_with(root)) else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
        if own.trim().is_empty() {
            inherit_cpuset(root, parent)?;
            let value = fs::read_to_string(parent.join(file)).unwrap_or_default();
            write(&dir.join(file), value.trim())?;
        }
    }
    Ok(())
}

/// Turns on every controller that the group's parents have, from the top down; what they lack stays off.
pub(super) fn delegate(root: &Path, dir: &Path) {
    let Some(parent) = dir.parent().filter(|p| dir != root && p.starts_with(root)) else { return };
    delegate(root, parent);
    let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in controllers.split_whitespace().filter(|c| !enabled.split_whitespace().any(|e| e == *c))
    {
        // A parent with processes of its own cannot delegate (the no-internal-processes rule); a limit that needs it fails by name.
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}
