//! What a third look found: replies that never come to anything, documents that multiply, settings that are a trap.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fault::{Conn, Server, Tame};
use common::{Memory, OCI_INDEX, OCI_MANIFEST, chain, quick};
use longshore_registry_client::transport::{AddressClasses, Body, Headers, Method, Request, Response};
use longshore_registry_client::{
    CancelToken, Client, Ctx, Error, Host, HostConfig, HostsDir, Limits, Platforms, Retry, Timeouts,
    TlsOptions, Transport, TransportError, TransportErrorKind, UreqTransport,
};

/// Gives up soon; what hangs all the same runs into the deadline, which is another error.
fn impatient() -> Client {
    let mut timeouts = Timeouts::default();
    (timeouts.stall, timeouts.response) = (Duration::from_millis(50), Duration::from_millis(400));
    timeouts.connect = Duration::from_millis(400);
    let mut retry = Retry::default();
    (retry.attempts, retry.base) = (2, Duration::from_millis(5));
    let client = Client::builder().timeouts(timeouts).retry(retry).build().unwrap();
    client.with_deadline(Instant::now() + Duration::from_secs(60))
}

fn timed_out(error: &Error) -> bool {
    matches!(error, Error::Transport { source, .. }
        if matches!(source.kind, TransportErrorKind::Timeout | TransportErrorKind::Connect))
}

/// Sends `drop` again and again, until nobody listens.
fn drip(conn: &mut Conn<'_>, drop: &[u8]) {
    while conn.stream.write_all(drop).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    conn.keep = false;
}

#[test]
fn what_frames_a_body_does_not_keep_it_open() {
    // After the last chunk of a whole manifest, lines that follow it; in place of a chunk, its size digit by digit.
    for (start, drop) in [("0\r\n", "x: y\r\n"), ("", "0")] {
        let tame = Tame::default();
        let root = tame.memory.image(1, &[10]);
        let bytes = tame.memory.get(root.digest()).unwrap();
        let server = Server::start(move |_, conn| {
            conn.head(200, &[("content-type", OCI_MANIFEST), ("transfer-encoding", "chunked")], None);
            let chunk =
                [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n", start.as_bytes()].concat();
            let _ = conn.stream.write_all(&chunk);
            drip(conn, drop.as_bytes());
        });
        let client = impatient();
        let failures = [
            client.manifest(&server.reference("r:1")).map(|_| ()).unwrap_err(),
            client.tags(&server.reference("r")).map(|_| ()).unwrap_err(),
            client.referrers(&server.reference("r"), root.digest(), None).map(|_| ()).unwrap_err(),
        ];
        for error in failures {
            assert!(timed_out(&error), "{error:?}");
        }
        // Of a blob each byte counts, and none comes.
        let blob = common::descriptor(common::OCI_LAYER, &common::noise(1, 100_000));
        let mut reader = client.source(&server.reference("r")).unwrap().open(&blob, 0).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(!matches!(Error::in_io(&error), Some(Error::Deadline)), "{error:?}");
    }
}

#[test]
fn a_handshake_that_drips_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream: TcpStream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                // A record of 16 kB, byte by byte.
                let _ = stream.write_all(&[0x16, 3, 3, 0x40, 0]);
                while stream.write_all(&[2]).is_ok() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
    });
    let name = address.to_string();
    let mut timeouts = Timeouts::default();
    timeouts.connect = Duration::from_millis(300);
    let host = Host::new(&format!("https://{name}")).unwrap().tls(TlsOptions::new());
    let client = quick().timeouts(timeouts).host(&name, HostConfig::new(host)).build().unwrap();
    let client = client.with_deadline(Instant::now() + Duration::from_secs(60));
    let error = client.ping(&name).unwrap_err();
    assert!(timed_out(&error), "{error:?}");
}

