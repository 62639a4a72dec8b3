//! seccomp filters.

use crate::error::Result;
use crate::plan::Builder;

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    /// `struct sock_filter`s.
    program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u64,
}

impl Filter {
    /// Adds the steps that load it.
    pub(crate) fn load(&self, b: &mut Builder) -> Result<()> {
        b.label("linux.seccomp");
        let program = b.bytes(&self.program);
        let count = (self.program.len() / 8) as u64;
        let fprog: Vec<u8> = [count, program].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let fprog = b.bytes(&fprog);
        b.call(
            "seccomp",
            libc::SYS_seccomp,
            [libc::SECCOMP_SET_MODE_FILTER.into(), self.flags.into(), fprog.into()],
        );
        Ok(())
    }
}
