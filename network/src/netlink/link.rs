//! Links, addresses and routes (`linux/rtnetlink.h`, `linux/if_link.h`).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::Netlink;
use super::message::{Attrs, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFF_UP: u32 = 1;
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const BRPORT_MODE: u16 = 4;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_F_NODAD: u8 = 2;
const TABLE_MAIN: u8 = 254;

/// A link of the socket's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    pub(crate) master: Option<u32>,
    pub(crate) up: bool,
    /// The kernel's number here of its peer's network namespace, if that is another.
    pub(crate) peer_netns: Option<i32>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `None` is the default route.
    pub(crate) destination: Option<IpNet>,
    pub(crate) device: Option<u32>,
}

pub(super) fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

impl Netlink {
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        match self.get(Message::new(RTM_GETLINK, 0, &ifinfo(0, 0)).str(IFLA_IFNAME, name)) {
            Ok(payload) => Ok(parse_link(&payload)),
            Err(e) if super::message::errno(&e) == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the network namespace at the other end has ended: nobody is in it nor can enter it, and its links are about to vanish.
    pub(crate) fn peer_is_dead(&mut self, link: &Link) -> io::Result<bool> {
        const LOOPBACK: u32 = 1;
        const NOT_ASSIGNED: i32 = -1;
        let Some(number) = link.peer_netns else { return Ok(false) };
        if number == NOT_ASSIGNED {
            return Ok(true);
        }
        let there = Message::new(RTM_GETLINK, 0, &ifinfo(LOOPBACK, 0));
        match self.get(there.u32(IFLA_TARGET_NETNSID, number.cast_unsigned())) {
            Ok(_) => Ok(false),
            Err(e) => match super::message::errno(&e) {
                // The number stands for it until its end, but nobody gets hold of it any more.
                Some(e) if e == rustix::io::Errno::INVAL.raw_os_error() => Ok(true),
                _ => Err(e),
            },
        }
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump(&Message::new(RTM_GETLINK, 0, &ifinfo(0, 0)), parse_link)
    }

    /// The routes of the main table, both families.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut header = [0; 12];
            header[0] = family;
            routes.extend(self.dump(&Message::new(RTM_GETROUTE, 0, &header), parse_route)?);
        }
        Ok(routes)
    }
}

pub(crate) fn parse_link(payload: &[u8]) -> Option<Link> {
    let attributes = Attrs::after(payload, 16);
    Some(Link {
        index: u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?),
        name: attributes.str(IFLA_IFNAME)?.to_owned(),
        alias: attributes.str(IFLA_IFALIAS).unwrap_or_default().to_owned(),
        kind: attributes.nest(IFLA_LINKINFO).str(INFO_KIND).unwrap_or_default().to_owned(),
        mtu: attributes.u32(IFLA_MTU).unwrap_or_default(),
        master: attributes.u32(IFLA_MASTER),
        up: u32::from_ne_bytes(*payload.get(8..)?.first_chunk()?) & IFF_UP != 0,
        peer_netns: attributes.u32(IFLA_LINK_NETNSID).map(u32::cast_signed),
    })
}

pub(crate) fn parse_route(payload: &[u8]) -> Option<Route> {
    let [_, prefix, _, _, table, ..] = *payload else { return None };
    let attributes = Attrs::after(payload, 12);
    if attributes.u32(15).unwrap_or(u32::from(table)) != u32::from(TABLE_MAIN) {
        return None;
    }
    let destination = match attributes.get(1) {
        None if prefix == 0 => None,
        None => return None,
        Some(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
            Some(IpNet::new(address, prefix).ok()?)
        }
    };
    Some(Route { destination, device: attributes.u32(4) })
}

/// A bridge, down. Its own address keeps it from taking that of whatever port has the lowest.
pub(crate) fn create_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0))
        .str(IFLA_IFNAME, name)
        .bytes(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |m| m.str(INFO_KIND, "bridge"))
}

/// A pair of veths: `name` here on the bridge `master` and up, `peer` in the other network namespace.
pub(crate) fn create_veth(name: &str, master: u32, mtu: u32, peer: &Peer<'_>) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, IFF_UP))
        .str(IFLA_IFNAME, name)
        .u32(IFLA_MTU, mtu)
        .u32(IFLA_MASTER, master)
        .nest(IFLA_LINKINFO, |m| {
            m.str(INFO_KIND, "veth").nest(INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(0, 0))
                        .str(IFLA_IFNAME, peer.name)
                        .bytes(IFLA_ADDRESS, &peer.mac)
                        .u32(IFLA_MTU, mtu)
                        .u32(IFLA_NET_NS_FD, peer.netns.as_raw_fd() as u32)
                })
            })
        })
}

/// The container's end of a veth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) netns: BorrowedFd<'a>,
}

/// Names the owner of a bridge port, keeps it without an address of its own while it has no carrier yet, and lets frames go back out where they came in: with `br_netfilter`, a container that uses its
/// own published port is bridged, not routed.
pub(crate) fn tag_port(name: &str, alias: &str) -> Message {
    const INET6_ADDR_GEN_MODE: u16 = 8;
    const NONE: u8 = 1;
    Message::new(RTM_NEWLINK, 0, &ifinfo(0, 0))
        .str(IFLA_IFNAME, name)
        .str(IFLA_IFALIAS, alias)
        .nest(IFLA_AF_SPEC, |m| m.nest(AF_INET6.into(), |m| m.u8(INET6_ADDR_GEN_MODE, NONE)))
        .nest(IFLA_LINKINFO, |m| {
            m.str(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |m| m.u8(BRPORT_MODE, 1))
        })
}

pub(crate) fn set_alias(name: &str, alias: &str) -> Message {
    Message::new(RTM_NEWLINK, 0, &ifinfo(0, 0)).str(IFLA_IFNAME, name).str(IFLA_IFALIAS, alias)
}

pub(crate) fn set_up(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, IFF_UP))
}

pub(crate) fn set_down(index: u32) -> Message {
    let mut header = ifinfo(index, IFF_UP);
    // The flags as they are to be, where the mask after them names what changes.
    header[8..12].fill(0);
    Message::new(RTM_NEWLINK, 0, &header)
}

pub(crate) fn delete(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &ifinfo(index, 0))
}

/// Of an address, for a message's header.
pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address with its prefix; there is no second one like it to detect, since the pool gave it out.
pub(crate) fn add_address(index: u32, address: IpNet) -> Message {
    let mut header = vec![family(address.addr()), address.prefix_len(), IFA_F_NODAD, 0];
    header.extend(index.to_ne_bytes());
    let bytes = octets(address.addr());
    let message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header).bytes(2, &bytes);
    match address {
        IpNet::V4(net) => message.bytes(1, &bytes).bytes(4, &net.broadcast().octets()),
        IpNet::V6(_) => message.bytes(1, &bytes),
    }
}

/// With a metric that follows from `preference`, so that a container on several networks has a route by each, and uses the first.
pub(crate) fn add_default_route(index: u32, gateway: IpAddr, preference: u32) -> Message {
    const PROTO_STATIC: u8 = 4;
    const UNICAST: u8 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    let (family, base) = if gateway.is_ipv4() { (AF_INET, 0) } else { (AF_INET6, 1024) };
    let header = [family, 0, 0, 0, TABLE_MAIN, PROTO_STATIC, 0, UNICAST, 0, 0, 0, 0];
    Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header)
        .bytes(RTA_GATEWAY, &octets(gateway))
        .u32(RTA_OIF, index)
        .u32(RTA_PRIORITY, base + preference)
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
