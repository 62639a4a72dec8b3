//! nf_tables messages (`linux/netfilter/nf_tables.h`): as much as this crate's table needs.

use super::message::{Attrs, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10 << 8;

/// `nfgenmsg.nfgen_family` of a table for IPv4 and IPv6.
pub(crate) const INET: u8 = 1;

/// `nfgenmsg.nfgen_family` of a table for frames on bridges.
pub(crate) const BRIDGE: u8 = 7;

/// `NFT_DATA_VERDICT`'s codes.
pub(crate) const DROP: u32 = 0;
pub(crate) const ACCEPT: u32 = 1;

/// Set flags.
pub(crate) const SET_INTERVAL: u32 = 4;
pub(crate) const SET_MAP: u32 = 8;
pub(crate) const SET_CONCAT: u32 = 0x80;
const ELEM_INTERVAL_END: u32 = 1;

/// `nft`'s own numbers of data types; they let it print our sets as it prints its own.
pub(crate) mod datatype {
    pub(crate) const INTEGER: u32 = 4;
    pub(crate) const IPV4: u32 = 7;
    pub(crate) const IPV6: u32 = 8;
    pub(crate) const ETHER: u32 = 9;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const PORT: u32 = 13;
    pub(crate) const IFNAME: u32 = 41;

    /// The number of a concatenation.
    pub(crate) fn concat(parts: &[u32]) -> u32 {
        parts.iter().fold(0, |all, part| all << 6 | part)
    }
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [a, b] = resource.to_be_bytes();
    [family, 0, a, b]
}

pub(crate) fn batch_begin(generation: Option<u32>) -> Message {
    let begin = Message::new(NFNL_MSG_BATCH_BEGIN, 0, &header(0, 10));
    generation.into_iter().fold(begin, |m, g| m.be32(1, g))
}

pub(crate) fn batch_end() -> Message {
    Message::new(NFNL_MSG_BATCH_END, 0, &header(0, 10))
}

/// Asks for the generation of the rules; [`parse_generation`] reads the answer.
pub(crate) fn get_generation() -> Message {
    Message::new(SUBSYSTEM | 16, 0, &header(0, 0))
}

pub(crate) fn parse_generation(payload: &[u8]) -> Option<u32> {
    Attrs::after(payload, 4).be32(1)
}

/// All chains of all tables, to be dumped.
pub(crate) fn list_chains() -> Message {
    Message::new(SUBSYSTEM | 4, 0, &header(0, 0))
}

/// `family table chain`, if it is a base chain that drops forwarded IP packets by default.
pub(crate) fn parse_forward_drop(payload: &[u8]) -> Option<String> {
    const FORWARD: u32 = 2;
    let family = match *payload.first()? {
        INET => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let chain = Attrs::after(payload, 4);
    let drops = chain.nest(4).be32(1)? == FORWARD && chain.be32(5)? == DROP;
    drops.then(|| Some(format!("{family} {} {}", chain.str(1)?, chain.str(3)?)))?
}

/// One table, by family and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: u8,
    pub(crate) name: &'static str,
}

/// A base chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) table: Table,
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) hook: u32,
    pub(crate) priority: i32,
}

/// A set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) table: Table,
    pub(crate) name: &'static str,
    pub(crate) flags: u32,
    /// Data type and length in bytes of each part of the key, each padded to four.
    pub(crate) key: &'static [(u32, u32)],
    /// The same of a map's data.
    pub(crate) data: &'static [(u32, u32)],
}

/// One element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// In an interval set, the key after the last.
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) data: Vec<u8>,
    pub(crate) comment: String,
}

impl Table {
    fn message(self, kind: u16, flags: u16) -> Message {
        Message::new(SUBSYSTEM | kind, flags, &header(self.family, 0))
    }

    pub(crate) fn create(self) -> Message {
        self.message(0, NLM_F_CREATE).str(1, self.name).be32(2, 0)
    }

    pub(crate) fn delete(self) -> Message {
        self.message(2, 0).str(1, self.name)
    }

    /// All its rules, chain by chain, to be dumped.
    pub(crate) fn rules(self) -> Message {
        self.message(7, 0).str(1, self.name)
    }
}

impl Chain {
    pub(crate) fn create(self) -> Message {
        self.table
            .message(3, NLM_F_CREATE)
            .str(1, self.table.name)
            .str(3, self.name)
            .nest(4, |m| m.be32(1, self.hook).be32(2, self.priority as u32))
            .be32(5, ACCEPT)
            .str(7, self.kind)
    }

