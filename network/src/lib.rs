//! Container networking in process: bridges with NAT and published ports, names, and networks over several hosts.
//!
//! A container is a network namespace here, and nothing else: whoever has a file descriptor of one can put it on a [`Bridge`]. All is
//! done by netlink from the calling process; no `ip`, `nft` or `iptables` runs, and no daemon.
//!
//! ```
//! use longshore_network::{Bridge, BridgeOptions, Endpoint};
//! use std::{os::fd::BorrowedFd, path::Path};
//!
//! fn web(state: &Path, container: BorrowedFd<'_>) -> longshore_network::Result<()> {
//!     let bridge = Bridge::open(state, "bridge", &BridgeOptions::new())?;
//!     let lease = bridge.attach(container, &Endpoint::new().id("web").name("www").publish(8080, 80))?;
//!     let (address, prefix) = lease.address();
//!     println!("{address}/{prefix} by {:?}, {:?}", lease.gateway(), lease.ports());
//!     lease.detach()?; // or drop it; `keep` leaves the container connected, and `Bridge::detach("web")` ends that
//!     bridge.remove()
//! }
//! # // As root, in network namespaces of the example's own.
//! # use nix::sched::{CloneFlags, unshare};
//! # use std::os::fd::AsFd;
//! # let netns = || unshare(CloneFlags::CLONE_NEWNET).map(|()| std::fs::File::open("/proc/thread-self/ns/net").unwrap());
//! # std::thread::spawn(move || {
//! #     let Ok(container) = netns() else { return };
//! #     netns().unwrap();
//! #     web(tempfile::tempdir().unwrap().path(), container.as_fd()).unwrap();
//! # }).join().unwrap();
//! ```
//!
//! # Parts
//!
//! | | |
//! |---|---|
//! | [`Driver`] | a kind of network: [`Bridge`], [`Overlay`], [`Loopback`] |
//! | [`Lease`] | an attached endpoint; what [`Endpoint`] and [`PortMapping`] asked for |
//! | [`Ipam`] | who has which address: [`DirIpam`], [`MemoryIpam`], and an overlay's own over its store |
//! | [`PeerStore`] | what hosts tell each other: [`DirStore`], [`MemoryStore`]; an engine such as etcd is one more `impl` |
//! | [`DnsServer`] | a resolver in a container, with the [`Names`] of its networks |
//! | [`conformance`] | checks for implementations of these traits |
//!
//! # What it makes in the kernel
//!
//! | object | name | owner's mark |
//! |---|---|---|
//! | bridge of a network | `ls-` and 12 hex digits | alias `longshore NETWORK STATE-DIRECTORY` |
//! | veth of an endpoint | `lv` and 12 hex digits; `eth0`, `eth1`, ... inside | alias `BRIDGE/ENDPOINT` |
//! | VXLAN device | `lx` and 12 hex digits | it is on the bridge |
//! | nf_tables | tables `inet longshore`, `bridge longshore` | comments of elements: `BRIDGE`, `BRIDGE/ENDPOINT` |
//! | in a container with a [`DnsServer`] | table `inet longshore-dns` | |
//! | sysctl | `net.ipv4.ip_forward=1` stays on, as everyone else on the host may need it by now | |
//!
//! The rules are constant; networks and endpoints are elements of sets and maps. What an attachment costs and what a packet costs do not
//! grow with their number, a host port is claimed by inserting its key, and [`Bridge::repair`] finds everything from the kernel alone.
//! Only addresses in use, what an endpoint is meant to be, and a network's options lie in the state directory.
//!
//! # Who reaches whom
//!
//! * A container reaches the outside with its host's address; on an internal network, only its neighbours.
//! * A published port is reached from other hosts, from the host by any of its addresses (127.0.0.1 too, `::1` not), and from containers
//!   of every network that is not internal, the one that publishes it included.
//! * Nothing else is reached from outside its network, not by a route to its subnet either.
//! * A container speaks with its own MAC and IPv4 addresses only.
//! * Rules of others hold: a packet passes every table. A firewall that drops what is forwarded also drops containers' packets;
//!   [`Bridge::obstacles`] names such chains. One that filters only `INPUT` does not see published ports, since these are forwarded.
#![forbid(unsafe_code)]

mod bridge;
pub mod conformance;
mod dns;
mod driver;
mod endpoint;
mod error;
mod firewall;
#[doc(hidden)]
pub mod fuzzing;
mod ipam;
mod lease;
mod netlink;
mod netns;
mod overlay;
mod state;
mod store;

pub use bridge::{Bridge, BridgeOptions, Repaired};
pub use dns::{DNS_ADDRESS, DnsOptions, DnsServer, MemoryNames, Names};
pub use driver::{Driver, Loopback};
pub use endpoint::{Endpoint, PortMapping, Protocol};
pub use error::{Error, Result};
pub use ipam::{DirIpam, Ipam, MemoryIpam};
pub use lease::{Attachment, Lease};
pub use overlay::{Overlay, OverlayOptions, Reconciled, Reconciler};
pub use store::{DirStore, Entry, MemoryStore, PeerStore};

/// Bytes that nobody guesses.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Fewer than 256 bytes come whole, and only before the pool is ready is there a wait.
    while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(N) {}
    bytes
}
