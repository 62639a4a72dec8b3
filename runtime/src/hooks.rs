//! Hooks (config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle").
//!
//! `prestart`, `createRuntime`, `poststart` and `poststop` run here, in the runtime's namespaces; `createContainer` and
//! `startContainer` are steps of the plan. A hook gets its own environment, never the container's.

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks, Spec};

use crate::error::{Error, Result};
use crate::process;
use crate::state::Status;
use crate::sys;

/// The state document that a hook reads on its standard input.
pub(crate) fn document(spec: &Spec, id: &str, status: Status, pid: Option<&str>, bundle: &Path) -> String {
    let quote = |value: &str| serde_json::Value::from(value).to_string();
    let annotations = serde_json::to_string(&spec.annotations().clone().unwrap_or_default())
        .unwrap_or_else(|_| "{}".to_owned());
    let pid = pid.map(|pid| format!(",\"pid\":{pid}")).unwrap_or_default();
    format!(
        "{{\"ociVersion\":{},\"id\":{},\"status\":{}{pid},\"bundle\":{},\"annotations\":{annotations}}}",
        quote(spec.version()),
        quote(id),
        quote(status.as_str()),
        quote(&bundle.to_string_lossy()),
    )
}

/// config.md: a hook's path is absolute.
pub(crate) fn check(spec: &Spec) -> Result<()> {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        if let Some(hook) = of(spec, kind).iter().find(|hook| !hook.path().is_absolute()) {
            let reason = format!("{} is not an absolute path", hook.path().display());
            return Err(Error::spec(format!("hooks.{kind}.path"), reason));
        }
    }
    Ok(())
}

/// The hooks of one kind.
pub(crate) fn of<'a>(spec: &'a Spec, kind: &str) -> &'a [Hook] {
    let Some(hooks) = spec.hooks().as_ref() else { return &[] };
    pick(hooks, kind).as_deref().unwrap_or_default()
}

fn pick<'a>(hooks: &'a Hooks, kind: &str) -> &'a Option<Vec<Hook>> {
    match kind {
        "prestart" => hooks.prestart(),
        "createRuntime" => hooks.create_runtime(),
        "createContainer" => hooks.create_container(),
        "startContainer" => hooks.start_container(),
        "poststart" => hooks.poststart(),
        _ => hooks.poststop(),
    }
}

/// Runs all of a kind in order; the first failure ends it.
pub(crate) fn run(spec: &Spec, kind: &str, input: &str) -> Result<()> {
    of(spec, kind).iter().try_for_each(|hook| one(hook, kind, input))
}

/// Runs those for the moment when the namespaces exist.
pub(crate) fn with_namespaces(spec: &Spec, id: &str, pid: u32, bundle: &Path) -> Result<()> {
    let state = document(spec, id, Status::Creating, Some(&pid.to_string()), bundle);
    run(spec, "prestart", &state)?;
    run(spec, "createRuntime", &state)
}

/// Runs all of a kind, whatever comes of them: the first failure.
pub(crate) fn run_all(spec: &Spec, kind: &str, input: &str) -> Result<()> {
    let results: Vec<Result<()>> = of(spec, kind).iter().map(|hook| one(hook, kind, input)).collect();
    results.into_iter().collect()
}

fn one(hook: &Hook, kind: &str, input: &str) -> Result<()> {
    let fail = |reason: String| Error::Hook { kind: kind.to_owned(), path: hook.path().clone(), reason };
    let mut command = Command::new(hook.path());
    if let Some((arg0, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(arg0).args(rest);
    }
    let env = hook.env().iter().flatten().filter_map(|e| e.split_once('='));
    command.env_clear().envs(env).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| fail(e.to_string()))?;
    let result = feed_and_wait(&mut child, input, hook.timeout());
    let status = match result {
        Ok(Some(status)) => status,
        Ok(None) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fail("timed out".to_owned()));
        }
        Err(error) => return Err(fail(error.to_string())),
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // Something it left behind may hold the pipe: what is there now will do.
        let _ = rustix::io::ioctl_fionbio(&stderr, true);
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = rustix::io::read(&stderr, &mut buffer) {
            said.extend_from_slice(buffer.get(..n).unwrap_or_default());
            if said.len() > 4096 {
                break;
            }
        }
    }
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let said = String::from_utf8_lossy(&said);
    Err(fail(if said.trim().is_empty() { ended } else { format!("{ended}: {}", said.trim()) }))
}

fn feed_and_wait(
    child: &mut Child,
    input: &str,
    timeout: Option<i64>,
) -> io::Result<Option<std::process::ExitStatus>> {
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read it.
        let _ = stdin.write_all(input.as_bytes());
    }
    if let Some(seconds) = timeout.and_then(|s| u64::try_from(s).ok())
        && let Some(pidfd) = process::open(child.id())
        && !sys::readable(&pidfd, Duration::from_secs(seconds))?
    {
        return Ok(None);
    }
    child.wait().map(Some)
}
