//! Through proxies: CONNECT and SOCKS 5, made here with std's TCP.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::fault::{Server, Tame};
use common::{Memory, chain, push, quick};
use longshore_registry_client::transport::{Body, Request, Response};
use longshore_registry_client::{
    Client, Ctx, Error, Host, HostConfig, Layout, Platforms, Proxies, Timeouts, Transport, TransportError,
    TransportErrorKind, UreqTransport,
};

/// Where somebody wanted to be connected to, with the login shown.
type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy that leads all to `registry`, whatever it is asked for.
fn proxy(
    registry: SocketAddr,
    greet: impl Fn(&mut TcpStream) -> Option<String> + Send + Sync + 'static,
) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let (log, greet) = (Arc::clone(&asked), Arc::new(greet));
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (mut near, log, greet) = (near.unwrap(), Arc::clone(&log), Arc::clone(&greet));
            std::thread::spawn(move || {
                let Some(target) = greet(&mut near) else { return };
                log.lock().unwrap().push(target);
                let mut far = TcpStream::connect(registry).unwrap();
                let (mut near_in, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut near_in, &mut far_out);
                    let _ = far_out.shutdown(std::net::Shutdown::Write);
                });
                let _ = std::io::copy(&mut far, &mut near);
            });
        }
    });
    (address, asked)
}

