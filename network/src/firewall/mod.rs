//! The crate's nf_tables tables: what is in them, and the elements that networks and endpoints put there.
//!
//! Rules never change; networks and endpoints are elements of sets and maps, so the cost of a packet and of an attachment does not
//! grow with their number. Each element's comment names its owner: `LINK` of a network, `LINK/ENDPOINT` of an endpoint.

mod elements;
mod rules;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rustix::io::Errno;

use crate::netlink::message::errno;
use crate::netlink::nft::{self, Element, SET_INTERVAL, SET_MAP, Set, Table, datatype};
use crate::netlink::{Message, Netlink};
use crate::state::Tunnel;
use crate::{Error, PortMapping, Result};
use elements::Entry;

const TABLE: Table = Table { family: nft::INET, name: "longshore" };
const BRIDGE_TABLE: Table = Table { family: nft::BRIDGE, name: "longshore" };

const NAME: (u32, u32) = (datatype::IFNAME, 16);
const MAC: (u32, u32) = (datatype::ETHER, 6);
const V4: (u32, u32) = (datatype::IPV4, 4);
const V6: (u32, u32) = (datatype::IPV6, 16);
const PROTOCOL: (u32, u32) = (datatype::PROTOCOL, 1);
const VNI: (u32, u32) = (datatype::INTEGER, 3);
const PORT: (u32, u32) = (datatype::PORT, 2);

const fn set(name: &'static str, flags: u32, key: &'static [(u32, u32)]) -> Set {
    Set { table: TABLE, name, flags, key, data: &[] }
}

const fn map(name: &'static str, key: &'static [(u32, u32)], data: &'static [(u32, u32)]) -> Set {
    Set { table: TABLE, name, flags: SET_MAP, key, data }
}

const fn pin(name: &'static str, key: &'static [(u32, u32)]) -> Set {
    Set { table: BRIDGE_TABLE, name, flags: 0, key, data: &[] }
}

static BRIDGES: Set = set("bridges", 0, &[NAME]);
static INTERNAL: Set = set("internal", 0, &[NAME]);
/// A bridge's name twice: what stays on one network.
static WITHIN: Set = set("within", 0, &[NAME, NAME]);
static SUBNETS4: Set = set("subnets4", SET_INTERVAL, &[V4]);
static SUBNETS6: Set = set("subnets6", SET_INTERVAL, &[V6]);
/// Ports on every address of the host.
static PORTS4: Set = map("ports4", &[PROTOCOL, PORT], &[V4, PORT]);
static PORTS6: Set = map("ports6", &[PROTOCOL, PORT], &[V6, PORT]);
/// Ports on one address of the host.
static PORTS4_AT: Set = map("ports4_at", &[V4, PROTOCOL, PORT], &[V4, PORT]);
static PORTS6_AT: Set = map("ports6_at", &[V6, PROTOCOL, PORT], &[V6, PORT]);
/// The containers' veths, and what may come out of them.
static PINNED: Set = pin("pinned", &[NAME]);
static PINS_MAC: Set = pin("pins_mac", &[NAME, MAC]);
static PINS_IP4: Set = pin("pins_ip4", &[NAME, V4]);

/// Tunnels of ours, by port and VNI, and the hosts that may send into them.
static TUNNELS: Set = set("tunnels", 0, &[PORT, VNI]);
static TUNNEL_ENDS: Set = set("tunnel_ends", 0, &[PORT, VNI, V4]);

static NETWORK_SETS: [&Set; 6] = [&BRIDGES, &INTERNAL, &WITHIN, &SUBNETS4, &SUBNETS6, &TUNNELS];
static TUNNEL_SETS: [&Set; 1] = [&TUNNEL_ENDS];
static ENDPOINT_SETS: [&Set; 7] = [&PORTS4, &PORTS6, &PORTS4_AT, &PORTS6_AT, &PINNED, &PINS_MAC, &PINS_IP4];

/// What a network is to the tables.
#[derive(Clone, Debug)]
pub(crate) struct NetworkRules<'a> {
    pub(crate) link: &'a str,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) internal: bool,
    pub(crate) tunnel: Option<Tunnel>,
}

