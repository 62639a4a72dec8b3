//! Bridge networks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::{IpNet, Ipv4Net};
use rustix::io::Errno;

use crate::firewall::{EndpointRules, Firewall, NetworkRules};
use crate::ipam::{self, DirIpam, Ipam};
use crate::lease::Lease;
use crate::netlink::link::{self, Link, Peer};
use crate::netlink::message::errno;
use crate::netlink::{NETLINK_NETFILTER, NETLINK_ROUTE, Netlink, conntrack, nft};
use crate::netns::{self, Host};
use crate::state::{Network, Record, State, check_name, hashed};
use crate::{Endpoint, Error, Names, PortMapping, Protocol, Result};

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

struct Inner {
    host: Host,
    state: State,
    name: String,
    network: Network,
    ipam: DirIpam,
    sockets: Mutex<Sockets>,
}

struct Sockets {
    route: Netlink,
    filter: Netlink,
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
        check_name("network name", name)?;
        let state = State::open(&state.into())?;
        let _lock = state.lock()?;
        let mut sockets = Sockets::open()?;
        let host = Host::current().map_err(Error::kernel("find the network namespace"))?;
        state.forget_other_boots(name)?;
        let network = match state.network(name)? {
            Some(network) => {
                contradiction(&network, options).map_or(Ok(()), |reason| {
                    Err(Error::InvalidOption { network: name.to_owned(), reason })
                })?;
                network
            }
            None => {
                // Before anything in the kernel, so that a crash leaves nothing that `list` does not show.
                let network = new_network(&state, name, options);
                state.save_network(name, &network)?;
                network
            }
        };
        let network = sockets.settle(&state, name, network)?;
        let ipam = DirIpam::open(state.ip_dir(name))?;
        let bridge = Self(Arc::new(Inner {
            host,
            ipam,
            name: name.to_owned(),
            network,
            sockets: Mutex::new(sockets),
            state: state.clone(),
        }));
        bridge.0.ensure(&mut bridge.0.sockets())?;
        Ok(bridge)
    }

    /// Opens a network that is there, with the options that it was made with.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub fn find(state: impl Into<PathBuf>, name: &str) -> Result<Self> {
        let directory = state.into();
        check_name("network name", name)?;
        if State::open(&directory)?.network(name)?.is_none() {
            return Err(Error::NotFound { name: name.to_owned() });
        }
        Self::open(directory, name, &BridgeOptions::default())
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

    /// Puts the network namespace on the bridge: veth, address, routes, published ports.
    ///
    /// # Errors
    /// [`Error::PortAllocated`] and [`Error::AddressInUse`] before anything was changed. On any other error too nothing stays behind.
    pub fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
        let mut endpoint = endpoint.clone();
        if endpoint.id.is_empty() {
            endpoint.id = format!("{:032x}", u128::from_ne_bytes(crate::random()));
        }
        check_name("endpoint id", &endpoint.id)?;
        endpoint.names.iter().try_for_each(|name| check_name("dns name", name))?;
        let record = self.0.attach(netns, &endpoint)?;
        Ok(Lease::new(self.clone(), record))
    }

    /// Detaches by endpoint ID, whatever is left of it (after a crash too). An endpoint that is not there is no error.
    pub fn detach(&self, id: &str) -> Result<()> {
        check_name("endpoint id", id)?;
        let _lock = self.0.state.lock()?;
        self.0.detach(&mut self.0.sockets(), id)
    }

    /// Removes every endpoint that is not in `valid`, and mends what someone flushed.
    pub fn repair(&self, valid: &[&str]) -> Result<Repaired> {
        let inner = &self.0;
        let _lock = inner.state.lock()?;
        let mut sockets = inner.sockets();
        inner.ensure(&mut sockets)?;
        inner.state.remove_half_written(&inner.name)?;
        let mut repaired = Repaired { removed: inner.known(&mut sockets)?, ..Repaired::default() };
        repaired.removed.retain(|id| !valid.contains(&id.as_str()));
        for id in &repaired.removed {
            inner.detach(&mut sockets, id)?;
        }
        inner.forget_unowned(&mut sockets)?;
        for record in inner.state.records(&inner.name)? {
            if sockets.firewall().restore(&rules(&inner.owner(&record.id), &record))? {
                repaired.restored.push(record.id);
            }
        }
        Ok(repaired)
    }

    /// Removes bridge, table and state. Endpoints must be gone.
    pub fn remove(self) -> Result<()> {
        let inner = &self.0;
        let _lock = inner.state.lock()?;
        let endpoints = inner.state.records(&inner.name)?.len();
        if endpoints > 0 {
            return Err(Error::NetworkInUse { network: inner.name.clone(), endpoints });
        }
        let mut sockets = inner.sockets();
        sockets.firewall().remove_network(&inner.network.link)?;
        sockets.delete_link(&inner.network.link)?;
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

/// What `options` ask for that the network is not.
fn contradiction(network: &Network, options: &BridgeOptions) -> Option<String> {
    if let Some(subnet) = options.subnet.map(|s| IpNet::V4(s.trunc()))
        && !network.subnets.contains(&subnet)
    {
        let own = network.subnets.first().map_or_else(|| "not chosen".to_owned(), ToString::to_string);
        return Some(format!("its subnet is {own}, not {subnet}"));
    }
    (options.internal && !network.internal).then(|| "it is not internal".to_owned())
}

fn new_network(state: &State, name: &str, options: &BridgeOptions) -> Network {
    Network {
        link: hashed("ls-", &[&state.root().to_string_lossy(), name]),
        subnets: options.subnet.iter().map(|s| IpNet::V4(s.trunc())).collect(),
        chosen: options.subnet.is_none(),
        internal: options.internal,
        mtu: options.mtu,
    }
}

impl Inner {
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        // A poisoned lock only means that someone panicked between two messages.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner that the kernel's objects of an endpoint name.
    fn owner(&self, id: &str) -> String {
        format!("{}/{id}", self.network.link)
    }

    fn gateways(&self) -> Vec<IpAddr> {
        self.network.subnets.iter().map(|subnet| gateway(*subnet)).collect()
    }

    /// Makes bridge and table what they should be.
    fn ensure(&self, sockets: &mut Sockets) -> Result<()> {
        let network = &self.network;
        sockets.firewall().install()?;
        sockets.firewall().add_network(&NetworkRules {
            link: &network.link,
            subnets: network.subnets.clone(),
            internal: network.internal,
        })?;
        if sockets.link(&network.link)?.is_none() {
            sockets.create_bridge(network)?;
        }
        let index = sockets.bridge_index(&network.link)?;
        let doing = || format!("set up bridge {}", network.link);
        self.host.run(|| host_settings(network)).and_then(|r| r).map_err(Error::kernel(doing()))?;
        let alias = format!("longshore {} {}", self.name, self.state.root().display());
        let alias = alias.get(..255).unwrap_or(&alias);
        let mut batch = vec![link::set_alias(&network.link, alias), link::set_up(index)];
        batch.extend(network.subnets.iter().map(|s| link::add_address(index, with_address(*s, gateway(*s)))));
        sockets.route.apply(batch).map_err(|(_, e)| Error::kernel(doing())(e))
    }

    fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Record> {
        if self.network.internal && !endpoint.ports.is_empty() {
            let reason = "it is internal: ports cannot be published".to_owned();
            return Err(Error::InvalidOption { network: self.name.clone(), reason });
        }
        let _lock = self.state.lock()?;
        let mut sockets = self.sockets();
        self.make_way(&mut sockets, &endpoint.id)?;
        let record = self.reserve(endpoint)?;
        let attached = self.state.save_record(&self.name, &record).and_then(|()| {
            let record = self.publish(&mut sockets, &record)?;
            self.plug(&mut sockets, netns, &record)?;
            Ok(record)
        });
        if attached.is_err() {
            // The first error is the one to tell; what this leaves, the next repair finds.
            let _ = self.detach(&mut sockets, &endpoint.id);
        }
        attached
    }

    /// An endpoint whose veth died with its network namespace may come again.
    fn make_way(&self, sockets: &mut Sockets, id: &str) -> Result<()> {
        match self.state.record(&self.name, id)? {
            Some(record) if sockets.link(&record.veth)?.is_some() => {
                Err(Error::EndpointExists { id: id.to_owned(), network: self.name.clone() })
            }
            Some(_) => self.detach(sockets, id),
            None => Ok(()),
        }
    }

    fn reserve(&self, endpoint: &Endpoint) -> Result<Record> {
        let mut record = Record {
            id: endpoint.id.clone(),
            veth: hashed("lv", &[&self.network.link, &endpoint.id]),
            mac: [0; 6],
            addresses: Vec::new(),
            ports: endpoint.ports.clone(),
            names: endpoint.names.clone(),
        };
        for subnet in &self.network.subnets {
            let wanted = endpoint.address.filter(|a| a.is_ipv4() == subnet.addr().is_ipv4());
            let address = self.ipam.allocate(*subnet, &self.gateways(), &endpoint.id, wanted)?;
            record.addresses.push(with_address(*subnet, address));
        }
        record.mac = mac(record.addresses[0].addr());
        Ok(record)
    }

    /// Claims the host ports. One that was left to us is tried until it is free here and in the table.
    fn publish(&self, sockets: &mut Sockets, record: &Record) -> Result<Record> {
        const TRIES: usize = 32;
        let mut tries = 0;
        loop {
            let mut chosen = record.clone();
            chosen.ports =
                self.host.run(|| choose_ports(&record.ports)).map_err(Error::kernel("enter"))??;
            self.state.save_record(&self.name, &chosen)?;
            let published = match sockets.publish(self, &chosen) {
                Err(Error::Kernel { source, .. }) if crate::firewall::missing(&source) => {
                    self.ensure(sockets)?;
                    sockets.publish(self, &chosen)
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
    fn plug(&self, sockets: &mut Sockets, netns: BorrowedFd<'_>, record: &Record) -> Result<()> {
        let bridge = match sockets.link(&self.network.link)? {
            Some(link) => link,
            None => {
                self.ensure(sockets)?;
                sockets
                    .link(&self.network.link)?
                    .ok_or_else(|| Error::NotFound { name: self.name.clone() })?
            }
        };
        let owner = self.owner(&record.id);
        let gateways = if self.network.internal { Vec::new() } else { self.gateways() };
        let route = &mut sockets.route;
        netns::within(netns, || plug(route, netns, record, &bridge, &owner, &gateways))
            .and_then(|result| result)
            .map_err(Error::kernel(format!("connect endpoint `{}` to network `{}`", record.id, self.name)))
    }

    /// Removes all of an endpoint; goes on after an error, and returns the first.
    fn detach(&self, sockets: &mut Sockets, id: &str) -> Result<()> {
        let record = self.state.record(&self.name, id)?;
        let veth = hashed("lv", &[&self.network.link, id]);
        let unpublished = match &record {
            Some(record) => sockets.firewall().remove_endpoint(&rules(&self.owner(id), record)),
            None => sockets.firewall().remove_owner(&self.owner(id)),
        };
        let deleted = sockets.delete_link(&veth);
        let forgotten = record.iter().try_for_each(|record| sockets.forget_connections(record));
        unpublished.and(deleted).and(forgotten)?;
        for (address, owner) in self.addresses()? {
            if owner == id {
                self.ipam.release(self.network.subnets[0], address, id)?;
            }
        }
        self.state.remove_record(&self.name, id)
    }

    fn addresses(&self) -> Result<Vec<(IpAddr, String)>> {
        let lists = self.network.subnets.iter().map(|subnet| self.ipam.list(*subnet));
        Ok(lists.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Every endpoint that state or kernel know.
    fn known(&self, sockets: &mut Sockets) -> Result<Vec<String>> {
        let mut ids: Vec<_> = self.state.records(&self.name)?.into_iter().map(|record| record.id).collect();
        ids.extend(self.addresses()?.into_iter().map(|(_, owner)| owner));
        ids.extend(sockets.firewall().endpoints(&self.network.link)?);
        let prefix = format!("{}/", self.network.link);
        let ports = sockets.ports(&self.network.link)?;
        ids.extend(ports.iter().filter_map(|port| port.alias.strip_prefix(&prefix)).map(str::to_owned));
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Deletes veths of ours that no endpoint owns: a crash may have come before they were tagged.
    fn forget_unowned(&self, sockets: &mut Sockets) -> Result<()> {
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

/// What needs `/proc/sys`, which shows the calling thread's network namespace.
fn host_settings(network: &Network) -> io::Result<()> {
    let link = &network.link;
    set("net/ipv4/ip_forward", "1")?;
    // Ports published on 127.0.0.1: the table's `guard` chain keeps everyone else out.
    set(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
    let ipv6 = network.subnets.iter().any(|subnet| subnet.addr().is_ipv6());
    if ipv6 {
        set("net/ipv6/conf/all/forwarding", "1")?;
    }
    // A kernel without IPv6 has none of these, and needs none.
    let _ = set(&format!("net/ipv6/conf/{link}/accept_ra"), "0");
    let _ = set(&format!("net/ipv6/conf/{link}/disable_ipv6"), if ipv6 { "0" } else { "1" });
    Ok(())
}

/// Writes only what differs, so that it works where /proc/sys is read-only and right already.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path)?.trim() == value { Ok(()) } else { std::fs::write(path, value) }
}

/// Runs in the container's network namespace; `host` is a socket of the host's.
fn plug(
    host: &mut Netlink,
    netns: BorrowedFd<'_>,
    record: &Record,
    bridge: &Link,
    owner: &str,
    gateways: &[IpAddr],
) -> io::Result<()> {
    let mut inside = Netlink::open(NETLINK_ROUTE)?;
    let taken = inside.links()?;
    let (number, name) = (0..)
        .map(|n| (n, format!("eth{n}")))
        .find(|(_, name)| !taken.iter().any(|l| l.name == *name))
        .expect("some number is free");
    // Before the link is there, so that it never listens to a router that a neighbour plays.
    let _ = set("net/ipv6/conf/default/accept_ra", "0");
    let v4_only = record.addresses.iter().all(|a| a.addr().is_ipv4());
    let _ = set("net/ipv6/conf/default/disable_ipv6", if v4_only { "1" } else { "0" });
    let peer = Peer { name: &name, mac: record.mac, netns };
    let made = vec![
        link::create_veth(&record.veth, bridge.index, bridge.mtu, &peer),
        link::tag_port(&record.veth, owner),
    ];
    host.apply(made).map_err(|(_, e)| e)?;
    let eth = inside.link(&name)?.ok_or(io::ErrorKind::NotFound)?.index;
    const LOOPBACK: u32 = 1;
    let mut batch = vec![link::set_up(LOOPBACK), link::set_up(eth)];
    batch.extend(record.addresses.iter().map(|address| link::add_address(eth, *address)));
    batch.extend(gateways.iter().map(|gateway| link::add_default_route(eth, *gateway, number)));
    inside.apply(batch).map_err(|(_, e)| e)
}

impl Sockets {
    fn open() -> Result<Self> {
        let open = |protocol| Netlink::open(protocol).map_err(Error::kernel("open a netlink socket"));
        Ok(Self { route: open(NETLINK_ROUTE)?, filter: open(NETLINK_NETFILTER)? })
    }

    fn firewall(&mut self) -> Firewall<'_> {
        Firewall(&mut self.filter)
    }

    fn publish(&mut self, inner: &Inner, record: &Record) -> Result<()> {
        self.firewall().add_endpoint(&rules(&inner.owner(&record.id), record))?;
        // Clients that tried before must not go on talking to nobody.
        let udp: Vec<_> =
            record.ports.iter().filter(|p| p.protocol == Protocol::Udp).map(|p| p.host_port).collect();
        if udp.is_empty() {
            return Ok(());
        }
        let stale = |c: &conntrack::Connection| c.protocol == Protocol::Udp.number() && udp.contains(&c.port);
        self.forget(stale)
    }

    /// Connections from and to an endpoint: its address will be another's.
    fn forget_connections(&mut self, record: &Record) -> Result<()> {
        let addresses = hosts(record);
        let ours = |address: Option<IpAddr>| address.is_some_and(|a| addresses.contains(&a));
        self.forget(|c| ours(c.source) || ours(c.reply_source))
    }

    fn forget(&mut self, stale: impl Fn(&conntrack::Connection) -> bool) -> Result<()> {
        let doing = || Error::kernel("forget stale connections");
        for family in [2, 10] {
            let all = self.filter.dump(&conntrack::list(family), conntrack::parse).map_err(doing())?;
            let batch: Vec<_> = all.iter().filter(|c| stale(c)).map(conntrack::Connection::delete).collect();
            for message in batch {
                match self.filter.run(message) {
                    Err(e) if !crate::firewall::missing(&e) => return Err(doing()(e)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>> {
        self.route.link(name).map_err(Error::kernel(format!("look up link {name}")))
    }

    fn bridge_index(&mut self, name: &str) -> Result<u32> {
        self.link(name)?.map(|l| l.index).ok_or_else(|| Error::NotFound { name: name.to_owned() })
    }

    /// The links on a bridge.
    fn ports(&mut self, bridge: &str) -> Result<Vec<Link>> {
        let index = self.bridge_index(bridge)?;
        let links = self.route.links().map_err(Error::kernel("list links"))?;
        Ok(links.into_iter().filter(|l| l.master == Some(index)).collect())
    }

    fn delete_link(&mut self, name: &str) -> Result<()> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        match self.route.run(link::delete(link.index)) {
            // Its network namespace may have died meanwhile.
            Err(e) if errno(&e) == Some(Errno::NODEV.raw_os_error()) => Ok(()),
            other => other.map_err(Error::kernel(format!("delete link {name}"))),
        }
    }

    fn create_bridge(&mut self, network: &Network) -> Result<()> {
        let mtu = network.mtu.map_or_else(|| self.default_mtu(), Ok)?;
        let message = link::create_bridge(&network.link, mac(gateway(network.subnets[0])), mtu);
        match self.route.run(message) {
            Err(e) if errno(&e) == Some(Errno::EXIST.raw_os_error()) => Ok(()),
            other => other.map_err(Error::kernel(format!("create bridge {}", network.link))),
        }
    }

    /// That of the link with the default route.
    fn default_mtu(&mut self) -> Result<u32> {
        let routes = self.route.routes().map_err(Error::kernel("list routes"))?;
        let links = self.route.links().map_err(Error::kernel("list links"))?;
        let device = routes.iter().find(|r| r.destination.is_none()).and_then(|r| r.device);
        let link = links.iter().find(|l| Some(l.index) == device);
        Ok(link.map_or(1500, |l| l.mtu.clamp(1280, 65535)))
    }

    /// Chooses a subnet for a network that has none, or whose chosen one is now in use elsewhere, and saves it.
    fn settle(&mut self, state: &State, name: &str, mut network: Network) -> Result<Network> {
        let own = self.link(&network.link)?.map(|l| l.index);
        let routes = self.route.routes().map_err(Error::kernel("list routes"))?;
        let others: Vec<_> = routes
            .into_iter()
            .filter(|r| r.device != own || own.is_none())
            .filter_map(|r| r.destination)
            .collect();
        let free = |subnet: &IpNet| !others.iter().any(|other| ipam::overlap(subnet, other));
        if let Some(subnet) = network.subnets.first() {
            match others.iter().find(|other| ipam::overlap(subnet, other)) {
                None => {}
                Some(_) if network.chosen && own.is_none() => network.subnets.clear(),
                Some(with) => {
                    return Err(Error::SubnetInUse { subnet: *subnet, with: format!("the route to {with}") });
                }
            }
        }
        if network.subnets.is_empty() {
            self.firewall().install()?;
            for subnet in ipam::default_pools().filter(free) {
                network.subnets = vec![subnet];
                let rules =
                    NetworkRules { link: &network.link, subnets: vec![subnet], internal: network.internal };
                match self.firewall().add_network(&rules) {
                    Err(Error::SubnetInUse { .. }) => network.subnets.clear(),
                    other => {
                        other?;
                        break;
                    }
                }
            }
        }
        if network.subnets.is_empty() {
            return Err(Error::NoFreeSubnet);
        }
        state.save_network(name, &network)?;
        Ok(network)
    }
}

/// Each port with its host port chosen and, a moment ago, free of the host's own sockets.
fn choose_ports(ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
    // All are held at once, or two ephemeral ones could be the same.
    let mut held: (Vec<TcpListener>, Vec<UdpSocket>) = Default::default();
    let mut chosen = Vec::new();
    for port in ports {
        let address = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let at = SocketAddr::new(address, port.host_port);
        let bound = match port.protocol {
            Protocol::Tcp => bind_tcp(at).and_then(|s| {
                held.0.push(s);
                held.0[held.0.len() - 1].local_addr()
            }),
            Protocol::Udp => UdpSocket::bind(at).and_then(|s| {
                held.1.push(s);
                held.1[held.1.len() - 1].local_addr()
            }),
        };
        let bound = bound.map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => port.taken(),
            _ => Error::Kernel { doing: format!("bind {at}"), source: e },
        })?;
        chosen.push(PortMapping { host_port: bound.port(), ..*port });
    }
    Ok(chosen)
}

fn bind_tcp(at: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(at)
}

fn rules<'a>(owner: &'a str, record: &'a Record) -> EndpointRules<'a> {
    EndpointRules {
        owner,
        veth: &record.veth,
        mac: record.mac,
        addresses: hosts(record),
        ports: &record.ports,
    }
}

fn hosts(record: &Record) -> Vec<IpAddr> {
    record.addresses.iter().map(IpNet::addr).collect()
}

fn with_address(subnet: IpNet, address: IpAddr) -> IpNet {
    IpNet::new_assert(address, subnet.prefix_len())
}

/// The first address of the subnet is the bridge's.
pub(crate) fn gateway(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) + 1).into(),
        IpNet::V6(net) => std::net::Ipv6Addr::from(u128::from(net.network()) + 1).into(),
    }
}

/// From the address: whoever has an address next on the same bridge has the same MAC, and no neighbour's cache is stale.
fn mac(address: IpAddr) -> [u8; 6] {
    let bytes = link::octets(address);
    let [a, b, c, d] = *bytes.last_chunk().expect("an address has four bytes");
    [0x02, 0x42, a, b, c, d]
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
