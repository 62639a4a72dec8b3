//! What the tests of the programs share: the programs themselves, a real registry, a real dockerd, and the search for traces.

#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "each test program uses its part; what is skipped is said"
)]

pub(crate) mod guard;
pub(crate) mod registry;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guard::Guard;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Says why a test does nothing here; on a machine that has everything this is an error.
pub(crate) fn skip(reason: &str) {
    let all = std::env::var_os("LONGSHORE_REQUIRE_ALL").is_some();
    assert!(!all, "skipped although all is required: {reason}");
    eprintln!("skipped: {reason}");
}

pub(crate) fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the programs are on the path.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    match programs.iter().find(|name| !there(name)) {
        Some(missing) => {
            skip(&format!("{missing} is not installed"));
            false
        }
        None => true,
    }
}

/// A cargo example that was built with the tests: it lies beside them.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("own path");
    let path = tests.parent().and_then(Path::parent).expect("target/debug").join("examples").join(name);
    assert!(path.is_file(), "{} is not built: cargo build -p longshore-examples --examples", path.display());
    path
}

/// A copy of a program where another user can reach it.
///
/// Made by another process: a child that another thread starts meanwhile would have it open for writing, and it could not be run.
pub(crate) fn copy_program(name: &str, to: &Path) {
    succeed(Command::new("install").args(["-m", "755"]).args([&example(name), to]), 60);
}

/// Runs a command that must not hang.
pub(crate) fn output(command: &mut Command, seconds: u64) -> Output {
    let mut line = Command::new("timeout");
    line.args(["-k", "5", &seconds.to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => line.env(name, value),
            None => line.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        line.current_dir(dir);
    }
    line.stdin(Stdio::null()).output().expect("timeout(1) runs")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn succeed(command: &mut Command, seconds: u64) -> String {
    let out = output(command, seconds);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{stdout}{stderr}", out.status);
    stdout
}

/// The `longshore` program with a root directory of its own.
pub(crate) struct Longshore {
    pub(crate) root: PathBuf,
    program: PathBuf,
    /// Whom it runs as, if not as the test.
    pub(crate) user: Option<u32>,
    guard: Guard,
}

impl Longshore {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self::of(root, example("longshore"), None)
    }

    fn of(root: PathBuf, program: PathBuf, user: Option<u32>) -> Self {
        let guard = Guard::of_containers(&program, &root, user);
        Self { root, program, user, guard }
    }

    /// As an ordinary user, with a directory below `dir` that is his; `None` where this user is one already.
    pub(crate) fn ordinary(dir: &Path) -> Option<Self> {
        const USER: u32 = 1000;
        if !root() {
            return Some(Self::new(dir.join("ordinary/root")));
        }
        let home = dir.join("ordinary");
        fs::create_dir_all(&home).expect("a directory");
        // He may not be able to reach the target directory.
        let program = home.join("longshore");
        copy_program("longshore", &program);
        for path in [dir, &home] {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("chown");
        }
        Some(Self::of(home.join("root"), program, Some(USER)))
    }

    /// The words before the arguments, for whoever is its user already.
    pub(crate) fn line(&self) -> String {
        format!("{} --root {}", self.program.display(), self.root.display())
    }

    /// Makes an image of a tar that only the test may be able to read.
    pub(crate) fn import(&self, tar: &str, name: &str) {
        let mut command = self.command(&["import", "-c", "CMD [\"sh\"]", "-", name]);
        let said = command.stdin(fs::File::open(tar).expect("the tar")).output().expect("it runs");
        assert!(said.status.success(), "{}", text(&said.stderr));
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.user {
            None => Command::new(&self.program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                let user = user.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]).arg(&self.program);
                command.current_dir("/").env_remove("XDG_DATA_HOME").env("HOME", "/");
                command
            }
        };
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    /// Runs it; it must succeed. Its standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args), 300)
    }

    /// Runs it as it may end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        output(&mut self.command(args), 300)
    }

    /// Runs it; it must fail with this code. Its standard error.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stderr)
    }
}

impl Drop for Longshore {
    /// Also when the test failed: containers, then the bridge.
    fn drop(&mut self) {
        let all = text(&self.run(&["ps", "-aq"]).stdout);
        let ids: Vec<&str> = all.split_whitespace().collect();
        if !ids.is_empty() {
            self.run(&[&["rm", "-fv"], ids.as_slice()].concat());
        }
        self.run(&["network", "prune", "-f"]);
        self.guard.dismiss();
    }
}

/// A process with a process group of its own, ended when dropped, or with the test's process.
pub(crate) struct Server(Child, Guard);

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let guard = Guard::of_group(child.id());
        Self(child, guard)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let ended = wait_for(Duration::from_secs(20), || matches!(self.0.try_wait(), Ok(Some(_))));
        if !ended {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
        self.1.dismiss();
    }
}

/// Asks again and again until `done` or the time is over.
pub(crate) fn wait_for(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody has right now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a loopback port").port()
}

/// Debian's docker-registry on a loopback port.
pub(crate) struct Registry {
    pub(crate) address: String,
    _server: Server,
}

impl Registry {
    pub(crate) fn start(dir: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let config = json!({
            "version": "0.1", "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": dir.join("registry")}, "delete": {"enabled": true}},
            "http": {"addr": address},
        });
        // JSON is YAML.
        let file = dir.join("registry.yml");
        fs::write(&file, config.to_string()).expect("the registry's configuration");
        let server = Server::start(Command::new("docker-registry").arg("serve").arg(file));
        assert!(
            wait_for(Duration::from_secs(20), || TcpStream::connect(&address).is_ok()),
            "the registry does not listen"
        );
        Self { address, _server: server }
    }
}

