use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::containers::{DeviceMapping, Error, HostConfig, Result};

/// Rules of the device cgroup: everything is refused but what Docker permits, and what was asked for.
pub(super) fn rules(host: &HostConfig) -> Result<Vec<Value>> {
    if host.privileged {
        return Ok(vec![json!({"allow": true, "access": "rwm"})]);
    }
    let allow = |kind: &str, major: i64, minor: i64| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm"});
    let mut list = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    list.extend(
        [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)]
            .map(|(major, minor)| allow("c", major, minor)),
    );
    list.push(json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}));
    for d in devices(host)? {
        list.push(
            json!({"allow": true, "type": d.kind, "major": d.major, "minor": d.minor, "access": d.access}),
        );
    }
    for rule in &host.device_cgroup_rules {
        list.push(parse_rule(rule)?);
    }
    Ok(list)
}

/// Weight and rates of block devices.
pub(super) fn block_io(host: &HostConfig) -> Result<serde_json::Map<String, Value>> {
    let mut io = serde_json::Map::new();
    if host.blkio_weight > 0 {
        io.insert("weight".into(), json!(host.blkio_weight));
    }
    for (key, devices) in [
        ("throttleReadBpsDevice", &host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", &host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", &host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", &host.blkio_device_write_iops),
    ] {
        let limits = devices.iter().map(|device| {
            let meta = fs::metadata(&device.path).map_err(Error::io("find the device", &device.path))?;
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            Ok(json!({"major": major, "minor": minor, "rate": device.rate}))
        });
        let limits = limits.collect::<Result<Vec<_>>>()?;
        if !limits.is_empty() {
            io.insert(key.into(), limits.into());
        }
    }
    Ok(io)
}

pub(super) fn parse_rule(text: &str) -> Result<Value> {
    let bad = || Error::invalid(format!("invalid device cgroup format '{text}'"));
    let mut parts = text.split_ascii_whitespace();
    let (Some(kind @ ("a" | "b" | "c")), Some(numbers), Some(access), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(bad());
    }
    let mut rule = json!({"allow": true, "type": kind, "access": access});
    for (key, number) in [("major", major), ("minor", minor)] {
        if number != "*" {
            rule[key] = json!(number.parse::<u32>().map_err(|_| bad())?);
        }
    }
    Ok(rule)
}

struct Device {
    path: String,
    kind: &'static str,
    major: u32,
    minor: u32,
    mode: u32,
    access: String,
}

/// Device nodes to make inside.
pub(super) fn extra(host: &HostConfig, rootless: bool) -> Result<Vec<Value>> {
    if rootless {
        return if host.devices.is_empty() {
            Ok(Vec::new())
        } else {
            Err(Error::invalid(
                "--device needs root: an ordinary user can bind a device it may open with -v instead",
            ))
        };
    }
    let node = |d: Device| json!({"path": d.path, "type": d.kind, "major": d.major, "minor": d.minor, "fileMode": d.mode});
    Ok(devices(host)?.into_iter().map(node).collect())
}

fn devices(host: &HostConfig) -> Result<Vec<Device>> {
    if host.privileged {
        return Ok(all_of_host());
    }
    let mut list = Vec::new();
    for mapping in &host.devices {
        let found = one(Path::new(&mapping.path_on_host), mapping);
        let found = found.or_else(|| {
            let entries = fs::read_dir(&mapping.path_on_host).ok()?;
            let inside = |p: &Path| {
                Some(
                    Path::new(&mapping.path_in_container).join(p.file_name()?).to_string_lossy().into_owned(),
                )
            };
            let list: Vec<Device> = entries
                .flatten()
                .filter_map(|e| {
                    let path_in_container = inside(&e.path())?;
                    one(&e.path(), &DeviceMapping { path_in_container, ..mapping.clone() })?.pop()
                })
                .collect();
            Some(list)
        });
        list.extend(found.ok_or_else(|| {
            Error::invalid(format!("error gathering device information while adding custom device \"{}\": no such file or directory", mapping.path_on_host))
        })?);
    }
    Ok(list)
}

fn one(path: &Path, mapping: &DeviceMapping) -> Option<Vec<Device>> {
    let meta = fs::metadata(path).ok()?;
    let kind = if meta.file_type().is_char_device() {
        "c"
    } else if meta.file_type().is_block_device() {
        "b"
    } else {
        return None;
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let access =
        if mapping.cgroup_permissions.is_empty() { "rwm".into() } else { mapping.cgroup_permissions.clone() };
    Some(vec![Device {
        path: mapping.path_in_container.clone(),
        kind,
        major,
        minor,
        mode: meta.mode() & 0o7777,
        access,
    }])
}

/// What `--privileged` shows: every device below /dev but terminals and what the container has of its own.
fn all_of_host() -> Vec<Device> {
    let mut list = Vec::new();
    let mut todo: Vec<PathBuf> = vec!["/dev".into()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue };
            let skip = [
                "pts", "shm", "fd", "mqueue", "console", "null", "zero", "full", "random", "urandom", "tty",
                "ptmx",
            ];
            if (dir == Path::new("/dev") && skip.iter().any(|s| name == *s)) || kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                todo.push(path);
                continue;
            }
            let mapping = DeviceMapping {
                path_in_container: path.to_string_lossy().into_owned(),
                ..DeviceMapping::default()
            };
            list.extend(one(&path, &mapping).into_iter().flatten());
        }
    }
    list
}
