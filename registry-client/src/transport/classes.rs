use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A set of kinds of IP addresses (IANA special-purpose registries, RFC 6890).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AddressClasses(u8);

impl AddressClasses {
    /// No address.
    pub const NONE: Self = Self(0);
    /// Routable in the whole internet.
    pub const GLOBAL: Self = Self(1);
    /// 10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7.
    pub const PRIVATE: Self = Self(2);
    /// 127/8, ::1.
    pub const LOOPBACK: Self = Self(4);
    /// 169.254/16 (where clouds serve credentials), fe80::/10, and where some clouds serve such things elsewhere (`100.100.100.200`,
    /// `168.63.129.16`, `fd00:ec2::254` and others).
    pub const LINK_LOCAL: Self = Self(8);
    /// Unspecified, multicast, documentation, reserved.
    pub const SPECIAL: Self = Self(16);
    /// Every address.
    pub const ALL: Self = Self(31);

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds one of the other's kinds.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is [`NONE`](Self::NONE).
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the address is of one of these kinds.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0 & class_of(address).0 != 0
    }
}

impl fmt::Debug for AddressClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["global", "private", "loopback", "link-local", "special"];
        let set = names.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        f.debug_set().entries(set.map(|(_, name)| name)).finish()
    }
}

/// The kind of one address; an IPv4 address mapped or embedded in IPv6 counts as what it embeds.
pub fn class_of(address: IpAddr) -> AddressClasses {
    match address {
        IpAddr::V4(v4) => class_of_v4(v4),
        IpAddr::V6(v6) => class_of_v6(v6),
    }
}

fn class_of_v4(v4: Ipv4Addr) -> AddressClasses {
    let [a, b, c, d] = v4.octets();
    match (a, b, c) {
        // What Alibaba and Azure have for their machines, in ranges of others.
        (100, 100, 100) if d == 200 => AddressClasses::LINK_LOCAL,
        (168, 63, 129) if d == 16 => AddressClasses::LINK_LOCAL,
        (127, ..) => AddressClasses::LOOPBACK,
        (169, 254, _) => AddressClasses::LINK_LOCAL,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => AddressClasses::PRIVATE,
        (0 | 224..=255, ..) | (192, 0, 0 | 2) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => {
            AddressClasses::SPECIAL
        }
        _ => AddressClasses::GLOBAL,
    }
}

fn class_of_v6(v6: Ipv6Addr) -> AddressClasses {
    if let Some(v4) = embedded_v4(v6) {
        return class_of_v4(v4);
    }
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClasses::LOOPBACK,
        [first, ..] if first & 0xffc0 == 0xfe80 => AddressClasses::LINK_LOCAL,
        // Amazon's, Google's and Scaleway's, each in a private range.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
        | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] => AddressClasses::LINK_LOCAL,
        // Site-local is retired, and still private where it is used.
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => AddressClasses::PRIVATE,
        // Documentation, and what protocols use among themselves, such as Teredo, which hides an IPv4 address.
        [0x2001, 0x0db8 | ..=0x01ff, ..] | [0x3fff, ..=0x0fff, ..] => AddressClasses::SPECIAL,
        [first, ..] if first & 0xe000 == 0x2000 => AddressClasses::GLOBAL,
        _ => AddressClasses::SPECIAL,
    }
}

/// ::ffff:a.b.c.d, ::a.b.c.d, 64:ff9b::a.b.c.d (NAT64), 2002:aabb:ccdd:: (6to4).
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(pair(high, low)),
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_inner_addresses_in_every_dress() {
        use AddressClasses as A;
        for (address, class) in [
            ("8.8.8.8", A::GLOBAL),
            ("2606:4700::1", A::GLOBAL),
            ("127.0.0.1", A::LOOPBACK),
            ("::1", A::LOOPBACK),
            ("::ffff:127.0.0.1", A::LOOPBACK),
            ("::127.0.0.1", A::LOOPBACK),
            ("64:ff9b::7f00:1", A::LOOPBACK),
            ("2002:7f00:1::", A::LOOPBACK),
            ("169.254.169.254", A::LINK_LOCAL),
            ("::ffff:169.254.169.254", A::LINK_LOCAL),
            ("fe80::1", A::LINK_LOCAL),
            ("fd00:ec2::254", A::LINK_LOCAL),
            ("fd20:ce::254", A::LINK_LOCAL),
            ("fd00:42::42", A::LINK_LOCAL),
            ("fd00:ec2::253", A::PRIVATE),
            ("100.100.100.200", A::LINK_LOCAL),
            ("::ffff:100.100.100.200", A::LINK_LOCAL),
            ("100.100.100.201", A::PRIVATE),
            ("168.63.129.16", A::LINK_LOCAL),
            ("168.63.129.17", A::GLOBAL),
            ("10.1.2.3", A::PRIVATE),
            ("172.31.0.1", A::PRIVATE),
            ("172.32.0.1", A::GLOBAL),
            ("100.64.0.1", A::PRIVATE),
            ("0.0.0.0", A::SPECIAL),
            ("::", A::SPECIAL),
            ("255.255.255.255", A::SPECIAL),
            ("224.0.0.1", A::SPECIAL),
            ("ff02::1", A::SPECIAL),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", A::SPECIAL),
            ("2001:db8::1", A::SPECIAL),
            ("3fff::1", A::SPECIAL),
            ("2001:4860:4860::8888", A::GLOBAL),
        ] {
            assert_eq!(class_of(address.parse().unwrap()), class, "{address}");
        }
        assert!(A::GLOBAL.with(A::PRIVATE).contains("10.0.0.1".parse().unwrap()));
        assert!(!A::GLOBAL.with(A::PRIVATE).contains("127.0.0.1".parse().unwrap()));
    }
}
