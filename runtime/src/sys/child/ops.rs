//! The steps that are more than one system call.

use crate::Machine;
use crate::kernel::{exit, nr, syscall};
use crate::wire::{Hook, PID_DIGITS, msg, op};

const EPERM: i64 = 1;
const EINTR: i64 = 4;
pub(crate) const ENOENT: i64 = 2;
const EIO: i64 = 5;
const EAGAIN: i64 = 11;
const EACCES: i64 = 13;
const EEXIST: i64 = 17;
pub(crate) const ENOTDIR: i64 = 20;
pub(crate) const EINVAL: i64 = 22;
const ETIMEDOUT: i64 = 110;
const ESTALE: i64 = 116;

pub(crate) const O_WRONLY: u64 = 1;
pub(crate) const O_CREAT: u64 = 0o100;
pub(crate) const O_DIRECTORY: u64 = if cfg!(target_arch = "aarch64") { 0o40000 } else { 0o200_000 };
const O_CLOEXEC: u64 = 0o2_000_000;
pub(crate) const O_PATH: u64 = 0o10_000_000;
pub(crate) const AT_EMPTY_PATH: u64 = 0x1000;
const AT_FDCWD: u64 = -100i64 as u64;

/// Runs one operation: its result, or `-errno`.
pub(crate) fn run(machine: &mut Machine, operation: u32, a: &[u64; 6]) -> i64 {
    match operation {
        op::TARGET => target(a[0], a[1] as *const u8, a[2] as usize, a[3] == 1, a[4], a[5]),
        op::SYNC => sync(machine, a[0] as u32, a[1] as i32),
        op::SEND_FD => send_fd(machine, a[0] as u32, a[1]),
        op::FORK => fork(machine, a[0]),
        op::PARK => park(machine, a[0]),
        op::MASK => mask(machine, a[0], a[1], a[2], a[3]),
        op::IS_DEVICE => is_device(a[0], a[1] as u16, a[2], a[3]),
        op::CHDIR => chdir(a[0]),
        op::EXEC => exec(a[0] as *const u64, a[1], a[2]),
        op::RESET_SIGNALS => reset_signals(),
        op::HOOK => hook(machine, a[0] as *const Hook),
        op::WRITE_FILE => write_file(a),
        op::LOOK_UP => look_up(a[0] as *const u64),
        op::IS_FS => is_fs(a[0], a[1]),
        op::NOT_FS => match is_fs(a[0], a[1]) {
            0 => -EPERM,
            e if e == -EINVAL => 0,
            e => e,
        },
        op::SAME_FILE => same_file(a[0], a[1]),
        op::COPY_UP => crate::copy::copy(a[0], a[1], a[2] == 1),
        op::PERMIT_PATH => permit_path(a[0], a[1], a[2]),
        _ => -EINVAL,
    }
}

pub(crate) fn call(nr: u64, args: &[u64]) -> i64 {
    let mut a = [0; 6];
    for (to, from) in a.iter_mut().zip(args) {
        *to = *from;
    }
    // SAFETY: every pointer passed in this file is to the plan's mapping or to a live local.
    unsafe { syscall(nr, a) }
}

pub(crate) fn close(fd: i64) {
    call(nr::CLOSE, &[fd as u64]);
}

/// `openat2(2)` with its `open_how`.
pub(crate) fn open(dir: u64, path: u64, flags: u64, mode: u64, resolve: u64) -> i64 {
    let how = [flags | O_CLOEXEC, mode, resolve];
    loop {
        // RESOLVE_IN_ROOT answers EAGAIN when a rename raced with it.
        let fd = call(nr::OPENAT2, &[dir, path, &raw const how as u64, 24]);
        if fd != -11 && fd != -EINTR {
            return fd;
        }
    }
}

pub(crate) const PATH_MAX: usize = 4096;
const ELOOP: i64 = 40;
const ENAMETOOLONG: i64 = 36;
/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;
pub(crate) const O_NOFOLLOW: u64 = if cfg!(target_arch = "aarch64") { 0o100_000 } else { 0o400_000 };
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_IN_ROOT: u64 = 0x10;

