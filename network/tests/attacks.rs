//! What others must not be able to do: classes of attack that container networks have suffered from, each carried out.

mod common;

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use common::{CLIENT, HOST, Lab, Netns, answered, ask, ready};
use longshore_network::{Bridge, BridgeOptions, Endpoint, Lease, PortMapping, Protocol};

const TOOLS: [&str; 5] = ["ip", "nft", "curl", "busybox", "python3"];

struct Scene {
    lab: Lab,
    bridge: Bridge,
    web: Netns,
    lease: Lease,
}

/// A container whose port 80 is published as 8080, and whose port 81 is not.
fn scene() -> Option<Scene> {
    if !ready(&TOOLS) {
        return None;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let web = Netns::new();
    let lease = bridge.attach(web.as_fd(), &Endpoint::new().id("web").publish(8080, 80)).expect("attach");
    Some(Scene { lab, bridge, web, lease })
}

/// The neighbour that routes into the container's subnet through the host.
#[test]
fn unpublished_ports_cannot_be_routed_to() {
    let Some(s) = scene() else { return };
    let (_open, _closed) = (s.web.serve(80, "open"), s.web.serve(81, "closed"));
    let address = s.lease.address().0;
    s.lab.client.sh(&format!("ip route add 172.16.0.0/12 via {HOST}"));
    let attack = |what: &str| {
        assert!(s.lab.client.blocked(&format!("http://{address}:81/")), "{what}");
        assert!(s.lab.client.blocked(&format!("http://{address}:80/")), "{what}");
        assert!(s.lab.client.curl(&format!("http://{HOST}:8080/")).is_some(), "{what}");
    };
    attack("as opened");
    s.lab.host.sh("nft flush ruleset");
    s.bridge.repair(&["web"]).unwrap();
    attack("after a flush and a repair");
}

/// `route_localnet` opens 127.0.0.0/8 to the link unless something guards it.
#[test]
fn the_hosts_loopback_stays_its_own() {
    let Some(s) = scene() else { return };
    let local = PortMapping::new(82, 80, Protocol::Tcp).on(Ipv4Addr::LOCALHOST);
    let other = Netns::new();
    let _lease = s.bridge.attach(other.as_fd(), &Endpoint::new().port(local)).unwrap();
    let _servers = (other.serve(80, "local"), s.lab.host.serve(9000, "host"));
    assert!(s.lab.host.curl("http://127.0.0.1:82/").is_some());
    let gateway = s.lease.gateway().unwrap().to_string();
    for (who, via) in [(&s.lab.client, HOST), (&s.web, gateway.as_str())] {
        // Packets for 127.0.0.0/8 that really leave.
        who.sh(&format!(
            "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
             ip route add 127.0.0.0/8 via {via}"
        ));
        for port in [82, 8080, 9000] {
            assert!(who.blocked(&format!("http://127.0.0.1:{port}/")), "port {port}");
        }
    }
}

const GRATUITOUS_ARP: &str = "
import socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0))
me = s.getsockname()[4]; ip = socket.inet_aton(sys.argv[1])
for op in (1, 2):
    s.send(b'\\xff'*6 + me + b'\\x08\\x06' + struct.pack('!HHBBH', 1, 0x800, 6, 4, op) + me + ip + b'\\xff'*6 + ip)
";

/// A container that claims its neighbour's address.
#[test]
fn a_neighbours_address_cannot_be_taken() {
    let Some(s) = scene() else { return };
    let thief = Netns::new();
    let _lease = s.bridge.attach(thief.as_fd(), &Endpoint::new().id("thief")).unwrap();
    let _server = s.web.serve(80, "web");
    let victim = s.lease.address().0.to_string();
    assert!(s.lab.host.curl(&format!("http://{victim}/")).is_some());
    thief.run(|| {
        let python = std::process::Command::new("python3").args(["-c", GRATUITOUS_ARP, &victim]).status();
        assert!(python.unwrap().success());
    });
    let neighbour = s.lab.host.sh(&format!("ip neigh show {victim}"));
    assert!(neighbour.contains(&s.lease.mac()), "{neighbour}");
    // Nor with the address on its own link, nor with another MAC.
    thief.sh(&format!("ip addr add {victim}/32 dev eth0"));
    let _outside = s.lab.client.udp_server(7, "seen");
    assert_eq!(ask(&thief.udp_socket(&format!("{victim}:0")), &format!("{CLIENT}:7")), None);
    answered(&thief.udp_socket("0.0.0.0:0"), &format!("{CLIENT}:7"), "");
    thief.sh("ip link set eth0 address 02:42:00:00:00:99");
    assert_eq!(ask(&thief.udp_socket("0.0.0.0:0"), &format!("{CLIENT}:7")), None);
}

