//! The seam to HTTP: one exchange, no policy.

mod addresses;
mod classes;
pub mod conformance;
mod socks;
mod tcp;
mod tls;
mod ureq;

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

pub(crate) use self::ureq::{
    check_certificates, check_client_certificate, check_key, check_pair, classify_io,
};
pub use classes::{AddressClasses, class_of};
pub use tls::TlsOptions;
pub use ureq::{Timeouts, UreqTransport};

use crate::error::BoxError;
use crate::{CancelToken, Url};

/// Sends one HTTP request and returns the reply's head and a reader of its body.
///
/// What an implementation must hold to (checked by [`conformance`]):
/// - It follows no redirect, retries nothing, adds no credential, decodes no `Content-Encoding`, and gives every status back as a reply.
/// - It connects to no address outside [`Request::addresses`], whatever a name resolves to.
/// - A body that ends before its `Content-Length` or its last chunk is an error of the reader, never an end.
/// - Silence ends in [`TransportErrorKind::Timeout`], also while a body is read or sent, while slow progress does not.
/// - [`Request::cancel`] ends it soon, also while it waits.
/// - Nothing is buffered beyond a fixed amount: neither body is ever held in memory as a whole.
///
/// Called from many threads at once.
pub trait Transport: Send + Sync {
    /// Sends the request.
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError>;

    /// Looks a host name up, as [`send`](Self::send) does.
    fn lookup(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        use std::net::ToSocketAddrs as _;
        Ok((host.trim_matches(['[', ']']), port).to_socket_addrs()?.collect())
    }
}

impl<T: Transport + ?Sized> Transport for std::sync::Arc<T> {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        (**self).send(request, body)
    }

    fn lookup(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        (**self).lookup(host, port)
    }
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        (**self).send(request, body)
    }

    fn lookup(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        (**self).lookup(host, port)
    }
}

impl<T: Transport + ?Sized> Transport for &T {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        (**self).send(request, body)
    }

    fn lookup(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        (**self).lookup(host, port)
    }
}

/// HTTP methods of the distribution spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Read.
    Get,
    /// Read the head.
    Head,
    /// Start an upload, ask for a token.
    Post,
    /// Finish an upload, write a manifest.
    Put,
    /// Send a part of an upload.
    Patch,
    /// Remove.
    Delete,
}

impl Method {
    /// As it stands in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A request's head.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The target.
    pub url: &'a Url,
    /// Further headers, without `Host` and those of the body's length. `Debug` shows the values of harmless ones only.
    pub headers: &'a Headers,
    /// The only kinds of addresses that may be connected to.
    pub addresses: AddressClasses,
    /// How to talk TLS to the host and through which proxy; `None` is the transport's default.
    pub tls: Option<&'a TlsOptions>,
    /// Ends the exchange.
    pub cancel: &'a CancelToken,
}

impl<'a> Request<'a> {
    /// A request to any address, with the transport's own TLS.
    pub const fn new(method: Method, url: &'a Url, headers: &'a Headers, cancel: &'a CancelToken) -> Self {
        Self { method, url, headers, addresses: AddressClasses::ALL, tls: None, cancel }
    }
}

/// A request's body.
#[non_exhaustive]
pub enum Body<'a> {
    /// None; `POST`, `PUT` and `PATCH` say `Content-Length: 0`.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// `size` bytes of a reader.
    Reader {
        /// Gives at least `size` bytes.
        reader: &'a mut (dyn Read + Send),
        /// `Content-Length`.
        size: u64,
    },
}

/// Header names (lower case) and values, in order.
#[derive(Clone, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_ascii_lowercase(), value.into()));
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.push(name, value);
        self
    }

    /// The first value of that (lower-case) name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// All values of that (lower-case) name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All headers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }
}

/// Headers whose values `Debug` shows. Any other may be a registry's own kind of key (`x-jfrog-art-api`, `private-token`, a cookie).
const HARMLESS: [&str; 16] = [
    "accept",
    "accept-ranges",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "expect",
    "if-match",
    "if-range",
    "oci-subject",
    "range",
    "retry-after",
    "server",
];

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (n, if HARMLESS.contains(&n) { v } else { "<redacted>" })))
            .finish()
    }
}

/// A reply.
#[non_exhaustive]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// The body. Dropped early, it closes the connection.
    pub body: Box<dyn Read + Send>,
    /// The address that answered, where the transport knows it: not behind a proxy. By it a registry is told to be public or not.
    pub peer: Option<IpAddr>,
}

impl Response {
    /// A reply.
    pub fn new(status: u16, headers: Headers, body: Box<dyn Read + Send>) -> Self {
        Self { status, headers, body, peer: None }
    }

    /// With the address that answered.
    #[must_use]
    pub fn from_peer(mut self, peer: Option<IpAddr>) -> Self {
        self.peer = peer;
        self
    }

    /// `Content-Length`, if it is there and a number.
    pub fn content_length(&self) -> Option<u64> {
        self.headers.get("content-length")?.trim().parse().ok()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// [`Request::cancel`] was raised.
    Cancelled,
    /// The deadline of [`Request::cancel`] has passed.
    Expired,
    /// The host's addresses are outside [`Request::addresses`].
    Forbidden,
    /// The name has no address.
    Lookup,
    /// No connection came about.
    Connect,
    /// TLS failed: certificate, protocol or name.
    Tls,
    /// Nothing moved for too long.
    Timeout,
    /// The connection broke: reset, or closed too early.
    Broken,
    /// The other side does not speak HTTP.
    Protocol,
    /// The request could not be sent as it is.
    Request,
}

impl TransportErrorKind {
    /// The caller ended it, which says nothing of the other side.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Cancelled | Self::Expired)
    }
}

impl fmt::Display for TransportErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "deadline passed",
            Self::Forbidden => "address not allowed",
            Self::Lookup => "name lookup failed",
            Self::Connect => "connection failed",
            Self::Tls => "TLS failed",
            Self::Timeout => "timed out",
            Self::Broken => "connection broke",
            Self::Protocol => "no valid HTTP reply",
            Self::Request => "request could not be sent",
        })
    }
}

/// An exchange that failed.
#[derive(Debug)]
pub struct TransportError {
    /// Why.
    pub kind: TransportErrorKind,
    /// The error beneath.
    pub source: Option<BoxError>,
}

impl TransportError {
    /// With the error beneath.
    pub fn new(kind: TransportErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: Some(source.into()) }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        use TransportErrorKind::{Broken, Connect, Lookup, Timeout};
        matches!(self.kind, Lookup | Connect | Timeout | Broken)
    }
}

impl From<TransportErrorKind> for TransportError {
    fn from(kind: TransportErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
