//! What no real server here does: broken links and broken servers. Each row of the table ends as it should, and quickly.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::fault::{Conn, Seen, Server, Tame, range_start};
use common::{
    Memory, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, chain, descriptor, noise, push, quick, read_all,
};
use longshore_registry_client::{
    CancelToken, Client, Content, Ctx, Error, Event, Layout, Limits, Platforms, Sink as _, Timeouts,
};
use oci_spec::image::Descriptor;

/// A tame registry with one image under `v1`, whose requests pass `fault` first; it returns whether it has answered.
fn with_fault(
    layers: &[usize],
    fault: impl Fn(&Seen, &mut Conn<'_>, &Tame, usize) -> bool + Send + Sync + 'static,
) -> (Server, Descriptor, Arc<Tame>) {
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(7, layers);
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    let (registry, count) = (Arc::clone(&tame), AtomicUsize::new(0));
    let server = Server::start(move |seen, conn| {
        if !fault(seen, conn, &registry, count.fetch_add(1, Ordering::Relaxed)) {
            registry.answer(seen, conn);
        }
    });
    (server, root, tame)
}

fn first_layer(tame: &Tame, root: &Descriptor) -> Descriptor {
    let bytes = tame.memory.get(root.digest()).unwrap();
    serde_json::from_slice::<oci_spec::image::ImageManifest>(&bytes).unwrap().layers()[0].clone()
}

fn client() -> Client {
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_millis(300);
    timeouts.response = Duration::from_millis(600);
    quick().timeouts(timeouts).build().unwrap()
}

/// Pulls `v1` into a fresh directory: what arrived, and that nothing else stayed.
fn pull(client: &Client, server: &Server, root: &Descriptor) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let result = client.pull(&server.reference("r:v1"), &Platforms::Host, &layout, Ctx::none());
    for entry in std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let actual = common::sha256(&std::fs::read(entry.path()).unwrap());
        assert_eq!(actual.digest(), name, "only what is verified may be kept");
    }
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with(".part")), "{names:?}");
    result.map_err(|e| chain(&e)).map(|pulled| {
        assert_eq!(pulled.root.digest(), root.digest());
        assert!(layout.path(root.digest()).exists());
    })
}

fn is_blob(seen: &Seen) -> bool {
    seen.method == "GET" && seen.target.contains("/blobs/")
}

/// True for the first `n` requests that fit.
fn first(n: usize) -> impl Fn() -> bool + Send + Sync {
    let left = AtomicUsize::new(n);
    move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |l| l.checked_sub(1)).is_ok()
}

#[test]
fn a_cut_body_is_taken_up_where_it_broke() {
    let cut = first(3);
    let (server, root, _) = with_fault(&[3_000_000], move |seen, conn, tame, _| {
        if !is_blob(seen) || !cut() {
            return false;
        }
        let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        let start = range_start(seen).unwrap_or(0);
        let status = if start > 0 { 206 } else { 200 };
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        conn.head(status, &[("etag", "\"v1\""), ("content-range", &range)], Some(bytes.len() - start));
        let _ = conn.stream.write_all(&bytes[start..bytes.len().min(start + 800_000)]);
        conn.keep = false;
        true
    });
    pull(&client(), &server, &root).unwrap();
    let ranged: Vec<_> = server.seen().into_iter().filter(|s| range_start(s).is_some()).collect();
    assert!((1..=3).contains(&ranged.len()));
    assert!(ranged.iter().all(|s| s.header("if-range") == Some("\"v1\"")));
}

#[test]
fn a_reset_without_ranges_starts_the_blob_again() {
    let reset = first(2);
    let (server, root, _) = with_fault(&[1_000_000], move |seen, conn, tame, _| {
        if !is_blob(seen) {
            return false;
        }
        // No ranges, ever.
        let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        conn.head(200, &[], Some(bytes.len()));
        if bytes.len() > 10_000 && reset() {
            let _ = conn.stream.write_all(&bytes[..500_000]);
            std::thread::sleep(Duration::from_millis(20));
            conn.reset();
        } else {
            let _ = conn.stream.write_all(&bytes);
        }
        true
    });
    pull(&client(), &server, &root).unwrap();
}

