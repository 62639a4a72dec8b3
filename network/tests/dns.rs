//! Names of containers from inside containers, and everything else from the host's servers.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{CLIENT, HOST, Lab, Netns, assert_same, ready};
use longshore_network::{BridgeOptions, DNS_ADDRESS, DnsOptions, DnsServer, Endpoint, MemoryNames, Names};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, ResourceRecord, TYPE};

const TOOLS: [&str; 4] = ["ip", "nft", "busybox", "curl"];

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(0x1234);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new(name).expect("name"),
        kind.into(),
        CLASS::IN.into(),
        false,
    ));
    packet.build_bytes_vec().expect("query")
}

/// The answer that a client in the namespace gets over UDP.
fn resolve(from: &Netns, name: &str, kind: TYPE) -> Option<Vec<u8>> {
    let socket = from.udp_socket("127.0.0.1:0");
    socket.set_read_timeout(Some(Duration::from_secs(8))).expect("timeout");
    socket.connect((DNS_ADDRESS, 53)).expect("connect");
    socket.send(&query(name, kind)).expect("send");
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

fn resolve_tcp(from: &Netns, name: &str) -> Vec<u8> {
    let mut stream = from.run(|| TcpStream::connect((DNS_ADDRESS, 53)).expect("connect"));
    let query = query(name, TYPE::A);
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), &query[..]].concat()).expect("write");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("length");
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).expect("answer");
    answer
}

fn rcode(answer: &[u8]) -> RCODE {
    Packet::parse(answer).expect("parses").rcode()
}

/// A server elsewhere, that answers each question with 192.0.2.53 and a record of a type that nobody knows.
struct Stub {
    seen: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

const UNKNOWN: [u8; 16] = [0xc0, 12, 0xff, 0x01, 0, 1, 0, 0, 0, 9, 0, 4, 0xde, 0xad, 0xbe, 0xef];

impl Stub {
    fn start(netns: &Netns, at: &str) -> Self {
        let socket: UdpSocket = netns.udp_socket(at);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("timeout");
        let stub = Self { seen: Arc::default(), stop: Arc::default() };
        let (seen, stop) = (Arc::clone(&stub.seen), Arc::clone(&stub.stop));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                seen.fetch_add(1, Ordering::Relaxed);
                let asked = Packet::parse(&buffer[..length]).expect("query");
                let mut reply = Packet::new_reply(asked.id());
                let question = asked.questions[0].clone();
                let data = RData::A(A { address: u32::from_be_bytes([192, 0, 2, 53]) });
                reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, data));
                reply.questions.push(question);
                let mut bytes = reply.build_bytes_vec_compressed().expect("reply");
                bytes[7] += 1;
                bytes.extend(UNKNOWN);
                let _ = socket.send_to(&bytes, from);
            }
        });
        stub
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(lab: &Lab, container: &Netns, names: Vec<Arc<dyn Names>>, options: DnsOptions) -> DnsServer {
    lab.host.run(|| DnsServer::start(container.as_fd(), names, options)).expect("start")
}

#[test]
fn containers_find_each_other_by_name() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let (web, client) = (Netns::new(), Netns::new());
    let empty = client.dump();
    let _client = bridge.attach(client.as_fd(), &Endpoint::new().id("client")).unwrap();
    let server = serve(&lab, &client, vec![Arc::new(bridge.clone())], DnsOptions::new());
    assert_eq!(rcode(&resolve(&client, "web", TYPE::A).unwrap()), RCODE::NameError);
    let lease = bridge.attach(web.as_fd(), &Endpoint::new().id("w1").name("web").name("www")).unwrap();
    let address = lease.address().0.to_string();
    for name in ["web", "WWW", "w1"] {
        let text = client.sh(&format!("busybox nslookup -type=a {name} 127.0.0.11 2>&1 || true"));
        assert!(text.contains(&address), "{text}");
    }
    let text = client.sh(&format!("busybox nslookup {address} 127.0.0.11"));
    assert!(text.contains("web"), "{text}");
    // A server of the container's own on port 53 is no trouble.
    let _own = client.udp_server(53, "own");
    assert!(resolve(&client, "web", TYPE::A).is_some());
    assert_eq!(rcode(&resolve_tcp(&client, "web")), RCODE::NoError);
    lease.detach().unwrap();
    assert_eq!(rcode(&resolve(&client, "web", TYPE::A).unwrap()), RCODE::NameError);
    drop(server);
    bridge.detach("client").unwrap();
    assert_same(&empty, &client.dump());
}

