//! The two netlink sockets of a bridge, and what is asked of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;

use super::inner::{Inner, hosts, mac, rules};
use crate::firewall::{Firewall, NetworkRules};
use crate::ipam;
use crate::netlink::link::{self, Link};
use crate::netlink::message::errno;
use crate::netlink::neighbour::{self, Neighbour, Vxlan};
use crate::netlink::{LeftBehind, NETLINK_NETFILTER, NETLINK_ROUTE, Netlink, conntrack};
use crate::state::{Network, Record, State, Tunnel, hashed};
use crate::{Error, Protocol, Result};

pub(crate) struct Sockets {
    pub(super) route: Netlink,
    pub(super) filter: Netlink,
    // Dropped after the socket: the kernel may collect at once, and whoever lets go of it last closes it.
    left_behind: Option<LeftBehind>,
}

/// Who closes a netfilter socket waits until what was deleted a moment ago is no longer in use anywhere, 5 to 10 ms. A thread that did
/// would keep its process from ending, so the kernel does.
impl Drop for Sockets {
    fn drop(&mut self) {
        // If it cannot, the socket is closed here.
        self.left_behind = self.filter.leave_behind().ok();
    }
}

impl Sockets {
    pub(super) fn open() -> Result<Self> {
        let open = |protocol| Netlink::open(protocol).map_err(Error::kernel("open a netlink socket"));
        Ok(Self { route: open(NETLINK_ROUTE)?, filter: open(NETLINK_NETFILTER)?, left_behind: None })
    }

