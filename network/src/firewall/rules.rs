//! The rules. They never change; what changes are the elements of the sets that they look into.

use super::elements::ifname;
use super::{
    BRIDGES, INTERNAL, PINNED, PINS_IP4, PINS_MAC, PORTS4, PORTS4_AT, PORTS6, PORTS6_AT, SUBNETS4, SUBNETS6,
    TUNNEL_ENDS, TUNNELS, WITHIN,
};
use crate::netlink::nft::{
    self, Base, Chain, Conntrack, Expression, Meta, REGISTER, Set, differs, equal, lookup, mask, meta,
    payload, translate, verdict,
};
use crate::state::fnv;

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const fn chain(name: &'static str, kind: &'static str, hook: u32, priority: i32) -> Chain {
    Chain { table: super::TABLE, name, kind, hook, priority }
}

const GUARD: Chain = chain("guard", "filter", PREROUTING, -300);
const FORWARDED: Chain = chain("forward", "filter", FORWARD, 0);
const PUBLISH: Chain = chain("publish", "nat", PREROUTING, -100);
const PUBLISH_LOCAL: Chain = chain("publish-local", "nat", OUTPUT, -100);
const LEAVE: Chain = chain("leave", "nat", POSTROUTING, 100);
const PIN: Chain =
    Chain { table: super::BRIDGE_TABLE, name: "pin", kind: "filter", hook: PREROUTING, priority: -300 };

pub(super) const CHAINS: [Chain; 6] = [GUARD, FORWARDED, PUBLISH, PUBLISH_LOCAL, LEAVE, PIN];

/// Whether the packet is of this family, and where its addresses are.
#[derive(Clone, Copy)]
struct Family {
    number: u8,
    nfproto: u8,
    source: u32,
    destination: u32,
    length: u32,
    subnets: &'static Set,
    ports: &'static Set,
    ports_at: &'static Set,
}