    /// Deletes all its rules.
    pub(crate) fn flush(self) -> Message {
        self.table.message(8, 0).str(1, self.table.name).str(2, self.name)
    }

    pub(crate) fn add_rule(self, expressions: &[Expression], comment: &str) -> Message {
        let message = self.table.message(6, NLM_F_CREATE | NLM_F_APPEND);
        let message = message
            .str(1, self.table.name)
            .str(2, self.name)
            .nest(4, |m| expressions.iter().fold(m, |m, e| m.nest(1, |m| m.str(1, e.name).nest(2, &e.fill))));
        with_comment(message, 7, comment)
    }
}

impl Set {
    /// `id` tells it from the others of its transaction.
    pub(crate) fn create(&self, id: u32) -> Message {
        let types = |parts: &[(u32, u32)]| datatype::concat(&parts.iter().map(|p| p.0).collect::<Vec<_>>());
        let length = |parts: &[(u32, u32)]| parts.iter().map(|p| p.1.next_multiple_of(4)).sum::<u32>();
        let concat = self.key.len() > 1;
        let mut message = self
            .table
            .message(9, NLM_F_CREATE)
            .str(1, self.table.name)
            .str(2, self.name)
            .be32(3, self.flags | if concat { SET_CONCAT } else { 0 })
            .be32(4, types(self.key))
            .be32(5, if concat { length(self.key) } else { self.key[0].1 });
        if self.flags & SET_MAP != 0 {
            message = message.be32(6, types(self.data)).be32(7, length(self.data));
        }
        if concat {
            message = message.nest(9, |m| {
                m.nest(2, |m| self.key.iter().fold(m, |m, (_, len)| m.nest(1, |m| m.be32(1, *len))))
            });
        }
        // For nft alone: the key is in host order, so that it prints names.
        if self.key[0].0 == datatype::IFNAME {
            message = message.bytes(13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
        }
        message.be32(10, id)
    }

    /// Adds an element; one that is there makes the transaction fail with `EEXIST`.
    pub(crate) fn add_element(&self, element: &Element) -> Message {
        self.element(self.table.message(12, NLM_F_CREATE | NLM_F_EXCL), element)
    }

    pub(crate) fn delete_element(&self, element: &Element) -> Message {
        let key = Element { key: element.key.clone(), end: element.end.clone(), ..Element::default() };
        self.element(self.table.message(14, 0), &key)
    }

    /// Asks for one element by its key.
    pub(crate) fn get_element(&self, element: &Element) -> Message {
        let key = Element { key: element.key.clone(), ..Element::default() };
        self.element(self.table.message(13, 0), &key)
    }

    /// All elements, to be dumped.
    pub(crate) fn list(&self) -> Message {
        self.table.message(13, 0).str(1, self.table.name).str(2, self.name)
    }

    fn element(&self, message: Message, element: &Element) -> Message {
        message.str(1, self.table.name).str(2, self.name).nest(3, |m| self::element(m, element))
    }
}

fn value(message: Message, kind: u16, bytes: &[u8]) -> Message {
    message.nest(kind, |m| m.bytes(1, bytes))
}

/// A plain interval is two elements on the wire: its start, and its end with a flag.
fn element(message: Message, element: &Element) -> Message {
    let message = message.nest(1, |m| start(m, element));
    match &element.end {
        Some(end) => message.nest(1, |m| value(m, 1, end).be32(3, ELEM_INTERVAL_END)),
        None => message,
    }
}

fn start(message: Message, element: &Element) -> Message {
    let mut message = value(message, 1, &element.key);
    if !element.data.is_empty() {
        message = value(message, 2, &element.data);
    }
    with_comment(message, 6, &element.comment)
}

/// A type-length-value of nft's own: type 0 is the comment, with its NUL.
fn with_comment(message: Message, kind: u16, comment: &str) -> Message {
    if comment.is_empty() {
        return message;
    }
    message.bytes(kind, &[&[0, comment.len() as u8 + 1], comment.as_bytes(), &[0]].concat())
}

/// Chain and comment of a rule in a reply to [`Table::rules`].
pub(crate) fn parse_rule(payload: &[u8]) -> Option<(String, String)> {
    let rule = Attrs::after(payload, 4);
    Some((rule.str(2)?.to_owned(), comment(rule.get(7).unwrap_or_default())))
}

/// The elements in one reply to [`Set::list`], and which of them are ends of intervals.
pub(crate) fn parse_elements(payload: &[u8]) -> Vec<(bool, Element)> {
    let element = |e: Attrs<'_>| Element {
        key: e.nest(1).get(1).unwrap_or_default().to_vec(),
        end: None,
        data: e.nest(2).get(1).unwrap_or_default().to_vec(),
        comment: comment(e.get(6).unwrap_or_default()),
    };
    let elements = Attrs::after(payload, 4).nest(3).iter().map(|(_, data)| Attrs(data));
    elements.map(|e| (e.be32(3).unwrap_or(0) & ELEM_INTERVAL_END != 0, element(e))).collect()
}

