//! Real engines drive `longshore-oci`: dockerd, podman (as root and not) and containerd run, exec, stop and remove containers with it,
//! with a terminal too.
//!
//! containerd's CRI is loaded and answers, but Debian has no client for it (cri-tools is not packaged), so no pod is made here.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Dockerd, Server, example, have, output, root, skip, succeed, text, wait_for};
use serde_json::json;

/// A directory with busybox as a root file system, and as a tar.
struct World {
    dir: tempfile::TempDir,
    rootfs: PathBuf,
    tar: String,
}

fn world(programs: &[&str]) -> Option<World> {
    if !root() {
        skip("the engines are started as root");
        return None;
    }
    if !have(programs) || !have(&["busybox", "tar", "script", "timeout"]) {
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let rootfs = dir.path().join("rootfs");
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(name)).expect("mkdir");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).is_file())?;
    fs::copy(busybox, rootfs.join("bin/busybox")).expect("copy");
    for applet in ["sh", "echo", "cat", "sleep", "true", "tty", "id", "env", "dd", "pwd"] {
        symlink("busybox", rootfs.join("bin").join(applet)).expect("link");
    }
    let tar = dir.path().join("rootfs.tar").display().to_string();
    succeed(Command::new("tar").arg("-C").arg(&rootfs).args(["-cf", &tar, "."]), 30);
    Some(World { dir, rootfs, tar })
}

/// An engine with docker's command line.
struct Engine<'a> {
    command: &'a dyn Fn(&[&str]) -> Command,
    /// What `run` needs here.
    flags: &'a [&'a str],
}

impl Engine<'_> {
    fn ok(&self, args: &[&str]) -> String {
        succeed(&mut (self.command)(args), 90)
    }

    fn code(&self, args: &[&str]) -> Option<i32> {
        output(&mut (self.command)(args), 90).status.code()
    }

    /// `verb`, the flags, the rest.
    fn run<'a>(&'a self, own: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
        [&["run"], self.flags, own, rest].concat()
    }

    /// On a terminal: what came.
    fn on_terminal(&self, args: &[&str]) -> String {
        on_terminal(&(self.command)(args))
    }

    fn lives(&self, limits: &[&str]) {
        assert_eq!(self.ok(&self.run(&["--rm"], &["bb", "echo", "hi"])), "hi\n");
        assert_eq!(self.code(&self.run(&["--rm"], &["bb", "sh", "-c", "exit 7"])), Some(7));
        assert_eq!(self.code(&self.run(&["--rm"], &["bb", "nope"])), Some(127), "the program is missing");
        assert_eq!(self.code(&self.run(&["--rm"], &["bb", "/etc"])), Some(126), "the program is a directory");
        self.ok(&self.run(&["-d", "--name", "web"], &["bb", "sleep", "1000"]));
        assert_eq!(self.ok(&["exec", "web", "echo", "in"]), "in\n");
        assert_eq!(self.code(&["exec", "web", "sh", "-c", "exit 3"]), Some(3));
        // dockerd 20.10 makes 126 of it, podman 127.
        assert!(matches!(self.code(&["exec", "web", "nope"]), Some(126 | 127)));
        assert!(self.on_terminal(&["exec", "-t", "web", "tty"]).contains("/dev/pts/"));
        assert!(self.ok(&["inspect", "-f", "{{.State.Status}}", "web"]).contains("running"));
        self.ok(&["stop", "-t", "1", "web"]);
        assert!(
            self.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"])
                .contains("exited 137")
        );
        self.ok(&["start", "web"]);
        self.ok(&["kill", "web"]);
        self.ok(&["rm", "-f", "web"]);
        assert_eq!(self.ok(&["ps", "-aq"]), "");
        let said = self.on_terminal(&self.run(&["--rm", "-t"], &["bb", "sh", "-c", "tty; exit 0"]));
        assert!(said.contains("/dev/"), "{said}");
        assert!(self.ok(&self.run(&["--rm"], &["bb", "env"])).contains("HOME="));
        if !limits.is_empty() {
            let args = self.run(
                &[&["--rm"], limits].concat(),
                &["bb", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"],
            );
            assert_eq!(self.code(&args), Some(137), "out of memory");
            self.ok(&self.run(&["-d", "--name", "still"], &["bb", "sleep", "1000"]));
            self.ok(&["pause", "still"]);
            assert!(self.ok(&["inspect", "-f", "{{.State.Status}}", "still"]).contains("paused"));
            self.ok(&["unpause", "still"]);
            self.ok(&["rm", "-f", "still"]);
        }
    }
}

fn on_terminal(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> =
        words.map(|w| format!("'{}'", w.to_string_lossy().replace('\'', "'\\''"))).collect();
    let mut script = Command::new("script");
    script.args(["-qefc", &line.join(" "), "/dev/null"]);
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let out = output(&mut script, 60);
    text(&out.stdout)
}

