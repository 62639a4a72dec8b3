//! A process that dies at any system call leaves nothing that a repair does not find.

mod common;

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use common::{Lab, Netns, assert_same, ready};
use longshore_network::{Bridge, BridgeOptions, Endpoint, PortMapping, Protocol};

const SCENE: &str = "LONGSHORE_NETWORK_CRASH_SCENE";
/// Those with which the crate changes anything, or that lie between two changes.
const CALLS: [&str; 7] = ["sendto", "symlink", "rename", "unlink", "rmdir", "write", "setns"];

/// Not a test by itself: what the others run in a process of its own, to be killed.
#[test]
fn child() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let (state, netns) = scene.split_once(' ').unwrap();
    let container = std::fs::File::open(netns).unwrap();
    let bridge = Bridge::open(state, "bridge", &BridgeOptions::new()).unwrap();
    let endpoint = Endpoint::new().id("victim").publish(8080, 80);
    let lease =
        bridge.attach(container.as_fd(), &endpoint.port(PortMapping::new(53, 53, Protocol::Udp))).unwrap();
    lease.detach().unwrap();
    let other = Bridge::open(state, "other", &BridgeOptions::new()).unwrap();
    let lease = other.attach(container.as_fd(), &Endpoint::new().id("victim").publish(0, 80)).unwrap();
    lease.detach().unwrap();
    other.remove().unwrap();
}

/// Runs [`child`] and kills it as it enters the `nth` call of this name.
fn run(lab: &Lab, container: &Netns, call: &str, nth: usize) -> ExitStatus {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&container.as_fd());
    let scene = format!("{} /proc/{}/fd/{fd}", lab.state.path().display(), std::process::id());
    let mut command = Command::new("strace");
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:signal=KILL:when={nth}"), "-e", "signal=none"]);
    command.arg(std::env::current_exe().expect("own path")).args(["--exact", "child"]).env(SCENE, scene);
    lab.host.run(|| command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("strace"))
}

fn files(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        // The cursor only says where to look first.
        if path.is_dir() {
            names.extend(files(&path));
        } else if !path.ends_with(".last") {
            names.push(path.display().to_string());
        }
    }
    names.sort();
    names
}

#[test]
fn a_kill_at_any_call_leaves_nothing_after_a_repair() {
    if !ready(&["strace", "ip", "nft", "busybox"]) {
        return;
    }
    let lab = Lab::new();
    let container = Netns::new();
    let bridge = lab.bridge();
    let (before, files_before) = (lab.host.dump(), files(lab.state.path()));
    let (mut kills, step) = (0, step());
    for call in CALLS {
        for nth in (1..).step_by(step) {
            let status = run(&lab, &container, call, nth);
            if status.success() {
                break;
            }
            assert_eq!(status.signal(), Some(9), "{call} {nth}");
            kills += 1;
            for name in lab.host.run(|| Bridge::list(lab.state.path())).unwrap() {
                let network = lab.host.run(|| Bridge::find(lab.state.path(), &name)).unwrap();
                network.repair(&[]).unwrap();
                if name == "other" {
                    network.remove().unwrap();
                }
            }
            assert_same(&before, &lab.host.dump());
            assert_eq!(files(lab.state.path()), files_before, "{call} {nth}");
            assert!(!container.sh("ip -o link").contains("eth0"), "{call} {nth}");
        }
    }
    assert!(kills > 20, "only {kills} kills: does strace inject?");
    bridge.remove().unwrap();
}

/// Every call by default; a larger step looks at fewer.
fn step() -> usize {
    std::env::var("LONGSHORE_CRASH_STEP").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}