    pub(crate) fn firewall(&mut self) -> Firewall<'_> {
        Firewall(&mut self.filter)
    }

    pub(super) fn publish(&mut self, inner: &Inner, record: &Record) -> Result<()> {
        self.firewall().add_endpoint(&rules(&inner.owner(&record.id), record))?;
        self.forget_clients(record)
    }

    /// [`Self::publish`] for an endpoint that had no ports until now.
    pub(super) fn publish_more(&mut self, inner: &Inner, record: &Record) -> Result<()> {
        self.firewall().restore(&rules(&inner.owner(&record.id), record))?;
        self.forget_clients(record)
    }

    fn forget_clients(&mut self, record: &Record) -> Result<()> {
        // Clients that tried before must not go on talking to nobody.
        let udp: Vec<_> =
            record.ports.iter().filter(|p| p.protocol == Protocol::Udp).map(|p| p.host_port).collect();
        if udp.is_empty() {
            return Ok(());
        }
        let stale = |c: &conntrack::Connection| c.protocol == Protocol::Udp.number() && udp.contains(&c.port);
        self.forget(&hosts(record).into_iter().collect(), stale)
    }

    /// Connections from and to addresses that will be others'.
    pub(super) fn forget_connections(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<()> {
        let theirs = |address: Option<IpAddr>| address.is_some_and(|a| addresses.contains(&a));
        self.forget(addresses, |c| theirs(c.source) || theirs(c.reply_source))
    }

    /// Among those of the addresses' families: for each the kernel walks its whole table, 10 ms even where that is empty.
    fn forget(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        stale: impl Fn(&conntrack::Connection) -> bool,
    ) -> Result<()> {
        let doing = || Error::kernel("forget stale connections");
        for family in addresses.iter().map(|address| link::family(*address)).collect::<BTreeSet<_>>() {
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

    pub(super) fn link(&mut self, name: &str) -> Result<Option<Link>> {
        self.route.link(name).map_err(Error::kernel(format!("look up link {name}")))
    }

    pub(super) fn bridge_index(&mut self, name: &str) -> Result<u32> {
        self.link(name)?.map(|l| l.index).ok_or_else(|| Error::NotFound { name: name.to_owned() })
    }

    /// The links on a bridge.
    pub(super) fn ports(&mut self, bridge: &str) -> Result<Vec<Link>> {
        let index = self.bridge_index(bridge)?;
        let links = self.route.links().map_err(Error::kernel("list links"))?;
        Ok(links.into_iter().filter(|l| l.master == Some(index)).collect())
    }

    /// Deletes an endpoint's link, or lets it go: nobody can send by one whose peer's network namespace is dead, and the kernel removes
    /// it by itself. Who deletes one waits for that, 15 to 25 ms.
    pub(super) fn delete_veth(&mut self, name: &str) -> Result<()> {
        for _ in 0..20 {
            let Some(link) = self.link(name)? else { return Ok(()) };
            if self.is_dying(&link)? {
                return Ok(());
            }
            // Sockets that were just closed in it keep a network namespace alive for a moment.
            std::thread::sleep(Duration::from_micros(250));
        }
        self.delete_link(name)
    }

    /// Ends an endpoint's link for all who are in its network namespace, and leaves it to the kernel, which removes it with that. Nobody
    /// waits: as long as the kernel has not freed a socket that was closed in it, the network namespace lives.
    pub(super) fn take_down(&mut self, name: &str) -> Result<()> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        match self.route.run(link::set_down(link.index)) {
            Err(e) if errno(&e) == Some(Errno::NODEV.raw_os_error()) => Ok(()),
            other => other.map_err(Error::kernel(format!("set down link {name}"))),
        }
    }

    /// Whether an endpoint's link is there, and its network namespace too.
    pub(super) fn is_in_use(&mut self, veth: &str) -> Result<bool> {
        self.link(veth)?.map_or(Ok(false), |link| Ok(!self.is_dying(&link)?))
    }

    /// Whether a link is only waiting for the kernel to remove it.
    pub(super) fn is_dying(&mut self, link: &Link) -> Result<bool> {
        self.route.peer_is_dead(link).map_err(Error::kernel(format!("look up the peer of {}", link.name)))
    }

    pub(super) fn delete_link(&mut self, name: &str) -> Result<()> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        match self.route.run(link::delete(link.index)) {
            // Its network namespace may have died meanwhile.
            Err(e) if errno(&e) == Some(Errno::NODEV.raw_os_error()) => Ok(()),
            other => other.map_err(Error::kernel(format!("delete link {name}"))),
        }
    }

    pub(super) fn create_bridge(&mut self, network: &Network) -> Result<()> {
        const VXLAN_HEADERS: u32 = 50;
        let mtu = match network.mtu {
            Some(mtu) => mtu,
            None if network.tunnel.is_some() => self.default_mtu()? - VXLAN_HEADERS,
            None => self.default_mtu()?,
        };
        let message = link::create_bridge(&network.link, mac(network.gateway(network.subnets[0])), mtu);
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
    pub(super) fn settle(&mut self, state: &State, name: &str, mut network: Network) -> Result<Network> {
        let others = self.others(&network.link)?;
        if network.chosen {
            network.subnets.retain(|subnet| subnet.addr().is_ipv6() || clear(*subnet, &others).is_ok());
        }
        network.subnets.iter().try_for_each(|subnet| clear(*subnet, &others))?;
        if !network.is_settled() {
            network = self.choose(network, &others)?;
        }
        state.save_network(name, &network)?;
        Ok(network)
    }

    /// Fails if one of the network's subnets is in use elsewhere.
    pub(super) fn check_clear(&mut self, network: &Network) -> Result<()> {
        let others = self.others(&network.link)?;
        network.subnets.iter().try_for_each(|subnet| clear(*subnet, &others))
    }

    /// Where the host's routes lead, but for those by this bridge. Those broader than /8 are pieces of a default route, as VPNs
    /// make them (`0.0.0.0/1`): what is more specific stands beside them.
    fn others(&mut self, bridge: &str) -> Result<Vec<IpNet>> {
        const SPECIFIC: u8 = 8;
        let own = self.link(bridge)?.map(|l| l.index);
        let mut routes = self.route.routes().map_err(Error::kernel("list routes"))?;
        routes.retain(|route| own.is_none() || route.device != own);
        let destinations = routes.into_iter().filter_map(|route| route.destination);
        Ok(destinations.filter(|destination| destination.prefix_len() >= SPECIFIC).collect())
    }

    /// The first of the default pools that nobody has; claiming it in the table settles races with other state directories.
    fn choose(&mut self, mut network: Network, others: &[IpNet]) -> Result<Network> {
        self.firewall().install()?;
        let rest = network.subnets.clone();
        for subnet in ipam::default_pools().filter(|subnet| clear(*subnet, others).is_ok()) {
            network.subnets = [&[subnet], &rest[..]].concat();
            let rules = NetworkRules {
                link: &network.link,
                subnets: network.subnets.clone(),
                internal: network.internal,
                tunnel: network.tunnel,
            };
            match self.firewall().add_network(&rules) {
                Err(Error::SubnetInUse { .. }) => {}
                other => return other.map(|()| network),
            }
        }
        Err(Error::NoFreeSubnet)
    }

    /// Makes the tunnel's end on the bridge, still down. The rules that guard it are there already.
    pub(super) fn dig(&mut self, bridge: &str, master: u32, tunnel: Tunnel) -> Result<(String, u32)> {
        let name = tunnel_link(bridge);
        if self.link(&name)?.is_none() {
            let mtu = self.link(bridge)?.map_or(1450, |l| l.mtu);
            let mac = mac(IpAddr::V4(tunnel.vtep));
            let Tunnel { vni, vtep: local, port } = tunnel;
            let vxlan = Vxlan { vni, local, port, mtu, mac, master };
            let made = self.route.run(neighbour::create_vxlan(&name, &vxlan));
            made.map_err(Error::kernel(format!("create vxlan {vni} on {local}")))?;
        }
        let index = self.bridge_index(&name)?;
        Ok((name, index))
    }

    /// Makes the tunnel's tables hold exactly these; how many entries were added and removed.
    pub(crate) fn connect(&mut self, bridge: &str, mut wanted: Vec<Neighbour>) -> Result<(usize, usize)> {
        let doing = || Error::kernel(format!("program the peers of {bridge}"));
        let index = self.bridge_index(&tunnel_link(bridge))?;
        wanted.sort_unstable();
        let present = self.route.neighbours(index).map_err(doing())?;
        let stale: Vec<_> = present.iter().filter(|n| wanted.binary_search(n).is_err()).collect();
        let missing: Vec<_> = wanted.iter().filter(|n| present.binary_search(n).is_err()).collect();
        // First what is wrong: an address that moved must not point to two places.
        let mut batch: Vec<_> = stale.iter().map(|n| n.delete(index)).collect();
        batch.extend(missing.iter().map(|n| n.add(index)));
        self.route.apply(batch).map_err(|(_, e)| doing()(e))?;
        Ok((missing.len(), stale.len()))
    }

    pub(crate) fn allow_tunnel_ends(
        &mut self,
        bridge: &str,
        tunnel: Tunnel,
        ends: &[Ipv4Addr],
    ) -> Result<()> {
        self.firewall().set_tunnel_ends(bridge, tunnel, ends)
    }
}

/// Fails if one of the others overlaps.
fn clear(subnet: IpNet, others: &[IpNet]) -> Result<()> {
    match others.iter().find(|other| ipam::overlap(&subnet, other)) {
        Some(with) => Err(Error::SubnetInUse { subnet, with: format!("the route to {with}") }),
        None => Ok(()),
    }
}

/// The name of the tunnel's link.
pub(super) fn tunnel_link(bridge: &str) -> String {
    hashed("lx", &[bridge])
}
