//! Replies put together by chance, of parts that mean something each: whatever comes of it, every verb ends, nothing panics, nobody
//! else sees a login, and nothing is kept that is not what its digest says.
//!
//! `LONGSHORE_CHAOS_RUNS` says how often; a run that fails names its seed.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fault::{Conn, Seen, Server, Tame};
use common::{Memory, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, sha256};
use longshore_registry_client::{
    Client, Credential, Ctx, Error, Layout, Limits, Platforms, Retry, StaticCredentials, Timeouts,
};
use oci_spec::image::Descriptor;

/// Good enough to choose by.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.roll(of.len())]
    }
}

struct Scene {
    tame: Tame,
    root: Descriptor,
    evil: String,
}

const STATUSES: [u16; 24] = [
    200, 200, 200, 201, 202, 204, 206, 301, 302, 307, 308, 400, 401, 401, 403, 404, 405, 412, 413, 416, 417,
    429, 500, 503,
];

fn header(scene: &Scene, seen: &Seen, dice: &mut Dice) -> (&'static str, String) {
    let (own, evil) = (format!("http://{}", seen.header("host").unwrap_or_default()), &scene.evil);
    let digest = scene.root.digest().to_string();
    let place = dice
        .pick(&[
            "/v2/r/blobs/uploads/u1?x=s3cret",
            "u1",
            "?again",
            "",
            "//",
            "http://",
            "http://[::1",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "http://u:p@h/",
            "EVIL/v2/r/blobs/uploads/u1",
            "EVIL",
            "OWN/v2/r/blobs/uploads/u2",
        ])
        .replace("EVIL", evil)
        .replace("OWN", &own);
    let value = |dice: &mut Dice, of: &[&str]| {
        dice.pick(of).replace("EVIL", evil).replace("OWN", &own).replace("DIGEST", &digest)
    };
    match dice.roll(14) {
        0 | 1 => ("location", place),
        2 => ("link", format!("<{place}>; rel=\"next\"")),
        3 => {
            let challenges = [
                "Bearer realm=\"OWN/token\",service=\"s\"",
                "Bearer realm=\"EVIL/token\"",
                "Basic realm=\"x\"",
                "Bearer",
                "Bearer realm=\"/x\"",
                "Basic, Bearer realm=\"",
                "=\",=",
            ];
            ("www-authenticate", value(dice, &challenges))
        }
        4 => (
            "content-range",
            value(
                dice,
                &["bytes 0-1/2", "bytes 9-1/2", "bytes 50000-99999/100000", "0-18446744073709551615"],
            ),
        ),
        5 => ("range", value(dice, &["0-0", "0-99", "0-18446744073709551615", "bytes=0-70000", "5-9", "-"])),
        6 => ("etag", value(dice, &["\"a\"", "\"b\"", "W/\"a\"", ""])),
        7 => ("docker-content-digest", value(dice, &["DIGEST", "sha256:", "sha256:../x", "sha512:00", ""])),
        8 => (
            "content-type",
            value(dice, &[OCI_MANIFEST, OCI_INDEX, "text/html", "application/json", "", ";"]),
        ),
        9 => ("oci-chunk-min-length", value(dice, &["0", "1", "65536", "18446744073709551615", "x"])),
        10 => (
            "retry-after",
            value(dice, &["0", "99999999999999999999", "86400", "Thu, 01 Jan 1970 00:00:00 GMT", "x"]),
        ),
        11 => ("content-encoding", value(dice, &["gzip", "identity"])),
        12 => ("oci-tag", value(dice, &["a,b", "", ","])),
        _ => ("warning", value(dice, &["299 - \"x\"", "299 - \"\\u{1b}[31m\"", "x"])),
    }
}

fn body(scene: &Scene, dice: &mut Dice) -> Vec<u8> {
    let all: Vec<Vec<u8>> = scene.tame.memory.0.lock().unwrap().values().cloned().collect();
    match dice.roll(8) {
        0 => Vec::new(),
        1 => scene.tame.memory.get(scene.root.digest()).unwrap(),
        2 => all[dice.roll(all.len())].clone(),
        3 => br#"{"token":"t","refresh_token":"r","expires_in":-1}"#.to_vec(),
        4 => br#"{"tags":["a","../b"],"repositories":[null]}"#.to_vec(),
        5 => br#"{"schemaVersion":2,"manifests":[],"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#.to_vec(),
        6 => br#"{"errors":[{"code":"UNSUPPORTED","message":"\u001b[31m"}]}"#.to_vec(),
        _ => vec![b'['; dice.roll(3000)],
    }
}

/// A tame registry's answer, or one by chance.
fn answer(scene: &Scene, seen: &Seen, conn: &mut Conn<'_>, dice: &mut Dice) {
    match dice.roll(20) {
        0..=7 => return scene.tame.answer(seen, conn),
        8 => return conn.reset(),
        9 => {
            let _ = conn.stream.write_all(dice.pick(&[
                &b"HTTP/1.1 200 OK\r\ncontent-len"[..],
                b"HTTP/9.9 1000 \xff\r\n\r\n",
                b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\n\r\n",
                b"\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 9\r\n\r\n12345",
                b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            ]));
            conn.keep = false;
            return;
        }
        _ => {}
    }
    let status = STATUSES[dice.roll(STATUSES.len())];
    let headers: Vec<_> = (0..dice.roll(5)).map(|_| header(scene, seen, dice)).collect();
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let body = body(scene, dice);
    let (length, chunked) = match dice.roll(8) {
        0 => (body.len() + 1, false),
        1 => (body.len() / 2, false),
        2 => (body.len(), true),
        _ => (body.len(), false),
    };
    if chunked {
        let headers = [&headers[..], &[("transfer-encoding", "chunked")]].concat();
        conn.head(status, &headers, None);
        let _ =
            conn.stream.write_all(&[format!("{length:x}\r\n").as_bytes(), &body, b"\r\n0\r\n\r\n"].concat());
    } else {
        conn.head(status, &headers, Some(length));
        let _ = conn.stream.write_all(if seen.method == "HEAD" && status != 401 { b"" } else { &body });
    }
    conn.keep = length == body.len();
}

