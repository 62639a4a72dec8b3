//! Docker's ways to write things on a command line, parsed; errors are worded as Docker's.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::{DeviceMapping, Error, Map, RestartPolicy, Result, ThrottleDevice, Ulimit};

mod mounts;
mod ports;

pub(super) use mounts::{Bind, check as check_mount, clean, parse_bind, volume_name};
pub use mounts::{tmpfs, volumes};
pub(super) use ports::requested;
pub use ports::{mac, ports};

/// Bytes: `512`, `64m`, `1.5g`, `2GiB`, in units of 1024.
pub fn bytes(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    let lower = text.trim().to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    let value = number.parse::<f64>().map_err(|_| bad())? * (1u64 << shift) as f64;
    if value.is_finite() && value < i64::MAX as f64 { Ok(value as i64) } else { Err(bad()) }
}

/// `--device-read-bps`, `--device-write-bps`: `/dev/vda:1mb`.
pub fn device_bytes(text: &str) -> Result<ThrottleDevice> {
    let format = "<device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb";
    throttle(text, format, |rate| bytes(rate).ok().and_then(|rate| u64::try_from(rate).ok()))
}

/// `--device-read-iops`, `--device-write-iops`: `/dev/vda:1000`.
pub fn device_operations(text: &str) -> Result<ThrottleDevice> {
    throttle(text, "<device-path>:<number>. Number must be a positive integer", |rate| rate.parse().ok())
}

fn throttle(text: &str, format: &str, rate: impl Fn(&str) -> Option<u64>) -> Result<ThrottleDevice> {
    let no = |message: String| Err(Error::invalid(message));
    let Some((path, number)) = text.split_once(':') else {
        return no(format!("bad format: {text}"));
    };
    if !path.starts_with("/dev/") {
        return no(format!("bad format for device path: {text}"));
    }
    match rate(number) {
        Some(rate) => Ok(ThrottleDevice { path: path.to_owned(), rate }),
        None => no(format!("invalid rate for device: {text}. The correct format is {format}")),
    }
}

/// `--memory-swap`: bytes, or -1 for no limit.
pub fn memory_swap(text: &str) -> Result<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// A Go duration in nanoseconds: `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("time: invalid duration \"{text}\""));
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| Error::invalid(format!("time: missing unit in duration \"{text}\"")))?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => {
                return Err(Error::invalid(format!("time: unknown unit \"{unit}\" in duration \"{text}\"")));
            }
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if total < i64::MAX as f64 { Ok((sign * total) as i64) } else { Err(bad()) }
}

/// `--cpus` in units of 1e-9: `1.5`.
pub fn cpus(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("failed to parse {text} as a rational number"));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    if part.trim_end_matches('0').len() > 9 {
        return Err(Error::invalid("value is too precise"));
    }
    let nanos: i64 = format!("{part:0<9}")[..9].parse().map_err(|_| bad())?;
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    whole.checked_mul(1_000_000_000).and_then(|w| w.checked_add(nanos)).ok_or_else(bad)
}

/// Names of the signals 1 to 31.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal's number: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
pub fn signal(text: &str) -> Result<i32> {
    let bad = || Error::invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |s: &str| if s.is_empty() { Some(0) } else { s.get(1..)?.parse::<i32>().ok() };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).map(|n| RTMIN + n).filter(|_| rest.is_empty() || rest.starts_with('+'))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).map(|n| RTMAX - n).filter(|_| rest.is_empty() || rest.starts_with('-'))
    } else {
        match name {
            "POLL" => Some(29),
            "IOT" => Some(6),
            "CLD" => Some(17),
            _ => SIGNALS.iter().position(|s| *s == name).map(|i| i as i32 + 1),
        }
    };
    number.filter(|n| (1..=RTMAX).contains(n)).ok_or_else(bad)
}

/// `--since` and `--until`: RFC 3339 in whole or in part (UTC where it names no zone), seconds since 1970, or a duration before `now`.
pub fn time(text: &str, now: SystemTime) -> Result<SystemTime> {
    let bad = || Error::invalid(format!("failed to parse value as time or duration: \"{text}\""));
    if let Ok(nanos) = duration(text) {
        let back = Duration::from_nanos(nanos.unsigned_abs());
        return if nanos < 0 { now.checked_add(back) } else { now.checked_sub(back) }.ok_or_else(bad);
    }
    if let Some(at) = unix_seconds(text) {
        return SystemTime::UNIX_EPOCH.checked_add(at).ok_or_else(bad);
    }
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Ok(stamp.into());
    }
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        13 => format!("{text}:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => format!("{text}Z"),
    };
    whole.parse::<jiff::Timestamp>().map(Into::into).map_err(|_| bad())
}