fn target(root: u64, path: *const u8, len: usize, file: bool, resolve: u64, mode: u64) -> i64 {
    let kind = if file { 0 } else { O_DIRECTORY };
    let fd = open(root, path as u64, O_PATH | kind, 0, resolve);
    if fd != -ENOENT {
        return fd;
    }
    walk_to(root, path, len, file, resolve, mode)
}

/// The long way.
#[inline(never)]
fn walk_to(root: u64, path: *const u8, len: usize, file: bool, resolve: u64, mode: u64) -> i64 {
    let mut walk = Walk { done: [0; PATH_MAX], len: 0, rest: [0; 2 * PATH_MAX], at: 2 * PATH_MAX - 1 };
    // SAFETY: the plan holds a path of this length there.
    let path = unsafe { core::slice::from_raw_parts(path, len) };
    let made = if walk.prepend(path) { walk.make(root, file, resolve, mode) } else { -ENAMETOOLONG };
    if made < 0 {
        return made;
    }
    // What was walked holds no link any more; one that is there now was put there in the meantime.
    let kind = if file { 0 } else { O_DIRECTORY };
    open(root, walk.path(), O_PATH | kind, 0, resolve | RESOLVE_NO_SYMLINKS)
}

/// A way through a root, one name after the other, on which what is missing is made. Links, dangling ones too, lead to where they
/// would inside the root.
struct Walk {
    /// Names behind, with slashes between and a NUL at `len`.
    done: [u8; PATH_MAX],
    len: usize,
    /// Names ahead, from `at`, with a NUL at the end.
    rest: [u8; 2 * PATH_MAX],
    at: usize,
}

impl Walk {
    /// Puts a path, and a slash, before the names ahead.
    fn prepend(&mut self, path: &[u8]) -> bool {
        let Some(at) = self.at.checked_sub(path.len() + 1) else { return false };
        for (to, from) in self.rest[at..].iter_mut().zip(path.iter().chain(b"/")) {
            *to = *from;
        }
        self.at = at;
        true
    }

    /// Takes the next name: its range in `rest`, with the slash behind it turned into a NUL.
    fn next(&mut self) -> Option<(usize, usize)> {
        while self.rest[self.at] == b'/' {
            self.at += 1;
        }
        let begin = self.at;
        while self.rest[self.at] != b'/' {
            if self.rest[self.at] == 0 {
                return None;
            }
            self.at += 1;
        }
        let end = self.at;
        self.rest[end] = 0;
        self.at += 1;
        Some((begin, end))
    }

    fn is_last(&self) -> bool {
        self.rest[self.at..].iter().all(|b| matches!(b, b'/' | 0))
    }

    fn push(&mut self, begin: usize, end: usize) -> bool {
        if self.len + 1 + (end - begin) >= PATH_MAX {
            return false;
        }
        if self.len > 0 {
            self.done[self.len] = b'/';
            self.len += 1;
        }
        for i in begin..end {
            self.done[self.len] = self.rest[i];
            self.len += 1;
        }
        self.done[self.len] = 0;
        true
    }

    /// The way back to the parent directory.
    fn pop(&mut self) {
        let slash = self.done[..self.len].iter().rposition(|b| *b == b'/');
        self.truncate(slash.unwrap_or(0));
    }

    fn truncate(&mut self, len: usize) {
        self.len = len;
        self.done[len] = 0;
    }

    /// The way behind, as a path that holds no link.
    fn path(&self) -> u64 {
        if self.len == 0 { c".".as_ptr() as u64 } else { self.done.as_ptr() as u64 }
    }

