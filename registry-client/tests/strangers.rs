//! Logins and lists where others are near: servers that stand in for many, writers at the same time.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::fault::{Server, Tame};
use common::{Memory, OCI_MANIFEST, push, quick};
use longshore_registry_client::transport::{AddressClasses, Body, Headers, Method, Request, Response};
use longshore_registry_client::{
    CancelToken, Client, Credential, Ctx, Error, HostConfig, HostsDir, StaticCredentials, Timeouts,
    Transport, TransportError, TransportErrorKind, UreqTransport, Url,
};
use oci_spec::image::Descriptor;

#[test]
fn a_server_for_all_registries_gets_nobodys_login() {
    let server = Server::start(|seen, conn| match seen.header("authorization") {
        Some(_) => conn.reply(200, &[], br#"{"tags":["a"]}"#),
        None => conn.reply(401, &[("www-authenticate", "Basic realm=\"x\"")], b""),
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("_default")).unwrap();
    let text = format!("server = \"{}\"\n", server.url());
    std::fs::write(dir.path().join("_default/hosts.toml"), text).unwrap();
    let hub = StaticCredentials::new().with("docker.io", Credential::basic("user", "s3cret"));
    let client = |logins| quick().hosts(HostsDir::new([dir.path()])).credentials(logins).build().unwrap();
    assert!(client(hub.clone()).tags(&"debian".parse().unwrap()).unwrap_err().is_auth());
    server.saw_no_secret();
    // Its own login it does get.
    let own = hub.with(&server.address.to_string(), Credential::basic("own", "p"));
    assert_eq!(client(own).tags(&"debian".parse().unwrap()).unwrap(), ["a"]);
}

fn attached(memory: &Memory, subject: &Descriptor, i: usize) -> Descriptor {
    let config = memory.add("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "a/b", "config": config, "layers": [config],
        "subject": subject, "annotations": {"i": i.to_string()},
    });
    memory.add(OCI_MANIFEST, manifest.to_string().as_bytes())
}

#[test]
fn artifacts_attached_at_once_are_all_listed() {
    let tame = Arc::new(Tame::default());
    let registry = Arc::clone(&tame);
    let server = Server::start(move |seen, conn| {
        if seen.path().contains("/manifests/sha256-") {
            std::thread::sleep(Duration::from_millis(20));
        }
        registry.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(6, &[100]);
    push(&client, &server.reference("x"), &root, &memory);
    let tag = root.digest().to_string().replace(':', "-");
    let list = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"of":"the list"}}"#;
    tame.tags.lock().unwrap().insert(tag.clone(), list.to_vec());
    let roots: Vec<Descriptor> = (0..4).map(|i| attached(&memory, &root, i)).collect();
    std::thread::scope(|scope| {
        for artifact in &roots {
            let target = server.reference("x").with_digest(artifact.digest().clone());
            let (client, memory) = (&client, &memory);
            scope.spawn(move || push(client, &target, artifact, memory));
        }
    });
    assert_eq!(client.referrers(&server.reference("x"), root.digest(), None).unwrap().len(), 4);
    let kept = String::from_utf8(tame.tags.lock().unwrap()[&tag].clone()).unwrap();
    assert!(kept.contains("the list"), "{kept}");
}

/// What was asked: method, URL, `Authorization`, body.
type Asked = Arc<Mutex<Vec<[String; 4]>>>;

/// Answers without a network.
struct Fake<F>(F, Asked);

impl<F> Transport for Fake<F>
where
    F: Fn(&Request<'_>) -> Result<(u16, String, &'static str), TransportErrorKind> + Send + Sync,
{
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        let body = match body {
            Body::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        };
        let login = request.headers.get("authorization").unwrap_or_default().to_owned();
        let asked = [request.method.as_str().to_owned(), request.url.to_request_string(), login, body];
        self.1.lock().unwrap().push(asked);
        let (status, challenge, body) = (self.0)(request)?;
        let headers = Headers::new().with("www-authenticate", challenge);
        Ok(Response::new(status, headers, Box::new(body.as_bytes())))
    }

    fn lookup(&self, _: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(([93, 184, 216, 34], port))])
    }
}

#[test]
fn an_insecure_registry_is_asked_by_tls_first() {
    for (name, tls, wanted) in [
        ("reg.example", true, &["https://reg.example/v2/"][..]),
        ("reg.example", false, &["https://reg.example/v2/", "http://reg.example/v2/"]),
        ("reg.example:443", false, &["https://reg.example/v2/", "http://reg.example:443/v2/"]),
        ("reg.example:5000", false, &["https://reg.example:5000/v2/", "http://reg.example:5000/v2/"]),
    ] {
        let asked = Asked::default();
        let answer = move |request: &Request<'_>| match request.url.to_string().starts_with("https") == tls {
            true => Ok((200, String::new(), "{}")),
            false => Err(TransportErrorKind::Connect),
        };
        let client = quick().transport(Fake(answer, Arc::clone(&asked))).insecure(name).build().unwrap();
        client.ping(name).unwrap();
        let urls: Vec<String> = asked.lock().unwrap().iter().map(|a| a[1].clone()).collect();
        assert_eq!(urls, wanted, "{name}");
    }
}

