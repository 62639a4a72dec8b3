//! Properties of a unit (systemd.resource-control(5), org.freedesktop.systemd1(5)): from `linux.resources`, and from annotations.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxResources};

use super::message::Writer;
use crate::cgroup::devices::{self, Rule};
use crate::cgroup::limits;
use crate::error::{Error, Result};

/// A property's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    /// A number of this signature: `y`, `n`, `q`, `i`, `u`, `x`, `t` or `d`, by its bits.
    Number(char, u64),
    Text(String),
    Texts(Vec<String>),
    Bytes(Vec<u8>),
    Pids(Vec<u32>),
    /// Device and access.
    Devices(Vec<(String, String)>),
}

pub(super) type Property = (String, Value);

impl Value {
    /// `u64::MAX` is what systemd takes for "no limit".
    fn limit(value: i64) -> Self {
        Value::Number('t', u64::try_from(value).unwrap_or(u64::MAX))
    }

    fn u64(value: u64) -> Self {
        Value::Number('t', value)
    }

    fn text(value: &str) -> Self {
        Value::Text(value.to_owned())
    }

    fn signature(&self) -> String {
        match self {
            Value::Bool(_) => "b",
            Value::Number(kind, _) => return kind.to_string(),
            Value::Text(_) => "s",
            Value::Texts(_) => "as",
            Value::Bytes(_) => "ay",
            Value::Pids(_) => "au",
            Value::Devices(_) => "a(ss)",
        }
        .to_owned()
    }

    /// Writes it as a variant.
    fn write(&self, w: &mut Writer) {
        w.signature(&self.signature());
        match self {
            Value::Bool(value) => w.u32(u32::from(*value)),
            Value::Number(kind, value) => w.number(width(*kind), *value),
            Value::Text(text) => w.string(text),
            Value::Texts(texts) => w.array(4, |w| texts.iter().for_each(|text| w.string(text))),
            Value::Bytes(bytes) => w.array(1, |w| w.0.extend_from_slice(bytes)),
            Value::Pids(pids) => w.array(4, |w| pids.iter().for_each(|pid| w.u32(*pid))),
            Value::Devices(devices) => w.array(8, |w| {
                for (device, access) in devices {
                    w.align(8);
                    w.string(device);
                    w.string(access);
                }
            }),
        }
    }
}

fn width(kind: char) -> usize {
    match kind {
        'y' => 1,
        'n' | 'q' => 2,
        'i' | 'u' => 4,
        _ => 8,
    }
}

/// Writes an array of properties, `a(sv)`.
pub(super) fn write(w: &mut Writer, properties: &[Property]) {
    w.array(8, |w| {
        for (name, value) in properties {
            w.align(8);
            w.string(name);
            value.write(w);
        }
    });
}

/// What every container's unit has.
pub(super) fn of_unit(id: &str, slice: &str, pid: u32) -> Vec<Property> {
    let yes = ["Delegate", "MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"];
    let mut properties = vec![
        ("Description".to_owned(), Value::Text(format!("longshore container {id}"))),
        ("Slice".to_owned(), Value::text(slice)),
        ("PIDs".to_owned(), Value::Pids(vec![pid])),
        ("DefaultDependencies".to_owned(), Value::Bool(false)),
        // What was killed for memory is to leave no failed unit.
        ("CollectMode".to_owned(), Value::text("inactive-or-failed")),
    ];
    properties.extend(yes.map(|name| (name.to_owned(), Value::Bool(true))));
    properties
}

