//! Memory stays small whatever a registry sends, and bad links lose nothing.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::fault::{Server, Tame};
use common::{Memory, Registry, chain, have, push, quick};
use longshore_registry_client::transport::{Body, Request, Response};
use longshore_registry_client::{
    Client, Ctx, Layout, Platforms, Reference, Timeouts, Transport, TransportError, UreqTransport,
};

const MIB: u64 = 1 << 20;

/// Runs one of the jobs below in a process of its own and returns its largest resident set, in bytes.
fn peak(job: &str, reference: &Reference) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_process_of_its_own", "--nocapture"])
        .env("LONGSHORE_TEST_JOB", job)
        .env("LONGSHORE_TEST_REFERENCE", reference.to_string())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{job}: {text}");
    let line = text.lines().find_map(|l| l.split_once("VmHWM:")).unwrap_or_else(|| panic!("{text}")).1;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn in_a_process_of_its_own() {
    let Ok(job) = std::env::var("LONGSHORE_TEST_JOB") else { return };
    let reference: Reference = std::env::var("LONGSHORE_TEST_REFERENCE").unwrap().parse().unwrap();
    let client = quick().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    match job.as_str() {
        "pull" => drop(client.pull(&reference, &Platforms::Host, &layout, Ctx::none()).unwrap()),
        "bad pull" => drop(client.pull(&reference, &Platforms::Host, &layout, Ctx::none()).unwrap_err()),
        "manifest" => drop(client.manifest(&reference).unwrap_err()),
        "tags" => drop(client.tags(&reference).unwrap_err()),
        "referrers" => drop(client.referrers(&reference, &common::sha256(b""), None).unwrap_err()),
        "push" => {
            // A file, not memory: what is measured is the client.
            let big = dir.path().join("blobs/sha256/big");
            let mut file = std::fs::File::create(&big).unwrap();
            let chunk = common::noise(1, 1 << 20);
            let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
            for _ in 0..150 {
                file.write_all(&chunk).unwrap();
                hash.update(&chunk);
            }
            let hex: String = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
            std::fs::rename(&big, dir.path().join("blobs/sha256").join(&hex)).unwrap();
            let layer = oci_spec::image::Descriptor::new(
                common::OCI_LAYER.into(),
                150 << 20,
                format!("sha256:{hex}").parse::<oci_spec::image::Digest>().unwrap(),
            );
            let memory = Memory::default();
            let config = memory.add(common::OCI_CONFIG, b"{}");
            let root = memory.manifest(&config, &[layer]);
            for (digest, bytes) in memory.0.lock().unwrap().iter() {
                std::fs::write(layout.path(digest), bytes).unwrap();
            }
            push(&client, &reference, &root, &layout);
        }
        other => panic!("{other}"),
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    eprintln!("{}", status.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}

#[test]
fn memory_is_bounded_whatever_comes() {
    // 150 MB of a manifest, with and without a length; endless lists; two million tags in one reply.
    let server = Server::start(|seen, conn| {
        let space = vec![b' '; 1 << 20];
        let endless = |conn: &mut common::fault::Conn<'_>, start: &[u8]| {
            conn.head(200, &[("content-type", common::OCI_MANIFEST)], None);
            let _ = conn.stream.write_all(start);
            while conn.stream.write_all(&space).is_ok() {}
            conn.keep = false;
        };
        match seen.path() {
            p if p.contains("/sized/manifests") => {
                conn.head(200, &[("content-type", common::OCI_MANIFEST)], Some(150 << 20));
                for _ in 0..150 {
                    let _ = conn.stream.write_all(&space);
                }
                conn.keep = false;
            }
            p if p.contains("/endless/") => endless(conn, b"{\"schemaVersion\":2,"),
            p if p.contains("/many/tags") => {
                let tags: Vec<String> = (0..2_000_000).map(|i| format!("\"t{i}\"")).collect();
                conn.reply(200, &[], format!("{{\"tags\":[{}]}}", tags.join(",")).as_bytes());
            }
            p if p.contains("/loop/") => {
                let n: u64 = seen.query("last").and_then(|l| l.parse().ok()).unwrap_or(0);
                let link = format!("</v2/loop/tags/list?last={}>; rel=\"next\"", n + 1);
                let tags: Vec<String> = (0..2000).map(|i| format!("\"{n}-{i}\"")).collect();
                conn.reply(200, &[("link", &link)], format!("{{\"tags\":[{}]}}", tags.join(",")).as_bytes());
            }
            p if p.contains("/names/") => {
                // Names as short as can be: many times as large in memory as on the wire.
                let names: Vec<String> = (0..700_000).map(|i| format!("\"{i:x}\"")).collect();
                conn.reply(200, &[], format!("{{\"tags\":[{}]}}", names.join(",")).as_bytes());
            }
            p if p.contains("/circle/") => {
                let n: u64 = seen.query("n").and_then(|l| l.parse().ok()).unwrap_or(0);
                let long = "x".repeat(12_000);
                let link = format!("</v2/circle/tags/list?n={}&x={long}>; rel=\"next\"", n + 1);
                conn.reply(200, &[("link", &link)], b"{\"tags\":[]}");
            }
            p if p.contains("/referrers/") || p.contains("/layers/") => {
                let n: u64 = seen.query("n").and_then(|l| l.parse().ok()).unwrap_or(0);
                let link = format!("<{p}?n={}>; rel=\"next\"", n + 1);
                let one = serde_json::json!({"mediaType": "", "digest": common::sha256(b""), "size": 0});
                let list = vec![one.to_string(); 35_000].join(",");
                let (kind, text) = if p.contains("/referrers/") {
                    (common::OCI_INDEX, format!("{{\"schemaVersion\":2,\"manifests\":[{list}]}}"))
                } else {
                    let config = common::descriptor(common::OCI_CONFIG, b"{}");
                    let config = serde_json::to_string(&config).unwrap();
                    (
                        common::OCI_MANIFEST,
                        format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{list}]}}"),
                    )
                };
                conn.reply(200, &[("link", &link), ("content-type", kind)], text.as_bytes());
            }
            p if p.contains("/notes/") => {
                let notes: Vec<String> = (0..350_000).map(|i| format!("\"{i:x}\":\"\"")).collect();
                let text = format!("{{\"schemaVersion\":2,\"annotations\":{{{}}}}}", notes.join(","));
                conn.reply(200, &[("content-type", common::OCI_MANIFEST)], text.as_bytes());
            }
            p if p.contains("/errors/") => {
                conn.head(500, &[], None);
                while conn.stream.write_all(&space).is_ok() {}
                conn.keep = false;
            }
            _ => conn.reply(404, &[], b""),
        }
    });
    for (job, name, limit) in [
        ("manifest", "sized:v1", 32),
        ("manifest", "endless:v1", 32),
        ("tags", "many", 32),
        ("tags", "endless", 32),
        ("referrers", "endless", 32),
        ("manifest", "errors:v1", 32),
        ("tags", "names", 32),
        ("tags", "loop", 32),
        ("tags", "circle", 32),
        ("referrers", "list", 32),
        ("bad pull", "layers:v1", 32),
        ("manifest", "notes:v1", 32),
    ] {
        let used = peak(job, &server.reference(name));
        assert!(used < limit * MIB, "{job} {name}: {} MiB", used / MIB);
    }
}

