//! What networks and endpoints are in the sets.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{
    BRIDGES, EndpointRules, INTERNAL, NetworkRules, PINNED, PINS_IP4, PINS_MAC, PORTS4, PORTS4_AT, PORTS6,
    PORTS6_AT, SUBNETS4, SUBNETS6, TUNNEL_ENDS, TUNNELS, WITHIN,
};
use crate::netlink::link::octets;
use crate::netlink::nft::{Element, Set};
use crate::state::Tunnel;
use crate::{Error, PortMapping};

/// An element, and the set that it is in.
pub(super) type Entry = (&'static Set, Element);

/// A network's.
pub(super) fn network(network: &NetworkRules<'_>) -> Vec<Entry> {
    let name = ifname(network.link);
    let element = |key: Vec<u8>| Element { key, comment: network.link.to_owned(), ..Element::default() };
    let twice = element([&name[..], &name].concat());
    let mut entries: Vec<Entry> = vec![(&BRIDGES, element(name.clone())), (&WITHIN, twice)];
    if network.internal {
        entries.push((&INTERNAL, element(name)));
    }
    entries.extend(network.tunnel.map(|tunnel| (&TUNNELS, element(tunnel_key(tunnel)))));
    entries.extend(network.subnets.iter().map(|subnet| {
        let set = if subnet.addr().is_ipv4() { &SUBNETS4 } else { &SUBNETS6 };
        (set, Element { end: Some(after(*subnet)), ..element(octets(subnet.network())) })
    }));
    entries
}

/// A host that may send into a tunnel.
pub(super) fn tunnel_end(link: &str, tunnel: Tunnel, end: Ipv4Addr) -> Entry {
    let key = [tunnel_key(tunnel), end.octets().to_vec()].concat();
    (&TUNNEL_ENDS, Element { key, comment: link.to_owned(), ..Element::default() })
}

fn tunnel_key(tunnel: Tunnel) -> Vec<u8> {
    let [_, vni @ ..] = tunnel.vni.to_be_bytes();
    [padded(&tunnel.port.to_be_bytes()), padded(&vni)].concat()
}

/// An endpoint's, with the port that each stands for.
pub(super) fn endpoint(endpoint: &EndpointRules<'_>) -> Vec<(Entry, Option<PortMapping>)> {
    let ports = endpoint.ports.iter().flat_map(|port| {
        let entries = self::port(endpoint.owner, &endpoint.addresses, port);
        entries.into_iter().map(|entry| (entry, Some(*port)))
    });
    pins(endpoint).into_iter().map(|entry| (entry, None)).chain(ports).collect()
}

fn pins(endpoint: &EndpointRules<'_>) -> Vec<Entry> {
    let name = ifname(endpoint.veth);
    let element = |rest: &[u8]| Element {
        key: [&name[..], &padded(rest)].concat(),
        comment: endpoint.owner.to_owned(),
        ..Element::default()
    };
    let mut entries = vec![(&PINNED, element(&[])), (&PINS_MAC, element(&endpoint.mac))];
    let v4 = endpoint.addresses.iter().filter(|address| address.is_ipv4());
    entries.extend(v4.map(|address| (&PINS_IP4, element(&octets(*address)))));
    entries
}

/// For each address family of the endpoint that the host address allows.
fn port(owner: &str, addresses: &[IpAddr], port: &PortMapping) -> Vec<Entry> {
    let at = port.host_ip.filter(|host| !host.is_unspecified());
    let key = [
        at.map(octets).unwrap_or_default(),
        padded(&[port.protocol.number()]),
        padded(&port.host_port.to_be_bytes()),
    ]
    .concat();
    let reachable = addresses.iter().filter(|to| port.host_ip.is_none_or(|ip| ip.is_ipv4() == to.is_ipv4()));
    reachable
        .map(|to| {
            let set = match (to.is_ipv4(), at.is_some()) {
                (true, false) => &PORTS4,
                (true, true) => &PORTS4_AT,
                (false, false) => &PORTS6,
                (false, true) => &PORTS6_AT,
            };
            let data = [octets(*to), padded(&port.container_port.to_be_bytes())].concat();
            (set, Element { key: key.clone(), data, comment: owner.to_owned(), end: None })
        })
        .collect()
}

/// Protocol and port of a key of either kind of map.
pub(super) fn tail(key: &[u8]) -> &[u8] {
    &key[key.len().saturating_sub(8)..]
}

/// The parts of a concatenation fill whole registers.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// The first address after a subnet.
fn after(subnet: IpNet) -> Vec<u8> {
    match subnet {
        IpNet::V4(net) => u32::from(net.broadcast()).wrapping_add(1).to_be_bytes().to_vec(),
        IpNet::V6(net) => u128::from(net.broadcast()).wrapping_add(1).to_be_bytes().to_vec(),
    }
}

/// The kernel lists the ends of intervals as elements of their own.
pub(super) fn join_intervals(listed: Vec<(bool, Element)>) -> Vec<Element> {
    let (ends, mut starts): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(is_end, _)| *is_end);
    for (_, start) in &mut starts {
        start.end = ends.iter().map(|(_, end)| &end.key).filter(|end| **end > start.key).min().cloned();
    }
    starts.into_iter().map(|(_, element)| element).collect()
}

impl PortMapping {
    pub(crate) fn taken(&self) -> Error {
        let address = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Error::PortAllocated { address, port: self.host_port, protocol: self.protocol }
    }
}
