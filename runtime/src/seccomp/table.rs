//! System call numbers, and which calls a container may make by default.
//!
//! `syscalls.txt` has a line per call: name, number on x86-64, x86 and AArch64 (`-`: none), then `+` (allowed by default), the
//! capabilities that allow it, or `-`. `?` marks the calls whose arguments decide.

use oci_spec::runtime::Arch;

const TABLE: &str = include_str!("syscalls.txt");

/// One line.
pub(super) struct Call {
    pub(super) name: &'static str,
    numbers: [Option<u32>; 3],
    pub(super) policy: &'static str,
}

/// All lines, by name.
pub(super) fn calls() -> impl Iterator<Item = Call> {
    TABLE.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let name = fields.next()?;
        let mut number = || fields.next()?.parse().ok();
        let numbers = [number(), number(), number()];
        Some(Call { name, numbers, policy: fields.next()? })
    })
}

impl Call {
    /// Its number there. x32 has x86-64's numbers with a bit set.
    pub(super) fn number(&self, arch: Arch) -> Option<u32> {
        match arch {
            Arch::ScmpArchX86_64 => self.numbers[0],
            Arch::ScmpArchX32 => self.numbers[0].map(|n| n | X32_BIT),
            Arch::ScmpArchX86 => self.numbers[1],
            Arch::ScmpArchAarch64 => self.numbers[2],
            _ => None,
        }
    }
}

/// `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The kernel's `AUDIT_ARCH_*` of an architecture that the table knows.
pub(super) fn audit(arch: Arch) -> Option<u32> {
    Some(match arch {
        Arch::ScmpArchX86_64 | Arch::ScmpArchX32 => 0xc000_003e,
        Arch::ScmpArchX86 => 0x4000_0003,
        Arch::ScmpArchAarch64 => 0xc000_00b7,
        _ => return None,
    })
}

/// This program's own architecture.
pub(super) const NATIVE: Arch =
    if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_libc() {
        let number = |name| calls().find(|c| c.name == name).unwrap().number(NATIVE).map(i64::from);
        assert_eq!(number("clone3"), Some(libc::SYS_clone3));
        assert_eq!(number("newfstatat"), Some(libc::SYS_newfstatat));
        assert_eq!(number("mount"), Some(libc::SYS_mount));
        assert_eq!(number("socket"), Some(libc::SYS_socket));
        assert!(calls().count() > 400);
        assert!(calls().all(|c| c.numbers.iter().any(Option::is_some) && !c.policy.is_empty()));
    }
}