const FAMILIES: [Family; 2] = [
    Family {
        number: 2,
        nfproto: 2,
        source: 12,
        destination: 16,
        length: 4,
        subnets: &SUBNETS4,
        ports: &PORTS4,
        ports_at: &PORTS4_AT,
    },
    Family {
        number: 10,
        nfproto: 10,
        source: 8,
        destination: 24,
        length: 16,
        subnets: &SUBNETS6,
        ports: &PORTS6,
        ports_at: &PORTS6_AT,
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

pub(super) type Rule = (Chain, Vec<Expression>);

fn rule(chain: Chain, parts: impl IntoIterator<Item = Vec<Expression>>) -> Rule {
    (chain, parts.into_iter().flatten().collect())
}

/// What the kernel keeps with a rule, by which it is known again: a hash of all that it is.
pub(super) fn mark((chain, expressions): &Rule) -> String {
    format!("{:016x}", fnv(chain.add_rule(expressions, "").finish(0, 0)))
}

/// All rules, in order.
pub(super) fn rules() -> Vec<Rule> {
    let mut rules = guard_rules();
    rules.extend(forward_rules());
    for family in FAMILIES {
        rules.extend(publish_rules(PUBLISH, family));
        rules.extend(publish_rules(PUBLISH_LOCAL, family));
    }
    rules.extend(leave_rules());
    rules.extend(pin_rules());
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
    let mut rules = vec![rule(GUARD, [input_not_lo(), loopback_address(FAMILIES[0].destination()), drop()])];
    rules.extend(FAMILIES.map(|family| {
        let addressed = vec![family.destination(), lookup(family.subnets, REGISTER, false)];
        let outside = vec![meta(REGISTER, Meta::InputName), lookup(&BRIDGES, REGISTER, true)];
        let other = vec![differs(REGISTER, &ifname("lo"))];
        rule(GUARD, [family.is().into(), addressed, outside, other, drop()])
    }));
    rules.push(rule(GUARD, [FAMILIES[0].is().into(), foreign_tunnel_end(), drop()]));
    rules
}

/// A VXLAN packet for a tunnel of ours, of a host that is not at its other end: anyone could forge frames otherwise.
fn foreign_tunnel_end() -> Vec<Expression> {
    const UDP: u8 = 17;
    const VNI_AFTER_UDP: u32 = 12;
    vec![
        meta(REGISTER, Meta::Protocol),
        equal(REGISTER, &[UDP]),
        payload(REGISTER, Base::Transport, 2, 2),
        payload(REGISTER + 1, Base::Transport, VNI_AFTER_UDP, 3),
        lookup(&TUNNELS, REGISTER, false),
        payload(REGISTER + 2, Base::Network, FAMILIES[0].source, 4),
        lookup(&TUNNEL_ENDS, REGISTER, true),
    ]
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
        lookup(&WITHIN, REGISTER, false),
        verdict(nft::ACCEPT),
    ];
    let named = |key, set: &'static Set| vec![meta(REGISTER, key), lookup(set, REGISTER, false)];
    let drop = || vec![verdict(nft::DROP)];
    vec![
        (FORWARDED, state),
        (FORWARDED, within),
        rule(FORWARDED, [named(Meta::InputName, &INTERNAL), drop()]),
        rule(FORWARDED, [named(Meta::OutputName, &INTERNAL), drop()]),
        rule(FORWARDED, [named(Meta::OutputName, &BRIDGES), published(), vec![verdict(nft::ACCEPT)]]),
        rule(FORWARDED, [named(Meta::OutputName, &BRIDGES), drop()]),
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
fn publish_rules(chain: Chain, family: Family) -> [Rule; 2] {
    const RTN_LOCAL: u32 = 2;
    let local = || {
        let mut all: Vec<_> = family.is().into();
        all.push(nft::fib_destination_type(REGISTER));
        all.push(equal(REGISTER, &RTN_LOCAL.to_ne_bytes()));
        all
    };
    let port = |first| vec![meta(first, Meta::Protocol), payload(first + 1, Base::Transport, 2, 2)];
    let words = family.length / 4;
    let to = |map: &'static Set| {
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
    let to_bridge = |invert| vec![meta(REGISTER, Meta::OutputName), lookup(&BRIDGES, REGISTER, invert)];
    let masquerade = || vec![nft::masquerade()];
    let from_container = |family: Family| {
        let mut all: Vec<_> = family.is().into();
        all.extend([family.source(), lookup(family.subnets, REGISTER, false)]);
        all
    };
    let mut rules =
        vec![rule(LEAVE, [loopback_address(FAMILIES[0].source()), to_bridge(false), masquerade()])];
    for family in FAMILIES {
        let outside = vec![differs(REGISTER, &ifname("lo"))];
        rules.push(rule(LEAVE, [from_container(family), to_bridge(true), outside, masquerade()]));
        rules.push(rule(LEAVE, [from_container(family), to_bridge(false), published(), masquerade()]));
    }
    rules
}

/// A container speaks with its own MAC and IPv4 addresses only, in frames and in ARP, and is nobody's IPv6 router.
fn pin_rules() -> Vec<Rule> {
    const ARP: u32 = 0x0806;
    const IPV4: u32 = 0x0800;
    const IPV6: u32 = 0x86dd;
    const ICMPV6: u8 = 58;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    let port = || vec![meta(REGISTER, Meta::InputName), lookup(&PINNED, REGISTER, false)];
    let kind = |number: u32| {
        let bytes = (number as u16).to_be_bytes();
        vec![meta(REGISTER + 8, Meta::EtherType), equal(REGISTER + 8, &bytes)]
    };
    let unless = |load, set: &'static Set| {
        vec![meta(REGISTER, Meta::InputName), load, lookup(set, REGISTER, true), verdict(nft::DROP)]
    };
    let load = |base, offset, length| payload(REGISTER + 4, base, offset, length);
    let network =
        |offset, value: u8| vec![payload(REGISTER, Base::Network, offset, 1), equal(REGISTER, &[value])];
    vec![
        rule(PIN, [port(), unless(load(Base::Link, 6, 6), &PINS_MAC)]),
        rule(PIN, [port(), kind(ARP), unless(load(Base::Network, 8, 6), &PINS_MAC)]),
        rule(PIN, [port(), kind(ARP), unless(load(Base::Network, 14, 4), &PINS_IP4)]),
        rule(PIN, [port(), kind(IPV4), unless(load(Base::Network, 12, 4), &PINS_IP4)]),
        rule(
            PIN,
            [
                port(),
                kind(IPV6),
                network(6, ICMPV6),
                network(40, ROUTER_ADVERTISEMENT),
                vec![verdict(nft::DROP)],
            ],
        ),
    ]
}
