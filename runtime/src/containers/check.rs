//! What cannot be, whatever the image says; in Docker's words.

use std::net::IpAddr;

use super::{CreateRequest, Error, HostConfig, Result, compile, log};

pub(super) fn request(request: &CreateRequest) -> Result<()> {
    let (host, config) = (&request.host, &request.config);
    compile::check_security(host)?;
    log::limits(&host.log_config)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return no("can't create 'AutoRemove' container with restart policy");
    }
    limits(host)?;
    modes(host)?;
    network(request)?;
    addresses(host)?;
    sysctls(host)?;
    if !config.hostname.is_empty() && host.uts_mode == "host" {
        return no("conflicting options: hostname and the UTS mode");
    }
    match host.tmpfs.keys().find(|path| !path.starts_with('/')) {
        Some(path) => no(format!("invalid mount path: '{path}' mount path must be absolute")),
        None => Ok(()),
    }
}

fn no(message: impl Into<String>) -> Result<()> {
    Err(Error::invalid(message))
}

/// What `create` and `update` refuse.
pub(super) fn limits(host: &HostConfig) -> Result<()> {
    if host.memory != 0 && host.memory < 6 << 20 {
        return no("Minimum memory limit allowed is 6MB");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return no("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory_swap > 0 && host.memory_swap < host.memory {
        return no("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory_reservation > 0 && host.memory > 0 && host.memory < host.memory_reservation {
        return no("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if let Some(n) = host.memory_swappiness.filter(|n| !(-1..=100).contains(n)) {
        return no(format!("invalid value: {n}. Valid memory swappiness range is 0-100"));
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return no("Range of blkio weight is from 10 to 1000");
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return no(format!("Invalid value {}, range for oom score adj is [-1000, 1000]", host.oom_score_adj));
    }
    if host.shm_size < 0 {
        return no("SHM size can not be less than 0");
    }
    cpu(host)
}

fn cpu(host: &HostConfig) -> Result<()> {
    let both = |what: &str| no(format!("Conflicting options: Nano CPUs and CPU {what} cannot both be set"));
    if host.nano_cpus != 0 && host.cpu_period != 0 {
        return both("Period");
    }
    if host.nano_cpus != 0 && host.cpu_quota != 0 {
        return both("Quota");
    }
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    if host.nano_cpus < 0 || host.nano_cpus > there as i64 * 1_000_000_000 {
        return no(format!(
            "Range of CPUs is from 0.01 to {there}.00, as there are only {there} CPUs available"
        ));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return no("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return no("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (wanted, kind, what, file) in [
        (&host.cpuset_cpus, "cpus", "CPUs", "/sys/devices/system/cpu/online"),
        (&host.cpuset_mems, "mems", "memory nodes", "/sys/devices/system/node/online"),
    ] {
        let Some(set) = numbers(wanted) else {
            return no(format!("Invalid value {wanted} for cpuset {kind}: invalid format: {wanted}"));
        };
        // Without NUMA there is one node and no file.
        let online = std::fs::read_to_string(file).unwrap_or_else(|_| "0".into());
        let online = online.trim();
        let there = numbers(online).unwrap_or_default();
        if !set.iter().all(|n| there.contains(n)) {
            return no(format!(
                "Requested {what} are not available - requested {wanted}, available: {online}"
            ));
        }
    }
    Ok(())
}

/// `0-2,4`, as the kernel writes sets.
fn numbers(text: &str) -> Option<Vec<u16>> {
    let mut all = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        // More CPUs than any kernel has.
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok().filter(|n| *n < 8192)?);
        all.extend(first..=last);
    }
    Some(all)
}

fn modes(host: &HostConfig) -> Result<()> {
    let modes = [
        ("PID", &host.pid_mode, &["", "host"][..]),
        ("IPC", &host.ipc_mode, &["", "none", "private", "shareable", "host"]),
        ("UTS", &host.uts_mode, &["", "host"]),
        ("cgroup namespace", &host.cgroupns_mode, &["", "private", "host"]),
        ("user namespace", &host.userns_mode, &["", "host"]),
    ];
    for (what, mode, known) in modes {
        let joins = matches!(what, "PID" | "IPC")
            && mode.strip_prefix("container:").is_some_and(|other| !other.is_empty());
        if !joins && !known.contains(&mode.as_str()) {
            return no(format!("invalid {what} mode: {mode}"));
        }
    }
    Ok(())
}

fn network(request: &CreateRequest) -> Result<()> {
    let (host, config) = (&request.host, &request.config);
    let conflict = |what: &str| no(format!("conflicting options: {what}"));
    if !config.mac_address.is_empty() {
        if super::parse::mac(&config.mac_address).is_none() {
            return no(format!("{} is not a valid mac address", config.mac_address));
        }
        if host.network_mode == "host" || host.network_mode.starts_with("container:") {
            return conflict("mac-address and the network mode");
        }
    }
    if let Some(ip) = request.ip.as_ref().filter(|ip| !matches!(ip.parse(), Ok(IpAddr::V4(_)))) {
        return no(format!("invalid IPv4 address: {ip}"));
    }
    let Some(other) = host.network_mode.strip_prefix("container:") else { return Ok(()) };
    if other.is_empty() {
        return no("Invalid network mode: invalid container format container:<name|id>");
    }
    for (there, what) in [
        (!config.hostname.is_empty(), "hostname and the network mode"),
        (!host.dns.is_empty(), "dns and the network mode"),
        (!host.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
        (
            !host.port_bindings.is_empty() || host.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (!config.exposed_ports.is_empty(), "port exposing and the container type network mode"),
    ] {
        if there {
            return conflict(what);
        }
    }
    Ok(())
}

fn addresses(host: &HostConfig) -> Result<()> {
    if let Some(server) = host.dns.iter().find(|server| server.parse::<IpAddr>().is_err()) {
        return no(format!("IP address is not correctly formatted: {server}"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if let Some(domain) = host.dns_search.iter().find(|d| d.is_empty() || !d.bytes().all(plain)) {
        return no(format!("{domain} is not a valid domain"));
    }
    for line in &host.extra_hosts {
        let Some((_, address)) = line.split_once([':', '=']).filter(|(name, _)| !name.is_empty()) else {
            return no(format!("bad format for add-host: \"{line}\""));
        };
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
            return no(format!("invalid IP address in add-host: \"{address}\""));
        }
    }
    Ok(())
}

/// Those that belong to a namespace which a container can have of its own.
fn sysctls(host: &HostConfig) -> Result<()> {
    let known = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    ];
    let allowed = |key: &str| {
        let key = key.replace('/', ".");
        known.contains(&key.as_str()) || key.starts_with("net.") || key.starts_with("fs.mqueue.")
    };
    match host.sysctls.iter().find(|(key, _)| !allowed(key)) {
        Some((key, value)) => no(format!("sysctl '{key}={value}' is not allowed")),
        None => Ok(()),
    }
}
