//! Pull and push beside curl (the raw limit: no hashing), skopeo and podman (which also unpacks), on loopback and over a link of
//! 20 ms and 1 Gbit/s made of threads. Needs docker-registry, skopeo, podman, curl, tar, gzip.
//!
//! `cargo bench -p longshore-benches --bench registry`; the rounds come from `LONGSHORE_BENCH_ROUNDS` (5).

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_benches::{BoxError, Race, Sample, command};
use longshore_registry_client::{Client, Ctx, Layout, Platforms, Reference};

/// Bytes per second, and one way's delay.
const RATE: f64 = 125e6;
const DELAY: Duration = Duration::from_millis(10);

/// MB, as in a large application image.
const BIG: [usize; 6] = [99, 81, 52, 52, 20, 10];

fn main() -> Result<(), BoxError> {
    if let Ok(job) = std::env::var("LONGSHORE_BENCH_JOB") {
        return work(&job);
    }
    let rounds = std::env::var("LONGSHORE_BENCH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(5);
    let scratch = tempfile::tempdir()?;
    let registry = Registry::start(scratch.path())?;
    let slow = slow_link(&registry.address)?;
    let big = Image::make(scratch.path(), "big", &BIG.map(|mb| mb * 1_000_000))?;
    let many = Image::make(scratch.path(), "many", &[20_000; 100])?;
    for image in [&big, &many] {
        let to: Reference = format!("{}/{}:1", registry.address, image.name).parse()?;
        Client::builder().build()?.push(&to, &image.root, &image.layout, Ctx::none())?;
    }
    for (place, address) in [("20 ms, 1 Gbit/s", &slow), ("loopback", &registry.address)] {
        for (what, image) in [("314 MB in 6 layers", &big), ("100 layers of 20 kB", &many)] {
            pulls(&format!("pull {what}, {place}"), address, image, scratch.path(), rounds);
            pushes(&format!("push {what}, {place}"), address, image, scratch.path(), rounds);
        }
    }
    Ok(())
}

/// What this program does when it is its own child, so that its CPU time and memory can be told apart.
fn work(job: &str) -> Result<(), BoxError> {
    let var = |name| std::env::var(name);
    let client = Client::builder().build()?;
    let (reference, layout) =
        (var("LONGSHORE_BENCH_REFERENCE")?.parse()?, Layout::open(var("LONGSHORE_BENCH_LAYOUT")?)?);
    if job == "pull" {
        client.pull(&reference, &Platforms::Host, &layout, Ctx::none())?;
    } else {
        let root = serde_json::from_str(&var("LONGSHORE_BENCH_ROOT")?)?;
        client.push(&reference, &root, &layout, Ctx::none())?;
    }
    Ok(())
}

fn ours(job: &str, reference: &str, layout: &Path, root: &str) -> Result<Sample, BoxError> {
    command(
        Command::new(std::env::current_exe()?)
            .env("LONGSHORE_BENCH_JOB", job)
            .env("LONGSHORE_BENCH_REFERENCE", reference)
            .env("LONGSHORE_BENCH_LAYOUT", layout)
            .env("LONGSHORE_BENCH_ROOT", root),
    )
}

fn pulls(title: &str, address: &str, image: &Image, scratch: &Path, rounds: usize) {
    let reference = format!("{address}/{}:1", image.name);
    let urls = image.blobs.iter().map(|digest| format!("http://{address}/v2/{}/blobs/{digest}", image.name));
    let urls: Vec<String> = urls.collect();
    let fresh = || tempfile::tempdir_in(scratch);
    Race::new(title)
        .add("longshore", || ours("pull", &reference, fresh()?.path(), ""))
        .add("curl -Z, no hash", || {
            let dir = fresh()?;
            let mut curl = Command::new("curl");
            curl.current_dir(dir.path()).args(["-sSf", "--no-progress-meter", "-Z", "--parallel-max", "8"]);
            for url in &urls {
                curl.args(["-O", url]);
            }
            command(&mut curl)
        })
        .add("skopeo to oci:", || {
            let dir = fresh()?;
            let to = format!("oci:{}/o:1", dir.path().display());
            let from = format!("docker://{reference}");
            command(Command::new("skopeo").args([
                "copy",
                "-q",
                "--insecure-policy",
                "--src-tls-verify=false",
                &from,
                &to,
            ]))
        })
        .add("podman, unpacks", || {
            let dir = fresh()?;
            let at = |name: &str| dir.path().join(name).display().to_string();
            let (root, run) = (at("root"), at("run"));
            let place = [
                "--root",
                &root,
                "--runroot",
                &run,
                "--cgroup-manager",
                "cgroupfs",
                "--events-backend",
                "file",
            ];
            let sample = command(Command::new("podman").args(place).args([
                "pull",
                "-q",
                "--tls-verify=false",
                &reference,
            ]));
            Command::new("podman")
                .args(place)
                .args(["rmi", "-af"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            sample
        })
        .run(rounds);
}

fn pushes(title: &str, address: &str, image: &Image, scratch: &Path, rounds: usize) {
    let count = std::cell::Cell::new(0);
    // A repository of its own each time, and no memory of where blobs are.
    let next = |who: &str| {
        count.set(count.get() + 1);
        format!("{address}/{who}-{}-{}-{}:1", image.name, title.len(), count.get())
    };
    let root = serde_json::to_string(&image.root).unwrap_or_default();
    Race::new(title)
        .add("longshore", || ours("push", &next("ours"), &image.dir, &root))
        .add("skopeo from oci:", || {
            let home = tempfile::tempdir_in(scratch)?;
            let from = format!("oci:{}:1", image.dir.display());
            command(Command::new("skopeo").env("HOME", home.path()).env("XDG_DATA_HOME", home.path()).args([
                "copy",
                "-q",
                "--insecure-policy",
                "--dest-tls-verify=false",
                &from,
                &format!("docker://{}", next("skopeo")),
            ]))
        })
        .run(rounds);
}

struct Image {
    name: &'static str,
    dir: PathBuf,
    layout: Layout,
    root: oci_spec::image::Descriptor,
    blobs: Vec<String>,
}

impl Image {
    /// Real layers (a file each that does not compress), so that peers that unpack can.
    fn make(scratch: &Path, name: &'static str, layers: &[usize]) -> Result<Self, BoxError> {
        let dir = scratch.join(format!("layout-{name}"));
        let layout = Layout::open(&dir)?;
        let (mut descriptors, mut diff_ids, mut random) =
            (Vec::new(), Vec::new(), fs::File::open("/dev/urandom")?);
        for (i, size) in layers.iter().enumerate() {
            let file = scratch.join(format!("file-{i}"));
            std::io::copy(&mut Read::by_ref(&mut random).take(*size as u64), &mut fs::File::create(&file)?)?;
            let tar = scratch.join("layer.tar");
            run(Command::new("tar").current_dir(scratch).args(["-cf", "layer.tar", &format!("file-{i}")]))?;
            diff_ids.push(sha256(&tar)?);
            run(Command::new("gzip").current_dir(scratch).args(["-1", "-f", "-n", "layer.tar"]))?;
            descriptors.push(keep(
                &dir,
                &scratch.join("layer.tar.gz"),
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )?);
            fs::remove_file(file)?;
        }
        let text = |value: serde_json::Value, media_type: &str| -> Result<serde_json::Value, BoxError> {
            let path = scratch.join("text");
            fs::write(&path, value.to_string())?;
            keep(&dir, &path, media_type)
        };
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = text(config, "application/vnd.oci.image.config.v1+json")?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
        });
        let root = text(manifest, media_type)?;
        let blobs =
            descriptors.iter().chain([&config]).filter_map(|d| d["digest"].as_str().map(str::to_owned));
        let blobs = blobs.collect();
        let root = serde_json::from_value(root)?;
        layout.set("1", &root)?;
        Ok(Self { name, dir, layout, root, blobs })
    }
}

/// Moves a file into a layout and returns its descriptor.
fn keep(layout: &Path, file: &Path, media_type: &str) -> Result<serde_json::Value, BoxError> {
    let (digest, size) = (sha256(file)?, fs::metadata(file)?.len());
    fs::rename(file, layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;
    Ok(serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}))
}

