//! `config.json` as runtime-spec wants it read, and what the program adds to it.

use std::fs;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde_json::{Value, json};

use crate::commands::{Failure, Result, failed};

/// Reads the bundle's configuration: the spec, and what is to be warned of.
pub(crate) fn read(bundle: &Path) -> Result<(Spec, Vec<String>)> {
    let file = bundle.join("config.json");
    let fail = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", file.display()));
    let text = fs::read(&file).map_err(|e| fail(&e))?;
    let mut document: Value = serde_json::from_slice(&text).map_err(|e| fail(&e))?;
    without_nulls(&mut document);
    version(&document)?;
    let mut warnings = Vec::new();
    if let Some(process) = document.get_mut("process").filter(|p| p.is_object()) {
        known_capabilities(process, &mut warnings);
        for id in ["uid", "gid"] {
            // runtime-spec requires them, runc does without.
            let id = &mut process["user"][id];
            if id.is_null() {
                *id = json!(0);
            }
        }
    }
    let spec = serde_json::from_value(document).map_err(|e| fail(&e))?;
    Ok((spec, warnings))
}

/// A member that is null is as if it were not there.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, v| !v.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// config.md, "Specification version": a semantic version that is supported, or an error.
fn version(document: &Value) -> Result<()> {
    let text = document["ociVersion"].as_str().unwrap_or_default();
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = core.split('.').map(|n| n.parse().ok()).collect();
    match numbers.as_deref() {
        Some([0 | 1, _, _]) => Ok(()),
        _ => failed(format!("ociVersion {text:?} is not supported")),
    }
}

/// config.md, "Linux Process": what cannot be mapped to the kernel's is warned of, and is no error.
fn known_capabilities(process: &mut Value, warnings: &mut Vec<String>) {
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for (_, set) in sets.into_iter().flatten() {
        let Some(list) = set.as_array_mut() else { continue };
        list.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            let warning = format!("ignoring unknown capability {name}");
            if !known && !warnings.contains(&warning) {
                warnings.push(warning);
            }
            known
        });
    }
}

/// The environment with `HOME`, by the root's `/etc/passwd`, where it has none.
pub(crate) fn with_home(env: &mut Option<Vec<String>>, root: &Path, uid: u32) {
    let env = env.get_or_insert_default();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(root, uid).unwrap_or_else(|| "/".to_owned())));
    }
}

fn home(root: &Path, uid: u32) -> Option<String> {
    let dir = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The image's file: no link of it leads out, a FIFO does not block, and it may be of any size.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = fs::File::from(openat2(dir, "etc/passwd", flags, Mode::empty(), resolve).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(1 << 20).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (digits(fields.next()?) == Some(uid)).then(|| fields.nth(2).map(str::to_owned))?
    })
}

/// A user's or group's number. `parse` takes a plus, too.
pub(crate) fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Descriptors 3 and up that systemd passed (sd_listen_fds(3)): how many.
pub(crate) fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0).min(1024),
        _ => 0,
    }
}
