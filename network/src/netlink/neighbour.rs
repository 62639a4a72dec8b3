//! VXLAN devices, and the forwarding and neighbour entries that make them find their peers (`linux/neighbour.h`).

use std::io;
use std::net::Ipv4Addr;

use super::Netlink;
use super::link::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, INFO_DATA, INFO_KIND, RTM_NEWLINK,
    ifinfo,
};
use super::message::{Attrs, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Neighbour {
    /// Frames for this MAC go to this tunnel end.
    Forward { mac: [u8; 6], to: Ipv4Addr },
    /// This address has this MAC.
    Resolve { address: Ipv4Addr, mac: [u8; 6] },
}

/// A VXLAN device, down: it learns nothing and asks nobody, so it knows the peers it is told and no others.
pub(crate) fn create_vxlan(name: &str, vxlan: &Vxlan) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0))
        .str(IFLA_IFNAME, name)
        .bytes(IFLA_ADDRESS, &vxlan.mac)
        .u32(IFLA_MTU, vxlan.mtu)
        .u32(IFLA_MASTER, vxlan.master)
        .nest(IFLA_LINKINFO, |m| {
            m.str(INFO_KIND, "vxlan").nest(INFO_DATA, |m| {
                m.u32(1, vxlan.vni)
                    .bytes(4, &vxlan.local.octets())
                    .u8(7, 0)
                    .u8(11, 1)
                    .bytes(15, &vxlan.port.to_be_bytes())
            })
        })
}

/// What a VXLAN device is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vxlan {
    pub(crate) vni: u32,
    pub(crate) local: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) master: u32,
}

impl Neighbour {
    pub(crate) fn add(self, index: u32) -> Message {
        self.message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, index)
    }

    pub(crate) fn delete(self, index: u32) -> Message {
        self.message(RTM_DELNEIGH, 0, index)
    }

    fn message(self, kind: u16, flags: u16, index: u32) -> Message {
        match self {
            Self::Forward { mac, to } => {
                Message::new(kind, flags, &header(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF))
                    .bytes(NDA_LLADDR, &mac)
                    .bytes(NDA_DST, &to.octets())
            }
            Self::Resolve { address, mac } => {
                Message::new(kind, flags, &header(AF_INET, index, NUD_PERMANENT, 0))
                    .bytes(NDA_DST, &address.octets())
                    .bytes(NDA_LLADDR, &mac)
            }
        }
    }
}

/// Tells a bridge behind which port a MAC is, whatever it learnt before.
pub(crate) fn pin_port(port: u32, mac: [u8; 6]) -> Message {
    const NTF_MASTER: u8 = 4;
    Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header(AF_BRIDGE, port, NUD_NOARP, NTF_MASTER))
        .bytes(NDA_LLADDR, &mac)
}

fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

impl Netlink {
    /// The permanent entries of a VXLAN device.
    pub(crate) fn neighbours(&mut self, index: u32) -> io::Result<Vec<Neighbour>> {
        let mut all = Vec::new();
        for family in [AF_BRIDGE, AF_INET] {
            let ask = Message::new(RTM_GETNEIGH, 0, &header(family, 0, 0, 0));
            let found = self.dump(&ask, parse_neighbour)?;
            all.extend(found.into_iter().filter(|(i, _)| *i == index).map(|(_, n)| n));
        }
        all.sort_unstable();
        Ok(all)
    }
}

pub(crate) fn parse_neighbour(payload: &[u8]) -> Option<(u32, Neighbour)> {
    let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
    let state = u16::from_ne_bytes(*payload.get(8..)?.first_chunk()?);
    let attributes = Attrs::after(payload, 12);
    let mac = <[u8; 6]>::try_from(attributes.get(NDA_LLADDR)?).ok()?;
    let address = <[u8; 4]>::try_from(attributes.get(NDA_DST)?).ok().map(Ipv4Addr::from)?;
    let neighbour = match *payload.first()? {
        AF_BRIDGE => Neighbour::Forward { mac, to: address },
        AF_INET => Neighbour::Resolve { address, mac },
        _ => return None,
    };
    (state & NUD_PERMANENT != 0).then_some((index, neighbour))
}
