//! What the start of a container promises its host: a fixed list of system calls, no allocation, no hang, nothing left.
//!
//! The loops are short here; `LONGSHORE_STARTS` sets their count for a long run (5,000 for the threads, 2,000 for `true`, 1,000 in a row).
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio as Std};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{World, also_unprivileged, id, is_root};
use longshore_runtime::{CreateOptions, Stdio};
use oci_spec::runtime::Spec;

fn count(default: usize) -> usize {
    std::env::var("LONGSHORE_STARTS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn null<'a>() -> CreateOptions<'a> {
    let mut options = CreateOptions::default();
    options.stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
    options
}

/// A spec whose steps do not depend on the machine: without its cgroup hierarchies, with masks that every kernel has.
fn fixed(world: &World) -> Spec {
    let mut spec = world.spec(&["/bin/true"]);
    spec.set_hostname(Some("golden".to_owned()));
    spec.mounts_mut().as_mut().unwrap().retain(|m| m.typ().as_deref() != Some("cgroup"));
    let linux = spec.linux_mut().as_mut().unwrap();
    linux.set_masked_paths(Some(vec!["/proc/keys".to_owned(), "/sys/firmware".to_owned()]));
    linux.set_readonly_paths(Some(vec!["/proc/sys".to_owned()]));
    spec
}

/// Runs one test of this program by itself, with these variables.
fn again(test: &str, variables: &[(&str, &str)], wrapper: &[&str]) -> bool {
    let exe = std::env::current_exe().unwrap();
    let mut command = match wrapper.split_first() {
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args).arg(exe);
            command
        }
        None => Command::new(exe),
    };
    command.args(["--exact", test, "--nocapture"]).envs(variables.iter().copied()).stdout(Std::null());
    command.status().unwrap().success()
}

/// The system calls between `clone3` and `execve` of the container's program are these, in this order, and no other: neither of a C
/// library, nor of an allocator. A name that comes several times in a row is listed once, with a `*`.
#[test]
fn system_calls_of_a_start() {
    let test = "system_calls_of_a_start";
    let Some(world) = World::new() else { return };
    if std::env::var_os("LONGSHORE_TEST_TRACED").is_some() {
        let mut running =
            world.runtime.create(&id("golden"), &fixed(&world), null()).unwrap().start().unwrap();
        assert!(running.wait(None).unwrap().unwrap().success());
        return;
    }
    if Command::new("strace").arg("-V").stdout(Std::null()).status().is_err() {
        return common::skip("strace is not installed");
    }
    let log = world.dir.path().join("log");
    let wrapper = ["strace", "-f", "-qq", "-o", log.to_str().unwrap()];
    assert!(again(test, &[("LONGSHORE_TEST_TRACED", "1")], &wrapper));
    let got = calls(&fs::read_to_string(&log).unwrap());
    for allocating in ["brk", "munmap", "mremap", "mprotect", "futex", "madvise"] {
        assert!(!got.iter().any(|c| c.trim_end_matches('*') == allocating), "{allocating} in {got:?}");
    }
    assert_eq!(got.iter().filter(|c| *c == "mmap").count(), 1, "the plan is mapped, once: {got:?}");
    let got = got.join("\n") + "\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let file = file.join(if is_root() { "root" } else { "user" });
    if std::env::var_os("LONGSHORE_WRITE_GOLDEN").is_some() {
        fs::write(&file, &got).unwrap();
    }
    assert_eq!(got, fs::read_to_string(file).unwrap(), "LONGSHORE_WRITE_GOLDEN=1 writes the list anew");
    if is_root() {
        also_unprivileged(test);
    }
}

/// The calls of the helper's process, then those of the one that it forks, up to the container's program.
fn calls(log: &str) -> Vec<String> {
    let lines: Vec<(&str, &str)> =
        log.lines().filter_map(|l| l.split_once(' ')).map(|(pid, call)| (pid, call.trim_start())).collect();
    let first =
        lines.iter().find(|(_, call)| call.starts_with("execveat(")).expect("the helper is executed").0;
    let forked = lines.iter().find_map(|(pid, call)| {
        let (before, child) = call.rsplit_once(" = ")?;
        (*pid == first && before.contains("clone3")).then_some(child)
    });
    let mut names: Vec<String> = Vec::new();
    for ours in [Some(first), forked].into_iter().flatten() {
        let of_helper = lines.iter().filter(|(pid, _)| *pid == ours).map(|(_, call)| *call);
        let begun = of_helper.filter_map(|call| call.split_once('(')).map(|(name, _)| name);
        for name in begun.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')) {
            match names.last_mut() {
                Some(before) if before.trim_end_matches('*') == name => *before = format!("{name}*"),
                _ => names.push(name.to_owned()),
            }
            if name == "execve" {
                return names;
            }
        }
    }
    panic!("no execve in\n{log}");
}

