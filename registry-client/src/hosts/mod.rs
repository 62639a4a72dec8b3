//! How registries are reached: addresses, TLS, mirrors.

mod dir;
mod file;
pub(crate) mod pem;
mod proxies;
pub(crate) mod toml;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

pub use dir::HostsDir;
pub use proxies::Proxies;

use crate::endpoint::login_name;
use crate::policy::is_local_name;
use crate::reference::DOCKER_HUB;
use crate::transport::{AddressClasses, Headers, TlsOptions, class_of};
use crate::url::{Origin, Scheme, Url};
use crate::{Error, Result};

/// Where one server's API is and how to talk to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Host {
    /// The root of its API, `https://registry.example/v2`.
    pub url: Url,
    /// Trust, client certificate, proxy; `None` is the transport's default.
    pub tls: Option<TlsOptions>,
    /// Sent with every request to this very origin.
    pub headers: Headers,
    /// Whether an `http` URL may turn out to be TLS (then that is used, without verification) and an `https` one plain HTTP, as Docker
    /// does for insecure registries. A port that the registry's name leaves out is then the other scheme's own.
    pub flexible: bool,
    /// Serves manifests and blobs.
    pub pull: bool,
    /// Knows what a tag points to. Without it a mirror is only asked for digests.
    pub resolve: bool,
    /// Takes pushes.
    pub push: bool,
    /// The largest body it takes in one request, where that is known, in bytes.
    pub chunk_max: Option<u64>,
}

impl Host {
    /// A server whose API is at this URL; `https://registry.example` stands for `https://registry.example/v2`.
    pub fn new(url: &str) -> Result<Self> {
        let url = Url::parse(url)?;
        if url.query().is_some() {
            return Err(Error::Url { url: url.to_string(), reason: "an API root has no query" });
        }
        let url = if url.path() == "/" { url.join("/v2")? } else { url };
        Ok(Self {
            url,
            tls: None,
            headers: Headers::new(),
            flexible: false,
            pull: true,
            resolve: true,
            push: true,
            chunk_max: None,
        })
    }

    /// With these TLS options.
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }
}

/// One registry: its own server and the mirrors to ask first, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostConfig {
    /// The registry itself. Where this is another host than the registry's name says (or, for `docker.io`, `registry-1.docker.io`),
    /// credentials are looked up by the name of that host.
    pub server: Host,
    /// Pull-through caches and copies. What one lacks, or does not answer in time, comes from the next.
    pub mirrors: Vec<Host>,
}

impl HostConfig {
    /// Without mirrors.
    pub const fn new(server: Host) -> Self {
        Self { server, mirrors: Vec::new() }
    }

    /// What Docker does with a registry of this name when nothing is configured: TLS, but plain HTTP for loopback. An insecure one is
    /// asked by unverified TLS, and by plain HTTP where that fails.
    pub fn default_for(registry: &str, insecure: bool) -> Result<Self> {
        let api = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
        let loopback = is_loopback(&Url::parse(&format!("https://{api}/"))?);
        let scheme = if loopback { Scheme::Http } else { Scheme::Https };
        let mut server = Host::new(&format!("{}://{api}", scheme.as_str()))?;
        server.flexible = insecure || loopback;
        if insecure && !loopback {
            server.tls = Some(TlsOptions::new().skip_verify());
        }
        Ok(Self::new(server))
    }

    /// With its server, unless that is another host than the name says, talked to without verification, or by plain HTTP.
    pub(crate) fn insecure(mut self, registry: &str) -> Self {
        if login_name(registry, &self.server.url) == registry {
            self.server.flexible = true;
            if self.server.url.origin().scheme == Scheme::Https {
                self.server.tls = Some(self.server.tls.unwrap_or_default().skip_verify());
            }
        }
        self
    }

    /// Somebody set up TLS for it: plain HTTP, also to loopback, would pass that by.
    fn require_tls(&mut self) {
        if self.server.tls.is_some() {
            let https = Origin { scheme: Scheme::Https, ..self.server.url.origin().clone() };
            self.server.url = self.server.url.with_origin(https);
            self.server.flexible = false;
        }
    }

    /// Adds a mirror.
    #[must_use]
    pub fn mirror(mut self, host: Host) -> Self {
        self.mirrors.push(host);
        self
    }
}

/// Whether a registry is meant by its name, or by the network that its address is in.
pub(crate) fn covers(pattern: &str, registry: &str) -> bool {
    let Some((net, bits)) = pattern.split_once('/') else { return pattern == registry };
    let ip = Url::parse(&format!("https://{registry}/")).ok().and_then(|url| url.origin().ip());
    ip.is_some_and(|ip| proxies::within(ip, net.parse().ok(), bits.parse().ok()).unwrap_or(false))
}

/// Whether a pattern means anything.
pub(crate) fn check_pattern(pattern: &str) -> Result<()> {
    let bad = |reason| Error::Insecure { pattern: pattern.to_owned(), reason };
    if pattern.contains("://") {
        return Err(bad("leave out the scheme"));
    }
    if let Some((net, bits)) = pattern.split_once('/') {
        let max = net.parse().map(|ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 });
        return match (max, bits.parse::<u32>()) {
            (Ok(max), Ok(bits)) if bits <= max => Ok(()),
            _ => Err(bad("a network is an address, a slash and a number of bits")),
        };
    }
    match Url::parse(&format!("https://{pattern}/")) {
        Ok(url) if url.path() == "/" && url.query().is_none() && !pattern.contains(['#', '?']) => Ok(()),
        Err(Error::Url { reason, .. }) => Err(bad(reason)),
        _ => Err(bad("it is neither a host nor a network")),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.origin().ip() {
        Some(ip) => class_of(ip) == AddressClasses::LOOPBACK,
        None => is_local_name(&url.origin().host),
    }
}

/// Host configurations by registry name, such as a directory of files.
pub trait Hosts: Send + Sync {
    /// The configuration of this registry (`docker.io`, `127.0.0.1:5000`), or `None` for the default. Asked once per client.
    fn get(&self, registry: &str) -> Result<Option<HostConfig>>;
}

const FILE_MAX: u64 = 1 << 20;

/// A configuration file, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    use io::Read as _;
    let file = match fs::File::open(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened.map_err(|e| unreadable(path, e))?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
    if bytes.len() as u64 > FILE_MAX { Err(bad(path, "it is too large")) } else { Ok(Some(bytes)) }
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Config { path: path.to_owned(), reason: "cannot be read".into(), source: Some(source.into()) }
}

fn bad(path: &Path, reason: impl Into<String>) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.into(), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_host_or_a_network() {
        for good in ["h", "reg.example:5000", "10.0.0.0/8", "fd00::/8", "[::1]:5000", "127.0.0.1"] {
            check_pattern(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in [
            "",
            "http://h",
            "h/path",
            "10.0.0.0/33",
            "10.0.0.0/",
            "fd00::/129",
            "h:x",
            "h:99999",
            "a b",
            "u@h",
            "h?x",
            "h#x",
        ] {
            let said = check_pattern(bad).unwrap_err().to_string();
            assert!(said.starts_with(&format!("invalid insecure registry {bad:?}: ")), "{bad}: {said}");
        }
    }
}
