//! What needs the right thread: sysctls, sockets on the host's ports, and the container's end of a veth.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;

use crate::netlink::link::{self, Link, Peer};
use crate::netlink::{NETLINK_ROUTE, Netlink, neighbour};
use crate::state::{Network, Record};
use crate::{Error, PortMapping, Protocol, Result};

/// What needs `/proc/sys`, which shows the calling thread's network namespace.
pub(super) fn host_settings(network: &Network) -> io::Result<()> {
    let link = &network.link;
    set("net/ipv4/ip_forward", "1")?;
    // Ports published on 127.0.0.1: the table's `guard` chain keeps everyone else out.
    set(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
    let ipv6 = network.subnets.iter().any(|subnet| subnet.addr().is_ipv6());
    if ipv6 {
        forward_ipv6()?;
    }
    // A kernel without IPv6 has none of these, and needs none.
    let _ = set(&format!("net/ipv6/conf/{link}/accept_ra"), "0");
    let _ = set(&format!("net/ipv6/conf/{link}/disable_ipv6"), if ipv6 { "0" } else { "1" });
    Ok(())
}

/// A tunnel's end has no addresses of its own.
pub(super) fn tunnel_settings(name: &str) -> io::Result<()> {
    match set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes only what differs, so that it works where /proc/sys is read-only and right already.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path)?.trim() == value { Ok(()) } else { std::fs::write(path, value) }
}

/// Runs in the container's network namespace; `host` is a socket of the host's.
pub(super) fn plug(
    host: &mut Netlink,
    netns: BorrowedFd<'_>,
    record: &Record,
    bridge: &Link,
    owner: &str,
    gateways: &[IpAddr],
) -> io::Result<()> {
    let mut inside = Netlink::open(NETLINK_ROUTE)?;
    let taken = inside.links()?;
    let (number, name) = (0..)
        .map(|n| (n, format!("eth{n}")))
        .find(|(_, name)| !taken.iter().any(|l| l.name == *name))
        .expect("some number is free");
    // Before the link is there, so that it never listens to a router that a neighbour plays.
    let _ = set("net/ipv6/conf/default/accept_ra", "0");
    let v4_only = record.addresses.iter().all(|a| a.addr().is_ipv4());
    let _ = set("net/ipv6/conf/default/disable_ipv6", if v4_only { "1" } else { "0" });
    let peer = Peer { name: &name, mac: record.mac, netns };
    let made = vec![
        link::create_veth(&record.veth, bridge.index, bridge.mtu, &peer),
        link::tag_port(&record.veth, owner),
    ];
    host.apply(made).map_err(|(_, e)| e)?;
    let port = host.link(&record.veth)?.ok_or(io::ErrorKind::NotFound)?.index;
    host.run(neighbour::pin_port(port, record.mac))?;
    let eth = inside.link(&name)?.ok_or(io::ErrorKind::NotFound)?.index;
    const LOOPBACK: u32 = 1;
    let mut batch = vec![link::set_up(LOOPBACK), link::set_up(eth)];
    batch.extend(record.addresses.iter().map(|address| link::add_address(eth, *address)));
    batch.extend(gateways.iter().map(|gateway| link::add_default_route(eth, *gateway, number)));
    inside.apply(batch).map_err(|(_, e)| e)
}

/// A host that forwards takes no routes from router advertisements unless told twice; those that it had it must keep.
fn forward_ipv6() -> io::Result<()> {
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    if std::fs::read_to_string(format!("/proc/sys/{ALL}"))?.trim() == "1" {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let path = entry?.path().join("accept_ra");
        // An interface may go while we look.
        if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            let _ = std::fs::write(&path, "2");
        }
    }
    set(ALL, "1")
}

/// Each port with its host port chosen and, a moment ago, free of the host's own sockets. `ipv6` looks at both kinds of addresses.
pub(super) fn choose_ports(ports: &[PortMapping], ipv6: bool) -> Result<Vec<PortMapping>> {
    // All are held at once, or two ephemeral ones could be the same.
    let mut held = Vec::new();
    let mut chosen = Vec::new();
    for port in ports {
        // A socket on `::` stands for all addresses of both kinds.
        let all: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let address = port.host_ip.unwrap_or(all);
        let bound = Held::bind(*port, SocketAddr::new(address, port.host_port))?;
        let host_port = bound.port().map_err(Error::kernel("bind"))?;
        held.push(bound);
        chosen.push(PortMapping { host_port, ..*port });
    }
    Ok(chosen)
}

/// A socket that shows that a port is free.
enum Held {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Held {
    fn bind(port: PortMapping, at: SocketAddr) -> Result<Self> {
        let bound = match port.protocol {
            Protocol::Tcp => TcpListener::bind(at).map(Self::Tcp),
            Protocol::Udp => UdpSocket::bind(at).map(Self::Udp),
        };
        bound.map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => port.taken(),
            _ => Error::Kernel { doing: format!("bind {at}"), source: e },
        })
    }

    fn port(&self) -> io::Result<u16> {
        let address = match self {
            Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        Ok(address?.port())
    }
}
