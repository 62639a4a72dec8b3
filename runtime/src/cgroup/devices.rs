//! Which devices a container may use: `devices.allow` and `devices.deny` on v1, a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` on v2.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use rustix::fs::{Mode, OFlags};

use super::Groups;
use crate::error::{Error, Result};
use crate::sys;

/// One rule; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `a`, `b` or `c`.
    pub(super) kind: u8,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// `BPF_DEVCG_ACC_*`: 1 mknod, 2 read, 4 write.
    access: u32,
}

const ALL: u32 = 7;
const MKNOD: u32 = 1;

/// The devices that every container may use (config-linux.md, "Default Devices"), and nodes that it may make; and `/dev/net/tun`, which runc
/// and crun permit, left out once, and permit again for those who make the node themselves.
const DEFAULT: [(u8, Option<u32>, Option<u32>, u32); 12] = [
    (b'c', None, None, MKNOD),
    (b'b', None, None, MKNOD),
    (b'c', Some(1), Some(3), ALL),
    (b'c', Some(1), Some(5), ALL),
    (b'c', Some(1), Some(7), ALL),
    (b'c', Some(1), Some(8), ALL),
    (b'c', Some(1), Some(9), ALL),
    (b'c', Some(5), Some(0), ALL),
    (b'c', Some(5), Some(1), ALL),
    (b'c', Some(5), Some(2), ALL),
    (b'c', Some(136), None, ALL),
    (b'c', Some(10), Some(200), ALL),
];

pub(super) fn apply(groups: &Groups, resources: Option<&LinuxResources>) -> Result<()> {
    let given = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
    let rules = rules(given)?;
    if let Some(dir) = groups.controller("devices") {
        let mut open: Option<(bool, File)> = None;
        return rules.iter().try_for_each(|rule| {
            let path = dir.join(if rule.allow { "devices.allow" } else { "devices.deny" });
            let error = |source| Error::Cgroup { path: path.clone(), action: "write", source };
            if open.as_ref().is_none_or(|(allow, _)| *allow != rule.allow) {
                open = Some((rule.allow, File::options().write(true).open(&path).map_err(error)?));
            }
            let Some((_, file)) = &mut open else { return Ok(()) };
            file.write_all(rule.line().as_bytes()).map_err(error)
        });
    }
    match &groups.v2 {
        Some(dir) => attach(dir, &rules),
        None => Ok(()),
    }
}

/// Nothing but what is named: without rules of its own a container gets the default devices.
pub(super) fn rules(given: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(given.len() + DEFAULT.len() + 1);
    if given.is_empty() {
        rules.push(Rule { allow: false, kind: b'a', major: None, minor: None, access: ALL });
    }
    for rule in given {
        rules.push(parse(rule)?);
    }
    let everything = rules.iter().all(|r| r.allow) && rules.iter().any(Rule::is_everything);
    if !everything {
        rules.extend(DEFAULT.map(|(kind, major, minor, access)| Rule {
            allow: true,
            kind,
            major,
            minor,
            access,
        }));
    }
    Ok(rules)
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let field = "linux.resources.devices";
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| Error::spec(field, format!("device number {n}"))),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => 2,
            'w' => 4,
            _ => return Err(Error::spec(field, format!("access {letter:?}"))),
        };
    }
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => b'a',
        Some(LinuxDeviceType::B) => b'b',
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => b'c',
        Some(LinuxDeviceType::P) => return Err(Error::spec(field, "type p has no device number")),
    };
    Ok(Rule { allow: rule.allow(), kind, major: number(rule.major())?, minor: number(rule.minor())?, access })
}

impl Rule {
    pub(super) fn is_everything(&self) -> bool {
        self.kind == b'a' && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    fn line(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        if self.kind == b'a' {
            return "a".to_owned();
        }
        let kind = char::from(self.kind);
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access())
    }

    /// `rwm`, or some of it.
    pub(super) fn access(&self) -> String {
        let letters = [(2, 'r'), (4, 'w'), (1, 'm')].into_iter();
        letters.filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| letter).collect()
    }
}

