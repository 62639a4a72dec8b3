//! Who calls stays in control: cancellation and deadlines end every verb, whatever the other side does meanwhile.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::fault::{Conn, Seen, Server, Tame};
use common::{Memory, OCI_CONFIG, OCI_LAYER, quick};
use longshore_registry_client::{
    BoxError, CancelToken, Client, Content, Credential, Ctx, Error, Event, Layout, Platforms, Retry, Source,
    StaticCredentials, Timeouts, UreqTransport,
};
use oci_spec::image::Descriptor;

/// Waits far longer than any test may take.
fn patient() -> Client {
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_secs(300);
    timeouts.response = Duration::from_secs(300);
    timeouts.connect = Duration::from_secs(300);
    quick().timeouts(timeouts).build().unwrap()
}

/// A layer of 1 GB that nobody has in memory.
const HUGE: u64 = 1_000_000_000;

struct Endless(Memory);

impl Content for Endless {
    fn open(&self, d: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError> {
        if d.size() == HUGE { Ok(Box::new(std::io::repeat(7).take(HUGE))) } else { self.0.open(d) }
    }
}

fn huge() -> (Memory, Descriptor, Descriptor) {
    let memory = Memory::default();
    let config = memory.add(OCI_CONFIG, b"{}");
    let layer = Descriptor::new(OCI_LAYER.into(), HUGE, common::sha256(b"whatever"));
    let root = memory.manifest(&config, std::slice::from_ref(&layer));
    (memory, root, layer)
}

#[test]
fn a_push_is_cancelled_in_the_middle_of_a_layer() {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    // Reads as fast as it comes, so that the sender never waits.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || swallow(stream.unwrap(), &count));
        }
    });
    let (memory, root, _) = huge();
    let cancel_at_a_megabyte = |event: Event<'_>| {
        if let Event::Bytes { done: 1_000_000.., .. } = event {
            CANCEL.store(true, Ordering::Relaxed);
        }
    };
    let ctx = Ctx { progress: &cancel_at_a_megabyte, cancel: &CANCEL };
    let reference = format!("{address}/r:v1").parse().unwrap();
    let error = patient().push(&reference, &root, &Endless(memory), ctx).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    let sent = taken.load(Ordering::Relaxed) as u64;
    assert!(sent < HUGE * 9 / 10, "{sent} bytes of the layer were sent all the same");
}

/// Says what a registry says of an upload, and reads all that comes.
fn swallow(mut stream: TcpStream, count: &AtomicUsize) {
    let mut buffer = vec![0; 1 << 20];
    let mut head = Vec::new();
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if count.load(Ordering::Relaxed) > 0 {
            count.fetch_add(n, Ordering::Relaxed);
            continue;
        }
        head.extend_from_slice(&buffer[..n]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        head.clear();
        let reply = match text.split(' ').next() {
            Some("POST") => "HTTP/1.1 202 X\r\nlocation: /upload\r\ncontent-length: 0\r\n\r\n",
            Some("PUT") if text.contains("100-continue") => {
                count.fetch_add(1, Ordering::Relaxed);
                "HTTP/1.1 100 Continue\r\n\r\n"
            }
            Some("PUT") => "HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n",
            _ => "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n",
        };
        if text.starts_with("PUT") && !text.contains("100-continue") {
            // A small body came with its head or comes now; either way it is over.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
            let _ = stream.read(&mut buffer);
            let _ = stream.set_read_timeout(None);
        }
        let _ = stream.write_all(reply.as_bytes());
    }
}

/// Serves the manifest of [`huge`] and its layer without an end to be reached in a test.
fn huge_server(sent: &Arc<AtomicUsize>) -> (Server, Descriptor, Descriptor) {
    let (memory, root, layer) = huge();
    let tame = Tame { memory, ..Tame::default() };
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    let (digest, count) = (layer.digest().to_string(), Arc::clone(sent));
    let server = Server::start(move |seen, conn| {
        if !seen.target.ends_with(&digest) {
            return tame.answer(seen, conn);
        }
        conn.head(200, &[], Some(usize::try_from(HUGE).unwrap()));
        let chunk = vec![7; 1 << 16];
        while conn.stream.write_all(&chunk).is_ok() {
            count.fetch_add(chunk.len(), Ordering::Relaxed);
        }
        conn.keep = false;
    });
    (server, root, layer)
}

#[test]
fn a_pull_is_cancelled_in_the_middle_of_a_layer() {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    let sent = Arc::new(AtomicUsize::new(0));
    let (server, ..) = huge_server(&sent);
    let progress = |event: Event<'_>| {
        if let Event::Bytes { done: 1_000_000.., .. } = event {
            CANCEL.store(true, Ordering::Relaxed);
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let ctx = Ctx { progress: &progress, cancel: &CANCEL };
    let error = patient().pull(&server.reference("r:v1"), &Platforms::Host, &layout, ctx).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    assert!((sent.load(Ordering::Relaxed) as u64) < HUGE * 9 / 10, "{sent:?}");
    assert!(
        !std::fs::read_dir(dir.path()).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".part"))
    );
}

