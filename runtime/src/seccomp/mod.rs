//! seccomp filters: `linux.seccomp` compiled to classic BPF, and the default profile.
//!
//! An assembler of our own, as `libseccomp` is a C library and the crate `seccompiler` knows one architecture and one action per filter.

mod bpf;
mod profile;
mod table;

pub(crate) use profile::default_profile;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
};

use crate::error::{Error, Result};
use crate::hooks;
use crate::plan::{Arg, Builder, StepExt, slot};
use crate::state::{Record, Status};
use crate::sys::wire::{msg, op};
use bpf::{Section, Verdict};

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    /// `struct sock_filter`s.
    program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u64,
    /// Who gets the notification descriptor.
    listener: Option<PathBuf>,
}

/// Filters compiled before: a host starts many containers with the same few.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// The last used first.
    recent: Mutex<Vec<(LinuxSeccomp, Arc<Filter>)>>,
}

impl Filters {
    const KEPT: usize = 8;

    pub(crate) fn get(&self, seccomp: &LinuxSeccomp) -> Result<Arc<Filter>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match recent.iter().position(|(of, _)| of == seccomp) {
            Some(at) => recent.remove(at),
            None => (seccomp.clone(), Arc::new(Filter::compile(seccomp)?)),
        };
        let filter = Arc::clone(&entry.1);
        recent.insert(0, entry);
        recent.truncate(Self::KEPT);
        Ok(filter)
    }
}

const NEW_LISTENER: u64 = 1 << 3;

impl Filter {
    /// Compiles the spec's filter. Names that this table does not know are left out: the kernel has no such call.
    pub(crate) fn compile(seccomp: &LinuxSeccomp) -> Result<Self> {
        let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
        let mut arches = seccomp.architectures().clone().unwrap_or_default();
        arches.retain(|a| table::audit(*a).is_some());
        if !arches.contains(&table::NATIVE) {
            arches.push(table::NATIVE);
        }
        let mut notifies = seccomp.default_action() == Action::ScmpActNotify;
        let mut sections: Vec<Section> = Vec::new();
        for arch in arches {
            let section = section(seccomp, arch, default)?;
            match sections.iter_mut().find(|s| s.audit == section.audit) {
                // x32 shares x86-64's audit number, its calls have a bit set.
                Some(same) => same.calls.extend(section.calls),
                None => sections.push(section),
            }
        }
        for rule in seccomp.syscalls().iter().flatten().filter(|r| r.action() == Action::ScmpActNotify) {
            notifies = true;
            if let Some(name) = rule.names().iter().find(|n| *n == "sendmsg" || *n == "write") {
                return Err(Error::spec(
                    "linux.seccomp",
                    format!("{name} cannot be SCMP_ACT_NOTIFY: the runtime needs it"),
                ));
            }
        }
        let program = bpf::program(&sections, default, libc::SECCOMP_RET_KILL_PROCESS);
        if program.len() > 4096 {
            return Err(Error::spec(
                "linux.seccomp",
                "the filter is longer than the kernel's 4096 instructions",
            ));
        }
        if seccomp.listener_metadata().is_some() && seccomp.listener_path().is_none() {
            return Err(Error::spec("linux.seccomp.listenerMetadata", "without listenerPath"));
        }
        let mut flags = seccomp.flags().iter().flatten().fold(0, |all, f| all | flag(*f));
        let listener = seccomp.listener_path().clone().filter(|_| notifies);
        if notifies {
            if listener.is_none() {
                return Err(Error::spec("linux.seccomp.listenerPath", "missing, with SCMP_ACT_NOTIFY"));
            }
            flags |= NEW_LISTENER;
        }
        let bytes = program.iter().flat_map(|o| {
            let [c0, c1] = o.code.to_ne_bytes();
            let [k0, k1, k2, k3] = o.k.to_ne_bytes();
            [c0, c1, o.jt, o.jf, k0, k1, k2, k3]
        });
        Ok(Self { program: bytes.collect(), flags, listener })
    }