#[test]
fn a_reply_may_take_as_long_as_it_says() {
    let tame = Tame::default();
    let root = tame.memory.image(2, &[10]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let server = Server::start(move |seen, conn| {
        std::thread::sleep(Duration::from_millis(700));
        tame.answer(seen, conn);
    });
    let mut timeouts = Timeouts::default();
    (timeouts.stall, timeouts.response) = (Duration::from_millis(100), Duration::from_secs(60));
    quick().timeouts(timeouts).build().unwrap().manifest(&server.reference("r:1")).unwrap();
    assert_eq!(server.seen().len(), 1, "it was not asked twice");
}

#[test]
fn the_longest_time_there_is_is_one_too() {
    let tame = Tame::default();
    let root = tame.memory.image(3, &[10]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let failed = AtomicUsize::new(0);
    let server = Server::start(move |seen, conn| {
        if failed.fetch_add(1, Ordering::Relaxed) == 0 {
            return conn.reply(503, &[("retry-after", "0")], b"");
        }
        tame.answer(seen, conn);
    });
    let (mut timeouts, mut limits, mut retry) = (Timeouts::default(), Limits::default(), Retry::default());
    (timeouts.lookup, timeouts.connect) = (Duration::MAX, Duration::MAX);
    (timeouts.response, timeouts.stall) = (Duration::MAX, Duration::MAX);
    (limits.patience, retry.retry_after_max, retry.base) = (Duration::MAX, Duration::MAX, Duration::ZERO);
    let client = Client::builder().timeouts(timeouts).limits(limits).retry(retry).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = longshore_registry_client::Layout::open(dir.path()).unwrap();
    client.pull(&server.reference("r:1"), &Platforms::Host, &layout, Ctx::none()).unwrap();
    let memory = Memory::default();
    common::push(&client, &server.reference("r:2"), &memory.image(4, &[2_000_000]), &memory);
}

#[test]
fn a_client_certificate_with_anothers_key_is_an_error() {
    if !common::have("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=x",
            ])
            .arg("-keyout")
            .arg(dir.path().join(format!("{name}.key")))
            .arg("-out")
            .arg(dir.path().join(format!("{name}.crt")))
            .output()
            .unwrap();
        assert!(made.status.success());
    }
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let rubbish = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec();
    for key in [read("b.key"), rubbish] {
        let host =
            Host::new("https://127.0.0.1:1").unwrap().tls(TlsOptions::new().client_pem(read("a.crt"), key));
        let client = quick().host("127.0.0.1:1", HostConfig::new(host)).build().unwrap();
        let error = client.ping("127.0.0.1:1").unwrap_err();
        let Error::Transport { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind, TransportErrorKind::Request, "{}", chain(&error));
    }
}

/// An index of four levels, each of which names the next one over and over, and an image at its end.
fn laughs(memory: &Memory, times: usize) -> oci_spec::image::Descriptor {
    let mut child = memory.image(5, &[10]);
    for level in 0..4 {
        let children = vec![&child; times];
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, "annotations": {"level": level.to_string()},
        });
        child = memory.add(OCI_INDEX, index.to_string().as_bytes());
    }
    child
}

#[test]
fn documents_that_multiply_are_walked_once() {
    let tame = Arc::new(Tame::default());
    let root = laughs(&tame.memory, 30);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let registry = Arc::clone(&tame);
    let server = Server::start(move |seen, conn| registry.answer(seen, conn));
    let client = impatient();
    let dir = tempfile::tempdir().unwrap();
    let layout = longshore_registry_client::Layout::open(dir.path()).unwrap();
    let looked = AtomicUsize::new(0);
    let count = |_: longshore_registry_client::Event<'_>| {
        looked.fetch_add(1, Ordering::Relaxed);
    };
    let ctx = Ctx { progress: &count, ..Ctx::none() };
    client.pull(&server.reference("r:1"), &Platforms::All, &layout, ctx).unwrap();
    assert!(looked.load(Ordering::Relaxed) < 20, "{looked:?}");
    let before = server.seen().len();
    client.copy(&server.reference("r:1"), &server.reference("s:1"), ctx).unwrap();
    let asked = server.seen().len() - before;
    assert!(asked < 40, "{asked}");

    let empty = Tame::default();
    let other = Server::start(move |seen, conn| empty.answer(seen, conn));
    let mut limits = Limits::default();
    limits.manifests = 3;
    let client = quick().limits(limits).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = longshore_registry_client::Layout::open(dir.path()).unwrap();
    for error in [
        client.pull(&server.reference("r:1"), &Platforms::All, &layout, Ctx::none()).map(drop).unwrap_err(),
        client.copy(&server.reference("r:1"), &other.reference("r:1"), Ctx::none()).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("more than 3 manifests"), "{error}");
    }
}

/// Looks up and connects as the real one does, except that the registry's name has moved since to where clouds keep secrets.
struct Moved {
    real: UreqTransport,
    /// The kinds of addresses that requests for these paths may go to.
    seen: Arc<Mutex<Vec<(String, AddressClasses)>>>,
}

