//! Registries that want the credentials or the reach of whoever talks to them. One test per advisory, on every verb that it concerns.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::fault::{Conn, Seen, Server, Tame};
use common::{Memory, OCI_CONFIG, OCI_MANIFEST, chain, push, quick};
use longshore_registry_client::{
    CancelToken, Client, Credential, Ctx, Error, Host, HostConfig, Layout, Limits, Platforms,
    StaticCredentials, Timeouts, TransportErrorKind, UreqTransport,
};
use oci_spec::image::Descriptor;

const AUTH: &str = "Basic dXNlcjpzM2NyZXQ=";

fn credentials(server: &Server) -> StaticCredentials {
    StaticCredentials::new().with(&server.address.to_string(), Credential::basic("user", "s3cret"))
}

fn tame() -> (Arc<Tame>, Descriptor) {
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(7, &[50_000]);
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    (tame, root)
}

/// A registry that wants Basic logins, whose answers pass `turn` once the login is right.
fn guarded(turn: impl Fn(&Seen, &mut Conn<'_>) -> bool + Send + Sync + 'static) -> (Server, Descriptor) {
    let (tame, root) = tame();
    let server = Server::start(move |seen, conn| {
        if seen.header("authorization") != Some(AUTH) {
            conn.reply(401, &[("www-authenticate", "Basic realm=\"x\"")], b"");
        } else if !turn(seen, conn) {
            tame.answer(seen, conn);
        }
    });
    (server, root)
}

/// Somebody else: serves the same content to whoever asks, and asks for logins when `greedy`.
fn stranger(greedy: bool) -> Server {
    let (tame, _) = tame();
    Server::start(move |seen, conn| {
        if greedy {
            let both = [
                ("www-authenticate", "Basic realm=\"x\""),
                ("www-authenticate", "Bearer realm=\"http://127.0.0.1:1/t\""),
            ];
            conn.reply(401, &both, b"");
        } else {
            tame.answer(seen, conn);
        }
    })
}

fn client(server: &Server) -> Client {
    quick().credentials(credentials(server)).build().unwrap()
}

fn pull(client: &Client, server: &Server) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let pulled = client.pull(&server.reference("r:v1"), &Platforms::Host, &layout, Ctx::none());
    pulled.map(drop).map_err(|e| {
        let text = format!("{} {e:?}", chain(&e));
        assert!(!text.contains("s3cret") && !text.contains("dXNlcjpzM2NyZXQ"), "{text}");
        text
    })
}

#[test]
fn redirects_to_strangers_carry_nothing() {
    for greedy in [false, true] {
        let evil = stranger(greedy);
        let target = evil.url();
        let (home, _) = guarded(move |seen, conn| {
            let hit = matches!(seen.method.as_str(), "GET" | "HEAD" | "DELETE") && seen.path() != "/v2/";
            if hit {
                conn.reply(307, &[("location", &format!("{target}{}?sig=x", seen.path()))], b"");
            }
            hit
        });
        let client = client(&home);
        assert_eq!(pull(&client, &home).is_ok(), !greedy);
        let _ = client.resolve(&home.reference("r:v1"));
        let _ = client.tags(&home.reference("r"));
        let _ = client.delete(&home.reference("r:v1"));
        let _ = client.delete_blob(&home.reference("r:v1"), &common::sha256(b""));
        assert!(!evil.seen().is_empty());
        evil.saw_no_secret();
    }
}

#[test]
fn configured_headers_stay_at_home_too() {
    let evil = stranger(false);
    let target = evil.url();
    let (tame, _) = tame();
    let home = Server::start(move |seen, conn| {
        assert_eq!(seen.header("x-secret"), Some("1"));
        if seen.target.contains("/blobs/") {
            conn.reply(307, &[("location", &format!("{target}{}", seen.path()))], b"");
        } else {
            tame.answer(seen, conn);
        }
    });
    let mut host = Host::new(&home.url()).unwrap();
    host.headers.push("X-Secret", "1");
    let client = quick().host(&home.address.to_string(), HostConfig::new(host)).build().unwrap();
    pull(&client, &home).unwrap();
    assert!(!evil.seen().is_empty());
    evil.saw_no_secret();
}

