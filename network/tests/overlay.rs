//! One network over two hosts.

mod common;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{CLIENT, HOST, Lab, Netns, assert_same, ready, wait_for};
use longshore_network::{
    DirStore, Endpoint, Entry, Error, MemoryStore, Overlay, OverlayOptions, PeerStore, Result,
};

const TOOLS: [&str; 6] = ["ip", "nft", "curl", "busybox", "bridge", "python3"];

fn options(vtep: &str) -> OverlayOptions {
    OverlayOptions::new("10.77.0.0/24".parse().expect("subnet"), 4242, vtep.parse().expect("vtep"))
}

/// The lab's host and its client as two hosts of one network.
struct Pair {
    lab: Lab,
    other_state: tempfile::TempDir,
    store: Arc<dyn PeerStore>,
}

impl Pair {
    fn new(store: Arc<dyn PeerStore>) -> Self {
        Self { lab: Lab::new(), other_state: tempfile::tempdir().expect("tempdir"), store }
    }

    fn open(&self) -> (Overlay, Overlay) {
        let here = || Overlay::open(self.lab.state.path(), "blue", &options(HOST), self.store.clone());
        let there = || Overlay::open(self.other_state.path(), "blue", &options(CLIENT), self.store.clone());
        (self.lab.host.run(here).expect("open"), self.lab.client.run(there).expect("open"))
    }
}

#[test]
fn containers_on_two_hosts_are_neighbours() {
    if !ready(&TOOLS) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::new(Arc::new(DirStore::open(directory.path()).unwrap()));
    let (empty_a, empty_b) = (pair.lab.host.dump(), pair.lab.client.dump());
    let (a, b) = pair.open();
    let _followers = (a.follow(|_| {}).unwrap(), b.follow(|_| {}).unwrap());
    let (one, two) = (Netns::new(), Netns::new());
    let first = a.attach(one.as_fd(), &Endpoint::new().id("one")).unwrap();
    let second = b.attach(two.as_fd(), &Endpoint::new().id("two")).unwrap();
    assert_ne!(first.address(), second.address());
    assert!(one.sh("ip link show eth0").contains("mtu 1450"));
    let (_s1, _s2) = (one.serve(80, "one"), two.serve(80, "two"));
    let url = |lease: &longshore_network::Lease| format!("http://{}/", lease.address().0);
    wait_for("the peers", || one.curl(&url(&second)).is_some());
    assert_eq!(one.curl(&url(&second)).as_deref(), Some("two"));
    assert_eq!(two.curl(&url(&first)).as_deref(), Some("one"));
    // The largest packet that the MTU allows goes through whole.
    let big = format!("busybox ping -c1 -W2 -s 1422 {}", second.address().0);
    assert!(one.sh(&big).contains("1 packets received"));
    second.detach().unwrap();
    wait_for("the peer to go", || !pair.lab.host.sh("bridge fdb").contains(CLIENT));
    first.detach().unwrap();
    drop(_followers);
    a.remove().unwrap();
    b.remove().unwrap();
    assert_same(&empty_a, &pair.lab.host.dump());
    assert_same(&empty_b, &pair.lab.client.dump());
}

#[test]
fn hosts_must_agree() {
    if !ready(&TOOLS) {
        return;
    }
    let pair = Pair::new(Arc::new(MemoryStore::new()));
    let (a, _b) = pair.open();
    let other = OverlayOptions::new("10.78.0.0/24".parse().unwrap(), 4242, CLIENT.parse().unwrap());
    let error = pair
        .lab
        .client
        .run(|| Overlay::open(pair.other_state.path(), "blue", &other, pair.store.clone()))
        .unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    // One address, asked for on both.
    let (one, two) = (Netns::new(), Netns::new());
    let fixed = Endpoint::new().address("10.77.0.9".parse::<std::net::IpAddr>().unwrap());
    let _lease = a.attach(one.as_fd(), &fixed).unwrap();
    assert!(matches!(_b.attach(two.as_fd(), &fixed), Err(Error::AddressInUse { .. })));
    // Each host's repair is about its own endpoints.
    assert_eq!(_b.repair(&[]).unwrap().removed, [""; 0]);
}

const FORGED: &str = "
import socket, struct, sys
src, dst, vni, inner_dst, mac = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
udp = struct.pack('!HHHH', 9, 9, 8 + 6, 0) + b'forged'
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton('10.77.0.200'), socket.inet_aton(inner_dst))
total = sum(struct.unpack('!10H', ip)); total = (total & 0xffff) + (total >> 16); total = (total & 0xffff) + (total >> 16)
ip = ip[:10] + struct.pack('!H', ~total & 0xffff) + ip[12:]
eth = bytes.fromhex(mac.replace(':', '')) + b'\\x02\\x42\\x66\\x66\\x66\\x66' + b'\\x08\\x00'
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((src, 0))
for _ in range(3): s.sendto(struct.pack('!BBHI', 8, 0, 0, vni << 8) + eth + ip + udp, (dst, 4789))
";