/// The helper is a few kilobytes, static, without an interpreter, without dynamic symbols: there is no allocator that could be called.
#[test]
fn the_helper_has_no_allocator() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        return;
    }
    let created = world.runtime.create(&id("elf"), &world.spec(&["true"]), null()).unwrap();
    let elf = fs::read(format!("/proc/{}/exe", created.pid())).unwrap();
    assert!(elf.starts_with(b"\x7fELF") && elf.len() < 64 << 10, "{}", elf.len());
    let number =
        |at: usize, len: usize| elf[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let (headers, size, count) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let kinds: Vec<u64> = (0..count).map(|i| number(headers + i * size, 4)).collect();
    // PT_DYNAMIC, PT_INTERP, PT_TLS
    assert!(kinds.contains(&1) && ![2, 3, 7].iter().any(|k| kinds.contains(k)), "{kinds:?}");
    for name in ["malloc", "__rust_alloc", "mmap64", "pthread"] {
        assert!(!elf.windows(name.len()).any(|w| w == name.as_bytes()), "{name}");
    }
}

/// One arena for all threads, whose lock is held most of the time, and an environment that changes all the time.
#[test]
fn threads_that_allocate_and_set_variables() {
    let test = "threads_that_allocate_and_set_variables";
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        assert!(again(test, &[("MALLOC_ARENA_MAX", "1")], &[]));
        return;
    }
    let Some(world) = World::new() else { return };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stop = &stop;
            scope.spawn(move || {
                let mut n = 0usize;
                while !stop.load(Ordering::Relaxed) {
                    let blocks: Vec<Vec<u8>> = (1..20).map(|n| vec![0; n * 1000]).collect();
                    std::hint::black_box(&blocks);
                    set_variable(thread, n);
                    n += 1;
                    if n.is_multiple_of(64) {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 0..count(40) {
                let created = world.runtime.create(&format!("threads-{n}"), &world.spec(&["true"]), null());
                let mut running = created.unwrap().start().unwrap();
                let exit = running.wait(Some(Duration::from_secs(60))).unwrap();
                assert!(exit.expect("it hangs").success());
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    also_unprivileged(test);
}

#[expect(unsafe_code, reason = "setenv(3) while others read is what the test is about")]
fn set_variable(thread: usize, n: usize) {
    // SAFETY: nothing else in this process reads or writes the environment, but through std, which locks it.
    unsafe { std::env::set_var(format!("LONGSHORE_TEST_{thread}"), format!("{n}")) };
}

/// One after the other and many at once: each ends soon, and neither processes, descriptors, mounts nor groups are left.
#[test]
fn nothing_leaks() {
    let test = "nothing_leaks";
    if is_root() && std::env::var_os("LONGSHORE_TEST_ALONE").is_none() {
        // In a mount namespace of its own: others on this machine mount things, too.
        assert!(again(test, &[("LONGSHORE_TEST_ALONE", "1")], &["unshare", "--mount"]));
        return;
    }
    let Some(world) = World::new() else { return };
    let entries = |dir: &str| fs::read_dir(dir).map_or(0, Iterator::count);
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let run = |name: String| {
        let mut running =
            world.runtime.create(&name, &world.spec(&["true"]), null()).unwrap().start().unwrap();
        // A time-out, not a measure: what hangs would hang for ever.
        let exit = running.wait(Some(Duration::from_secs(30))).unwrap();
        assert!(exit.expect("a fast end is not lost").success());
    };
    let name = id("leak");
    run(format!("{name}-first"));
    let before = (entries("/proc/self/fd"), mounts());
    let mut slowest = Duration::ZERO;
    for n in 0..count(40) {
        let started = Instant::now();
        run(format!("{name}-{n}"));
        slowest = slowest.max(started.elapsed());
    }
    // A limit on time is for a long run on a machine of one's own.
    let limit = Duration::from_secs(if std::env::var_os("LONGSHORE_STARTS").is_some() { 5 } else { 60 });
    println!("slowest of {}: {slowest:?}", count(40));
    assert!(slowest < limit, "{slowest:?}");
    std::thread::scope(|scope| {
        for n in 0..count(20).min(100) {
            let (run, name) = (&run, &name);
            scope.spawn(move || run(format!("{name}-at-once-{n}")));
        }
    });
    // Descriptors of other tests come and go, on a busy machine slowly: what leaks, stays.
    for _ in 0..600 {
        if entries("/proc/self/fd") <= before.0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(entries("/proc/self/fd") <= before.0, "descriptors");
    assert_eq!(mounts(), before.1, "mounts");
    assert_eq!(entries(world.dir.path().join("state").to_str().unwrap()), 0, "state");
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let groups = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let left: Vec<_> = groups.filter(|g| g.file_name().to_string_lossy().contains(&name)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    also_unprivileged(test);
}