impl Transport for Moved {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        self.seen.lock().unwrap().push((request.url.path().to_owned(), request.addresses));
        self.real.send(request, body)
    }

    fn lookup(&self, _: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(([169, 254, 169, 254], port))])
    }
}

#[test]
fn a_name_that_moves_does_not_take_us_along() {
    // By redirects and upload locations of its own origin, where it may choose the path.
    let tame = Tame::default();
    let root = tame.memory.image(6, &[10]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let server = Server::start(move |seen, conn| match (seen.method.as_str(), seen.path()) {
        ("GET", path) if path.contains("/blobs/") => {
            conn.reply(307, &[("location", "/latest/meta-data")], b"");
        }
        ("POST", _) => conn.reply(202, &[("location", "/latest/upload")], b""),
        _ => tame.answer(seen, conn),
    });
    let seen = Arc::default();
    let transport = Moved { real: UreqTransport::default(), seen: Arc::clone(&seen) };
    let client = quick().transport(transport).build().unwrap();
    let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let layout = longshore_registry_client::Layout::open(dir.path()).unwrap();
    client.pull(&server.reference("r:1"), &Platforms::Host, &layout, Ctx::none()).map(drop).unwrap_err();
    client
        .push(&server.reference("r:2"), &memory.image(7, &[10]), &memory, Ctx::none())
        .map(drop)
        .unwrap_err();
    let seen = seen.lock().unwrap();
    let chosen: Vec<_> = seen.iter().filter(|(path, _)| path.starts_with("/latest/")).collect();
    assert!(
        chosen.iter().any(|(path, _)| path.contains("meta"))
            && chosen.iter().any(|(path, _)| path.contains("upload"))
    );
    for (path, addresses) in chosen {
        assert!(!addresses.has(AddressClasses::LINK_LOCAL), "{path}: {addresses:?}");
    }
}

#[test]
fn an_artifact_that_was_left_unlisted_is_listed_by_the_next_push() {
    for api in [false, true] {
        let tame = Arc::new(Tame::default());
        let registry = Arc::clone(&tame);
        // The first list is not taken: the push has failed when all else is there.
        let failed = AtomicUsize::new(0);
        let server = Server::start(move |seen, conn| match (seen.method.as_str(), seen.path()) {
            ("PUT", path)
                if path.contains("/manifests/sha256-") && failed.fetch_add(1, Ordering::Relaxed) == 0 =>
            {
                conn.reply(400, &[], b"");
            }
            ("GET", path) if api && path.contains("/referrers/") => {
                conn.reply(200, &[], br#"{"schemaVersion":2,"manifests":[]}"#);
            }
            _ => registry.answer(seen, conn),
        });
        let memory = Memory::default();
        let subject = memory.image(8, &[10]);
        let config = memory.add("application/x", b"{}");
        let artifact = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [], "subject": subject,
        });
        let artifact = memory.add(OCI_MANIFEST, artifact.to_string().as_bytes());
        let at = server.reference("r:a");
        quick().build().unwrap().push(&at, &artifact, &memory, Ctx::none()).unwrap_err();
        common::push(&quick().build().unwrap(), &at, &artifact, &memory);
        let tag = subject.digest().to_string().replace(':', "-");
        let listed = tame.tags.lock().unwrap().get(&tag).map(|l| String::from_utf8(l.clone()).unwrap());
        if api {
            assert_eq!(listed, None, "the registry lists it by itself");
        } else {
            assert!(listed.unwrap().contains(artifact.digest().as_ref()));
        }
    }
}

#[test]
fn a_registry_that_does_not_understand_a_condition_gets_none() {
    let tame = Arc::new(Tame::default());
    let registry = Arc::clone(&tame);
    let server = Server::start(move |seen, conn| match seen.header("if-none-match") {
        Some(_) => conn.reply(412, &[], b""),
        None => registry.answer(seen, conn),
    });
    let memory = Memory::default();
    let config = memory.add("application/x", b"{}");
    let subject = memory.image(9, &[10]);
    let artifact = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [], "subject": subject,
    });
    let artifact = memory.add(OCI_MANIFEST, artifact.to_string().as_bytes());
    let client = quick().build().unwrap();
    common::push(&client, &server.reference("r:a"), &artifact, &memory);
    assert_eq!(client.referrers(&server.reference("r"), subject.digest(), None).unwrap().len(), 1);
}

