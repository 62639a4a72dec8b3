//! `events`: what a container uses, in runc's shape.

use std::time::{Duration, Instant};

use longshore_runtime::{Container, Stats, Status};
use serde_json::{Value, json};

use crate::commands::{Failure, Result};

/// Prints one event, or one after every interval until the container ends.
pub(crate) fn events(container: &Container, once: bool, interval: &str) -> Result<()> {
    let interval = duration(interval)?;
    // Without a memory group there is no such event.
    let mut oom = if once { None } else { container.oom_events().ok() };
    loop {
        println!("{}", json!({"type": "stats", "id": container.id(), "data": data(&container.stats()?)}));
        if once || container.state()?.status == Status::Stopped {
            return Ok(());
        }
        let until = Instant::now() + interval;
        let left = || until.saturating_duration_since(Instant::now());
        match &mut oom {
            Some(oom) => {
                while oom.wait(Some(left()))? {
                    println!("{}", json!({"type": "oom", "id": container.id()}));
                }
            }
            None => std::thread::sleep(left()),
        }
        if matches!(container.state(), Err(error) if error.is_not_found()) {
            return Ok(());
        }
    }
}

/// `5s`, `500ms`, `1m`.
fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => 0.0,
    };
    let seconds = number.parse::<f64>().unwrap_or(0.0) * scale;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero())
        .ok_or_else(|| Failure::new(format!("duration interval must be greater than 0: {text:?}")))
}

fn data(stats: &Stats) -> Value {
    let nanoseconds = |d: Option<Duration>| d.map_or(0, |d| d.as_nanos() as u64);
    let number = |n: Option<u64>| n.unwrap_or(0);
    // Without a limit runc prints what the kernel shows, the largest of all.
    let limit = |n: Option<u64>| n.unwrap_or(u64::MAX);
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(stats.cpu), "kernel": nanoseconds(stats.cpu_system), "user": nanoseconds(stats.cpu_user),
            },
            "throttling": {
                "periods": number(stats.periods), "throttledPeriods": number(stats.throttled_periods),
                "throttledTime": nanoseconds(stats.throttled_time),
            },
        },
        "memory": {
            "cache": number(stats.memory_cache),
            "usage": {
                "limit": limit(stats.memory_limit), "usage": number(stats.memory), "max": number(stats.memory_peak),
                "failcnt": number(stats.memory_limit_hits),
            },
            "swap": {"usage": number(stats.memory_swap), "failcnt": 0},
            "kernel": {"failcnt": 0},
            "kernelTCP": {"failcnt": 0},
            "raw": {
                "cache": number(stats.memory_cache), "inactive_file": number(stats.memory_inactive_file),
                "total_inactive_file": number(stats.memory_inactive_file),
            },
        },
        "pids": {"current": number(stats.pids), "limit": number(stats.pids_limit)},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 0, "minor": 0, "op": "Read", "value": number(stats.io_read)},
                {"major": 0, "minor": 0, "op": "Write", "value": number(stats.io_written)},
            ],
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}
