//! What a URL that a registry names may lead to. Every verb's requests pass here.

use std::net::IpAddr;

use crate::error::Purpose;
use crate::transport::{AddressClasses, Transport, class_of};
use crate::url::{Origin, Scheme, Url};
use crate::{Error, Result};

/// Domains that belong to one owner, all of whose hosts are its own. Everywhere else two hosts side by side may be strangers
/// (`a.jfrog.io` and `b.jfrog.io`), which nobody can tell without the public suffix list.
const OWN_DOMAINS: [&str; 4] = ["docker.io", "gitlab.com", "redhat.com", "suse.com"];

/// Exceptions that the caller configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct UrlPolicy {
    /// (registry, token server's host or host:port) pairs that may see the registry's credentials.
    pub(crate) trusted_realms: Vec<(String, String)>,
    /// Hosts (or host:port) that may be inner addresses although the registry is not.
    pub(crate) inner_hosts: Vec<String>,
}

impl UrlPolicy {
    /// Whether `target`, which `registry` named, may be asked at all, and which addresses it may resolve to. `met` are the kinds of
    /// addresses that the registry has answered from; `own` tells those that it has, also where it has not answered.
    pub(crate) fn check(
        &self,
        met: AddressClasses,
        own: &dyn Fn() -> Result<AddressClasses>,
        registry: &Origin,
        target: &Url,
        purpose: Purpose,
    ) -> Result<AddressClasses> {
        let refuse =
            |reason: &str| Error::Refused { purpose, url: target.to_string(), reason: reason.to_owned() };
        let origin = target.origin();
        if origin == registry {
            // Its name may move to another network, and the path is of its choice.
            let anywhere = met.is_empty() || listed(&self.inner_hosts, origin);
            return Ok(if anywhere { AddressClasses::ALL } else { reachable(met) });
        }
        if purpose == Purpose::Link {
            return Err(refuse("it is on another host, port or scheme"));
        }
        if registry.scheme == Scheme::Https && origin.scheme == Scheme::Http {
            return Err(refuse("it leaves TLS"));
        }
        if listed(&self.inner_hosts, origin) {
            return Ok(AddressClasses::ALL);
        }
        let allowed = reachable(own()?);
        if let Some(ip) = origin.ip()
            && !allowed.contains(ip)
        {
            return Err(refuse("it is an inner address"));
        }
        if origin.ip().is_none() && is_local_name(&origin.host) && !allowed.contains(LOOPBACK) {
            return Err(refuse("it is a local name"));
        }
        Ok(allowed)
    }

    /// Whether the token server may see the registry's credentials.
    pub(crate) fn trusts_realm(&self, registry: &str, api: &Origin, realm: &Url) -> bool {
        let realm = realm.origin();
        if realm == api {
            return true;
        }
        let configured = |(r, host): &&(String, String)| r == registry && matches_host(host, realm);
        if self.trusted_realms.iter().any(|pair| configured(&pair)) {
            return true;
        }
        // The same owner's hosts, over TLS on its usual port.
        realm.scheme == Scheme::Https
            && realm.port == 443
            && api.scheme == Scheme::Https
            && same_owner(&realm.host, &api.host)
    }
}

/// A public registry may lead to public addresses; one on an inner network also to its own kind of them.
///
/// What counts is where it answered from, not what its name says at another time. One with a public address is public, whatever
/// inner addresses its name may have beside that.
fn reachable(own: AddressClasses) -> AddressClasses {
    if own.has(AddressClasses::GLOBAL) { AddressClasses::GLOBAL } else { own.with(AddressClasses::GLOBAL) }
}

