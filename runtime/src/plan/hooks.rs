//! Hooks: those that run as part of a container's plan (`createContainer` and `startContainer`), and the plan of one that runs by itself.

use std::os::fd::RawFd;

use oci_spec::runtime::Hook;

use super::compile::Input;
use super::{Arg, Builder, Plan, StepExt, process, slot};
use crate::error::Result;
use crate::hooks::{document, of};
use crate::state::Status;
use crate::sys::bytes_of;
use crate::sys::wire::{self, PID_DIGITS, op};

/// Adds the hooks of a kind. The PID in the state is known only after `clone3`: the helper writes it over these blanks.
pub(super) fn hooks(b: &mut Builder, input: &Input<'_>, kind: &'static str, status: Status) -> Result<()> {
    for hook in of(input.spec, kind) {
        b.label(format!("{kind} hook {}", hook.path().display()));
        let blanks = " ".repeat(PID_DIGITS - 1) + "0";
        let state = document(input.spec, input.id, status, Some(&blanks), input.bundle);
        let offset = state.find(&format!("\"pid\":{blanks}")).map_or(0, |at| at + 6);
        let text = b.bytes(state.as_bytes());
        let (path, argv, envp) = vectors(b, hook)?;
        let timeout = hook.timeout().map_or(-1, |s| s.saturating_mul(1000));
        let record = wire::Hook {
            path,
            argv,
            envp,
            input: text,
            input_len: state.len() as u64,
            pid: text + offset as u64,
            timeout,
        };
        let record = b.bytes(bytes_of(&record));
        b.set_hook(kind, hook.path());
        b.op("run", op::HOOK, [Arg::from(record)]);
    }
    Ok(())
}

/// Path, arguments, environment.
fn vectors(b: &mut Builder, hook: &Hook) -> Result<(u64, u64, u64)> {
    let path = b.text("hooks.path", hook.path().as_os_str().as_encoded_bytes())?;
    let given = hook.args().as_deref().unwrap_or_default();
    let argv = if given.is_empty() { b.pointers(&[path]) } else { b.texts("hooks.args", given)? };
    let envp = b.texts("hooks.env", hook.env().as_deref().unwrap_or_default())?;
    Ok((path, argv, envp))
}

/// The plan of a process that becomes the hook's program, with these two as its standard input and error, and nowhere to write to.
pub(crate) fn hook(hook: &Hook, stdin: RawFd, stderr: RawFd, status: RawFd) -> Result<Plan> {
    let mut b = Builder::new();
    b.op("reset the signals", op::RESET_SIGNALS, []);
    let null = b.c(c"/dev/null");
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    b.call("open /dev/null", libc::SYS_openat, [libc::AT_FDCWD.into(), null.into(), flags.into()])
        .out(slot::A);
    for (n, fd) in [stdin.into(), Arg::Slot(slot::A), stderr.into()].into_iter().enumerate() {
        b.call("dup3", libc::SYS_dup3, [fd, n.into(), 0.into()]);
    }
    process::close_on_exec(&mut b, 3);
    process::unblock_signals(&mut b);
    let (path, argv, envp) = vectors(&mut b, hook)?;
    let paths = b.pointers(&[path]);
    b.op("execve", op::EXEC, [paths.into(), argv.into(), envp.into()]);
    Ok(b.finish(status))
}