#[test]
fn a_call_that_was_ended_says_nothing_of_the_registry() {
    let asked = Asked::default();
    let first = AtomicBool::new(true);
    let answer = move |request: &Request<'_>| match request.url.to_string().starts_with("https") {
        true if first.swap(false, Ordering::Relaxed) => Err(TransportErrorKind::Expired),
        true => Ok((200, String::new(), "{}")),
        false => Err(TransportErrorKind::Connect),
    };
    let client = quick().transport(Fake(answer, Arc::clone(&asked))).insecure("reg.example").build().unwrap();
    assert!(matches!(client.ping("reg.example"), Err(Error::Deadline)));
    client.ping("reg.example").unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[test]
fn a_refresh_token_of_a_stranger_replaces_none() {
    let asked = Asked::default();
    let answer = |request: &Request<'_>| {
        let challenge = |host: &str| format!("Bearer realm=\"https://{host}/token\",service=\"x\"");
        Ok(match (request.url.origin().host.as_str(), request.headers.get("authorization")) {
            ("evil.other", _) => (200, String::new(), r#"{"token":"bad","refresh_token":"EVIL"}"#),
            (_, _) if request.url.path() == "/token" => (200, String::new(), r#"{"token":"good"}"#),
            (_, Some("Bearer good")) => (200, String::new(), r#"{"tags":["ok"]}"#),
            _ if request.url.path().contains("/one/") => (401, challenge("evil.other"), ""),
            _ => (401, challenge("reg.example"), ""),
        })
    };
    let logins = StaticCredentials::new().with("reg.example", Credential::IdentityToken("REAL".into()));
    let client = quick().transport(Fake(answer, Arc::clone(&asked))).credentials(logins).build().unwrap();
    client.tags(&"reg.example/one".parse().unwrap()).unwrap_err();
    assert_eq!(client.tags(&"reg.example/two".parse().unwrap()).unwrap(), ["ok"]);
    let bodies: Vec<String> = asked.lock().unwrap().iter().map(|a| a[3].clone()).collect();
    assert!(bodies.iter().any(|b| b.contains("refresh_token=REAL")), "{bodies:?}");
    assert!(!bodies.iter().any(|b| b.contains("EVIL")), "{bodies:?}");
}

#[test]
fn tokens_may_be_said_in_several_ways() {
    for said in [
        r#"{"token":"","access_token":"good"}"#,
        r#"{"token":"good","expires_in":-1}"#,
        r#"{"token":"good","expires_in":300.0}"#,
        r#"{"token":"good","expires_in":null}"#,
    ] {
        let answer = move |request: &Request<'_>| {
            let challenge = "Bearer realm=\"https://reg.example/token\"".to_owned();
            Ok(match request.headers.get("authorization") {
                _ if request.url.path() == "/token" => (200, String::new(), said),
                Some("Bearer good") => (200, String::new(), r#"{"tags":["ok"]}"#),
                _ => (401, challenge, ""),
            })
        };
        let client = quick().transport(Fake(answer, Asked::default())).build().unwrap();
        assert_eq!(client.tags(&"reg.example/x".parse().unwrap()).unwrap(), ["ok"], "{said}");
    }
}

#[test]
fn what_one_registry_shows_another_may_refuse() {
    let tame = Tame::default();
    let root = tame.memory.image(2, &[1000]);
    let open = Server::start(move |seen, conn| tame.answer(seen, conn));
    let closed = Server::start(|_, conn| conn.reply(403, &[], b""));
    let client: Client = quick().build().unwrap();
    client.manifest(&open.reference("x").with_digest(root.digest().clone())).unwrap();
    let requests = open.seen().len();
    client.manifest(&open.reference("x").with_digest(root.digest().clone())).unwrap();
    assert_eq!(open.seen().len(), requests, "known");
    let there = closed.reference("x").with_digest(root.digest().clone());
    let refused = client.manifest(&there).unwrap_err();
    assert!(matches!(refused, Error::Status { status: 403, .. }), "{refused}");
    client.manifest(&open.reference("y").with_digest(root.digest().clone())).unwrap();
    assert!(open.seen().len() > requests, "another repository");
}

#[test]
fn a_pooled_connection_keeps_to_the_addresses_of_each_request() {
    let server = Server::start(|_, conn| conn.reply(200, &[], b"hi"));
    // Where the name is now, and how often it was asked for. Both lead to this machine, and are of different kinds.
    let (loopback, special) = ([127, 0, 0, 1], [0, 0, 0, 0]);
    let name = Arc::new(Mutex::new((loopback, 0)));
    let asked = Arc::clone(&name);
    let transport = UreqTransport::with_lookup(Timeouts::default(), move |_, port| {
        let mut name = asked.lock().unwrap();
        name.1 += 1;
        Ok(vec![SocketAddr::from((name.0, port))])
    });
    let url = Url::parse(&format!("http://both.example:{}/", server.address.port())).unwrap();
    let (headers, cancel) = (Headers::new(), CancelToken::new());
    let send = |addresses: AddressClasses| {
        let mut request = Request::new(Method::Get, &url, &headers, &cancel);
        request.addresses = addresses;
        let mut reply = transport.send(&request, Body::Empty).map_err(|e| e.kind)?;
        reply.body.read_to_end(&mut Vec::new()).unwrap();
        Ok(())
    };
    let asked = || name.lock().unwrap().1;
    // Pooled, and looked up once.
    for _ in 0..3 {
        assert_eq!(send(AddressClasses::LOOPBACK), Ok(()));
    }
    assert_eq!((asked(), server.connections()), (1, 1));
    // What is pooled and what is known are out of reach, and so is what the name is now.
    assert_eq!(send(AddressClasses::SPECIAL), Err(TransportErrorKind::Forbidden));
    assert_eq!(
        (asked(), server.seen().len()),
        (2, 3),
        "no request was sent, but the name was asked for anew"
    );
    // It has moved into reach: the pooled connection is not used, another is made.
    name.lock().unwrap().0 = special;
    assert_eq!(send(AddressClasses::SPECIAL), Ok(()));
    assert_eq!((asked(), server.connections()), (3, 2));
    // And back: what is known now does not let a request through that may not go there.
    assert_eq!(send(AddressClasses::GLOBAL), Err(TransportErrorKind::Forbidden));
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn a_name_that_moves_is_found_again() {
    let server = Server::start(|_, conn| conn.reply(200, &[], b"hi"));
    let port = server.address.port();
    let moved = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&moved);
    let transport = UreqTransport::with_lookup(Timeouts::default(), move |_, port| {
        // First where nobody listens.
        Ok(vec![SocketAddr::from(([127, 0, 0, if now.load(Ordering::Relaxed) { 1 } else { 2 }], port))])
    });
    let url = Url::parse(&format!("http://moves.example:{port}/")).unwrap();
    let (headers, cancel) = (Headers::new(), CancelToken::new());
    let request = Request::new(Method::Get, &url, &headers, &cancel);
    let error = transport.send(&request, Body::Empty).map(|r| r.status).unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Connect);
    moved.store(true, Ordering::Relaxed);
    assert_eq!(transport.send(&request, Body::Empty).unwrap().status, 200);
}

#[test]
fn configured_headers_are_not_printed() {
    let mut config = HostConfig::default_for("reg.example", false).unwrap();
    for name in ["x-jfrog-art-api", "cookie", "private-token"] {
        config.server.headers.push(name, "s3cret");
    }
    config.server.headers.push("accept", "shown");
    let text = format!("{config:?}");
    assert!(!text.contains("s3cret") && text.contains("private-token") && text.contains("shown"), "{text}");
}

#[test]
fn names_that_are_none_are_left_out() {
    let server = Server::start(|seen, conn| {
        conn.reply(
            200,
            &[],
            match seen.path() {
                "/v2/x/tags/list" => br#"{"tags":["\u001b]0;owned\u0007","../../x","good"]}"#,
                "/v2/_catalog" => br#"{"repositories":["a/../b","ok/one","\u009b2J"]}"#,
                _ => br#"{"results":[{"name":"a\u001b[2J","description":"b\u001b[31m\nc"}]}"#,
            },
        );
    });
    let warned = Arc::new(Mutex::new(0));
    let count = Arc::clone(&warned);
    let client = quick().warnings(move |_, _| *count.lock().unwrap() += 1).build().unwrap();
    assert_eq!(client.tags(&server.reference("x")).unwrap(), ["good"]);
    assert_eq!(client.catalog(&server.address.to_string()).unwrap(), ["ok/one"]);
    assert_eq!(*warned.lock().unwrap(), 2);
    let found = &client.search(&server.address.to_string(), "x").unwrap()[0];
    assert_eq!((found.name.as_str(), found.description.as_str()), ("a [2J", "b [31m c"));
}

#[test]
fn a_server_is_asked_for_what_it_can_only() {
    let (tame, memory) = (Tame::default(), Memory::default());
    let root = tame.memory.image(3, &[100]);
    let server = Server::start(move |seen, conn| tame.answer(seen, conn));
    let mut config = HostConfig::default_for(&server.address.to_string(), false).unwrap();
    (config.server.resolve, config.server.push) = (false, false);
    let client = quick().host(&server.address.to_string(), config).build().unwrap();
    let by_digest = server.reference("x").with_digest(root.digest().clone());
    client.manifest(&by_digest).unwrap();
    let asked = server.seen().len();
    let mine = memory.image(4, &[100]);
    let unsupported = |e: Error| assert!(matches!(e, Error::Unsupported { .. }), "{e}");
    unsupported(client.resolve(&server.reference("x:latest")).unwrap_err());
    unsupported(client.delete(&by_digest).unwrap_err());
    unsupported(client.push(&server.reference("x:1"), &mine, &memory, Ctx::none()).unwrap_err());
    assert!(server.seen()[asked..].iter().all(|s| s.method == "HEAD" || s.method == "GET"));
}