fn unix_seconds(text: &str) -> Option<Duration> {
    let (seconds, nanos) = text.split_once('.').unwrap_or((text, ""));
    if nanos.len() > 9 || !nanos.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Duration::new(seconds.parse().ok()?, format!("{nanos:0<9}").parse().ok()?))
}

/// `-e`: a bare `NAME` takes its value from `lookup`, and is left out where that knows none.
pub fn env(args: &[String], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut out = Vec::with_capacity(args.len());
    for arg in args {
        match arg.split_once('=') {
            Some(("", _)) => return Err(Error::invalid(format!("invalid environment variable: {arg}"))),
            Some(_) => out.push(arg.clone()),
            None if arg.is_empty() => return Err(Error::invalid("invalid environment variable: ")),
            None => out.extend(lookup(arg).map(|value| format!("{arg}={value}"))),
        }
    }
    Ok(out)
}

/// The text of an `--env-file`.
pub fn env_file(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for line in text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, value) = line.split_once('=').map_or((line, None), |(n, v)| (n, Some(v)));
        if name.is_empty() {
            return Err(Error::invalid(format!("no variable name on line '{line}'")));
        }
        if name.contains(char::is_whitespace) {
            return Err(Error::invalid(format!("variable '{name}' contains whitespaces")));
        }
        match value {
            Some(value) => out.push(format!("{name}={value}")),
            None => out.extend(lookup(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(out)
}

/// `-l` arguments and lines of a `--label-file`.
pub fn labels(args: &[String]) -> Result<Map> {
    Ok(args.iter().map(|a| a.split_once('=').unwrap_or((a, ""))).map(|(k, v)| (k.into(), v.into())).collect())
}

/// `--log-opt`, `--sysctl` and the like: `key=value` lists.
pub fn pairs(args: &[String], flag: &str) -> Result<Map> {
    let bad = |a: &String| {
        Error::invalid(format!(
            "invalid argument \"{a}\" for \"--{flag}\" flag: bad format (expected key=value)"
        ))
    };
    args.iter().map(|a| a.split_once('=').map(|(k, v)| (k.into(), v.into())).ok_or_else(|| bad(a))).collect()
}

impl FromStr for RestartPolicy {
    type Err = Error;
    /// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, count) = text.split_once(':').map_or((text, None), |(n, c)| (n, Some(c)));
        let maximum_retry_count = match count {
            None => 0,
            Some(n) => n.parse().map_err(|_| {
                Error::invalid("invalid restart policy format: maximum retry count must be an integer")
            })?,
        };
        match name {
            "" | "no" | "always" | "unless-stopped" if count.is_some() => Err(Error::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            )),
            "" => Ok(Self { name: "no".into(), maximum_retry_count }),
            "no" | "always" | "unless-stopped" | "on-failure" => {
                Ok(Self { name: name.into(), maximum_retry_count })
            }
            _ => Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ))),
        }
    }
}

/// Names that `--ulimit` takes.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl FromStr for Ulimit {
    type Err = Error;
    /// `name=soft[:hard]`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("invalid ulimit argument: {text}"));
        let (name, value) = text.split_once('=').ok_or_else(bad)?;
        if !ULIMITS.contains(&name) {
            return Err(Error::invalid(format!("invalid ulimit type: {name}")));
        }
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        let number = |s: &str| s.parse::<i64>().ok().filter(|n| *n >= -1).ok_or_else(bad);
        let (soft, hard) = (number(soft)?, number(hard)?);
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            )));
        }
        Ok(Self { name: name.into(), soft, hard })
    }
}

