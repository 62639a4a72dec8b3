//! Builds beside those of Docker's two builders: `cargo bench -p longshore-benches --bench build`, as root, with dockerd and a static
//! busybox. Commands have no network here; LONGSHORE_BENCH_FILES sets the number of files of the context, LONGSHORE_BENCH_ROUNDS the rounds.

use std::cell::Cell;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longshore_benches::{BoxError, Race, Sample, command, time};
use longshore_build::{BuildOptions, Builder, Context, FileCache, RuntimeExecutor, StoreResolver};
use longshore_image::{Ctx, ImageSpec, LayerOptions, Store, host_platform};
use longshore_runtime::Runtime;

fn main() -> Result<(), BoxError> {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let number = |name: &str, default: u32| std::env::var(name).map_or(Ok(default), |n| n.parse());
    let (files, rounds) =
        (number("LONGSHORE_BENCH_FILES", 20_000)?, number("LONGSHORE_BENCH_ROUNDS", 3)? as usize);
    let dir = tempfile::tempdir()?;
    let root = root_tar(dir.path())?;
    let ours = Ours::new(dir.path(), &root)?;
    let docker = Docker::start(dir.path(), &root)?;
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty)?;
    let context = dir.path().join("context");
    many_files(&context, files)?;

    let twenty = format!("FROM base\n{}", "RUN true\n".repeat(20));
    race("20 RUN true, cold", &ours, &docker, rounds, &twenty, &empty, false, &|_| Ok(()));
    race("20 RUN true, all cached", &ours, &docker, rounds, &twenty, &empty, true, &|_| Ok(()));
    let copy = "FROM base\nCOPY . /src\n";
    race(&format!("COPY of {files} files, cold"), &ours, &docker, rounds, copy, &context, false, &|_| Ok(()));
    race(
        &format!("COPY of {files} files, nothing changed"),
        &ours,
        &docker,
        rounds,
        copy,
        &context,
        true,
        &|_| Ok(()),
    );
    race(
        &format!("COPY of {files} files, one changed"),
        &ours,
        &docker,
        rounds,
        copy,
        &context,
        true,
        &|n| Ok(std::fs::write(context.join("d0/f0"), n.to_string())?),
    );
    let stages = "FROM base AS a\nRUN sleep 2; touch /a\nFROM base AS b\nRUN sleep 2; touch /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    race("two stages of two seconds", &ours, &docker, rounds, stages, &empty, false, &|_| Ok(()));
    Ok(())
}

/// One job by all three. `change` is called before each run with a number that is new.
#[expect(clippy::too_many_arguments, reason = "one call per table")]
fn race(
    title: &str,
    ours: &Ours,
    docker: &Docker,
    rounds: usize,
    dockerfile: &str,
    context: &Path,
    cached: bool,
    change: &dyn Fn(u32) -> Result<(), BoxError>,
) {
    let count = Cell::new(0);
    let next = || {
        count.set(count.get() + 1);
        change(count.get())
    };
    Race::new(title)
        .add("longshore", || next().and_then(|()| ours.build(dockerfile, context, cached)))
        .add("BuildKit in docker", || next().and_then(|()| docker.build(dockerfile, context, cached, true)))
        .add("docker classic", || next().and_then(|()| docker.build(dockerfile, context, cached, false)))
        .run(rounds);
}

struct Ours {
    store: Store,
    cache: FileCache,
    executor: RuntimeExecutor,
}

impl Ours {
    fn new(dir: &Path, root: &Path) -> Result<Self, BoxError> {
        let store = Store::open(dir.join("store"))?;
        let layer =
            store.add_layer(&mut std::fs::File::open(root)?, &LayerOptions::default(), Ctx::none())?;
        let mut spec = ImageSpec::default();
        spec.config.oci.set_os(host_platform().os().clone());
        spec.config.oci.set_architecture(host_platform().architecture().clone());
        spec.layers = vec![layer];
        spec.names = vec!["base".to_owned()];
        store.create_image(&spec)?;
        let runtime = Runtime::new(dir.join("runtime"))?;
        let executor = RuntimeExecutor::new(&runtime, dir.join("scratch"));
        Ok(Self { store, cache: FileCache::open(dir.join("cache"))?, executor })
    }

    fn build(&self, dockerfile: &str, context: &Path, cached: bool) -> Result<Sample, BoxError> {
        let mut options = BuildOptions::default();
        options.no_cache = !cached;
        options.network = Some("none".to_owned());
        options.tags = vec!["bench".to_owned()];
        let resolver = StoreResolver(&self.store);
        time(|| {
            let builder = Builder::new(&self.store, &resolver).executor(&self.executor).cache(&self.cache);
            builder.build(dockerfile, &Context::dir(context)?, &options, &mut |_| {}, Ctx::none())?;
            Ok(())
        })
    }
}

struct Docker {
    daemon: Child,
    host: String,
    file: std::path::PathBuf,
}

impl Docker {
    fn start(dir: &Path, root: &Path) -> Result<Self, BoxError> {
        let at = |name: &str| dir.join(name).display().to_string();
        let host = format!("unix://{}", at("docker.sock"));
        let daemon = Command::new("dockerd")
            .args([
                "--iptables=false",
                "--bridge=none",
                "--data-root",
                &at("docker"),
                "--exec-root",
                &at("docker-exec"),
            ])
            .args(["-p", &at("docker.pid"), "-H", &host])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let docker = Self { daemon, host, file: dir.join("Dockerfile") };
        let begun = Instant::now();
        while !docker.command(&["version"]).output()?.status.success() {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err("dockerd does not start".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        command(docker.command(&["import"]).arg(root).arg("base"))?;
        Ok(docker)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command.args(["-H", &self.host]).args(args).stdout(Stdio::null());
        command
    }

    fn build(
        &self,
        dockerfile: &str,
        context: &Path,
        cached: bool,
        buildkit: bool,
    ) -> Result<Sample, BoxError> {
        std::fs::write(&self.file, dockerfile)?;
        let mut build = self.command(&["build", "--network", "none", "-q", "-t", "bench", "-f"]);
        build.arg(&self.file).env("DOCKER_BUILDKIT", if buildkit { "1" } else { "0" });
        if !cached {
            build.arg("--no-cache");
        }
        command(build.arg(context))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its mounts away.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

fn root_tar(dir: &Path) -> Result<std::path::PathBuf, BoxError> {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for name in ["sh", "true", "sleep", "touch"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    let tar = dir.join("root.tar");
    command(Command::new("tar").arg("cf").arg(&tar).arg("-C").arg(&root).arg("."))?;
    Ok(tar)
}

/// 3.3 KB each, as in a tree of sources.
fn many_files(dir: &Path, files: u32) -> Result<(), BoxError> {
    for n in 0..files {
        let sub = dir.join(format!("d{}", n / 100));
        if n % 100 == 0 {
            std::fs::create_dir_all(&sub)?;
        }
        std::fs::write(sub.join(format!("f{n}")), format!("{n}\n").repeat(3300 / (n.to_string().len() + 1)))?;
    }
    Ok(())
}
