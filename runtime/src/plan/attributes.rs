//! What else a process is given: scheduling, memory policy, labels, personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType,
};

use super::compile::Input;
use super::options::Options;
use super::{Arg, Builder, mounts, slot};
use crate::error::{Error, Result};
use crate::sys::wire::op;

/// While the host's `/proc` is at hand, and the process dumpable: its files there would be root's otherwise.
pub(super) fn early(b: &mut Builder, input: &Input<'_>) {
    if let Some(adjustment) = input.oom_score_adj {
        b.label("process.oomScoreAdj");
        own_file(b, c"/proc/self/oom_score_adj", &adjustment.to_string());
    }
}

fn own_file(b: &mut Builder, path: &std::ffi::CStr, text: &str) {
    let path = b.c(path);
    let bytes = b.bytes(text.as_bytes());
    b.op(
        "write",
        op::WRITE_FILE,
        [Arg::from(libc::AT_FDCWD), path.into(), bytes.into(), text.len().into(), 0.into()],
    );
}

/// After the start, before privileges are dropped.
pub(super) fn late(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let process = input.process;
    if let Some(priority) = process.io_priority() {
        b.label("process.ioPriority");
        let class: u64 = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let value = class << 13 | priority.priority() as u64 & 0x1fff;
        // IOPRIO_WHO_PROCESS, this one.
        b.call("ioprio_set", libc::SYS_ioprio_set, [1.into(), 0.into(), value.into()]);
    }
    if process.scheduler().is_some() {
        scheduler(b, input)?;
    }
    if let Some(personality) = input.spec.linux().as_ref().and_then(|l| l.personality().as_ref()) {
        b.label("linux.personality");
        if personality.flags().as_ref().is_some_and(|f| !f.is_empty()) {
            return Err(Error::spec("linux.personality.flags", "no flag is defined"));
        }
        let domain: u64 = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        };
        b.call("personality", libc::SYS_personality, [domain.into()]);
    }
    memory_policy(b, input)?;
    Ok(())
}

fn scheduler(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(scheduler) = input.process.scheduler() else { return Ok(()) };
    b.label("process.scheduler");
    use LinuxSchedulerPolicy as P;
    let policy: u32 = match scheduler.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    use LinuxSchedulerFlag as F;
    let flags = scheduler.flags().iter().flatten().fold(0u64, |all, flag| {
        all | match flag {
            F::SchedResetOnFork => 0x01,
            F::SchedFlagReclaim => 0x02,
            F::SchedFlagDLOverrun => 0x04,
            F::SchedFlagKeepPolicy => 0x08,
            F::SchedFlagKeepParams => 0x10,
            F::SchedFlagUtilClampMin => 0x20,
            F::SchedFlagUtilClampMax => 0x40,
        }
    });
    // struct sched_attr, first version.
    let mut attr = Vec::with_capacity(48);
    attr.extend(48u32.to_ne_bytes());
    attr.extend(policy.to_ne_bytes());
    attr.extend(flags.to_ne_bytes());
    attr.extend(scheduler.nice().unwrap_or(0).to_ne_bytes());
    attr.extend((scheduler.priority().unwrap_or(0) as u32).to_ne_bytes());
    for value in [scheduler.runtime(), scheduler.deadline(), scheduler.period()] {
        attr.extend(value.unwrap_or(0).to_ne_bytes());
    }
    let attr = b.bytes(&attr);
    b.call("sched_setattr", libc::SYS_sched_setattr, [0.into(), attr.into(), 0.into()]);
    Ok(())
}