/// Every verb, each of which needs the network.
fn verbs(client: &Client, server: &Server) -> Vec<(&'static str, Option<Error>)> {
    let (memory, root, layer) = huge();
    let at = |name: &str| server.reference(name);
    let by_digest = at("r:v1").with_digest(root.digest().clone());
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let source: Source = client.source(&at("r:v1")).unwrap();
    vec![
        ("resolve", client.resolve(&at("r:v1")).err()),
        ("manifest", client.manifest(&at("r:v1")).err()),
        ("pull", client.pull(&at("r:v1"), &Platforms::Host, &layout, Ctx::none()).err()),
        ("push", client.push(&at("r:v2"), &root, &Endless(memory), Ctx::none()).err()),
        ("copy", client.copy(&at("r:v1"), &at("s:v1"), Ctx::none()).err()),
        ("tag", client.tag(&at("r:v1"), &["a", "b"]).err()),
        ("tags", client.tags(&at("r")).err()),
        ("catalog", client.catalog(&server.address.to_string()).err()),
        ("referrers", client.referrers(&at("r"), root.digest(), None).err()),
        ("delete a tag", client.delete(&at("r:v1")).err()),
        ("delete a manifest", client.delete(&by_digest).err()),
        ("delete a blob", client.delete_blob(&at("r"), layer.digest()).err()),
        ("ping", client.ping(&server.address.to_string()).err()),
        ("search", client.search(&server.address.to_string(), "x").err()),
        ("stat", source.stat(layer.digest()).err()),
        ("open", source.open(&layer, 0).err()),
    ]
}

/// Never answers, but keeps the connection.
fn silent() -> Server {
    Server::start(|_, conn| {
        std::thread::sleep(Duration::from_secs(60));
        conn.keep = false;
    })
}

#[test]
fn deadlines_and_tokens_end_every_verb() {
    let server = silent();
    let soon = || Instant::now() + Duration::from_millis(150);
    // One deadline for all: the first call waits for it, the others are too late from the start.
    for (verb, error) in verbs(&patient().with_deadline(soon()), &server) {
        assert!(matches!(error, Some(Error::Deadline)), "{verb}: {error:?}");
    }
    // A pause between attempts ends too.
    let busy = Server::start(|_, conn| conn.reply(503, &[("retry-after", "30")], b""));
    for (verb, error) in verbs(&patient().with_deadline(soon()), &busy) {
        assert!(matches!(error, Some(Error::Deadline)), "{verb}: {error:?}");
    }
    let token = CancelToken::new();
    let client = quick().cancel(token.clone()).build().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        token.cancel();
    });
    for (verb, error) in verbs(&client, &server) {
        assert!(matches!(error, Some(Error::Cancelled)), "{verb}: {error:?}");
    }
}

#[test]
fn a_deadline_ends_a_transfer_that_moves() {
    let sent = Arc::new(AtomicUsize::new(0));
    let (server, ..) = huge_server(&sent);
    // Slower than the server by far, so that only the deadline can end it.
    struct Slow(Layout);
    impl longshore_registry_client::Sink for Slow {
        fn has(&self, d: &Descriptor) -> Result<bool, BoxError> {
            self.0.has(d)
        }

        fn put(&self, d: &Descriptor, reader: &mut dyn Read) -> Result<(), BoxError> {
            let mut buffer = [0; 4096];
            while d.size() == HUGE && reader.read(&mut buffer)? > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.0.put(d, reader)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let sink = Slow(Layout::open(dir.path()).unwrap());
    let client = patient().with_deadline(Instant::now() + Duration::from_millis(300));
    let error = client.pull(&server.reference("r:v1"), &Platforms::Host, &sink, Ctx::none()).unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
}

#[test]
fn who_waits_for_anothers_login_can_leave() {
    // The token server never answers the first to ask.
    let server = Server::start(|seen: &Seen, conn: &mut Conn<'_>| {
        if seen.path() == "/token" {
            std::thread::sleep(Duration::from_secs(60));
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
        conn.reply(401, &[("www-authenticate", &realm)], b"");
    });
    let host = server.address.to_string();
    let credentials = StaticCredentials::new().with(&host, Credential::basic("u", "p"));
    let mut timeouts = Timeouts::default();
    timeouts.response = Duration::from_secs(300);
    let client = quick().credentials(credentials).timeouts(timeouts).build().unwrap();
    let end = CancelToken::new();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let source = client.source(&server.reference("r:v1")).unwrap().with_cancel(end.clone());
            source.stat(&common::sha256(b"")).unwrap_err()
        });
        while server.count("GET", "/token") == 0 {
            std::thread::sleep(Duration::from_millis(5));
            // The request is only noted once it was read.
            if first.is_finished() {
                break;
            }
        }
        let late = client.with_deadline(Instant::now() + Duration::from_millis(100));
        let error = late.tags(&server.reference("r")).unwrap_err();
        assert!(matches!(error, Error::Deadline), "{error:?}");
        assert!(!first.is_finished(), "the other one still waits");
        end.cancel();
        assert!(matches!(first.join().unwrap(), Error::Cancelled));
    });
}