/// `struct bpf_insn`.
type Insn = [u8; 8];

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: u32) -> Insn {
    let ([o0, o1], [i0, i1, i2, i3]) = (off.to_ne_bytes(), imm.to_ne_bytes());
    [code, src << 4 | dst, o0, o1, i0, i1, i2, i3]
}

/// The last rule that matches decides, so the program asks them from the end.
fn program(rules: &[Rule]) -> Vec<Insn> {
    const LOAD: u8 = 0x61;
    const MOV_REG: u8 = 0xbf;
    const MOV: u8 = 0xb7;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_NE: u8 = 0x55;
    const JUMP_EQ: u8 = 0x15;
    const EXIT: u8 = 0x95;
    // r2: type, r3: access, r4: major, r5: minor.
    let mut code = vec![
        insn(LOAD, 2, 1, 0, 0),
        insn(MOV_REG, 3, 2, 0, 0),
        insn(AND, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, 3, 0, 0, 16),
        insn(LOAD, 4, 1, 4, 0),
        insn(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block: Vec<Insn> = Vec::new();
        // The distance over the rest of the block is filled in below.
        match rule.kind {
            b'b' => block.push(insn(JUMP_NE, 2, 0, 0, 1)),
            b'c' => block.push(insn(JUMP_NE, 2, 0, 0, 2)),
            _ => {}
        }
        if rule.access != ALL {
            // To be allowed, all that is asked for must be named; to be denied, any of it.
            let mask = if rule.allow { !rule.access & ALL } else { rule.access };
            block.push(insn(MOV_REG, 1, 3, 0, 0));
            block.push(insn(AND, 1, 0, 0, mask));
            block.push(insn(if rule.allow { JUMP_NE } else { JUMP_EQ }, 1, 0, 0, 0));
        }
        if let Some(major) = rule.major {
            block.push(insn(JUMP_NE, 4, 0, 0, major));
        }
        if let Some(minor) = rule.minor {
            block.push(insn(JUMP_NE, 5, 0, 0, minor));
        }
        block.push(insn(MOV, 0, 0, 0, u32::from(rule.allow)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        let len = block.len();
        for (i, step) in block.iter_mut().enumerate().filter(|(_, s)| matches!(s[0], JUMP_NE | JUMP_EQ)) {
            let [low, high] = ((len - i - 1) as i16).to_ne_bytes();
            (step[2], step[3]) = (low, high);
        }
        code.extend(block);
        if rule.is_everything() {
            return code;
        }
    }
    code.extend([insn(MOV, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    code
}

fn attach(dir: &Path, rules: &[Rule]) -> Result<()> {
    let error =
        |source| Error::Cgroup { path: dir.to_owned(), action: "attach the device program to", source };
    let group = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| error(e.into()))?;
    match sys::attach_device_program(&group, program(rules).as_flattened()) {
        // Programs are for CAP_BPF or CAP_SYS_ADMIN; who lacks both cannot make a device node either.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && !rustix::process::geteuid().is_root() => Ok(()),
        result => result.map_err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    #[test]
    fn lines_of_v1() {
        let rule = |kind, major, minor, access| Rule { allow: true, kind, major, minor, access }.line();
        assert_eq!(rule(b'c', Some(1), Some(3), ALL), "c 1:3 rwm");
        assert_eq!(rule(b'b', None, Some(0), 2), "b *:0 r");
        assert_eq!(rule(b'a', None, None, ALL), "a");
    }

    #[test]
    fn rules_without_and_with_the_caller_s() {
        assert!(rules(&[]).unwrap()[0].is_everything());
        let all = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().unwrap();
        assert_eq!(rules(&[all]).unwrap().len(), 1, "a privileged container needs no defaults");
        let bad = LinuxDeviceCgroupBuilder::default().allow(true).access("rx").build().unwrap();
        assert!(rules(&[bad]).is_err());
    }
}
