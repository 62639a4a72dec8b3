//! podman and a real dockerd read what we push, and we read what they push.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Memory, OCI_CONFIG, OCI_LAYER, Registry, have, push, quick, sha256};
use longshore_registry_client::{Ctx, Layout, Platforms};
use oci_spec::image::Descriptor;

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An image with a layer that can be unpacked: one file, in tar, in gzip.
fn image(memory: &Memory) -> Descriptor {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hello"), "from longshore").unwrap();
    let tar = output(Command::new("tar").current_dir(dir.path()).args(["-cf", "-", "hello"]));
    std::fs::write(dir.path().join("layer.tar"), &tar).unwrap();
    let gzip = output(Command::new("gzip").current_dir(dir.path()).args(["-n", "-c", "layer.tar"]));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&tar)]},
    });
    let config = memory.add(OCI_CONFIG, config.to_string().as_bytes());
    let layer = memory.add(OCI_LAYER, &gzip);
    memory.manifest(&config, &[layer])
}

fn root_with(tools: &[&str]) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "not root");
        eprintln!("skipped: not root");
    }
    root && tools.iter().all(|t| have(t))
}

/// Pulls all of it: every byte is verified.
fn comes_back(registry: &Registry, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let client = quick().build().unwrap();
    let pulled = client.pull(&registry.reference(name), &Platforms::Host, &layout, Ctx::none()).unwrap();
    assert_eq!(pulled.fetched, 2);
}

#[test]
fn podman() {
    if !root_with(&["docker-registry", "podman", "tar", "gzip"]) {
        return;
    }
    let registry = Registry::start();
    let memory = Memory::default();
    push(&quick().build().unwrap(), &registry.reference("ours:1"), &image(&memory), &memory);
    let dir = tempfile::tempdir().unwrap();
    let podman = |args: &[&str]| {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut command = Command::new("podman");
        command.args(["--root", &at("root"), "--runroot", &at("run"), "--storage-driver", "vfs"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]).args(args);
        String::from_utf8(output(&mut command)).unwrap()
    };
    let (from, to) = (registry.reference("ours:1").to_string(), registry.reference("theirs:1").to_string());
    podman(&["pull", "-q", "--tls-verify=false", &from]);
    assert!(podman(&["inspect", &from]).contains("/hello"));
    podman(&["push", "-q", "--tls-verify=false", &from, &to]);
    comes_back(&registry, "theirs:1");
}

/// A dockerd of its own that touches no network.
struct Dockerd {
    child: Child,
    socket: String,
}

impl Dockerd {
    fn start(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).display().to_string();
        let socket = format!("unix://{}", at("docker.sock"));
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "-p", &at("pid"), "-H", &socket])
            .args(["--iptables=false", "--bridge=none", "--storage-driver", "vfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { child, socket };
        for _ in 0..600 {
            if daemon.docker(&["version"]).output().unwrap().status.success() {
                return daemon;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("dockerd did not start: {}", std::fs::read_to_string(at("log")).unwrap());
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command.args(["-H", &self.socket]).args(args).stdin(Stdio::null());
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containerd and unmounts what it mounted.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn dockerd() {
    if !root_with(&["docker-registry", "dockerd", "docker", "tar", "gzip"]) {
        return;
    }
    let registry = Registry::start();
    let memory = Memory::default();
    let root = image(&memory);
    push(&quick().build().unwrap(), &registry.reference("ours:1"), &root, &memory);
    let dir = tempfile::tempdir().unwrap();
    let daemon = Dockerd::start(dir.path());
    let (from, to) = (registry.reference("ours:1").to_string(), registry.reference("theirs:1").to_string());
    let pulled = String::from_utf8(output(&mut daemon.docker(&["pull", &from]))).unwrap();
    assert!(pulled.contains(root.digest().as_ref()), "the digest that docker shows is ours: {pulled}");
    output(&mut daemon.docker(&["tag", &from, &to]));
    output(&mut daemon.docker(&["push", &to]));
    comes_back(&registry, "theirs:1");
}