#[test]
fn a_redirect_that_comes_back_brings_no_login() {
    let (first, second) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
    let back = Arc::clone(&first);
    let evil = Server::start(move |seen, conn| {
        conn.reply(
            307,
            &[("location", &format!("{}/v2/private/blobs/x", back.lock().unwrap()))],
            seen.target.as_bytes(),
        );
    });
    second.lock().unwrap().push_str(&evil.url());
    let (home, _) = guarded(move |seen, conn| {
        let hit = seen.target.contains("/blobs/");
        if hit {
            conn.reply(307, &[("location", &format!("{}/x", second.lock().unwrap()))], b"");
        }
        hit
    });
    first.lock().unwrap().push_str(&home.url());
    pull(&client(&home), &home).unwrap_err();
    let private: Vec<_> = home.seen().into_iter().filter(|s| s.target.contains("/private/")).collect();
    assert!(
        !private.is_empty() && private.iter().all(|s| s.header("authorization").is_none()),
        "{private:?}"
    );
}

#[test]
fn upload_locations_elsewhere_get_no_login() {
    for greedy in [false, true] {
        let evil = stranger(greedy);
        let target = evil.url();
        let (home, _) = guarded(move |seen, conn| {
            let hit = seen.method == "POST";
            if hit {
                conn.reply(202, &[("location", &format!("{target}/v2/r/blobs/uploads/u0"))], b"");
            }
            hit
        });
        let memory = Memory::default();
        let root = memory.image(20, &[2_000_000]);
        let error = client(&home).push(&home.reference("r:x"), &root, &memory, Ctx::none()).unwrap_err();
        let text = format!("{} {error:?}", chain(&error));
        assert!(!text.contains("s3cret"), "{text}");
        assert!(!evil.seen().is_empty());
        evil.saw_no_secret();
    }
}

#[test]
fn next_pages_elsewhere_are_refused() {
    let evil = stranger(false);
    let target = evil.url();
    let (home, _) = guarded(move |seen, conn| {
        let hit = seen.target.contains("/list")
            || seen.target.contains("_catalog")
            || seen.target.contains("/referrers/");
        if hit {
            let link = format!("<{target}/v2/r/tags/list>; rel=\"next\"");
            conn.reply(
                200,
                &[("link", &link)],
                br#"{"schemaVersion":2,"tags":["x"],"repositories":["x"],"manifests":[]}"#,
            );
        }
        hit
    });
    let client = client(&home);
    let refused = |e: Option<Error>| assert!(matches!(e, Some(Error::Refused { .. })), "{e:?}");
    refused(client.tags(&home.reference("r")).err());
    refused(client.catalog(&home.address.to_string()).err());
    refused(client.referrers(&home.reference("r"), &common::sha256(b""), None).err());
    assert!(evil.seen().is_empty());
}

#[test]
fn foreign_urls_see_no_login_and_only_if_wanted() {
    for (wanted, greedy) in [(false, false), (true, false), (true, true)] {
        let evil = stranger(greedy);
        let (tame, _) = tame();
        let layer = common::noise(77, 5000);
        let mut foreign =
            common::descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &layer);
        foreign.set_urls(Some(vec![format!("{}/v2/r/blobs/{}", evil.url(), foreign.digest())]));
        let config = tame.memory.add(OCI_CONFIG, b"{}");
        let root = tame.memory.manifest(&config, &[foreign]);
        tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
        let home = Server::start(move |seen, conn| {
            if seen.header("authorization") == Some(AUTH) {
                tame.answer(seen, conn);
            } else {
                conn.reply(401, &[("www-authenticate", "Basic realm=\"x\"")], b"");
            }
        });
        let client = quick().credentials(credentials(&home)).foreign_layers(wanted).build().unwrap();
        // The stranger does not have it either; what counts is what he is asked.
        assert_eq!(pull(&client, &home).is_ok(), !wanted);
        assert_eq!(evil.seen().is_empty(), !wanted);
        evil.saw_no_secret();
    }
}

