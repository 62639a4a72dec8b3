//! The few system calls that neither std nor rustix wraps safely.
#![expect(unsafe_code, reason = "fork, signalfd and controlling terminals have no safe wrapper")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fork {
    /// With the child.
    Parent(rustix::process::Pid),
    Child,
}

/// Forks. Refused while this process has more than one thread, for the child could then do nothing safely; one that is about to end (it
/// closes something, or removes a directory) is waited for.
pub(super) fn fork_alone() -> io::Result<Fork> {
    let mut tries = 200;
    while std::fs::read_dir("/proc/self/task")?.count() != 1 {
        if tries == 0 {
            return Err(io::Error::other("shim_main must be called before the program starts threads"));
        }
        tries -= 1;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // SAFETY: there is one thread, which does not start another here, so the child's copy of the memory is consistent and no lock is held by a thread that it lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        child => rustix::process::Pid::from_raw(child)
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::other("fork gave no process")),
    }
}

/// Closes what this process was started with beside its standard streams.
pub(super) fn close_inherited() {
    let (first, last, flags) = (3u32, u32::MAX, 0u32);
    // SAFETY: nothing has been opened since the program was started, so no value here owns one of these descriptors. A kernel without the call
    // refuses it, and they stay open.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

/// Runs `work` in a child of its own, for what would change this process for good, and returns the code that it ends with. As [`fork_alone`],
/// for a process with one thread.
pub(super) fn in_child(work: impl FnOnce() -> i32) -> io::Result<i32> {
    match fork_alone()? {
        Fork::Child => {
            let code = work();
            // SAFETY: ends this process at once; neither destructors nor exit handlers, which are the parent's, run.
            unsafe { libc::_exit(code) }
        }
        Fork::Parent(child) => loop {
            match rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(status.exit_status().unwrap_or(libc::EIO)),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        },
    }
}

/// A network namespace that nobody is in; `None` where the caller may not make one.
pub(super) fn new_netns() -> io::Result<Option<OwnedFd>> {
    // A thread may leave its network namespace alone, and takes nothing else with it when it ends.
    let made = std::thread::Builder::new().spawn(|| {
        // SAFETY: no memory is involved, and descriptors stay shared: this is not CLONE_FILES.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        std::fs::File::open("/proc/thread-self/ns/net")
    })?;
    match made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(netns) => Ok(Some(netns.into())),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(e) => Err(e),
    }
}

/// Gives freed memory back to the kernel, where the allocator is glibc's.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes any padding and only touches the allocator's own state, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Signals that a foreground client passes on: all but those that mean something to the client itself or come from a fault in it.
fn proxied() -> libc::sigset_t {
    let keep = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGPIPE,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGSYS,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGCONT,
        libc::SIGURG,
    ];
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set; sigaddset gets the initialised set and valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in (1..=31).filter(|s| !keep.contains(s)) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocked signals of the calling thread, readable from a descriptor; dropped: unblocked again.
#[derive(Debug)]
pub(super) struct Signals {
    fd: OwnedFd,
    old: libc::sigset_t,
}

impl Signals {
    pub(super) fn block() -> io::Result<Self> {
        let set = proxied();
        let mut old = set;
        // SAFETY: both sets are valid for the duration of the call.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut old) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: -1 asks for a new descriptor; the set is valid.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nothing else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, old })
    }

    /// The next signal that came in.
    pub(super) fn next(&self) -> Option<i32> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(n) if n == buffer.len() => {
                Some(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))
            }
            _ => None,
        }
    }
}

impl std::os::fd::AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: `old` is the mask that block() got from the kernel.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.old, std::ptr::null_mut());
        }
    }
}
