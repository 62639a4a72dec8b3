//! What names were looked up to, for some seconds: a request need not wait for a name server, and a name is not asked for again by each.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::endpoint::lock;

/// Looks a name up.
type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// As long as an idle connection is kept, which would not be looked up again either.
const KEPT: Duration = Duration::from_secs(15);
const HOSTS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 64;

/// Names and their addresses. Which of them a request may reach is for each request to say, also of those that are known.
pub(super) struct Addresses {
    lookup: Box<Lookup>,
    known: Mutex<HashMap<(String, u16), Known>>,
}

struct Known {
    addresses: Vec<SocketAddr>,
    until: Instant,
}

impl Addresses {
    pub(super) fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Box::new(lookup), known: Mutex::default() }
    }

    /// Known, or else looked up.
    pub(super) fn get(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.known(host, port).map_or_else(|| self.find(host, port), Ok)
    }

    /// What needs no lookup: an address (an IPv6 one also in brackets), or a name that was looked up lately.
    pub(super) fn known(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let host = bare(host);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Some(vec![SocketAddr::new(ip, port)]);
        }
        let known = lock(&self.known);
        let found = known.get(&(host.to_owned(), port)).filter(|k| k.until > Instant::now());
        found.map(|k| k.addresses.clone())
    }

    /// Looks a name up, whatever is known.
    pub(super) fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let host = bare(host);
        let mut addresses = (self.lookup)(host, port)?;
        addresses.truncate(ADDRESSES_MAX);
        if !addresses.is_empty() {
            self.keep(host, port, &addresses, Instant::now());
        }
        Ok(addresses)
    }

    /// They did not answer: the name may have moved.
    pub(super) fn forget(&self, host: &str, port: u16) {
        lock(&self.known).remove(&(bare(host).to_owned(), port));
    }

    fn keep(&self, host: &str, port: u16, addresses: &[SocketAddr], now: Instant) {
        let mut known = lock(&self.known);
        if known.len() >= HOSTS_MAX {
            known.retain(|_, k| k.until > now);
        }
        if known.len() >= HOSTS_MAX {
            // A registry leads to more names than a client has use for.
            known.clear();
        }
        let fresh = Known { addresses: addresses.to_vec(), until: now + KEPT };
        known.insert((host.to_owned(), port), fresh);
    }
}

fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counted() -> (Addresses, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let addresses = Addresses::new(move |host, port| {
            count.fetch_add(1, Ordering::Relaxed);
            if host == "none.test" {
                return Ok(Vec::new());
            }
            Ok(vec![SocketAddr::from(([192, 0, 2, 1], port)); 1000])
        });
        (addresses, asked)
    }

    #[test]
    fn a_name_is_asked_for_once_in_a_while() {
        let (addresses, asked) = counted();
        let asked = || asked.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(addresses.get("a.test", 1).unwrap()[0], "192.0.2.1:1".parse().unwrap());
        }
        assert_eq!(asked(), 1);
        addresses.get("a.test", 2).unwrap();
        assert_eq!(asked(), 2, "another port is another service");
        addresses.forget("a.test", 1);
        addresses.get("a.test", 1).unwrap();
        assert_eq!(asked(), 3);
        let then = Instant::now().checked_sub(KEPT).unwrap();
        addresses.keep("a.test", 1, &addresses.get("a.test", 1).unwrap(), then);
        addresses.get("a.test", 1).unwrap();
        assert_eq!(asked(), 4, "what is known grows old");
        for _ in 0..2 {
            assert!(addresses.get("none.test", 1).unwrap().is_empty());
        }
        assert_eq!(asked(), 6, "what has no address may get one");
        assert_eq!(addresses.get("[::1]", 5).unwrap(), ["[::1]:5".parse().unwrap()]);
        assert_eq!(asked(), 6, "an address is looked up nowhere");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (addresses, _) = counted();
        for i in 0..1000 {
            assert!(addresses.get(&format!("{i}.test"), 1).unwrap().len() <= ADDRESSES_MAX);
            assert!(lock(&addresses.known).len() <= HOSTS_MAX);
        }
        assert!(addresses.known("999.test", 1).is_some());
    }
}