#[test]
fn transfers_do_not_fill_the_memory() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let pushed = peak("push", &registry.reference("big:1"));
    assert!(pushed < 24 * MIB, "push: {} MiB", pushed / MIB);
    let memory = Memory::default();
    let root = memory.image(40, &[40 << 20, 30 << 20, 20 << 20, 10 << 20, 10 << 20, 10 << 20]);
    push(&quick().build().unwrap(), &registry.reference("six:1"), &root, &memory);
    let before = registry.requests();
    let pulled = peak("pull", &registry.reference("six:1"));
    assert!(pulled < 24 * MIB, "pull: {} MiB", pulled / MIB);
    assert_eq!(registry.requests() - before, 8);

    // A blob without an end.
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(41, &[3_000_000]);
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    let server = Server::start(move |seen, conn| {
        if !seen.target.contains("/blobs/") {
            return tame.answer(seen, conn);
        }
        conn.head(200, &[("transfer-encoding", "chunked")], None);
        let chunk = [b"100000\r\n".to_vec(), vec![7; 1 << 20], b"\r\n".to_vec()].concat();
        while conn.stream.write_all(&chunk).is_ok() {}
        conn.keep = false;
    });
    let used = peak("bad pull", &server.reference("r:v1"));
    assert!(used < 32 * MIB, "endless blob: {} MiB", used / MIB);
}