/// A registry that sends its clients to the token server `realm`.
fn tokened(realm: String) -> (Server, Descriptor) {
    let (tame, root) = tame();
    let server = Server::start(move |seen, conn| {
        if seen.header("authorization") == Some("Bearer good") {
            tame.answer(seen, conn);
        } else {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:r:pull\"");
            conn.reply(401, &[("www-authenticate", &challenge)], b"");
        }
    });
    (server, root)
}

#[test]
fn token_servers_elsewhere_get_no_login() {
    let evil = Server::start(|_, conn| conn.reply(401, &[], b""));
    let (home, _) = tokened(format!("{}/token", evil.url()));
    let secrets = [Credential::basic("user", "s3cret"), Credential::IdentityToken("s3cret".into())];
    for secret in secrets {
        let credentials = StaticCredentials::new().with(&home.address.to_string(), secret);
        let client = quick().credentials(credentials).build().unwrap();
        let memory = Memory::default();
        let root = memory.image(21, &[100]);
        let failures = [
            pull(&client, &home).unwrap_err(),
            client.tags(&home.reference("r")).map(drop).unwrap_err().to_string(),
            client.delete(&home.reference("r:v1")).unwrap_err().to_string(),
            client
                .push(&home.reference("r:x"), &root, &memory, Ctx::none())
                .map(drop)
                .unwrap_err()
                .to_string(),
        ];
        for text in failures {
            assert!(text.contains("withheld") && text.contains(&evil.address.to_string()), "{text}");
        }
        assert!(!evil.seen().is_empty());
        evil.saw_no_secret();
        assert!(evil.seen().iter().all(|s| s.method == "GET" && !s.target.contains("account=")));
    }
}