/// A Debian root file system as a tar: given by the environment, else made once.
pub(crate) fn debian() -> Option<PathBuf> {
    if let Some(tar) = std::env::var_os("LONGSHORE_DEBIAN_TAR") {
        return Some(tar.into());
    }
    if !have(&["mmdebstrap"]) {
        return None;
    }
    let target = example("longshore").ancestors().nth(3).expect("the target directory").join("test-data");
    fs::create_dir_all(&target).expect("target/test-data");
    let tar = target.join("debian-bookworm.tar");
    if !tar.is_file() {
        let part = target.join(format!("debian-bookworm.tar.{}", std::process::id()));
        succeed(
            Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", "bookworm"]).arg(&part),
            300,
        );
        fs::rename(part, &tar).expect("rename");
    }
    Some(tar)
}

/// Makes an image of one layer and has skopeo push it.
pub(crate) fn skopeo_push(dir: &Path, layer: &Path, name: &str) {
    let layout = dir.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the layout's directory");
    let put = |bytes: &[u8]| {
        let hex = hex(bytes);
        fs::write(blobs.join(&hex), bytes).expect("a blob");
        json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let with_type = |mut descriptor: serde_json::Value, media_type: &str| {
        descriptor["mediaType"] = format!("application/vnd.oci.image.{media_type}").into();
        descriptor
    };
    let layer = with_type(put(&fs::read(layer).expect("the layer")), "layer.v1.tar");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "created": "2026-01-02T03:04:05Z",
        "config": {"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "mmdebstrap"}],
    });
    let config = with_type(put(config.to_string().as_bytes()), "config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer],
    });
    let manifest = with_type(put(manifest.to_string().as_bytes()), "manifest.v1+json");
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).expect("index.json");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
    let from = format!("oci:{}", layout.display());
    succeed(
        Command::new("skopeo").args([
            "copy",
            "-q",
            "--dest-tls-verify=false",
            &from,
            &format!("docker://{name}"),
        ]),
        120,
    );
    fs::remove_dir_all(layout).expect("the layout goes");
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Busybox as a tar.
pub(crate) fn busybox(dir: &Path) -> String {
    let root = dir.join("busybox");
    fs::create_dir_all(root.join("bin")).expect("a directory");
    fs::create_dir_all(root.join("tmp")).expect("a directory");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    let applets = text(&Command::new("/bin/busybox").arg("--list").output().expect("busybox runs").stdout);
    for applet in applets.lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    fs::write(root.join("text"), "not a program\n").expect("write");
    let tar = dir.join("busybox.tar");
    succeed(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."), 60);
    tar.display().to_string()
}

/// A dockerd of this test's own, without a network.
pub(crate) struct Dockerd {
    dir: PathBuf,
    _server: Server,
}

impl Dockerd {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &json!({}))
    }

    /// With what its `daemon.json` says.
    pub(crate) fn start_with(dir: &Path, config: &serde_json::Value) -> Self {
        let dir = dir.join("docker");
        fs::create_dir_all(&dir).expect("dockerd's directory");
        fs::write(dir.join("daemon.json"), config.to_string()).expect("daemon.json");
        let path = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "-p", &path("pid")]);
        command.args(["-H", &format!("unix://{}", path("docker.sock")), "--iptables=false", "--bridge=none"]);
        command.args(["--config-file", &path("daemon.json")]);
        let server = Server::start(&mut command);
        let docker = Self { dir, _server: server };
        let up = wait_for(Duration::from_secs(60), || {
            output(&mut docker.command(&["version"]), 10).status.success()
        });
        assert!(up, "dockerd does not answer");
        docker
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command.args(["-H", &format!("unix://{}/docker.sock", self.dir.display())]).args(args);
        command
    }
}

/// Everything on this machine that speaks of `words`: processes, mounts, links, firewall rules, cgroups, files of `dirs`.
pub(crate) fn traces(words: &[&str]) -> Vec<String> {
    let speaks = |text: &str| words.iter().any(|word| !word.is_empty() && text.contains(word));
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == own {
            continue;
        }
        let command = text(&fs::read(process.path().join("cmdline")).unwrap_or_default()).replace('\0', " ");
        if speaks(&command) {
            found.push(format!("process {pid}: {command}"));
        }
        let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
        found.extend(mounts.lines().filter(|l| speaks(l)).map(|l| format!("mount of process {pid}: {l}")));
    }
    for command in [["ip", "-o", "link"], ["nft", "list", "ruleset"], ["ip", "netns", "list"]] {
        let Ok(out) = Command::new(command[0]).args(&command[1..]).output() else { continue };
        found.extend(text(&out.stdout).lines().filter(|l| speaks(l)).map(|l| format!("{command:?}: {l}")));
    }
    directories(Path::new("/sys/fs/cgroup"), &mut |path| {
        if speaks(&path.to_string_lossy()) {
            found.push(format!("cgroup {}", path.display()));
        }
    });
    found
}

fn directories(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            visit(&entry.path());
            directories(&entry.path(), visit);
        }
    }
}

/// Waits a little for what goes in the background, then insists.
pub(crate) fn assert_no_traces(words: &[&str]) {
    wait_for(Duration::from_secs(5), || traces(words).is_empty());
    assert_eq!(traces(words), Vec::<String>::new());
}

/// The bridge link of a root directory, by the alias that names it.
pub(crate) fn bridge_of(root: &Path) -> String {
    let links = text(&Command::new("ip").args(["-o", "link"]).output().expect("ip link").stdout);
    let line = links.lines().find(|line| line.contains(&root.display().to_string()));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or_default().to_owned()
}
