//! Process 1 of a container with `--init`: starts the program as its child, passes signals on, reaps whatever ends, and ends with the program's
//! code. A freestanding program of its own, compiled by the crate's build script, that is mounted into the container.
//!
//! `init -- PROGRAM [ARG...]`
#![no_std]
#![no_main]

#[path = "../../sys/child/kernel.rs"]
#[expect(dead_code, reason = "the start-up helper uses the rest")]
mod kernel;

use kernel::{exit, syscall};

#[cfg(target_arch = "x86_64")]
mod nr {
    pub(crate) const RT_SIGPROCMASK: u64 = 14;
    pub(crate) const IOCTL: u64 = 16;
    pub(crate) const GETPID: u64 = 39;
    pub(crate) const CLONE: u64 = 56;
    pub(crate) const EXECVE: u64 = 59;
    pub(crate) const WAIT4: u64 = 61;
    pub(crate) const KILL: u64 = 62;
    pub(crate) const SETPGID: u64 = 109;
    pub(crate) const RT_SIGTIMEDWAIT: u64 = 128;
}
#[cfg(target_arch = "aarch64")]
mod nr {
    pub(crate) const IOCTL: u64 = 29;
    pub(crate) const KILL: u64 = 129;
    pub(crate) const RT_SIGPROCMASK: u64 = 135;
    pub(crate) const RT_SIGTIMEDWAIT: u64 = 137;
    pub(crate) const SETPGID: u64 = 154;
    pub(crate) const GETPID: u64 = 172;
    pub(crate) const CLONE: u64 = 220;
    pub(crate) const EXECVE: u64 = 221;
    pub(crate) const WAIT4: u64 = 260;
}

const SIGCHLD: i64 = 17;
const SIG_SETMASK: u64 = 2;
const TIOCSPGRP: u64 = 0x5410;
const WNOHANG: u64 = 1;
const ENOENT: i64 = 2;
const EACCES: i64 = 13;
const ENOTDIR: i64 = 20;
const PATH_MAX: usize = 4096;

/// All signals but those that a fault in this program itself would raise: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
static BLOCKED: u64 = !(bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(11) | bit(31));

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

fn call(nr: u64, a: u64, b: u64, c: u64, d: u64) -> i64 {
    // SAFETY: every caller passes numbers, or pointers to memory that outlives the call, as the call demands.
    unsafe { syscall(nr, [a, b, c, d, 0, 0]) }
}

/// `stack` is what the kernel put there: the number of arguments, the arguments, the environment.
extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel's layout of a new program's stack.
    let (count, args) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    if count < 3 {
        exit(127);
    }
    // SAFETY: the environment follows the arguments and the null after them; the first two are our own name and `--`.
    let (program, env) = unsafe { (args.add(2), args.add(count + 1)) };
    let mut before = 0u64;
    call(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const BLOCKED as u64, &raw mut before as u64, 8);
    let child = call(nr::CLONE, SIGCHLD as u64, 0, 0, 0);
    if child < 0 {
        exit(126);
    }
    if child == 0 {
        run(program, env, before);
    }
    supervise(child)
}

/// The child: a process group of its own in the terminal's foreground, with the signal mask that we got.
fn run(program: *const *const u8, env: *const *const u8, mask: u64) -> ! {
    call(nr::SETPGID, 0, 0, 0, 0);
    let group = call(nr::GETPID, 0, 0, 0, 0) as i32;
    // While the signal that stops background processes is still blocked. No terminal: no matter.
    call(nr::IOCTL, 0, TIOCSPGRP, &raw const group as u64, 0);
    call(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const mask as u64, 0, 8);
    // SAFETY: the first argument after `--` is there.
    let name = unsafe { *program };
    let error = if contains_slash(name) { execute(name, program, env) } else { search(name, program, env) };
    exit(if error == ENOENT || error == ENOTDIR { 127 } else { 126 })
}

fn execute(path: *const u8, args: *const *const u8, env: *const *const u8) -> i64 {
    -call(nr::EXECVE, path as u64, args as u64, env as u64, 0)
}

/// Looks for the program in `PATH`, as execvp(3).
fn search(name: *const u8, args: *const *const u8, env: *const *const u8) -> i64 {
    let Some(mut path) = variable(env) else { return ENOENT };
    let (mut result, mut full) = (ENOENT, [0u8; PATH_MAX]);
    loop {
        let mut at = 0;
        // SAFETY: a text that ends in a null; we stop at it.
        unsafe {
            while *path != 0 && *path != b':' {
                push(&mut full, &mut at, *path);
                path = path.add(1);
            }
            if at == 0 {
                push(&mut full, &mut at, b'.');
            }
            push(&mut full, &mut at, b'/');
            let mut rest = name;
            while *rest != 0 {
                push(&mut full, &mut at, *rest);
                rest = rest.add(1);
            }
        }
        if at < PATH_MAX {
            full[at] = 0;
            match execute(full.as_ptr(), args, env) {
                ENOENT | ENOTDIR => {}
                EACCES => result = EACCES,
                other => return other,
            }
        }
        // SAFETY: not past the null at the end.
        unsafe {
            if *path == 0 {
                return result;
            }
            path = path.add(1);
        }
    }
}

fn push(to: &mut [u8; PATH_MAX], at: &mut usize, byte: u8) {
    if let Some(place) = to.get_mut(*at) {
        *place = byte;
    }
    *at += 1;
}

/// The value of `PATH`.
fn variable(mut env: *const *const u8) -> Option<*const u8> {
    // SAFETY: an array of texts that ends in a null pointer; each text ends in a null.
    unsafe {
        while !(*env).is_null() {
            let text = *env;
            if (0..5).all(|i| *text.add(i) == b"PATH="[i]) {
                return Some(text.add(5));
            }
            env = env.add(1);
        }
    }
    None
}

fn contains_slash(mut text: *const u8) -> bool {
    // SAFETY: a text that ends in a null; we stop at it.
    unsafe {
        while *text != 0 {
            if *text == b'/' {
                return true;
            }
            text = text.add(1);
        }
    }
    false
}

/// The parent: every signal goes to the child, every dead process is reaped; the child's end is ours.
fn supervise(child: i64) -> ! {
    loop {
        let signal = call(nr::RT_SIGTIMEDWAIT, &raw const BLOCKED as u64, 0, 0, 8);
        if signal > 0 && signal != SIGCHLD {
            call(nr::KILL, child as u64, signal as u64, 0, 0);
        }
        loop {
            let mut status = 0i32;
            let ended = call(nr::WAIT4, u64::MAX, &raw mut status as u64, WNOHANG, 0);
            if ended <= 0 {
                break;
            }
            if ended == child {
                let signal = status & 0x7f;
                exit(if signal == 0 { status >> 8 & 0xff } else { 128 + signal } as u64);
            }
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(126)
}