#[test]
fn other_names_come_from_the_hosts_servers_as_they_are() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let container = Netns::new();
    let _lease = bridge.attach(container.as_fd(), &Endpoint::new()).unwrap();
    let stub = Stub::start(&lab.client, &format!("{CLIENT}:53"));
    // The first one does not exist, the second refuses, the third knows.
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let options = DnsOptions::new()
        .upstream(at("10.99.0.77:53"))
        .upstream(at(&format!("{HOST}:53")))
        .upstream(at(&format!("{CLIENT}:53")))
        .timeout(Duration::from_millis(1500));
    let _server = serve(&lab, &container, vec![Arc::new(bridge.clone())], options);
    let answer = resolve(&container, "example.org", TYPE::A).unwrap();
    assert_eq!(answer[..2], [0x12, 0x34]);
    assert!(answer.ends_with(&UNKNOWN), "raw bytes pass");
    assert_eq!(stub.seen(), 1);
    assert_eq!(rcode(&resolve(&container, "nobody", TYPE::A).unwrap()), RCODE::NameError);
    assert_eq!(stub.seen(), 1, "a single label stays here");
}

/// The host's own stub resolver on its loopback, which a container cannot reach, but its host can.
#[test]
fn a_server_on_the_hosts_loopback_is_asked_from_there_unless_the_network_is_internal() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let (bridge, internal) = (lab.bridge(), lab.open("internal", &BridgeOptions::new().internal(true)));
    let (open, closed) = (Netns::new(), Netns::new());
    let _leases = (
        bridge.attach(open.as_fd(), &Endpoint::new()).unwrap(),
        internal.attach(closed.as_fd(), &Endpoint::new().name("inside")).unwrap(),
    );
    let stub = Stub::start(&lab.host, "127.0.0.53:53");
    let file = lab.state.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.11\nnameserver 127.0.0.53\n").unwrap();
    let _open = serve(&lab, &open, vec![Arc::new(bridge)], DnsOptions::new().resolv_conf(&file));
    let _closed = serve(&lab, &closed, vec![Arc::new(internal)], DnsOptions::new());
    assert_eq!(rcode(&resolve(&open, "example.org", TYPE::A).unwrap()), RCODE::NoError);
    assert_eq!(stub.seen(), 1);
    assert_eq!(rcode(&resolve(&closed, "secret.example.org", TYPE::A).unwrap()), RCODE::Refused);
    assert_eq!(rcode(&resolve(&closed, "inside", TYPE::A).unwrap()), RCODE::NoError);
    assert_eq!(stub.seen(), 1, "nothing leaves an internal network");
}

#[test]
fn long_answers_go_by_tcp() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let container = Netns::new();
    let names = MemoryNames::new();
    let many: Vec<_> = (0..200).map(|n| [10, 1, 2, n].into()).collect();
    names.set("many", &many);
    let _server = serve(&lab, &container, vec![Arc::new(names)], DnsOptions::new());
    let short = resolve(&container, "many", TYPE::A).unwrap();
    let short = Packet::parse(&short).unwrap();
    assert!(short.has_flags(PacketFlag::TRUNCATION) && short.answers.is_empty());
    let whole = resolve_tcp(&container, "many");
    assert_eq!(Packet::parse(&whole).unwrap().answers.len(), 200);
}
