//! What the tests share: a busybox root file system, a temporary runtime, the same test again as an ordinary user.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_runtime::{CreateOptions, Runtime, Stdio, spec};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// A directory with a busybox root file system and a runtime, removed at the end.
pub struct World {
    pub dir: tempfile::TempDir,
    pub runtime: Runtime,
}

impl World {
    /// `None`, with a message: the machine lacks busybox.
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let rootfs = dir.path().join("rootfs");
        if !busybox(&rootfs) {
            skip("busybox is not installed");
            return None;
        }
        let runtime = Runtime::new(dir.path().join("state")).unwrap();
        Some(Self { dir, runtime })
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// The default spec for this user, with the root in place.
    pub fn spec(&self, args: &[&str]) -> Spec {
        let mut spec = if is_root() {
            spec::default_spec(args.iter().copied())
        } else {
            let uid = fs::metadata(self.dir.path()).map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap();
            spec::rootless_spec(args.iter().copied(), uid, uid)
        };
        spec.root_mut().as_mut().unwrap().set_path(self.rootfs());
        spec
    }

    pub fn piped<'a>(&self) -> CreateOptions<'a> {
        let mut options = CreateOptions::default();
        options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Piped];
        options
    }

    /// Runs to the end: exit code, standard output and error.
    pub fn run(&self, id: &str, spec: &Spec) -> (i32, String, String) {
        let created = self.runtime.create(id, spec, self.piped()).unwrap();
        let mut running = created.start().unwrap();
        let out = read(running.take_stdio(1));
        let err = read(running.take_stdio(2));
        let exit = running.wait(None).unwrap().expect("no time-out was given");
        (exit.code, out, err)
    }

    pub fn sh(&self, id: &str, script: &str) -> (i32, String, String) {
        self.run(id, &self.spec(&["sh", "-c", script]))
    }
}

/// All of a pipe.
pub fn read(fd: Option<OwnedFd>) -> String {
    let mut text = String::new();
    let fd = fd.expect("the stream is piped");
    fs::File::from(fd).read_to_string(&mut text).expect("UTF-8");
    text
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a test does nothing; where all must run, that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "skipped where all must run: {reason}");
    eprintln!("skipped: {reason}");
}

/// A new unique ID.
pub fn id(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Takes the namespace out.
pub fn without(spec: &mut Spec, kind: LinuxNamespaceType) {
    spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap().retain(|n| n.typ() != kind);
}

/// Runs this test again as uid 1000, when it runs as root.
pub fn also_unprivileged(test: &str) {
    if !is_root() {
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let home = tempfile::tempdir().unwrap();
    chown(home.path(), Some(1000), Some(1000)).unwrap();
    // The target directory may lie where that user cannot go.
    let copy = home.path().join("test");
    // By another process: what other tests start at this moment would inherit the file open for writing, and it could not be executed.
    assert!(Command::new("cp").arg(exe).arg(&copy).status().unwrap().success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .arg(&copy)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("TMPDIR", home.path())
        .env("HOME", home.path())
        .current_dir(home.path())
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{test} as uid 1000: {status}"),
        Err(_) => skip("setpriv is not installed"),
    }
}

/// Boots Debian's user-mode-linux, a kernel whose only hierarchy is v2, with this machine's files, read-only, and a script as its first
/// process: what it said. `None`, with a message: it cannot.
pub fn user_mode_linux(script: &str) -> Option<String> {
    if !Path::new("/usr/bin/linux.uml").is_file() {
        skip("user-mode-linux is not installed");
        return None;
    }
    if !is_root() {
        skip("needs root: in there it is root by the host's IDs");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let init = dir.path().join("init.sh");
    fs::write(&init, script).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let out = Command::new("timeout")
        .args(["-k", "5", "120", "/usr/bin/linux.uml", "mem=768M", "rootfstype=hostfs", "rootflags=/"])
        .args(["root=/dev/root", "ro"])
        .arg(format!("init={}", init.display()))
        .args(["con=null", "con0=null,fd:1", "con1=fd:0,fd:1", "quiet"])
        .env("HOME", dir.path())
        .env("TMPDIR", dir.path())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("timeout(1) runs");
    Some(String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn busybox(rootfs: &Path) -> bool {
    let Some(program) = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|p| Path::new(p).exists()) else {
        return false;
    };
    let bin = rootfs.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for dir in ["dev", "proc", "sys", "tmp", "etc", "root"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(program, bin.join("busybox")).unwrap();
    let list = Command::new(program).arg("--list").output().unwrap();
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
        let _ = symlink("busybox", bin.join(applet));
    }
    true
}
