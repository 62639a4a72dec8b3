//! From the made container to its program: limits, identity, capabilities, and `execve`.

use oci_spec::runtime::{PosixRlimitType, User};

use super::compile::Input;
use super::mounts::{IN_ROOT, inside, target};
use super::{Arg, Builder, StepExt, slot};
use crate::caps;
use crate::error::{Error, Result};
use crate::sys::wire::{ANY, Step, op};

/// Standard streams, for a process without a terminal of its own.
pub(super) fn stdio(b: &mut Builder, input: &Input<'_>) {
    b.label("standard streams");
    for (n, fd) in input.stdio.iter().enumerate() {
        if let Some(fd) = fd {
            b.call("dup3", libc::SYS_dup3, [(*fd).into(), n.into(), 0.into()]);
            // A process of another user must be able to reopen /dev/stdout.
            let uid = input.process.user().uid();
            if uid != 0 {
                b.call("fchown", libc::SYS_fchown, [n.into(), uid.into(), (-1).into()]).forgive = [ANY, 0];
            }
        }
    }
}

/// Descriptors for 3 and up, and no others. Until now steps of the plan may have had those numbers.
pub(super) fn descriptors(b: &mut Builder, input: &Input<'_>) {
    b.label("descriptors");
    for (n, fd) in input.preserve.iter().enumerate() {
        b.call("dup3", libc::SYS_dup3, [(*fd).into(), (3 + n).into(), 0.into()]);
    }
    close_on_exec(b, 3 + input.preserve.len());
}

/// No descriptor from this number on gets to the program.
pub(super) fn close_on_exec(b: &mut Builder, from: usize) {
    b.call(
        "close_range",
        libc::SYS_close_range,
        [from.into(), u32::MAX.into(), libc::CLOSE_RANGE_CLOEXEC.into()],
    );
}

/// The helper runs with every signal blocked; no program does.
pub(super) fn unblock_signals(b: &mut Builder) {
    let none = b.bytes(&0u64.to_ne_bytes());
    let set = Arg::from(libc::SIG_SETMASK);
    b.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, [set, none.into(), 0.into(), 8.into()]);
}

/// A session of its own, and the terminal as its controlling one.
pub(super) fn session(b: &mut Builder, input: &Input<'_>) {
    b.label("session");
    // An exec'd process may be a group leader already; then it has its session.
    b.call("setsid", libc::SYS_setsid, []).forgive(libc::EPERM);
    if input.process.terminal() == Some(true) {
        b.label("process.terminal");
        b.call("TIOCSCTTY", libc::SYS_ioctl, [Arg::Slot(slot::TTY), libc::TIOCSCTTY.into(), 0.into()]);
        for n in 0..3 {
            b.call("dup3", libc::SYS_dup3, [Arg::Slot(slot::TTY), n.into(), 0.into()]);
        }
        b.close(slot::TTY);
    }
}

/// `process.rlimits`.
pub(super) fn rlimits(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    for limit in input.process.rlimits().iter().flatten() {
        b.label(format!("process.rlimits {}", limit.typ()));
        if limit.soft() > limit.hard() {
            return Err(Error::spec("process.rlimits", format!("{}: soft above hard", limit.typ())));
        }
        let value: Vec<u8> = [limit.soft(), limit.hard()].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let value = b.bytes(&value);
        b.call(
            "prlimit64",
            libc::SYS_prlimit64,
            [0.into(), resource(limit.typ()).into(), value.into(), 0.into()],
        );
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// User, groups, capabilities, working directory.
pub(super) fn identity(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let process = input.process;
    let user = process.user();
    check_ids(user)?;
    let sets = input.caps;
    if sets.is_some() {
        bounding(b, input);
    }
    b.label("process.user");
    let keep = |b: &mut Builder, on: i32| {
        b.call(
            "PR_SET_KEEPCAPS",
            libc::SYS_prctl,
            [libc::PR_SET_KEEPCAPS.into(), on.into(), 0.into(), 0.into(), 0.into()],
        );
    };
    keep(b, 1);
    if input.may_set_groups {
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
        let list = b.bytes(&bytes);
        b.label("process.user.additionalGids");
        let step = b.call("setgroups", libc::SYS_setgroups, [groups.len().into(), list.into()]);
        if groups.is_empty() && input.in_user_namespace {
            // One that is joined may forbid it, as an ordinary user's does. Then none can be taken away either.
            step.forgive(libc::EPERM);
        }
    } else if user.additional_gids().as_ref().is_some_and(|g| !g.is_empty()) {
        return Err(Error::Unsupported {
            what: "process.user.additionalGids: this user may not set groups in its user namespace"
                .to_owned(),
        });
    }
    b.label("process.user.gid");
    let gid = Arg::from(user.gid());
    b.call("setresgid", libc::SYS_setresgid, [gid, gid, gid]);
    b.label("process.user.uid");
    let uid = Arg::from(user.uid());
    b.call("setresuid", libc::SYS_setresuid, [uid, uid, uid]);
    keep(b, 0);
    if let Some(umask) = user.umask() {
        b.call("umask", libc::SYS_umask, [umask.into()]);
    } else {
        b.call("umask", libc::SYS_umask, [0o022.into()]);
    }
    Ok(())
}

/// setresuid(2) takes the last number for "as it is": the process would stay root.
fn check_ids(user: &User) -> Result<()> {
    let more = user.additional_gids().iter().flatten().map(|gid| ("additionalGids", *gid));
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())].into_iter().chain(more) {
        if id == u32::MAX {
            return Err(Error::spec(format!("process.user.{field}"), format!("{id} is not an ID")));
        }
    }
    Ok(())
}

