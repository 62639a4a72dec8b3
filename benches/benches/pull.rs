//! Pulls from a registry on loopback to a root file system that could be mounted, durably, beside podman, docker, containerd
//! and umoci (with skopeo, for it cannot pull), each on an ext4 made afresh; and a store of 1,000 images.
//!
//! `cargo bench -p longshore-benches --bench pull`, as root. `LONGSHORE_BENCH_IMAGE` picks one race (`many`, `big` or `names`),
//! `LONGSHORE_BENCH_ROUNDS` the rounds (2; less than 8 minutes on two quiet cores). Needs docker-registry, skopeo, podman, docker.io,
//! containerd, umoci: what is missing is left out, and the table says why. The time of the others includes a `sync -f`,
//! their CPU time and memory are those of client and daemon together.

#[path = "layers_common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Disk, Noise, Tar, many};
use longshore_benches::{BoxError, Race, Sample, command, time};
use longshore_image::{Ctx, ImageSpec, ImportOptions, LayerOptions, Store, StoreOptions, from_fn};
use longshore_registry_client::{Client, Reference};

/// Bytes and files of each layer of the big image: a base, tools, compilers, languages.
const BIG: [(u64, u64); 6] =
    [(170, 6_900), (120, 5_000), (334, 9_000), (160, 9_000), (240, 14_000), (300, 6_000)];

fn main() -> Result<(), BoxError> {
    if let Ok(driver) = std::env::var("LONGSHORE_BENCH_PULL") {
        return pull(driver == "directory");
    }
    if let Ok(image) = std::env::var("LONGSHORE_BENCH_PUSH") {
        return push(&image);
    }
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let var = |name| std::env::var(name).ok();
    let rounds = var("LONGSHORE_BENCH_ROUNDS").map_or(Ok(2), |n| n.parse())?;
    let wanted = |name: &str| var("LONGSHORE_BENCH_IMAGE").is_none_or(|image| image == name);
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    if wanted("names") {
        thousand(&scratch.path().join("names"))?;
    }
    let registry = Registry::start(scratch.path())?;
    let disk = Disk::new(scratch.path());
    if wanted("many") {
        let files = many_files()?;
        registry.push("many")?;
        race(&format!("pull an image of {files} small files"), &registry.name("many"), &disk, rounds);
    }
    if wanted("big") {
        registry.push("big")?;
        race("pull an image of 1.3 GB in 6 layers", &registry.name("big"), &disk, rounds);
    }
    Ok(())
}

fn race(title: &str, reference: &str, disk: &Disk, rounds: usize) {
    Race::new(title)
        .add("longshore, EROFS", || disk.fresh(|at| ours("erofs", reference, at)))
        .add("longshore, directory", || disk.fresh(|at| ours("directory", reference, at)))
        .add("podman", || disk.fresh(|at| podman(reference, at)))
        .add("docker", || disk.fresh(|at| docker(reference, at)))
        .add("containerd", || disk.fresh(|at| containerd(reference, at)))
        .add("skopeo and umoci", || disk.fresh(|at| umoci(reference, at)))
        .run_cold(rounds);
}

/// This program as its own child, so that its CPU time and memory can be told apart.
fn ours(driver: &str, reference: &str, at: &Path) -> Result<Sample, BoxError> {
    command(
        Command::new(std::env::current_exe()?)
            .env("LONGSHORE_BENCH_PULL", driver)
            .env("LONGSHORE_BENCH_REFERENCE", reference)
            .env("LONGSHORE_BENCH_DIR", at.join("store")),
    )
}

fn pull(directories: bool) -> Result<(), BoxError> {
    let reference: Reference = std::env::var("LONGSHORE_BENCH_REFERENCE")?.parse()?;
    let mut options = StoreOptions::default();
    options.directories = directories;
    let store = Store::open_with(std::env::var("LONGSHORE_BENCH_DIR")?, &options)?;
    let client = Client::builder().build()?;
    let root = client.resolve(&reference)?;
    let source = client.source(&reference)?;
    let source = from_fn(move |descriptor, offset| source.open(descriptor, offset));
    let mut options = ImportOptions::default();
    options.names.push(reference.to_string());
    store.import(&source, &root, &options, Ctx::none())?;
    Ok(())
}

fn podman(reference: &str, at: &Path) -> Result<Sample, BoxError> {
    let path = |name: &str| at.join(name).display().to_string();
    fs::create_dir(at.join("tmp"))?;
    let script = "podman --root \"$1\" --runroot \"$2\" --storage-driver overlay --cgroup-manager cgroupfs --events-backend file \
                  pull -q --tls-verify=false \"$3\" && sync -f \"$1\"";
    command(
        Command::new("sh")
            .args(["-c", script, "sh", &path("root"), &path("run"), reference])
            .env("TMPDIR", at.join("tmp")),
    )
}

