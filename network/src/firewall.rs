//! The crate's nf_tables table: what is in it, and the elements that networks and endpoints put there.
//!
//! Rules never change; networks and endpoints are elements of sets and maps, so the cost of a packet and of an attachment does not
//! grow with their number. Each element's comment names its owner: `LINK` of a network, `LINK/ENDPOINT` of an endpoint.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rustix::io::Errno;

use crate::netlink::link::octets;
use crate::netlink::message::errno;
use crate::netlink::nft::{
    self, Base, Chain, Conntrack, Element, Expression, Meta, REGISTER, SET_INTERVAL, SET_MAP, Set, Table,
    datatype, differs, equal, lookup, mask, meta, payload, translate, verdict,
};
use crate::netlink::{Message, Netlink};
use crate::{Error, PortMapping, Result};

const TABLE: Table = Table { family: nft::INET, name: "longshore" };

const NAME: (u32, u32) = (datatype::IFNAME, 16);
const V4: (u32, u32) = (datatype::IPV4, 4);
const V6: (u32, u32) = (datatype::IPV6, 16);
const PROTOCOL: (u32, u32) = (datatype::PROTOCOL, 1);
const PORT: (u32, u32) = (datatype::PORT, 2);

const fn set(name: &'static str, flags: u32, key: &'static [(u32, u32)]) -> Set {
    Set { name, flags, key, data: &[] }
}

const fn map(name: &'static str, key: &'static [(u32, u32)], data: &'static [(u32, u32)]) -> Set {
    Set { name, flags: SET_MAP, key, data }
}

/// `ports*` are for a port on every address of the host, `ports*_at` for one on a given address.
const SETS: [Set; 9] = [
    set("bridges", 0, &[NAME]),
    set("internal", 0, &[NAME]),
    set("within", 0, &[NAME, NAME]),
    set("subnets4", SET_INTERVAL, &[V4]),
    set("subnets6", SET_INTERVAL, &[V6]),
    map("ports4", &[PROTOCOL, PORT], &[V4, PORT]),
    map("ports6", &[PROTOCOL, PORT], &[V6, PORT]),
    map("ports4_at", &[V4, PROTOCOL, PORT], &[V4, PORT]),
    map("ports6_at", &[V6, PROTOCOL, PORT], &[V6, PORT]),
];

const PORT_MAPS: [&str; 4] = ["ports4", "ports6", "ports4_at", "ports6_at"];
const NETWORK_SETS: [&str; 5] = ["bridges", "internal", "within", "subnets4", "subnets6"];

const fn chain(name: &'static str, kind: &'static str, hook: u32, priority: i32) -> Chain {
    Chain { name, kind, hook, priority }
}

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const CHAINS: [Chain; 5] = [
    chain("guard", "filter", PREROUTING, -300),
    chain("forward", "filter", FORWARD, 0),
    chain("publish", "nat", PREROUTING, -100),
    chain("publish-local", "nat", OUTPUT, -100),
    chain("leave", "nat", POSTROUTING, 100),
];

/// The table's objects of one network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkRules<'a> {
    pub(crate) link: &'a str,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) internal: bool,
}

/// The table in the network namespace of a netfilter socket.
pub(crate) struct Firewall<'a>(pub(crate) &'a mut Netlink);

