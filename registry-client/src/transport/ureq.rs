use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, SendBody, http};

use super::addresses::Addresses;
use super::socks::Socks;
use super::tcp::{Aside, Forbidden, GuardedResolver, PatientConnector, Scope, aside, peer, scoped};
use super::{
    Body, Headers, Method, Request, Response, TlsOptions, Transport, TransportError, TransportErrorKind,
};
use crate::ctx::{FOREVER, in_time};
use crate::error::BoxError;

/// How many times the stall a body may last without a byte of its own while what frames it moves: the sizes of chunks, what follows the
/// last of them, records of TLS.
const IDLE: u32 = 4;
/// Bytes a second, at which a small body is sent that is not that small.
const SLOW: u64 = 1 << 20;
/// Bytes a second, at which a slow registry copies what it was sent.
const COPIED: u64 = 32 << 20;
const USER_AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));

/// How long to wait. None of them bounds a whole transfer: one that moves may take as long as it needs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a name lookup. 5 s.
    pub lookup: Duration,
    /// For the TCP and TLS handshakes. 10 s.
    pub connect: Duration,
    /// For a reply's head. 60 s. A registry that was sent much has longer: a second more for each 32 MiB.
    pub response: Duration,
    /// For any byte to move, in either direction: the stall detector. 30 s. Where only what frames a body moves (sizes of chunks, records
    /// of TLS), four times as long.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            lookup: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            response: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

/// The [`Transport`] that really talks: HTTP/1.1 over TCP and rustls, by `ureq`. Clones share connections.
#[derive(Clone)]
pub struct UreqTransport(Arc<Inner>);

struct Inner {
    timeouts: Timeouts,
    addresses: Arc<Addresses>,
    /// One agent per set of TLS options: its pool must not be shared with requests that trust others.
    agents: Mutex<Vec<(Option<TlsOptions>, Agent)>>,
}

impl UreqTransport {
    /// With the system's resolver. What it finds is used again for 15 seconds, unless nothing answers there.
    pub fn new(timeouts: Timeouts) -> Self {
        Self::with_lookup(timeouts, |host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// With another resolver of host names; addresses in URLs do not go through it. What it finds is used again for 15 seconds, unless
    /// nothing answers there.
    pub fn with_lookup(
        timeouts: Timeouts,
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let addresses = Arc::new(Addresses::new(lookup));
        Self(Arc::new(Inner { timeouts, addresses, agents: Mutex::default() }))
    }

    fn agent(&self, tls: Option<&TlsOptions>) -> Result<Agent, TransportError> {
        let mut agents = self.0.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, agent)) = agents.iter().find(|(known, _)| known.as_ref() == tls) {
            return Ok(agent.clone());
        }
        let agent = self.make_agent(tls)?;
        agents.push((tls.cloned(), agent.clone()));
        Ok(agent)
    }

    fn make_agent(&self, tls: Option<&TlsOptions>) -> Result<Agent, TransportError> {
        let timeouts = &self.0.timeouts;
        let (response, stall) = (timeouts.response.min(FOREVER), timeouts.stall.min(FOREVER));
        let mut socks = None;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(USER_AGENT)
            .proxy(None)
            .max_idle_connections(32)
            .max_idle_connections_per_host(16)
            .timeout_resolve(Some(timeouts.lookup.min(FOREVER)))
            .timeout_connect(Some(timeouts.connect.min(FOREVER)))
            .timeout_send_request(Some(response))
            .timeout_recv_response(Some(response))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall));
        if let Some(tls) = tls {
            config = config.tls_config(tls_config(tls)?);
            if let Some(proxy) = tls.proxy_url() {
                socks = Socks::parse(proxy).transpose().map_err(unusable)?.map(Arc::new);
                if socks.is_none() {
                    // Its error would show the URL, and with it a password.
                    let proxy =
                        ureq::Proxy::new(proxy).map_err(|_| unusable("the proxy's URL is not valid"))?;
                    config = config.proxy(Some(proxy));
                }
            }
        }
        let addresses = Arc::clone(&self.0.addresses);
        let config = config.build();
        let elsewhere = socks.as_ref().is_some_and(|s| s.resolves);
        let resolver = GuardedResolver { addresses: Arc::clone(&addresses), elsewhere };
        // ureq hides an HTTP proxy from the connector that makes the connection to it.
        let elsewhere = elsewhere || config.proxy().is_some();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(PatientConnector { addresses, socks, elsewhere })
                .chain(RustlsConnector::default());
        Ok(Agent::with_parts(config, connector, resolver))
    }
}

