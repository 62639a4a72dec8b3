//! Starting `/bin/true` in a container and waiting for its end, beside crun, runc, bubblewrap and the floor (`floor.rs`: the same system
//! calls and nothing else): back to back, after a pause, and from a large host process; and exec beside nsenter.
//!
//! As root: `cargo rustc --release -p longshore-examples --example longshore-oci -- -C target-feature=+crt-static`, so that the program is
//! static, then `cargo bench -p longshore-benches --bench runtime`.
//! LONGSHORE_BENCH_ROUNDS sets the number of rounds, LONGSHORE_BENCH_GIB the size of the large host.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longshore_benches::{BoxError, Race, Sample, command, time};
use longshore_runtime::store::Memory;
use longshore_runtime::{CreateOptions, ExecOptions, Runtime, Stdio, spec};
use oci_spec::runtime::Spec;

fn main() -> Result<(), BoxError> {
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_none() {
        return Err(without_hybrid().into());
    }
    let number = |name: &str, default: usize| std::env::var(name).map_or(Ok(default), |n| n.parse());
    let rounds = number("LONGSHORE_BENCH_ROUNDS", 40)?;
    let bench = Bench::new()?;

    bench.race("run /bin/true, back to back", None).run(rounds);
    bench
        .race("run /bin/true, each after 0.3 s of idleness", Some(Duration::from_millis(300)))
        .run(rounds / 4);

    let mut sleep = bench.spec.clone();
    if let Some(process) = sleep.process_mut() {
        process.set_args(Some(vec!["/bin/sleep".to_owned(), "1000".to_owned()]));
    }
    let running = bench.runtime.create("exec", &sleep, CreateOptions::default())?.start()?;
    let pid = running.pid().to_string();
    let process = bench.spec.process().clone().ok_or("the default spec has a process")?;
    Race::new("exec /bin/true in a running container")
        .add("longshore", || {
            time(|| {
                let mut exec = running.container().exec(&process, null_exec())?;
                Ok(exec.wait(None)?)
            })
        })
        .add("nsenter", || command(Command::new("nsenter").args(["-t", &pid, "-a", "/bin/true"])))
        .run(rounds);

    let gib = number("LONGSHORE_BENCH_GIB", 4)?;
    Race::new("run /bin/true from a small host process")
        .add("longshore", || library(&bench.runtime, &bench.spec))
        .run(rounds);
    let mut ballast = vec![0u8; gib << 30];
    ballast.iter_mut().step_by(4096).for_each(|page| *page = 1);
    Race::new(&format!("run /bin/true from a host process of {gib} GiB"))
        .add("longshore", || library(&bench.runtime, &bench.spec))
        .run(rounds);
    std::hint::black_box(&ballast);
    drop(ballast);
    Ok(())
}

/// Set inside the private mount namespace.
const INSIDE: &str = "LONGSHORE_BENCH_INSIDE";

/// crun refuses a machine with both kinds of cgroups: all contenders run where the v2 one is not mounted. Returns only on failure.
fn without_hybrid() -> std::io::Error {
    let script = "mount --make-rprivate / && { umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"; }";
    let exe = std::env::current_exe().unwrap_or_default();
    Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(exe)
        .args(std::env::args().skip(1))
        .env(INSIDE, "1")
        .exec()
}

struct Bench {
    dir: tempfile::TempDir,
    runtime: Runtime,
    in_memory: Runtime,
    spec: Spec,
    floor: PathBuf,
    hierarchies: Vec<String>,
}