impl FromStr for DeviceMapping {
    type Err = Error;
    /// `host[:container][:rwm]`.
    fn from_str(text: &str) -> Result<Self> {
        let permissions = |s: &str| !s.is_empty() && s.bytes().all(|b| b"rwm".contains(&b));
        let parts: Vec<&str> = text.split(':').collect();
        let (host, inside, mode) = match parts[..] {
            [host] => (host, host, "rwm"),
            [host, mode] if permissions(mode) => (host, host, mode),
            [host, inside] => (host, inside, "rwm"),
            [host, inside, mode] if permissions(mode) => (host, inside, mode),
            [_, _, mode] => return Err(Error::invalid(format!("bad mode specified: {mode}"))),
            _ => return Err(Error::invalid(format!("bad format for path: {text}"))),
        };
        if !inside.starts_with('/') {
            return Err(Error::invalid(format!("{inside} is not an absolute path")));
        }
        Ok(Self {
            path_on_host: host.into(),
            path_in_container: inside.into(),
            cgroup_permissions: mode.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, want) in [
            ("512", 512),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("7 kb", 7 << 10),
            ("0b", 0),
        ] {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        for text in ["", "m", "1x", "-5m", "1e400g", "9999999p"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes("64q").unwrap_err().to_string(), "invalid size: '64q'");
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s").unwrap(), 90_000_000_000);
        assert_eq!(duration("1.5h").unwrap(), 5_400_000_000_000);
        assert_eq!(duration("500ms").unwrap(), 500_000_000);
        assert_eq!(duration("-2us").unwrap(), -2000);
        assert_eq!(duration("0").unwrap(), 0);
        for text in ["", "5", "s", "5y", "1m30", "-"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_exact() {
        assert_eq!(cpus("1.5").unwrap(), 1_500_000_000);
        assert_eq!(cpus(".25").unwrap(), 250_000_000);
        assert_eq!(cpus("0.000000001").unwrap(), 1);
        assert!(
            cpus("0.0000000001").is_err() && cpus("x").is_err() && cpus("").is_err() && cpus("-1").is_err()
        );
    }

    #[test]
    fn signals_by_name_and_number() {
        for (text, want) in [
            ("9", 9),
            ("kill", 9),
            ("SIGTERM", 15),
            ("RTMIN+3", 37),
            ("sigrtmax-1", 63),
            ("WINCH", 28),
            ("RTMIN", 34),
        ] {
            assert_eq!(signal(text).unwrap(), want, "{text}");
        }
        for text in ["0", "65", "SIGFOO", "", "RTMIN+99", "RTMIN3", "RTMINé"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_in_all_their_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(time("10s", now).unwrap(), at(999_990));
        assert_eq!(time("1700000000", now).unwrap(), at(1_700_000_000));
        assert_eq!(time("2023-11-14T22:13:20Z", now).unwrap(), at(1_700_000_000));
        assert_eq!(time("2023-11-14T22:13:20", now).unwrap(), at(1_700_000_000));
        assert_eq!(time("2023-11-14", now).unwrap(), at(1_699_920_000));
        assert_eq!(time("1.5", now).unwrap(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
        assert!(time("yesterday", now).is_err() && time("", now).is_err());
    }

    #[test]
    fn environment() {
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_string());
        let args = ["A=1".to_string(), "HOME".into(), "NOPE".into(), "B=".into()];
        assert_eq!(env(&args, &lookup).unwrap(), ["A=1", "HOME=/root", "B="]);
        assert!(env(&["=x".into()], &lookup).is_err());
        assert_eq!(env_file("# c\n\nA=1 2\nHOME\n  B=x\n", &lookup).unwrap(), ["A=1 2", "HOME=/root", "B=x"]);
        assert_eq!(
            env_file("a b=1", &lookup).unwrap_err().to_string(),
            "variable 'a b' contains whitespaces"
        );
    }

    #[test]
    fn policies_limits_devices() {
        assert_eq!(
            "on-failure:3".parse::<RestartPolicy>().unwrap(),
            RestartPolicy { name: "on-failure".into(), maximum_retry_count: 3 }
        );
        assert!(
            "always:3".parse::<RestartPolicy>().is_err() && "sometimes".parse::<RestartPolicy>().is_err()
        );
        assert_eq!(
            "nofile=10:20".parse::<Ulimit>().unwrap(),
            Ulimit { name: "nofile".into(), soft: 10, hard: 20 }
        );
        assert!(
            "nofile=30:20".parse::<Ulimit>().is_err()
                && "x=1".parse::<Ulimit>().is_err()
                && "nofile".parse::<Ulimit>().is_err()
        );
        let device = "/dev/null:/dev/x:r".parse::<DeviceMapping>().unwrap();
        assert_eq!((device.path_in_container.as_str(), device.cgroup_permissions.as_str()), ("/dev/x", "r"));
        assert!("/dev/null:/dev/x:q".parse::<DeviceMapping>().is_err());
    }
}
