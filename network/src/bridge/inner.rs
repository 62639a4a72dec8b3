//! What a bridge does under its lock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::settings::{choose_ports, host_settings, plug, tunnel_settings};
use super::sockets::Sockets;
use crate::firewall::{EndpointRules, NetworkRules};
use crate::ipam::Ipam;
use crate::netlink::link::{self, Link};
use crate::netns::{self, Host};
use crate::state::{Lock, Network, Record, State, hashed};
use crate::{Endpoint, Error, PortMapping, Result};

pub(crate) struct Inner {
    pub(super) host: Host,
    pub(super) state: State,
    pub(super) name: String,
    pub(super) network: Network,
    pub(super) ipam: Box<dyn Ipam>,
    pub(super) sockets: Mutex<Sockets>,
}

impl Inner {
    pub(crate) fn sockets(&self) -> MutexGuard<'_, Sockets> {
        // A poisoned lock only means that someone panicked between two messages.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self) -> Result<Lock> {
        self.state.lock()
    }

    /// The owner that the kernel's objects of an endpoint name.
    pub(super) fn owner(&self, id: &str) -> String {
        format!("{}/{id}", self.network.link)
    }

    /// The link of an endpoint on the bridge.
    fn veth(&self, id: &str) -> String {
        hashed("lv", &[&self.network.link, id])
    }

    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        self.network.subnets.iter().map(|subnet| self.network.gateway(*subnet)).collect()
    }

    /// Makes bridge and table what they should be.
    pub(super) fn ensure(&self, sockets: &mut Sockets) -> Result<()> {
        let network = &self.network;
        sockets.firewall().install()?;
        sockets.firewall().add_network(&NetworkRules {
            link: &network.link,
            subnets: network.subnets.clone(),
            internal: network.internal,
            tunnel: network.tunnel,
        })?;
        if sockets.link(&network.link)?.is_none() {
            sockets.create_bridge(network)?;
        }
        let index = sockets.bridge_index(&network.link)?;
        let doing = || format!("set up bridge {}", network.link);
        self.host.run(|| host_settings(network)).and_then(|r| r).map_err(Error::kernel(doing()))?;
        let alias = format!("longshore {} {}", self.name, self.state.root().display());
        let mut batch =
            vec![link::set_alias(&network.link, longest(&alias, LONGEST_ALIAS)), link::set_up(index)];
        batch.extend(
            network.subnets.iter().map(|s| link::add_address(index, with_address(*s, network.gateway(*s)))),
        );
        sockets.route.apply(batch).map_err(|(_, e)| Error::kernel(doing())(e))?;
        let Some(tunnel) = network.tunnel else { return Ok(()) };
        let (name, end) = sockets.dig(&network.link, index, tunnel)?;
        let quiet = self.host.run(|| tunnel_settings(&name)).and_then(|r| r);
        quiet.and_then(|()| sockets.route.run(link::set_up(end))).map_err(Error::kernel(doing()))
    }

    pub(super) fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Record> {
        self.permit_ports(&endpoint.ports)?;
        let _lock = self.state.lock()?;
        let mut sockets = self.sockets();
        let bridge = self.bridge(&mut sockets)?;
        self.make_way(&mut sockets, &endpoint.id)?;
        let record = self.reserve(endpoint)?;
        let attached = self.state.save_record(&self.name, &record).and_then(|()| {
            self.take_over(&mut sockets, &record)?;
            let record = self.publish(&mut sockets, &record, Sockets::publish)?;
            self.plug(&mut sockets, netns, &record, &bridge)?;
            Ok(record)
        });
        if attached.is_err() {
            // The first error is the one to tell; what this leaves, the next repair finds.
            let _ = self.detach(&mut sockets, &endpoint.id);
        }
        attached
    }

    /// The bridge's link. One that someone deleted is made again, if its subnets are still free.
    pub(super) fn bridge(&self, sockets: &mut Sockets) -> Result<Link> {
        let gone = || Error::NotFound { name: self.name.clone() };
        // It may have been removed since this handle was opened, and another may have its name.
        if self.state.network(&self.name)?.as_ref() != Some(&self.network) || !self.network.is_settled() {
            return Err(gone());
        }
        if let Some(link) = sockets.link(&self.network.link)? {
            return Ok(link);
        }
        sockets.check_clear(&self.network)?;
        self.ensure(sockets)?;
        sockets.link(&self.network.link)?.ok_or_else(gone)
    }

    /// Removes endpoints whose veth died with their network namespace, and says how many others there are.
    pub(super) fn forget_dead(&self, sockets: &mut Sockets) -> Result<usize> {
        let mut alive = 0;
        for record in self.state.records(&self.name)? {
            if sockets.is_in_use(&record.veth)? {
                alive += 1;
            } else {
                self.detach(sockets, &record.id)?;
            }
        }
        Ok(alive)
    }

    /// An endpoint whose veth died with its network namespace may come again.
    fn make_way(&self, sockets: &mut Sockets, id: &str) -> Result<()> {
        let veth = self.veth(id);
        if self.state.record(&self.name, id)?.is_some() {
            if sockets.is_in_use(&veth)? {
                return Err(Error::EndpointExists { id: id.to_owned(), network: self.name.clone() });
            }
            self.detach(sockets, id)?;
        }
        // It may still be dying.
        sockets.delete_link(&veth)
    }

    fn reserve(&self, endpoint: &Endpoint) -> Result<Record> {
        let mut record = Record {
            id: endpoint.id.clone(),
            veth: self.veth(&endpoint.id),
            mac: [0; 6],
            addresses: Vec::new(),
            ports: endpoint.ports.clone(),
            names: endpoint.names.clone(),
        };
        for subnet in &self.network.subnets {
            let wanted = endpoint.address.filter(|a| a.is_ipv4() == subnet.addr().is_ipv4());
            let address = self.allocate(*subnet, &endpoint.id, wanted)?;
            record.addresses.push(with_address(*subnet, address));
        }
        record.mac = endpoint.mac.unwrap_or_else(|| mac(record.addresses[0].addr()));
        Ok(record)
    }

    /// An address of the subnet: the one that is wanted, or one of the range.
    fn allocate(&self, subnet: IpNet, owner: &str, wanted: Option<IpAddr>) -> Result<IpAddr> {
        let mut reserved = self.gateways();
        reserved.extend(self.network.reserved.values());
        match self.network.range(subnet).filter(|_| wanted.is_none()) {
            None => self.ipam.allocate(subnet, &reserved, owner, wanted),
            // A subnet of this size has no address to give but its first and its last.
            Some(range) if range.max_prefix_len() - range.prefix_len() < 2 => {
                for address in range.hosts() {
                    match self.ipam.allocate(subnet, &reserved, owner, Some(address)) {
                        Err(Error::AddressInUse { .. } | Error::AddressOutside { .. }) => {}
                        done => return done,
                    }
                }
                Err(Error::PoolExhausted { subnet: range })
            }
            Some(range) => self.ipam.allocate(range, &reserved, owner, None),
        }
    }

    fn permit_ports(&self, ports: &[PortMapping]) -> Result<()> {
        if !self.network.internal || ports.is_empty() {
            return Ok(());
        }
        let reason = "it is internal: ports cannot be published".to_owned();
        Err(Error::InvalidOption { network: self.name.clone(), reason })
    }

    /// Publishes ports of an endpoint that is there and has none yet.
    pub(super) fn publish_later(&self, id: &str, ports: &[PortMapping]) -> Result<Record> {
        self.permit_ports(ports)?;
        let _lock = self.state.lock()?;
        let mut sockets = self.sockets();
        let there = self.state.record(&self.name, id)?;
        let without = there.ok_or_else(|| Error::NotFound { name: id.to_owned() })?;
        if !without.ports.is_empty() {
            return Err(Error::EndpointExists { id: id.to_owned(), network: self.name.clone() });
        }
        let wanted = Record { ports: ports.to_vec(), ..without.clone() };
        let published = self.publish(&mut sockets, &wanted, Sockets::publish_more);
        if published.is_err() {
            // The first error is the one to tell.
            let _ = self.state.save_record(&self.name, &without);
        }
        published
    }

    /// Claims the host ports. One that was left to us is tried until it is free here and in the table.
    fn publish(
        &self,
        sockets: &mut Sockets,
        record: &Record,
        add: fn(&mut Sockets, &Self, &Record) -> Result<()>,
    ) -> Result<Record> {
        const TRIES: usize = 32;
        let ipv6 = record.addresses.iter().any(|address| address.addr().is_ipv6());
        let mut tries = 0;
        loop {
            let mut chosen = record.clone();
            chosen.ports =
                self.host.run(|| choose_ports(&record.ports, ipv6)).map_err(Error::kernel("enter"))??;
            self.state.save_record(&self.name, &chosen)?;
            let published = match add(sockets, self, &chosen) {
                Err(Error::Kernel { source, .. }) if crate::firewall::missing(&source) => {
                    self.ensure(sockets)?;
                    add(sockets, self, &chosen)
                }
                other => other,
            };
            tries += 1;
            match published {
                Ok(()) => break Ok(chosen),
                Err(Error::PortAllocated { port, .. })
                    if tries < TRIES && !record.ports.iter().any(|p| p.host_port == port) => {}
                Err(error) => break Err(error),
            }
        }
    }

    /// Makes the veth and sets up its end in the container.
    fn plug(
        &self,
        sockets: &mut Sockets,
        netns: BorrowedFd<'_>,
        record: &Record,
        bridge: &Link,
    ) -> Result<()> {
        let owner = self.owner(&record.id);
        let gateways = if self.network.internal { Vec::new() } else { self.gateways() };
        let route = &mut sockets.route;
        netns::within(netns, || plug(route, netns, record, bridge, &owner, &gateways))
            .and_then(|result| result)
            .map_err(Error::kernel(format!("connect endpoint `{}` to network `{}`", record.id, self.name)))
    }

    /// Removes all of an endpoint; goes on after an error, and returns the first.
    pub(super) fn detach(&self, sockets: &mut Sockets, id: &str) -> Result<()> {
        self.remove(sockets, id, Sockets::delete_veth)
    }

    /// [`Self::detach`] of one whose network namespace is about to end: its link is left to the kernel.
    pub(super) fn release(&self, sockets: &mut Sockets, id: &str) -> Result<()> {
        self.remove(sockets, id, Sockets::take_down)
    }

    fn remove(
        &self,
        sockets: &mut Sockets,
        id: &str,
        unplug: fn(&mut Sockets, &str) -> Result<()>,
    ) -> Result<()> {
        let record = self.state.record(&self.name, id)?;
        let veth = self.veth(id);
        // First the link: as long as someone can send by it, its rules have to stand.
        let unplugged = unplug(sockets, &veth);
        let unpublished = match &record {
            Some(record) => sockets.firewall().remove_endpoint(&rules(&self.owner(id), record)),
            None => sockets.firewall().remove_owner(&self.owner(id)),
        };
        let forgotten = record.iter().try_for_each(|record| self.leave_behind(sockets, record));
        unplugged.and(unpublished).and(forgotten)?;
        for (address, owner) in self.addresses()? {
            if owner == id {
                let subnet = self.network.subnets.iter().find(|subnet| subnet.contains(&address));
                subnet.map_or(Ok(()), |subnet| self.ipam.release(*subnet, address, id))?;
            }
        }
        self.state.remove_record(&self.name, id)
    }

    /// An endpoint's connections have to be forgotten before another gets its address, or its ports. Looking for them costs the
    /// kernel milliseconds, however few there are; so it is done at once only for published ports, which the next endpoint may
    /// publish again, and else when an address comes up again or enough have gathered.
    fn leave_behind(&self, sockets: &mut Sockets, record: &Record) -> Result<()> {
        const MOST: usize = 256;
        let mut stale = self.state.stale(&self.name)?;
        stale.extend(hosts(record).into_iter().map(|address| (address, record.veth.clone())));
        self.state.save_stale(&self.name, &stale)?;
        if record.ports.is_empty() && stale.len() <= MOST { Ok(()) } else { self.forget_stale(sockets) }
    }

    /// The other half of [`Inner::leave_behind`].
    fn take_over(&self, sockets: &mut Sockets, record: &Record) -> Result<()> {
        let stale = self.state.stale(&self.name)?;
        let before: Vec<_> = hosts(record).iter().filter_map(|address| stale.get(address)).collect();
        // Until it is gone, the kernel's end in a dead network namespace answers for its address. An endpoint that came again has a link
        // of that name, too, in whose place the old one has been deleted.
        for veth in &before {
            if !self.state.records(&self.name)?.iter().any(|present| present.veth == **veth) {
                sockets.delete_link(veth)?;
            }
        }
        if before.is_empty() { Ok(()) } else { self.forget_stale(sockets) }
    }

    pub(super) fn forget_stale(&self, sockets: &mut Sockets) -> Result<()> {
        sockets.forget_connections(&self.state.stale(&self.name)?.into_keys().collect())?;
        self.state.save_stale(&self.name, &BTreeMap::new())
    }

    fn addresses(&self) -> Result<Vec<(IpAddr, String)>> {
        let lists = self.network.subnets.iter().map(|subnet| self.ipam.list(*subnet));
        Ok(lists.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Every endpoint that state or kernel know.
    pub(super) fn known(&self, sockets: &mut Sockets) -> Result<Vec<String>> {
        let mut ids: Vec<_> = self.state.records(&self.name)?.into_iter().map(|record| record.id).collect();
        ids.extend(self.addresses()?.into_iter().map(|(_, owner)| owner));
        ids.extend(sockets.firewall().endpoints(&self.network.link)?);
        let prefix = format!("{}/", self.network.link);
        for port in sockets.ports(&self.network.link)? {
            // One that was released, or detached with a dead network namespace, is left to the kernel.
            if let Some(id) = port.alias.strip_prefix(&prefix)
                && port.up
                && !sockets.is_dying(&port)?
            {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Deletes veths of ours that no endpoint owns: a crash may have come before they were tagged.
    pub(super) fn forget_unowned(&self, sockets: &mut Sockets) -> Result<()> {
        let records = self.state.records(&self.name)?;
        for port in sockets.ports(&self.network.link)? {
            let ours = port.kind == "veth" && port.name.starts_with("lv");
            if ours && !records.iter().any(|record| record.veth == port.name) {
                sockets.delete_link(&port.name)?;
            }
        }
        Ok(())
    }
}

pub(super) fn rules<'a>(owner: &'a str, record: &'a Record) -> EndpointRules<'a> {
    EndpointRules {
        owner,
        veth: &record.veth,
        mac: record.mac,
        addresses: hosts(record),
        ports: &record.ports,
    }
}

pub(crate) fn hosts(record: &Record) -> Vec<IpAddr> {
    record.addresses.iter().map(IpNet::addr).collect()
}

/// The kernel takes one less than `IFALIASZ`, and the NUL that ends a string here is one of these.
const LONGEST_ALIAS: usize = 254;

/// As much of the text as fits, in whole characters.
fn longest(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

fn with_address(subnet: IpNet, address: IpAddr) -> IpNet {
    IpNet::new_assert(address, subnet.prefix_len())
}

/// From the address: whoever has an address next has the same MAC, and no neighbour's cache is stale.
pub(crate) fn mac(address: IpAddr) -> [u8; 6] {
    let bytes = link::octets(address);
    let [a, b, c, d] = *bytes.last_chunk().expect("an address has four bytes");
    [0x02, 0x42, a, b, c, d]
}
