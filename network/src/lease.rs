//! An attached endpoint.

use std::net::IpAddr;

use crate::bridge::Bridge;
use crate::state::Record;
use crate::{PortMapping, Result};

/// An attached endpoint. Dropping it detaches; [`Lease::keep`] leaves it in place.
#[derive(Debug)]
#[must_use = "dropping a lease detaches the endpoint"]
pub struct Lease {
    bridge: Bridge,
    record: Record,
    kept: bool,
}

impl Lease {
    pub(crate) fn new(bridge: Bridge, record: Record) -> Self {
        Self { bridge, record, kept: false }
    }
    /// The endpoint's ID.
    pub fn id(&self) -> &str {
        &self.record.id
    }
    /// The container's address with its prefix length.
    pub fn address(&self) -> (IpAddr, u8) {
        let address = self.record.addresses[0];
        (address.addr(), address.prefix_len())
    }
    /// All its addresses with their prefix lengths: one for each subnet of the network, IPv4 first.
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        self.record.addresses.iter().map(|a| (a.addr(), a.prefix_len())).collect()
    }
    /// The gateway, if the network has one.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.bridge.gateway()
    }
    /// The container's MAC address as `02:42:ac:11:00:02`.
    pub fn mac(&self) -> String {
        self.record.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
    /// The published ports with the host ports that were chosen.
    pub fn ports(&self) -> &[PortMapping] {
        &self.record.ports
    }
    /// Leaves the endpoint attached; [`Bridge::detach`] ends it.
    pub fn keep(mut self) -> String {
        self.kept = true;
        self.record.id.clone()
    }
    /// Detaches and says what failed.
    pub fn detach(mut self) -> Result<()> {
        self.kept = true;
        self.bridge.detach(&self.record.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.kept {
            // What this leaves, the next repair finds.
            let _ = self.bridge.detach(&self.record.id);
        }
    }
}