#[test]
fn handshakes_and_lookups_are_interrupted() {
    // A listener whose queue is full: the kernel does not answer.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        held.push(stream);
        assert!(held.len() < 100, "the queue never fills");
    }
    let client = patient().with_deadline(Instant::now() + Duration::from_millis(200));
    let error = client.resolve(&format!("{address}/r:v1").parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");

    let transport = UreqTransport::with_lookup(Timeouts::default(), |_, _| {
        std::thread::sleep(Duration::from_secs(60));
        Ok(Vec::new())
    });
    let client = quick().transport(transport).build().unwrap();
    let client = client.with_deadline(Instant::now() + Duration::from_millis(200));
    let error = client.resolve(&"nowhere.test/r:v1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
}

/// Blocks until the test is over.
#[derive(Clone, Default)]
struct Blocked(Arc<AtomicBool>, Arc<AtomicBool>);

impl Blocked {
    fn wait(&self) {
        for _ in 0..6000 {
            if self.0.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.1.store(true, Ordering::Relaxed);
    }

    #[track_caller]
    fn nobody_waited(&self) {
        assert!(!self.1.load(Ordering::Relaxed), "it was waited for");
        self.0.store(true, Ordering::Relaxed);
    }
}

impl longshore_registry_client::Credentials for Blocked {
    fn get(&self, _: &str) -> longshore_registry_client::Result<Option<Credential>> {
        self.wait();
        Ok(None)
    }
}

#[test]
fn what_knows_nothing_of_deadlines_is_not_waited_for() {
    // A source of credentials.
    let server = Server::start(|_, conn| conn.reply(401, &[("www-authenticate", "Basic realm=\"x\"")], b""));
    let blocked = Blocked::default();
    let client = quick().credentials(blocked.clone()).build().unwrap();
    let client = client.with_deadline(Instant::now() + Duration::from_millis(200));
    let error = client.tags(&server.reference("r")).unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
    blocked.nobody_waited();

    // The look at where a registry is, before one goes where it leads.
    let blocked = Blocked::default();
    let lookup = blocked.clone();
    let transport = UreqTransport::with_lookup(Timeouts::default(), move |_, _| {
        lookup.wait();
        Ok(Vec::new())
    });
    let client = quick().transport(transport).build().unwrap();
    let client = client.with_deadline(Instant::now() + Duration::from_millis(200));
    let error = client.search("docker.io", "x").unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
    blocked.nobody_waited();
}

#[test]
fn a_registry_that_is_started_anew_is_waited_for() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |listener: &std::net::TcpListener| {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n";
        write!(stream, "{head}{{\"tags\":[\"one\"]}}").unwrap();
    };
    let server = std::thread::spawn(move || {
        answer(&listener);
        drop(listener);
        std::thread::sleep(std::time::Duration::from_millis(60));
        answer(&std::net::TcpListener::bind(address).unwrap());
    });
    // Waits three seconds and more in all, should this machine be slow to start it.
    let mut retry = Retry::default();
    retry.base = Duration::from_millis(100);
    let client = Client::builder().retry(retry).build().unwrap();
    let reference = format!("{address}/a").parse().unwrap();
    for _ in 0..2 {
        assert_eq!(client.tags(&reference).unwrap(), ["one"]);
    }
    server.join().unwrap();
}

#[test]
fn a_body_after_head_does_not_spoil_what_comes_next() {
    let body = b"{\"schemaVersion\":2,\"config\":{},\"layers\":[]}";
    let digest = common::sha256(body).to_string();
    let server = Server::start(move |seen, conn| {
        if seen.method != "HEAD" {
            return conn.reply(200, &[], br#"{"tags":["one"]}"#);
        }
        let headers = [("content-type", common::OCI_MANIFEST), ("docker-content-digest", &digest)];
        conn.head(200, &headers, Some(body.len()));
        // Late enough to be taken for the answer to the next request.
        std::thread::sleep(Duration::from_millis(30));
        let _ = conn.stream.write_all(body);
    });
    let client = quick().build().unwrap();
    let reference = format!("{}/a:1", server.address).parse().unwrap();
    client.tags(&reference).unwrap();
    client.resolve(&reference).unwrap();
    assert_eq!(client.tags(&reference).unwrap(), ["one"]);
}
