//! The start-up helper: what runs between `clone3` and the container's `execve`.
//!
//! A freestanding program without an allocator, a C library or a panic path, compiled by the crate's build script and executed from a
//! sealed memfd, so that a starting container never shares memory with, and is never an image of, the program that embeds the library.
//! It maps the plan named by its arguments and walks its steps. It reports `{step, errno}` on the status socket; when the socket closes
//! without a report, `execve` has succeeded.
#![no_std]
#![no_main]

#[path = "copy.rs"]
mod copy;
#[path = "kernel.rs"]
mod kernel;
#[path = "ops.rs"]
mod ops;
#[path = "../wire.rs"]
#[expect(dead_code, reason = "the parent uses the rest")]
mod wire;

use kernel::{exit, nr, syscall};
use wire::{ANY, BASE, Header, Message, NO_SLOT, OP, Step, msg};

/// Number of result slots.
const SLOTS: usize = 64;

/// What the steps change.
struct Machine {
    slots: [u64; SLOTS],
    status: u64,
    pc: u32,
    /// What the parent knows this process by, once it has told.
    pid: u32,
    /// The empty directory of masks has its place.
    empty_attached: bool,
}

impl Machine {
    fn tell(&self, kind: u32, value: i32, detail: i32) -> i64 {
        let message = Message { kind, step: self.pc, value, detail };
        // SAFETY: the message outlives the call.
        unsafe { syscall(nr::WRITE, [self.status, &raw const message as u64, size_of::<Message>() as u64, 0, 0, 0]) }
    }

    fn fail(&self, errno: i64, detail: i32) -> ! {
        self.tell(msg::ERROR, errno as i32, detail);
        exit(127)
    }

    fn run(&mut self, steps: &[Step]) -> ! {
        let mut pc = 0;
        while let Some(step) = steps.get(pc) {
            self.pc = pc as u32;
            let mut args = step.args;
            for (i, arg) in args.iter_mut().enumerate() {
                if step.slots & (1 << i) != 0 {
                    *arg = self.slots.get(*arg as usize).copied().unwrap_or(u64::MAX);
                }
            }
            let result = if step.kind == OP {
                ops::run(self, step.nr, &args)
            } else {
                // SAFETY: the parent compiled the call and its pointers for this address space.
                unsafe { syscall(u64::from(step.nr), args) }
            };
            pc += 1;
            if result < 0 && result > -4096 {
                let errno = -result;
                if !step.forgive.iter().any(|&f| f == ANY || i64::from(f) == errno) {
                    self.fail(errno, 0);
                }
                pc += step.skip_err as usize;
            } else {
                if step.out != NO_SLOT
                    && let Some(slot) = self.slots.get_mut(step.out as usize)
                {
                    *slot = result as u64;
                }
                pc += step.skip_ok as usize;
            }
        }
        exit(0)
    }
}

/// `sp` points at argc; the arguments are the plan's descriptor and its length.
pub(crate) unsafe extern "C" fn main(sp: *const usize) -> ! {
    // SAFETY: the kernel's ABI for a new process: argc, then that many pointers; the parent always passes three.
    let (fd, len) = unsafe {
        if *sp < 3 {
            exit(126);
        }
        (number(*sp.add(2) as *const u8), number(*sp.add(3) as *const u8))
    };
    // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED
    // SAFETY: nothing else lives at BASE in this program.
    let mapped = unsafe { syscall(nr::MMAP, [BASE, len, 3, 0x12, fd, 0]) };
    if mapped as u64 != BASE {
        exit(125);
    }
    // SAFETY: the parent laid out a header and `count` steps in the mapping, which lives as long as this program.
    let (header, steps) = unsafe {
        syscall(nr::CLOSE, [fd, 0, 0, 0, 0, 0]);
        let header = &*(BASE as *const Header);
        (header, core::slice::from_raw_parts(header.steps as *const Step, header.count as usize))
    };
    Machine { slots: [u64::MAX; SLOTS], status: header.status as u64, pc: 0, pid: 0, empty_attached: false }.run(steps)
}

/// A decimal number.
unsafe fn number(mut text: *const u8) -> u64 {
    let mut value = 0;
    // SAFETY: arguments end with a NUL.
    unsafe {
        while (*text).is_ascii_digit() {
            value = value * 10 + u64::from(*text - b'0');
            text = text.add(1);
        }
    }
    value
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(124)
}
