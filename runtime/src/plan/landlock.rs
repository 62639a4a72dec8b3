//! The steps of a Landlock policy.

use super::{Arg, Builder, StepExt, slot};
use crate::error::Result;
use crate::landlock::{Ruleset, label};
use crate::sys::wire::op;

const RULE_NET_PORT: u64 = 2;

/// Restricts the process and all that comes of it. It still has the privileges that this takes without `no_new_privs`, and mounts
/// nothing any more.
pub(super) fn landlock(b: &mut Builder, rules: &Ruleset) -> Result<()> {
    b.label("landlock");
    let handled = words(b, &[rules.fs, rules.net, rules.scoped]);
    b.call(
        "landlock_create_ruleset",
        libc::SYS_landlock_create_ruleset,
        [handled.into(), 24.into(), 0.into()],
    )
    .out(slot::A);
    for (path, rights) in &rules.paths {
        b.label(label(path));
        let path = b.text("landlock", path.as_os_str().as_encoded_bytes())?;
        b.op("permit", op::PERMIT_PATH, [Arg::Slot(slot::A), path.into(), (*rights).into()]);
    }
    for (port, rights) in &rules.ports {
        b.label(format!("landlock port {port}"));
        // struct landlock_net_port_attr: allowed_access, port.
        let rule = words(b, &[*rights, u64::from(*port)]);
        let args = [Arg::Slot(slot::A), RULE_NET_PORT.into(), rule.into(), 0.into()];
        b.call("landlock_add_rule", libc::SYS_landlock_add_rule, args);
    }
    b.label("landlock");
    let args = [Arg::Slot(slot::A), 0.into()];
    b.call("landlock_restrict_self", libc::SYS_landlock_restrict_self, args);
    b.close(slot::A);
    Ok(())
}

fn words(b: &mut Builder, words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|v| v.to_ne_bytes()).collect();
    b.bytes(&bytes)
}
