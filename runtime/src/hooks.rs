//! Hooks (config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle").
//!
//! `prestart`, `createRuntime`, `poststart` and `poststop` run here, in the runtime's namespaces; `createContainer` and
//! `startContainer` are steps of the plan. A hook gets its own environment, never the container's, and of the caller's descriptors none:
//! the start-up helper becomes its program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Context, Error, Result};
use crate::launch::status_socket;
use crate::plan;
use crate::state::Status;
use crate::stdio::at_least;
use crate::sys::{self, Ended, Spawn};

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

/// There are some to run while the container is made.
pub(crate) fn any_before_start(spec: &Spec) -> bool {
    ["prestart", "createRuntime", "createContainer"].iter().any(|kind| !of(spec, kind).is_empty())
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
pub(crate) fn run(helper: &OwnedFd, spec: &Spec, kind: &str, input: &str) -> Result<()> {
    of(spec, kind).iter().try_for_each(|hook| one(helper, hook, kind, input))
}

/// Runs those for the moment when the namespaces exist.
pub(crate) fn with_namespaces(
    helper: &OwnedFd,
    spec: &Spec,
    id: &str,
    pid: u32,
    bundle: &Path,
) -> Result<()> {
    let state = document(spec, id, Status::Creating, Some(&pid.to_string()), bundle);
    run(helper, spec, "prestart", &state)?;
    run(helper, spec, "createRuntime", &state)
}

/// Runs all of a kind, whatever comes of them: the first failure.
pub(crate) fn run_all(helper: &OwnedFd, spec: &Spec, kind: &str, input: &str) -> Result<()> {
    let results = of(spec, kind).iter().map(|hook| one(helper, hook, kind, input));
    results.collect::<Vec<Result<()>>>().into_iter().collect()
}

fn one(helper: &OwnedFd, hook: &Hook, kind: &str, input: &str) -> Result<()> {
    let fail = |reason: String| Error::Hook { kind: kind.to_owned(), path: hook.path().clone(), reason };
    let mut child = Child::start(helper, hook)?.map_err(|e| fail(e.to_string()))?;
    let mut said = Vec::new();
    let ended = match attend(&mut child, input, hook.timeout(), &mut said) {
        Ok(Some(ended)) => ended,
        other => {
            // It may have ended just now.
            let _ = sys::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
            let _ = sys::wait(&child.pidfd, None);
            return Err(fail(other.map_or_else(|e| e.to_string(), |_| "timed out".to_owned())));
        }
    };
    let ended = match (ended.code, ended.signal) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let said = String::from_utf8_lossy(&said);
    Err(fail(if said.trim().is_empty() { ended } else { format!("{ended}: {}", said.trim()) }))
}

/// A hook that runs.
struct Child {
    pidfd: OwnedFd,
    stdin: Option<File>,
    stderr: Option<File>,
}

impl Child {
    /// The inner error is that of its `execve`.
    fn start(helper: &OwnedFd, hook: &Hook) -> Result<io::Result<Self>> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).context("make a pipe");
        let ((read, stdin), (stderr, write)) = (pipe()?, pipe()?);
        let (read, write) = (at_least(read, 3)?, at_least(write, 3)?);
        let (status, theirs) = status_socket(3)?;
        let fds = [&read, &write, &theirs].map(AsRawFd::as_raw_fd);
        let plan = plan::hook(hook, fds[0], fds[1], fds[2])?;
        let memory =
            sys::memory(c"longshore-hook", &plan.bytes).map_err(Error::os("make the plan's memory"))?;
        let request = Spawn {
            program: helper.as_fd(),
            plan: memory.as_fd(),
            plan_len: plan.bytes.len(),
            namespaces: 0,
            cgroup: None,
            keep: &fds,
        };
        let (_, pidfd) = sys::spawn(&request).map_err(Error::os("clone3"))?;
        drop((read, write, theirs));
        if let Some((failed, _)) =
            sys::receive(status.as_raw_fd()).map_err(Error::os("read the status socket"))?
        {
            sys::wait(&pidfd, None).map_err(Error::os("reap a hook"))?;
            return Ok(Err(io::Error::from_raw_os_error(failed.value)));
        }
        for fd in [&stdin, &stderr] {
            rustix::io::ioctl_fionbio(fd, true).context("make a pipe of a hook's not wait")?;
        }
        Ok(Ok(Self { pidfd, stdin: Some(stdin.into()), stderr: Some(stderr.into()) }))
    }
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
) -> io::Result<Option<Ended>> {
    let timeout = timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let Child { pidfd, stdin, stderr } = child;
    let mut rest = input.as_bytes();
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
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
            *stdin = None;
        }
        if stderr.as_mut().is_some_and(|fd| hear(fd, said)) {
            *stderr = None;
        }
        // Something it left behind may hold the pipe: what was there now will do.
        if ended {
            return sys::wait(pidfd, None);
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