fn memory_policy(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(policy) = input.spec.linux().as_ref().and_then(|l| l.memory_policy().as_ref()) else {
        return Ok(());
    };
    b.label("linux.memoryPolicy");
    use MemoryPolicyModeType as M;
    let mode: u64 = match policy.mode() {
        M::MpolDefault => 0,
        M::MpolPreferred => 1,
        M::MpolBind => 2,
        M::MpolInterleave => 3,
        M::MpolLocal => 4,
        M::MpolPreferredMany => 5,
        M::MpolWeightedInterleave => 6,
    };
    use MemoryPolicyFlagType as F;
    let flags = policy.flags().iter().flatten().fold(0u64, |all, flag| {
        all | match flag {
            F::MpolFNumaBalancing => 1 << 13,
            F::MpolFRelativeNodes => 1 << 14,
            F::MpolFStaticNodes => 1 << 15,
        }
    });
    let mut mask = [0u64; 16];
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    for node in cpu_list(nodes)
        .ok_or_else(|| Error::spec("linux.memoryPolicy.nodes", format!("{nodes:?} is no list")))?
    {
        *mask
            .get_mut(node / 64)
            .ok_or_else(|| Error::spec("linux.memoryPolicy.nodes", "node above 1023"))? |= 1 << (node % 64);
    }
    let bytes: Vec<u8> = mask.iter().flat_map(|v| v.to_ne_bytes()).collect();
    let mask = if nodes.is_empty() { 0 } else { b.bytes(&bytes) };
    let max = if nodes.is_empty() { 0u64 } else { 1025 };
    b.call("set_mempolicy", libc::SYS_set_mempolicy, [(mode | flags).into(), mask.into(), max.into()]);
    Ok(())
}

/// `0-3,7` as numbers; the kernel's list format.
pub(crate) fn cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to >= 65_536 {
            return None;
        }
        numbers.extend(from..=to);
    }
    Some(numbers)
}

/// `process.execCPUAffinity`: which processors an exec'd process begins on, and goes on with.
pub(super) fn affinity(b: &mut Builder, input: &Input<'_>, last: bool) -> Result<()> {
    let Some(affinity) = input.process.exec_cpu_affinity() else { return Ok(()) };
    let list = if last { affinity.cpu_affinity_final() } else { affinity.initial() };
    let Some(list) = list.as_deref().filter(|l| !l.is_empty()) else { return Ok(()) };
    b.label("process.execCPUAffinity");
    let cpus = cpu_list(list)
        .ok_or_else(|| Error::spec("process.execCPUAffinity", format!("{list:?} is no list")))?;
    let mut mask = vec![0u8; 1024];
    for cpu in cpus {
        *mask
            .get_mut(cpu / 8)
            .ok_or_else(|| Error::spec("process.execCPUAffinity", "processor above 8191"))? |= 1 << (cpu % 8);
    }
    let mask = b.bytes(&mask);
    b.call("sched_setaffinity", libc::SYS_sched_setaffinity, [0.into(), 1024.into(), mask.into()]);
    Ok(())
}

/// Labels of AppArmor and SELinux, for the next `execve`. Through a procfs of our own: what lies at the container's `/proc` may be
/// anything, and a label written elsewhere is no label (CVE-2019-16884).
pub(super) fn labels(b: &mut Builder, input: &Input<'_>) -> Result<()> {
    let given = |label: &Option<String>| label.clone().filter(|l| !l.is_empty());
    let labels = [
        (
            "process.apparmorProfile",
            c"self/attr/apparmor/exec",
            given(input.process.apparmor_profile()).map(|p| format!("exec {p}")),
        ),
        ("process.selinuxLabel", c"self/attr/exec", given(input.process.selinux_label())),
    ];
    for (field, path, label) in labels {
        let Some(label) = label else { continue };
        b.label(field);
        mounts::create(b, "proc", "proc", &Options::default(), slot::PROC)?;
        let path = b.c(path);
        let bytes = b.bytes(label.as_bytes());
        b.op(
            "write",
            op::WRITE_FILE,
            [Arg::Slot(slot::PROC), path.into(), bytes.into(), label.len().into(), 0x01.into()],
        );
        b.close(slot::PROC);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::cpu_list;

    #[test]
    fn lists() {
        assert_eq!(cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list(""), Some(vec![]));
        assert_eq!(cpu_list("2-1"), None);
        assert_eq!(cpu_list("x"), None);
        assert_eq!(cpu_list("0-99999999999"), None);
    }
}
