//! One bridge network: who reaches whom, and what is left afterwards.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use common::{CLIENT, HOST, Lab, Netns, answered, assert_same, ready};
use longshore_network::{BridgeOptions, Endpoint, Error, PortMapping, Protocol};

const TOOLS: [&str; 4] = ["ip", "nft", "curl", "busybox"];

#[test]
fn a_container_reaches_the_outside_with_the_hosts_address() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let container = Netns::new();
    let lease = bridge.attach(container.as_fd(), &Endpoint::new()).unwrap();
    assert!(lease.address().0.is_ipv4());
    let _server = lab.client.serve(80, "outside");
    assert_eq!(container.curl(&format!("http://{CLIENT}/")).as_deref(), Some("outside"));
    let _udp = lab.client.udp_server(53, "from");
    answered(&container.udp_socket("0.0.0.0:0"), &format!("{CLIENT}:53"), &format!("from {HOST}:"));
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let (web, other) = (Netns::new(), Netns::new());
    let lease = bridge.attach(web.as_fd(), &Endpoint::new().id("web").publish(8080, 80)).unwrap();
    let _other = bridge.attach(other.as_fd(), &Endpoint::new().id("other")).unwrap();
    let _server = web.serve(80, "hello");
    let (address, gateway) = (lease.address().0, lease.gateway().unwrap());
    let hello = Some("hello".to_owned());
    assert_eq!(lab.client.curl(&format!("http://{HOST}:8080/")), hello, "another host");
    assert_eq!(lab.host.curl(&format!("http://{HOST}:8080/")), hello, "the host by its address");
    assert_eq!(lab.host.curl("http://127.0.0.1:8080/"), hello, "the host by loopback");
    assert_eq!(lab.host.curl(&format!("http://{gateway}:8080/")), hello, "the host by the gateway");
    assert_eq!(lab.host.curl(&format!("http://{address}/")), hello, "the host to the container");
    assert_eq!(other.curl(&format!("http://{address}/")), hello, "container to container");
    assert_eq!(other.curl(&format!("http://{HOST}:8080/")), hello, "container to the host's port");
    assert_eq!(web.curl(&format!("http://{HOST}:8080/")), hello, "hairpin");
    assert_eq!(web.curl(&format!("http://{gateway}:8080/")), hello, "hairpin by the gateway");
    lease.detach().unwrap();
    assert!(lab.client.blocked(&format!("http://{HOST}:8080/")));
    assert!(lab.host.blocked("http://127.0.0.1:8080/"));
}

#[test]
fn who_gets_an_address_gets_none_of_its_former_owners_packets() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let (first, second) = (Netns::new(), Netns::new());
    let outside = lab.client.udp_socket(&format!("{CLIENT}:53"));
    let lease = bridge.attach(first.as_fd(), &Endpoint::new()).unwrap();
    let address = lease.address().0;
    let mut buffer = [0; 16];

    let inside = first.udp_socket("0.0.0.0:4000");
    for socket in [&inside, &outside] {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    }
    inside.send_to(b"question", format!("{CLIENT}:53")).unwrap();
    let (_, host) = outside.recv_from(&mut buffer).unwrap();
    outside.send_to(b"answer", host).unwrap();
    assert_eq!(inside.recv(&mut buffer).unwrap(), b"answer".len());
    lease.detach().unwrap();

    let _lease = bridge.attach(second.as_fd(), &Endpoint::new().address(address)).unwrap();
    let inside = second.udp_socket("0.0.0.0:4000");
    outside.send_to(b"a late answer", host).unwrap();
    assert!(inside.recv(&mut buffer).is_err(), "it was another's");
}

#[test]
fn udp_ports_and_single_addresses_publish_too() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let container = Netns::new();
    let endpoint = Endpoint::new()
        .port(PortMapping::new(5353, 53, Protocol::Udp))
        .port(PortMapping::new(81, 80, Protocol::Tcp).on(Ipv4Addr::LOCALHOST));
    let _lease = bridge.attach(container.as_fd(), &endpoint).unwrap();
    let _udp = container.udp_server(53, "dns");
    let _web = container.serve(80, "local");
    answered(&lab.client.udp_socket("0.0.0.0:0"), &format!("{HOST}:5353"), "dns");
    answered(&lab.host.udp_socket("0.0.0.0:0"), "127.0.0.1:5353", "dns");
    assert_eq!(lab.host.curl("http://127.0.0.1:81/").as_deref(), Some("local"));
    assert!(lab.client.blocked(&format!("http://{HOST}:81/")));
    lab.client
        .sh(&format!("ip route add 127.0.0.1 via {HOST} table 7; ip rule add to 127.0.0.1 table 7 pref 0"));
}

