//! What the library and its start-up helper share: the layout of a compiled plan and of the messages on the status socket.
//!
//! A plan is one block of memory, laid out by the parent for a fixed address ([`BASE`]), so that every pointer in it (paths, argument
//! vectors, BPF) is already right when the helper maps it. The helper's whole work is to walk an array of [`Step`]s.

/// Where the helper maps the plan. Far from the helper's own segments, within every 64-bit address space.
pub(crate) const BASE: u64 = 0x10_0000_0000;

/// `Step::out` when the result is not kept.
pub(crate) const NO_SLOT: u8 = 0xff;
/// `Step::forgive` entry that matches every error.
pub(crate) const ANY: u16 = 0xffff;

/// One step: a raw system call, or one of the [`op`]s.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// System call number, or the operation when `kind` is [`OP`].
    pub(crate) nr: u32,
    /// [`SYSCALL`] or [`OP`].
    pub(crate) kind: u8,
    /// Bit `i` set: argument `i` is a slot number.
    pub(crate) slots: u8,
    /// Slot that takes the result, or [`NO_SLOT`].
    pub(crate) out: u8,
    /// Unused.
    pub(crate) pad: u8,
    /// Errors that do not end the plan (0: none).
    pub(crate) forgive: [u16; 2],
    /// Steps to leave out after success.
    pub(crate) skip_ok: u16,
    /// Steps to leave out after a forgiven error.
    pub(crate) skip_err: u16,
    /// Arguments.
    pub(crate) args: [u64; 6],
}

/// A step that is a system call.
pub(crate) const SYSCALL: u8 = 0;
/// A step that is an operation.
pub(crate) const OP: u8 = 1;

/// Operations: what takes a decision, or a loop, or the status socket.
pub(crate) mod op {
    /// Open (and make, where it is missing) a mount target inside a root: root slot, path, its length, kind (0 directory, 1 file),
    /// resolve flags, mode.
    pub(crate) const TARGET: u32 = 1;
    /// Tell the parent (kind, value) and wait for its answer: four bytes, the PID that the parent knows this process by.
    pub(crate) const SYNC: u32 = 2;
    /// Pass a descriptor to the parent: message kind, fd.
    pub(crate) const SEND_FD: u32 = 3;
    /// `clone3` with these flags; the caller reports the child's PID and ends, the child goes on.
    pub(crate) const FORK: u32 = 4;
    /// Tell the parent that all is ready, wait for its answer that the state is written, then wait on the listening socket for whoever
    /// starts the container: fd, or -1 for the status socket itself.
    pub(crate) const PARK: u32 = 5;
    /// Hide a path: root slot, path, slot of the null device, slot of an empty tmpfs.
    pub(crate) const MASK: u32 = 6;
    /// Fail unless the fd is this character device: fd, major, minor.
    pub(crate) const IS_DEVICE: u32 = 7;
    /// Change directory and see that it is inside the root: path.
    pub(crate) const CHDIR: u32 = 8;
    /// Try these paths in turn: array of paths, argv, envp.
    pub(crate) const EXEC: u32 = 9;
    /// Reset every signal's disposition.
    pub(crate) const RESET_SIGNALS: u32 = 10;
    /// Run a program and wait for it: pointer to [`super::Hook`].
    pub(crate) const HOOK: u32 = 11;
    /// Write all bytes to a file below a directory: dirfd, path, bytes, length, resolve flags.
    pub(crate) const WRITE_FILE: u32 = 12;
    /// Fail unless the fd lies on a file system with this magic: fd, magic.
    pub(crate) const IS_FS: u32 = 13;
    /// Fail, as `execve` would, unless one of these paths is a program: array of paths.
    pub(crate) const LOOK_UP: u32 = 14;
    /// Fail if the fd lies on a file system with this magic: fd, magic.
    pub(crate) const NOT_FS: u32 = 15;
    /// Fail unless both fds are the same file: fd, fd.
    pub(crate) const SAME_FILE: u32 = 16;
    /// Permit what lies at a path, if that exists, in a Landlock ruleset: ruleset, path, `LANDLOCK_ACCESS_FS_*`.
    pub(crate) const PERMIT_PATH: u32 = 17;
    /// Copy what is in a directory into another: from, to, whether mode and owner of the directory itself as well.
    pub(crate) const COPY_UP: u32 = 18;
}

/// A program that the helper runs: `createContainer` and `startContainer` hooks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    /// Path.
    pub(crate) path: u64,
    /// Argument vector.
    pub(crate) argv: u64,
    /// Environment.
    pub(crate) envp: u64,
    /// What it reads on standard input.
    pub(crate) input: u64,
    /// Length of `input`.
    pub(crate) input_len: u64,
    /// Where in `input` the PID goes: [`PID_DIGITS`] bytes, right-aligned.
    pub(crate) pid: u64,
    /// Milliseconds, or -1 for none.
    pub(crate) timeout: i64,
}

/// Width of the PID in a hook's input.
pub(crate) const PID_DIGITS: usize = 10;

/// First bytes of a plan.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Address of the first step.
    pub(crate) steps: u64,
    /// Number of steps.
    pub(crate) count: u32,
    /// Status socket.
    pub(crate) status: i32,
}

/// One message on the status socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Message {
    /// See [`msg`].
    pub(crate) kind: u32,
    /// Index of the step.
    pub(crate) step: u32,
    /// PID, error number, or the kind's own value.
    pub(crate) value: i32,
    /// A second value (an exit status).
    pub(crate) detail: i32,
}

/// Kinds of message.
pub(crate) mod msg {
    /// A step failed: `value` is the error number.
    pub(crate) const ERROR: u32 = 1;
    /// The forked child's PID.
    pub(crate) const PID: u32 = 2;
    /// Waiting for the identity maps.
    pub(crate) const MAPS: u32 = 3;
    /// Namespaces exist: time for prestart and createRuntime hooks, network devices.
    pub(crate) const HOOKS: u32 = 4;
    /// Parked before `execve`; waits for the answer.
    pub(crate) const READY: u32 = 5;
    /// Carries the controlling side of the terminal.
    pub(crate) const CONSOLE: u32 = 6;
    /// Carries the network namespace.
    pub(crate) const NETNS: u32 = 7;
    /// Carries the seccomp notification descriptor; waits for the answer.
    pub(crate) const NOTIFY: u32 = 8;
}
