//! Container networking.
#![forbid(unsafe_code)]

mod bridge;
mod endpoint;
mod error;
mod firewall;
mod ipam;
mod lease;
mod netlink;
mod netns;
mod state;

pub use bridge::{Bridge, BridgeOptions, Repaired};
pub use endpoint::{Endpoint, PortMapping, Protocol};
pub use error::{Error, Result};
pub use ipam::{DirIpam, Ipam, MemoryIpam};
pub use lease::Lease;
