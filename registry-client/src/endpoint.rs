//! One server as a client knows it: where it is, how to log in, what it turned out to (not) support.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::auth::AuthState;
use crate::ctx::CANCEL_POLL;
use crate::hosts::{Host, HostConfig};
use crate::reference::DOCKER_HUB;
use crate::transport::{AddressClasses, Headers, TlsOptions, class_of};
use crate::url::{Origin, Scheme, Url};
use crate::{CancelToken, Result};

/// A registry's server and its mirrors.
pub(crate) struct Registry {
    pub(crate) server: Arc<Endpoint>,
    pub(crate) mirrors: Vec<Arc<Endpoint>>,
}

impl Registry {
    pub(crate) fn new(name: &str, config: HostConfig, concurrency: usize) -> Self {
        let mirror = |host: Host| {
            let own_name = host_name(host.url.origin());
            Arc::new(Endpoint::new(&own_name, host, Some(name.to_owned()), concurrency))
        };
        Self {
            mirrors: config.mirrors.into_iter().map(mirror).collect(),
            server: Arc::new(Endpoint::new(name, config.server, None, concurrency)),
        }
    }
}

pub(crate) struct Endpoint {
    name: String,
    /// What credentials are looked up by.
    login: String,
    root: Mutex<Url>,
    tls: Mutex<Option<TlsOptions>>,
    /// Both as they were at first.
    first: (Url, Option<TlsOptions>),
    headers: Headers,
    flexible: bool,
    pub(crate) resolve: bool,
    pub(crate) pull: bool,
    pub(crate) push: bool,
    /// The registry that this one mirrors (`?ns=`).
    pub(crate) mirror_of: Option<String>,
    auth: Mutex<AuthState>,
    editing: Mutex<()>,
    /// The kinds of addresses under which it answered.
    met: Mutex<AddressClasses>,
    pub(crate) permits: Arc<Permits>,
    /// For bodies that may themselves be read from this server, which must not wait for what their upload holds.
    pub(crate) uploads: Arc<Permits>,
    pub(crate) quirks: Quirks,
}

/// What a server turned out to be like.
#[derive(Default)]
pub(crate) struct Quirks {
    /// It answered at all by this scheme.
    proven: AtomicBool,
    /// That it speaks TLS is a guess.
    guessed_tls: AtomicBool,
    /// `POST ?mount=` does not find what is there: ask with HEAD.
    pub(crate) mount_lies: AtomicBool,
    /// `POST ?mount=` found something once.
    pub(crate) mount_works: AtomicBool,
    /// No referrers API.
    pub(crate) no_referrers: AtomicBool,
    /// No list of tags with a manifest.
    pub(crate) no_tag_list: AtomicBool,
    /// `Expect: 100-continue` is refused.
    pub(crate) no_expect: AtomicBool,
    /// The largest body that it takes in one request, in bytes; 0 is unknown.
    pub(crate) chunk_max: AtomicU64,
    /// A mirror that failed is left alone until then.
    pub(crate) down_until: Mutex<Option<Instant>>,
    /// Warnings that were passed on.
    pub(crate) warned: Mutex<VecDeque<String>>,
}

impl Endpoint {
    fn new(name: &str, host: Host, mirror_of: Option<String>, concurrency: usize) -> Self {
        let quirks = Quirks {
            chunk_max: host.chunk_max.unwrap_or(0).into(),
            guessed_tls: (host.flexible && host.url.origin().scheme == Scheme::Https).into(),
            ..Quirks::default()
        };
        Self {
            name: name.to_owned(),
            login: login_name(name, &host.url),
            first: (host.url.clone(), host.tls.clone()),
            root: Mutex::new(host.url),
            tls: Mutex::new(host.tls),
            headers: host.headers,
            flexible: host.flexible,
            resolve: host.resolve,
            pull: host.pull,
            push: host.push,
            mirror_of,
            auth: Mutex::default(),
            editing: Mutex::default(),
            met: Mutex::new(AddressClasses::NONE),
            permits: Permits::new(concurrency),
            uploads: Permits::new(concurrency),
            quirks,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What credentials are looked up by.
    pub(crate) fn login(&self) -> &str {
        &self.login
    }

    /// Of which registry a directory of certificates, or of mirrors, is about it.
    pub(crate) fn directory(&self) -> &str {
        self.mirror_of.as_deref().unwrap_or(&self.name)
    }

    pub(crate) fn origin(&self) -> Origin {
        lock(&self.root).origin().clone()
    }

    /// Held while a token is fetched, so that one serves all; who waits for it can be cancelled.
    pub(crate) fn auth(&self, cancel: &CancelToken) -> Result<MutexGuard<'_, AuthState>> {
        patient_lock(&self.auth, cancel)
    }

    /// Held while a list of referrers is read and written.
    pub(crate) fn editing(&self, cancel: &CancelToken) -> Result<MutexGuard<'_, ()>> {
        patient_lock(&self.editing, cancel)
    }

