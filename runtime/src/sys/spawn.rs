//! `clone3` of the helper.
//!
//! The child borrows the caller's memory for the few system calls until `execveat` (CLONE_VM | CLONE_VFORK), so the cost does not grow
//! with the host; it runs on a stack of its own, with every signal blocked, and touches nothing but its arguments.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What to start.
pub(crate) struct Spawn<'a> {
    /// The helper.
    pub(crate) program: BorrowedFd<'a>,
    /// The compiled plan and its length.
    pub(crate) plan: BorrowedFd<'a>,
    /// Length of the plan.
    pub(crate) plan_len: usize,
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u64,
    /// cgroup v2 directory that the child is born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Descriptors that the helper keeps, at their numbers.
    pub(crate) keep: &'a [RawFd],
}

const STACK: usize = 16 * 1024;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Starts the helper: its PID and pidfd.
pub(crate) fn spawn(request: &Spawn<'_>) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let mut stack = vec![0u128; STACK / 16];
    let fd = format!("{}\0", request.plan.as_raw_fd());
    let len = format!("{}\0", request.plan_len);
    let argv: [*const c_char; 4] =
        [c"longshore-init".as_ptr(), fd.as_ptr().cast(), len.as_ptr().cast(), std::ptr::null()];
    let mut job = Job {
        program: request.program.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: [std::ptr::null()],
        keep: request.keep.as_ptr(),
        keep_len: request.keep.len(),
        plan: request.plan.as_raw_fd(),
        errno: 0,
    };
    let mut flags = request.namespaces
        | (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64
        | CLONE_CLEAR_SIGHAND;
    let mut cgroup = 0;
    if let Some(fd) = request.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = fd.as_raw_fd() as u64;
    }
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup.
    let args: [u64; 11] = [
        flags,
        &raw mut pidfd as u64,
        0,
        0,
        libc::SIGCHLD as u64,
        stack.as_mut_ptr() as u64,
        STACK as u64,
        0,
        0,
        0,
        cgroup,
    ];
    let blocked = BlockedSignals::new();
    // SAFETY: the child gets its own stack and `job`; this thread sleeps (CLONE_VFORK) until the child has executed or ended, so
    // everything it borrows outlives it, and with all signals blocked no handler of the host runs in it.
    let pid = unsafe { clone_into(&args, &raw mut job) };
    drop(blocked);
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD).
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: `job` is live; volatile as the child wrote it behind the compiler's back.
    let errno = unsafe { (&raw const job.errno).read_volatile() };
    if errno != 0 {
        super::wait(&pidfd, None)?;
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok((pid as u32, pidfd))
}

/// What the child reads, in the parent's memory.
#[repr(C)]
struct Job {
    program: RawFd,
    argv: *const *const c_char,
    envp: [*const c_char; 1],
    keep: *const RawFd,
    keep_len: usize,
    plan: RawFd,
    errno: i32,
}

/// Runs in the child on its own stack: no allocation, no locks, nothing of the C library.
unsafe extern "C" fn child(job: *mut Job) -> ! {
    // SAFETY: the parent sleeps and keeps `job` and all it points at alive; raw system calls touch no thread-local state.
    unsafe {
        for i in 0..(*job).keep_len {
            syscall(libc::SYS_fcntl, [*(*job).keep.add(i) as u64, libc::F_SETFD as u64, 0, 0, 0, 0]);
        }
        syscall(libc::SYS_fcntl, [(*job).plan as u64, libc::F_SETFD as u64, 0, 0, 0, 0]);
        let empty = c"".as_ptr() as u64;
        let argv = (*job).argv as u64;
        let envp = (&raw const (*job).envp) as u64;
        let r = syscall(
            libc::SYS_execveat,
            [(*job).program as u64, empty, argv, envp, libc::AT_EMPTY_PATH as u64, 0],
        );
        (&raw mut (*job).errno).write_volatile(-r as i32);
        loop {
            syscall(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
        }
    }
}

/// `clone3` whose child calls [`child`] on the new stack.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_into(args: &[u64; 11], job: *mut Job) -> i64 {
    let result: i64;
    // SAFETY: the child branch never leaves the block; the parent's registers are as the constraints say.
    unsafe {
        std::arch::asm!(
            "syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call {child}", "ud2", "2:",
            child = sym child,
            inlateout("rax") libc::SYS_clone3 => result, in("rdi") args.as_ptr(), in("rsi") size_of_val(args), in("r12") job,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// `clone3` whose child calls [`child`] on the new stack.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_into(args: &[u64; 11], job: *mut Job) -> i64 {
    let result: i64;
    // SAFETY: the child branch never leaves the block; the parent's registers are as the constraints say.
    unsafe {
        std::arch::asm!(
            "svc 0", "cbnz x0, 2f", "mov x29, #0", "mov x30, #0", "mov x0, x20", "bl {child}", "brk #1", "2:",
            child = sym child,
            in("x8") libc::SYS_clone3, inlateout("x0") args.as_ptr() => result, in("x1") size_of_val(args), in("x20") job,
            out("x30") _,
        );
    }
    result
}

#[cfg(target_arch = "x86_64")]
unsafe fn syscall(nr: i64, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel's x86-64 calling convention; the caller answers for the call.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") nr => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3],
            in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn syscall(nr: i64, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel's AArch64 calling convention; the caller answers for the call.
    unsafe {
        std::arch::asm!("svc 0", in("x8") nr, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2], in("x3") a[3],
            in("x4") a[4], in("x5") a[5], options(nostack));
    }
    result
}

/// Every signal blocked for this thread while it lives. Raw, as the C library's wrapper leaves its internal signals open.
struct BlockedSignals(u64);

impl BlockedSignals {
    fn new() -> Self {
        let all = u64::MAX;
        let mut old = 0u64;
        // SAFETY: two live 8-byte signal sets.
        unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut old, 8)
        };
        Self(old)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: a live 8-byte signal set.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const self.0, 0usize, 8) };
    }
}