#[test]
fn another_validator_starts_the_blob_again() {
    let cut = first(1);
    let (server, root, _) = with_fault(&[1_000_000], move |seen, conn, tame, _| {
        if !is_blob(seen) {
            return false;
        }
        let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        match range_start(seen) {
            Some(start) => {
                // Ignores If-Range, and says that it is another thing now.
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                conn.reply(
                    206,
                    &[("etag", "\"v2\""), ("content-range", &range)],
                    &vec![0; bytes.len() - start],
                );
            }
            None => {
                conn.head(200, &[("etag", "\"v1\"")], Some(bytes.len()));
                let end = if bytes.len() > 10_000 && cut() { bytes.len() / 2 } else { bytes.len() };
                let _ = conn.stream.write_all(&bytes[..end]);
                conn.keep = end == bytes.len();
            }
        }
        true
    });
    pull(&client(), &server, &root).unwrap();
}

#[test]
fn a_stall_is_noticed_and_resumed() {
    let stall = first(2);
    let (server, root, _) = with_fault(&[400_000], move |seen, conn, tame, _| {
        if !is_blob(seen) || !stall() {
            return false;
        }
        let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        let start = range_start(seen).unwrap_or(0);
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        conn.head(if start > 0 { 206 } else { 200 }, &[("content-range", &range)], Some(bytes.len() - start));
        let _ = conn.stream.write_all(&bytes[start..bytes.len().min(start + 100_000)]);
        std::thread::sleep(Duration::from_secs(2));
        conn.keep = false;
        true
    });
    pull(&client(), &server, &root).unwrap();
}

#[test]
fn a_server_that_hands_out_crumbs_is_given_up() {
    let (server, root, _) = with_fault(&[400_000], move |seen, conn, tame, _| {
        if !is_blob(seen) {
            return false;
        }
        let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        let start = range_start(seen).unwrap_or(0);
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        conn.head(if start > 0 { 206 } else { 200 }, &[("content-range", &range)], Some(bytes.len() - start));
        let _ = conn.stream.write_all(&bytes[start..=start]);
        conn.keep = false;
        true
    });
    let error = pull(&client(), &server, &root).unwrap_err();
    assert!(error.contains("failed after"), "{error}");
}

#[test]
fn a_flipped_bit_is_found() {
    let (server, root, tame) = with_fault(&[100_000], |seen, conn, tame, _| {
        if !is_blob(seen) {
            return false;
        }
        let mut bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        conn.reply(200, &[], &bytes);
        true
    });
    let error = pull(&client(), &server, &root).unwrap_err();
    assert!(error.contains("content has digest"), "{error}");
    // A reader never hands out the last bytes of a blob that is not what it should be.
    let layer = first_layer(&tame, &root);
    let source = client().source(&server.reference("r:v1")).unwrap();
    let mut reader = source.open(&layer, 0).unwrap();
    let mut all = vec![0; usize::try_from(layer.size()).unwrap()];
    assert!(reader.read_exact(&mut all).is_err());
    assert!(reader.read(&mut [0; 10]).is_err(), "and stays failed");
}

