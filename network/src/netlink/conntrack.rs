//! Forgetting connections (`linux/netfilter/nfnetlink_conntrack.h`), so that a new endpoint does not get an old one's packets.

use std::net::IpAddr;

use super::message::{Attrs, Message};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;

/// What is needed of a connection to tell whose it is, and to delete it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) family: u8,
    pub(crate) source: Option<IpAddr>,
    pub(crate) reply_source: Option<IpAddr>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    original: Vec<u8>,
    id: Vec<u8>,
}

/// All connections of an address family, to be dumped.
pub(crate) fn list(family: u8) -> Message {
    Message::new(SUBSYSTEM | GET, 0, &[family, 0, 0, 0])
}

pub(crate) fn parse(payload: &[u8]) -> Option<Connection> {
    let attributes = Attrs::after(payload, 4);
    let original = attributes.nest(ORIGINAL);
    let port = original.nest(2).get(3).and_then(|p| p.first_chunk()).map_or(0, |p| u16::from_be_bytes(*p));
    Some(Connection {
        family: *payload.first()?,
        source: source(original),
        reply_source: source(attributes.nest(REPLY)),
        protocol: original.nest(2).get(1).and_then(|p| p.first()).copied().unwrap_or(0),
        port,
        original: original.0.to_vec(),
        id: attributes.get(ID).unwrap_or_default().to_vec(),
    })
}

fn source(tuple: Attrs<'_>) -> Option<IpAddr> {
    let address = tuple.nest(1);
    let v4 = address.get(1).and_then(|a| <[u8; 4]>::try_from(a).ok()).map(IpAddr::from);
    v4.or_else(|| address.get(3).and_then(|a| <[u8; 16]>::try_from(a).ok()).map(IpAddr::from))
}

impl Connection {
    /// By its tuple and its ID, so that a successor with the same tuple stays.
    pub(crate) fn delete(&self) -> Message {
        Message::new(SUBSYSTEM | DELETE, 0, &[self.family, 0, 0, 0])
            .nest(ORIGINAL, |m| m.raw(&self.original))
            .bytes(ID, &self.id)
    }
}
