//! Port 53 of 127.0.0.11 in a container, without taking it from a server of the container's own that listens on every address.

use std::io;
use std::net::Ipv4Addr;

use crate::netlink::nft::{self, Base, Chain, Expression, Meta, REGISTER, Table, equal, meta, payload};
use crate::netlink::{NETLINK_NETFILTER, Netlink};

const TABLE: Table = Table { family: nft::INET, name: "longshore-dns" };
const CHAIN: Chain = Chain { table: TABLE, name: "output", kind: "nat", hook: 3, priority: -100 };

/// The rules, in the network namespace of the thread that made them; they go with it.
pub(super) struct Redirect(Netlink);

impl Redirect {
    /// Sends what is for port 53 of the address to the given ports of it.
    pub(super) fn install(address: Ipv4Addr, udp: u16, tcp: u16) -> io::Result<Self> {
        let mut socket = Netlink::open(NETLINK_NETFILTER)?;
        let mut batch = vec![TABLE.create(), CHAIN.create(), CHAIN.flush()];
        for (protocol, port) in [(17, udp), (6, tcp)] {
            batch.push(CHAIN.add_rule(&rule(address, protocol, port), ""));
        }
        socket.transaction(batch, None).map_err(|(_, e)| e)?;
        Ok(Self(socket))
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        // If the namespace lives on and this fails, port 53 answers nobody; nothing to be done about it here.
        let _ = self.0.transaction(vec![TABLE.delete()], None);
    }
}

fn rule(address: Ipv4Addr, protocol: u8, port: u16) -> [Expression; 11] {
    const IPV4: u8 = 2;
    [
        meta(REGISTER, Meta::Family),
        equal(REGISTER, &[IPV4]),
        payload(REGISTER, Base::Network, 16, 4),
        equal(REGISTER, &address.octets()),
        meta(REGISTER, Meta::Protocol),
        equal(REGISTER, &[protocol]),
        payload(REGISTER, Base::Transport, 2, 2),
        equal(REGISTER, &53u16.to_be_bytes()),
        nft::load(REGISTER, &address.octets()),
        nft::load(REGISTER + 1, &port.to_be_bytes()),
        nft::dnat(IPV4.into(), REGISTER, REGISTER + 1),
    ]
}