#[test]
fn a_port_is_had_once() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let (a, b) = (Netns::new(), Netns::new());
    let first = bridge.attach(a.as_fd(), &Endpoint::new().id("a").publish(8080, 80).publish(0, 81)).unwrap();
    let before = lab.host.dump();
    let taken = |endpoint: Endpoint| {
        let error = bridge.attach(b.as_fd(), &endpoint).unwrap_err();
        assert!(matches!(error, Error::PortAllocated { port: 8080, .. }), "{error}");
        assert!(
            error.is_retryable() && error.to_string().ends_with(":8080 failed: port is already allocated")
        );
        assert_same(&before, &lab.host.dump());
    };
    taken(Endpoint::new().id("b").publish(8080, 80));
    taken(Endpoint::new().id("b").port(PortMapping::new(8080, 80, Protocol::Tcp).on(Ipv4Addr::LOCALHOST)));
    assert_ne!(first.ports()[1].host_port, 0);
    first.detach().unwrap();
    let on_one = PortMapping::new(8080, 80, Protocol::Tcp).on(HOST.parse::<IpAddr>().unwrap());
    let held = bridge.attach(a.as_fd(), &Endpoint::new().id("a").port(on_one)).unwrap();
    assert!(bridge.attach(b.as_fd(), &Endpoint::new().publish(8080, 80)).is_err());
    drop(held);
    // A socket of the host has it.
    let _listener = lab.host.run(|| std::net::TcpListener::bind("127.0.0.1:8080").unwrap());
    assert!(matches!(
        bridge.attach(b.as_fd(), &Endpoint::new().publish(8080, 80)),
        Err(Error::PortAllocated { port: 8080, .. })
    ));
}

#[test]
fn nothing_is_left() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let before = lab.host.dump();
    let bridge = lab.bridge();
    let second = lab.open("second", &BridgeOptions::default());
    let containers = [Netns::new(), Netns::new()];
    let kept = bridge.attach(containers[0].as_fd(), &Endpoint::new().publish(8080, 80)).unwrap().keep();
    let lease = bridge.attach(containers[1].as_fd(), &Endpoint::new().publish(8081, 80)).unwrap();
    assert!(matches!(bridge.clone().remove(), Err(Error::NetworkInUse { endpoints: 2, .. })));
    drop(lease);
    bridge.detach(&kept).unwrap();
    bridge.detach(&kept).unwrap();
    assert!(!containers[0].sh("ip link").contains("eth0"));
    bridge.remove().unwrap();
    assert!(lab.host.sh("nft list table inet longshore").contains(second.link()));
    second.remove().unwrap();
    assert_same(&before, &lab.host.dump());
    assert_eq!(std::fs::read_dir(lab.state.path()).unwrap().count(), 1, "only the lock");
}

/// What an endpoint leaves to the kernel, when its network namespace has died before it is detached, is in nobody's way.
#[test]
fn an_endpoint_comes_again_while_its_last_network_namespace_dies() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.open("named", &BridgeOptions::new().subnet("10.9.8.0/24".parse().unwrap()));
    let address: IpAddr = "10.9.8.7".parse().unwrap();
    let attach = |id: &str, container: &Netns| {
        bridge.attach(container.as_fd(), &Endpoint::new().id(id).address(address)).unwrap().keep();
    };
    for round in 0..20 {
        // The address is another endpoint's every other time.
        let id = ["again", "other"][round / 2 % 2];
        let container = Netns::new();
        attach(id, &container);
        // While the kernel ends these, the container's has to wait.
        drop((0..10).map(|_| Netns::new()).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(2));
        drop(container);
        bridge.detach(id).unwrap();
        assert_eq!(bridge.endpoints().unwrap(), [""; 0]);
    }
    let last = Netns::new();
    attach("last", &last);
    let server = last.serve(80, "here");
    assert_eq!(lab.host.curl(&format!("http://{address}/")).as_deref(), Some("here"));
    drop((server, last));
    bridge.detach("last").unwrap();
    assert_eq!(bridge.repair(&[]).unwrap(), Default::default());
    common::wait_for("the last link's end", || {
        lab.host.sh("ip -o link show type veth | grep -c master || true") == "0\n"
    });
    bridge.remove().unwrap();
}

