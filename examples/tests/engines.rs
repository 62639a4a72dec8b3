//! Real engines drive `longshore-oci`: dockerd, podman (as root and not) and containerd run, exec, stop and remove containers with it,
//! with a terminal too. containerd is driven by `ctr` and through Kubernetes' CRI.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Dockerd, copy_program, example, have, hex, output, root, skip, succeed, text, wait_for};
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
    for applet in ["sh", "echo", "cat", "sleep", "true", "tty", "id", "env", "dd", "pwd", "stty"] {
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
    copy_program("longshore-oci", &program);
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

/// containerd on directories of its own below `dir`, in mount and PID namespaces of its own: nothing of it outlives the test.
struct Containerd {
    dir: PathBuf,
    process: Child,
}

impl Containerd {
    fn start(dir: &Path) -> Self {
        let config = dir.join("config.toml");
        fs::write(&config, Self::config(dir)).expect("the configuration");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]);
        command.args(["containerd", "-c"]).arg(config);
        let log = || fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        let process = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("unshare(1)");
        let containerd = Self { dir: dir.to_owned(), process };
        let up = wait_for(Duration::from_secs(60), || {
            output(&mut containerd.ctr(&["version"]), 10).status.success()
        });
        assert!(up, "containerd does not answer: {}", containerd.log());
        containerd
    }

    fn config(dir: &Path) -> String {
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [{cri}]\nsandbox_image = {IMAGE:?}\nnetns_mounts_under_state_dir = true\n\
             [{cri}.cni]\nbin_dir = {:?}\nconf_dir = {:?}\n\
             [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.containerd.runtimes.runc.options]\nBinaryName = {:?}\n",
            dir.join("root"),
            dir.join("state"),
            dir.join("sock"),
            dir.join("cni/bin"),
            dir.join("cni/conf"),
            example("longshore-oci"),
        )
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.dir.join("sock")).args(args);
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The init of its PID namespace dies with it, and so all that it has started.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn containerd() {
    let Some(world) = world(&["containerd", "ctr", "unshare"]) else { return };
    let containerd = Containerd::start(world.dir.path());
    let ctr = |args: &[&str]| containerd.ctr(args);
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
    let said = on_terminal(&run(&["--rm", "-t"], &["terminal", "sh", "-c", "tty; stty size; exit 0"]));
    assert!(said.contains("/dev/pts/0") || said.contains("/dev/console"), "{said}");
    succeed(&mut run(&["-d"], &["web", "sleep", "1000"]), 60);
    assert_eq!(succeed(&mut ctr(&["task", "exec", "--exec-id", "e", "web", "echo", "in"]), 60), "in\n");
    let said = on_terminal(&ctr(&["task", "exec", "-t", "--exec-id", "t", "web", "tty"]));
    assert!(said.contains("/dev/pts/"), "{said}");
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

/// What pods and their containers are made of.
const IMAGE: &str = "longshore.test/bb:1";

/// A CNI plugin that leaves the network namespace as it is, and says that it gave it an address.
const CNI_PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"version":"4","address":"10.255.0.2/24","interface":0}]}'
"#;

/// The root file system as an archive of `docker save`'s kind.
fn image_archive(world: &World) -> String {
    let dir = world.dir.path().join("image");
    fs::create_dir_all(&dir).expect("mkdir");
    fs::copy(&world.tar, dir.join("layer.tar")).expect("copy");
    let diff_id = format!("sha256:{}", hex(&fs::read(&world.tar).expect("the tar")));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string()).expect("the configuration");
    fs::write(dir.join("manifest.json"), manifest.to_string()).expect("the manifest");
    let tar = world.dir.path().join("image.tar").display().to_string();
    let names = ["manifest.json", "config.json", "layer.tar"];
    succeed(Command::new("tar").arg("-C").arg(&dir).args(["-cf", &tar]).args(names), 30);
    tar
}

/// The groups that the pods' groups are made in, of every hierarchy: removed with what a failed test leaves in them.
struct Parent(String);

impl Drop for Parent {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
            below.filter(|path| path.is_dir()).for_each(|path| remove(&path));
            let _ = fs::remove_dir(dir);
        }
        let root = PathBuf::from("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
        let dirs: Vec<PathBuf> = hierarchies.chain([root]).map(|dir| dir.join(&self.0)).collect();
        // What is killed is in its group for a moment yet.
        wait_for(Duration::from_secs(10), || {
            dirs.iter().for_each(|dir| remove(dir));
            !dirs.iter().any(|dir| dir.exists())
        });
    }
}

#[test]
fn containerd_cri() {
    let Some(world) = world(&["containerd", "ctr", "unshare"]) else { return };
    // Not the first on the path, which may be one without Debian's modules.
    let python = || Command::new("/usr/bin/python3");
    if !output(python().args(["-c", "import grpc"]), 30).status.success() {
        return skip("python3-grpcio is not installed");
    }
    let dir = world.dir.path();
    for name in ["cni/bin", "cni/conf", "logs"] {
        fs::create_dir_all(dir.join(name)).expect("mkdir");
    }
    fs::write(dir.join("cni/bin/still"), CNI_PLUGIN).expect("the plugin");
    fs::set_permissions(dir.join("cni/bin/still"), fs::Permissions::from_mode(0o755)).expect("chmod");
    symlink("/usr/lib/cni/loopback", dir.join("cni/bin/loopback")).expect("link");
    let network = json!({"cniVersion": "0.4.0", "name": "still", "plugins": [{"type": "still"}]});
    fs::write(dir.join("cni/conf/10-still.conflist"), network.to_string()).expect("the network");
    let parent = Parent(format!("longshore-cri-{}", std::process::id()));
    let containerd = Containerd::start(dir);
    let archive = image_archive(&world);
    succeed(&mut containerd.ctr(&["-n", "k8s.io", "images", "import", &archive]), 60);
    let mut client = python();
    client.args(["-c", include_str!("cri.py")]).arg(dir.join("sock"));
    client.args([IMAGE, &format!("/{}", parent.0)]).arg(dir.join("logs"));
    let said = output(&mut client, 300);
    assert!(said.status.success(), "{}\n{}", text(&said.stderr), containerd.log());
}
