//! Bridge networks.

mod inner;
mod settings;
mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ipam::{self, DirIpam, Ipam};
use crate::lease::Lease;
use crate::netlink::nft;
use crate::netns::Host;
use crate::state::{Network, Record, State, Tunnel, check_name, hashed};
use crate::{Attachment, Endpoint, Error, Names, PortMapping, Result};
pub(crate) use inner::{Inner, mac};
use inner::{hosts, rules};
use sockets::{Sockets, tunnel_link};

/// How a bridge network is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BridgeOptions {
    /// Its subnet; `None` picks a free one of Docker's default pools. When the bridge is made, no route of the host may overlap with it, but
    /// for the default route and its pieces: those broader than /8, as VPNs make them.
    pub subnet: Option<Ipv4Net>,
    /// Its IPv6 subnet, for both kinds of addresses; `None` leaves IPv6 off.
    pub subnet6: Option<Ipv6Net>,
    /// No route to the outside.
    pub internal: bool,
    /// MTU in bytes; `None` is the default route's.
    pub mtu: Option<u32>,
    /// The bridge's own address in a subnet, at most one in each; else it is the subnet's first.
    pub gateways: Vec<IpAddr>,
    /// The part of a subnet whose addresses are given out, at most one of each; others are had by asking for them.
    pub ranges: Vec<IpNet>,
    /// Addresses of others in the subnets, by name; no endpoint gets them.
    pub reserved: BTreeMap<String, IpAddr>,
    /// Means nothing here.
    pub labels: BTreeMap<String, String>,
}

impl BridgeOptions {
    /// Docker's defaults.
    pub fn new() -> Self {
        Self::default()
    }
    /// Sets the subnet.
    pub fn subnet(mut self, subnet: Ipv4Net) -> Self {
        self.subnet = Some(subnet);
        self
    }
    /// Sets the IPv6 subnet.
    pub fn subnet6(mut self, subnet: Ipv6Net) -> Self {
        self.subnet6 = Some(subnet);
        self
    }
    /// Leaves out the way to the outside.
    pub fn internal(mut self, internal: bool) -> Self {
        self.internal = internal;
        self
    }
    /// Sets the MTU in bytes.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }
    /// Sets the bridge's own address in the subnet that holds it.
    pub fn gateway(mut self, address: IpAddr) -> Self {
        self.gateways.push(address);
        self
    }
    /// Sets the part of its subnet whose addresses are given out.
    pub fn range(mut self, range: impl Into<IpNet>) -> Self {
        self.ranges.push(range.into().trunc());
        self
    }
    /// Keeps an address from endpoints.
    pub fn reserve(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.reserved.insert(name.into(), address);
        self
    }
    /// Sets a label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }
}

/// A bridge network on this host.
///
/// It works on the network namespace in which it was opened, whichever thread uses it. Any number of handles in any number of
/// processes may use the same state directory at once.
#[derive(Clone)]
pub struct Bridge(Arc<Inner>);

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("name", &self.0.name).field("network", &self.0.network).finish()
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

impl Bridge {
    /// Opens the network `name`, making bridge, table and address pool if they are not there. `state` is a directory for what the kernel cannot hold.
    ///
    /// A network that exists keeps its options; those given must not contradict them.
    pub fn open(state: impl Into<PathBuf>, name: &str, options: &BridgeOptions) -> Result<Self> {
        Self::make(&state.into(), name, Some(options), None, |state| files(state, name))
    }

