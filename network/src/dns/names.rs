//! Where names come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

/// Who has which name on a network. Names come in lower case, without a dot at the end.
pub trait Names: Send + Sync {
    /// The addresses of a name; `None` if there is no such name.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of an address.
    fn name(&self, address: IpAddr) -> Option<String>;
    /// Whether nobody else can know the address's name.
    fn covers(&self, address: IpAddr) -> bool;
}

/// Names in memory.
#[derive(Debug, Default)]
pub struct MemoryNames(RwLock<BTreeMap<String, Vec<IpAddr>>>);

impl MemoryNames {
    /// No names.
    pub fn new() -> Self {
        Self::default()
    }
    /// Sets the addresses of a name; none removes it.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let name = name.to_ascii_lowercase();
        match addresses {
            [] => drop(names.remove(&name)),
            _ => drop(names.insert(name, addresses.to_vec())),
        }
    }
}

impl Names for MemoryNames {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
    fn name(&self, address: IpAddr) -> Option<String> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.iter().find(|(_, all)| all.contains(&address)).map(|(name, _)| name.clone())
    }
    fn covers(&self, address: IpAddr) -> bool {
        self.name(address).is_some()
    }
}

/// The name that a reverse lookup asks for, `4.3.2.1.in-addr.arpa` or its longer brother, as an address.
pub(crate) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = digits.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::from);
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|d| d.len() != 1) {
        return None;
    }
    let hex: String = digits.into_iter().rev().collect();
    u128::from_str_radix(&hex, 16).ok().map(|number| std::net::Ipv6Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_addresses() {
        assert_eq!(reverse("2.0.17.172.in-addr.arpa"), Some([172, 17, 0, 2].into()));
        let long = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(reverse(long), Some("2001:db8::1".parse().unwrap()));
        for bad in ["in-addr.arpa", "1.2.3.in-addr.arpa", "x.ip6.arpa", "a.b.c", "+1.0.0.0.ip6.arpa"] {
            assert_eq!(reverse(bad), None, "{bad}");
        }
    }
}