    /// Adds the steps that load it.
    pub(crate) fn load(&self, b: &mut Builder) {
        b.label("linux.seccomp");
        let program = b.bytes(&self.program);
        let count = (self.program.len() / 8) as u64;
        let fprog: Vec<u8> = [count, program].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let fprog = b.bytes(&fprog);
        let mode = Arg::from(libc::SECCOMP_SET_MODE_FILTER);
        b.call("seccomp", libc::SYS_seccomp, [mode, self.flags.into(), fprog.into()]).out(slot::A);
        if self.listener.is_some() {
            b.op("pass the listener", op::SEND_FD, [msg::NOTIFY.into(), Arg::Slot(slot::A)]);
            b.close(slot::A);
        }
    }
}

fn section(seccomp: &LinuxSeccomp, arch: Arch, default: u32) -> Result<Section> {
    let numbers: HashMap<&str, u32> =
        table::calls().filter_map(|c| Some((c.name, c.number(arch)?))).collect();
    let mut section = Section {
        audit: table::audit(arch).unwrap_or(0),
        unknown: unknown(seccomp, default),
        ..Section::default()
    };
    for rule in seccomp.syscalls().iter().flatten() {
        let verdict = action(rule.action(), rule.errno_ret())?;
        let args = rule.args().as_deref().unwrap_or_default();
        if let Some(bad) = args.iter().find(|a| a.index() > 5) {
            return Err(Error::spec(
                "linux.seccomp.syscalls.args",
                format!("index {} is above 5", bad.index()),
            ));
        }
        for nr in rule.names().iter().filter_map(|n| numbers.get(n.as_str())) {
            let entry = section.calls.entry(*nr).or_default();
            add(entry, args, verdict);
        }
    }
    for verdict in section.calls.values_mut() {
        if verdict.rules.last().is_none_or(|(c, _)| !c.is_empty()) {
            verdict.rules.push((Vec::new(), default));
        }
    }
    Ok(section)
}

/// As libseccomp reads a rule: conditions on different arguments must all hold, several on the same one are alternatives.
fn add(verdict: &mut Verdict, args: &[LinuxSeccompArg], action: u32) {
    let same = args.iter().enumerate().any(|(i, a)| args.iter().skip(i + 1).any(|b| a.index() == b.index()));
    if same {
        verdict.rules.extend(args.iter().map(|a| (vec![*a], action)));
    } else {
        verdict.rules.push((args.to_vec(), action));
    }
}

/// Calls newer than the newest that the profile names get `ENOSYS`, so that programs fall back, as after an upgrade of the kernel
/// alone; a filter that allows, logs or asks by default means it for all.
fn unknown(seccomp: &LinuxSeccomp, default: u32) -> u32 {
    match seccomp.default_action() {
        Action::ScmpActErrno
        | Action::ScmpActKill
        | Action::ScmpActKillThread
        | Action::ScmpActKillProcess
        | Action::ScmpActTrap => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        _ => default,
    }
}

fn action(action: Action, errno: Option<u32>) -> Result<u32> {
    if errno.is_some() && !matches!(action, Action::ScmpActErrno | Action::ScmpActTrace) {
        return Err(Error::spec("linux.seccomp.errnoRet", format!("{action} has no error number")));
    }
    let errno = errno.unwrap_or(libc::EPERM as u32);
    if errno > 4095 {
        return Err(Error::spec("linux.seccomp.errnoRet", "is above 4095"));
    }
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | errno,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | errno,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
    })
}

fn flag(flag: Flag) -> u64 {
    match flag {
        Flag::SeccompFilterFlagTsync => 1,
        Flag::SeccompFilterFlagLog => 2,
        Flag::SeccompFilterFlagSpecAllow => 4,
        Flag::SeccompFilterFlagWaitKillableRecv => 32,
    }
}

/// Hands the notification descriptor to the agent at `listenerPath` (config-linux.md, "The Container Process State").
pub(crate) fn pass_listener(record: &Record, fd: &OwnedFd) -> Result<()> {
    let seccomp = record.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let Some((seccomp, path)) = seccomp.and_then(|s| Some((s, s.listener_path().as_ref()?))) else {
        return Ok(());
    };
    let bundle = record.bundle.clone().unwrap_or_default();
    let state =
        hooks::document(&record.spec, &record.id, Status::Creating, Some(&record.pid.to_string()), &bundle);
    let metadata = serde_json::Value::from(seccomp.listener_metadata().as_deref().unwrap_or_default());
    let document = format!(
        "{{\"ociVersion\":\"{}\",\"fds\":[\"seccompFd\"],\"pid\":{},\"metadata\":{metadata},\"state\":{state}}}",
        record.spec.version(),
        record.pid
    );
    crate::console::pass(path, document.as_bytes(), fd, "hand over the seccomp listener")
}

