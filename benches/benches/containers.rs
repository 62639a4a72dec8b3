//! Supervised containers through the `longshore` program, beside docker and podman: a whole `run --rm`, without a network and with a bridge; one
//! noisy container's log; `ps` and `stop` with many. Everything happens in a network namespace of its own.
//!
//! `cargo build --release -p longshore-examples --examples && cargo bench -p longshore-benches --bench containers`, as root.
//! LONGSHORE_BENCH_ROUNDS (20), LONGSHORE_BENCH_LOG_MB (256) and LONGSHORE_BENCH_MANY (200) set the sizes.
#![expect(clippy::print_stdout, reason = "a table is its output")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longshore_benches::{BoxError, Race, Sample, command, time};

/// Set inside the network namespace.
const INSIDE: &str = "LONGSHORE_BENCH_NETNS";

fn main() -> Result<(), BoxError> {
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe()?;
        let script = "ip link set lo up; exec \"$@\"";
        let mut inside = Command::new("unshare");
        inside
            .args(["-n", "sh", "-c", script, "sh"])
            .arg(own)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1");
        return Err(inside.exec().into());
    }
    let number = |name: &str, usual: usize| std::env::var(name).map_or(Ok(usual), |n| n.parse());
    let bench = Bench::new()?;
    let rounds = number("LONGSHORE_BENCH_ROUNDS", 20)?;
    bench.runs("none", rounds);
    bench.runs("bridge", rounds);
    bench.log(number("LONGSHORE_BENCH_LOG_MB", 256)?, rounds.div_ceil(5))?;
    bench.many(number("LONGSHORE_BENCH_MANY", 200)?, rounds)
}

struct Bench {
    dir: tempfile::TempDir,
    longshore: Vec<String>,
    docker: Vec<String>,
    podman: Vec<String>,
    dockerd: Child,
}