fn bounding(b: &mut Builder, input: &Input<'_>) {
    b.label("process.capabilities.bounding");
    let Some(sets) = input.caps else { return };
    for n in 0..=caps::last() {
        if sets.bounding & (1 << n) == 0 && input.available_caps & (1 << n) != 0 {
            b.call(
                "PR_CAPBSET_DROP",
                libc::SYS_prctl,
                [libc::PR_CAPBSET_DROP.into(), n.into(), 0.into(), 0.into(), 0.into()],
            );
        }
    }
}

/// Makes `process.cwd` where the root file system lacks it, as every engine's user expects; what stands in the way is told by [`cwd`].
pub(super) fn make_cwd(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let path = inside(input.process.cwd())?;
    if path != "." {
        b.label("process.cwd");
        let first = b.next();
        target(b, &path, false, IN_ROOT, slot::A)?.forgive = [ANY, 0];
        b.close(slot::A);
        b.skip_err_to_here(first);
    }
    Ok(())
}

/// Before a created container waits: engines clean up after `create` where `process.cwd` cannot be entered. One that only the
/// container's own user may enter shows later.
pub(super) fn try_cwd(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    cwd(b, input)?.forgive(libc::EACCES);
    let slash = b.c(c"/");
    b.call("chdir", libc::SYS_chdir, [slash.into()]);
    Ok(())
}

/// `process.cwd`.
pub(super) fn cwd<'a>(b: &'a mut Builder, input: &Input<'_>) -> Result<&'a mut Step> {
    let cwd = input.process.cwd();
    b.label(format!("process.cwd {}", cwd.display()));
    if !cwd.is_absolute() {
        return Err(Error::spec("process.cwd", "is not an absolute path"));
    }
    let path = b.text("process.cwd", cwd.as_os_str().as_encoded_bytes())?;
    Ok(b.op("chdir", op::CHDIR, [path.into()]))
}

/// The sets themselves; after this the process has no more than its program will.
pub(super) fn capabilities(b: &mut Builder, input: &Input<'_>) {
    let Some(sets) = input.caps else { return };
    b.label("process.capabilities");
    let header: Vec<u8> = [0x2008_0522u32, 0].iter().flat_map(|v| v.to_ne_bytes()).collect();
    let header = b.bytes(&header);
    let half = |shift: u32| [sets.effective, sets.permitted, sets.inheritable].map(|m| (m >> shift) as u32);
    let data: Vec<u8> = [half(0), half(32)].concat().iter().flat_map(|v| v.to_ne_bytes()).collect();
    let data = b.bytes(&data);
    b.call("capset", libc::SYS_capset, [header.into(), data.into()]);
    let ambient = |b: &mut Builder, action: i32, cap: u32| {
        b.call(
            "PR_CAP_AMBIENT",
            libc::SYS_prctl,
            [libc::PR_CAP_AMBIENT.into(), action.into(), cap.into(), 0.into(), 0.into()],
        )
        .forgive(libc::EINVAL);
    };
    ambient(b, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0);
    for n in (0..=caps::last()).filter(|n| sets.ambient & (1 << n) != 0) {
        ambient(b, libc::PR_CAP_AMBIENT_RAISE, n);
    }
}

/// `no_new_privs`.
pub(super) fn no_new_privileges(b: &mut Builder, input: &Input<'_>) {
    if input.process.no_new_privileges() == Some(true) {
        b.label("process.noNewPrivileges");
        b.call(
            "PR_SET_NO_NEW_PRIVS",
            libc::SYS_prctl,
            [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()],
        );
    }
}

/// The program's name, and the environment.
fn program<'a>(input: &Input<'a>) -> Result<(&'a str, Vec<String>)> {
    let args = input.process.args().as_deref().unwrap_or_default();
    let program =
        args.first().filter(|p| !p.is_empty()).ok_or_else(|| Error::spec("process.args", "is empty"))?;
    let mut env: Vec<String> = input.process.env().clone().unwrap_or_default();
    env.extend(input.extra_env.iter().cloned());
    Ok((program, env))
}

/// Where the program may be.
fn candidates(b: &mut Builder, input: &Input<'_>, program: &str, env: &[String]) -> Result<u64> {
    let mut paths = Vec::new();
    if program.contains('/') {
        paths.push(b.text("process.args", input.process.cwd().join(program).as_os_str().as_encoded_bytes())?);
    } else {
        let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin");
        for dir in path.split(':') {
            let at = input.process.cwd().join(dir).join(program);
            paths.push(b.text("process.env", at.as_os_str().as_encoded_bytes())?);
        }
    }
    Ok(b.pointers(&paths))
}

/// Before a created container waits: engines want to hear of a missing program from `create`.
pub(super) fn look_up(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    b.label("process.args");
    let (program, env) = program(input)?;
    let paths = candidates(b, input, program, &env)?;
    b.set_exec(program);
    b.op("look up the program", op::LOOK_UP, [paths.into()]);
    Ok(())
}

/// The last steps.
pub(super) fn execute(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let process = input.process;
    b.label("process.args");
    let (program, env) = program(input)?;
    let paths = candidates(b, input, program, &env)?;
    let args = process.args().as_deref().unwrap_or_default();
    let argv = b.texts("process.args", args)?;
    let envp = b.texts("process.env", &env)?;
    b.set_exec(program);
    b.op("execve", op::EXEC, [paths.into(), argv.into(), envp.into()]);
    Ok(())
}
