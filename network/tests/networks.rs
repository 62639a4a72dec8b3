//! Addresses, ranges of ports, several networks, several users at once.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use common::{CLIENT, HOST, Lab, Netns, assert_same, ready};
use longshore_network::{Bridge, BridgeOptions, Endpoint, Error, PortMapping, Protocol};

const TOOLS: [&str; 4] = ["ip", "nft", "curl", "busybox"];

#[test]
fn a_hundred_ports_are_one_endpoint() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let before = lab.host.dump();
    let container = Netns::new();
    let range = (0..100).fold(Endpoint::new(), |e, n| e.publish(20_000 + n, 30_000 + n));
    let lease = bridge.attach(container.as_fd(), &range).unwrap();
    assert_eq!(
        lab.host.sh("nft list map inet longshore ports4 | grep -o 'tcp \\. [0-9]*' | sort -u | wc -l"),
        "100\n"
    );
    let _server = container.serve(30_099, "last");
    assert_eq!(lab.client.curl(&format!("http://{HOST}:20099/")).as_deref(), Some("last"));
    // One that is taken leaves none of the others.
    let listener = lab.host.run(|| std::net::TcpListener::bind("0.0.0.0:21050").unwrap());
    let second = (0..100).fold(Endpoint::new(), |e, n| e.publish(21_000 + n, 80));
    let other = Netns::new();
    let error = bridge.attach(other.as_fd(), &second).unwrap_err();
    assert!(matches!(error, Error::PortAllocated { port: 21_050, .. }), "{error}");
    drop(listener);
    bridge.attach(other.as_fd(), &second).unwrap().detach().unwrap();
    lease.detach().unwrap();
    assert_same(&before, &lab.host.dump());
}

#[test]
fn addresses_can_be_asked_for() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.open("net", &BridgeOptions::new().subnet("10.42.0.0/29".parse().unwrap()).mtu(1400));
    let (a, b) = (Netns::new(), Netns::new());
    let ask = |last| Endpoint::new().address(Ipv4Addr::new(10, 42, 0, last));
    let lease = bridge.attach(a.as_fd(), &ask(5)).unwrap();
    assert_eq!(lease.address(), (IpAddr::from([10, 42, 0, 5]), 29));
    assert_eq!(lease.gateway(), Some([10, 42, 0, 1].into()));
    assert!(a.sh("ip link show eth0").contains("mtu 1400"));
    assert!(matches!(bridge.attach(b.as_fd(), &ask(5)), Err(Error::AddressInUse { .. })));
    assert!(matches!(bridge.attach(b.as_fd(), &ask(1)), Err(Error::AddressInUse { .. })));
    for outside in [0, 7, 8] {
        assert!(matches!(bridge.attach(b.as_fd(), &ask(outside)), Err(Error::AddressOutside { .. })));
    }
    // Five usable addresses, one of them taken.
    let others: Vec<_> =
        (0..4).map(|_| bridge.attach(Netns::new().as_fd(), &Endpoint::new()).unwrap()).collect();
    assert!(matches!(bridge.attach(b.as_fd(), &Endpoint::new()), Err(Error::PoolExhausted { .. })));
    drop(others);
    let twice = lab.host.run(|| Bridge::open(lab.state.path(), "net", &BridgeOptions::new()).unwrap());
    assert_eq!(twice.subnets(), bridge.subnets());
    let other = BridgeOptions::new().subnet("10.43.0.0/24".parse().unwrap());
    let error = lab.host.run(|| Bridge::open(lab.state.path(), "net", &other)).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let overlapping = BridgeOptions::new().subnet("10.42.0.0/16".parse().unwrap());
    let error = lab.host.run(|| Bridge::open(lab.state.path(), "wide", &overlapping)).unwrap_err();
    assert!(matches!(error, Error::SubnetInUse { .. }), "{error}");
}

