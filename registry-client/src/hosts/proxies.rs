use std::fmt;
use std::net::IpAddr;

use crate::policy::is_local_name;
use crate::transport::{AddressClasses, class_of};
use crate::url::{Scheme, Url};

/// Which proxy to go through to which hosts. `Debug` shows no address, since that may hold a password.
///
/// A proxy is `http://[user:password@]host:port` (asked to `CONNECT`, also for plain HTTP), `socks5://..` (names are looked up here,
/// so that the rules on addresses hold) or `socks5h://..` (the proxy looks them up). Loopback is never reached through a proxy.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    except: Vec<String>,
}

impl Proxies {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// As the environment's variables say: `http_proxy` (in lower case only: a web server sets the other from a request's header),
    /// `https_proxy`, `all_proxy` and `no_proxy` in either case. The caller reads them: `|name| std::env::var(name).ok()`.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| get(name).filter(|v| !v.trim().is_empty());
        let either = |name: &str| var(name).or_else(|| var(&name.to_ascii_uppercase()));
        let all = either("all_proxy");
        let proxies = Self { http: var("http_proxy").or_else(|| all.clone()), ..Self::default() };
        let proxies = Self { https: either("https_proxy").or(all), ..proxies };
        proxies.except(&either("no_proxy").unwrap_or_default())
    }

    /// For `http` URLs.
    #[must_use]
    pub fn http(mut self, proxy: &str) -> Self {
        self.http = Some(proxy.to_owned());
        self
    }

    /// For `https` URLs.
    #[must_use]
    pub fn https(mut self, proxy: &str) -> Self {
        self.https = Some(proxy.to_owned());
        self
    }

    /// Hosts to reach directly, separated by commas, as Go's programs (so Docker's) read them: `example.com` with all names below it,
    /// `.example.com` or `*.example.com` for those below it only, an address, a network (`10.0.0.0/8`), each with `:port` if only that
    /// is meant, or `*` for all.
    #[must_use]
    pub fn except(mut self, hosts: &str) -> Self {
        let hosts = hosts.split(',').map(|h| h.trim().to_ascii_lowercase());
        self.except.extend(hosts.filter(|h| !h.is_empty()));
        self
    }

    pub(crate) fn get(&self, url: &Url) -> Option<&str> {
        let origin = url.origin();
        let proxy = match origin.scheme {
            Scheme::Http => self.http.as_deref(),
            Scheme::Https => self.https.as_deref(),
        }?;
        let ip = origin.ip();
        let loopback = match ip {
            Some(ip) => class_of(ip) == AddressClasses::LOOPBACK,
            None => is_local_name(&origin.host),
        };
        let direct = loopback || self.except.iter().any(|e| matches(e, &origin.host, ip, origin.port));
        (!direct).then_some(proxy)
    }
}

fn matches(pattern: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    if pattern == "*" {
        return true;
    }
    let (pattern, only) = match pattern.rsplit_once(':') {
        // Not a part of an IPv6 address.
        Some((before, digits)) if !before.contains(':') || before.ends_with(']') => {
            (before, digits.parse().ok())
        }
        _ => (pattern, None),
    };
    if only.is_some_and(|only: u16| only != port) {
        return false;
    }
    let bare = pattern.trim_matches(['[', ']']);
    if let Some(ip) = ip {
        return match bare.split_once('/') {
            Some((net, bits)) => within(ip, net.parse().ok(), bits.parse().ok()).unwrap_or(false),
            None => bare.parse() == Ok(ip),
        };
    }
    let domain = bare.strip_prefix('*').filter(|d| d.starts_with('.')).unwrap_or(bare);
    match domain.strip_prefix('.') {
        Some(domain) => is_below(host, domain),
        None => host == domain || is_below(host, domain),
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    !domain.is_empty() && host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

pub(super) fn within(ip: IpAddr, net: Option<IpAddr>, bits: Option<u32>) -> Option<bool> {
    let (net, bits) = (net?, bits?);
    Some(match (ip, net) {
        (IpAddr::V4(ip), IpAddr::V4(net)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            ip.to_bits() & mask == net.to_bits() & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            ip.to_bits() & mask == net.to_bits() & mask
        }
        _ => false,
    })
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("except", &self.except)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_reached_directly() {
        let vars = |name: &str| {
            let value = match name {
                "http_proxy" => "http://user:s3cret@p:1",
                "HTTPS_PROXY" => "socks5://s:2",
                "no_proxy" => {
                    "Example.com, .inner, *.corp.example, *.port.example:5000, 10.0.0.0/8,192.0.2.7,other:5000,[2001:db8::1],fd00::/8"
                }
                _ => return None,
            };
            Some(value.to_owned())
        };
        let proxies = Proxies::from_vars(vars);
        let get = |url: &str| proxies.get(&Url::parse(url).unwrap()).map(str::to_owned);
        assert_eq!(get("http://reg.test/"), Some("http://user:s3cret@p:1".into()));
        assert_eq!(get("https://reg.test/"), Some("socks5://s:2".into()));
        for direct in [
            "https://example.com/",
            "https://a.b.example.com/",
            "https://x.inner/",
            "https://reg.corp.example/",
            "https://a.reg.corp.example:5000/",
            "http://reg.port.example:5000/",
            "http://10.1.2.3/",
            "http://192.0.2.7:5000/",
            "http://other:5000/",
            "http://[2001:db8::1]/",
            "http://[fd12::1]/",
            "http://127.0.0.1:5000/",
            "http://localhost/",
        ] {
            assert_eq!(get(direct), None, "{direct}");
        }
        for proxied in [
            "https://badexample.com/",
            "https://inner/",
            "https://corp.example/",
            "https://badcorp.example/",
            "http://reg.port.example/",
            "http://11.0.0.1/",
            "http://other:80/",
            "http://[2001:db8::2]/",
        ] {
            assert!(get(proxied).is_some(), "{proxied}");
        }
        assert!(Proxies::new().http("h").except("*").get(&Url::parse("http://x/").unwrap()).is_none());
        assert!(!format!("{proxies:?}").contains("s3cret"));
    }

    #[test]
    fn a_request_header_is_no_proxy() {
        let proxies = Proxies::from_vars(|name| (name == "HTTP_PROXY").then(|| "http://evil:1".into()));
        assert!(proxies.get(&Url::parse("http://reg.test/").unwrap()).is_none());
    }
}
