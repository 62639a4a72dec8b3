//! What a second look at the client found: replies that are made to trip it, and calls that get in each other's way.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fault::{Server, Tame};
use common::{Memory, OCI_CONFIG, OCI_INDEX, OCI_LAYER, push, quick, sha256};
use longshore_registry_client::{
    Client, Ctx, Error, Host, HostConfig, Limits, Reference, Retry, Timeouts, TlsOptions,
};

/// A registry whose blobs are put by this; everything else is as it should be.
fn uploads(put: impl Fn(&mut common::fault::Conn<'_>) -> bool + Send + Sync + 'static) -> Server {
    let tame = Tame::default();
    Server::start(move |seen, conn| {
        let blob = seen.method == "PUT" && seen.path().contains("/uploads/");
        if !(blob && put(conn)) {
            tame.answer(seen, conn);
        }
    })
}

#[test]
fn an_upload_that_is_further_than_any_number_is_begun_anew() {
    let tame = Tame::default();
    let failed = AtomicUsize::new(0);
    let server = Server::start(move |seen, conn| match seen.method.as_str() {
        "PUT" if seen.path().contains("/uploads/") && failed.fetch_add(1, Ordering::Relaxed) == 0 => {
            conn.reply(500, &[], b"");
        }
        "GET" if seen.path().contains("/uploads/") => {
            conn.reply(204, &[("range", &format!("0-{}", u64::MAX))], b"");
        }
        _ => tame.answer(seen, conn),
    });
    let memory = Memory::default();
    let root = memory.image(1, &[1000]);
    push(&quick().build().unwrap(), &server.reference("r:1"), &root, &memory);
}

#[test]
fn an_upload_comes_back_when_the_registry_says() {
    let since = Mutex::new(None);
    let server = uploads(move |conn| {
        let since = *since.lock().unwrap().get_or_insert_with(Instant::now);
        let early = since.elapsed() < Duration::from_millis(900);
        if early {
            conn.reply(429, &[("retry-after", "1")], b"");
        }
        early
    });
    let memory = Memory::default();
    let root = memory.manifest(&memory.add(OCI_CONFIG, b"{}"), &[]);
    push(&quick().build().unwrap(), &server.reference("r:1"), &root, &memory);

    let server = uploads(|conn| {
        conn.reply(429, &[("retry-after", "3600")], b"");
        true
    });
    let error =
        quick().build().unwrap().push(&server.reference("r:1"), &root, &memory, Ctx::none()).unwrap_err();
    let Error::Status { status: 429, retry_after, .. } = error else { panic!("{error:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(3600)));
}

#[test]
fn a_part_that_nobody_asked_for_is_no_blob() {
    let (tame, layer) = (Tame::default(), vec![7; 200_000]);
    let blob = tame.memory.add(OCI_LAYER, &layer);
    let first = AtomicUsize::new(0);
    let server = Server::start(move |seen, conn| {
        if seen.method != "GET" || !seen.path().contains("/blobs/") {
            return tame.answer(seen, conn);
        }
        if first.fetch_add(1, Ordering::Relaxed) == 0 {
            conn.head(200, &[("etag", "\"v1\"")], Some(layer.len()));
            let _ = conn.stream.write_all(&layer[..100_000]);
            return conn.reset();
        }
        // Whatever is asked for, it is the middle, of another state.
        conn.head(206, &[("etag", "\"v2\""), ("content-range", "bytes 5-9/200000")], Some(5));
        let _ = conn.stream.write_all(&layer[5..10]);
    });
    let source = quick().build().unwrap().source(&server.reference("r")).unwrap();
    let error = common::read_all(&source, &blob).unwrap_err();
    assert!(error.contains("a part was sent where the whole was asked for"), "{error}");
}

#[test]
fn lists_of_numbers_are_not_taken_into_memory() {
    let subject = sha256(b"subject");
    let zeros = "0,".repeat(1_000_000);
    let list = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"more":[{}]}}"#,
        zeros.trim_end_matches(',')
    );
    let results = format!(r#"{{"results":[{}]}}"#, vec![r#"{"name":""}"#; 200_000].join(","));
    let server = Server::start(move |seen, conn| match seen.path() {
        p if p.contains("/referrers/") => conn.reply(404, &[], b""),
        p if p.contains("/manifests/sha256-") => {
            conn.reply(200, &[("content-type", OCI_INDEX)], list.as_bytes());
        }
        "/v1/search" => conn.reply(200, &[], results.as_bytes()),
        _ => conn.reply(404, &[], b""),
    });
    let client = quick().build().unwrap();
    let error = client.referrers(&server.reference("r:1"), &subject, None).unwrap_err();
    assert!(matches!(error, Error::Manifest { .. }), "{error:?}");
    let error = client.search(&server.address.to_string(), "x").unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

/// Speaks plain HTTP. The reply to the first request waits for another connection to begin TLS, and that one's end for the reply.
struct Crossed {
    asked: Sender<()>,
    hello: Sender<()>,
    go: Mutex<Receiver<()>>,
    answered: Mutex<Receiver<()>>,
    others: AtomicUsize,
}

impl Crossed {
    fn serve(&self, mut stream: TcpStream) {
        let mut first = [0];
        if stream.peek(&mut first).unwrap_or(0) == 1 && first == [0x16] {
            let _ = self.hello.send(());
            let _ = self.answered.lock().unwrap().recv_timeout(Duration::from_secs(60));
            return;
        }
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            if head.contains("/first/") {
                let _ = self.asked.send(());
                let _ = self.go.lock().unwrap().recv_timeout(Duration::from_secs(60));
            } else if self.others.fetch_add(1, Ordering::Relaxed) == 0 {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 14\r\n\r\n{\"tags\":[\"a\"]}");
        }
    }
}

#[test]
fn a_guess_of_one_call_does_not_outlive_what_another_learned() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ((asked, was_asked), (hello, got_hello)) = (channel(), channel());
    let ((go, may_go), (answered, was_answered)) = (channel(), channel());
    let server = Arc::new(Crossed {
        asked,
        hello,
        go: Mutex::new(may_go),
        answered: Mutex::new(was_answered),
        others: AtomicUsize::new(0),
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = Arc::clone(&server);
            std::thread::spawn(move || server.serve(stream));
        }
    });
    let client = quick().build().unwrap();
    let tags = |name: &str| client.tags(&format!("{address}/{name}").parse().unwrap());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| tags("first/a"));
        was_asked.recv_timeout(Duration::from_secs(60)).unwrap();
        // Its connection ends without a word: perhaps the registry wants TLS.
        let second = scope.spawn(|| tags("second/a"));
        got_hello.recv_timeout(Duration::from_secs(60)).unwrap();
        // Meanwhile the first one hears that it does not.
        go.send(()).unwrap();
        assert_eq!(first.join().unwrap().unwrap(), ["a"]);
        answered.send(()).unwrap();
        assert_eq!(second.join().unwrap().unwrap(), ["a"]);
    });
    assert_eq!(tags("third/a").unwrap(), ["a"]);
}

