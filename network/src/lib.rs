//! Container networking.
#![forbid(unsafe_code)]

mod bridge;
pub mod conformance;
mod dns;
mod driver;
mod endpoint;
mod error;
mod firewall;
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