#[test]
fn no_length_in_a_reply_to_head_is_asked_for_again() {
    let tame = Tame::default();
    let root = tame.memory.image(10, &[10]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let digest = root.digest().to_string();
    let server = Server::start(move |seen, conn| {
        if seen.method == "HEAD" {
            let headers = [("content-type", OCI_MANIFEST), ("docker-content-digest", &digest)];
            return conn.head(200, &headers, Some(0));
        }
        tame.answer(seen, conn);
    });
    assert_eq!(quick().build().unwrap().resolve(&server.reference("r:1")).unwrap(), root);
}

#[test]
fn what_is_gone_although_the_reply_was_lost_is_deleted() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |seen, conn| match seen.method.as_str() {
        "DELETE" if asked.fetch_add(1, Ordering::Relaxed) == 0 => conn.reset(),
        _ => conn.reply(404, &[], b""),
    });
    let client = quick().build().unwrap();
    client.ping(&server.address.to_string()).unwrap_err();
    client.delete_blob(&server.reference("r"), &common::sha256(b"")).unwrap();
    let error = client.delete_blob(&server.reference("r"), &common::sha256(b"")).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

/// A network without sockets: `answer` is what stands at a URL's origin and path.
struct Net<F>(F);

impl<F: Fn(&str) -> Result<Response, TransportError> + Send + Sync> Transport for Net<F> {
    fn send(&self, request: &Request<'_>, _: Body<'_>) -> Result<Response, TransportError> {
        self.0(&request.url.to_string())
    }
}

fn reply(status: u16, headers: &[(&str, &str)], body: &'static [u8]) -> Result<Response, TransportError> {
    let headers = headers.iter().fold(Headers::new(), |all, (name, value)| all.with(name, *value));
    Ok(Response::new(status, headers, Box::new(body)))
}

#[test]
fn an_insecure_registry_that_was_away_is_asked_by_tls_again() {
    // At 443 only, and not yet; nobody is at 80.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let client = quick().insecure("reg.example").transport(Net(move |url: &str| {
        if url.starts_with("https://reg.example/") && count.fetch_add(1, Ordering::Relaxed) > 0 {
            return reply(200, &[], br#"{"tags":["a"]}"#);
        }
        Err(TransportErrorKind::Connect.into())
    }));
    let client = client.build().unwrap();
    let reference = "reg.example/r".parse().unwrap();
    client.tags(&reference).unwrap_err();
    assert_eq!(client.tags(&reference).unwrap(), ["a"]);
    assert!(asked.load(Ordering::Relaxed) > 1);
}

#[test]
fn an_insecure_registry_that_leads_to_tls_keeps_its_login() {
    // Away at first, as above; what is at 80 leads to 443, as web servers do, also what is sent.
    let asked = AtomicUsize::new(0);
    let client = quick().insecure("reg.example").transport(Net(move |url: &str| {
        match url.strip_prefix("https://reg.example") {
            None => reply(301, &[("location", &url.replace("http:", "https:"))], b""),
            Some(_) if asked.fetch_add(1, Ordering::Relaxed) == 0 => Err(TransportErrorKind::Connect.into()),
            Some("/v2/r/blobs/uploads/") => reply(201, &[], b""),
            Some(path) if path.contains("/manifests/") => reply(201, &[], b""),
            Some(path) => panic!("{path}"),
        }
    }));
    let memory = Memory::default();
    let root = memory.image(11, &[10]);
    common::push(&client.build().unwrap(), &"reg.example/r:1".parse().unwrap(), &root, &memory);
}