#[test]
fn rules_that_are_right_are_left_alone_and_others_replaced() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let _bridge = lab.bridge();
    // Handles tell a rule from one that took its place.
    let rules =
        |options: &str| lab.host.sh(&format!("nft {options} list ruleset | grep -v handle.1.*element"));
    let (before, text) = (rules("-a"), rules(""));
    lab.bridge();
    assert_same(&before, &rules("-a"));
    for harm in [
        "nft flush chain inet longshore guard",
        "nft insert rule inet longshore forward accept",
        "nft add rule bridge longshore pin drop",
        "h=$(nft -a list chain inet longshore forward | grep -o 'handle [0-9]*$' | tail -1); nft delete rule inet longshore forward $h",
        "h=$(nft -a list chain inet longshore forward | grep -o 'handle [0-9]*$' | tail -1); \
         nft replace rule inet longshore forward $h accept",
        "nft delete table bridge longshore",
    ] {
        lab.host.sh(harm);
        assert_ne!(rules(""), text, "{harm}");
        lab.bridge();
        assert_same(&text, &rules(""));
    }
}

#[test]
fn repair_removes_what_died_and_mends_what_was_flushed() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let empty = lab.host.dump();
    let (live, dead) = (Netns::new(), Netns::new());
    bridge.attach(live.as_fd(), &Endpoint::new().id("live").publish(8080, 80)).unwrap().keep();
    bridge.attach(dead.as_fd(), &Endpoint::new().id("dead").publish(8081, 80)).unwrap().keep();
    drop(dead);
    let _server = live.serve(80, "alive");
    assert_eq!(bridge.repair(&["live", "dead"]).unwrap(), Default::default());
    lab.host.sh("nft flush ruleset");
    assert!(lab.client.blocked(&format!("http://{HOST}:8080/")));
    let repaired = bridge.repair(&["live"]).unwrap();
    assert_eq!((repaired.removed, repaired.restored), (vec!["dead".into()], vec!["live".into()]));
    assert_eq!(lab.client.curl(&format!("http://{HOST}:8080/")).as_deref(), Some("alive"));
    // Without the state, the kernel alone says what there is.
    std::fs::remove_dir_all(lab.state.path().join("bridge")).unwrap();
    let bridge = lab.open("bridge", &BridgeOptions::default());
    assert_eq!(bridge.repair(&[]).unwrap().removed, ["live"]);
    assert_same(&empty, &lab.host.dump());
}

#[test]
fn what_is_released_reaches_nobody_and_goes_with_its_network_namespace() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let empty = lab.host.dump();
    let container = Netns::new();
    let lease = bridge.attach(container.as_fd(), &Endpoint::new().id("web").publish(8080, 80)).unwrap();
    let address = lease.address().0;
    let at = format!("http://{}:7000/", bridge.gateway().unwrap());
    let _server = lab.host.serve(7000, "host");
    assert_eq!(container.curl(&at).as_deref(), Some("host"));
    bridge.release(&lease.keep()).unwrap();
    bridge.release("web").unwrap();
    assert!(container.blocked(&at), "somebody who lives on in it has no network");
    assert!(container.sh("ip -br link show eth0").contains("DOWN"));
    assert_eq!(bridge.endpoints().unwrap(), [""; 0]);
    // Its name, address and ports are free at once.
    let other = Netns::new();
    let wanted = Endpoint::new().id("other").address(address).publish(8080, 80);
    let other_lease = bridge.attach(other.as_fd(), &wanted).unwrap();
    assert_eq!(other.curl(&at).as_deref(), Some("host"));
    let again = bridge.attach(container.as_fd(), &Endpoint::new().id("web")).unwrap();
    assert_eq!(container.curl(&at).as_deref(), Some("host"));
    bridge.release(&again.keep()).unwrap();
    assert_eq!(bridge.repair(&["other"]).unwrap(), Default::default(), "nothing is left to mend");
    bridge.release(&other_lease.keep()).unwrap();
    drop((container, other));
    common::wait_for("the links to go", || !lab.host.sh("ip -br link").contains("lv"));
    assert_same(&empty, &lab.host.dump());
}

#[test]
fn who_came_again_keeps_its_link_when_another_gets_its_former_address() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let bridge = lab.bridge();
    let (web, other) = (Netns::new(), Netns::new());
    let first = bridge.attach(web.as_fd(), &Endpoint::new().id("web")).unwrap();
    let former = first.address().0;
    bridge.release(&first.keep()).unwrap();
    let again = bridge.attach(web.as_fd(), &Endpoint::new().id("web")).unwrap();
    assert_ne!(again.address().0, former);
    let taken = bridge.attach(other.as_fd(), &Endpoint::new().id("other").address(former)).unwrap();
    assert_eq!(taken.address().0, former);
    let _server = lab.host.serve(7000, "host");
    let at = format!("http://{}:7000/", bridge.gateway().unwrap());
    for netns in [&web, &other] {
        assert_eq!(netns.curl(&at).as_deref(), Some("host"));
    }
}