    fn make(&mut self, root: u64, file: bool, resolve: u64, mode: u64) -> i64 {
        let mut links = 0;
        while let Some((begin, end)) = self.next() {
            match &self.rest[begin..end] {
                b"." => continue,
                b".." => {
                    self.pop();
                    continue;
                }
                _ => {}
            }
            let dir = open(root, self.path(), O_PATH | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
            if dir < 0 {
                return dir;
            }
            let name = self.rest.as_ptr() as u64 + begin as u64;
            let found = make_name(dir as u64, name, file && self.is_last(), mode);
            close(dir);
            if found < 0 {
                return found;
            }
            let mut link = [0u8; PATH_MAX];
            let empty = c"".as_ptr() as u64;
            let len = call(nr::READLINKAT, &[found as u64, empty, link.as_mut_ptr() as u64, PATH_MAX as u64]);
            close(found);
            if len < 0 {
                // Not a link.
                if !self.push(begin, end) {
                    return -ENAMETOOLONG;
                }
                continue;
            }
            links += 1;
            if links > MAX_LINKS || resolve & RESOLVE_NO_SYMLINKS != 0 {
                return -ELOOP;
            }
            let link = &link[..(len as usize).min(PATH_MAX)];
            if link.first() == Some(&b'/') {
                self.truncate(0);
            }
            if !self.prepend(link) {
                return -ENAMETOOLONG;
            }
        }
        0
    }
}

/// Opens a name in a directory, made where it is missing; a link itself, not what it leads to.
fn make_name(dir: u64, name: u64, file: bool, mode: u64) -> i64 {
    let found = open(dir, name, O_PATH | O_NOFOLLOW, 0, 0);
    if found != -ENOENT {
        return found;
    }
    // O_CREAT | O_EXCL follows no link.
    let made = if file {
        open(dir, name, O_WRONLY | O_CREAT | 0o200, mode, 0)
    } else {
        call(nr::MKDIRAT, &[dir, name, 0o755])
    };
    if made < 0 && made != -EEXIST {
        return made;
    }
    if file && made >= 0 {
        close(made);
    }
    open(dir, name, O_PATH | O_NOFOLLOW, 0, 0)
}

fn sync(machine: &mut Machine, kind: u32, value: i32) -> i64 {
    machine.tell(kind, value, 0);
    machine.pid = wait_for_word(machine.status);
    0
}

/// The parent's answer; an end of file means that it is gone, and so are we.
fn wait_for_word(fd: u64) -> u32 {
    let mut word = 0u32;
    loop {
        match call(nr::READ, &[fd, &raw mut word as u64, 4]) {
            4 => return word,
            r if r == -EINTR => {}
            _ => exit(123),
        }
    }
}

#[repr(C)]
struct Rights {
    len: u64,
    level: i32,
    kind: i32,
    fd: i32,
    pad: i32,
}

fn send_fd(machine: &Machine, kind: u32, fd: u64) -> i64 {
    let message = crate::wire::Message { kind, step: machine.pc, value: 0, detail: 0 };
    let iov = [&raw const message as u64, size_of_val(&message) as u64];
    let rights = Rights { len: 20, level: 1, kind: 1, fd: fd as i32, pad: 0 };
    let header = [0, 0, &raw const iov as u64, 1, &raw const rights as u64, size_of::<Rights>() as u64, 0];
    call(nr::SENDMSG, &[machine.status, &raw const header as u64, 0])
}

fn fork(machine: &Machine, flags: u64) -> i64 {
    const CLONE_PARENT: u64 = 0x8000;
    // The parent has to hear of the child before it hears from it: otherwise it takes the child's words for this process's.
    let mut pipe = [0u32; 2];
    let r = call(nr::PIPE2, &[&raw mut pipe as u64, O_CLOEXEC]);
    if r < 0 {
        return r;
    }
    // flags, pidfd, child_tid, parent_tid, exit_signal (0: CLONE_PARENT takes ours), stack...
    let args = [flags | CLONE_PARENT, 0, 0, 0, 0, 0, 0, 0];
    let pid = call(nr::CLONE3, &[&raw const args as u64, 64]);
    if pid > 0 {
        machine.tell(msg::PID, pid as i32, 0);
        call(nr::WRITE, &[u64::from(pipe[1]), &raw const pid as u64, 4]);
        exit(0);
    }
    close(i64::from(pipe[1]));
    if pid == 0 {
        wait_for_word(u64::from(pipe[0]));
    }
    close(i64::from(pipe[0]));
    pid
}

fn park(machine: &mut Machine, listener: u64) -> i64 {
    machine.tell(msg::READY, 0, 0);
    // Until the creator has written down that we are here, nobody else knows: if it ends before, so do we.
    machine.pid = wait_for_word(machine.status);
    if listener == u64::MAX {
        machine.pid = wait_for_word(machine.status);
        return 0;
    }
    close(machine.status as i64);
    loop {
        let peer = call(nr::ACCEPT4, &[listener, 0, 0, 0o2_000_000]);
        if peer < 0 {
            if peer == -EINTR || peer == -103 {
                continue;
            }
            return peer;
        }
        let mut word = 0u32;
        if call(nr::READ, &[peer as u64, &raw mut word as u64, 4]) == 4 {
            machine.pid = word;
            machine.status = peer as u64;
            close(listener as i64);
            return 0;
        }
        close(peer);
    }
}

fn mask(machine: &mut Machine, root: u64, path: u64, null: u64, empty: u64) -> i64 {
    let at = open(root, path, O_PATH, 0, RESOLVE_IN_ROOT);
    if at < 0 {
        // What is not there needs no hiding; neither does what is below a file.
        return if at == -ENOENT || at == -ENOTDIR || at == -EACCES { 0 } else { at };
    }
    let directory = match stat(at as u64) {
        Err(e) => return e,
        Ok(s) => s.mode & 0o170_000 == 0o040_000,
    };
    // The empty directory itself goes to the first place, and the others get clones of it. Before Linux 6.15 no mount can be cloned that
    // is attached nowhere, and the end of one makes the kernel wait for a grace period.
    let result = match directory {
        true if !machine.empty_attached => move_onto(empty, at as u64),
        true => clone_onto(empty, at as u64),
        false => clone_onto(null, at as u64),
    };
    machine.empty_attached |= directory;
    close(at);
    result
}

fn clone_onto(source: u64, at: u64) -> i64 {
    // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    let tree = call(nr::OPEN_TREE, &[source, c"".as_ptr() as u64, 1 | O_CLOEXEC | AT_EMPTY_PATH]);
    if tree < 0 {
        return tree;
    }
    // Read-only: the null device is the host's, and its mode and owner are not the container's to change. Not nodev: it must open.
    // MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    let attributes = [0x1u64 | 0x2 | 0x8, 0, 0, 0];
    let empty = c"".as_ptr() as u64;
    let set = call(nr::MOUNT_SETATTR, &[tree as u64, empty, AT_EMPTY_PATH, &raw const attributes as u64, 32]);
    if set < 0 {
        close(tree);
        return set;
    }
    let moved = move_onto(tree as u64, at);
    close(tree);
    moved
}

fn move_onto(tree: u64, at: u64) -> i64 {
    // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    call(nr::MOVE_MOUNT, &[tree, c"".as_ptr() as u64, at, c"".as_ptr() as u64, 0x44])
}

pub(crate) struct Stat {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

pub(crate) fn stat(fd: u64) -> Result<Stat, i64> {
    let mut buffer = [0u32; 64];
    // STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID
    let r = call(nr::STATX, &[fd, c"".as_ptr() as u64, AT_EMPTY_PATH, 0x1b, &raw mut buffer as u64]);
    if r < 0 {
        return Err(r);
    }
    // struct statx: stx_uid and stx_gid are at offsets 20 and 24, stx_mode is the u16 at 28, stx_rdev_{major,minor} are at 128 and 132.
    let mode = (buffer[7] & 0xffff) as u16;
    Ok(Stat { mode, uid: buffer[5], gid: buffer[6], major: buffer[32], minor: buffer[33] })
}

/// It is a device, or a FIFO, of this type (`S_IFCHR`...) and these numbers.
fn is_device(fd: u64, kind: u16, major: u64, minor: u64) -> i64 {
    match stat(fd) {
        Err(e) => e,
        Ok(s) if s.mode & 0o170_000 == kind && u64::from(s.major) == major && u64::from(s.minor) == minor => 0,
        Ok(_) => -EINVAL,
    }
}

/// Device and inode of both are the same.
fn same_file(a: u64, b: u64) -> i64 {
    match (identity(a), identity(b)) {
        (Err(e), _) | (_, Err(e)) => e,
        (Ok(a), Ok(b)) if a == b => 0,
        _ => -ESTALE,
    }
}

fn identity(fd: u64) -> Result<[u32; 4], i64> {
    let mut buffer = [0u32; 64];
    // STATX_INO
    let r = call(nr::STATX, &[fd, c"".as_ptr() as u64, AT_EMPTY_PATH, 0x100, &raw mut buffer as u64]);
    // stx_ino is the u64 at offset 32, stx_dev_{major,minor} at 136 and 140.
    if r < 0 { Err(r) } else { Ok([buffer[8], buffer[9], buffer[34], buffer[35]]) }
}

fn is_fs(fd: u64, magic: u64) -> i64 {
    let mut buffer = [0u64; 16];
    match call(nr::FSTATFS, &[fd, &raw mut buffer as u64]) {
        r if r < 0 => r,
        _ if buffer[0] == magic => 0,
        _ => -EINVAL,
    }
}

fn chdir(path: u64) -> i64 {
    let r = call(nr::CHDIR, &[path]);
    if r < 0 {
        return r;
    }
    // "(unreachable)/..." means that the directory lies outside the root: a leaked descriptor (CVE-2024-21626).
    let mut buffer = [0u8; PATH_MAX];
    let r = call(nr::GETCWD, &[&raw mut buffer as u64, PATH_MAX as u64]);
    if r < 0 {
        return r;
    }
    if buffer[0] == b'/' { 0 } else { -EACCES }
}

fn exec(mut paths: *const u64, argv: u64, envp: u64) -> i64 {
    let mut worst = -ENOENT;
    loop {
        // SAFETY: the parent ends the array with a null pointer.
        let path = unsafe { *paths };
        if path == 0 {
            return worst;
        }
        let r = call(nr::EXECVE, &[path, argv, envp]);
        if r != -ENOENT && r != -ENOTDIR && r != -EACCES {
            return r;
        }
        if r == -EACCES {
            worst = r;
        }
        // SAFETY: within the array, as it has not ended.
        paths = unsafe { paths.add(1) };
    }
}

fn look_up(mut paths: *const u64) -> i64 {
    let mut worst = -ENOENT;
    loop {
        // SAFETY: the parent ends the array with a null pointer.
        let path = unsafe { *paths };
        if path == 0 {
            return worst;
        }
        let fd = open(AT_FDCWD, path, O_PATH, 0, 0);
        if fd >= 0 {
            let found = stat(fd as u64);
            close(fd);
            match found {
                Ok(s) if s.mode & 0o170_000 == 0o100_000 && s.mode & 0o111 != 0 => return 0,
                Ok(_) => worst = -EACCES,
                Err(e) => return e,
            }
        } else if fd == -EACCES {
            worst = fd;
        }
        // SAFETY: within the array, as it has not ended.
        paths = unsafe { paths.add(1) };
    }
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// What can be done to a file that is no directory: execute, write, read, truncate, ioctl. The kernel refuses a rule with more.
const FILE_RIGHTS: u64 = 1 | 2 | 4 | 1 << 14 | 1 << 15;

fn permit_path(ruleset: u64, path: u64, rights: u64) -> i64 {
    // No link of /proc: one that the image has put there could name a descriptor of this process.
    let fd = open(AT_FDCWD, path, O_PATH, 0, RESOLVE_NO_MAGICLINKS);
    if fd < 0 {
        return if fd == -ENOENT || fd == -ENOTDIR { 0 } else { fd };
    }
    let result = match stat(fd as u64) {
        Err(e) => e,
        Ok(s) => {
            let directory = s.mode & 0o170_000 == 0o040_000;
            let allowed = if directory { rights } else { rights & FILE_RIGHTS };
            let rule = PathBeneath { allowed, parent: fd as i32 };
            // LANDLOCK_RULE_PATH_BENEATH
            call(nr::LANDLOCK_ADD_RULE, &[ruleset, 1, &raw const rule as u64, 0])
        }
    };
    close(fd);
    result
}

fn reset_signals() -> i64 {
    let default = [0u64; 4];
    for signal in (1..=64).filter(|s| *s != 9 && *s != 19) {
        call(nr::RT_SIGACTION, &[signal, &raw const default as u64, 0, 8]);
    }
    0
}

fn write_file(a: &[u64; 6]) -> i64 {
    let fd = open(a[0], a[1], O_WRONLY, 0, a[4]);
    if fd < 0 {
        return fd;
    }
    let written = call(nr::WRITE, &[fd as u64, a[2], a[3]]);
    close(fd);
    if written < 0 || written as u64 == a[3] { written.min(0) } else { -EIO }
}

/// Runs a hook: its input on a pipe, its end awaited, its failure ours.
fn hook(machine: &Machine, hook: *const Hook) -> i64 {
    // SAFETY: the parent laid it out in the plan.
    let hook = unsafe { &*hook };
    // SAFETY: as above; the plan is mapped privately and writable, and these bytes are the helper's to fill in.
    let digits = unsafe { core::slice::from_raw_parts_mut(hook.pid as *mut u8, PID_DIGITS) };
    let mut rest = machine.pid;
    for digit in digits.iter_mut().rev() {
        *digit = if rest > 0 { b'0' + (rest % 10) as u8 } else { b' ' };
        rest /= 10;
    }
    let mut pipe = [0i32; 2];
    let r = call(nr::PIPE2, &[&raw mut pipe as u64, O_CLOEXEC]);
    if r < 0 {
        return r;
    }
    let mut pidfd = -1i32;
    // CLONE_PIDFD; SIGCHLD
    let args = [0x1000u64, &raw mut pidfd as u64, 0, 0, 17, 0, 0, 0];
    let pid = call(nr::CLONE3, &[&raw const args as u64, 64]);
    if pid == 0 {
        let none = 0u64;
        call(nr::RT_SIGPROCMASK, &[2, &raw const none as u64, 0, 8]);
        call(nr::DUP3, &[pipe[0] as u64, 0, 0]);
        call(nr::CLOSE_RANGE, &[3, u64::from(u32::MAX), 4]);
        call(nr::EXECVE, &[hook.path, hook.argv, hook.envp]);
        exit(127);
    }
    close(i64::from(pipe[0]));
    if pid < 0 {
        close(i64::from(pipe[1]));
        return pid;
    }
    if !attend(hook, pidfd, pipe[1]) {
        call(nr::KILL, &[pid as u64, 9]);
        machine.fail(ETIMEDOUT, 0);
    }
    close(i64::from(pidfd));
    let mut info = [0i32; 32];
    // P_PID, WEXITED
    while call(nr::WAITID, &[1, pid as u64, &raw mut info as u64, 4, 0]) == -EINTR {}
    // si_status follows si_pid and si_uid in the union at offset 16.
    let (code, status) = (info[2], info[6]);
    if code != 1 || status != 0 {
        machine.fail(EIO, if code == 1 { status } else { 128 + status });
    }
    0
}

/// Feeds a hook, which need not read, until it ends; false: its time is over first.
fn attend(hook: &Hook, pidfd: i32, mut pipe: i32) -> bool {
    // F_SETFL, O_NONBLOCK
    call(nr::FCNTL, &[pipe as u64, 4, 0o4000]);
    let mut written = 0;
    // The kernel leaves in it what is left, also after an interruption.
    let mut time = [hook.timeout / 1000, hook.timeout % 1000 * 1_000_000];
    let time = if hook.timeout < 0 { 0 } else { &raw mut time as u64 };
    loop {
        // pollfd: the descriptor (none: -1), POLLIN or POLLOUT, and above those what came.
        let mut fds = [[pidfd as u32, 1], [pipe as u32, 4]];
        let r = call(nr::PPOLL, &[&raw mut fds as u64, 2, time, 0, 0]);
        if r == 0 {
            return false;
        }
        if r > 0 && fds[1][1] >> 16 != 0 {
            let r = call(nr::WRITE, &[pipe as u64, hook.input + written, hook.input_len - written]);
            written += r.max(0) as u64;
            if written == hook.input_len || (r < 0 && r != -EAGAIN) {
                close(i64::from(pipe));
                pipe = -1;
            }
        }
        if r > 0 && fds[0][1] >> 16 != 0 {
            break;
        }
    }
    close(i64::from(pipe));
    // Who wrote to a hook that does not read has a SIGPIPE waiting for it, blocked until the last step.
    let (sigpipe, now) = (1u64 << 12, [0u64; 2]);
    call(nr::RT_SIGTIMEDWAIT, &[&raw const sigpipe as u64, 0, &raw const now as u64, 8]);
    true
}
