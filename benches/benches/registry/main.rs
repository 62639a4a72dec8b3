//! Pull and push beside curl (the raw limit: no hashing), skopeo, podman and a dockerd (which also unpack), on loopback and over a link
//! of 20 ms and 1 Gbit/s made of threads. Needs root, docker-registry, skopeo, podman, docker.io, curl, tar, gzip.
//!
//! `cargo bench -p longshore-benches --bench registry`; the rounds come from `LONGSHORE_BENCH_ROUNDS` (3).
//!
//! Every contender is a child process, ours too, so that its time and memory can be told apart; and since a child's peak begins with
//! what its parent had when it was started, all that takes memory here (making images, pushing them, the link) is done by others.

mod dockerd;
mod image;
mod link;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use longshore_benches::{BoxError, Race, Sample, Samples, command};
use longshore_registry_client::{Client, Ctx, Layout, Platforms};

use dockerd::Dockerd;
use image::{Image, Registry};
use link::Link;

/// MB, as in a large application image.
const BIG: [usize; 6] = [99, 81, 52, 52, 20, 10];

fn main() -> Result<(), BoxError> {
    if let Ok(job) = std::env::var("LONGSHORE_BENCH_JOB") {
        return work(&job);
    }
    let rounds = std::env::var("LONGSHORE_BENCH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(3);
    let scratch = tempfile::tempdir()?;
    let registry = Registry::start(scratch.path())?;
    let slow = Link::start(&registry.address)?;
    let dockerd = Dockerd::start(scratch.path())?;
    let big = Image::make(scratch.path(), "big", &BIG.map(|mb| mb * 1_000_000))?;
    let many = Image::make(scratch.path(), "many", &[20_000; 100])?;
    for image in [&big, &many] {
        ours("push", &format!("{}/{}:1", registry.address, image.name), &image.dir, &image.root)?;
    }
    let mut races = Vec::new();
    for (place, address) in [("20 ms, 1 Gbit/s", &slow.address), ("loopback", &registry.address)] {
        for (what, image) in [("314 MB in 6 layers", &big), ("100 layers of 20 kB", &many)] {
            let title = format!("{what}, {place}");
            races.push(pulls(&format!("pull {title}"), address, image, scratch.path(), &dockerd, rounds));
            pushes(&format!("push {title}"), address, image, scratch.path(), rounds);
        }
    }
    conclude(&races);
    Ok(())
}

/// What this program does when it is its own child.
fn work(job: &str) -> Result<(), BoxError> {
    let var = |name| std::env::var(name);
    let reference = var("LONGSHORE_BENCH_REFERENCE")?;
    if job == "link" {
        return link::run(&reference);
    }
    let at = var("LONGSHORE_BENCH_LAYOUT")?;
    if job == "copy" {
        return copy(Path::new(&reference), Path::new(&at));
    }
    let client = Client::builder().build()?;
    let (reference, layout) = (reference.parse()?, Layout::open(at)?);
    if job == "pull" {
        client.pull(&reference, &Platforms::Host, &layout, Ctx::none())?;
    } else {
        let root = serde_json::from_str(&var("LONGSHORE_BENCH_ROOT")?)?;
        client.push(&reference, &root, &layout, Ctx::none())?;
    }
    Ok(())
}

/// Reads each blob, hashes it, and writes it: what cannot be saved.
fn copy(from: &Path, to: &Path) -> Result<(), BoxError> {
    let mut buffer = vec![0; 128 * 1024];
    for entry in fs::read_dir(from.join("blobs/sha256"))? {
        let path = entry?.path();
        let name = path.file_name().ok_or("a blob's name")?;
        let (mut source, mut target) = (fs::File::open(&path)?, fs::File::create_new(to.join(name))?);
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        loop {
            let n = source.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            target.write_all(&buffer[..n])?;
        }
        let hex: String = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
        if name != hex.as_str() {
            return Err(format!("{} is not what it should be", path.display()).into());
        }
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

const OURS: &str = "longshore";
const COPY: &str = "sha256 and copy, no network";
const CURL: &str = "curl -Z, no hash";

fn pulls(
    title: &str,
    address: &str,
    image: &Image,
    scratch: &Path,
    dockerd: &Dockerd,
    rounds: usize,
) -> Vec<Samples> {
    let reference = format!("{address}/{}:1", image.name);
    let urls = image.blobs.iter().map(|digest| format!("http://{address}/v2/{}/blobs/{digest}", image.name));
    let urls: Vec<String> = urls.collect();
    let fresh = || tempfile::tempdir_in(scratch);
    Race::new(title)
        .add(OURS, || ours("pull", &reference, fresh()?.path(), ""))
        .add(COPY, || ours("copy", &image.dir.display().to_string(), fresh()?.path(), ""))
        .add(CURL, || {
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
            skopeo(dir.path(), "--src-tls-verify=false", &format!("docker://{reference}"), &to)
        })
        .add("podman, unpacks", || podman(fresh()?.path(), &reference))
        .add("dockerd, unpacks", || dockerd.pull(&reference))
        .run(rounds)
}

/// With `home` for its memory of which blobs are where. As root it would keep that in /var/lib whatever HOME is, so it is told to be
/// somebody else's.
fn skopeo(home: &Path, verify: &str, from: &str, to: &str) -> Result<Sample, BoxError> {
    let mut skopeo = Command::new("skopeo");
    skopeo.env("_CONTAINERS_ROOTLESS_UID", "1000").env("HOME", home).env("XDG_DATA_HOME", home);
    command(skopeo.args(["copy", "-q", "--insecure-policy", verify, from, to]))
}

fn podman(dir: &Path, reference: &str) -> Result<Sample, BoxError> {
    let at = |name: &str| dir.join(name).display().to_string();
    let (root, run) = (at("root"), at("run"));
    let place =
        ["--root", &root, "--runroot", &run, "--cgroup-manager", "cgroupfs", "--events-backend", "file"];
    let sample =
        command(Command::new("podman").args(place).args(["pull", "-q", "--tls-verify=false", reference]));
    let mut remove = Command::new("podman");
    remove.args(place).args(["rmi", "-af"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    // It leaves its overlay mount point mounted.
    let mut unmount = Command::new("umount");
    unmount.arg(dir.join("root/overlay")).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    sample
}

fn pushes(title: &str, address: &str, image: &Image, scratch: &Path, rounds: usize) {
    let count = std::cell::Cell::new(0);
    // A repository of its own each time, and no memory of where blobs are.
    let next = |who: &str| {
        count.set(count.get() + 1);
        format!("{address}/{who}-{}-{}-{}:1", image.name, title.len(), count.get())
    };
    Race::new(title)
        .add(OURS, || ours("push", &next("ours"), &image.dir, &image.root))
        .add("skopeo from oci:", || {
            let home = tempfile::tempdir_in(scratch)?;
            let from = format!("oci:{}:1", image.dir.display());
            skopeo(home.path(), "--dest-tls-verify=false", &from, &format!("docker://{}", next("skopeo")))
        })
        .run(rounds);
}

/// The figures that were aimed at, from the races over the slow link and on loopback, big image first.
#[expect(clippy::print_stdout, reason = "a bench's table is its output")]
fn conclude(races: &[Vec<Samples>]) {
    let [big_slow, many_slow, big_near, many_near] = races else { return };
    println!("\n### what was aimed at\n\n| | aim | is |\n|---|---|---|");
    let ratio = |a: Option<Duration>, b: Option<Duration>| {
        a.zip(b).map_or_else(|| "?".to_owned(), |(a, b)| format!("{:.2}x", a.as_secs_f64() / b.as_secs_f64()))
    };
    let of = |race: &[Samples], name: &str| race.iter().find(|s| s.name == name).cloned().unwrap_or_default();
    let (slow, near) = (of(big_slow, OURS), of(big_near, OURS));
    println!(
        "| 314 MB over 20 ms and 1 Gbit/s, to curl | 1.10x | {} |",
        ratio(slow.median(), of(big_slow, CURL).median())
    );
    for (race, place) in [(many_slow, "20 ms"), (many_near, "loopback")] {
        let others = race.iter().filter(|s| s.name != OURS && s.name != COPY);
        let best = others.filter_map(|s| Some((s.median()?, &s.name))).min();
        let (time, name) = best.map_or((None, ""), |(time, name)| (Some(time), name));
        println!(
            "| 100 layers, {place}, to the best ({name}) | 1.20x | {} |",
            ratio(of(race, OURS).median(), time)
        );
    }
    println!(
        "| CPU of 314 MB on loopback, to sha256 and copy | 1.30x | {} |",
        ratio(near.cpu(), of(big_near, COPY).cpu())
    );
    println!(
        "| CPU of 314 MB over the link, to sha256 and copy | 1.30x | {} |",
        ratio(slow.cpu(), of(big_slow, COPY).cpu())
    );
    let peak = races.iter().filter_map(|race| of(race, OURS).peak_rss()).max().unwrap_or_default();
    println!("| peak RSS of a pull | 24 MB | {:.1} MB |", peak as f64 / 1e6);
    let floor = races.iter().flatten().filter_map(Samples::peak_rss).min().unwrap_or_default();
    println!(
        "\nA child's peak begins with this program's own, which is at most {:.1} MB.",
        floor as f64 / 1e6
    );
}