fn umoci(reference: &str, at: &Path) -> Result<Sample, BoxError> {
    let script = "skopeo copy -q --insecure-policy --src-tls-verify=false docker://\"$2\" oci:\"$1\"/layout:it && \
                  umoci unpack --image \"$1\"/layout:it \"$1\"/bundle && sync -f \"$1\"";
    let at = at.display().to_string();
    command(Command::new("sh").args(["-c", script, "sh", &at, reference]))
}

fn docker(reference: &str, at: &Path) -> Result<Sample, BoxError> {
    let path = |name: &str| at.join(name).display().to_string();
    let socket = format!("unix://{}", path("docker.sock"));
    let mut daemon = Command::new("dockerd");
    daemon.args(["--iptables=false", "--bridge=none", "--storage-driver=overlay2", "-H", &socket]);
    daemon.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "-p", &path("pid")]);
    daemon.env("TMPDIR", at);
    let daemon = Daemon::start(&mut daemon, || {
        Command::new("/usr/bin/docker")
            .args(["-H", &socket, "version"])
            .output()
            .is_ok_and(|o| o.status.success())
    })?;
    let script = "/usr/bin/docker -H \"$1\" pull -q \"$2\" && sync -f \"$3\"";
    daemon.measure(Command::new("sh").args(["-c", script, "sh", &socket, reference, &path("data")]))
}

fn containerd(reference: &str, at: &Path) -> Result<Sample, BoxError> {
    let path = |name: &str| at.join(name).display().to_string();
    let (config, socket) = (path("config.toml"), path("containerd.sock"));
    let text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
        path("root"),
        path("state")
    );
    fs::write(&config, text)?;
    let daemon = Daemon::start(Command::new("containerd").args(["-c", &config]), || {
        Command::new("ctr").args(["-a", &socket, "version"]).output().is_ok_and(|o| o.status.success())
    })?;
    let script = "ctr -a \"$1\" images pull --plain-http --snapshotter overlayfs \"$2\" && sync -f \"$3\"";
    daemon.measure(Command::new("sh").args(["-c", script, "sh", &socket, reference, &path("root")]))
}

/// A daemon of a peer, ended when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command, ready: impl Fn() -> bool) -> Result<Self, BoxError> {
        let daemon = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let end = Instant::now() + Duration::from_secs(20);
        while !ready() {
            if Instant::now() > end {
                return Err("it does not start".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// The client's time, and what both took.
    fn measure(&self, client: &mut Command) -> Result<Sample, BoxError> {
        let before = self.cpu()?;
        let mut sample = command(client)?;
        sample.cpu = sample.cpu.map(|cpu| cpu + self.cpu().unwrap_or_default().saturating_sub(before));
        sample.peak_rss = Some(sample.peak_rss.unwrap_or(0).max(self.peak()?));
        Ok(sample)
    }

    /// User and system time of the daemon and of the children it has waited for.
    fn cpu(&self) -> Result<Duration, BoxError> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit_once(')').ok_or("a stat line")?.1;
        let ticks: u64 = fields.split_whitespace().skip(11).take(4).flat_map(str::parse::<u64>).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    fn peak(&self) -> Result<u64, BoxError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked to end, it ends its own children too.
        let _ = command(Command::new("kill").arg(self.0.id().to_string()));
        let _ = self.0.wait();
    }
}

struct Registry {
    child: Child,
    address: String,
    scratch: PathBuf,
}

impl Registry {
    fn start(scratch: &Path) -> Result<Self, BoxError> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let config = scratch.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            scratch.join("registry").display()
        );
        fs::write(&config, text)?;
        let mut serve = Command::new("docker-registry");
        let child = serve.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let registry = Self { child, address, scratch: scratch.to_owned() };
        for _ in 0..200 {
            if std::net::TcpStream::connect(&registry.address).is_ok() {
                return Ok(registry);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("docker-registry does not start".into())
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}:1", self.address)
    }

    /// Makes an image and pushes it, in a process of its own: the kernel counts this one's memory as that of all children that it starts.
    fn push(&self, image: &str) -> Result<(), BoxError> {
        command(
            Command::new(std::env::current_exe()?)
                .env("LONGSHORE_BENCH_PUSH", image)
                .env("LONGSHORE_BENCH_REFERENCE", self.name(image))
                .env("LONGSHORE_BENCH_DIR", &self.scratch),
        )
        .map(drop)
    }
}