impl Firewall<'_> {
    /// Makes the table what it should be, in one transaction. Elements stay.
    pub(crate) fn install(&mut self) -> Result<()> {
        let mut batch = vec![TABLE.create()];
        batch.extend(SETS.iter().zip(1..).map(|(set, id)| TABLE.create_set(set, id)));
        batch.extend(CHAINS.map(|chain| TABLE.create_chain(chain)));
        batch.extend(CHAINS.map(|chain| TABLE.flush_chain(chain.name)));
        batch.extend(rules().iter().map(|(chain, rule)| TABLE.add_rule(chain, rule)));
        self.commit(batch).map_err(|(_, e)| Error::kernel("install the nf_tables table `longshore`")(e))
    }

    /// Adds a network's elements. Its subnet is claimed: another network's that overlaps makes this fail.
    pub(crate) fn add_network(&mut self, network: &NetworkRules<'_>) -> Result<()> {
        let present = self.owned(&NETWORK_SETS, network.link)?;
        let missing: Vec<_> = network_elements(network)
            .into_iter()
            .filter(|(set, e)| !present.iter().any(|(s, p)| s == set && p.key == e.key))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let batch = missing.iter().map(|(set, e)| TABLE.add_elements(set, std::slice::from_ref(e), true));
        self.commit(batch.collect()).map_err(|(index, error)| match network.subnets.first() {
            Some(subnet) if exists(&error) && missing[index].0.starts_with("subnets") => {
                Error::SubnetInUse { subnet: *subnet, with: "another network".into() }
            }
            _ => Error::kernel(format!("add network `{}` to the nf_tables table", network.link))(error),
        })
    }

    /// Removes what is left of a network, and the table with the last one.
    pub(crate) fn remove_network(&mut self, link: &str) -> Result<()> {
        let doing = || format!("remove network `{link}` from the nf_tables table");
        let generation = self.0.get(nft::get_generation()).map_err(Error::kernel(doing()))?;
        let bridges = self.list("bridges")?;
        if bridges.iter().all(|e| e.comment == link) {
            return self.delete_table(nft::parse_generation(&generation)).or_else(|error| {
                if interrupted(&error) {
                    self.remove_network(link)
                } else {
                    Err(Error::kernel(doing())(error))
                }
            });
        }
        let mut owned = self.owned(&NETWORK_SETS, link)?;
        owned.extend(self.owned_below(&PORT_MAPS, link)?);
        self.delete(&owned).map_err(Error::kernel(doing()))
    }

    fn delete_table(&mut self, generation: Option<u32>) -> io::Result<()> {
        match self.0.transaction(vec![TABLE.delete()], generation) {
            Err((_, error)) if missing(&error) => Ok(()),
            other => other.map_err(|(_, e)| e),
        }
    }

    /// Publishes ports in one transaction; a port that is taken makes it fail as a whole.
    pub(crate) fn publish(&mut self, owner: &str, addresses: &[IpAddr], ports: &[PortMapping]) -> Result<()> {
        let entries: Vec<_> = ports.iter().flat_map(|p| port_elements(owner, addresses, p)).collect();
        if entries.is_empty() {
            return Ok(());
        }
        self.check_overlap(&entries)?;
        let batch = entries.iter().map(|(set, e, _)| TABLE.add_elements(set, std::slice::from_ref(e), true));
        self.commit(batch.collect()).map_err(|(index, error)| match exists(&error) {
            true => entries[index].2.taken(),
            false => Error::kernel("publish ports")(error),
        })
    }

    /// The same port on all addresses and on one of them are different keys, but not both to be had.
    fn check_overlap(&mut self, entries: &[(&'static str, Element, PortMapping)]) -> Result<()> {
        for (set, other) in [
            ("ports4", "ports4_at"),
            ("ports6", "ports6_at"),
            ("ports4_at", "ports4"),
            ("ports6_at", "ports6"),
        ] {
            let mut ours = entries.iter().filter(|e| e.0 == set).peekable();
            if ours.peek().is_none() {
                continue;
            }
            let there = self.list(other)?;
            if let Some(entry) = ours.find(|e| there.iter().any(|t| tail(&t.key) == tail(&e.1.key))) {
                return Err(entry.2.taken());
            }
        }
        Ok(())
    }

    /// Adds those of an endpoint's ports that are missing; says whether there were any.
    pub(crate) fn restore(
        &mut self,
        owner: &str,
        addresses: &[IpAddr],
        ports: &[PortMapping],
    ) -> Result<bool> {
        let present = self.owned(&PORT_MAPS, owner)?;
        let is_there = |port: &PortMapping| {
            port_elements(owner, addresses, port)
                .iter()
                .all(|(set, e, _)| present.iter().any(|(s, p)| s == set && p.key == e.key))
        };
        let missing: Vec<_> = ports.iter().filter(|p| !is_there(p)).copied().collect();
        self.publish(owner, addresses, &missing)?;
        Ok(!missing.is_empty())
    }

    /// Removes an endpoint's elements, whichever they are.
    pub(crate) fn unpublish(&mut self, owner: &str) -> Result<()> {
        let owned = self.owned(&PORT_MAPS, owner)?;
        self.delete(&owned).map_err(Error::kernel(format!("unpublish the ports of `{owner}`")))
    }

    /// The endpoints of a network that have elements.
    pub(crate) fn owners(&mut self, link: &str) -> Result<Vec<String>> {
        let elements = self.owned_below(&PORT_MAPS, link)?;
        let ids = elements.iter().filter_map(|(_, e)| e.comment.split_once('/'));
        Ok(ids.map(|(_, id)| id.to_owned()).collect())
    }

    fn owned(&mut self, sets: &[&'static str], owner: &str) -> Result<Vec<(&'static str, Element)>> {
        self.filter(sets, |comment| comment == owner)
    }

    fn owned_below(&mut self, sets: &[&'static str], link: &str) -> Result<Vec<(&'static str, Element)>> {
        self.filter(sets, |comment| comment.split_once('/').is_some_and(|(l, _)| l == link))
    }

    fn filter(
        &mut self,
        sets: &[&'static str],
        keep: impl Fn(&str) -> bool,
    ) -> Result<Vec<(&'static str, Element)>> {
        let mut found = Vec::new();
        for set in sets {
            let elements = self.list(set)?.into_iter().filter(|e| keep(&e.comment));
            found.extend(elements.map(|e| (*set, e)));
        }
        Ok(found)
    }

    fn list(&mut self, set: &'static str) -> Result<Vec<Element>> {
        let elements = self.0.dump(&TABLE.list_elements(set), |p| Some(nft::parse_elements(p)));
        match elements {
            Ok(lists) => Ok(join_intervals(lists.into_iter().flatten().collect())),
            Err(e) if missing(&e) => Ok(Vec::new()),
            Err(e) => Err(Error::kernel(format!("list the nf_tables set `{set}`"))(e)),
        }
    }

    fn delete(&mut self, elements: &[(&'static str, Element)]) -> io::Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let batch =
            elements.iter().map(|(set, e)| TABLE.delete_elements(set, std::slice::from_ref(e))).collect();
        match self.commit(batch) {
            Err((_, error)) if missing(&error) => Ok(()),
            other => other.map_err(|(_, e)| e),
        }
    }

    fn commit(&mut self, batch: Vec<Message>) -> std::result::Result<(), (usize, io::Error)> {
        self.0.transaction(batch, None)
    }
}

fn exists(error: &io::Error) -> bool {
    errno(error) == Some(Errno::EXIST.raw_os_error())
}

/// Whether a table, set or element is not there.
pub(crate) fn missing(error: &io::Error) -> bool {
    errno(error) == Some(Errno::NOENT.raw_os_error())
}

fn interrupted(error: &io::Error) -> bool {
    const ERESTART: i32 = 85;
    errno(error) == Some(ERESTART)
}

/// Protocol and port of a key of either kind of map.
fn tail(key: &[u8]) -> &[u8] {
    &key[key.len().saturating_sub(8)..]
}

fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn network_elements(network: &NetworkRules<'_>) -> Vec<(&'static str, Element)> {
    let name = ifname(network.link);
    let element = |key: Vec<u8>| Element { key, comment: network.link.to_owned(), ..Element::default() };
    let mut elements =
        vec![("bridges", element(name.clone())), ("within", element([&name[..], &name].concat()))];
    if network.internal {
        elements.push(("internal", element(name)));
    }
    elements.extend(network.subnets.iter().map(|subnet| {
        let set = if subnet.addr().is_ipv4() { "subnets4" } else { "subnets6" };
        (set, Element { end: Some(after(*subnet)), ..element(octets(subnet.network())) })
    }));
    elements
}

/// The first address after a subnet.
fn after(subnet: IpNet) -> Vec<u8> {
    match subnet {
        IpNet::V4(net) => u32::from(net.broadcast()).wrapping_add(1).to_be_bytes().to_vec(),
        IpNet::V6(net) => u128::from(net.broadcast()).wrapping_add(1).to_be_bytes().to_vec(),
    }
}

/// The kernel lists the ends of intervals as elements of their own.
fn join_intervals(listed: Vec<(bool, Element)>) -> Vec<Element> {
    let (ends, mut starts): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(is_end, _)| *is_end);
    for (_, start) in &mut starts {
        start.end = ends.iter().map(|(_, end)| &end.key).filter(|end| **end > start.key).min().cloned();
    }
    starts.into_iter().map(|(_, element)| element).collect()
}

/// What a port is in the maps: for each address family of the endpoint that the host address allows.
fn port_elements(
    owner: &str,
    addresses: &[IpAddr],
    port: &PortMapping,
) -> Vec<(&'static str, Element, PortMapping)> {
    let pad = |bytes: &[u8]| [bytes, &vec![0; bytes.len().next_multiple_of(4) - bytes.len()]].concat();
    let protocol = pad(&[port.protocol.number()]);
    addresses
        .iter()
        .filter(|to| port.host_ip.is_none_or(|host| host.is_ipv4() == to.is_ipv4()))
        .map(|to| {
            let at = port.host_ip.filter(|host| !host.is_unspecified());
            let set = match (to, at) {
                (IpAddr::V4(_), None) => "ports4",
                (IpAddr::V4(_), Some(_)) => "ports4_at",
                (IpAddr::V6(_), None) => "ports6",
                (IpAddr::V6(_), Some(_)) => "ports6_at",
            };
            let at = at.map(octets).unwrap_or_default();
            let element = Element {
                key: [at, protocol.clone(), pad(&port.host_port.to_be_bytes())].concat(),
                data: [octets(*to), pad(&port.container_port.to_be_bytes())].concat(),
                comment: owner.to_owned(),
                end: None,
            };
            (set, element, *port)
        })
        .collect()
}

/// Whether the packet is of this family, and where its addresses are.
#[derive(Clone, Copy)]
struct Family {
    number: u8,
    nfproto: u8,
    source: u32,
    destination: u32,
    length: u32,
    subnets: &'static str,
    ports: &'static str,
    ports_at: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        number: 2,
        nfproto: 2,
        source: 12,
        destination: 16,
        length: 4,
        subnets: "subnets4",
        ports: "ports4",
        ports_at: "ports4_at",
    },
    Family {
        number: 10,
        nfproto: 10,
        source: 8,
        destination: 24,
        length: 16,
        subnets: "subnets6",
        ports: "ports6",
        ports_at: "ports6_at",
    },
];

impl Family {
    fn is(self) -> [Expression; 2] {
        [meta(REGISTER, Meta::Family), equal(REGISTER, &[self.nfproto])]
    }
    fn source(self) -> Expression {
        payload(REGISTER, Base::Network, self.source, self.length)
    }
    fn destination(self) -> Expression {
        payload(REGISTER, Base::Network, self.destination, self.length)
    }
}

type Rule = (&'static str, Vec<Expression>);

fn rule(chain: &'static str, parts: impl IntoIterator<Item = Vec<Expression>>) -> Rule {
    (chain, parts.into_iter().flatten().collect())
}

fn rules() -> Vec<Rule> {
    let mut rules = guard_rules();
    rules.extend(forward_rules());
    for family in FAMILIES {
        rules.extend(publish_rules("publish", family));
        rules.extend(publish_rules("publish-local", family));
    }
    rules.extend(leave_rules());
    rules
}

fn input_not_lo() -> Vec<Expression> {
    vec![meta(REGISTER, Meta::InputName), differs(REGISTER, &ifname("lo"))]
}

fn loopback_address(load: Expression) -> Vec<Expression> {
    let v4 = FAMILIES[0];
    let mut all = v4.is().into();
    Vec::append(&mut all, &mut vec![load, mask(REGISTER, &[255, 0, 0, 0]), equal(REGISTER, &[127, 0, 0, 0])]);
    all
}

/// Before connection tracking undoes any NAT, nothing from outside may be addressed to a container, nor to 127.0.0.0/8 (which bridges
/// would let in, having `route_localnet` for ports published there).
fn guard_rules() -> Vec<Rule> {
    let drop = || vec![verdict(nft::DROP)];
    let mut rules =
        vec![rule("guard", [input_not_lo(), loopback_address(FAMILIES[0].destination()), drop()])];
    rules.extend(FAMILIES.map(|family| {
        let addressed = vec![family.destination(), lookup(family.subnets, REGISTER, false)];
        let outside = vec![meta(REGISTER, Meta::InputName), lookup("bridges", REGISTER, true)];
        let other = vec![differs(REGISTER, &ifname("lo"))];
        rule("guard", [family.is().into(), addressed, outside, other, drop()])
    }));
    rules
}

/// New connections reach a container from its own network, or by a published port.
fn forward_rules() -> Vec<Rule> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    let state = vec![
        nft::conntrack(REGISTER, Conntrack::State),
        mask(REGISTER, &ESTABLISHED_OR_RELATED.to_ne_bytes()),
        differs(REGISTER, &[0; 4]),
        verdict(nft::ACCEPT),
    ];
    let within = vec![
        meta(REGISTER, Meta::InputName),
        meta(REGISTER + 4, Meta::OutputName),
        lookup("within", REGISTER, false),
        verdict(nft::ACCEPT),
    ];
    let named = |key, set| vec![meta(REGISTER, key), lookup(set, REGISTER, false)];
    let drop = || vec![verdict(nft::DROP)];
    vec![
        ("forward", state),
        ("forward", within),
        rule("forward", [named(Meta::InputName, "internal"), drop()]),
        rule("forward", [named(Meta::OutputName, "internal"), drop()]),
        rule("forward", [named(Meta::OutputName, "bridges"), published(), vec![verdict(nft::ACCEPT)]]),
        rule("forward", [named(Meta::OutputName, "bridges"), drop()]),
    ]
}

/// `ct status dnat`
fn published() -> Vec<Expression> {
    const DST_NAT: u32 = 1 << 5;
    vec![
        nft::conntrack(REGISTER, Conntrack::Status),
        mask(REGISTER, &DST_NAT.to_ne_bytes()),
        differs(REGISTER, &[0; 4]),
    ]
}

/// A port of the host becomes a container's; one on a given address goes first.
fn publish_rules(chain: &'static str, family: Family) -> [Rule; 2] {
    const RTN_LOCAL: u32 = 2;
    let local = || {
        let mut all: Vec<_> = family.is().into();
        all.push(nft::fib_destination_type(REGISTER));
        all.push(equal(REGISTER, &RTN_LOCAL.to_ne_bytes()));
        all
    };
    let port = |first| vec![meta(first, Meta::Protocol), payload(first + 1, Base::Transport, 2, 2)];
    let words = family.length / 4;
    let to = |map| {
        vec![
            translate(map, REGISTER, REGISTER),
            nft::dnat(u32::from(family.number), REGISTER, REGISTER + words),
        ]
    };
    [
        rule(chain, [local(), vec![family.destination()], port(REGISTER + words), to(family.ports_at)]),
        rule(chain, [local(), port(REGISTER), to(family.ports)]),
    ]
}

/// What leaves for the outside takes the host's address; what comes back in through a published port takes the bridge's, or the answer
/// would go past the host.
fn leave_rules() -> Vec<Rule> {
    let to_bridge = |invert| vec![meta(REGISTER, Meta::OutputName), lookup("bridges", REGISTER, invert)];
    let masquerade = || vec![nft::masquerade()];
    let from_container = |family: Family| {
        let mut all: Vec<_> = family.is().into();
        all.extend([family.source(), lookup(family.subnets, REGISTER, false)]);
        all
    };
    let mut rules =
        vec![rule("leave", [loopback_address(FAMILIES[0].source()), to_bridge(false), masquerade()])];
    for family in FAMILIES {
        let outside = vec![differs(REGISTER, &ifname("lo"))];
        rules.push(rule("leave", [from_container(family), to_bridge(true), outside, masquerade()]));
        rules.push(rule("leave", [from_container(family), to_bridge(false), published(), masquerade()]));
    }
    rules
}

impl PortMapping {
    pub(crate) fn taken(&self) -> Error {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Error::PortAllocated {
            address: self.host_ip.unwrap_or(unspecified),
            port: self.host_port,
            protocol: self.protocol,
        }
    }
}