/// What an endpoint is to the tables.
#[derive(Clone, Debug)]
pub(crate) struct EndpointRules<'a> {
    pub(crate) owner: &'a str,
    pub(crate) veth: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: &'a [PortMapping],
}

/// The tables in the network namespace of a netfilter socket.
pub(crate) struct Firewall<'a>(pub(crate) &'a mut Netlink);

impl Firewall<'_> {
    /// Makes the tables what they should be, in one transaction. Elements stay.
    ///
    /// Rules that are there cost two lists and no transaction: replacing them takes the kernel 10 ms and more, since whoever comes
    /// next waits until the old ones are no longer in use.
    pub(crate) fn install(&mut self) -> Result<()> {
        let rules = rules::rules();
        let doing = || Error::kernel("install the nf_tables tables `longshore`");
        if self.is_installed(&rules).map_err(doing())? {
            return Ok(());
        }
        let sets = NETWORK_SETS.iter().chain(&TUNNEL_SETS).chain(&ENDPOINT_SETS).zip(1..);
        let mut batch = vec![TABLE.create(), BRIDGE_TABLE.create()];
        batch.extend(sets.map(|(set, id)| set.create(id)));
        batch.extend(rules::CHAINS.map(nft::Chain::create));
        batch.extend(rules::CHAINS.map(nft::Chain::flush));
        batch.extend(rules.iter().map(|rule| rule.0.add_rule(&rule.1, &rules::mark(rule))));
        self.commit(batch).map_err(|(_, e)| doing()(e))
    }

    /// Whether each chain has its rules, all of them, in order, and no other.
    fn is_installed(&mut self, rules: &[rules::Rule]) -> io::Result<bool> {
        let mut present = Vec::new();
        for table in [TABLE, BRIDGE_TABLE] {
            match self.0.dump(&table.rules(), nft::parse_rule) {
                Ok(found) => present.extend(found),
                Err(e) if missing(&e) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        let mut wanted: Vec<_> =
            rules.iter().map(|rule| (rule.0.name.to_owned(), rules::mark(rule))).collect();
        // The rules of one chain are in their order, the chains in the kernel's.
        present.sort_by(|a, b| a.0.cmp(&b.0));
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(present == wanted)
    }

    /// Adds a network's elements. Its subnet is claimed: another network's that overlaps makes this fail.
    pub(crate) fn add_network(&mut self, network: &NetworkRules<'_>) -> Result<()> {
        let (mut missing, mut stale) = (elements::network(network), Vec::new());
        let mut present = self.owned(&NETWORK_SETS, |comment| comment == network.link)?;
        // A crash may have left the claim on another subnet.
        present.retain(|(set, e)| {
            let wanted = missing.iter().any(|(s, m)| s == set && m.key == e.key && m.end == e.end);
            stale.extend((!wanted).then(|| (*set, e.clone())));
            wanted
        });
        self.delete(&stale).map_err(Error::kernel(format!("forget what `{}` was", network.link)))?;
        missing.retain(|(set, e)| !present.iter().any(|(s, p)| s == set && p.key == e.key));
        self.add(&missing).map_err(|(index, error)| match network.subnets.first() {
            Some(subnet) if exists(&error) && missing[index].0.flags & SET_INTERVAL != 0 => {
                Error::SubnetInUse { subnet: *subnet, with: "another network".into() }
            }
            _ => Error::kernel(format!("add network `{}` to the nf_tables tables", network.link))(error),
        })
    }

    /// Removes what is left of a network, and the tables with the last one.
    pub(crate) fn remove_network(&mut self, link: &str) -> Result<()> {
        let doing = || format!("remove network `{link}` from the nf_tables tables");
        let generation = self.0.get(nft::get_generation()).map_err(Error::kernel(doing()))?;
        if self.list(&BRIDGES)?.iter().all(|e| e.comment == link) {
            return self.delete_tables(nft::parse_generation(&generation)).or_else(|error| {
                if interrupted(&error) {
                    self.remove_network(link)
                } else {
                    Err(Error::kernel(doing())(error))
                }
            });
        }
        let mut owned = self.owned(&NETWORK_SETS, |comment| comment == link)?;
        owned.extend(self.owned(&TUNNEL_SETS, |comment| comment == link)?);
        owned.extend(self.owned(&ENDPOINT_SETS, |comment| below(comment, link).is_some())?);
        self.delete(&owned).map_err(Error::kernel(doing()))
    }

    /// Each only if it is there: someone may have deleted one of them.
    fn delete_tables(&mut self, generation: Option<u32>) -> io::Result<()> {
        // Creating one that is there changes nothing, and makes deleting it succeed.
        let batch = vec![TABLE.create(), TABLE.delete(), BRIDGE_TABLE.create(), BRIDGE_TABLE.delete()];
        self.0.transaction(batch, generation).map_err(|(_, e)| e)
    }

    /// Makes these hosts the only ones whose packets a tunnel takes.
    pub(crate) fn set_tunnel_ends(&mut self, link: &str, tunnel: Tunnel, ends: &[Ipv4Addr]) -> Result<()> {
        let wanted: Vec<_> = ends.iter().map(|end| elements::tunnel_end(link, tunnel, *end)).collect();
        let present = self.owned(&TUNNEL_SETS, |comment| comment == link)?;
        let without = |entries: &[Entry], others: &[Entry]| -> Vec<Entry> {
            let there = |key: &[u8]| others.iter().any(|(_, e)| e.key == key);
            entries.iter().filter(|(_, e)| !there(&e.key)).cloned().collect()
        };
        let doing = || Error::kernel(format!("set the tunnel ends of `{link}`"));
        self.delete(&without(&present, &wanted)).map_err(doing())?;
        self.add(&without(&wanted, &present)).map_err(|(_, e)| doing()(e))
    }

    /// Adds an endpoint in one transaction; a port that is taken makes it fail as a whole.
    pub(crate) fn add_endpoint(&mut self, endpoint: &EndpointRules<'_>) -> Result<()> {
        self.add_entries(&elements::endpoint(endpoint))
    }

    fn add_entries(&mut self, entries: &[(Entry, Option<PortMapping>)]) -> Result<()> {
        self.check_overlap(entries)?;
        let plain: Vec<_> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        self.add(&plain).map_err(|(index, error)| match &entries[index].1 {
            Some(port) if exists(&error) => port.taken(),
            _ => Error::kernel("add an endpoint to the nf_tables tables")(error),
        })
    }

    /// The same port on all addresses and on one of them are different keys, but not both to be had.
    fn check_overlap(&mut self, entries: &[(Entry, Option<PortMapping>)]) -> Result<()> {
        for (set, other) in
            [(&PORTS4, &PORTS4_AT), (&PORTS6, &PORTS6_AT), (&PORTS4_AT, &PORTS4), (&PORTS6_AT, &PORTS6)]
        {
            let mut ours = entries.iter().filter(|((s, _), _)| *s == set).peekable();
            if ours.peek().is_none() {
                continue;
            }
            let there = self.list(other)?;
            let clash = |e: &Element| there.iter().any(|t| elements::tail(&t.key) == elements::tail(&e.key));
            if let Some((_, Some(port))) = ours.find(|((_, e), _)| clash(e)) {
                return Err(port.taken());
            }
        }
        Ok(())
    }

    /// Adds those of an endpoint's elements that are missing; says whether there were any.
    pub(crate) fn restore(&mut self, endpoint: &EndpointRules<'_>) -> Result<bool> {
        let mut entries = elements::endpoint(endpoint);
        let plain: Vec<_> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        let present = self.present(&plain)?;
        entries.retain(|((set, e), _)| !present.iter().any(|(s, p)| s == set && p.key == e.key));
        self.add_entries(&entries)?;
        Ok(!entries.is_empty())
    }

    /// Removes an endpoint's elements.
    pub(crate) fn remove_endpoint(&mut self, endpoint: &EndpointRules<'_>) -> Result<()> {
        let entries: Vec<_> = elements::endpoint(endpoint).into_iter().map(|(entry, _)| entry).collect();
        let present = self.present(&entries)?;
        self.delete(&present).map_err(Error::kernel(format!("remove `{}` from nf_tables", endpoint.owner)))
    }

    /// Removes whatever elements an endpoint has, where nobody knows what they were.
    pub(crate) fn remove_owner(&mut self, owner: &str) -> Result<()> {
        let owned = self.owned(&ENDPOINT_SETS, |comment| comment == owner)?;
        self.delete(&owned).map_err(Error::kernel(format!("remove `{owner}` from nf_tables")))
    }

    /// The endpoints of a network that have elements.
    pub(crate) fn endpoints(&mut self, link: &str) -> Result<Vec<String>> {
        let entries = self.owned(&ENDPOINT_SETS, |comment| below(comment, link).is_some())?;
        Ok(entries.iter().filter_map(|(_, e)| below(&e.comment, link).map(str::to_owned)).collect())
    }

    /// Those of the elements that are there and have the same owner. The kernel would delete an element whatever its data and comment,
    /// so this comes before a deletion; the claim on each key keeps it true.
    fn present(&mut self, entries: &[Entry]) -> Result<Vec<Entry>> {
        let mut present = Vec::new();
        for (set, element) in entries {
            match self.0.get(set.get_element(element)) {
                Ok(payload) => {
                    let found = nft::parse_elements(&payload);
                    if found.iter().any(|(_, e)| e.comment == element.comment) {
                        present.push((*set, element.clone()));
                    }
                }
                Err(e) if missing(&e) => {}
                Err(e) => {
                    return Err(Error::kernel(format!("look into the nf_tables set `{}`", set.name))(e));
                }
            }
        }
        Ok(present)
    }

    fn owned(&mut self, sets: &[&'static Set], keep: impl Fn(&str) -> bool) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        for set in sets {
            let elements = self.list(set)?.into_iter().filter(|e| keep(&e.comment));
            found.extend(elements.map(|e| (*set, e)));
        }
        Ok(found)
    }

    fn list(&mut self, set: &'static Set) -> Result<Vec<Element>> {
        match self.0.dump(&set.list(), |payload| Some(nft::parse_elements(payload))) {
            Ok(lists) => Ok(elements::join_intervals(lists.into_iter().flatten().collect())),
            Err(e) if missing(&e) => Ok(Vec::new()),
            Err(e) => Err(Error::kernel(format!("list the nf_tables set `{}`", set.name))(e)),
        }
    }

    fn add(&mut self, entries: &[Entry]) -> std::result::Result<(), (usize, io::Error)> {
        self.commit(entries.iter().map(|(set, e)| set.add_element(e)).collect())
    }

    fn delete(&mut self, entries: &[Entry]) -> io::Result<()> {
        match self.commit(entries.iter().map(|(set, e)| set.delete_element(e)).collect()) {
            Err((_, error)) if missing(&error) => Ok(()),
            other => other.map_err(|(_, e)| e),
        }
    }

    fn commit(&mut self, batch: Vec<Message>) -> std::result::Result<(), (usize, io::Error)> {
        if batch.is_empty() { Ok(()) } else { self.0.transaction(batch, None) }
    }
}

/// The endpoint in a comment, if the network is this one.
fn below<'a>(comment: &'a str, link: &str) -> Option<&'a str> {
    comment.split_once('/').filter(|(network, _)| *network == link).map(|(_, endpoint)| endpoint)
}

fn exists(error: &io::Error) -> bool {
    errno(error) == Some(Errno::EXIST.raw_os_error())
}

/// Whether a table, set or element is not there.
pub(crate) fn missing(error: &io::Error) -> bool {
    errno(error) == Some(Errno::NOENT.raw_os_error())
}

/// Whether the rules changed between reading and writing.
fn interrupted(error: &io::Error) -> bool {
    const ERESTART: i32 = 85;
    errno(error) == Some(ERESTART)
}