    /// As [`Bridge::open`] or, without options, [`Bridge::find`]; with addresses from elsewhere and, for a network of several hosts, a
    /// tunnel between them.
    pub(crate) fn make(
        state: &Path,
        name: &str,
        options: Option<&BridgeOptions>,
        tunnel: Option<Tunnel>,
        ipam: impl FnOnce(&State) -> Result<Box<dyn Ipam>>,
    ) -> Result<Self> {
        check_name("network name", name)?;
        options.map_or(Ok(()), |options| check(name, options))?;
        let state = State::open(state)?;
        let _lock = state.lock()?;
        let mut sockets = Sockets::open()?;
        let known = state.network(name)?;
        let fresh = known.is_none();
        // What stands is not to fall by a route that came later.
        let stands = match &known {
            Some(network) => network.is_settled() && sockets.link(&network.link)?.is_some(),
            None => false,
        };
        let network = match (known, options) {
            (Some(network), _) => {
                fits(name, &network, options.unwrap_or(&BridgeOptions::default()), tunnel)?;
                network
            }
            (None, Some(options)) => {
                // Before anything in the kernel, so that a crash leaves nothing that `list` does not show.
                let network = Network { tunnel, ..new_network(&state, name, options) };
                state.save_network(name, &network)?;
                network
            }
            (None, None) => return Err(Error::NotFound { name: name.to_owned() }),
        };
        state.forget_other_boots(name)?;
        let network = match if stands { Ok(network) } else { sockets.settle(&state, name, network) } {
            Err(error) if fresh => {
                // It has never been, and the first error is the one to tell.
                let _ = state.remove_network(name);
                return Err(error);
            }
            settled => settled?,
        };
        let bridge = Self::new(&state, name, network, ipam(&state)?, sockets)?;
        bridge.0.ensure(&mut bridge.0.sockets())?;
        Ok(bridge)
    }

