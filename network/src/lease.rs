//! An attached endpoint.

use std::net::IpAddr;

use crate::{Driver, PortMapping, Result};

/// What an endpoint got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment {
    /// Its ID.
    pub id: String,
    /// Its addresses with their prefix lengths, IPv4 first; at least one.
    pub addresses: Vec<(IpAddr, u8)>,
    /// By which it reaches the outside.
    pub gateway: Option<IpAddr>,
    /// The MAC address of its link.
    pub mac: [u8; 6],
    /// Its published ports, with the host ports that were chosen.
    pub ports: Vec<PortMapping>,
}

/// An attached endpoint. Dropping it detaches; [`Lease::keep`] leaves it in place.
#[must_use = "dropping a lease detaches the endpoint"]
pub struct Lease {
    driver: Box<dyn Driver>,
    attachment: Attachment,
    kept: bool,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("attachment", &self.attachment).finish_non_exhaustive()
    }
}

impl Lease {
    /// For implementations of [`Driver`]: a lease that `driver` ends.
    pub fn new(driver: impl Driver + 'static, attachment: Attachment) -> Self {
        Self { driver: Box::new(driver), attachment, kept: false }
    }
    /// The endpoint's ID.
    pub fn id(&self) -> &str {
        &self.attachment.id
    }
    /// The container's first address with its prefix length; unspecified if the driver gave none.
    pub fn address(&self) -> (IpAddr, u8) {
        self.attachment.addresses.first().copied().unwrap_or((IpAddr::from([0; 4]), 0))
    }
    /// All its addresses with their prefix lengths: one for each subnet of the network, IPv4 first.
    pub fn addresses(&self) -> &[(IpAddr, u8)] {
        &self.attachment.addresses
    }
    /// The gateway, if the network has one.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.attachment.gateway
    }
    /// The container's MAC address as `02:42:ac:11:00:02`.
    pub fn mac(&self) -> String {
        self.attachment.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
    /// The published ports with the host ports that were chosen.
    pub fn ports(&self) -> &[PortMapping] {
        &self.attachment.ports
    }
    /// Leaves the endpoint attached; [`Driver::detach`] ends it.
    pub fn keep(mut self) -> String {
        self.kept = true;
        self.attachment.id.clone()
    }
    /// Detaches and says what failed.
    pub fn detach(mut self) -> Result<()> {
        self.kept = true;
        self.driver.detach(&self.attachment.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.kept {
            // What this leaves, the next repair finds.
            let _ = self.driver.detach(&self.attachment.id);
        }
    }
}