/// A link that breaks (or falls silent) after about so many bytes each time.
struct BadLink {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    breaks: Arc<AtomicU64>,
}

impl BadLink {
    fn start(to: &str, mean: f64, silent: bool, run: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, breaks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count, to) = (Arc::clone(&stop), Arc::clone(&breaks), to.to_owned());
        std::thread::spawn(move || {
            for (seed, near) in (1000 * (run as u64 + 1)..).zip(listener.incoming()) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (near, far, count) =
                    (near.unwrap(), TcpStream::connect(&to).unwrap(), Arc::clone(&count));
                std::thread::spawn(move || carry(near, far, exponential(seed) * mean, silent, &count));
            }
        });
        Self { address, stop, breaks }
    }
}

impl Drop for BadLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn exponential(seed: u64) -> f64 {
    let bytes: [u8; 8] = common::noise(seed * 7919, 64)[56..].try_into().unwrap();
    let uniform = (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64;
    -(1.0 - uniform).ln()
}

fn carry(near: TcpStream, far: TcpStream, until: f64, silent: bool, breaks: &AtomicU64) {
    let (mut up_from, mut up_to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(std::net::Shutdown::Write);
    });
    let (mut far, mut near, mut done) = (far, near, 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = far.read(&mut buffer).unwrap_or(0);
        if n == 0 || near.write_all(&buffer[..n]).is_err() {
            let _ = near.shutdown(std::net::Shutdown::Both);
            return;
        }
        done += n;
        if done as f64 > until {
            breaks.fetch_add(1, Ordering::Relaxed);
            if silent {
                std::thread::sleep(Duration::from_secs(3));
            } else {
                rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
            }
            let _ = far.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// Counts what comes in.
struct Counting(UreqTransport, Arc<AtomicU64>);

impl Transport for Counting {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        struct Counted(Box<dyn Read + Send>, Arc<AtomicU64>);
        impl Read for Counted {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                let n = self.0.read(buf)?;
                self.1.fetch_add(n as u64, Ordering::Relaxed);
                Ok(n)
            }
        }
        let reply = self.0.send(request, body)?;
        Ok(Response::new(reply.status, reply.headers, Box::new(Counted(reply.body, Arc::clone(&self.1)))))
    }
}

#[test]
fn images_arrive_over_links_that_break() {
    if !have("docker-registry") {
        return;
    }
    let runs: usize = std::env::var("LONGSHORE_LINK_RUNS").ok().and_then(|r| r.parse().ok()).unwrap_or(3);
    let registry = Registry::start();
    let memory = Memory::default();
    let sizes = [99 << 20, 81 << 20, 52 << 20, 40 << 20, 20 << 20, 8 << 20];
    let root = memory.image(42, &sizes);
    push(&quick().build().unwrap(), &registry.reference("big:1"), &root, &memory);
    drop(memory);
    let total: u64 = sizes.iter().map(|s| *s as u64).sum();
    for run in 0..runs {
        let silent = run % 4 == 2;
        let link = BadLink::start(&registry.address, 60e6, silent, run);
        let mut timeouts = Timeouts::default();
        // Well below a silent link's three seconds, and well above what a busy machine makes of a working one.
        timeouts.stall = Duration::from_secs(1);
        let fetched = Arc::new(AtomicU64::new(0));
        let transport = Counting(UreqTransport::new(timeouts), Arc::clone(&fetched));
        let client: Client = quick().transport(transport).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let reference: Reference = format!("{}/big:1", link.address).parse().unwrap();
        let pulled = client.pull(&reference, &Platforms::Host, &layout, Ctx::none());
        assert_eq!(pulled.unwrap_or_else(|e| panic!("run {run}: {}", chain(&e))).fetched, 7);
        let (twice, breaks) =
            (fetched.load(Ordering::Relaxed).saturating_sub(total), link.breaks.load(Ordering::Relaxed));
        eprintln!("run {run}: {breaks} breaks, {twice} bytes beyond the image's");
        assert!(twice < total / 20, "{twice} of {total}");
    }
}