#[test]
fn errors_that_pass_are_waited_for() {
    for (part, status, header) in [
        ("/manifests/", 503, ("x", "y")),
        ("/manifests/", 429, ("retry-after", "0")),
        ("/blobs/", 503, ("x", "y")),
        ("/blobs/", 429, ("retry-after", "1")),
        ("/blobs/", 500, ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")),
        ("/blobs/", 502, ("retry-after", "rubbish")),
    ] {
        let fail = first(2);
        let (server, root, _) = with_fault(&[1000], move |seen, conn, _, _| {
            let hit = seen.target.contains(part) && fail();
            if hit {
                conn.reply(status, &[header], b"<html>");
            }
            hit
        });
        pull(&client(), &server, &root).unwrap_or_else(|e| panic!("{part} {status}: {e}"));
    }
}

#[test]
fn what_takes_connections_for_a_registry_that_starts_anew_is_waited_for() {
    let resets = AtomicUsize::new(0);
    let server = Server::start(move |seen, conn| {
        // Six in a row, after the first answer; a proxy does so while what is behind it is away.
        if seen.path().contains("/second/") && resets.fetch_add(1, Ordering::Relaxed) < 6 {
            return conn.reset();
        }
        conn.reply(200, &[], br#"{"tags":["a"]}"#);
    });
    let client = client();
    assert_eq!(client.tags(&server.reference("first")).unwrap(), ["a"]);
    assert_eq!(client.tags(&server.reference("second")).unwrap(), ["a"]);
    assert_eq!(server.count("GET", "/second/"), 7);
}

#[test]
fn a_registry_that_asks_for_too_long_a_wait_is_an_error_that_says_so() {
    let (server, ..) = with_fault(&[1000], |_, conn, _, _| {
        conn.reply(
            429,
            &[("retry-after", "86400")],
            br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u0007 down"}]}"#,
        );
        true
    });
    let error = client().resolve(&server.reference("r:v1")).unwrap_err();
    let Error::Status { status: 429, retry_after: Some(wait), attempts: 1, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(wait.as_secs(), 86400);
    let error = client().manifest(&server.reference("r:v1")).unwrap_err();
    assert!(error.to_string().contains("TOOMANYREQUESTS (slow down)"), "{error}");
}

#[test]
fn retries_have_an_end_on_every_verb() {
    let (server, root, tame) = with_fault(&[1000], |_, conn, _, _| {
        conn.reply(503, &[], b"");
        true
    });
    let client = client();
    let reference = server.reference("r:v1");
    let calls: [&dyn Fn() -> bool; 6] = [
        &|| client.resolve(&reference).is_err_and(|e| e.is_retryable()),
        &|| client.manifest(&reference).is_err_and(|e| e.is_retryable()),
        &|| client.tags(&reference).is_err_and(|e| e.is_retryable()),
        &|| client.delete(&reference).is_err_and(|e| e.is_retryable()),
        &|| client.push(&reference, &root, &tame.memory, Ctx::none()).is_err_and(|e| e.is_retryable()),
        &|| {
            client
                .source(&reference)
                .unwrap()
                .open(&first_layer(&tame, &root), 0)
                .is_err_and(|e| e.is_retryable())
        },
    ];
    for (i, call) in calls.iter().enumerate() {
        let before = server.seen().len();
        assert!(call(), "call {i}");
        assert_eq!(server.seen().len() - before, 5, "call {i}");
    }
}

#[test]
fn passing_errors_do_not_stop_lists_deletes_and_pushes() {
    for status in [429, 503] {
        let memory = Memory::default();
        let root = memory.image(9, &[2_000_000, 10]);
        let failures = std::sync::Mutex::new(std::collections::HashSet::new());
        // Each kind of request fails once.
        let (server, ..) = with_fault(&[10], move |seen, conn, _, _| {
            let kind = format!("{} {}", seen.method, seen.path().trim_end_matches(char::is_numeric));
            let hit = failures.lock().unwrap().insert(kind);
            if hit {
                conn.reply(status, &[("retry-after", "0")], b"");
            }
            hit
        });
        let client = client();
        push(&client, &server.reference("r:new"), &root, &memory);
        assert_eq!(client.tags(&server.reference("r")).unwrap(), ["a", "b"]);
        client.delete(&server.reference("r:v1")).unwrap();
        let (found, _) = client.manifest(&server.reference("r:new")).unwrap();
        assert_eq!(found.digest(), root.digest());
    }
}

#[test]
fn bodies_end_at_the_descriptors_size() {
    // Endless chunks.
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let (server, root, _) = with_fault(&[3_000_000], move |seen, conn, _, _| {
        if !is_blob(seen) {
            return false;
        }
        conn.head(200, &[("transfer-encoding", "chunked")], None);
        let chunk = [b"10000\r\n".to_vec(), vec![7; 65536], b"\r\n".to_vec()].concat();
        while conn.stream.write_all(&chunk).is_ok() {
            counter.fetch_add(65536, Ordering::Relaxed);
        }
        conn.keep = false;
        true
    });
    pull(&client(), &server, &root).unwrap_err();
    assert!(sent.load(Ordering::Relaxed) < 30_000_000, "{sent:?}");

    // The right digest, the wrong size; and a reply that is longer than it should be.
    let (server, root, tame) = with_fault(&[3_000_000], |_, _, _, _| false);
    let layer = first_layer(&tame, &root);
    for size in [1000, layer.size() - 1, layer.size() + 1, u64::MAX, i64::MAX as u64, 32 << 30] {
        let lying = Descriptor::new(layer.media_type().clone(), size, layer.digest().clone());
        let source = client().source(&server.reference("r:v1")).unwrap();
        let error = source.open(&lying, 0).err().unwrap();
        assert!(matches!(error, Error::Size { .. }), "{size}: {error}");
    }
}

#[test]
fn a_body_without_length_that_ends_early_is_no_end() {
    let cut = first(1);
    let (server, root, _) = with_fault(&[300_000], move |seen, conn, tame, _| {
        if !is_blob(seen) || !cut() {
            return false;
        }
        let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
        conn.head(200, &[], None);
        let _ = conn.stream.write_all(&bytes[..bytes.len() / 2]);
        conn.keep = false;
        true
    });
    pull(&client(), &server, &root).unwrap();
}

#[test]
fn encodings_nobody_asked_for_are_refused() {
    let (server, root, _) = with_fault(&[1000], |seen, conn, tame, _| {
        if is_blob(seen) {
            assert_eq!(seen.header("accept-encoding"), Some("identity"));
            let bytes = tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap()).unwrap();
            conn.reply(200, &[("content-encoding", "gzip")], &bytes);
        }
        is_blob(seen)
    });
    assert!(pull(&client(), &server, &root).unwrap_err().contains("content encoding"));
}

#[test]
fn redirects_end() {
    let (server, root, _) = with_fault(&[1000], |seen, conn, _, _| {
        if is_blob(seen) {
            conn.reply(307, &[("location", &seen.target)], b"");
        }
        is_blob(seen)
    });
    let error = pull(&client(), &server, &root).unwrap_err();
    assert!(error.contains("more than 5 redirects"), "{error}");
}

#[test]
fn a_lying_digest_header_is_reported_and_the_bytes_count() {
    let (server, root, _) = with_fault(&[1000], |seen, conn, tame, _| {
        if !seen.target.contains("/manifests/v1") {
            return false;
        }
        let bytes = tame.tags.lock().unwrap()["v1"].clone();
        let lie = common::sha256(b"something else");
        conn.reply(200, &[("docker-content-digest", lie.as_ref()), ("content-type", OCI_MANIFEST)], &bytes);
        true
    });
    static WARNED: AtomicBool = AtomicBool::new(false);
    let client = quick().warnings(|_, _| WARNED.store(true, Ordering::Relaxed)).build().unwrap();
    let (found, _) = client.manifest(&server.reference("r:v1")).unwrap();
    assert_eq!(found.digest(), root.digest());
    assert!(WARNED.load(Ordering::Relaxed));
}

#[test]
fn documents_of_two_meanings_are_refused() {
    let d = descriptor(OCI_CONFIG, b"{}");
    let both =
        serde_json::json!({"schemaVersion": 2, "config": d, "layers": [d], "manifests": [d]}).to_string();
    let plain = serde_json::json!({"schemaVersion": 2, "config": d, "layers": [d]}).to_string();
    let typed =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": d, "layers": [d]})
            .to_string();
    let old = serde_json::json!({"schemaVersion": 1, "fsLayers": [], "history": []}).to_string();
    for (body, content_type) in [
        (both.clone(), OCI_MANIFEST),
        (both, OCI_INDEX),
        (plain, OCI_INDEX),
        (typed, OCI_INDEX),
        (old, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ("[".repeat(100_000), OCI_MANIFEST),
        ("{}".into(), OCI_MANIFEST),
    ] {
        let (server, root, _) = with_fault(&[10], move |seen, conn, _, _| {
            conn.reply(200, &[("content-type", content_type)], body.as_bytes());
            seen.method == "GET"
        });
        pull(&client(), &server, &root).unwrap_err();
    }
}

#[test]
fn lists_are_bounded() {
    // A circle of two pages.
    let (server, ..) = with_fault(&[10], |seen, conn, _, _| {
        let next = if seen.target.contains("last=a") { "b" } else { "a" };
        let link = format!("</v2/r/tags/list?last={next}>; rel=\"next\"");
        conn.reply(200, &[("link", &link)], br#"{"tags":["x"]}"#);
        true
    });
    let error = client().tags(&server.reference("r")).unwrap_err().to_string();
    assert!(error.contains("circle"), "{error}");
    assert!(server.seen().len() <= 4);

    // Pages without end, each another one.
    let (server, ..) = with_fault(&[10], |_, conn, _, n| {
        let link = format!("</v2/r/tags/list?last={n}>; rel=\"next\"");
        conn.reply(200, &[("link", &link)], br#"{"tags":["x"]}"#);
        true
    });
    let mut limits = Limits::default();
    limits.pages = 50;
    let error = quick().limits(limits).build().unwrap().tags(&server.reference("r")).unwrap_err().to_string();
    assert!(error.contains("more than 50 pages"), "{error}");

    // Honest pages.
    let (server, ..) = with_fault(&[10], |seen, conn, _, _| {
        match seen.query("last") {
            None => conn.reply(
                200,
                &[("link", "</v2/r/tags/list?last=b>; rel=\"next\"")],
                br#"{"tags":["a","b"]}"#,
            ),
            Some(_) => conn.reply(200, &[], br#"{"tags":["b","c"]}"#),
        }
        true
    });
    assert_eq!(client().tags(&server.reference("r")).unwrap(), ["a", "b", "c"]);
}

#[test]
fn uploads_go_on_where_they_broke() {
    for chunk_min in ["", "300000"] {
        let tame = Arc::new(Tame::default());
        let (registry, broken) = (Arc::clone(&tame), AtomicUsize::new(0));
        let server = Server::start(move |seen, conn| {
            if seen.method == "POST" && seen.target.contains("uploads") {
                // The first upload breaks in the middle of its body.
                let id = if broken.fetch_add(1, Ordering::Relaxed) == 0 { "break-body" } else { "whole" };
                registry.uploads.lock().unwrap().entry(id.into()).or_default();
                let mut headers = vec![("location", format!("{}{id}", seen.path()))];
                if !chunk_min.is_empty() {
                    headers.push(("oci-chunk-min-length", chunk_min.into()));
                }
                let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
                return conn.reply(202, &headers, b"");
            }
            if seen.method == "PUT"
                && seen.target.contains("break-body")
                && seen.header("content-length") != Some("0")
            {
                registry.uploads.lock().unwrap().get_mut("break-body").unwrap().extend_from_slice(&conn.body);
                // As where it broke: what comes next is another session's business.
                let rest = registry.uploads.lock().unwrap().remove("break-body").unwrap();
                registry.uploads.lock().unwrap().insert("resumed".into(), rest);
                return conn.reset();
            }
            if seen.method == "GET" && seen.target.contains("break-body") {
                // A machine that is busy may hear of the break first.
                let until = Instant::now() + Duration::from_secs(60);
                let done = loop {
                    if let Some(resumed) = registry.uploads.lock().unwrap().get("resumed") {
                        break resumed.len();
                    }
                    assert!(Instant::now() < until);
                    std::thread::sleep(Duration::from_millis(5));
                };
                let location = seen.path().replace("break-body", "resumed");
                return conn.reply(
                    204,
                    &[("range", &format!("0-{}", done - 1)), ("location", &location)],
                    b"",
                );
            }
            registry.answer(seen, conn);
        });
        let memory = Memory::default();
        let blob = memory.add(OCI_LAYER, &noise(5, 4_000_000));
        let config = memory.add(OCI_CONFIG, &noise(6, 2_000_000));
        let root = memory.manifest(&config, &[blob]);
        let pushed = push(&client(), &server.reference("r:v1"), &root, &memory);
        assert_eq!(pushed.sent, 2);
        assert!(tame.memory.get(config.digest()).is_some());
        let patched: usize = server.seen().iter().filter(|s| s.method == "PATCH").map(|s| s.body).sum();
        assert_eq!(patched, 1_000_000, "only the missing half goes again");
    }
}

#[test]
fn a_cap_on_request_bodies_is_learned() {
    let (server, ..) = with_fault(&[10], |seen, conn, _, _| {
        let length: usize = seen.header("content-length").map_or(0, |l| l.parse().unwrap());
        let hit = length > 1_100_000 && seen.target.contains("uploads");
        if hit {
            conn.reply(413, &[], b"");
        }
        hit
    });
    let memory = Memory::default();
    let root = memory.image(11, &[5_000_000, 3_000_000]);
    let mut limits = Limits::default();
    limits.concurrency = 1;
    let client = quick().limits(limits).build().unwrap();
    push(&client, &server.reference("r:v1"), &root, &memory);
    let refused = server.seen().iter().filter(|s| s.body > 1_100_000).count();
    assert!(refused <= 3, "the second layer knows the cap: {refused}");
}

#[test]
fn a_resumed_upload_learns_the_cap_on_its_chunks() {
    for status in [413, 416] {
        let broke = AtomicBool::new(false);
        let (server, ..) = with_fault(&[10], move |seen, conn, tame, _| {
            if seen.method == "PUT" && conn.body.len() > 6 << 20 && !broke.swap(true, Ordering::Relaxed) {
                let id = seen.path().rsplit('/').next().unwrap().to_owned();
                tame.uploads.lock().unwrap().insert(id, conn.body[..1 << 20].to_vec());
                conn.reset();
                return true;
            }
            let hit = seen.method == "PATCH" && conn.body.len() > 4 << 20;
            if hit {
                conn.reply(status, &[], b"");
            }
            hit
        });
        let memory = Memory::default();
        let root = memory.image(12, &[12 << 20]);
        push(&client(), &server.reference("r:new"), &root, &memory);
        let sizes: Vec<_> =
            server.seen().iter().filter(|s| s.method == "PATCH").map(|s| s.body >> 20).collect();
        assert_eq!(sizes, [11, 4, 4, 3], "{status}");
    }
}

#[test]
fn a_registry_that_takes_crumbs_is_given_up() {
    // It acknowledges a byte of each request; and takes the rest back after a failure.
    for back in [false, true] {
        let turn = AtomicUsize::new(0);
        let server = Server::start(move |seen, conn| match seen.method.as_str() {
            "POST" => conn.reply(202, &[("location", "/v2/r/blobs/uploads/u")], b""),
            "PUT" if conn.body.len() > 600_000 => conn.reply(413, &[], b""),
            "PUT" => conn.reply(201, &[], b""),
            "GET" if seen.path().contains("uploads") => conn.reply(204, &[("range", "0-9")], b""),
            "PATCH" if back && turn.fetch_add(1, Ordering::Relaxed) % 2 == 1 => conn.reply(503, &[], b""),
            "PATCH" => {
                let (first, last) = seen.header("content-range").unwrap().split_once('-').unwrap();
                let end = if back { last } else { first };
                conn.reply(202, &[("range", &format!("0-{end}"))], b"");
            }
            _ => conn.reply(404, &[], b""),
        });
        let memory = Memory::default();
        let root = memory.image(13, &[3 << 20]);
        let client = client().with_deadline(std::time::Instant::now() + Duration::from_secs(20));
        let error = client.push(&server.reference("r:v1"), &root, &memory, Ctx::none()).unwrap_err();
        assert!(!matches!(error, Error::Deadline), "{error:?}");
        assert!(server.count("PATCH", "") <= 16, "{back}: {}", server.count("PATCH", ""));
    }
}

#[test]
fn the_end_of_a_reply_that_is_too_long_is_not_waited_for() {
    let (cut, over, late) = (first(1), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (done, waited) = (Arc::clone(&over), Arc::clone(&late));
    let (server, root, _) = with_fault(&[300_000], move |seen, conn, tame, _| {
        let digest = seen.path().rsplit('/').next().unwrap().parse();
        let bytes = digest.ok().and_then(|d| tame.memory.get(&d)).unwrap_or_default();
        if !is_blob(seen) || bytes.len() < 300_000 {
            return false;
        }
        conn.keep = false;
        if cut() {
            conn.head(200, &[], Some(bytes.len()));
            let _ = conn.stream.write_all(&bytes[..200_000]);
            return true;
        }
        let start = range_start(seen).unwrap();
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        conn.head(206, &[("content-range", &range)], Some(bytes.len() - start + 1));
        let _ = conn.stream.write_all(&bytes[start..]);
        // It holds the connection until the pull is over, or was seen to wait for more.
        for _ in 0..500 {
            if done.load(Ordering::Relaxed) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        waited.store(true, Ordering::Relaxed);
        true
    });
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_secs(60);
    let client = quick().timeouts(timeouts).build().unwrap();
    pull(&client, &server, &root).unwrap();
    over.store(true, Ordering::Relaxed);
    assert!(!late.load(Ordering::Relaxed));
}

#[test]
fn an_error_that_drips_is_not_read_to_its_end() {
    let (over, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (done, waited) = (Arc::clone(&over), Arc::clone(&late));
    let server = Server::start(move |_, conn| {
        conn.keep = false;
        conn.head(400, &[], Some(4096));
        for _ in 0..150 {
            if conn.stream.write_all(b"x").is_err() || done.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        waited.store(true, Ordering::Relaxed);
    });
    let mut limits = Limits::default();
    limits.patience = Duration::from_millis(200);
    let error = quick().limits(limits).build().unwrap().tags(&server.reference("r")).unwrap_err();
    over.store(true, Ordering::Relaxed);
    assert!(matches!(error, Error::Status { status: 400, .. }), "{error:?}");
    assert!(!late.load(Ordering::Relaxed));
}

#[test]
fn a_private_repository_does_not_close_the_public_ones() {
    let server = Server::start(|seen, conn| {
        let challenge =
            format!("Bearer realm=\"http://{}/token\",service=\"x\"", seen.header("host").unwrap());
        match seen.path() {
            "/token" => conn.reply(401, &[], b"{}"),
            path if path.contains("/private/") => conn.reply(401, &[("www-authenticate", &challenge)], b""),
            _ => conn.reply(200, &[], br#"{"tags":["a"]}"#),
        }
    });
    let client = client();
    for _ in 0..2 {
        assert_eq!(client.tags(&server.reference("public")).unwrap(), ["a"]);
        assert!(client.tags(&server.reference("private")).unwrap_err().is_auth());
    }
}

#[test]
fn two_layouts_of_one_directory_keep_out_of_each_others_way() {
    /// Lets the other layout write while this one's file is open.
    struct Between<'a>(&'a Layout, std::io::Cursor<Vec<u8>>);
    impl std::io::Read for Between<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let other = noise(22, 5000);
            self.0.put(&descriptor(OCI_LAYER, &other), &mut other.as_slice()).unwrap();
            self.1.read(buf)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Layout::open(dir.path()).unwrap(), Layout::open(dir.path()).unwrap());
    let bytes = noise(21, 5000);
    let blob = descriptor(OCI_LAYER, &bytes);
    one.put(&blob, &mut Between(&two, std::io::Cursor::new(bytes.clone()))).unwrap();
    assert!(std::fs::read(one.path(blob.digest())).unwrap() == bytes);
    assert!(two.has(&descriptor(OCI_LAYER, &noise(22, 5000))).unwrap());
}

#[test]
fn a_push_is_of_what_its_reference_names() {
    let (server, root, _) = with_fault(&[10], |_, _, _, _| false);
    let memory = Memory::default();
    let other = memory.image(14, &[10]);
    let named = server.reference("r").with_digest(root.digest().clone());
    let error = client().push(&named, &other, &memory, Ctx::none()).unwrap_err();
    assert!(matches!(&error, Error::Mismatch { expected, .. } if expected == root.digest()), "{error:?}");
    assert!(server.seen().is_empty());
    push(&client(), &named.with_digest(other.digest().clone()), &other, &memory);
}

#[test]
fn content_that_fails_is_not_the_networks_fault() {
    struct Bad(Memory);
    impl Content for Bad {
        fn open(
            &self,
            d: &Descriptor,
        ) -> Result<Box<dyn std::io::Read + Send>, longshore_registry_client::BoxError> {
            let whole = self.0.open(d)?;
            Ok(if d.size() > 100_000 { Box::new(whole.take(100_000)) } else { whole })
        }
    }
    let (server, ..) = with_fault(&[10], |_, _, _, _| false);
    let memory = Memory::default();
    let root = memory.image(12, &[500_000]);
    let error = client().push(&server.reference("r:v1"), &root, &Bad(memory), Ctx::none()).unwrap_err();
    assert!(matches!(error, Error::Size { actual: 100_000, .. }), "{error:?}");
}

#[test]
fn cancellation_interrupts_a_silent_server() {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    let (server, root, tame) = with_fault(&[400_000; 3], |seen, conn, tame, _| {
        let config =
            tame.memory.get(&seen.path().rsplit('/').next().unwrap().parse().unwrap_or(common::sha256(b"")));
        let silent = is_blob(seen) && config.is_some_and(|b| b.len() == 400_000);
        if silent {
            conn.head(200, &[], Some(400_000));
            let _ = conn.stream.write_all(&[0; 1000]);
            std::thread::sleep(Duration::from_secs(20));
        }
        silent
    });
    // Far longer than the test may take.
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_secs(300);
    let client = quick().timeouts(timeouts).build().unwrap();
    common::raise_after(&CANCEL, Duration::from_millis(200));
    let dir = tempfile::tempdir().unwrap();
    let ctx = Ctx { progress: &|_: Event<'_>| {}, cancel: &CANCEL };
    let begun = std::time::Instant::now();
    let error = client
        .pull(&server.reference("r:v1"), &Platforms::Host, &Layout::open(dir.path()).unwrap(), ctx)
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "long before the server or a timeout would have ended it"
    );

    // A source's reader too, by its token.
    let token = CancelToken::new();
    let source = client.source(&server.reference("r:v1")).unwrap().with_cancel(token.clone());
    let mut reader = source.open(&first_layer(&tame, &root), 0).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        token.cancel();
    });
    let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
    assert!(matches!(Error::in_io(&error), Some(Error::Cancelled)), "{error:?}");
    assert_ne!(error.kind(), std::io::ErrorKind::Interrupted);
}

#[test]
fn a_blob_can_be_read_from_its_middle() {
    let (server, root, tame) = with_fault(&[100_000], |_, _, _, _| false);
    let layer = first_layer(&tame, &root);
    let source = client().source(&server.reference("r:v1")).unwrap();
    assert_eq!(read_all(&source, &layer).unwrap().len(), 100_000);
    let mut rest = Vec::new();
    source.open(&layer, 99_990).unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(rest, tame.memory.get(layer.digest()).unwrap()[99_990..]);
    rest.clear();
    source.open(&layer, 100_000).unwrap().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert!(source.open(&layer, 100_001).is_err());
}

#[test]
fn a_manifest_that_drips_is_given_up() {
    let (server, ..) = with_fault(&[1000], |seen, conn, _, _| {
        if seen.method == "GET" {
            conn.head(200, &[("content-type", OCI_MANIFEST)], Some(100_000));
            while conn.stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            conn.keep = false;
        }
        seen.method == "GET"
    });
    let mut limits = Limits::default();
    limits.patience = Duration::from_millis(200);
    let error = quick().limits(limits).build().unwrap().manifest(&server.reference("r:v1")).unwrap_err();
    assert!(error.is_retryable() && chain(&error).contains("timed out"), "{}", chain(&error));
}