#[test]
fn default_subnets_keep_clear_of_what_is_there() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    lab.host.sh(&format!("ip route add 172.16.0.0/14 via {CLIENT}; ip link set eth0 mtu 1450"));
    let bridge = lab.bridge();
    assert_eq!(bridge.subnets()[0].to_string(), "172.20.0.0/16");
    assert!(lab.host.sh(&format!("ip link show {}", bridge.link())).contains("mtu 1450"));
    // Another state directory on the same host knows nothing of the first but what the kernel says.
    let elsewhere = tempfile::tempdir().unwrap();
    let second = lab.host.run(|| Bridge::open(elsewhere.path(), "bridge", &BridgeOptions::new())).unwrap();
    assert_eq!(second.subnets()[0].to_string(), "172.21.0.0/16");
    assert_ne!(second.link(), bridge.link());
    assert!(lab.host.run(|| Bridge::find(lab.state.path(), "none")).unwrap_err().is_not_found());
}

#[test]
fn a_container_joins_and_leaves_networks_as_it_runs() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.bridge(), lab.open("second", &BridgeOptions::new()));
    let (container, neighbour) = (Netns::new(), Netns::new());
    let _server = lab.client.serve(80, "outside");
    let reaches_out = || container.curl(&format!("http://{CLIENT}/")).is_some();
    let one = first.attach(container.as_fd(), &Endpoint::new().id("c")).unwrap();
    let two = second.attach(container.as_fd(), &Endpoint::new().id("c").publish(8080, 80)).unwrap();
    let beside = second.attach(neighbour.as_fd(), &Endpoint::new().id("n")).unwrap();
    let again = first.attach(container.as_fd(), &Endpoint::new().id("c")).unwrap_err();
    assert!(matches!(again, Error::EndpointExists { .. }), "{again}");
    let _near = neighbour.serve(80, "neighbour");
    assert!(container.sh("ip -br addr").contains("eth1"));
    assert!(container.curl(&format!("http://{}/", beside.address().0)).is_some());
    assert!(reaches_out());
    one.detach().unwrap();
    assert!(reaches_out(), "by the network that is left");
    let _own = container.serve(80, "container");
    assert!(lab.client.curl(&format!("http://{HOST}:8080/")).is_some());
    two.detach().unwrap();
    assert!(!container.sh("ip link").contains("eth"));
}

#[test]
fn ports_move_to_the_network_that_stays() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let internal = BridgeOptions::new().internal(true);
    let (first, second, inner) =
        (lab.bridge(), lab.open("second", &BridgeOptions::new()), lab.open("inner", &internal));
    let (container, rival) = (Netns::new(), Netns::new());
    let attach =
        |bridge: &Bridge, endpoint: &Endpoint| bridge.attach(container.as_fd(), endpoint).unwrap().keep();
    let before = lab.host.dump();
    attach(&first, &Endpoint::new().id("c").publish(8080, 80).publish(0, 81));
    attach(&second, &Endpoint::new().id("c"));
    let without = lab.host.dump();
    attach(&inner, &Endpoint::new().id("c"));
    let _own = container.serve(80, "container");
    let reached = || lab.client.curl(&format!("http://{HOST}:8080/")).is_some();
    assert!(reached());
    let ports = [PortMapping::new(8080, 80, Protocol::Tcp), PortMapping::new(0, 81, Protocol::Tcp)];
    // While another has one of them, neither is to be had, and nothing stays of the attempt.
    assert!(matches!(second.publish("c", &ports), Err(Error::PortAllocated { port: 8080, .. })));
    inner.detach("c").unwrap();
    assert_same(&without, &lab.host.dump());
    first.detach("c").unwrap();
    assert!(!reached());
    let published = second.publish("c", &ports).unwrap();
    assert!(reached() && published[1].host_port != 0, "{published:?}");
    assert!(matches!(second.publish("c", &ports), Err(Error::EndpointExists { .. })));
    assert!(second.publish("none", &ports).unwrap_err().is_not_found());
    assert!(second.attach(rival.as_fd(), &Endpoint::new().id("r").publish(8080, 80)).is_err());
    // What was flushed is mended with the ports that came later.
    lab.host.sh("nft flush map inet longshore ports4");
    assert_eq!(second.repair(&["c"]).unwrap().restored, ["c"]);
    assert!(reached());
    second.detach("c").unwrap();
    assert_same(&before, &lab.host.dump());
}

