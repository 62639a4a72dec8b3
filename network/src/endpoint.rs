//! What a container asks of a network.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::state::check_name;

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
    /// A fixed MAC address; else it follows from the address.
    pub mac: Option<[u8; 6]>,
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
    pub fn publish(self, host: u16, container: u16) -> Self {
        self.port(PortMapping::new(host, container, Protocol::Tcp))
    }
    /// Publishes a port.
    pub fn port(mut self, port: PortMapping) -> Self {
        self.ports.push(port);
        self
    }
    /// Asks for a fixed address.
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = Some(address.into());
        self
    }
    /// Asks for this MAC address: that of one interface, so no group's.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }
    pub(crate) fn id_or_random(&self) -> Result<String> {
        if self.id.is_empty() {
            return Ok(format!("{:032x}", u128::from_ne_bytes(crate::random())));
        }
        check_name("endpoint id", &self.id)?;
        Ok(self.id.clone())
    }
    /// Adds a name by which others on the network find it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }
}

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

impl PortMapping {
    /// A port on all host addresses; host port 0 picks a free one.
    pub fn new(host_port: u16, container_port: u16, protocol: Protocol) -> Self {
        Self { host_ip: None, host_port, container_port, protocol }
    }
    /// The same on one host address.
    pub fn on(self, host_ip: impl Into<IpAddr>) -> Self {
        Self { host_ip: Some(host_ip.into()), ..self }
    }
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol's IANA number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