#[test]
fn a_network_has_its_gateway_range_and_reserved_addresses() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let subnet: ipnet::Ipv4Net = "10.77.0.0/16".parse().unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let options = BridgeOptions::new()
        .subnet(subnet)
        .gateway(address("10.77.9.9"))
        .range("10.77.5.7/29".parse::<ipnet::Ipv4Net>().unwrap())
        .reserve("router", address("10.77.5.1"))
        .reserve("printer", address("10.77.0.1"))
        .label("a", "b");
    let bridge = lab.open("plan", &options);
    assert_eq!(bridge.gateway(), Some(address("10.77.9.9")));
    assert_eq!(bridge.ranges(), ["10.77.5.0/29".parse().unwrap()]);
    assert_eq!(bridge.labels().get("a").map(String::as_str), Some("b"));
    assert!(bridge.created().elapsed().unwrap() < Duration::from_secs(600));
    let namespaces: Vec<Netns> = (0..7).map(|_| Netns::new()).collect();
    let mut leases = Vec::new();
    // .1 is the router's; the first and the last of the range are left out.
    for (netns, wanted) in
        namespaces.iter().zip(["10.77.5.2", "10.77.5.3", "10.77.5.4", "10.77.5.5", "10.77.5.6"])
    {
        let lease = bridge.attach(netns.as_fd(), &Endpoint::new()).unwrap();
        assert_eq!(lease.address(), (address(wanted), 16));
        leases.push(lease);
    }
    let full = bridge.attach(namespaces[5].as_fd(), &Endpoint::new()).unwrap_err();
    assert!(
        matches!(&full, Error::PoolExhausted { subnet } if subnet.to_string() == "10.77.5.0/29"),
        "{full:?}"
    );
    for taken in ["10.77.5.1", "10.77.0.1", "10.77.9.9"] {
        let refused =
            bridge.attach(namespaces[5].as_fd(), &Endpoint::new().address(address(taken))).unwrap_err();
        assert!(matches!(refused, Error::AddressInUse { .. }), "{taken}: {refused:?}");
    }
    // Others of the subnet may be asked for.
    let own = bridge.attach(namespaces[5].as_fd(), &Endpoint::new().address(address("10.77.200.1"))).unwrap();
    assert_eq!(own.gateway(), Some(address("10.77.9.9")));
    let _server = lab.client.serve(80, "outside");
    assert_eq!(namespaces[5].curl(&format!("http://{CLIENT}/")).as_deref(), Some("outside"));
    // All of it is kept.
    let again = lab.open("plan", &BridgeOptions::new());
    assert_eq!((again.gateways(), again.reserved().len()), (vec![address("10.77.9.9")], 2));

    // A range of one.
    let one = BridgeOptions::new().subnet("10.78.0.0/24".parse().unwrap());
    let one = lab.open("one", &one.range("10.78.0.5/32".parse::<ipnet::Ipv4Net>().unwrap()));
    let lease = one.attach(namespaces[6].as_fd(), &Endpoint::new()).unwrap();
    assert_eq!(lease.address().0, address("10.78.0.5"));
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let state = tempfile::tempdir().unwrap();
    let base = || BridgeOptions::new().subnet("10.77.0.0/16".parse().unwrap());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let net = |text: &str| text.parse::<ipnet::Ipv4Net>().unwrap();
    for (options, words) in [
        (base().gateway(ip("10.78.0.1")), "10.78.0.1 is in none of its subnets"),
        (base().gateway(ip("10.77.0.1")).gateway(ip("10.77.0.2")), "more than one gateway in 10.77.0.0/16"),
        (base().gateway(ip("10.77.0.0")), "10.77.0.0 is not usable"),
        (base().range(net("10.78.0.0/24")), "10.78.0.0/24 is in none of its subnets"),
        (base().range(net("10.77.0.0/24")).range(net("10.77.1.0/24")), "more than one range in 10.77.0.0/16"),
        (base().reserve("a", ip("10.78.0.1")), "10.78.0.1 is in none of its subnets"),
        (BridgeOptions::new().gateway(ip("10.77.0.1")), "10.77.0.1 is in none of its subnets"),
        (BridgeOptions::new().subnet(net("255.255.255.255/32")), "255.255.255.255/32 is one address"),
        (BridgeOptions::new().subnet6("fd00::1/128".parse().unwrap()), "fd00::1/128 is one address"),
        // There is a route to a part of it already, which only the kernel tells.
        (BridgeOptions::new().subnet(net("0.0.0.0/0")), "overlaps with the route to"),
    ] {
        let said = lab.host.run(|| longshore_network::Bridge::open(state.path(), "n", &options)).unwrap_err();
        assert!(said.to_string().contains(words), "{said}");
        assert_eq!(longshore_network::Bridge::list(state.path()).unwrap(), [""; 0], "{words}");
    }
}
