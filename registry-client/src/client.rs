use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

use crate::auth::Credentials;
use crate::endpoint::{Registry, lock};
use crate::hosts::{self, HostConfig, Hosts, Proxies};
use crate::policy::UrlPolicy;
use crate::transport::{Timeouts, TlsOptions, Transport, UreqTransport};
use crate::{CancelToken, Result};

type Warnings = dyn Fn(&str, &str) + Send + Sync;

/// Bounds on what a registry can make a client do. All are finite by default.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Largest manifest or index, in bytes. 4 MiB, the least that the spec asks registries to take.
    pub manifest: u64,
    /// Largest page of a list, in bytes. 4 MiB.
    pub page: u64,
    /// For a manifest, a page or a token to arrive, once it has begun to; a blob may take as long as it moves. 2 minutes.
    pub patience: Duration,
    /// Most pages of one list. 10000.
    pub pages: usize,
    /// Most entries of one list. 100000.
    pub entries: usize,
    /// Largest list over all its pages, in bytes of text that is kept. 8 MiB.
    pub list: u64,
    /// Most redirects of one request. 5.
    pub redirects: u32,
    /// Exchanges with one server at a time, and as many blobs on their way to it. 8.
    pub concurrency: usize,
    /// Requests for one blob at a time, each for a part of it, where the server does ranges; each takes 1 MiB of memory. Only worth it
    /// where a connection is slower than the line. 1: a blob is one stream.
    pub ranges: usize,
    /// Manifests kept in memory for a next request, in bytes. 8 MiB.
    pub manifest_cache: usize,
    /// Levels of indexes within indexes. 4.
    pub depth: usize,
    /// Most manifests (and other children) of an index, with those of the indexes in it. 10000.
    pub manifests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 << 20,
            page: 4 << 20,
            patience: Duration::from_secs(120),
            pages: 10_000,
            entries: 100_000,
            list: 8 << 20,
            redirects: 5,
            concurrency: 8,
            ranges: 1,
            manifest_cache: 8 << 20,
            depth: 4,
            manifests: 10_000,
        }
    }
}

/// When and how often to try again. Only what is safe to repeat is repeated.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// Attempts in all, of one request or of a transfer that does not move on. 5.
    pub attempts: u32,
    /// The first pause; it doubles each time, and half of it is left to chance. 200 ms.
    pub base: Duration,
    /// The longest pause. 10 s.
    pub max: Duration,
    /// The longest wish of a registry (`Retry-After`) to comply with; a longer one ends the call with the wish in its error. 60 s.
    pub retry_after_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(200),
            max: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

/// A registry client: connections, tokens, host settings, what hosts turned out to support. Cheap to clone, shared by threads.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>, pub(crate) CancelToken);

pub(crate) struct Inner {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) credentials: Option<Arc<dyn Credentials>>,
    pub(crate) policy: UrlPolicy,
    pub(crate) proxies: Proxies,
    /// Trust for hosts without any of their own.
    pub(crate) roots: Option<TlsOptions>,
    pub(crate) limits: Limits,
    pub(crate) retry: Retry,
    pub(crate) warnings: Option<Box<Warnings>>,
    pub(crate) foreign_layers: bool,
    pub(crate) manifests: Mutex<ManifestCache>,
    pub(crate) origins: Mutex<BlobOrigins>,
    insecure: Vec<String>,
    configs: HashMap<String, HostConfig>,
    hosts: Option<Box<dyn Hosts>>,
    registries: Mutex<HashMap<String, Arc<Registry>>>,
}

/// Makes a [`Client`].
#[must_use]
#[derive(Default)]
pub struct ClientBuilder {
    transport: Option<Arc<dyn Transport>>,
    timeouts: Timeouts,
    credentials: Option<Arc<dyn Credentials>>,
    policy: UrlPolicy,
    proxies: Proxies,
    roots: Option<TlsOptions>,
    limits: Limits,
    retry: Retry,
    cancel: CancelToken,
    warnings: Option<Box<Warnings>>,
    foreign_layers: bool,
    insecure: Vec<String>,
    configs: HashMap<String, HostConfig>,
    hosts: Option<Box<dyn Hosts>>,
}