/// A registry that fails every part of an upload, and says that it has `step` bytes more each time.
fn advances(step: usize) -> Server {
    let (tame, at) = (Tame::default(), AtomicUsize::new(0));
    Server::start(move |seen, conn| match seen.method.as_str() {
        "PUT" | "PATCH" if seen.path().contains("/uploads/") => conn.reply(500, &[], b""),
        "GET" if seen.path().contains("/uploads/") => {
            let last = at.fetch_add(step, Ordering::Relaxed) + step;
            conn.reply(204, &[("range", &format!("0-{last}"))], b"");
        }
        _ => tame.answer(seen, conn),
    })
}

#[test]
fn an_upload_that_hardly_moves_is_given_up() {
    // A byte at a time; then enough to count as progress, but a hundred times.
    for (step, size, most) in [(1, 300_000, 6), (65_536, 8_000_000, 80)] {
        let server = advances(step);
        let memory = Memory::default();
        let root = memory.manifest(&memory.add(OCI_CONFIG, &vec![b' '; size]), &[]);
        let mut host = Host::new(&server.url()).unwrap();
        host.chunk_max = Some(65_536);
        let client = quick().host(&server.address.to_string(), HostConfig::new(host)).build().unwrap();
        let client = client.with_deadline(Instant::now() + Duration::from_secs(60));
        let error = client.push(&server.reference("r:1"), &root, &memory, Ctx::none()).unwrap_err();
        assert!(matches!(error, Error::Status { status: 500, .. }), "{error:?}");
        let asked = server.count("GET", "/uploads/");
        assert!(asked <= most, "{asked}");
    }
}