    fn new(
        state: &State,
        name: &str,
        network: Network,
        ipam: Box<dyn Ipam>,
        sockets: Sockets,
    ) -> Result<Self> {
        let host = Host::current().map_err(Error::kernel("find the network namespace"))?;
        let (name, state, sockets) = (name.to_owned(), state.clone(), Mutex::new(sockets));
        Ok(Self(Arc::new(Inner { host, state, name, network, ipam, sockets })))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Opens a network that is there, with the options that it was made with.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub fn find(state: impl Into<PathBuf>, name: &str) -> Result<Self> {
        Self::make(&state.into(), name, None, None, |state| files(state, name))
    }

    /// Opens a network that is there as it is: nothing in the kernel is made, mended or compared with the host's routes, so that
    /// what can no longer work can be looked at, [detached](Self::detach) from and [removed](Self::remove). To attach, [`Bridge::find`] it.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub fn as_is(state: impl Into<PathBuf>, name: &str) -> Result<Self> {
        check_name("network name", name)?;
        let state = State::open(&state.into())?;
        let _lock = state.lock()?;
        let network = state.network(name)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })?;
        fits(name, &network, &BridgeOptions::default(), None)?;
        Self::new(&state, name, network, files(&state, name)?, Sockets::open()?)
    }

    /// The names of all networks of a state directory, those included whose making a crash cut short.
    pub fn list(state: impl Into<PathBuf>) -> Result<Vec<String>> {
        let state = State::open(&state.into())?;
        let _lock = state.lock()?;
        state.networks()
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of the bridge's link on the host.
    pub fn link(&self) -> &str {
        &self.0.network.link
    }

    /// The network's subnets.
    pub fn subnets(&self) -> &[IpNet] {
        &self.0.network.subnets
    }

    /// The address of the bridge, by which endpoints reach the outside; none if the network is internal.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.0.gateways().first().copied().filter(|_| !self.0.network.internal)
    }

    /// The bridge's own address in each of its [subnets](Self::subnets), also where it leads nowhere.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.0.gateways()
    }

    /// The parts of its subnets whose addresses are given out, where these are not all.
    pub fn ranges(&self) -> &[IpNet] {
        &self.0.network.ranges
    }

    /// The addresses that no endpoint gets, by name.
    pub fn reserved(&self) -> &BTreeMap<String, IpAddr> {
        &self.0.network.reserved
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0.network.labels
    }

    /// Whether it has no route to the outside.
    pub fn is_internal(&self) -> bool {
        self.0.network.internal
    }

    /// When it was made.
    pub fn created(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.network.created)
    }

    /// Puts the network namespace on the bridge: veth, address, routes, published ports.
    ///
    /// # Errors
    /// [`Error::PortAllocated`] and [`Error::AddressInUse`] before anything was changed. On any other error too nothing stays behind.
    pub fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
        let endpoint = Endpoint { id: endpoint.id_or_random()?, ..endpoint.clone() };
        endpoint.names.iter().try_for_each(|name| check_name("dns name", name))?;
        // The lowest bit of the first byte marks a group's.
        if endpoint.mac.is_some_and(|mac| mac[0] & 1 != 0 || mac == [0; 6]) {
            let reason = "a MAC address of one interface is wanted".to_owned();
            return Err(Error::InvalidOption { network: self.name().to_owned(), reason });
        }
        let record = self.0.attach(netns, &endpoint)?;
        let attachment = Attachment {
            id: record.id,
            addresses: record.addresses.iter().map(|a| (a.addr(), a.prefix_len())).collect(),
            gateway: self.gateway(),
            mac: record.mac,
            ports: record.ports,
        };
        Ok(Lease::new(self.clone(), attachment))
    }

    /// Publishes ports of an endpoint that is attached and has none yet. Returns them with their host ports.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PortAllocated`]; [`Error::EndpointExists`] if it has ports already. Nothing is changed then.
    pub fn publish(&self, id: &str, ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
        check_name("endpoint id", id)?;
        Ok(self.0.publish_later(id, ports)?.ports)
    }

    /// Detaches by endpoint ID, whatever is left of it (after a crash too). An endpoint that is not there is no error.
    ///
    /// If its network namespace is dead, the kernel may take some milliseconds more to remove its link; nobody can send by it.
    pub fn detach(&self, id: &str) -> Result<()> {
        check_name("endpoint id", id)?;
        let _lock = self.0.state.lock()?;
        self.0.detach(&mut self.0.sockets(), id)
    }

    /// Detaches an endpoint whose container has ended: as [`Bridge::detach`], but its link is only set down, without waiting for its network
    /// namespace, with which the kernel removes it. Where another process keeps that alive, a dead link stays in it.
    pub fn release(&self, id: &str) -> Result<()> {
        check_name("endpoint id", id)?;
        let _lock = self.0.state.lock()?;
        self.0.release(&mut self.0.sockets(), id)
    }

    /// Removes every endpoint that is not in `valid`, and mends what someone flushed.
    pub fn repair(&self, valid: &[&str]) -> Result<Repaired> {
        let inner = &self.0;
        let _lock = inner.state.lock()?;
        let mut sockets = inner.sockets();
        inner.bridge(&mut sockets)?;
        inner.ensure(&mut sockets)?;
        inner.state.remove_half_written(&inner.name)?;
        let mut repaired = Repaired { removed: inner.known(&mut sockets)?, ..Repaired::default() };
        repaired.removed.retain(|id| !valid.contains(&id.as_str()));
        for id in &repaired.removed {
            inner.detach(&mut sockets, id)?;
        }
        inner.forget_unowned(&mut sockets)?;
        inner.forget_stale(&mut sockets)?;
        for record in inner.state.records(&inner.name)? {
            if sockets.firewall().restore(&rules(&inner.owner(&record.id), &record))? {
                repaired.restored.push(record.id);
            }
        }
        Ok(repaired)
    }

    /// Removes bridge, table and state. Endpoints must be gone; those that nobody detached go if their network namespaces have.
    ///
    /// # Errors
    /// [`Error::NetworkInUse`]
    pub fn remove(self) -> Result<()> {
        let inner = &self.0;
        let _lock = inner.state.lock()?;
        let mut sockets = inner.sockets();
        let endpoints = inner.forget_dead(&mut sockets)?;
        if endpoints > 0 {
            return Err(Error::NetworkInUse { network: inner.name.clone(), endpoints });
        }
        // The tunnel's end while rules still guard it.
        inner.network.tunnel.map_or(Ok(()), |_| sockets.delete_link(&tunnel_link(&inner.network.link)))?;
        sockets.delete_link(&inner.network.link)?;
        sockets.firewall().remove_network(&inner.network.link)?;
        inner.forget_stale(&mut sockets)?;
        inner.state.remove_network(&inner.name)
    }

    /// What keeps packets from passing although all that is this network's is right: base chains of others that drop what is forwarded
    /// unless told otherwise, as `family table chain`. A packet must pass every table, so nothing here can overrule them. Docker
    /// makes such a chain on purpose. Rules of the legacy `iptables` back end cannot be seen.
    pub fn obstacles(&self) -> Result<Vec<String>> {
        let chains = self.0.sockets().filter.dump(&nft::list_chains(), nft::parse_forward_drop);
        chains.map_err(Error::kernel("list nf_tables chains"))
    }

    /// The IDs of the attached endpoints.
    pub fn endpoints(&self) -> Result<Vec<String>> {
        let records = self.0.state.records(&self.0.name)?;
        Ok(records.into_iter().map(|record| record.id).collect())
    }
}