#[test]
fn many_at_once_do_not_meet() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let before = lab.host.dump();
    let addresses = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (lab, addresses) = (&lab, &addresses);
            scope.spawn(move || {
                let bridge = lab.bridge();
                let containers: Vec<_> = (0..5).map(|_| Netns::new()).collect();
                let leases: Vec<_> = containers
                    .iter()
                    .enumerate()
                    .map(|(n, c)| {
                        let endpoint = Endpoint::new().id(format!("{worker}-{n}")).publish(0, 80);
                        bridge.attach(c.as_fd(), &endpoint).unwrap()
                    })
                    .collect();
                let mine = leases.iter().map(|l| (l.address().0, l.ports()[0].host_port));
                addresses.lock().unwrap().extend(mine);
            });
        }
    });
    let mut addresses = addresses.into_inner().unwrap();
    assert_eq!(addresses.len(), 20);
    addresses.sort_unstable();
    addresses.dedup_by_key(|(address, _)| *address);
    assert_eq!(addresses.len(), 20, "each address once");
    assert!(bridge.endpoints().unwrap().is_empty());
    assert_same(&before, &lab.host.dump());
}

#[test]
fn what_others_drop_is_told() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    assert_eq!(bridge.obstacles().unwrap(), [""; 0]);
    lab.host.sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
    assert_eq!(bridge.obstacles().unwrap(), ["ip filter FORWARD"]);
}

#[test]
fn both_kinds_of_addresses_work_alike() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    // A router has anycast addresses too; not what is looked at here.
    lab.host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; ip addr add fd99::1/64 dev eth0 nodad; ip route add default via fd99::2");
    lab.client.sh("ip addr add fd99::2/64 dev eth0 nodad; ip route add fd42::/64 via fd99::1");
    let before = lab.host.dump();
    let bridge = lab.open("dual", &BridgeOptions::new().subnet6("fd42::/64".parse().unwrap()));
    let (web, other) = (Netns::new(), Netns::new());
    let lease = bridge.attach(web.as_fd(), &Endpoint::new().id("web").publish(8080, 80)).unwrap();
    let _other = bridge.attach(other.as_fd(), &Endpoint::new().id("other")).unwrap();
    let addresses: Vec<_> = lease.addresses().iter().map(|(address, _)| address.to_string()).collect();
    assert_eq!(addresses, ["172.17.0.2", "fd42::2"]);
    let (_web, _outside) = (web.serve(80, "web"), lab.client.serve(80, "outside"));
    let web_page = Some("web".to_owned());
    assert_eq!(web.curl("http://[fd99::2]/").as_deref(), Some("outside"));
    assert_eq!(other.curl("http://[fd42::2]/"), web_page, "container to container");
    assert_eq!(lab.client.curl("http://[fd99::1]:8080/"), web_page, "another host");
    assert_eq!(lab.host.curl("http://[fd99::1]:8080/"), web_page, "the host by its address");
    assert_eq!(web.curl("http://[fd99::1]:8080/"), web_page, "hairpin");
    assert_eq!(lab.client.curl(&format!("http://{HOST}:8080/")), web_page);
    assert!(lab.client.blocked("http://[fd42::2]/"), "not by a route to it");
    let listener = lab.host.run(|| std::net::TcpListener::bind("[::]:8081").unwrap());
    let taken = bridge.attach(Netns::new().as_fd(), &Endpoint::new().publish(8081, 80)).unwrap_err();
    assert!(matches!(taken, Error::PortAllocated { port: 8081, .. }), "{taken}");
    drop((listener, lease, _other));
    bridge.remove().unwrap();
    assert_same(&before, &lab.host.dump());
}
