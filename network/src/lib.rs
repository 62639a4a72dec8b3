//! Container networking.
#![deny(unsafe_code)]

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}
/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A bridge network on this host.
#[derive(Clone, Debug)]
pub struct Bridge(());

/// How a bridge network is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BridgeOptions {
    /// Its subnet; `None` picks a free one of Docker's default pools.
    pub subnet: Option<Ipv4Net>,
    /// No route to the outside.
    pub internal: bool,
    /// MTU in bytes; `None` is the default route's.
    pub mtu: Option<u32>,
}

impl Bridge {
    /// Opens the network `name`, making bridge, table and address pool if they are not there. `state` is a directory for what the kernel cannot hold.
    pub fn open(_state: impl Into<PathBuf>, _name: &str, _options: &BridgeOptions) -> Result<Self> {
        todo!()
    }
    /// Puts the network namespace on the bridge: veth, address, routes, published ports.
    pub fn attach(&self, _netns: BorrowedFd<'_>, _endpoint: &Endpoint) -> Result<Lease> {
        todo!()
    }
    /// Detaches by endpoint ID, whatever is left of it (after a crash too).
    pub fn detach(&self, _id: &str) -> Result<()> {
        todo!()
    }
    /// Removes every endpoint that is not in `valid`, and mends what someone flushed.
    pub fn repair(&self, _valid: &[&str]) -> Result<Repaired> {
        todo!()
    }
    /// Removes bridge, table and state. Endpoints must be gone.
    pub fn remove(self) -> Result<()> {
        todo!()
    }
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Endpoints removed.
    pub removed: Vec<String>,
    /// Endpoints whose rules were put back.
    pub restored: Vec<String>,
}

/// What a container wants of a network.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its ID, unique on the host (a container ID); generated if empty.
    pub id: String,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// A fixed address.
    pub address: Option<IpAddr>,
    /// DNS names on this network.
    pub names: Vec<String>,
}

impl Endpoint {
    /// Nothing published, any address.
    pub fn new() -> Self {
        Self::default()
    }
    /// Sets the ID.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }
    /// Publishes a TCP port on all host addresses; host port 0 picks a free one.
    pub fn publish(mut self, host: u16, container: u16) -> Self {
        self.ports.push(PortMapping { host_ip: None, host_port: host, container_port: container, protocol: Protocol::Tcp });
        self
    }
}

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Host address; `None` is all.
    pub host_ip: Option<IpAddr>,
    /// Host port; 0 picks a free one.
    pub host_port: u16,
    /// Container port.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// An attached endpoint. Dropping it detaches; [`Lease::keep`] leaves it in place.
#[derive(Debug)]
pub struct Lease(());

impl Lease {
    /// The endpoint's ID.
    pub fn id(&self) -> &str {
        todo!()
    }
    /// The container's address with its prefix length.
    pub fn address(&self) -> (IpAddr, u8) {
        todo!()
    }
    /// The gateway, if the network has one.
    pub fn gateway(&self) -> Option<IpAddr> {
        todo!()
    }
    /// The container's MAC address as `02:42:ac:11:00:02`.
    pub fn mac(&self) -> String {
        todo!()
    }
    /// The published ports with the host ports that were chosen.
    pub fn ports(&self) -> &[PortMapping] {
        todo!()
    }
    /// Leaves the endpoint attached; [`Bridge::detach`] ends it.
    pub fn keep(self) -> String {
        todo!()
    }
    /// Detaches and says what failed.
    pub fn detach(self) -> Result<()> {
        todo!()
    }
}