impl Bench {
    fn new() -> Result<Self, BoxError> {
        let dir = tempfile::tempdir_in("/dev/shm")?;
        let rootfs = dir.path().join("rootfs");
        for sub in ["bin", "dev", "proc", "sys"] {
            fs::create_dir_all(rootfs.join(sub))?;
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
        for applet in ["true", "sleep"] {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        // What `runc spec` gives: no seccomp filter, a read-only root.
        let mut spec = spec::default_spec(["/bin/true"]);
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(None);
        }
        if let Some(root) = spec.root_mut() {
            root.set_path(rootfs).set_readonly(Some(true));
        }
        // crun 1.8 knows no later version.
        let version = spec.version().clone();
        spec.set_version("1.0.2".to_owned());
        fs::write(dir.path().join("config.json"), serde_json::to_vec(&spec)?)?;
        spec.set_version(version);
        let runtime = Runtime::new(dir.path().join("state"))?;
        let in_memory = Runtime::with_store(Memory::default())?;
        let floor = dir.path().join("floor");
        build_floor(&floor)?;
        Ok(Self { dir, runtime, in_memory, spec, floor, hierarchies: hierarchies()? })
    }

    fn race(&self, title: &str, idle: Option<Duration>) -> Race<'_> {
        let pause = move || idle.into_iter().for_each(std::thread::sleep);
        let mut race = Race::new(title)
            .add("longshore, library", move || {
                pause();
                library(&self.runtime, &self.spec)
            })
            .add("longshore, library, state in memory", move || {
                pause();
                library(&self.in_memory, &self.spec)
            });
        if let Some(ours) = ours() {
            race = race.add("longshore-oci", move || {
                pause();
                self.tool(&ours)
            });
        }
        race.add("floor", move || {
            pause();
            command(Command::new(&self.floor).arg(self.dir.path().join("rootfs")).args(&self.hierarchies))
        })
        .add("crun", move || {
            pause();
            self.tool(Path::new("crun"))
        })
        .add("runc", move || {
            pause();
            self.tool(Path::new("runc"))
        })
        .add("bubblewrap (no cgroups)", move || {
            pause();
            let root = self.dir.path().join("rootfs");
            let mut bwrap = Command::new("bwrap");
            bwrap.arg("--unshare-all").arg("--ro-bind").arg(root).args([
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "/bin/true",
            ]);
            command(&mut bwrap)
        })
    }

    fn tool(&self, program: &Path) -> Result<Sample, BoxError> {
        let state = self
            .dir
            .path()
            .join(format!("state-{}", program.file_name().unwrap_or_default().to_string_lossy()));
        command(
            Command::new(program)
                .arg("--root")
                .arg(state)
                .args(["run", "--bundle"])
                .arg(self.dir.path())
                .arg("bench-tool"),
        )
    }
}

fn library(runtime: &Runtime, spec: &Spec) -> Result<Sample, BoxError> {
    time(|| {
        let mut options = CreateOptions::default();
        options.stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
        let mut running = runtime.create("bench", spec, options)?.start()?;
        let exit = running.wait(None)?.ok_or("no time-out was given")?;
        if exit.code == 0 { Ok(()) } else { Err(format!("exit code {}", exit.code).into()) }
    })
}

fn build_floor(to: &Path) -> Result<(), BoxError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/runtime/floor.rs");
    let output = Command::new("rustc")
        .args(["--edition=2024", "-Copt-level=2", "-Cpanic=abort", "-Ctarget-feature=+crt-static"])
        .args(["-Crelocation-model=static", "-Cstrip=symbols", "-o"])
        .args([to, &source])
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

/// The machine's cgroup v1 hierarchies, as `MOUNT=OPTIONS` of a mount of the same.
fn hierarchies() -> Result<Vec<String>, BoxError> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let lines = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let v1 = lines.filter(|f| f.get(2) == Some(&"cgroup"));
    Ok(v1
        .filter_map(|f| {
            let controllers = f.get(3)?.split(',').filter(|o| !matches!(*o, "rw" | "relatime"));
            let options = controllers.collect::<Vec<_>>().join(",");
            let none = if options.starts_with("name=") { "none," } else { "" };
            Some(format!("{}={none}{options}", f.get(1)?))
        })
        .collect())
}

fn null_exec() -> ExecOptions {
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
    options
}

/// The example, where it has been built.
fn ours() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let path = exe.parent()?.parent()?.join("examples/longshore-oci");
    path.exists().then_some(path)
}