/// It is asked by TLS first, and speaks plain HTTP.
fn insecure(server: &Server, attempts: u32) -> (Client, Reference) {
    let name = server.address.to_string();
    let url = format!("https://{name}");
    let mut host = Host::new(&url).unwrap().tls(TlsOptions::new().skip_verify());
    host.flexible = true;
    let mut retry = Retry::default();
    (retry.attempts, retry.base) = (attempts, Duration::from_millis(5));
    let client = Client::builder().retry(retry).host(&name, HostConfig::new(host)).build().unwrap();
    (client, server.reference("r"))
}

#[test]
fn the_first_call_to_an_insecure_registry_may_be_any() {
    let server = Server::start(|seen, conn| match seen.path() {
        "/v2/r/tags/list" if seen.query("last").is_some() => conn.reply(200, &[], br#"{"tags":["b"]}"#),
        "/v2/r/tags/list" => {
            let link = ("link", "</v2/r/tags/list?last=a>; rel=\"next\"");
            conn.reply(200, &[link], br#"{"tags":["a"]}"#);
        }
        "/v1/search" => conn.reply(200, &[], br#"{"results":[{"name":"x"}]}"#),
        _ => conn.reply(404, &[], b""),
    });
    // Also where nothing is repeated: another scheme is no repetition.
    for attempts in [5, 1] {
        let (client, reference) = insecure(&server, attempts);
        assert_eq!(client.tags(&reference).unwrap(), ["a", "b"]);
        let (client, _) = insecure(&server, attempts);
        assert_eq!(client.search(&server.address.to_string(), "x").unwrap()[0].name, "x");
    }
}

#[test]
fn a_registry_that_knows_no_expectations_gets_none() {
    let tame = Tame::default();
    let server = Server::start(move |seen, conn| match seen.header("expect") {
        Some(_) => conn.reply(417, &[], b""),
        None => tame.answer(seen, conn),
    });
    let (client, memory) = (quick().build().unwrap(), Memory::default());
    let expected = || server.seen().iter().filter(|s| s.header("expect").is_some()).count();
    push(&client, &server.reference("r:1"), &memory.image(3, &[2_000_000]), &memory);
    assert_eq!(expected(), 1);
    push(&client, &server.reference("r:2"), &memory.image(4, &[2_000_000]), &memory);
    assert_eq!(expected(), 1, "it was told");
}

#[test]
fn a_blob_in_chunks_ends_with_its_bytes() {
    let (tame, layer) = (Tame::default(), common::noise(5, 1000));
    let blob = tame.memory.add(OCI_LAYER, &layer);
    let (done, was_done) = channel::<()>();
    let (in_time, was_in_time) = channel();
    let was_done = Mutex::new(was_done);
    let server = Server::start(move |seen, conn| {
        if seen.method != "GET" || !seen.path().contains("/blobs/") {
            return tame.answer(seen, conn);
        }
        let both = [("content-length", "1000"), ("transfer-encoding", "chunked")];
        conn.head(200, &both, None);
        let _ = conn.stream.write_all(&[b"3e8\r\n", &layer[..], b"\r\n"].concat());
        // The last chunk does not come.
        let waited = was_done.lock().unwrap().recv_timeout(Duration::from_secs(60));
        let _ = in_time.send(waited.is_ok());
        conn.keep = false;
    });
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_secs(120);
    let source = quick().timeouts(timeouts).build().unwrap().source(&server.reference("r")).unwrap();
    common::read_all(&source, &blob).unwrap();
    let _ = done.send(());
    assert!(was_in_time.recv_timeout(Duration::from_secs(120)).unwrap(), "it waited for more");
}

#[test]
fn no_limit_is_a_limit_too() {
    let tame = Tame::default();
    let image = tame.memory.image(1, &[10]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(image.digest()).unwrap());
    let server = Server::start(move |seen, conn| tame.answer(seen, conn));
    let mut limits = Limits::default();
    limits.manifest = u64::MAX;
    quick().limits(limits).build().unwrap().manifest(&server.reference("r:1")).unwrap();
}