impl Default for UreqTransport {
    fn default() -> Self {
        Self::new(Timeouts::default())
    }
}

impl fmt::Debug for UreqTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UreqTransport").field("timeouts", &self.0.timeouts).finish_non_exhaustive()
    }
}

impl Transport for UreqTransport {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        if let Some(ended) = request.cancel.ended() {
            return Err(ended.into());
        }
        if request.url.origin().ip().is_some_and(|ip| !request.addresses.contains(ip)) {
            return Err(TransportError::new(TransportErrorKind::Forbidden, Forbidden));
        }
        let agent = self.agent(request.tls)?;
        let scope = Scope { cancel: request.cancel.clone(), addresses: request.addresses, until: None };
        let patience = self.0.timeouts.response;
        let (sent, peer) = scoped(&scope, || (run(&agent, request, body, patience), peer()));
        match (sent, request.cancel.ended()) {
            (Ok(response), _) => {
                let idle = self.0.timeouts.stall.saturating_mul(IDLE);
                Ok(convert(response, scope, idle).from_peer(peer))
            }
            (Err(_), Some(ended)) => Err(ended.into()),
            (Err(e), None) => Err(classify(e)),
        }
    }

    fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(known) = self.0.addresses.known(host, port) {
            return Ok(known);
        }
        let (addresses, name) = (Arc::clone(&self.0.addresses), host.to_owned());
        match aside("lookup", self.0.timeouts.lookup, move || addresses.find(&name, port)) {
            Ok(found) => found,
            Err(Aside::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Err(Aside::Io(e)) => Err(e),
        }
    }
}

fn run(
    agent: &Agent,
    request: &Request<'_>,
    body: Body<'_>,
    patience: Duration,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    let mut head =
        http::Request::builder().method(request.method.as_str()).uri(request.url.to_request_string());
    for (name, value) in request.headers.iter() {
        head = head.header(name, value);
    }
    match body {
        Body::Empty if matches!(request.method, Method::Get | Method::Head | Method::Delete) => {
            agent.run(head.body(())?)
        }
        Body::Empty => {
            agent.run(head.header("content-length", 0).body(SendBody::from_reader(&mut io::empty()))?)
        }
        Body::Bytes(bytes) => {
            let size = bytes.len();
            let mut bytes = bytes.as_ref();
            let request = head.header("content-length", size).body(SendBody::from_reader(&mut bytes))?;
            // It is small: one who takes it by crumbs shall not keep it for ever.
            let sent = patience.saturating_add(Duration::from_secs(size as u64 / SLOW)).min(FOREVER);
            agent.run(agent.configure_request(request).timeout_send_body(Some(sent)).build())
        }
        Body::Reader { reader, size } => {
            let mut reader = reader.take(size);
            let request = head.header("content-length", size).body(SendBody::from_reader(&mut reader))?;
            // Many registries copy it to where it shall stay before they answer.
            let answer = patience.saturating_add(Duration::from_secs(size / COPIED)).min(FOREVER);
            agent.run(agent.configure_request(request).timeout_recv_response(Some(answer)).build())
        }
    }
}

fn convert(response: http::Response<ureq::Body>, scope: Scope, idle: Duration) -> Response {
    let (head, body) = response.into_parts();
    let mut headers = Headers::new();
    for (name, value) in &head.headers {
        headers.push(name.as_str(), String::from_utf8_lossy(value.as_bytes()));
    }
    let body = body.into_with_config().limit(u64::MAX).reader();
    Response::new(head.status.as_u16(), headers, Box::new(ScopedReader { body, scope, idle }))
}

/// Reads a body under the exchange's scope.
struct ScopedReader<R> {
    body: R,
    scope: Scope,
    /// For a read to give a byte of the body.
    idle: Duration,
}

impl<R: Read> Read for ScopedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.scope.until = Some(in_time(self.idle));
        let read = scoped(&self.scope, || self.body.read(buf));
        let error = match read {
            Ok(n) => return Ok(n),
            Err(e) => e,
        };
        Err(match self.scope.cancel.ended() {
            Some(ended) => io::Error::other(TransportError::from(ended)),
            // A loop like `read_exact` would try for ever.
            None if error.kind() == io::ErrorKind::Interrupted => io::Error::other(error),
            None => error,
        })
    }
}