fn connect(stream: &mut TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut target, mut login) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("CONNECT ") {
            target = rest.split(' ').next().unwrap().to_owned();
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("proxy-authorization")
        {
            login = value.trim().to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    Some(format!("{login} {target}"))
}

/// SOCKS 5; takes `user`/`s3cret` where a login is offered, and no other.
fn socks(stream: &mut TcpStream) -> Option<String> {
    fn hear<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
        let mut bytes = [0; N];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }
    fn text(stream: &mut TcpStream) -> String {
        let [length] = hear(stream);
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
    let [5, 1, method] = hear(stream) else { panic!("no SOCKS 5") };
    stream.write_all(&[5, method]).unwrap();
    let mut login = String::new();
    if method == 2 {
        let [1] = hear(stream) else { panic!("no login") };
        login = format!("{}/{}", text(stream), text(stream));
        let right = login == "user/s3cret";
        stream.write_all(&[1, u8::from(!right)]).unwrap();
        if !right {
            return None;
        }
    }
    let [5, 1, 0, kind] = hear(stream) else { panic!("no request") };
    let host = match kind {
        1 => std::net::Ipv4Addr::from(hear::<4>(stream)).to_string(),
        3 => text(stream),
        _ => std::net::Ipv6Addr::from(hear::<16>(stream)).to_string(),
    };
    let port = u16::from_be_bytes(hear(stream));
    if host == "nowhere.test" {
        stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        return None;
    }
    stream.write_all(&[&[5, 0, 0, 3, 4][..], b"addr", &[0, 0]].concat()).unwrap();
    Some(format!("{login} {host}:{port}"))
}

fn registry() -> (Server, Arc<Tame>) {
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(90, &[100_000, 10]);
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    let registry = Arc::clone(&tame);
    (Server::start(move |seen, conn| registry.answer(seen, conn)), tame)
}

/// `reg.test` is an address of documentation, which nobody can reach directly.
fn client(proxies: Proxies) -> Client {
    let lookup = |host: &str, port: u16| match host {
        "reg.test" => Ok(vec![SocketAddr::from(([198, 51, 100, 7], port))]),
        "inner.test" => Ok(vec![SocketAddr::from(([10, 0, 0, 7], port))]),
        "metadata.test" => Ok(vec![SocketAddr::from(([169, 254, 169, 254], port))]),
        "proxy.test" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let server = Host::new("http://reg.test:5000").unwrap();
    quick()
        .transport(UreqTransport::with_lookup(Timeouts::default(), lookup))
        .host("reg.test:5000", HostConfig::new(server))
        .host("inner.test", HostConfig::new(Host::new("http://inner.test").unwrap()))
        .host("far.test", HostConfig::new(Host::new("http://far.test").unwrap()))
        .host("nowhere.test", HostConfig::new(Host::new("http://nowhere.test").unwrap()))
        .proxies(proxies)
        .build()
        .unwrap()
}

fn both_ways(client: &Client, name: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let at = |tag: &str| format!("{name}/r:{tag}").parse().unwrap();
    client.pull(&at("v1"), &Platforms::Host, &layout, Ctx::none()).map_err(|e| chain(&e))?;
    let memory = Memory::default();
    let root = memory.image(91, &[2_000_000, 10]);
    push(client, &at("v2"), &root, &memory);
    Ok(())
}

#[test]
fn an_http_proxy_is_asked_to_connect() {
    let (server, _) = registry();
    let (address, asked) = proxy(server.address, connect);
    // By name, and on an inner address, which no rule for what registries name must forbid.
    let url = format!("http://user:s3cret@proxy.test:{}", address.port());
    both_ways(&client(Proxies::new().http(&url)), "reg.test:5000").unwrap();
    let asked = asked.lock().unwrap();
    assert!(
        !asked.is_empty() && asked.iter().all(|a| a == "Basic dXNlcjpzM2NyZXQ= reg.test:5000"),
        "{asked:?}"
    );
    assert!(server.seen().iter().all(|s| s.header("proxy-authorization").is_none()));
}

#[test]
fn a_socks_proxy_gets_addresses_or_names() {
    let (server, _) = registry();
    let (address, asked) = proxy(server.address, socks);
    let with =
        |scheme: &str, login: &str| client(Proxies::new().http(&format!("{scheme}://{login}{address}")));
    both_ways(&with("socks5", ""), "reg.test:5000").unwrap();
    assert!(asked.lock().unwrap().drain(..).all(|a| a == " 198.51.100.7:5000"));
    both_ways(&with("socks5h", "user:s3cret@"), "far.test").unwrap();
    assert!(asked.lock().unwrap().drain(..).all(|a| a == "user/s3cret far.test:80"));

    let wrong = both_ways(&with("socks5h", "user:wrong@"), "far.test").unwrap_err();
    assert!(wrong.contains("does not take the login") && !wrong.contains("wrong@"), "{wrong}");
    let nowhere = both_ways(&with("socks5h", ""), "nowhere.test").unwrap_err();
    assert!(nowhere.contains("cannot reach it"), "{nowhere}");
    assert!(
        both_ways(&with("socks5", ""), "far.test").unwrap_err().contains("lookup"),
        "looked up here, and not found"
    );
}

#[test]
fn redirects_go_through_the_proxy_and_keep_to_the_rules() {
    let (tame_server, tame) = registry();
    let server = Server::start(move |seen, conn| {
        if seen.header("host") == Some("reg.test:5000")
            && seen.target.contains("/blobs/")
            && seen.method == "GET"
        {
            let to = if seen.target.contains("/evil/") { "metadata.test" } else { "[2606:4700::1]" };
            return conn.reply(307, &[("location", &format!("http://{to}{}", seen.path()))], b"");
        }
        tame.answer(seen, conn);
    });
    drop(tame_server);
    let (address, asked) = proxy(server.address, socks);
    let client = client(Proxies::new().http(&format!("socks5://{address}")));
    both_ways(&client, "reg.test:5000").unwrap();
    assert!(asked.lock().unwrap().iter().any(|a| a == " 2606:4700::1:80"), "{asked:?}");

    // A name that this side looks up is still not led inside.
    let source = client.source(&"reg.test:5000/evil".parse().unwrap()).unwrap();
    let layer = common::descriptor(common::OCI_LAYER, &common::noise(90_001, 100_000));
    let Err(Error::Transport { source, .. }) = source.open(&layer, 0).map(drop) else {
        panic!("it was reached")
    };
    assert_eq!(source.kind, TransportErrorKind::Forbidden);
    assert!(!asked.lock().unwrap().iter().any(|a| a.contains("169.254")), "{asked:?}");
}

/// Connects as the real one does; what it looks up besides has moved since to where clouds keep secrets.
struct Moved(UreqTransport);

impl Transport for Moved {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        self.0.send(request, body)
    }

    fn lookup(&self, _: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(([169, 254, 169, 254], port))])
    }
}

