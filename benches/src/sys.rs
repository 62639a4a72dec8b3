//! `wait4(2)`, which std does not offer: the only way to one child's own resource usage.

use std::io::Read;
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{BoxError, Sample};

pub(crate) fn run(command: &mut Command) -> Result<Sample, BoxError> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut message = String::new();
    child.stderr.take().expect("it was piped").read_to_string(&mut message)?;
    let (status, usage) = wait4(child.id())?;
    let wall = start.elapsed();
    if status != 0 {
        let tail: String = message.lines().rev().take(2).collect::<Vec<_>>().join(" / ");
        return Err(
            format!("{}: wait status {status}: {tail}", command.get_program().to_string_lossy()).into()
        );
    }
    let cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
    Ok(Sample { wall, cpu: Some(cpu), peak_rss: Some(usage.ru_maxrss.unsigned_abs() * 1024) })
}

fn wait4(pid: u32) -> std::io::Result<(i32, libc::rusage)> {
    let pid = libc::pid_t::try_from(pid).expect("a PID fits pid_t");
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to live, writable locals of the right type, and a zeroed rusage is valid.
        let (rc, usage) =
            unsafe { (libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()), usage.assume_init()) };
        if rc == pid {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn duration(t: libc::timeval) -> Duration {
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_usec).unwrap_or(0) * 1000)
}