/// The limits that systemd has properties for, of the hierarchy that it manages; the groups' files have all of them.
pub(super) fn of_resources(resources: &LinuxResources, v2: bool) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    let mut add = |name: &str, value: Option<Value>| {
        properties.extend(value.map(|value| (name.to_owned(), value)));
    };
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|n| *n != 0);
        if v2 {
            add("MemoryMax", limit.map(Value::limit));
            add("MemorySwapMax", limits::swap_alone(memory).map(Value::limit));
            add("MemoryLow", memory.reservation().filter(|n| *n != 0).map(Value::limit));
        } else {
            add("MemoryLimit", limit.map(Value::limit));
        }
    }
    if let Some(cpu) = resources.cpu() {
        let shares = cpu.shares().filter(|n| *n != 0);
        if v2 {
            add("CPUWeight", shares.map(|shares| Value::u64(limits::cpu_weight(shares))));
        } else {
            add("CPUShares", shares.map(Value::u64));
        }
        let period = cpu.period().filter(|n| *n != 0);
        add("CPUQuotaPeriodUSec", period.map(Value::u64));
        add(
            "CPUQuotaPerSecUSec",
            cpu.quota().filter(|n| *n != 0).map(|quota| quota_per_second(quota, period)),
        );
        if v2 {
            add("AllowedCPUs", cpus("linux.resources.cpu.cpus", cpu.cpus().as_deref())?);
            add("AllowedMemoryNodes", cpus("linux.resources.cpu.mems", cpu.mems().as_deref())?);
        }
    }
    let weight = resources.block_io().as_ref().and_then(LinuxBlockIo::weight).filter(|n| *n != 0);
    if v2 {
        add("IOWeight", weight.map(|weight| Value::u64(limits::io_weight(weight))));
    } else {
        add("BlockIOWeight", weight.map(|weight| Value::u64(u64::from(weight))));
    }
    add("TasksMax", resources.pids().as_ref().map(|pids| tasks(pids.limit())));
    Ok(properties)
}

fn tasks(limit: i64) -> Value {
    Value::limit(if limit <= 0 { -1 } else { limit })
}

/// Microseconds of processor time in a second; systemd wants whole hundredths.
fn quota_per_second(quota: i64, period: Option<u64>) -> Value {
    let Ok(quota) = u64::try_from(quota) else { return Value::limit(-1) };
    let exact = quota.saturating_mul(1_000_000) / period.unwrap_or(100_000);
    Value::u64(exact.next_multiple_of(10_000))
}

/// A list of processors or memory nodes, `0-3,7`, as a bit map.
fn cpus(field: &str, list: Option<&str>) -> Result<Option<Value>> {
    const MOST: usize = 8192;
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
    let bad = || Error::spec(field, format!("{list:?} is no list of numbers"));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < MOST).ok_or_else(bad);
    let mut map = Vec::new();
    for range in list.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        for n in number(from)?..=number(to)? {
            map.resize(map.len().max(n / 8 + 1), 0u8);
            map.get_mut(n / 8).into_iter().for_each(|byte| *byte |= 1 << (n % 8));
        }
    }
    Ok(Some(Value::Bytes(map)))
}

/// Device rules, as near as systemd's list of permissions comes to them; the group's own are exact, and both have to permit.
pub(super) fn of_devices(resources: Option<&LinuxResources>) -> Result<Vec<Property>> {
    let rules = devices::rules(resources.and_then(|r| r.devices().as_deref()).unwrap_or_default())?;
    let mut allowed = Vec::new();
    let mut everything = false;
    for rule in &rules {
        match (rule.is_everything(), rule.allow) {
            (true, allow) => {
                everything = allow;
                allowed.clear();
            }
            // What is denied after it was permitted, the group's own rules deny.
            (false, false) => {}
            (false, true) => allowed.extend(device(rule).map(|device| (device, rule.access()))),
        }
    }
    let policy = if everything { "auto" } else { "strict" };
    let mut properties = vec![
        ("DevicePolicy".to_owned(), Value::text(policy)),
        // The empty list takes back what was there.
        ("DeviceAllow".to_owned(), Value::Devices(Vec::new())),
    ];
    if !everything {
        properties.push(("DeviceAllow".to_owned(), Value::Devices(allowed)));
    }
    Ok(properties)
}

/// systemd's name of what a rule is about; none for a device that this machine lacks.
fn device(rule: &Rule) -> Option<String> {
    let kind = if rule.kind == b'b' { "block" } else { "char" };
    match (rule.kind, rule.major, rule.minor) {
        (b'a', ..) => None,
        (_, None, _) => Some(format!("{kind}-*")),
        (_, Some(major), Some(minor)) => {
            let there = Path::new("/sys/dev").join(kind).join(format!("{major}:{minor}")).exists();
            there.then(|| format!("/dev/{kind}/{major}:{minor}"))
        }
        (_, Some(major), None) => group(kind, major).map(|group| format!("{kind}-{group}")),
    }
}