#[test]
fn a_trusted_token_server_gets_the_login_and_its_redirects_do_not() {
    let evil = stranger(false);
    let target = evil.url();
    let tokens = Server::start(move |seen, conn| {
        if seen.target.contains("redirect") {
            conn.reply(307, &[("location", &format!("{target}/token"))], b"");
        } else if seen.header("authorization") == Some(AUTH) {
            conn.reply(200, &[], br#"{"token":"good"}"#);
        } else {
            conn.reply(401, &[], b"");
        }
    });
    let trusting = |home: &Server| {
        let builder = quick().credentials(credentials(home));
        builder.trust_realm(&home.address.to_string(), &tokens.address.to_string()).build().unwrap()
    };
    let (home, _) = tokened(format!("{}/token", tokens.url()));
    pull(&trusting(&home), &home).unwrap();
    assert_eq!(tokens.seen().len(), 1, "one token for all requests of one scope");

    let (home, _) = tokened(format!("{}/redirect", tokens.url()));
    assert!(pull(&trusting(&home), &home).unwrap_err().contains("redirects"));
    assert!(evil.seen().is_empty());
}

#[test]
fn token_servers_of_other_kinds_are_not_asked() {
    for realm in [
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "http://10.0.0.1/t",
        "http://[fe80::1]/t",
        "gopher://x/",
        "/token",
        "",
    ] {
        let (home, _) = tokened(realm.into());
        let text = pull(&client(&home), &home).unwrap_err();
        assert!(text.contains("Refused") || text.contains("Url"), "{realm}: {text}");
    }
}

#[test]
fn names_that_resolve_to_inner_addresses_are_not_reached() {
    // The registry is on loopback, so only other inner networks are out of its reach.
    let lookup = |host: &str, port: u16| {
        let ip = match host {
            "metadata.test" => [169, 254, 169, 254],
            "inner.test" => [10, 0, 0, 1],
            _ => [127, 0, 0, 1],
        };
        Ok(vec![SocketAddr::from((ip, port))])
    };
    for name in ["metadata.test", "inner.test"] {
        let (home, _) = guarded(move |seen, conn| {
            let location = format!("http://{name}/x");
            let hit = seen.target.contains("/blobs/");
            if hit {
                let status = if seen.method == "POST" { 202 } else { 307 };
                conn.reply(status, &[("location", &location)], b"");
            }
            hit
        });
        let transport = UreqTransport::with_lookup(Timeouts::default(), lookup);
        let client = quick().credentials(credentials(&home)).transport(transport.clone()).build().unwrap();
        assert!(pull(&client, &home).unwrap_err().contains("Forbidden"));
        let memory = Memory::default();
        let root = memory.image(22, &[100]);
        let error = client.push(&home.reference("r:x"), &root, &memory, Ctx::none()).unwrap_err();
        let Error::Transport { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind, TransportErrorKind::Forbidden);
        // And as a token server.
        let (home, _) = tokened(format!("http://{name}/token"));
        let client = quick().transport(transport).build().unwrap();
        assert!(pull(&client, &home).unwrap_err().contains("Forbidden"));
    }
}

#[test]
fn names_that_change_their_address_lead_no_further() {
    // The registry answers from loopback; its name also has, and later only has, the address of where clouds keep secrets.
    let asked = Arc::new(Mutex::new(0));
    let lookup = move |host: &str, port: u16| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let (loopback, metadata) = ([127, 0, 0, 1], [169, 254, 169, 254]);
        let found = match host {
            "metadata.test" => vec![metadata],
            "evil.test" if *asked == 1 => vec![loopback, metadata],
            "evil.test" => vec![loopback, metadata],
            _ => vec![loopback],
        };
        Ok(found.into_iter().map(|ip| SocketAddr::from((ip, port))).collect())
    };
    let (tame, _) = tame();
    let home = Server::start(move |seen, conn| {
        if seen.target.contains("/blobs/") {
            let status = if seen.method == "POST" { 202 } else { 307 };
            return conn.reply(status, &[("location", "http://metadata.test/latest/meta-data")], b"");
        }
        tame.answer(seen, conn);
    });
    let name = format!("evil.test:{}", home.address.port());
    let transport = UreqTransport::with_lookup(Timeouts::default(), lookup);
    let client = quick().transport(transport).insecure(&name).build().unwrap();
    let reference = |tag: &str| format!("{name}/r:{tag}").parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let memory = Memory::default();
    let root = memory.image(24, &[100]);
    let errors = [
        client.pull(&reference("v1"), &Platforms::Host, &layout, Ctx::none()).map(drop).unwrap_err(),
        client.push(&reference("x"), &root, &memory, Ctx::none()).map(drop).unwrap_err(),
        client.delete_blob(&reference("x"), &common::sha256(b"")).unwrap_err(),
    ];
    for error in errors {
        let Error::Transport { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind, TransportErrorKind::Forbidden);
    }
}

