//! What a container uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Groups;

/// What a container uses now. A value whose controller is not available is `None`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// CPU time of all processes, dead ones too.
    pub cpu: Option<Duration>,
    /// User part of it.
    pub cpu_user: Option<Duration>,
    /// System part of it.
    pub cpu_system: Option<Duration>,
    /// CPU quota periods that have passed.
    pub periods: Option<u64>,
    /// Times that the CPU quota ran out.
    pub throttled_periods: Option<u64>,
    /// How long the processes had to wait for the next period.
    pub throttled_time: Option<Duration>,
    /// Memory, bytes, with page cache.
    pub memory: Option<u64>,
    /// Highest memory ever, bytes.
    pub memory_peak: Option<u64>,
    /// Memory limit, bytes; `None` also without one.
    pub memory_limit: Option<u64>,
    /// Page cache that can be dropped at once, bytes: `memory` less this is what `docker stats` shows.
    pub memory_inactive_file: Option<u64>,
    /// Page cache, bytes.
    pub memory_cache: Option<u64>,
    /// Swap, bytes.
    pub memory_swap: Option<u64>,
    /// Times that the memory limit was reached.
    pub memory_limit_hits: Option<u64>,
    /// Processes killed for memory.
    pub oom_kills: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Their limit; `None` also without one.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_written: Option<u64>,
}

impl Groups {
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let v2 = self.v2.as_deref();
        match self.controller("cpuacct") {
            Some(dir) => {
                stats.cpu = number(dir, "cpuacct.usage").map(Duration::from_nanos);
                stats.cpu_user = number(dir, "cpuacct.usage_user").map(Duration::from_nanos);
                stats.cpu_system = number(dir, "cpuacct.usage_sys").map(Duration::from_nanos);
                let of_quota = |key| field(self.controller("cpu")?, "cpu.stat", key);
                stats.periods = of_quota("nr_periods");
                stats.throttled_periods = of_quota("nr_throttled");
                stats.throttled_time = of_quota("throttled_time").map(Duration::from_nanos);
            }
            None => {
                let time = |key| Some(Duration::from_micros(field(v2?, "cpu.stat", key)?));
                (stats.cpu, stats.cpu_user, stats.cpu_system) =
                    (time("usage_usec"), time("user_usec"), time("system_usec"));
                let of_quota = |key| field(v2?, "cpu.stat", key);
                stats.periods = of_quota("nr_periods");
                stats.throttled_periods = of_quota("nr_throttled");
                stats.throttled_time = of_quota("throttled_usec").map(Duration::from_micros);
            }
        }
        if let Some(dir) = self.controller("memory") {
            stats.memory = number(dir, "memory.usage_in_bytes");
            stats.memory_peak = number(dir, "memory.max_usage_in_bytes");
            // Without a limit the file holds the largest multiple of a page.
            stats.memory_limit = number(dir, "memory.limit_in_bytes").filter(|l| *l < 1 << 62);
            stats.memory_inactive_file = field(dir, "memory.stat", "total_inactive_file");
            stats.memory_cache = field(dir, "memory.stat", "total_cache");
            stats.memory_swap = field(dir, "memory.stat", "total_swap");
            stats.memory_limit_hits = number(dir, "memory.failcnt");
            stats.oom_kills = field(dir, "memory.oom_control", "oom_kill");
        } else if let Some(dir) = v2 {
            stats.memory = number(dir, "memory.current");
            stats.memory_peak = number(dir, "memory.peak");
            stats.memory_limit = number(dir, "memory.max");
            stats.memory_inactive_file = field(dir, "memory.stat", "inactive_file");
            stats.memory_cache = field(dir, "memory.stat", "file");
            stats.memory_swap = number(dir, "memory.swap.current");
            stats.memory_limit_hits = field(dir, "memory.events", "max");
            stats.oom_kills = field(dir, "memory.events", "oom_kill");
        }
        if let Some(dir) = self.controller("pids").or(v2) {
            stats.pids = number(dir, "pids.current");
            stats.pids_limit = number(dir, "pids.max");
        }
        (stats.io_read, stats.io_written) = self.io();
        stats
    }

    fn io(&self) -> (Option<u64>, Option<u64>) {
        if let Some(dir) = self.controller("blkio") {
            let text = fs::read_to_string(dir.join("blkio.throttle.io_service_bytes")).unwrap_or_default();
            let sum = |key: &str| {
                Some(text.lines().filter_map(|l| l.split_once(key)?.1.trim().parse::<u64>().ok()).sum())
            };
            return (sum(" Read "), sum(" Write "));
        }
        let Some(text) = self.v2.as_ref().and_then(|dir| fs::read_to_string(dir.join("io.stat")).ok()) else {
            return (None, None);
        };
        let sum = |key: &str| {
            Some(text.split_whitespace().filter_map(|w| w.strip_prefix(key)?.parse::<u64>().ok()).sum())
        };
        (sum("rbytes="), sum("wbytes="))
    }
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

pub(super) fn field(dir: &Path, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