    /// The kinds of addresses under which it answered so far.
    pub(crate) fn met(&self) -> AddressClasses {
        *lock(&self.met)
    }

    /// It answered from there.
    pub(crate) fn meet(&self, peer: IpAddr) {
        let mut met = lock(&self.met);
        *met = met.with(class_of(peer));
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The URL of an API path (`/debian/tags/list?n=5`).
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        let root = lock(&self.root).clone();
        let url = root.join(&format!("{}{path}", root.path().trim_end_matches('/')))?;
        Ok(match &self.mirror_of {
            Some(registry) => url.with_query("ns", registry),
            None => url,
        })
    }

    /// The TLS options for a URL: this server's own for itself and for hosts of the same `owner`, the defaults for others. Only this
    /// very host is believed without proof of who it is.
    pub(crate) fn tls_for(&self, url: &Url, owner: bool) -> Option<TlsOptions> {
        let (origin, own) = (url.origin(), self.origin());
        match lock(&self.tls).clone() {
            tls if *origin == own => tls,
            tls if owner && origin.host == own.host => tls,
            tls if owner => tls.map(TlsOptions::verified),
            _ => None,
        }
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.quirks.proven.load(Ordering::Relaxed)
    }

    /// It answered by this scheme, which then stays, whatever another thread has begun to guess meanwhile.
    pub(crate) fn prove(&self, scheme: Scheme) {
        if self.is_proven() {
            return;
        }
        let mut root = lock(&self.root);
        if !self.is_proven() && root.origin().scheme != scheme {
            *root = root.with_origin(self.by(scheme, root.origin()));
        }
        self.quirks.proven.store(true, Ordering::Relaxed);
    }

    /// Whether it is not known yet by which scheme it is asked.
    pub(crate) fn is_guessed(&self) -> bool {
        self.flexible && !self.is_proven()
    }

    /// Whether it is asked by plain HTTP, and might speak TLS.
    pub(crate) fn may_turn_to_tls(&self) -> bool {
        self.is_guessed() && self.origin().scheme == Scheme::Http
    }

    /// After plain HTTP failed: whether to try TLS instead. A guess may turn out wrong.
    pub(crate) fn turn_to_tls(&self, guess: bool) -> bool {
        let mut root = lock(&self.root);
        if !self.flexible || self.is_proven() || root.origin().scheme == Scheme::Https {
            return false;
        }
        *root = root.with_origin(self.by(Scheme::Https, root.origin()));
        let mut tls = lock(&self.tls);
        *tls = Some(tls.take().unwrap_or_default().skip_verify());
        self.quirks.guessed_tls.store(guess, Ordering::Relaxed);
        true
    }

    /// After TLS failed: whether it was only a guess, and plain HTTP is to be tried again.
    pub(crate) fn turn_back(&self) -> bool {
        let mut root = lock(&self.root);
        if self.is_proven() || !self.quirks.guessed_tls.swap(false, Ordering::Relaxed) {
            return false;
        }
        *root = root.with_origin(self.by(Scheme::Http, root.origin()));
        true
    }

    /// It did not answer at all: what was guessed of it meanwhile says nothing.
    pub(crate) fn start_over(&self) {
        let mut root = lock(&self.root);
        if self.flexible && !self.is_proven() {
            root.clone_from(&self.first.0);
            lock(&self.tls).clone_from(&self.first.1);
            self.quirks.guessed_tls.store(root.origin().scheme == Scheme::Https, Ordering::Relaxed);
        }
    }