/// The kinds of addresses that a registry's name has, for one that has not answered yet.
pub(crate) fn named(transport: &dyn Transport, registry: &Origin) -> AddressClasses {
    let found = transport.lookup(&registry.host, registry.port).unwrap_or_default();
    found.into_iter().fold(AddressClasses::NONE, |classes, a| classes.with(class_of(a.ip())))
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn listed(hosts: &[String], origin: &Origin) -> bool {
    hosts.iter().any(|host| matches_host(host, origin))
}

fn matches_host(pattern: &str, origin: &Origin) -> bool {
    pattern.eq_ignore_ascii_case(&origin.host)
        || pattern.eq_ignore_ascii_case(&format!("{}:{}", origin.host, origin.port))
}

pub(crate) fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether the host `realm` surely belongs to whom `registry` belongs: it is the same, a domain above it, whose owner could answer for
/// it anyway, or both are in a domain of one owner.
fn same_owner(realm: &str, registry: &str) -> bool {
    let (realm, registry) = (realm.trim_end_matches('.'), registry.trim_end_matches('.'));
    let below = |host: &str, domain: &str| host.strip_suffix(domain).is_some_and(|h| h.ends_with('.'));
    let within = |host: &str, domain: &str| host == domain || below(host, domain);
    realm == registry
        || (realm.contains('.') && below(registry, realm))
        || OWN_DOMAINS.iter().any(|own| within(realm, own) && within(registry, own))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::transport::{Body, Request, Response, TransportError};

    /// Answers lookups only.
    struct Names;

    impl Transport for Names {
        fn send(&self, _: &Request<'_>, _: Body<'_>) -> Result<Response, TransportError> {
            unreachable!("the policy sends nothing")
        }

        fn lookup(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
            let ips = match host {
                "public.example" => vec!["93.184.216.34"],
                "inner.example" => vec!["10.0.0.7"],
                "both.example" => vec!["10.0.0.7", "93.184.216.34"],
                ip => vec![ip.trim_matches(['[', ']'])],
            };
            let parsed = |ip: &str| Ok(SocketAddr::new(ip.parse().map_err(std::io::Error::other)?, port));
            ips.into_iter().map(parsed).collect()
        }
    }

    fn check(registry: &str, target: &str, purpose: Purpose) -> Result<AddressClasses> {
        let registry = Url::parse(registry).unwrap();
        let own = || Ok(named(&Names, registry.origin()));
        UrlPolicy::default().check(
            AddressClasses::NONE,
            &own,
            registry.origin(),
            &Url::parse(target).unwrap(),
            purpose,
        )
    }

    #[test]
    fn public_registries_lead_to_public_addresses_only() {
        let public = "https://public.example/";
        assert!(check(public, "https://cdn.example/x", Purpose::Redirect).is_ok());
        for target in [
            "http://cdn.example/x",
            "https://169.254.169.254/latest",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://localhost/",
            "https://a.localhost./",
        ] {
            for purpose in [Purpose::Redirect, Purpose::Realm, Purpose::Upload, Purpose::Foreign] {
                assert!(check(public, target, purpose).is_err(), "{target}");
            }
        }
        let rule = check(public, "https://cdn.example/x", Purpose::Realm).unwrap();
        assert!(!rule.contains("10.0.0.1".parse().unwrap()), "a name that resolves to an inner address");
    }

    #[test]
    fn inner_registries_lead_to_their_own_kind() {
        let rule = check("http://inner.example:5000/", "http://10.0.0.9/", Purpose::Realm).unwrap();
        assert!(!rule.contains("127.0.0.1".parse().unwrap()));
        assert!(check("http://127.0.0.1:5000/", "http://127.0.0.1:6000/", Purpose::Redirect).is_ok());
        assert!(check("http://127.0.0.1:5000/", "http://169.254.169.254/", Purpose::Redirect).is_err());
        assert!(check("http://10.0.0.7/", "http://localhost/", Purpose::Redirect).is_err());
    }

    #[test]
    fn a_registry_that_has_answered_is_not_led_to_another_network_by_its_own_name() {
        let own = || Ok(AddressClasses::NONE);
        let url = Url::parse("http://evil.example/x").unwrap();
        let check = |met, policy: &UrlPolicy| {
            let check = |purpose| policy.check(met, &own, url.origin(), &url, purpose).unwrap();
            let all = [Purpose::Redirect, Purpose::Realm, Purpose::Upload, Purpose::Link].map(check);
            assert!(all.iter().all(|a| *a == all[0]));
            all[0]
        };
        let strict = UrlPolicy::default();
        assert_eq!(check(AddressClasses::GLOBAL, &strict), AddressClasses::GLOBAL);
        assert!(!check(AddressClasses::PRIVATE, &strict).has(AddressClasses::LINK_LOCAL));
        assert_eq!(check(AddressClasses::NONE, &strict), AddressClasses::ALL, "nobody knows");
        let listed = UrlPolicy { inner_hosts: vec!["evil.example".into()], ..UrlPolicy::default() };
        assert_eq!(check(AddressClasses::GLOBAL, &listed), AddressClasses::ALL);
    }

    #[test]
    fn one_public_address_makes_a_registry_public() {
        let of = |host: &str| named(&Names, Url::parse(&format!("http://{host}/")).unwrap().origin());
        assert_eq!(reachable(of("both.example")), AddressClasses::GLOBAL);
        assert_eq!(reachable(AddressClasses::GLOBAL), AddressClasses::GLOBAL);
        let private = AddressClasses::GLOBAL.with(AddressClasses::PRIVATE);
        assert_eq!(reachable(AddressClasses::PRIVATE), private, "it answered from inside");
    }

    #[test]
    fn pages_stay_at_home() {
        assert!(
            check("http://127.0.0.1:5000/", "http://127.0.0.1:5000/v2/_catalog?n=1", Purpose::Link).is_ok()
        );
        assert!(check("http://127.0.0.1:5000/", "http://127.0.0.1:5001/", Purpose::Link).is_err());
        assert!(check("https://public.example/", "https://cdn.public.example/", Purpose::Link).is_err());
    }

    #[test]
    fn credentials_go_to_the_same_owner_only() {
        let policy = UrlPolicy {
            trusted_realms: vec![("r.example".into(), "auth.other:444".into())],
            ..UrlPolicy::default()
        };
        let trusts = |registry: &str, api: &str, realm: &str| {
            policy.trusts_realm(registry, Url::parse(api).unwrap().origin(), &Url::parse(realm).unwrap())
        };
        assert!(trusts("docker.io", "https://registry-1.docker.io/", "https://auth.docker.io/token"));
        assert!(trusts("r.example", "https://r.example/", "https://auth.other:444/token"));
        assert!(!trusts("s.example", "https://s.example/", "https://auth.other:444/token"));
        assert!(!trusts("r.example", "https://r.example/", "https://auth.other/token"));
        assert!(trusts("x", "https://registry.gitlab.com/", "https://gitlab.com/jwt/auth"));
        assert!(trusts("x", "https://registry.a.example/", "https://a.example/t"));
        assert!(trusts("x", "https://a.example./", "https://a.example/t"));
        for (registry, realm) in [
            ("victim.jfrog.io", "evil.jfrog.io"),
            ("1.dkr.ecr.cn-north-1.amazonaws.com.cn", "evil.s3.cn-north-1.amazonaws.com.cn"),
            ("a.azurecr.io", "b.azurecr.io"),
            ("reg.duckdns.org", "evil.duckdns.org"),
            ("reg.a.co.uk", "evil.co.uk"),
            ("reg.victim.com.", "auth.evil.com."),
            ("reg.victim.com", "com."),
            ("evildocker.io", "auth.docker.io"),
            ("a.example", "b.a.example"),
        ] {
            let (api, at) = (format!("https://{registry}/"), format!("https://{realm}/t"));
            assert!(!trusts(registry, &api, &at), "{registry} {realm}");
        }
        assert!(!trusts("x", "http://127.0.0.1:5000/", "http://127.0.0.1:5001/t"));
        assert!(!trusts("x", "https://a.example/", "https://a.example:8443/t"));
        assert!(!trusts("x", "https://10.0.0.1/", "https://11.0.0.1/t"));
    }
}
