//! The default profile: what Docker lets a container call, given its capabilities.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::table;

/// `CLONE_NEW*`, all that `clone(2)` takes: making namespaces is for `CAP_SYS_ADMIN`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// personality(2): Linux, 32-bit Linux, both with the version told as 2.6 (`UNAME26`), and "only ask".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile for a process with these capabilities in its bounding set.
pub(crate) fn default_profile(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let held: HashSet<String> =
        capabilities.iter().map(|c| c.to_string().trim_start_matches("CAP_").to_owned()).collect();
    let allowed = |policy: &str| policy == "+" || policy.split(',').any(|cap| held.contains(cap));
    let names = table::calls().filter(|c| allowed(c.policy)).map(|c| c.name.to_owned()).collect();
    let mut rules = vec![rule(names, Action::ScmpActAllow, None)];
    for value in PERSONALITIES {
        rules.push(rule(
            vec!["personality".to_owned()],
            Action::ScmpActAllow,
            Some(compare(Operator::ScmpCmpEq, value, 0)),
        ));
    }
    // Sockets of every family but those with a way past the namespaces (vsock) or a history of holes (AF_ALG).
    let low = compare(Operator::ScmpCmpLt, SOCKETS_BELOW, 0);
    rules.push(rule(vec!["socket".to_owned()], Action::ScmpActAllow, Some(low)));
    for (low, high) in SOCKETS {
        for family in low..=high {
            rules.push(rule(
                vec!["socket".to_owned()],
                Action::ScmpActAllow,
                Some(compare(Operator::ScmpCmpEq, family, 0)),
            ));
        }
    }
    if !held.contains("SYS_ADMIN") {
        let no_namespaces = compare(Operator::ScmpCmpMaskedEq, CLONE_NAMESPACES, 0);
        rules.push(rule(vec!["clone".to_owned()], Action::ScmpActAllow, Some(no_namespaces)));
        // Its flags are in memory, which a filter cannot read; ENOSYS makes the C library fall back to clone.
        let mut clone3 = rule(vec!["clone3".to_owned()], Action::ScmpActErrno, None);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        rules.push(clone3);
    }
    LinuxSeccompBuilder::default()
        .default_action(Action::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(match table::NATIVE {
            Arch::ScmpArchX86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
            native => vec![native],
        })
        .syscalls(rules)
        .build()
        .expect("every field that the builder wants is set")
}

/// Address families below this, and these ranges.
const SOCKETS_BELOW: u64 = 12;
const SOCKETS: [(u64, u64); 7] = [(13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

fn compare(operator: Operator, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .value_two(two)
        .op(operator)
        .build()
        .expect("all fields are set")
}

fn rule(names: Vec<String>, action: Action, arg: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let rule = LinuxSyscallBuilder::default().names(names).action(action);
    let rule = match arg {
        Some(arg) => rule.args(vec![arg]),
        None => rule,
    };
    rule.build().expect("names and action are set")
}
