//! Raw system calls and the program's entry.

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym crate::main
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {main}", "brk #1", main = sym crate::main);

/// System call numbers.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(crate) mod nr {
    pub(crate) const READ: u64 = 0;
    pub(crate) const WRITE: u64 = 1;
    pub(crate) const CLOSE: u64 = 3;
    pub(crate) const MMAP: u64 = 9;
    pub(crate) const RT_SIGACTION: u64 = 13;
    pub(crate) const RT_SIGPROCMASK: u64 = 14;
    pub(crate) const SENDMSG: u64 = 46;
    pub(crate) const FCNTL: u64 = 72;
    pub(crate) const RT_SIGTIMEDWAIT: u64 = 128;
    pub(crate) const SENDFILE: u64 = 40;
    pub(crate) const FCHMOD: u64 = 91;
    pub(crate) const GETDENTS64: u64 = 217;
    pub(crate) const MKNODAT: u64 = 259;
    pub(crate) const FCHOWNAT: u64 = 260;
    pub(crate) const SYMLINKAT: u64 = 266;
    pub(crate) const EXECVE: u64 = 59;
    pub(crate) const EXIT_GROUP: u64 = 231;
    pub(crate) const KILL: u64 = 62;
    pub(crate) const GETCWD: u64 = 79;
    pub(crate) const CHDIR: u64 = 80;
    pub(crate) const FSTATFS: u64 = 138;
    pub(crate) const MKDIRAT: u64 = 258;
    pub(crate) const READLINKAT: u64 = 267;
    pub(crate) const PPOLL: u64 = 271;
    pub(crate) const ACCEPT4: u64 = 288;
    pub(crate) const DUP3: u64 = 292;
    pub(crate) const PIPE2: u64 = 293;
    pub(crate) const STATX: u64 = 332;
    pub(crate) const OPEN_TREE: u64 = 428;
    pub(crate) const MOVE_MOUNT: u64 = 429;
    pub(crate) const CLONE3: u64 = 435;
    pub(crate) const CLOSE_RANGE: u64 = 436;
    pub(crate) const OPENAT2: u64 = 437;
    pub(crate) const MOUNT_SETATTR: u64 = 442;
    pub(crate) const LANDLOCK_ADD_RULE: u64 = 445;
    pub(crate) const WAITID: u64 = 247;
}
#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
pub(crate) mod nr {
    pub(crate) const READ: u64 = 63;
    pub(crate) const WRITE: u64 = 64;
    pub(crate) const CLOSE: u64 = 57;
    pub(crate) const MMAP: u64 = 222;
    pub(crate) const RT_SIGACTION: u64 = 134;
    pub(crate) const RT_SIGPROCMASK: u64 = 135;
    pub(crate) const SENDMSG: u64 = 211;
    pub(crate) const FCNTL: u64 = 25;
    pub(crate) const RT_SIGTIMEDWAIT: u64 = 137;
    pub(crate) const SENDFILE: u64 = 71;
    pub(crate) const FCHMOD: u64 = 52;
    pub(crate) const GETDENTS64: u64 = 61;
    pub(crate) const MKNODAT: u64 = 33;
    pub(crate) const FCHOWNAT: u64 = 54;
    pub(crate) const SYMLINKAT: u64 = 36;
    pub(crate) const EXECVE: u64 = 221;
    pub(crate) const EXIT_GROUP: u64 = 94;
    pub(crate) const KILL: u64 = 129;
    pub(crate) const GETCWD: u64 = 17;
    pub(crate) const CHDIR: u64 = 49;
    pub(crate) const FSTATFS: u64 = 44;
    pub(crate) const MKDIRAT: u64 = 34;
    pub(crate) const READLINKAT: u64 = 78;
    pub(crate) const PPOLL: u64 = 73;
    pub(crate) const ACCEPT4: u64 = 242;
    pub(crate) const DUP3: u64 = 24;
    pub(crate) const PIPE2: u64 = 59;
    pub(crate) const STATX: u64 = 291;
    pub(crate) const OPEN_TREE: u64 = 428;
    pub(crate) const MOVE_MOUNT: u64 = 429;
    pub(crate) const CLONE3: u64 = 435;
    pub(crate) const CLOSE_RANGE: u64 = 436;
    pub(crate) const OPENAT2: u64 = 437;
    pub(crate) const MOUNT_SETATTR: u64 = 442;
    pub(crate) const LANDLOCK_ADD_RULE: u64 = 445;
    pub(crate) const WAITID: u64 = 95;
}

/// A system call: its result, or `-errno`.
///
/// # Safety
/// As the call demands.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) unsafe fn syscall(nr: u64, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel's x86-64 calling convention; the caller answers for the call.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") nr as i64 => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3],
            in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A system call: its result, or `-errno`.
///
/// # Safety
/// As the call demands.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(crate) unsafe fn syscall(nr: u64, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel's AArch64 calling convention; the caller answers for the call.
    unsafe {
        core::arch::asm!("svc 0", in("x8") nr, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4],
            in("x5") a[5], options(nostack));
    }
    result
}

/// Ends the program.
pub(crate) fn exit(code: u64) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { syscall(nr::EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
    }
}

/// What the compiler may call for clearing memory. Volatile, or it would be turned into a call of itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    for i in 0..len {
        // SAFETY: the compiler passes a writable block of this length.
        unsafe { to.add(i).write_volatile(byte as u8) };
    }
    to
}

/// What the compiler may call for copying.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    for i in 0..len {
        // SAFETY: the compiler passes two blocks of this length that do not overlap.
        unsafe { to.add(i).write_volatile(*from.add(i)) };
    }
    to
}

/// Named by the unwind tables of the precompiled `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