/// The driver's name in `/proc/devices`.
fn group(kind: &str, major: u32) -> Option<String> {
    let text = fs::read_to_string("/proc/devices").ok()?;
    let (chars, blocks) = text.split_once("\n\n")?;
    let list = if kind == "block" { blocks } else { chars };
    list.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then(|| name.to_owned())
    })
}

/// `org.systemd.property.NAME`: a value as GVariant writes it.
pub(super) fn of_annotations<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Property>> {
    const PREFIX: &str = "org.systemd.property.";
    let given = annotations.filter_map(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value)));
    let mut properties = given
        .map(|(key, name, text)| {
            let bad = |why: &str| Error::spec(format!("annotations[{key:?}]"), why);
            let letters = name.starts_with(|c: char| c.is_ascii_uppercase())
                && name.chars().all(|c| c.is_ascii_alphabetic());
            if !letters || name.len() < 3 {
                return Err(bad("is no name of a property"));
            }
            let value = variant(text.trim()).ok_or_else(|| bad("is no value that is known here"))?;
            in_microseconds(name, value).ok_or_else(|| bad("is no number of seconds"))
        })
        .collect::<Result<Vec<_>>>()?;
    properties.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(properties)
}

/// Units' files say `TimeoutStopSec`; the bus has `TimeoutStopUSec` alone.
fn in_microseconds(name: &str, value: Value) -> Option<Property> {
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) else {
        return Some((name.to_owned(), value));
    };
    let Value::Number(kind, seconds) = value else { return None };
    let micros = match kind {
        'd' => (f64::from_bits(seconds) * 1e6) as u64,
        'n' | 'i' | 'x' if (seconds as i64) < 0 => return None,
        _ => seconds.checked_mul(1_000_000)?,
    };
    Some((format!("{stem}USec"), Value::u64(micros)))
}

/// A boolean, a number with or without its type, a text in quotes, or a list of these.
fn variant(text: &str) -> Option<Value> {
    if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let parts = inside.split(',').filter(|part| !part.trim().is_empty());
        let texts = parts.map(|part| quoted(part.trim())).collect::<Option<Vec<_>>>()?;
        return Some(Value::Texts(texts));
    }
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    quoted(text).map(Value::Text).or_else(|| number(text))
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inside = text.strip_prefix(quote)?.strip_suffix(quote)?;
    // No escapes: what would need them is in no property.
    (!inside.contains([quote, '\\', '\0'])).then(|| inside.to_owned())
}