fn tls_config(tls: &TlsOptions) -> Result<TlsConfig, TransportError> {
    let mut config = TlsConfig::builder().disable_verification(tls.is_unverified());
    if !tls.roots().is_empty() {
        let mut roots = Vec::new();
        for pem in tls.roots() {
            roots.extend(certificates(pem)?);
        }
        config = config.root_certs(RootCerts::new_with_certs(&roots));
    }
    if let Some((chain, key)) = tls.client() {
        // ureq expects that these belong together, and panics where they do not.
        check_pair(chain, key)?;
        let key = PrivateKey::from_pem(key).map_err(unusable)?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(chain)?, key)));
    }
    Ok(config.build())
}

/// Whether there are certificates in this PEM text, of which at least one is understood.
pub(crate) fn check_certificates(pem: &[u8]) -> Result<(), TransportError> {
    let found = certificates(pem)?;
    let mut last = None;
    for certificate in found {
        match RootCertStore::empty().add(CertificateDer::from(certificate.der())) {
            Ok(()) => return Ok(()),
            Err(e) => last = Some(e),
        }
    }
    last.map_or(Ok(()), |e| Err(unusable(e)))
}

/// Whether the first of these certificates can be a client's own; what is trusted may be of any version of X.509.
pub(crate) fn check_client_certificate(pem: &[u8]) -> Result<(), TransportError> {
    for own in certificates(pem)?.iter().take(1) {
        ParsedCertificate::try_from(&CertificateDer::from(own.der())).map_err(unusable)?;
    }
    Ok(())
}

/// Whether there is a private key in this PEM text.
pub(crate) fn check_key(pem: &[u8]) -> Result<(), TransportError> {
    PrivateKey::from_pem(pem).map(drop).map_err(unusable)
}

/// Whether the key is the certificate's.
pub(crate) fn check_pair(chain: &[u8], key: &[u8]) -> Result<(), TransportError> {
    let chain = certificates(chain)?.iter().map(|c| CertificateDer::from(c.der().to_vec())).collect();
    let key = PrivateKey::from_pem(key).map_err(unusable)?;
    let key = PrivateKeyDer::try_from(key.der().to_vec()).map_err(unusable)?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(unusable)
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, TransportError> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(unusable)? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(unusable("there is no certificate in the PEM text")) } else { Ok(found) }
}

fn unusable(e: impl Into<BoxError>) -> TransportError {
    TransportError::new(TransportErrorKind::Request, e)
}

fn classify(error: ureq::Error) -> TransportError {
    use TransportErrorKind as Kind;
    if matches!(error, ureq::Error::BadUri(_)) {
        // Its text is the whole URL, with what may be a secret in the query.
        return unusable("the URL is not valid");
    }
    let kind = match &error {
        ureq::Error::Other(e) if e.is::<Forbidden>() => Kind::Forbidden,
        ureq::Error::Timeout(ureq::Timeout::Connect) => Kind::Connect,
        ureq::Error::Timeout(ureq::Timeout::Resolve) | ureq::Error::HostNotFound => Kind::Lookup,
        ureq::Error::Timeout(_) => Kind::Timeout,
        ureq::Error::Io(e) => classify_io(e),
        ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => Kind::Connect,
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::TlsRequired | ureq::Error::Pem(_) => {
            Kind::Tls
        }
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => Kind::Protocol,
        _ => Kind::Request,
    };
    TransportError::new(kind, error)
}

/// What went wrong with a body's reader, or inside of TLS.
pub(crate) fn classify_io(error: &io::Error) -> TransportErrorKind {
    use TransportErrorKind as Kind;
    if let Some(inner) = error.get_ref() {
        if let Some(e) = inner.downcast_ref::<TransportError>() {
            return e.kind;
        }
        match inner.downcast_ref::<ureq::Error>() {
            Some(ureq::Error::Timeout(_)) => return Kind::Timeout,
            Some(ureq::Error::Protocol(_)) => return Kind::Protocol,
            Some(ureq::Error::Other(e)) if e.is::<Forbidden>() => return Kind::Forbidden,
            _ => {}
        }
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => Kind::Connect,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Kind::Timeout,
        // rustls reports its own errors so.
        io::ErrorKind::InvalidData => Kind::Tls,
        _ => Kind::Broken,
    }
}