#[test]
fn terminals_are_not_spoken_to_by_errors() {
    let (tame, root) = tame();
    let entry = serde_json::json!({
        "mediaType": "x\u{1b}]0;owned\u{7}\u{9b}31m", "digest": root.digest().to_string(), "size": root.size(),
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": common::OCI_INDEX, "manifests": [entry]});
    tame.tags.lock().unwrap().insert("v1".into(), index.to_string().into_bytes());
    let home = Server::start(move |seen, conn| tame.answer(seen, conn));
    let text = pull(&quick().build().unwrap(), &home).unwrap_err();
    assert!(text.contains("it is named as x]0;owned31m and is "), "{text:?}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[test]
fn digests_never_become_paths() {
    let (tame, _) = tame();
    for digest in [
        "sha256:../../../etc/passwd",
        "sha256:",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "../x",
        "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
    ] {
        let d = serde_json::json!({"mediaType": OCI_CONFIG, "digest": digest, "size": 2});
        for doc in [
            serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": d, "layers": []}),
            serde_json::json!({"schemaVersion": 2, "mediaType": common::OCI_INDEX, "manifests": [d]}),
        ] {
            tame.tags.lock().unwrap().insert("v1".into(), doc.to_string().into_bytes());
            let registry = Arc::clone(&tame);
            let home = Server::start(move |seen, conn| registry.answer(seen, conn));
            pull(&quick().build().unwrap(), &home).unwrap_err();
            assert!(
                home.seen().iter().all(|s| s.target.ends_with("/v1")),
                "{digest}: nothing was asked for by it"
            );
        }
    }
}

#[test]
fn expired_tokens_are_renewed_on_every_verb() {
    // Each token is good for three requests.
    let left = Arc::new(Mutex::new((0, 0)));
    let (tame, root) = tame();
    let uses = Arc::clone(&left);
    let home = Server::start(move |seen, conn| {
        if seen.path() == "/token" {
            let mut left = uses.lock().unwrap();
            *left = (left.0 + 1, 3);
            return conn.reply(
                200,
                &[],
                format!("{{\"access_token\":\"t{}\",\"expires_in\":300}}", left.0).as_bytes(),
            );
        }
        let mut left = uses.lock().unwrap();
        if left.1 == 0 || seen.header("authorization") != Some(&format!("Bearer t{}", left.0)) {
            drop(left);
            let host = seen.header("host").unwrap().to_owned();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return conn.reply(401, &[("www-authenticate", &challenge)], b"");
        }
        left.1 -= 1;
        drop(left);
        tame.answer(seen, conn);
    });
    // One at a time: tokens that end by use rather than by time would be used up by others first.
    let mut limits = Limits::default();
    limits.concurrency = 1;
    let client = quick().limits(limits).build().unwrap();
    for _ in 0..5 {
        pull(&client, &home).unwrap();
    }
    let memory = Memory::default();
    let fresh = memory.image(23, &[3_000_000, 2_000_000, 10, 20]);
    push(&client, &home.reference("r:x"), &fresh, &memory);
    for _ in 0..5 {
        assert_eq!(client.resolve(&home.reference("r:v1")).unwrap().digest(), root.digest());
        client.tags(&home.reference("r")).unwrap();
        client.delete(&home.reference("r:v1")).unwrap();
    }
}

#[test]
fn refresh_tokens_are_posted_to_the_registry_itself() {
    let (tame, _) = tame();
    let home = Server::start(move |seen, conn| {
        if seen.path() == "/token" {
            let body = String::from_utf8(conn.body.clone()).unwrap();
            assert!(
                seen.method == "POST"
                    && body.contains("grant_type=refresh_token")
                    && body.contains("refresh_token=s3cret%26"),
                "{body}"
            );
            assert!(seen.header("authorization").is_none());
            return conn.reply(200, &[], br#"{"access_token":"good","refresh_token":"next"}"#);
        }
        if seen.header("authorization") == Some("Bearer good") {
            return tame.answer(seen, conn);
        }
        let challenge =
            format!("Bearer realm=\"http://{}/token\",service=\"s\"", seen.header("host").unwrap());
        conn.reply(401, &[("www-authenticate", &challenge)], b"");
    });
    let credentials =
        StaticCredentials::new().with(&home.address.to_string(), Credential::IdentityToken("s3cret&".into()));
    let client = quick().credentials(credentials).build().unwrap();
    pull(&client, &home).unwrap();
    assert_eq!(home.count("POST", "/token"), 1);
}

#[test]
fn anonymous_means_that_nothing_is_looked_up() {
    struct Never;
    impl longshore_registry_client::Credentials for Never {
        fn get(&self, registry: &str) -> longshore_registry_client::Result<Option<Credential>> {
            panic!("asked for {registry}")
        }
    }
    let (tame, _) = tame();
    let home = Server::start(move |seen, conn| tame.answer(seen, conn));
    let client = quick().credentials(Never).cancel(CancelToken::new()).build().unwrap();
    pull(&client, &home).unwrap();
}