const ROUTER_ADVERTISEMENT: &str = "
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0), ('ff02::1', 0, 0, socket.if_nametoindex('eth0')))
";

/// A container that plays router.
#[test]
fn nobody_takes_a_route_from_a_container() {
    let Some(s) = scene() else { return };
    let rogue = Netns::new();
    let _lease = s.bridge.attach(rogue.as_fd(), &Endpoint::new()).unwrap();
    rogue.sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
    common::wait_for("a link-local address", || {
        let text = rogue.sh("ip -6 addr show dev eth0");
        text.contains("fe80") && !text.contains("tentative")
    });
    rogue.run(|| {
        let python = std::process::Command::new("python3").args(["-c", ROUTER_ADVERTISEMENT]).status();
        assert!(python.unwrap().success());
    });
    for who in [&s.web, &s.lab.host] {
        let routes = who.sh("ip -6 route");
        assert!(!routes.contains("proto ra"), "{routes}");
    }
}

/// A client that goes on sending to a container that was replaced.
#[test]
fn datagrams_follow_the_port_to_its_new_owner() {
    let Some(s) = scene() else { return };
    let (old, new) = (Netns::new(), Netns::new());
    let endpoint = || Endpoint::new().port(PortMapping::new(5300, 53, Protocol::Udp));
    let socket = s.lab.client.udp_socket("0.0.0.0:0");
    let to = format!("{HOST}:5300");
    // Before anyone has the port: an entry of the table that says so must not stay.
    assert_eq!(ask(&socket, &to), None);
    let lease = s.bridge.attach(old.as_fd(), &endpoint()).unwrap();
    let _old = old.udp_server(53, "old");
    answered(&socket, &to, "old");
    lease.detach().unwrap();
    let _lease = s.bridge.attach(new.as_fd(), &endpoint()).unwrap();
    let _new = new.udp_server(53, "new");
    answered(&socket, &to, "new");
}

/// Rules of others before and after ours neither lose their effect nor take ours away.
#[test]
fn the_order_of_tables_does_not_matter() {
    let Some(s) = scene() else { return };
    let _server = s.web.serve(80, "web");
    let published = format!("http://{HOST}:8080/");
    s.lab.host.sh(
        "nft 'add table ip other; add chain ip other pre { type nat hook prerouting priority -90; }; \
         add rule ip other pre tcp dport 8080 redirect to :1; \
         add chain ip other onward { type filter hook forward priority 10; }'",
    );
    assert!(s.lab.client.curl(&published).is_some(), "a catch-all after ours");
    let before = s.lab.host.sh("nft list table ip other");
    s.bridge.repair(&["web"]).unwrap();
    assert_eq!(s.lab.host.sh("nft list table ip other"), before, "the rules of others are theirs");
    s.lab
        .host
        .sh(&format!("nft add rule ip other onward ip daddr {} tcp dport 80 drop", s.lease.address().0));
    assert!(s.lab.client.blocked(&published), "a firewall's drop holds");
}

#[test]
fn networks_are_apart_but_for_published_ports() {
    let Some(s) = scene() else { return };
    let (second, internal) = (
        s.lab.open("second", &BridgeOptions::default()),
        s.lab.open("internal", &BridgeOptions::new().internal(true)),
    );
    let (far, hidden, hidden_too) = (Netns::new(), Netns::new(), Netns::new());
    let far_lease = second.attach(far.as_fd(), &Endpoint::new().publish(8082, 80)).unwrap();
    let hidden_lease = internal.attach(hidden.as_fd(), &Endpoint::new().id("hidden")).unwrap();
    let _leases = internal.attach(hidden_too.as_fd(), &Endpoint::new()).unwrap();
    assert!(internal.attach(Netns::new().as_fd(), &Endpoint::new().publish(1, 1)).is_err());
    let _servers = (
        s.web.serve(80, "web"),
        far.serve(80, "far"),
        hidden.serve(80, "hidden"),
        s.lab.client.serve(80, "x"),
    );
    let url = |lease: &Lease| format!("http://{}/", lease.address().0);
    // Even with routes of its own, as a privileged container may make them.
    hidden.sh(&format!("ip route add default via {}", internal.subnets()[0].hosts().next().unwrap()));
    assert!(s.web.blocked(&url(&far_lease)), "another network");
    assert!(s.web.blocked(&url(&hidden_lease)), "into an internal one");
    for target in [url(&s.lease), format!("http://{CLIENT}/"), format!("http://{HOST}:8082/")] {
        assert!(hidden.blocked(&target), "out of an internal one to {target}");
    }
    assert_eq!(s.web.curl(&format!("http://{HOST}:8082/")).as_deref(), Some("far"));
    assert_eq!(hidden_too.curl(&url(&hidden_lease)).as_deref(), Some("hidden"));
    assert_eq!(hidden_lease.gateway(), None);
}