/// Addresses in the state directory.
fn files(state: &State, name: &str) -> Result<Box<dyn Ipam>> {
    Ok(Box::new(DirIpam::open(state.ip_dir(name))?))
}

/// Fails if the options contradict each other.
fn check(name: &str, options: &BridgeOptions) -> Result<()> {
    let subnets = asked(options);
    let bad = |reason: String| Err(Error::InvalidOption { network: name.to_owned(), reason });
    for subnet in &subnets {
        if subnet.prefix_len() == subnet.max_prefix_len() {
            return bad(format!("{subnet} is one address, and the bridge itself needs one"));
        }
        if options.gateways.iter().filter(|gateway| subnet.contains(*gateway)).count() > 1 {
            return bad(format!("more than one gateway in {subnet}"));
        }
        if options.ranges.iter().filter(|range| subnet.contains(*range)).count() > 1 {
            return bad(format!("more than one range in {subnet}"));
        }
    }
    for address in options.gateways.iter().chain(options.reserved.values()) {
        let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(address)) else {
            return bad(format!("{address} is in none of its subnets"));
        };
        ipam::check(*subnet, &[], *address)?;
    }
    match options.ranges.iter().find(|range| !subnets.iter().any(|subnet| subnet.contains(*range))) {
        Some(range) => bad(format!("{range} is in none of its subnets")),
        None => Ok(()),
    }
}

/// Fails if the network is not what is asked for.
fn fits(name: &str, network: &Network, options: &BridgeOptions, tunnel: Option<Tunnel>) -> Result<()> {
    match contradiction(network, options, tunnel) {
        Some(reason) => Err(Error::InvalidOption { network: name.to_owned(), reason }),
        None => Ok(()),
    }
}

fn contradiction(network: &Network, options: &BridgeOptions, tunnel: Option<Tunnel>) -> Option<String> {
    if let Some(subnet) = asked(options).into_iter().find(|subnet| !network.subnets.contains(subnet)) {
        let own: Vec<_> = network.subnets.iter().map(ToString::to_string).collect();
        return Some(format!("its subnets are {}, without {subnet}", own.join(" and ")));
    }
    if let Some(gateway) =
        options.gateways.iter().find(|g| !network.subnets.iter().any(|s| network.gateway(*s) == **g))
    {
        return Some(format!("its gateway is another than {gateway}"));
    }
    if let Some(range) = options.ranges.iter().find(|range| !network.ranges.contains(range)) {
        return Some(format!("its addresses are not of {range}"));
    }
    if tunnel != network.tunnel {
        return Some("it is another kind of network, or a tunnel with other ends".to_owned());
    }
    (options.internal && !network.internal).then(|| "it is not internal".to_owned())
}

fn asked(options: &BridgeOptions) -> Vec<IpNet> {
    let v4 = options.subnet.iter().map(|subnet| IpNet::V4(subnet.trunc()));
    v4.chain(options.subnet6.iter().map(|subnet| IpNet::V6(subnet.trunc()))).collect()
}

fn new_network(state: &State, name: &str, options: &BridgeOptions) -> Network {
    Network {
        link: hashed("ls-", &[&state.root().to_string_lossy(), name]),
        subnets: asked(options),
        chosen: options.subnet.is_none(),
        internal: options.internal,
        mtu: options.mtu,
        tunnel: None,
        gateways: options.gateways.clone(),
        ranges: options.ranges.clone(),
        reserved: options.reserved.clone(),
        labels: options.labels.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    }
}

/// The endpoints' names and IDs; whichever process attached them.
impl Names for Bridge {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let records = self.0.state.records(&self.0.name).ok()?;
        let named = |record: &&Record| {
            record.id.eq_ignore_ascii_case(name) || record.names.iter().any(|n| n.eq_ignore_ascii_case(name))
        };
        let addresses: Vec<_> = records.iter().filter(named).flat_map(hosts).collect();
        (!addresses.is_empty()).then_some(addresses)
    }
    fn name(&self, address: IpAddr) -> Option<String> {
        let records = self.0.state.records(&self.0.name).ok()?;
        let record = records.into_iter().find(|record| hosts(record).contains(&address))?;
        Some(record.names.into_iter().next().unwrap_or(record.id))
    }
    fn covers(&self, address: IpAddr) -> bool {
        self.0.network.subnets.iter().any(|subnet| subnet.contains(&address))
    }
}