impl ClientBuilder {
    /// Where user names and secrets come from. Without it everything is anonymous.
    pub fn credentials(mut self, credentials: impl Credentials + 'static) -> Self {
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Talk unverified TLS to this host, or plain HTTP where that fails; loopback hosts are always tried with HTTP first. A network
    /// (`10.0.0.0/8`) stands for the hosts in it that are named by their address; no name is looked up for this. Certificates and mirrors
    /// that [`hosts`](Self::hosts) finds stay; what [`host`](Self::host) says comes first.
    pub fn insecure(mut self, host: &str) -> Self {
        self.insecure.push(host.to_owned());
        self
    }

    /// How to reach one registry: its server, TLS options and mirrors.
    pub fn host(mut self, registry: &str, config: HostConfig) -> Self {
        self.configs.insert(registry.to_owned(), config);
        self
    }

    /// Where to look up how to reach registries that [`host`](Self::host) does not name.
    pub fn hosts(mut self, hosts: impl Hosts + 'static) -> Self {
        self.hosts = Some(Box::new(hosts));
        self
    }

    /// Trusts these PEM certificates (such as the system's, with those of one's own) instead of the built-in ones of Mozilla, for all
    /// hosts whose [`TlsOptions`](crate::TlsOptions) name none. May be called several times.
    pub fn roots_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(self.roots.unwrap_or_default().roots_pem(pem));
        self
    }

    /// As [`roots_pem`](Self::roots_pem), from this file.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the file's name where it cannot be read, or holds no certificates.
    pub fn roots_file(self, path: impl AsRef<Path>) -> Result<Self> {
        Ok(self.roots_pem(hosts::pem::roots(path.as_ref())?))
    }

    /// The proxies to go through, for hosts whose [`TlsOptions`](crate::TlsOptions) name none of their own.
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Another transport than [`UreqTransport`]; [`timeouts`](Self::timeouts) are then its own affair.
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// How long to wait for the network.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Bounds on what a registry can make the client do.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// When and how often to try again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Ends all calls of this client, also those without a [`Ctx`](crate::Ctx), once raised.
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// Lets `registry`'s logins go to the token server at `host` (or `host:port`), which by its name is not surely of the
    /// registry's owner: `auth.example.com` for `registry.example.com` has to be named here, `example.com` not.
    pub fn trust_realm(mut self, registry: &str, host: &str) -> Self {
        self.policy.trusted_realms.push((registry.to_owned(), host.to_owned()));
        self
    }

    /// Lets registries lead (redirect, upload location, token server) to this host (or `host:port`) although it is on an inner network.
    pub fn allow_inner(mut self, host: &str) -> Self {
        self.policy.inner_hosts.push(host.to_owned());
        self
    }

    /// Called with registry and text for each new warning of a registry (distribution-spec, "Warnings"), and where a registry lies
    /// about something that does no harm. From any thread.
    pub fn warnings(mut self, sink: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        self.warnings = Some(Box::new(sink));
        self
    }