fn many_files() -> Result<u32, BoxError> {
    Ok(std::env::var("LONGSHORE_BENCH_FILES").map_or(Ok(100_000), |n| n.parse())?)
}

fn push(image: &str) -> Result<(), BoxError> {
    let scratch = PathBuf::from(std::env::var("LONGSHORE_BENCH_DIR")?);
    let dir = scratch.join("made");
    let mut options = StoreOptions::default();
    options.durability = longshore_image::Durability::None;
    let store = Store::open_with(&dir, &options)?;
    let mut spec = ImageSpec::default();
    spec.names.push(image.to_owned());
    let tar = scratch.join("layer.tar");
    let layers = if image == "many" { 1 } else { BIG.len() };
    for (mb, files) in BIG.into_iter().take(layers) {
        if image == "many" {
            many(&tar, many_files()?)?;
        } else {
            mixed(&tar, mb, files)?;
        }
        let layer = store.add_layer(&mut File::open(&tar)?, &LayerOptions::default(), Ctx::none())?;
        spec.layers.push(layer);
    }
    store.create_image(&spec)?;
    let from = format!("oci:{}:{image}", dir.display());
    let to = format!("docker://{}", std::env::var("LONGSHORE_BENCH_REFERENCE")?);
    let options = ["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"];
    command(Command::new("skopeo").args(options).args([from, to]))?;
    drop(store);
    fs::remove_file(&tar)?;
    Ok(fs::remove_dir_all(&dir)?)
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A layer of so many MB in so many files of all sizes, which gzip makes about half as big.
fn mixed(to: &Path, megabytes: u64, files: u64) -> Result<(), BoxError> {
    let mut tar = Tar::create(to)?;
    let mut noise = Noise::new();
    let mut pool = vec![0; 8 << 20];
    for piece in pool.chunks_mut(1024) {
        let (random, text) = piece.split_at_mut(448);
        noise.fill(random);
        text.iter_mut()
            .zip(b"the quick brown fox jumps over the lazy dog ".iter().cycle())
            .for_each(|(t, c)| *t = *c);
    }
    // Most files are small, most bytes lie in a few large ones.
    let large = (megabytes << 20) / 2 / 20;
    for i in 0..files {
        if i % 50 == 0 {
            tar.put(&format!("usr/{i}/"), b'5', b"")?;
        }
        let size = match i % (files / 20) {
            0 => large,
            _ => (megabytes << 20) / files * (1 + noise.word() % 9) / 10,
        };
        let from = noise.word() % (4 << 20);
        let mut content = Vec::new();
        while (content.len() as u64) < size {
            let piece = (size - content.len() as u64).min(4 << 20);
            content.extend_from_slice(&pool[from as usize..(from + piece) as usize]);
        }
        tar.put(&format!("usr/{}/file-{i}", i / 50 * 50), b'0', &content)?;
    }
    tar.end()
}

/// A store of 1,000 images: opening it, and giving one more name.
fn thousand(dir: &Path) -> Result<(), BoxError> {
    let mut options = StoreOptions::default();
    options.durability = longshore_image::Durability::None;
    let store = Store::open_with(dir, &options)?;
    let tar = dir.with_extension("tar");
    many(&tar, 1)?;
    let layer = store.add_layer(&mut File::open(&tar)?, &LayerOptions::default(), Ctx::none())?;
    for i in 0..1000 {
        let mut spec = ImageSpec::default();
        spec.layers.push(layer.clone());
        spec.names.push(format!("127.0.0.1:5000/team/image-{i}:1"));
        spec.config.oci.set_author(Some(i.to_string()));
        store.create_image(&spec)?;
    }
    let image = store.image("127.0.0.1:5000/team/image-500:1")?;
    let mut n = 0;
    let mut next = || {
        n += 1;
        n
    };
    Race::new("a store of 1,000 images")
        .add("open", || time(|| Ok(Store::open(dir).map(drop)?)))
        .add("tag, durable", || {
            let store = Store::open(dir)?;
            let name = format!("tagged:{}", next());
            time(|| Ok(store.tag(&image, &name)?))
        })
        .add("find by name", || time(|| Ok(store.image("127.0.0.1:5000/team/image-77:1").map(drop)?)))
        .add("find by ID", || time(|| Ok(store.image(image.id().as_ref()).map(drop)?)))
        .add("list", || time(|| Ok(store.images().map(drop)?)))
        .run(10);
    Ok(())
}
