//! Hooks (config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle").
//!
//! `prestart`, `createRuntime`, `poststart` and `poststop` run here, in the runtime's namespaces; `createContainer` and
//! `startContainer` are steps of the plan. A hook gets its own environment, never the container's.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::process;
use crate::state::Status;

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
    let mut said = Vec::new();
    let status = match attend(&mut child, input, hook.timeout(), &mut said) {
        Ok(Some(status)) => status,
        other => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fail(other.map_or_else(|e| e.to_string(), |_| "timed out".to_owned())));
        }
    };
    if status.success() {
        return Ok(());
    }
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let said = String::from_utf8_lossy(&said);
    Err(fail(if said.trim().is_empty() { ended } else { format!("{ended}: {}", said.trim()) }))
}

/// Of what a hook says, so much is kept.
const SAID: usize = 4096;

/// Feeds it, hears it, and waits until it ends: neither a hook that does not read nor one that does not stop talking holds this up.
/// `None`: the time is over.
fn attend(
    child: &mut Child,
    input: &str,
    timeout: Option<i64>,
    said: &mut Vec<u8>,
) -> io::Result<Option<ExitStatus>> {
    let timeout = timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let pidfd = process::open(child.id()).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut stdin = child.stdin.take();
    let mut stderr = child.stderr.take();
    for fd in stdin.iter().map(AsFd::as_fd).chain(stderr.iter().map(AsFd::as_fd)) {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let mut rest = input.as_bytes();
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(stdin.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(stderr.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if stdin.as_mut().is_some_and(|fd| feed(fd, &mut rest)) {
            stdin = None;
        }
        if stderr.as_mut().is_some_and(|fd| hear(fd, said)) {
            stderr = None;
        }
        // Something it left behind may hold the pipe: what was there now will do.
        if ended {
            return child.wait().map(Some);
        }
    }
}

/// Writes what can be written; true: no more is to be, a hook need not read it.
fn feed(stdin: &mut impl Write, rest: &mut &[u8]) -> bool {
    while !rest.is_empty() {
        match stdin.write(rest) {
            Ok(n) => *rest = rest.get(n..).unwrap_or_default(),
            Err(e) => return e.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads a bounded amount of what is there; true: no more will come.
fn hear(stderr: &mut impl Read, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 64 * 1024];
    match stderr.read(&mut buffer) {
        Ok(0) => true,
        Ok(n) => {
            let room = SAID.saturating_sub(said.len());
            said.extend(buffer.iter().take(n.min(room)));
            false
        }
        Err(e) => e.kind() != io::ErrorKind::WouldBlock,
    }
}