fn client(server: &Server, seed: u64) -> Client {
    let mut timeouts = Timeouts::default();
    (timeouts.stall, timeouts.response) = (Duration::from_millis(100), Duration::from_millis(200));
    let (mut retry, mut limits) = (Retry::default(), Limits::default());
    (retry.attempts, retry.base) = (3, Duration::from_millis(1));
    limits.ranges = 1 + usize::try_from(seed % 3).unwrap();
    let secret = if seed.is_multiple_of(2) {
        Credential::basic("user", "s3cret")
    } else {
        Credential::IdentityToken("s3cret".into())
    };
    let credentials = StaticCredentials::new().with(&server.address.to_string(), secret);
    let client = Client::builder().timeouts(timeouts).retry(retry).limits(limits).credentials(credentials);
    let client = client.foreign_layers(seed.is_multiple_of(5)).build().unwrap();
    client.with_deadline(Instant::now() + Duration::from_secs(300))
}

fn run(seed: u64) {
    let evil = Server::start(|_, conn| conn.reply(401, &[("www-authenticate", "Basic realm=\"x\"")], b""));
    let tame = Tame::default();
    let root = tame.memory.image(300, &[100_000, 10]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let scene = Scene { tame, root: root.clone(), evil: evil.url() };
    let dice = Mutex::new(Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
    let scene = Arc::new(scene);
    let at_home = Arc::clone(&scene);
    let server = Server::start(move |seen, conn| {
        let mut own = Dice(dice.lock().unwrap().roll(usize::MAX) as u64 | 1);
        answer(&at_home, seen, conn, &mut own);
    });
    let client = client(&server, seed);
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let layout = Layout::open(dir.path()).unwrap();
    let fresh = memory.image(301, &[1_200_000, 20]);
    let subject = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": memory.add("application/x", b"{}"), "layers": [], "subject": root,
    });
    let artifact = memory.add(OCI_MANIFEST, subject.to_string().as_bytes());
    let (at, host) = (|name: &str| server.reference(name), server.address.to_string());
    let blob = common::descriptor(OCI_LAYER, &common::noise(300_001, 100_000));
    let outcomes: Vec<(&str, Result<(), Error>)> = vec![
        ("ping", client.ping(&host)),
        ("resolve", client.resolve(&at("r:1")).map(drop)),
        ("pull", client.pull(&at("r:1"), &Platforms::All, &layout, Ctx::none()).map(drop)),
        ("push", client.push(&at("r:2"), &fresh, &memory, Ctx::none()).map(drop)),
        ("attach", client.push(&at("r:3"), &artifact, &memory, Ctx::none()).map(drop)),
        ("copy", client.copy(&at("r:1"), &at("s:1"), Ctx::none()).map(drop)),
        ("tag", client.tag(&at("r:1"), &["a", "b", "c"]).map(drop)),
        ("tags", client.tags(&at("r")).map(drop)),
        ("catalog", client.catalog(&host).map(drop)),
        ("search", client.search(&host, "x").map(drop)),
        ("referrers", client.referrers(&at("r"), root.digest(), None).map(drop)),
        ("stat", client.source(&at("r")).unwrap().stat(blob.digest()).map(drop)),
        ("delete a tag", client.delete(&at("r:1"))),
        ("delete a manifest", client.delete(&at("r").with_digest(root.digest().clone()))),
        ("delete a blob", client.delete_blob(&at("r"), blob.digest())),
    ];
    for (verb, outcome) in outcomes {
        if let Err(error) = outcome {
            assert!(!matches!(error, Error::Deadline), "seed {seed}: {verb} does not end");
            let said = format!("{error:?} {}", common::chain(&error));
            assert!(
                !said.contains("s3cret") && !said.contains(char::is_control),
                "seed {seed}: {verb}: {said}"
            );
        }
    }
    evil.saw_no_secret();
    assert!(evil.seen().iter().all(|s| s.method != "POST" || !s.target.contains("token")), "seed {seed}");
    for entry in std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let hex = entry.file_name().into_string().unwrap();
        assert_eq!(sha256(&std::fs::read(entry.path()).unwrap()).digest(), hex, "seed {seed}: it was kept");
    }
}

#[test]
fn whatever_comes_every_verb_ends() {
    let runs = std::env::var("LONGSHORE_CHAOS_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(24);
    let first = std::env::var("LONGSHORE_CHAOS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1_u64);
    let next = std::sync::atomic::AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= first + runs {
                        return;
                    }
                    let result = std::panic::catch_unwind(|| run(seed));
                    assert!(result.is_ok(), "seed {seed}");
                }
            });
        }
    });
}
