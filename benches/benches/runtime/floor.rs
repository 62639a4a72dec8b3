//! The floor: the system calls without which there is no such container, and nothing else. No spec, no checks, no state, no error
//! messages. The bench compiles it with `rustc` alone (static, so that starting it costs next to nothing) and races it.
//!
//! `floor ROOTFS [MOUNT=OPTIONS]...`: one argument per cgroup v1 hierarchy.
#![no_main]

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::ptr::null;

unsafe extern "C" {
    fn mount(from: *const c_char, to: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn mkdir(path: *const c_char, mode: u32) -> c_int;
    fn rmdir(path: *const c_char) -> c_int;
    fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
    fn symlink(to: *const c_char, path: *const c_char) -> c_int;
    fn open(path: *const c_char, flags: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn read(fd: c_int, to: *mut c_void, len: usize) -> isize;
    fn write(fd: c_int, from: *const c_void, len: usize) -> isize;
    fn chdir(path: *const c_char) -> c_int;
    fn syscall(nr: c_long, ...) -> c_long;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn execv(path: *const c_char, argv: *const *const c_char) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setsid() -> c_int;
    fn _exit(code: c_int) -> !;
}

const SYS_CLONE: c_long = if cfg!(target_arch = "x86_64") { 56 } else { 220 };
const SYS_PIVOT_ROOT: c_long = if cfg!(target_arch = "x86_64") { 155 } else { 41 };
const SYS_CAPSET: c_long = if cfg!(target_arch = "x86_64") { 126 } else { 91 };
const NEW: c_ulong = 0x0002_0000 | 0x2000_0000 | 0x4000_0000 | 0x0800_0000 | 0x0400_0000 | 0x0200_0000;
const RDONLY: c_ulong = 1;
const NOSUID: c_ulong = 2;
const NODEV: c_ulong = 4;
const NOEXEC: c_ulong = 8;
const REMOUNT: c_ulong = 32;
const BIND: c_ulong = 4096;
const REC: c_ulong = 16384;
const SLAVE: c_ulong = 1 << 19;
const SAFE: c_ulong = NOSUID | NODEV | NOEXEC;
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const CAPABILITIES: u64 = 0xa804_25fb;

fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn put(path: &str, text: &[u8]) {
    unsafe {
        let fd = open(c(path).as_ptr(), 1);
        write(fd, text.as_ptr().cast(), text.len());
        close(fd);
    }
}

fn copy(from: &str, to: &str) {
    let mut buffer = [0u8; 256];
    unsafe {
        let fd = open(c(from).as_ptr(), 0);
        let n = read(fd, buffer.as_mut_ptr().cast(), buffer.len());
        close(fd);
        put(to, &buffer[..n.max(0) as usize]);
    }
}

fn fs(kind: &str, to: &str, flags: c_ulong, data: &str) {
    unsafe {
        mkdir(c(to).as_ptr(), 0o755);
        let (kind, data) = (c(kind), c(data));
        if mount(kind.as_ptr(), c(to).as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) != 0 {
            _exit(3);
        }
    }
}

fn container(root: &str, groups: &[(&str, &str)]) -> ! {
    unsafe {
        let (slash, dot, root_c) = (c("/"), c("."), c(root));
        mount(null(), slash.as_ptr(), null(), REC | SLAVE, null());
        mount(root_c.as_ptr(), root_c.as_ptr(), null(), BIND | REC, null());
        let at = |path: &str| format!("{root}{path}");
        fs("proc", &at("/proc"), SAFE, "");
        fs("tmpfs", &at("/dev"), NOSUID, "mode=755,size=65536k");
        fs("devpts", &at("/dev/pts"), NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
        fs("sysfs", &at("/sys"), SAFE | RDONLY, "");
        fs("tmpfs", &at("/sys/fs/cgroup"), SAFE, "mode=755,size=64k");
        for (mount, options) in groups {
            let name = mount.rsplit('/').next().unwrap_or_default();
            fs("cgroup", &at(&format!("/sys/fs/cgroup/{name}")), SAFE | RDONLY, options);
        }
        let cgroup = c(&at("/sys/fs/cgroup"));
        mount(null(), cgroup.as_ptr(), null(), REMOUNT | BIND | SAFE | RDONLY, null());
        fs("mqueue", &at("/dev/mqueue"), SAFE, "");
        fs("tmpfs", &at("/dev/shm"), SAFE, "mode=1777,size=67108864");
        for (name, major, minor) in DEVICES {
            mknod(c(&at(&format!("/dev/{name}"))).as_ptr(), 0o020_666, major << 8 | minor);
        }
        for (to, path) in [
            ("/proc/self/fd", "/dev/fd"),
            ("/proc/self/fd/0", "/dev/stdin"),
            ("/proc/self/fd/1", "/dev/stdout"),
            ("/proc/self/fd/2", "/dev/stderr"),
            ("pts/ptmx", "/dev/ptmx"),
        ] {
            symlink(c(to).as_ptr(), c(&at(path)).as_ptr());
        }
        chdir(root_c.as_ptr());
        syscall(SYS_PIVOT_ROOT, dot.as_ptr(), dot.as_ptr());
        umount2(dot.as_ptr(), 2);
        let null_device = c("/dev/null");
        for path in MASKED {
            let path = c(path);
            if mount(null_device.as_ptr(), path.as_ptr(), null(), BIND, null()) == 0 {
                mount(null(), path.as_ptr(), null(), REMOUNT | BIND | RDONLY | NOSUID | NOEXEC, null());
            } else {
                // A directory, or nothing.
                let tmpfs = c("tmpfs");
                mount(tmpfs.as_ptr(), path.as_ptr(), tmpfs.as_ptr(), RDONLY | SAFE, c("nr_blocks=1,nr_inodes=1").as_ptr().cast());
            }
        }
        for path in READONLY {
            let path = c(path);
            mount(path.as_ptr(), path.as_ptr(), null(), BIND | REC, null());
            mount(null(), path.as_ptr(), null(), REMOUNT | BIND | SAFE | RDONLY, null());
        }
        mount(null(), slash.as_ptr(), null(), REMOUNT | BIND | RDONLY, null());
        setsid();
        for n in (0..41u64).filter(|n| CAPABILITIES & (1 << n) == 0) {
            prctl(24, n, 0, 0, 0);
        }
        let data = [CAPABILITIES as u32, CAPABILITIES as u32, 0, (CAPABILITIES >> 32) as u32, (CAPABILITIES >> 32) as u32, 0];
        syscall(SYS_CAPSET, [0x2008_0522u32, 0].as_ptr(), data.as_ptr());
        let program = c("/bin/true");
        execv(program.as_ptr(), [program.as_ptr(), null()].as_ptr());
        _exit(127)
    }
}

#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let args: Vec<&str> = (1..argc as usize)
        .map(|i| unsafe { std::ffi::CStr::from_ptr(*argv.add(i)) }.to_str().unwrap_or_default())
        .collect();
    let Some((root, groups)) = args.split_first() else { return 2 };
    let groups: Vec<(&str, &str)> = groups.iter().filter_map(|g| g.split_once('=')).collect();
    let dirs: Vec<String> = groups.iter().map(|(mount, _)| format!("{mount}/longshore-floor")).collect();
    for (dir, (mount, options)) in dirs.iter().zip(&groups) {
        unsafe { mkdir(c(dir).as_ptr(), 0o755) };
        if *options == "cpuset" {
            copy(&format!("{mount}/cpuset.cpus"), &format!("{dir}/cpuset.cpus"));
            copy(&format!("{mount}/cpuset.mems"), &format!("{dir}/cpuset.mems"));
        }
        // The caller itself, by `tasks`: the cheap way into a group.
        put(&format!("{dir}/tasks"), b"0");
    }
    let pid = unsafe { syscall(SYS_CLONE, NEW | 17, 0, 0, 0, 0) };
    if pid == 0 {
        container(root, &groups);
    }
    let mut status = 1;
    unsafe { waitpid(pid as c_int, &mut status, 0) };
    for (dir, (mount, _)) in dirs.iter().zip(&groups) {
        put(&format!("{mount}/tasks"), b"0");
        unsafe { rmdir(c(dir).as_ptr()) };
    }
    c_int::from(status != 0)
}