    /// Fetches and pushes foreign (non-distributable) layers too. Never with credentials.
    pub fn foreign_layers(mut self, yes: bool) -> Self {
        self.foreign_layers = yes;
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// [`Error::Insecure`](crate::Error::Insecure) where [`insecure`](Self::insecure) was given what means nothing.
    pub fn build(self) -> Result<Client> {
        self.insecure.iter().try_for_each(|pattern| hosts::check_pattern(pattern))?;
        let transport = self.transport.unwrap_or_else(|| Arc::new(UreqTransport::new(self.timeouts)));
        let inner = Inner {
            transport,
            credentials: self.credentials,
            policy: self.policy,
            proxies: self.proxies,
            roots: self.roots,
            limits: self.limits,
            retry: self.retry,
            warnings: self.warnings,
            foreign_layers: self.foreign_layers,
            manifests: Mutex::new(ManifestCache { room: self.limits.manifest_cache, ..Default::default() }),
            origins: Mutex::default(),
            insecure: self.insecure,
            configs: self.configs,
            hosts: self.hosts,
            registries: Mutex::default(),
        };
        Ok(Client(Arc::new(inner), self.cancel))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("limits", &self.limits)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Starts a builder.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The same client, whose calls (and the readers of its sources) end with this token instead of the builder's.
    #[must_use]
    pub fn with_cancel(&self, token: &CancelToken) -> Self {
        Self(Arc::clone(&self.0), token.clone())
    }

    /// The same client, whose calls (and the readers of its sources) end in [`Error::Deadline`](crate::Error::Deadline) where they
    /// take longer than until then: `client.with_deadline(Instant::now() + budget).pull(..)`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self(Arc::clone(&self.0), self.1.until(deadline))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("limits", &self.0.limits)
            .field("retry", &self.0.retry)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn registry(&self, name: &str) -> Result<Arc<Registry>> {
        if let Some(known) = lock(&self.registries).get(name) {
            return Ok(Arc::clone(known));
        }
        let insecure = self.insecure.iter().any(|host| hosts::covers(host, name));
        let config = match self.configs.get(name) {
            Some(config) => config.clone(),
            None => match self.hosts.as_ref().map(|h| h.get(name)).transpose()?.flatten() {
                Some(config) if insecure => config.insecure(name),
                Some(config) => config,
                None => HostConfig::default_for(name, insecure)?,
            },
        };
        let registry = Arc::new(Registry::new(name, config, self.limits.concurrency.max(1)));
        // Another thread may have been first; what it learned counts.
        Ok(Arc::clone(lock(&self.registries).entry(name.to_owned()).or_insert(registry)))
    }
}

/// The last manifests by digest, so that resolving one and then importing it costs one request.
#[derive(Default)]
pub(crate) struct ManifestCache {
    room: usize,
    used: usize,
    entries: VecDeque<(String, Descriptor, Bytes)>,
}

impl ManifestCache {
    /// What one may read in this repository (registry and path) says nothing of others.
    pub(crate) fn get(&self, repository: &str, digest: &Digest) -> Option<(Descriptor, Bytes)> {
        let found = self.entries.iter().find(|(r, d, _)| r == repository && d.digest() == digest);
        found.map(|(_, descriptor, bytes)| (descriptor.clone(), bytes.clone()))
    }

    pub(crate) fn remove(&mut self, digest: &Digest) {
        self.entries.retain(|(_, d, _)| d.digest() != digest);
        self.used = self.entries.iter().map(|(.., bytes)| bytes.len()).sum();
    }

    pub(crate) fn put(&mut self, repository: &str, descriptor: &Descriptor, bytes: &Bytes) {
        if bytes.len() > self.room || self.get(repository, descriptor.digest()).is_some() {
            return;
        }
        self.used += bytes.len();
        self.entries.push_back((repository.to_owned(), descriptor.clone(), bytes.clone()));
        while self.used > self.room {
            let Some((.., oldest)) = self.entries.pop_front() else { break };
            self.used -= oldest.len();
        }
    }
}

/// In which repositories of which registry a blob is known to be, newest last: where a push can mount it from.
#[derive(Default)]
pub(crate) struct BlobOrigins {
    known: HashMap<(String, Digest), Vec<String>>,
}

const ORIGINS_MAX: usize = 20_000;
const ORIGINS_PER_BLOB: usize = 4;

impl BlobOrigins {
    pub(crate) fn add(&mut self, registry: &str, repository: &str, digest: &Digest) {
        if self.known.len() >= ORIGINS_MAX {
            self.known.clear();
        }
        let repositories = self.known.entry((registry.to_owned(), digest.clone())).or_default();
        repositories.retain(|r| r != repository);
        repositories.push(repository.to_owned());
        if repositories.len() > ORIGINS_PER_BLOB {
            repositories.remove(0);
        }
    }

    pub(crate) fn get(&self, registry: &str, digest: &Digest) -> Vec<String> {
        self.known.get(&(registry.to_owned(), digest.clone())).cloned().unwrap_or_default()
    }
}
