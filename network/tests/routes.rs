//! What comes later: routes of the host, other handles' removals, deaths that nobody told of.

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::{CLIENT, HOST, Lab, Netns, assert_same, ready, wait_for};
use longshore_network::{Bridge, BridgeOptions, Endpoint, Error};

const TOOLS: [&str; 4] = ["ip", "nft", "curl", "busybox"];

#[test]
fn a_route_that_comes_later_stops_nothing_that_stands() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let before = lab.host.dump();
    let bridge = lab.bridge();
    assert_eq!(bridge.subnets()[0].to_string(), "172.17.0.0/16");
    let web = Netns::new();
    let endpoint = Endpoint::new().id("web").publish(8080, 80);
    bridge.attach(web.as_fd(), &endpoint).unwrap().keep();
    let routes = ["0.0.0.0/1", "128.0.0.0/1", "172.16.0.0/12"];
    let route = |action: &str| {
        for to in routes {
            lab.host.sh(&format!("ip route {action} {to} via {CLIENT}"));
        }
    };
    route("add");
    let (again, other) = (lab.bridge(), Netns::new());
    let lease = again.attach(other.as_fd(), &Endpoint::new().id("other")).unwrap();
    assert_eq!(lease.address().0.to_string(), "172.17.0.3");
    let _server = web.serve(80, "web");
    assert_eq!(lab.client.curl(&format!("http://{HOST}:8080/")).as_deref(), Some("web"));
    lease.detach().unwrap();
    let found = lab.host.run(|| Bridge::find(lab.state.path(), "bridge")).unwrap();
    assert_eq!(found.repair(&["web"]).unwrap(), Default::default());
    // A new network keeps clear of the one route that leads somewhere in particular.
    let second = lab.open("second", &BridgeOptions::new());
    assert_eq!(second.subnets()[0].to_string(), "192.168.0.0/20");
    second.remove().unwrap();
    found.detach("web").unwrap();
    found.remove().unwrap();
    route("del");
    assert_same(&before, &lab.host.dump());
}

#[test]
fn what_cannot_be_opened_can_be_taken_down() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let before = lab.host.dump();
    let fixed = lab.open("fixed", &BridgeOptions::new().subnet("10.42.0.0/24".parse().unwrap()));
    let container = Netns::new();
    fixed.attach(container.as_fd(), &Endpoint::new().id("c")).unwrap().keep();
    // As after a reboot: the bridge is not there, and its subnet is another's.
    lab.host.sh(&format!(
        "ip link del {}; nft flush ruleset; ip route add 10.42.0.0/16 via {CLIENT}",
        fixed.link()
    ));
    let in_use = |error: Error| assert!(matches!(error, Error::SubnetInUse { .. }), "{error}");
    in_use(lab.host.run(|| Bridge::find(lab.state.path(), "fixed")).unwrap_err());
    in_use(fixed.attach(Netns::new().as_fd(), &Endpoint::new()).unwrap_err());
    in_use(fixed.repair(&[]).unwrap_err());
    let as_is = lab.host.run(|| Bridge::as_is(lab.state.path(), "fixed")).unwrap();
    assert_eq!(as_is.endpoints().unwrap(), ["c"]);
    as_is.detach("c").unwrap();
    as_is.remove().unwrap();
    assert!(lab.host.run(|| Bridge::as_is(lab.state.path(), "fixed")).unwrap_err().is_not_found());
    // Handles that outlive their network are of no harm.
    fixed.detach("c").unwrap();
    assert!(fixed.attach(container.as_fd(), &Endpoint::new()).unwrap_err().is_not_found());
    assert!(fixed.repair(&[]).unwrap_err().is_not_found());
    fixed.remove().unwrap();
    lab.host.sh(&format!("ip route del 10.42.0.0/16 via {CLIENT}; nft delete table inet longshore || true"));
    assert_same(&before, &lab.host.dump());
}

#[test]
fn an_endpoint_that_died_undetached_does_not_keep_its_network() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let before = lab.host.dump();
    let bridge = lab.bridge();
    let (container, live) = (Netns::new(), Netns::new());
    bridge.attach(container.as_fd(), &Endpoint::new().id("dead").publish(8080, 80)).unwrap().keep();
    let lease = bridge.attach(live.as_fd(), &Endpoint::new().id("live")).unwrap();
    drop(container);
    // The kernel takes its time to end a network namespace.
    wait_for("the veth's end", || lab.host.sh("ip -o link show type veth | grep -c master || true") == "1\n");
    assert!(matches!(bridge.clone().remove(), Err(Error::NetworkInUse { endpoints: 1, .. })));
    assert_eq!(bridge.endpoints().unwrap(), ["live"]);
    lease.detach().unwrap();
    bridge.remove().unwrap();
    assert_same(&before, &lab.host.dump());
}

#[test]
fn finding_what_is_being_removed_does_not_make_it_again() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let secret = lab.open("secret", &BridgeOptions::new().internal(true));
    // In the middle of a removal: the lock is held, the network still there.
    let lock = std::fs::File::open(lab.state.path().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let find = |open: fn(&std::path::Path) -> longshore_network::Result<Bridge>| {
            let lab = &lab;
            scope.spawn(move || lab.host.run(|| open(lab.state.path())))
        };
        let threads = [find(|s| Bridge::find(s, "secret")), find(|s| Bridge::as_is(s, "secret"))];
        std::thread::sleep(Duration::from_millis(300));
        lab.host.sh(&format!("ip link del {}", secret.link()));
        std::fs::remove_dir_all(lab.state.path().join("secret")).unwrap();
        drop(lock);
        for thread in threads {
            assert!(thread.join().unwrap().unwrap_err().is_not_found());
        }
    });
    assert!(Bridge::list(lab.state.path()).unwrap().is_empty());
    assert!(!lab.host.sh("ip link").contains(secret.link()));
}

#[test]
fn a_state_directory_may_have_any_name() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    // The alias of the link is cut after 255 bytes: in the middle of a character for one of these.
    for padding in ["a", "aa"] {
        let state = lab.state.path().join(padding).join("ä".repeat(120)).join("ö".repeat(100));
        let bridge = lab.host.run(|| Bridge::open(&state, "bridge", &BridgeOptions::new())).unwrap();
        let alias = lab.host.sh(&format!("ip link show {} | sed -n 's/^ *alias //p'", bridge.link()));
        assert!(alias.starts_with("longshore bridge /") && alias.trim_end().len() >= 253, "{alias}");
        bridge.remove().unwrap();
    }
}
