//! The crate's error.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::Protocol;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network name or endpoint ID that cannot name a file and a kernel object.
    #[error("{what} `{name}` is not 1 to 128 of [a-zA-Z0-9_.-] with a letter or digit first")]
    InvalidName {
        /// "network name", "endpoint id" or "dns name".
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// An option that contradicts another, or the network that is already there.
    #[error("network `{network}`: {reason}")]
    InvalidOption {
        /// The network.
        network: String,
        /// What is wrong.
        reason: String,
    },
    /// Another endpoint or a process of the host has this port.
    #[error("bind for {} failed: port is already allocated", std::net::SocketAddr::new(*address, *port))]
    PortAllocated {
        /// Host address; unspecified for all.
        address: IpAddr,
        /// Host port.
        port: u16,
        /// Protocol.
        protocol: Protocol,
    },
    /// The fixed address is another endpoint's.
    #[error("address {address} is already in use")]
    AddressInUse {
        /// The address.
        address: IpAddr,
    },
    /// The fixed address is not one that an endpoint of this network can have.
    #[error("address {address} is not usable in {subnet}")]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The network's subnet.
        subnet: IpNet,
    },
    /// Every address of the subnet is in use.
    #[error("no free address in {subnet}")]
    PoolExhausted {
        /// The subnet.
        subnet: IpNet,
    },
    /// A route, another network or another endpoint of the host overlaps.
    #[error("subnet {subnet} overlaps with {with}")]
    SubnetInUse {
        /// The subnet asked for.
        subnet: IpNet,
        /// The route or network that is in the way.
        with: String,
    },
    /// Every default subnet overlaps with a route of the host.
    #[error("no default subnet is free; give one")]
    NoFreeSubnet,
    /// The endpoint is attached already.
    #[error("endpoint `{id}` is already attached to `{network}`")]
    EndpointExists {
        /// Its ID.
        id: String,
        /// The network.
        network: String,
    },
    /// There is no such network.
    #[error("no network `{name}`")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// The network still has endpoints.
    #[error("network `{network}` has {endpoints} attached endpoint(s)")]
    NetworkInUse {
        /// The network.
        network: String,
        /// How many.
        endpoints: usize,
    },
    /// The store that hosts share does not answer, or not with a majority behind it. What is programmed stays.
    #[error("the store of peers is unavailable")]
    StoreUnavailable {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refused.
    #[error("cannot {doing}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// The kernel's answer, with its extended message where it gave one.
        source: io::Error,
    },
    /// The state directory could not be read or written.
    #[error("state in {}", path.display())]
    State {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Whether the network asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the same call may succeed once another endpoint or process has gone.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::PortAllocated { .. }
                | Self::AddressInUse { .. }
                | Self::PoolExhausted { .. }
                | Self::NetworkInUse { .. }
                | Self::StoreUnavailable { .. }
        )
    }

    pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Kernel { doing, source }
    }

    pub(crate) fn state(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::State { path, source }
    }
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