#[test]
fn behind_a_proxy_that_gets_addresses_it_counts_too_where_a_registry_answered_from() {
    let server = Server::start(|_, conn| {
        conn.reply(307, &[("location", "http://169.254.169.254/latest/meta-data")], b"");
    });
    let (address, asked) = proxy(server.address, socks);
    let public = |_: &str, port| Ok(vec![SocketAddr::from(([93, 184, 216, 34], port))]);
    let client = quick()
        .transport(Moved(UreqTransport::with_lookup(Timeouts::default(), public)))
        .host("reg.test", HostConfig::new(Host::new("http://reg.test").unwrap()))
        .proxies(Proxies::new().http(&format!("socks5://{address}")))
        .build()
        .unwrap();
    let error = client.manifest(&"reg.test/r:1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(asked.lock().unwrap().iter().all(|a| a == " 93.184.216.34:80"), "{asked:?}");
}

#[test]
fn redirects_go_through_a_proxy_that_looks_names_up() {
    let (tame_server, tame) = registry();
    let server = Server::start(move |seen, conn| {
        let home = seen.header("host").is_some_and(|h| h.ends_with(".test") || h.ends_with(".test:5000"));
        if home && seen.target.contains("/blobs/") && seen.method == "GET" {
            let to = if seen.target.contains("/evil/") { "10.1.2.3" } else { "93.184.216.34" };
            return conn.reply(307, &[("location", &format!("http://{to}{}", seen.path()))], b"");
        }
        tame.answer(seen, conn);
    });
    drop(tame_server);
    let by_connect = proxy(server.address, connect);
    let by_socks = proxy(server.address, socks);
    for (scheme, (address, asked)) in [("http", by_connect), ("socks5h", by_socks)] {
        // The proxy's own address is an inner one, which says nothing of where it leads to.
        let client = client(Proxies::new().http(&format!("{scheme}://proxy.test:{}", address.port())));
        both_ways(&client, "reg.test:5000").unwrap();
        assert!(asked.lock().unwrap().iter().any(|a| a == " 93.184.216.34:80"), "{asked:?}");
        // What this side's name server says of the registry's name does not count: another one is asked.
        let source = client.source(&"inner.test/evil".parse().unwrap()).unwrap();
        let layer = common::descriptor(common::OCI_LAYER, &common::noise(90_001, 100_000));
        let Err(Error::Refused { .. }) = source.open(&layer, 0).map(drop) else { panic!("it was reached") };
        assert!(!asked.lock().unwrap().iter().any(|a| a.contains("10.1.2.3")), "{asked:?}");
    }
}

#[test]
fn a_lookup_of_the_registry_itself_ends_in_time() {
    let (sent, slow) = std::sync::mpsc::channel::<()>();
    let slow = Mutex::new(slow);
    let mut timeouts = Timeouts::default();
    timeouts.lookup = std::time::Duration::from_millis(50);
    let transport = UreqTransport::with_lookup(timeouts, move |_, _| {
        let _ = slow.lock().unwrap().recv_timeout(std::time::Duration::from_secs(60));
        Err(std::io::ErrorKind::NotFound.into())
    });
    let error = longshore_registry_client::Transport::lookup(&transport, "slow.test", 80).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(sent);
}

#[test]
fn a_proxy_that_cannot_connect_for_once_is_asked_again() {
    let (server, _) = registry();
    let failed = std::sync::atomic::AtomicUsize::new(0);
    let (address, _) = proxy(server.address, move |stream| {
        if failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
            return connect(stream);
        }
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let _ = stream.write_all(b"HTTP/1.1 503 X\r\n\r\n");
        None
    });
    both_ways(&client(Proxies::new().http(&format!("http://{address}"))), "reg.test:5000").unwrap();
}
