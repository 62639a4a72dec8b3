//! Docker's ways to write things on a command line, parsed; errors are worded as Docker's.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{DeviceMapping, Error, Map, Mount, PortBinding, RestartPolicy, Result, Set, Ulimit};

/// Bytes: `512`, `64m`, `1.5g`, `2GiB`.
pub fn bytes(text: &str) -> Result<i64> {
    let _ = text;
    todo!()
}
/// A Go duration in nanoseconds: `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<i64> {
    let _ = text;
    todo!()
}
/// `--cpus` in units of 1e-9: `1.5`.
pub fn cpus(text: &str) -> Result<i64> {
    let _ = text;
    todo!()
}
/// A signal's number: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
pub fn signal(text: &str) -> Result<i32> {
    let _ = text;
    todo!()
}
/// `--since` and `--until`: RFC 3339 in whole or in part, seconds since 1970, or a duration before `now`.
pub fn time(text: &str, now: SystemTime) -> Result<SystemTime> {
    let _ = (text, now);
    todo!()
}
/// `-p` and `--expose` arguments: exposed ports, and published ones.
pub fn ports(publish: &[String], expose: &[String]) -> Result<(Set, BTreeMap<String, Vec<PortBinding>>)> {
    let _ = (publish, expose);
    todo!()
}
/// `-v` arguments: those with a source go to `HostConfig::binds`, bare container paths to `Config::volumes`. A relative source (`./x`) starts at `cwd`.
pub fn volumes(args: &[String], cwd: &std::path::Path) -> Result<(Vec<String>, Set)> {
    let _ = (args, cwd);
    todo!()
}
/// `--tmpfs`: path and options.
pub fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.into(), options.into())
}
/// `-e`: a bare `NAME` takes its value from `lookup`, and is left out where that knows none.
pub fn env(args: &[String], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let _ = (args, lookup);
    todo!()
}
/// The text of an `--env-file`.
pub fn env_file(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let _ = (text, lookup);
    todo!()
}
/// `-l` arguments and lines of a `--label-file`.
pub fn labels(args: &[String]) -> Result<Map> {
    Ok(args.iter().map(|a| a.split_once('=').unwrap_or((a, ""))).map(|(k, v)| (k.into(), v.into())).collect())
}
/// `--log-opt`, `--sysctl` and the like: `key=value` lists.
pub fn pairs(args: &[String], flag: &str) -> Result<Map> {
    let _ = (args, flag);
    todo!()
}

impl std::str::FromStr for RestartPolicy {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
}
impl std::str::FromStr for Ulimit {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
}
impl std::str::FromStr for DeviceMapping {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
}
impl std::str::FromStr for Mount {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
}