#[cfg(test)]
mod tests {
    use super::bpf::simulate;
    use super::*;
    use oci_spec::runtime::{
        LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator as O, LinuxSyscallBuilder,
    };

    const X86_64: u32 = 0xc000_003e;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;

    fn ops(filter: &Filter) -> Vec<bpf::Op> {
        let op = |c: &[u8]| bpf::Op {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        };
        filter.program.chunks(8).map(op).collect()
    }

    #[test]
    fn the_default_profile() {
        let none = std::collections::HashSet::new();
        let profile = Filter::compile(&default_profile(&none)).unwrap();
        let ops = ops(&profile);
        assert!(ops.len() < 1200, "{}", ops.len());
        let nr =
            |name| table::calls().find(|c| c.name == name).unwrap().number(Arch::ScmpArchX86_64).unwrap();
        let ask = |name, arg| simulate(&ops, X86_64, nr(name), [arg, 0, 0, 0, 0, 0]);
        assert_eq!(ask("read", 0), ALLOW);
        assert_eq!(ask("mount", 0), EPERM);
        assert_eq!(ask("clone", 17), ALLOW);
        assert_eq!(ask("clone", libc::CLONE_NEWUSER as u64), EPERM);
        assert_eq!(ask("clone3", 0), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        assert_eq!(ask("socket", libc::AF_INET as u64), ALLOW);
        assert_eq!(ask("socket", libc::AF_VSOCK as u64), EPERM);
        assert_eq!(ask("personality", 8), ALLOW);
        assert_eq!(ask("personality", 9), EPERM);
        assert_eq!(simulate(&ops, X86_64, 5000, [0; 6]), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        assert_eq!(simulate(&ops, 0x4000_0003, 3, [0; 6]), ALLOW, "read on x86");
        assert_eq!(simulate(&ops, 0xdead, 3, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        let admin = Filter::compile(&default_profile(
            &[oci_spec::runtime::Capability::SysAdmin].into_iter().collect(),
        ))
        .unwrap();
        assert_eq!(simulate(&self::tests::ops(&admin), X86_64, nr("mount"), [0; 6]), ALLOW);
        assert_eq!(simulate(&self::tests::ops(&admin), X86_64, nr("clone3"), [0; 6]), ALLOW);
    }

    #[test]
    fn every_operator_at_its_borders() {
        let big = 0x1_0000_0005u64;
        for (operator, holds) in [
            (O::ScmpCmpEq, (|v| v == 0x1_0000_0005) as fn(u64) -> bool),
            (O::ScmpCmpNe, |v| v != 0x1_0000_0005),
            (O::ScmpCmpGt, |v| v > 0x1_0000_0005),
            (O::ScmpCmpGe, |v| v >= 0x1_0000_0005),
            (O::ScmpCmpLt, |v| v < 0x1_0000_0005),
            (O::ScmpCmpLe, |v| v <= 0x1_0000_0005),
        ] {
            let arg =
                LinuxSeccompArgBuilder::default().index(1usize).value(big).op(operator).build().unwrap();
            let rule = LinuxSyscallBuilder::default()
                .names(vec!["read".to_owned()])
                .action(Action::ScmpActAllow)
                .args(vec![arg]);
            let seccomp = LinuxSeccompBuilder::default()
                .default_action(Action::ScmpActErrno)
                .architectures(vec![Arch::ScmpArchX86_64])
                .syscalls(vec![rule.build().unwrap()])
                .build()
                .unwrap();
            let ops = ops(&Filter::compile(&seccomp).unwrap());
            for value in [0, 5, 6, 0xffff_ffff, 0x1_0000_0000, big - 1, big, big + 1, 0x2_0000_0000, u64::MAX]
            {
                let got = simulate(&ops, X86_64, 0, [0, value, 0, 0, 0, 0]) == ALLOW;
                assert_eq!(got, holds(value), "{operator:?} {value:#x}");
            }
        }
    }
}
