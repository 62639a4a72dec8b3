//! A dockerd of the bench's own, which touches no network; its time and memory are those of the daemon and its containerd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longshore_benches::{BoxError, Sample, command};

/// Clock ticks per second in `/proc/PID/stat`, on every Linux.
const TICK: Duration = Duration::from_millis(10);

pub(crate) struct Dockerd {
    child: Child,
    socket: String,
    data: PathBuf,
}

impl Dockerd {
    pub(crate) fn start(scratch: &Path) -> Result<Self, BoxError> {
        let at = |name: &str| scratch.join("docker").join(name).display().to_string();
        fs::create_dir_all(at(""))?;
        let socket = format!("unix://{}", at("docker.sock"));
        let log = fs::File::create(at("log"))?;
        let child = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "-p", &at("pid"), "-H", &socket])
            .args(["--iptables=false", "--bridge=none"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let daemon = Self { child, socket, data: at("data").into() };
        for _ in 0..300 {
            if command(daemon.docker().arg("version")).is_ok() {
                return Ok(daemon);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("dockerd did not start".into())
    }

    fn docker(&self) -> Command {
        let mut docker = Command::new("/usr/bin/docker");
        docker.args(["-H", &self.socket]);
        docker
    }

    /// Pulls, and removes the image again outside of the time.
    pub(crate) fn pull(&self, reference: &str) -> Result<Sample, BoxError> {
        let sample = self.measured(&["pull", "-q", reference]);
        self.remove(reference)?;
        sample
    }

    /// Takes in an image to push.
    pub(crate) fn take(&self, reference: &str) -> Result<(), BoxError> {
        command(self.docker().args(["pull", "-q", reference])).map(drop)
    }

    pub(crate) fn remove(&self, reference: &str) -> Result<(), BoxError> {
        command(self.docker().args(["rmi", "-f", reference])).map(drop)
    }

    /// Pushes an image that it has under another name, with no memory of where its layers are, which would let it mount them.
    pub(crate) fn push(&self, image: &str, reference: &str) -> Result<Sample, BoxError> {
        command(self.docker().args(["tag", image, reference]))?;
        for driver in fs::read_dir(self.data.join("image"))? {
            let memory = driver?.path().join("distribution");
            if memory.exists() {
                fs::remove_dir_all(memory)?;
            }
        }
        let sample = self.measured(&["push", "-q", reference]);
        self.remove(reference)?;
        sample
    }

    fn measured(&self, args: &[&str]) -> Result<Sample, BoxError> {
        let daemons = self.daemons();
        for daemon in &daemons {
            // Starts the peak anew (proc(5), clear_refs).
            fs::write(daemon.join("clear_refs"), "5")?;
        }
        let before = daemons.iter().map(|d| ticks(d)).sum::<u32>();
        let sample = command(self.docker().args(args))?;
        let after = daemons.iter().map(|d| ticks(d)).sum::<u32>();
        let peak = daemons.iter().map(|d| peak(d)).sum();
        Ok(Sample { wall: sample.wall, cpu: Some(TICK * after.saturating_sub(before)), peak_rss: Some(peak) })
    }

    /// dockerd and its containerd.
    fn daemons(&self) -> Vec<PathBuf> {
        let own = self.child.id().to_string();
        let parent = |dir: &Path| fields(dir).get(1).cloned();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path());
        all.filter(|dir| dir.ends_with(&own) || parent(dir).as_deref() == Some(&own)).collect()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containerd and unmounts what it mounted.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// `/proc/PID/stat` from the state on: a name before it may hold spaces.
fn fields(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("stat")).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().map(str::to_owned).collect()
}

/// User and system time, with that of children that were waited for.
fn ticks(dir: &Path) -> u32 {
    fields(dir).iter().skip(11).take(4).filter_map(|f| f.parse::<u32>().ok()).sum()
}

fn peak(dir: &Path) -> u64 {
    let text = fs::read_to_string(dir.join("status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}