impl Bench {
    fn new() -> Result<Self, BoxError> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let words = |text: &[&str]| text.iter().map(ToString::to_string).collect::<Vec<_>>();
        let program = program()?.display().to_string();
        let socket = format!("unix://{}", path("docker.sock"));
        let dockerd = Command::new("dockerd")
            .args([
                "--data-root",
                &path("docker"),
                "--exec-root",
                &path("exec"),
                "-p",
                &path("pid"),
                "-H",
                &socket,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let bench = Self {
            longshore: words(&[&program, "--root", &path("root")]),
            docker: words(&["/usr/bin/docker", "-H", &socket]),
            podman: words(&[
                "podman",
                "--root",
                &path("podman"),
                "--runroot",
                &path("podman-run"),
                "--cgroup-manager",
                "cgroupfs",
                "--events-backend",
                "file",
                // crun does not start where version 1 and 2 of cgroups are both mounted.
                "--runtime",
                "runc",
            ]),
            dockerd,
            dir,
        };
        for _ in 0..300 {
            if run(&bench.docker, &["version"]).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let tar = bench.busybox()?;
        for peer in bench.all() {
            // Whoever is not there is left out of the races.
            let _ = run(peer, &["import", &tar, "busybox"]);
        }
        Ok(bench)
    }

    fn all(&self) -> [&Vec<String>; 3] {
        [&self.longshore, &self.docker, &self.podman]
    }

    fn busybox(&self) -> Result<String, BoxError> {
        let root = self.dir.path().join("busybox");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for applet in ["sh", "true", "cat", "sleep"] {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        let tar = self.dir.path().join("busybox.tar");
        command(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg("."))?;
        Ok(tar.display().to_string())
    }

    fn runs(&self, network: &str, rounds: usize) {
        let args = ["run", "--rm", "--network", network, "busybox", "true"];
        // Podman gives limits that a container of root here may not have.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];
        let podman = if network == "bridge" { "podman" } else { network };
        let podman_args = [&["run", "--rm", "--network", podman], &limits[..], &["busybox", "true"]].concat();
        Race::new(&format!("run --rm busybox true, network {network}"))
            .add("longshore", || run(&self.longshore, &args))
            .add("docker", || run(&self.docker, &args))
            .add("podman", || run(&self.podman, &podman_args))
            .run(rounds);
    }

    /// From the start of a container that writes lines of 100 bytes to the end of its log; no line may be missing.
    fn log(&self, megabytes: usize, rounds: usize) -> Result<(), BoxError> {
        let lines = (megabytes << 20) / 100;
        let mut file = std::io::BufWriter::new(fs::File::create(self.dir.path().join("lines"))?);
        for n in 0..lines {
            writeln!(file, "{n:0>50} {:x>48}", "")?;
        }
        file.flush()?;
        let volume = format!("{}:/in:ro", self.dir.path().display());
        let noisy = |peer: &[String]| -> Result<Sample, BoxError> {
            let sample = time(|| {
                run(
                    peer,
                    &[
                        "run",
                        "-d",
                        "--name",
                        "noisy",
                        "--network",
                        "none",
                        "-v",
                        &volume,
                        "busybox",
                        "cat",
                        "/in/lines",
                    ],
                )?;
                run(peer, &["wait", "noisy"])
            })?;
            let path = output(peer, &["inspect", "-f", "{{.LogPath}}", "noisy"])?;
            // Not read as a whole: what this process holds counts as its next child's peak.
            let written = BufReader::new(fs::File::open(path.trim())?).split(b'\n').count();
            run(peer, &["rm", "noisy"])?;
            if written == lines { Ok(sample) } else { Err(format!("{written} lines of {lines}").into()) }
        };
        Race::new(&format!("{megabytes} MB of lines into the log of one container"))
            .add("longshore", || noisy(&self.longshore))
            .add("docker", || noisy(&self.docker))
            .run(rounds);
        Ok(())
    }

    fn many(&self, count: usize, rounds: usize) -> Result<(), BoxError> {
        const ARGS: [&str; 8] = ["run", "-d", "--init", "--network", "none", "busybox", "sleep", "10000"];
        println!(
            "\n### memory of one of {count} idle containers\n\n| | its processes (PSS) | all, the kernel's too |\n|---|---|---|"
        );
        for (name, peer) in [("longshore", &self.longshore), ("docker", &self.docker)] {
            let (processes, available) = (processes()?, available()?);
            std::thread::scope(|scope| {
                let some = |t: usize| {
                    (t..count)
                        .step_by(8)
                        .try_for_each(|_| run(peer, &ARGS).map(drop).map_err(|e| e.to_string()))
                };
                let threads: Vec<_> = (0..8).map(|t| scope.spawn(move || some(t))).collect();
                threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a thread panicked".to_owned())?)
            })?;
            let each = |bytes: u64| bytes as f64 / count as f64 / f64::from(1 << 20);
            let own: u64 = self::processes()?.difference(&processes).map(|pid| pss(*pid)).sum();
            let all = available.saturating_sub(self::available()?);
            println!("| {name} | {:.2} MB | {:.2} MB |", each(own), each(all));
        }
        Race::new(&format!("ps with {count} containers"))
            .add("longshore", || run(&self.longshore, &["ps"]))
            .add("docker", || run(&self.docker, &["ps"]))
            .run(rounds);
        let stop = |peer: &[String]| -> Result<Sample, BoxError> {
            let ids = output(peer, &["ps", "-q"])?;
            let args: Vec<&str> = std::iter::once("stop").chain(ids.split_whitespace()).collect();
            run(peer, &args)
        };
        Race::new(&format!("stop of {count} containers at once"))
            .add("longshore", || stop(&self.longshore))
            .add("docker", || stop(&self.docker))
            .run_cold(1);
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for peer in self.all() {
            let ids = output(peer, &["ps", "-aq"]).unwrap_or_default();
            let args: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.split_whitespace()).collect();
            if args.len() > 2 {
                let _ = run(peer, &args);
            }
        }
        let _ = run(&self.longshore, &["network", "prune", "-f"]);
        let _ = command(Command::new("kill").arg(self.dockerd.id().to_string()));
        let _ = self.dockerd.wait();
    }
}

/// The example beside this bench, of the same profile.
fn program() -> Result<PathBuf, BoxError> {
    let own = std::env::current_exe()?;
    let path = own.parent().and_then(Path::parent).ok_or("no target directory")?.join("examples/longshore");
    if path.is_file() { Ok(path) } else { Err(format!("{} is not built", path.display()).into()) }
}

fn processes() -> Result<BTreeSet<u32>, BoxError> {
    let names = fs::read_dir("/proc")?.map(|entry| Ok(entry?.file_name().to_string_lossy().parse().ok()));
    Ok(names.collect::<Result<Vec<_>, BoxError>>()?.into_iter().flatten().collect())
}

/// The process's share of the memory that it uses, in bytes; 0 for one that is gone.
fn pss(pid: u32) -> u64 {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:").unwrap_or(0)
}

fn available() -> Result<u64, BoxError> {
    kilobytes("/proc/meminfo", "MemAvailable:").ok_or_else(|| "no MemAvailable".into())
}

/// A line `name: 12 kB` in bytes.
fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

fn run(peer: &[String], args: &[&str]) -> Result<Sample, BoxError> {
    command(Command::new(&peer[0]).args(&peer[1..]).args(args))
}

fn output(peer: &[String], args: &[&str]) -> Result<String, BoxError> {
    let out = Command::new(&peer[0]).args(&peer[1..]).args(args).stderr(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
