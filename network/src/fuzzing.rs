//! Entries for fuzz targets; no part of the interface.

use std::sync::Arc;

use crate::dns::message;
use crate::netlink::message::replies;
use crate::netlink::{conntrack, link, neighbour, nft};
use crate::{MemoryNames, Names};

/// A message from a container, and one from a server as the answer to it.
pub fn dns(data: &[u8]) {
    let names = MemoryNames::new();
    names.set("web", &[[10, 0, 0, 2].into()]);
    let names: [Arc<dyn Names>; 1] = [Arc::new(names)];
    if let message::Step::Answer(answer) = message::step(data, &names, true, data.len()) {
        assert_eq!(answer.get(..2), data.get(..2), "the answer to this query");
        assert!(message::fit(data, answer).len() <= 1232);
    }
    let (query, answer) = data.split_at(data.len() / 2);
    let _ = (message::settles(query, answer), message::failure(query), message::fit(query, answer.to_vec()));
}

/// A datagram from the kernel.
pub fn netlink(data: &[u8]) {
    for reply in replies(data) {
        let payload = reply.payload;
        let _ = (reply.ack(), link::parse_link(payload), link::parse_route(payload));
        let _ = (conntrack::parse(payload), neighbour::parse_neighbour(payload));
        let _ =
            (nft::parse_elements(payload), nft::parse_forward_drop(payload), nft::parse_generation(payload));
    }
}