fn sha256(file: &Path) -> Result<String, BoxError> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(format!("sha256:{}", text.split(' ').next().unwrap_or_default()))
}

fn run(command: &mut Command) -> Result<(), BoxError> {
    if command.status()?.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(scratch: &Path) -> Result<Self, BoxError> {
        let config = scratch.join("config.yml");
        let data = scratch.join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            data.display()
        );
        fs::write(&config, text)?;
        let log = scratch.join("log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        let mut registry = Self { child, address: String::new() };
        for _ in 0..1000 {
            std::thread::sleep(Duration::from_millis(10));
            let text = fs::read_to_string(&log)?;
            if let Some(rest) = text.split("listening on ").nth(1) {
                registry.address = rest.split(['"', ' ', ',']).next().unwrap_or_default().to_owned();
                return Ok(registry);
            }
        }
        Err("docker-registry did not start".into())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy that delays all bytes, and lets no more than the rate through in each direction, over all connections.
fn slow_link(to: &str) -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let (to, up, down) = (to.to_owned(), Arc::new(Lane::default()), Arc::new(Lane::default()));
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&to) else { continue };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let pairs = [
                (near.try_clone(), far.try_clone(), &up, DELAY * 2),
                (far.try_clone(), near.try_clone(), &down, Duration::ZERO),
            ];
            for (from, to, lane, handshake) in pairs {
                let (Ok(from), Ok(to), lane) = (from, to, Arc::clone(lane)) else { continue };
                std::thread::spawn(move || lane.carry(from, to, handshake));
            }
        }
    });
    Ok(address)
}

/// One direction of the link.
#[derive(Default)]
struct Lane {
    free: Mutex<Option<Instant>>,
}

impl Lane {
    fn carry(&self, mut from: TcpStream, to: TcpStream, handshake: Duration) {
        // As much as is on its way at that rate and delay.
        let (send, receive) = sync_channel::<(Instant, Vec<u8>)>(64);
        let writer = std::thread::spawn(move || deliver(&receive, to));
        // The handshake of a real link costs a round trip before the first byte.
        let earliest = Instant::now() + handshake;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || send.send((self.slot(n, earliest) + DELAY, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
        drop(send);
        let _ = writer.join();
        let _ = from.shutdown(Shutdown::Read);
    }

    /// When the last of these bytes has left.
    fn slot(&self, bytes: usize, earliest: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(earliest, |f| f.max(earliest)).max(Instant::now());
        let end = begin + Duration::from_secs_f64(bytes as f64 / RATE);
        *free = Some(end);
        end
    }
}

fn deliver(receive: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, bytes) in receive {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
