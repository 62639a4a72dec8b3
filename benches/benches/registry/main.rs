//! Pull and push beside curl (the raw limit: no hashing), skopeo, podman and a dockerd (which also unpack), on loopback and over a link
//! of 20 ms and 1 Gbit/s made of threads. Needs root, docker-registry, skopeo, podman, docker.io, curl, tar, gzip.
//!
//! `cargo bench -p longshore-benches --bench registry`; the rounds come from `LONGSHORE_BENCH_ROUNDS` (3), and only races whose title
//! has the text in `LONGSHORE_BENCH_ONLY` run (such as `pull` or `push 314 MB`).
//! The registry has a name, `localhost`, so that its lookup counts, and no contender remembers where blobs are.
//!
//! Every contender is a child process, ours too, so that its time and memory can be told apart; and since a child's peak begins with
//! what its parent had when it was started, all that takes memory here (making images, pushing them, the link) is done by others.

mod dockerd;
mod image;
mod link;
mod peers;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use longshore_benches::{BoxError, Race, Sample, Samples, command};
use longshore_registry_client::{Client, Ctx, Layout, Platforms};

use dockerd::Dockerd;
use image::{Image, Registry};
use link::Link;
use peers::{Podman, skopeo};

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
    let only = std::env::var("LONGSHORE_BENCH_ONLY").unwrap_or_default();
    let mut races = Vec::new();
    for (place, address) in [("20 ms, 1 Gbit/s", &slow.address), ("loopback", &registry.address)] {
        let address = address.replace("127.0.0.1", "localhost");
        for (what, image) in [("314 MB in 6 layers", &big), ("100 layers of 20 kB", &many)] {
            let bench =
                Bench { address: &address, image, scratch: scratch.path(), dockerd: &dockerd, rounds };
            let (pull, push) = (format!("pull {what}, {place}"), format!("push {what}, {place}"));
            if pull.contains(&only) {
                races.push(bench.pulls(&pull));
            }
            if push.contains(&only) {
                bench.pushes(&push)?;
            }
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

/// One image at one place.
struct Bench<'a> {
    address: &'a str,
    image: &'a Image,
    scratch: &'a Path,
    dockerd: &'a Dockerd,
    rounds: usize,
}

impl Bench<'_> {
    fn fresh(&self) -> std::io::Result<tempfile::TempDir> {
        tempfile::tempdir_in(self.scratch)
    }

    fn reference(&self) -> String {
        format!("{}/{}:1", self.address, self.image.name)
    }

    fn pulls(&self, title: &str) -> Vec<Samples> {
        let (image, reference) = (self.image, self.reference());
        let url = |digest| format!("http://{}/v2/{}/blobs/{digest}", self.address, image.name);
        let urls: Vec<String> = image.blobs.iter().map(url).collect();
        Race::new(title)
            .add(OURS, || ours("pull", &reference, self.fresh()?.path(), ""))
            .add(COPY, || ours("copy", &image.dir.display().to_string(), self.fresh()?.path(), ""))
            .add(CURL, || {
                let dir = self.fresh()?;
                let mut curl = Command::new("curl");
                curl.current_dir(dir.path()).args(["-sSf", "--no-progress-meter", "-Z"]);
                curl.args(["--parallel-immediate", "--parallel-max", "8"]);
                for url in &urls {
                    curl.args(["-O", url]);
                }
                command(&mut curl)
            })
            .add("skopeo to oci:", || {
                let dir = self.fresh()?;
                let to = format!("oci:{}/o:1", dir.path().display());
                skopeo(dir.path(), "--src-tls-verify=false", &format!("docker://{reference}"), &to)
            })
            .add("podman, unpacks", || Podman::new(self.fresh()?.path()).pull(&reference))
            .add("dockerd, unpacks", || self.dockerd.pull(&reference))
            .run(self.rounds)
    }

    fn pushes(&self, title: &str) -> Result<(), BoxError> {
        let (image, count) = (self.image, std::cell::Cell::new(0));
        // A repository of its own each time, and no memory of where blobs are.
        let next = |who: &str| {
            count.set(count.get() + 1);
            format!("{}/{who}-{}-{}-{}:1", self.address, image.name, title.len(), count.get())
        };
        let store = self.fresh()?;
        let podman = Podman::new(store.path());
        let source = self.reference();
        let taken = podman.take(&source)?;
        self.dockerd.take(&source)?;
        Race::new(title)
            .add(OURS, || ours("push", &next("ours"), &image.dir, &image.root))
            .add("skopeo from oci:", || {
                let (home, from) = (self.fresh()?, format!("oci:{}:1", image.dir.display()));
                skopeo(home.path(), "--dest-tls-verify=false", &from, &format!("docker://{}", next("skopeo")))
            })
            .add("podman, compresses", || podman.push(&taken, &next("podman")))
            .add("dockerd, compresses", || self.dockerd.push(&source, &next("dockerd")))
            .run_cold(self.rounds);
        self.dockerd.remove(&source)
    }
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