    /// After plain HTTP led to the same host by TLS (as web servers do who want all to use that): whether it is asked so from now on.
    pub(crate) fn follow_to_tls(&self, to: &Origin) -> bool {
        let origin = self.origin();
        origin.scheme == Scheme::Http && self.by(Scheme::Https, &origin) == *to && self.turn_to_tls(false)
    }

    /// The same host by another scheme, at that scheme's own port unless the name has one.
    fn by(&self, scheme: Scheme, origin: &Origin) -> Origin {
        let implied =
            origin.port == origin.scheme.default_port() && !self.name.ends_with(&format!(":{}", origin.port));
        let port = if implied { scheme.default_port() } else { origin.port };
        Origin { scheme, port, ..origin.clone() }
    }
}

/// The registry's name where its own host is asked, otherwise that of the host: a server that stands in for many registries is not
/// shown the logins of all of them.
pub(crate) fn login_name(registry: &str, url: &Url) -> String {
    let origin = url.origin();
    let api = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
    match Url::parse(&format!("{}://{api}/", origin.scheme.as_str())) {
        Ok(own) if own.origin() == origin => registry.to_owned(),
        _ => host_name(origin),
    }
}

fn host_name(origin: &Origin) -> String {
    origin.to_string().split("://").nth(1).unwrap_or_default().to_owned()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for what is held over requests; who waits can be cancelled.
fn patient_lock<'a, T>(mutex: &'a Mutex<T>, cancel: &CancelToken) -> Result<MutexGuard<'a, T>> {
    let mut pause = Duration::from_micros(100);
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(guard)) => return Ok(guard.into_inner()),
            Err(TryLockError::WouldBlock) => cancel.sleep(pause)?,
        }
        pause = (pause * 2).min(CANCEL_POLL / 10);
    }
}

/// How many exchanges with one server may be under way.
pub(crate) struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A caller that opens many readers and then reads them in turn must not lock itself out.
const PATIENCE: Duration = Duration::from_secs(60);

impl Permits {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(free), returned: Condvar::new() })
    }

    /// Waits for a place; after a minute goes ahead without one.
    pub(crate) fn take(self: &Arc<Self>, cancel: &CancelToken) -> Result<Permit> {
        let until = Instant::now() + PATIENCE;
        let mut free = lock(&self.free);
        while *free == 0 {
            cancel.check()?;
            if Instant::now() >= until {
                return Ok(Permit(None));
            }
            (free, _) = self.returned.wait_timeout(free, CANCEL_POLL).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Ok(Permit(Some(Arc::clone(self))))
    }
}

pub(crate) struct Permit(Option<Arc<Permits>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = &self.0 {
            *lock(&permits.free) += 1;
            permits.returned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_certificate_is_shown_at_home_and_to_the_owners_other_hosts() {
        let mut config = HostConfig::default_for("reg.example", false).unwrap();
        config.server.tls = Some(TlsOptions::new().client_pem("chain", "key"));
        let registry = Registry::new("reg.example", config, 1);
        let shown = |url: &str, owner| {
            let tls = registry.server.tls_for(&Url::parse(url).unwrap(), owner);
            tls.is_some_and(|t| t.client().is_some())
        };
        assert!(shown("https://reg.example/v2/", false) && shown("https://auth.reg.example/token", true));
        for stranger in ["https://cdn.example/x", "https://reg.example:5001/x", "http://reg.example/x"] {
            assert!(!shown(stranger, false), "{stranger}");
        }
    }

    #[test]
    fn only_the_insecure_host_itself_is_believed_without_proof() {
        let config = HostConfig::default_for("reg.example", true).unwrap();
        let registry = Registry::new("reg.example", config, 1);
        let unverified = |url: &str, owner| {
            let tls = registry.server.tls_for(&Url::parse(url).unwrap(), owner);
            tls.is_some_and(|t| t.is_unverified())
        };
        assert!(unverified("https://reg.example/v2/", false));
        assert!(unverified("https://reg.example:5001/token", true));
        assert!(!unverified("https://auth.reg.example/token", true));
        assert!(!unverified("https://reg.example:5001/token", false));
    }
}