fn number(text: &str) -> Option<Value> {
    let (kind, digits) = match text.split_once(' ') {
        Some((kind, digits)) => (kind, digits.trim()),
        None if text.contains('.') => ("double", text),
        None => ("int32", text),
    };
    let signed = |kind, bits: Option<i64>| Some(Value::Number(kind, bits? as u64));
    let unsigned = |kind, bits: Option<u64>| Some(Value::Number(kind, bits?));
    match kind {
        "byte" => unsigned('y', digits.parse::<u8>().ok().map(u64::from)),
        "int16" => signed('n', digits.parse::<i16>().ok().map(i64::from)),
        "uint16" => unsigned('q', digits.parse::<u16>().ok().map(u64::from)),
        "int32" => signed('i', digits.parse::<i32>().ok().map(i64::from)),
        "uint32" => unsigned('u', digits.parse::<u32>().ok().map(u64::from)),
        "int64" => signed('x', digits.parse().ok()),
        "uint64" => unsigned('t', digits.parse().ok()),
        "double" => unsigned('d', digits.parse::<f64>().ok().filter(|n| n.is_finite()).map(f64::to_bits)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn limits_of_both_versions() {
        let given = resources(serde_json::json!({
            "memory": {"limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432},
            "cpu": {"shares": 512, "quota": 20_001, "period": 50_000, "cpus": "0-1,9"},
            "pids": {"limit": 17}, "blockIO": {"weight": 10},
        }));
        let number = |name: &str, n| (name.to_owned(), Value::u64(n));
        let v2 = of_resources(&given, true).unwrap();
        assert_eq!(
            v2,
            [
                number("MemoryMax", 67_108_864),
                number("MemorySwapMax", 33_554_432),
                number("MemoryLow", 33_554_432),
                number("CPUWeight", 20),
                number("CPUQuotaPeriodUSec", 50_000),
                number("CPUQuotaPerSecUSec", 410_000),
                ("AllowedCPUs".to_owned(), Value::Bytes(vec![3, 2])),
                number("IOWeight", 1),
                number("TasksMax", 17),
            ]
        );
        let v1 = of_resources(&given, false).unwrap();
        assert!(v1.contains(&number("MemoryLimit", 67_108_864)) && v1.contains(&number("CPUShares", 512)));
        let none = resources(
            serde_json::json!({"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": 0}}),
        );
        let none = of_resources(&none, true).unwrap();
        assert!(none.len() == 3 && none.iter().all(|(_, value)| *value == Value::u64(u64::MAX)), "{none:?}");
        let bad = resources(serde_json::json!({"cpu": {"cpus": "0-x"}}));
        assert!(of_resources(&bad, true).is_err());
    }

    #[test]
    fn annotations() {
        let one = |name: &str, value: &str| {
            let (key, value) = (format!("org.systemd.property.{name}"), value.to_owned());
            of_annotations([(&key, &value)].into_iter()).map(|all| all.into_iter().next().expect("one"))
        };
        let is = |name: &str, value: &str, property: &str, expected: Value| {
            assert_eq!(one(name, value).unwrap(), (property.to_owned(), expected), "{name} {value}");
        };
        is("TimeoutStopUSec", "uint64 123456789", "TimeoutStopUSec", Value::u64(123_456_789));
        is("TimeoutStopSec", "3", "TimeoutStopUSec", Value::u64(3_000_000));
        is("TimeoutStopSec", "0.5", "TimeoutStopUSec", Value::u64(500_000));
        is("CollectMode", "'inactive-or-failed'", "CollectMode", Value::text("inactive-or-failed"));
        is(
            "After",
            "['a.service', \"b.service\"]",
            "After",
            Value::Texts(vec!["a.service".into(), "b.service".into()]),
        );
        is("SendSIGHUP", "true", "SendSIGHUP", Value::Bool(true));
        is("KillSignal", "-1", "KillSignal", Value::Number('i', u64::MAX));
        for (name, value) in [
            ("x", "1"),
            ("Bad-Name", "1"),
            ("Nope", "nope"),
            ("Nope", "byte 300"),
            ("ASec", "'x'"),
            ("Nope", "'a'b'"),
        ] {
            assert!(one(name, value).is_err(), "{name} {value}");
        }
        let other = ("org.example".to_owned(), "(".to_owned());
        assert_eq!(of_annotations([(&other.0, &other.1)].into_iter()).unwrap(), []);
    }

    #[test]
    fn devices_that_systemd_is_told_of() {
        let names = |given: serde_json::Value| {
            let given = resources(serde_json::json!({"devices": given}));
            let Value::Devices(list) = of_devices(Some(&given)).unwrap().pop().expect("some").1 else {
                panic!()
            };
            list
        };
        let deny = serde_json::json!({"allow": false, "access": "rwm"});
        let list = names(
            serde_json::json!([deny, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]),
        );
        let has = |device: &str, access: &str| list.contains(&(device.to_owned(), access.to_owned()));
        assert!(
            has("/dev/char/1:3", "rwm")
                && has("/dev/char/1:11", "r")
                && has("char-*", "m")
                && has("block-*", "m"),
            "{list:?}"
        );
        let all = resources(serde_json::json!({"devices": [{"allow": true, "access": "rwm"}]}));
        assert_eq!(of_devices(Some(&all)).unwrap()[0].1, Value::text("auto"));
    }
}