/// VXLAN has no protection of its own: whoever can send UDP to the host could put frames on the network.
#[test]
fn frames_of_strangers_stay_out() {
    if !ready(&TOOLS) {
        return;
    }
    let pair = Pair::new(Arc::new(MemoryStore::new()));
    let (a, b) = pair.open();
    let (one, two) = (Netns::new(), Netns::new());
    let lease = a.attach(one.as_fd(), &Endpoint::new()).unwrap();
    let _peer = b.attach(two.as_fd(), &Endpoint::new()).unwrap();
    a.reconcile().unwrap();
    let inside = one.udp_socket("0.0.0.0:9");
    pair.lab.client.sh("ip addr add 10.99.0.66/24 dev eth0");
    let forge = |from: &str| {
        let arguments = [from, HOST, "4242", &lease.address().0.to_string(), &lease.mac()].map(str::to_owned);
        pair.lab.client.run(|| {
            let python =
                std::process::Command::new("python3").arg("-c").arg(FORGED).args(&arguments).status();
            assert!(python.unwrap().success());
        });
        inside.recv(&mut [0; 16]).is_ok()
    };
    assert!(!forge("10.99.0.66"), "a stranger");
    assert!(forge(CLIENT), "the test's frame would arrive if its sender were a peer");
}

/// A store that can be switched off.
struct Frail {
    inner: MemoryStore,
    down: AtomicBool,
}

impl Frail {
    fn check(&self) -> Result<()> {
        match self.down.load(Ordering::Relaxed) {
            true => Err(Error::StoreUnavailable { source: "no leader".into() }),
            false => Ok(()),
        }
    }
}

impl PeerStore for Frail {
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)> {
        self.check()?;
        self.inner.list(prefix)
    }
    fn write(&self, key: &str, value: Option<&[u8]>, expected: Option<u64>) -> Result<bool> {
        self.check()?;
        self.inner.write(key, value, expected)
    }
    fn wait(&self, prefix: &str, revision: u64, timeout: Duration) -> Result<u64> {
        self.check()?;
        self.inner.wait(prefix, revision, timeout)
    }
}

#[test]
fn without_the_store_what_works_goes_on_and_what_was_changed_by_others_is_mended_later() {
    if !ready(&TOOLS) {
        return;
    }
    let store = Arc::new(Frail { inner: MemoryStore::new(), down: AtomicBool::new(false) });
    let pair = Pair::new(store.clone());
    let (a, b) = pair.open();
    let (one, two) = (Netns::new(), Netns::new());
    let _first = a.attach(one.as_fd(), &Endpoint::new().id("one")).unwrap();
    let second = b.attach(two.as_fd(), &Endpoint::new().id("two")).unwrap();
    let done = a.reconcile().unwrap();
    assert_eq!((done.added, done.removed), (2, 0));
    assert_eq!(a.reconcile().unwrap().added, 0, "nothing to do the second time");
    b.reconcile().unwrap();
    store.down.store(true, Ordering::Relaxed);
    let _server = two.serve(80, "two");
    let url = format!("http://{}/", second.address().0);
    assert!(a.reconcile().unwrap_err().is_retryable());
    let refused = a.attach(Netns::new().as_fd(), &Endpoint::new()).unwrap_err();
    assert!(matches!(refused, Error::StoreUnavailable { .. }), "{refused}");
    assert!(one.curl(&url).is_some(), "the peers are still there");
    // Someone cleans up too much.
    let index = pair.lab.host.sh("ip -o link show type vxlan | cut -d: -f2");
    pair.lab.host.sh(&format!("bridge fdb del {} dev {index}", second.mac()));
    pair.lab.host.sh(&format!("bridge fdb append 02:42:11:11:11:11 dst 10.99.0.99 dev {index}"));
    assert!(one.blocked(&url));
    store.down.store(false, Ordering::Relaxed);
    let done = a.reconcile().unwrap();
    assert_eq!((done.added, done.removed), (1, 1));
    assert!(one.curl(&url).is_some());
}

#[test]
fn an_address_that_moves_is_found_at_its_new_place() {
    if !ready(&TOOLS) {
        return;
    }
    let pair = Pair::new(Arc::new(MemoryStore::new()));
    let (a, b) = pair.open();
    let (asks, old, new) = (Netns::new(), Netns::new(), Netns::new());
    let fixed = |id: &str| Endpoint::new().id(id).address("10.77.0.50".parse::<std::net::IpAddr>().unwrap());
    let _asks = a.attach(asks.as_fd(), &Endpoint::new().id("asks")).unwrap();
    let lease = b.attach(old.as_fd(), &fixed("old")).unwrap();
    a.reconcile().unwrap();
    b.reconcile().unwrap();
    let _old = old.serve(80, "old");
    assert_eq!(asks.curl("http://10.77.0.50/").as_deref(), Some("old"));
    lease.detach().unwrap();
    let _lease = a.attach(new.as_fd(), &fixed("new")).unwrap();
    let _new = new.serve(80, "new");
    a.reconcile().unwrap();
    assert_eq!(
        asks.curl("http://10.77.0.50/").as_deref(),
        Some("new"),
        "with the neighbour's cache as it is"
    );
}