#[test]
fn docker() {
    let Some(world) = world(&["dockerd", "docker"]) else { return };
    let runtimes = json!({"runtimes": {"longshore": {"path": example("longshore-oci")}}, "default-runtime": "longshore"});
    let docker = Dockerd::start_with(world.dir.path(), &runtimes);
    succeed(&mut docker.command(&["import", &world.tar, "bb"]), 60);
    let command = |args: &[&str]| docker.command(args);
    let engine = Engine { command: &command, flags: &["--network", "none"] };
    engine.lives(&["--memory", "32m"]);
    let runtime = engine.ok(&["info", "-f", "{{.DefaultRuntime}}"]);
    assert_eq!(runtime.trim(), "longshore");
}

/// Takes away what podman leaves mounted.
struct Podman(PathBuf);

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("-l").arg(self.0.join("storage/overlay")), 10);
    }
}

#[test]
fn podman() {
    let Some(world) = world(&["podman"]) else { return };
    let dir = world.dir.path();
    let _mounts = Podman(dir.to_owned());
    let command = |args: &[&str]| {
        let mut command = Command::new("podman");
        // Where conmon notes that the kernel killed something for memory.
        command.current_dir(dir);
        command.arg("--root").arg(dir.join("storage")).arg("--runroot").arg(dir.join("run"));
        command
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime"])
            .arg(example("longshore-oci"));
        command.args(args);
        command
    };
    succeed(&mut command(&["import", "-q", &world.tar, "localhost/bb"]), 60);
    // The machine's root may not raise limits.
    let flags = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];
    Engine { command: &command, flags: &flags }.lives(&["--memory", "32m"]);
}

/// A user whom podman finds in /etc/passwd; one ID and no ranges are his.
const NOBODY: u32 = 65_534;

#[test]
fn podman_without_privileges() {
    let Some(world) = world(&["podman", "setpriv", "unshare"]) else { return };
    let home = world.dir.path().join("home");
    for name in ["run", "tmp"] {
        fs::create_dir_all(home.join(name)).expect("mkdir");
    }
    // The target directory may lie where that user cannot go.
    let program = home.join("longshore-oci");
    fs::copy(example("longshore-oci"), &program).expect("copy");
    for path in [home.clone(), home.join("run"), home.join("tmp"), program.clone()] {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    }
    let command = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "podman"]);
        command.arg("--root").arg(home.join("storage")).arg("--runroot").arg(home.join("run/podman"));
        command.args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
            "--log-level",
            "error",
            "--runtime",
        ]);
        command.arg(&program).args(args).current_dir(&home);
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", home.join("run")).env("TMPDIR", home.join("tmp"));
        command
    };
    succeed(&mut command(&["import", "-q", &world.tar, "localhost/bb"]), 60);
    Engine { command: &command, flags: &["--network", "none"] }.lives(&[]);
}

#[test]
fn containerd() {
    let Some(world) = world(&["containerd", "ctr"]) else { return };
    let dir = world.dir.path();
    let socket = dir.join("containerd.sock");
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nBinaryName = {:?}\n",
        dir.join("root"),
        dir.join("state"),
        socket,
        example("longshore-oci"),
    );
    fs::write(dir.join("config.toml"), config).expect("the configuration");
    let _server = Server::start(Command::new("containerd").arg("-c").arg(dir.join("config.toml")));
    let ctr = |args: &[&str]| {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(&socket).args(args);
        command
    };
    let up = wait_for(Duration::from_secs(30), || output(&mut ctr(&["version"]), 10).status.success());
    assert!(up, "containerd does not answer");
    let program = example("longshore-oci").display().to_string();
    let rootfs = world.rootfs.display().to_string();
    let run = |own: &[&str], rest: &[&str]| {
        ctr(&[&["run"], own, &["--runc-binary", &program, "--rootfs", &rootfs], rest].concat())
    };
    assert_eq!(succeed(&mut run(&["--rm"], &["one", "echo", "hi"]), 60), "hi\n");
    assert_eq!(output(&mut run(&["--rm"], &["two", "sh", "-c", "exit 7"]), 60).status.code(), Some(7));
    let said = output(&mut run(&["--rm"], &["none", "nope"]), 60);
    assert!(text(&said.stderr).contains("executable file not found in $PATH"), "{said:?}");
    let _ = output(&mut ctr(&["container", "rm", "none"]), 30);
    succeed(&mut run(&["-d"], &["web", "sleep", "1000"]), 60);
    assert_eq!(succeed(&mut ctr(&["task", "exec", "--exec-id", "e", "web", "echo", "in"]), 60), "in\n");
    succeed(&mut ctr(&["task", "pause", "web"]), 30);
    assert!(succeed(&mut ctr(&["task", "ls"]), 30).contains("PAUSED"));
    succeed(&mut ctr(&["task", "resume", "web"]), 30);
    assert!(succeed(&mut ctr(&["task", "metrics", "web"]), 30).contains("memory.usage_in_bytes"));
    succeed(&mut ctr(&["task", "kill", "-s", "KILL", "web"]), 30);
    assert!(wait_for(Duration::from_secs(10), || succeed(&mut ctr(&["task", "ls"]), 30).contains("STOPPED")));
    // It says the exit code of what it removes as its own.
    output(&mut ctr(&["task", "rm", "web"]), 30);
    succeed(&mut ctr(&["container", "rm", "web"]), 30);
    assert_eq!(succeed(&mut ctr(&["container", "ls", "-q"]), 30), "");
}