fn comment(mut userdata: &[u8]) -> String {
    while let [kind, length, rest @ ..] = userdata {
        let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *kind == 0 {
            return String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        }
        userdata = rest;
    }
    String::new()
}

/// One expression of a rule.
pub(crate) struct Expression {
    name: &'static str,
    fill: Box<dyn Fn(Message) -> Message>,
}

fn expression(name: &'static str, fill: impl Fn(Message) -> Message + 'static) -> Expression {
    Expression { name, fill: Box::new(fill) }
}

/// The first of the 4-byte registers. Keys and data lie in consecutive ones.
pub(crate) const REGISTER: u32 = 8;

/// What `meta` can load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meta {
    EtherType = 1,
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Protocol = 16,
}

pub(crate) fn meta(register: u32, key: Meta) -> Expression {
    expression("meta", move |m| m.be32(1, register).be32(2, key as u32))
}

/// Where `payload` counts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

pub(crate) fn payload(register: u32, base: Base, offset: u32, length: u32) -> Expression {
    expression("payload", move |m| m.be32(1, register).be32(2, base as u32).be32(3, offset).be32(4, length))
}

/// A constant into the register.
pub(crate) fn load(register: u32, data: &[u8]) -> Expression {
    let data = data.to_vec();
    expression("immediate", move |m| m.be32(1, register).nest(2, |m| m.bytes(1, &data)))
}

/// Goes on if the register is `data`.
pub(crate) fn equal(register: u32, data: &[u8]) -> Expression {
    compare(register, 0, data)
}

/// Goes on if the register is not `data`.
pub(crate) fn differs(register: u32, data: &[u8]) -> Expression {
    compare(register, 1, data)
}

fn compare(register: u32, operation: u32, data: &[u8]) -> Expression {
    let data = data.to_vec();
    expression("cmp", move |m| m.be32(1, register).be32(2, operation).nest(3, |m| m.bytes(1, &data)))
}

/// `register = register & mask`.
pub(crate) fn mask(register: u32, mask: &[u8]) -> Expression {
    let mask = mask.to_vec();
    expression("bitwise", move |m| {
        m.be32(1, register)
            .be32(2, register)
            .be32(3, mask.len() as u32)
            .nest(4, |m| m.bytes(1, &mask))
            .nest(5, |m| m.bytes(1, &vec![0; mask.len()]))
    })
}

/// Goes on if the key is in the set (or is not, with `invert`).
pub(crate) fn lookup(set: &'static Set, register: u32, invert: bool) -> Expression {
    expression("lookup", move |m| m.str(1, set.name).be32(2, register).be32(5, u32::from(invert)))
}

/// Loads the map's data for the key; a missing key ends the rule.
pub(crate) fn translate(map: &'static Set, register: u32, result: u32) -> Expression {
    expression("lookup", move |m| m.str(1, map.name).be32(2, register).be32(3, result))
}

/// `ct status` or `ct state` into the register.
pub(crate) fn conntrack(register: u32, key: Conntrack) -> Expression {
    expression("ct", move |m| m.be32(1, register).be32(2, key as u32))
}

/// What `ct` can load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conntrack {
    State = 0,
    Status = 2,
}

/// `fib daddr type` into the register.
pub(crate) fn fib_destination_type(register: u32) -> Expression {
    expression("fib", move |m| m.be32(1, register).be32(2, 3).be32(3, 2))
}

/// Destination NAT to the address in one register and the port in another. `family` is `AF_INET` or `AF_INET6`.
pub(crate) fn dnat(family: u32, address: u32, port: u32) -> Expression {
    expression("nat", move |m| m.be32(1, 1).be32(2, family).be32(3, address).be32(5, port))
}

pub(crate) fn masquerade() -> Expression {
    expression("masq", |m| m)
}

pub(crate) fn verdict(code: u32) -> Expression {
    expression("immediate", move |m| m.be32(1, 0).nest(2, |m| m.nest(2, |m| m.be32(1, code))))
}