#[test]
fn insecure_means_insecure_whatever_else_is_known_of_a_host() {
    let server = Server::start(|_, conn| conn.reply(200, &[], br#"{"tags":["a"]}"#));
    let port = server.address.port();
    // One has a directory for certificates with nothing in it, the other one settings of its own.
    let dir = tempfile::tempdir().unwrap();
    let (named, by_address) = (format!("reg.test:{port}"), format!("127.0.0.1:{port}"));
    for name in [&named, &by_address] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let toml = format!("server = \"https://{by_address}\"\n[header]\nx-a = \"1\"\n");
    std::fs::write(dir.path().join(&by_address).join("hosts.toml"), toml).unwrap();
    let tags = |pattern: &str, name: &str| {
        let lookup = |_: &str, port| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
        let builder = quick().transport(UreqTransport::with_lookup(Timeouts::default(), lookup));
        let client = builder.insecure(pattern).hosts(HostsDir::new([dir.path()])).build().unwrap();
        client.tags(&format!("{name}/r").parse().unwrap())
    };
    assert_eq!(tags(&named, &named).unwrap(), ["a"]);
    for pattern in [&by_address, "127.0.0.0/8"] {
        assert_eq!(tags(pattern, &by_address).unwrap(), ["a"], "{pattern}");
        assert_eq!(server.seen().pop().unwrap().header("x-a"), Some("1"));
    }
    for pattern in ["127.0.0.1", "10.0.0.0/8"] {
        tags(pattern, &by_address).unwrap_err();
    }
    for pattern in ["127.0.0.1/x", "/8", ""] {
        let said = Client::builder().insecure(pattern).build().unwrap_err();
        assert!(matches!(&said, Error::Insecure { pattern: of, .. } if of == pattern), "{said:?}");
    }
    tags("127.0.0.0/8", &named).unwrap_err();
}

#[test]
fn without_threads_there_is_an_error_and_no_panic() {
    let test = "without_threads_there_is_an_error_and_no_panic";
    if std::env::var_os("LONGSHORE_TEST_NO_THREADS").is_some() {
        let memory = Memory::default();
        let root = memory.image(12, &[10, 20]);
        let reference = "127.0.0.1:1/r:1".parse().unwrap();
        quick().build().unwrap().push(&reference, &root, &memory, Ctx::none()).unwrap_err();
        return;
    }
    if !common::have("setpriv") || !common::have("prlimit") {
        return;
    }
    // The program itself may be where that user may not look.
    let dir = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("siege");
    // Copied by another process: a child that another thread starts meanwhile would have it open for writing.
    let mut copy = Command::new("install");
    let copied = copy.args(["-m", "755"]).arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    let done = Command::new("setpriv")
        .args(["--reuid", "54329", "--regid", "54329", "--clear-groups", "prlimit", "--nproc=1"])
        .arg(&program)
        .args(["--exact", test, "--test-threads=1"])
        .env("LONGSHORE_TEST_NO_THREADS", "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if said.contains("setpriv") {
        assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "{said}");
        return eprintln!("skipped: no right to be somebody else");
    }
    assert!(done.status.success(), "{said}");
}

#[test]
fn a_token_that_is_not_taken_is_asked_for_once_more_and_no_oftener() {
    for (good, works) in [("t2", true), ("none", false)] {
        let given = AtomicUsize::new(0);
        let server = Server::start(move |seen, conn| {
            if seen.path() == "/token" {
                let token = format!("{{\"token\":\"t{}\"}}", given.fetch_add(1, Ordering::Relaxed) + 1);
                return conn.reply(200, &[], token.as_bytes());
            }
            if seen.header("authorization") == Some(&format!("Bearer {good}")) {
                return conn.reply(200, &[], br#"{"tags":["a"]}"#);
            }
            let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
            conn.reply(401, &[("www-authenticate", &realm)], b"");
        });
        let tags = quick().build().unwrap().tags(&server.reference("r"));
        assert_eq!(tags.is_ok(), works, "{tags:?}");
        assert_eq!((server.count("GET", "/token"), server.count("GET", "/tags/")), (2, 3));
    }
}

#[test]
fn a_manifest_that_is_taken_by_crumbs_is_not_sent_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = longshore_registry_client::Url::parse(&format!("http://{}/", listener.local_addr().unwrap()))
        .unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut timeouts = Timeouts::default();
    timeouts.response = Duration::from_millis(100);
    let cancel = CancelToken::new().until(Instant::now() + Duration::from_secs(120));
    let headers = Headers::new();
    let request = Request::new(Method::Put, &url, &headers, &cancel);
    // More than sockets hold.
    let error =
        UreqTransport::new(timeouts).send(&request, Body::Bytes(vec![7; 9 << 20].into())).unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Timeout);
}

#[test]
fn what_is_larger_than_it_may_be_is_not_cut_to_size() {
    // All of its meaning is at its start, and its length is not told.
    let server = Server::start(|_, conn| {
        conn.head(200, &[("transfer-encoding", "chunked")], None);
        let body = [&br#"{"tags":["a"]}"#[..], &vec![b' '; 4 << 20]].concat();
        let _ = conn
            .stream
            .write_all(&[format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat());
    });
    let error = quick().build().unwrap().tags(&server.reference("r")).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}
