//! The one way out: every request of every verb passes URL policy, login, redirects and retries here.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::advice::advise;
use crate::auth::Scopes;
use crate::client::Inner;
use crate::ctx::in_time;
use crate::digest::clip;
use crate::endpoint::{Endpoint, Permit, lock};
use crate::error::{ApiError, Purpose, is_retryable_status};
use crate::policy;
use crate::transport::{
    AddressClasses, Body, Headers, Method, Request, Response, TlsOptions, TransportError, TransportErrorKind,
    classify_io,
};
use crate::url::{Scheme, Url};
use crate::{CancelToken, Error, Result};

const ERROR_MAX: u64 = 64 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(10);
const WARNING_MAX: usize = 4096;
const WARNINGS_MAX: usize = 64;
/// From here on the registry is asked before a body is sent, so that a 401 or 413 costs no transfer.
const EXPECT_FROM: u64 = 1024 * 1024;

/// A request as a verb wants it.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) target: Target<'a>,
    pub(crate) headers: Headers,
    pub(crate) scopes: Scopes,
    pub(crate) body: Payload<'a>,
    /// Statuses that are no errors, beside 2xx.
    pub(crate) accept: &'static [u16],
    pub(crate) cancel: &'a CancelToken,
    /// Whether a failed exchange may be repeated as it is.
    pub(crate) repeatable: bool,
}

pub(crate) enum Target<'a> {
    /// A path below the API's root.
    Api(&'a str),
    /// A URL that a reply named.
    Named(Url, Purpose),
}

pub(crate) enum Payload<'a> {
    Empty,
    Bytes(Bytes),
    /// Opened anew for each attempt.
    Open {
        open: &'a Open<'a>,
        size: u64,
    },
}

pub(crate) type Open<'a> = dyn Fn() -> Result<Box<dyn Read + Send + 'a>> + Sync + 'a;

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: &'a str, scopes: Scopes, cancel: &'a CancelToken) -> Self {
        Self {
            method,
            target: Target::Api(path),
            headers: Headers::new(),
            scopes,
            body: Payload::Empty,
            accept: &[],
            cancel,
            repeatable: true,
        }
    }
}

/// One hop on the way of a call.
struct Hop {
    url: Url,
    addresses: AddressClasses,
    /// Whether it still is the registry itself, which alone sees credentials and configured headers.
    home: bool,
}

impl Inner {
    /// Sends a call and returns its reply, whose status is 2xx or among those the call accepts.
    pub(crate) fn call(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Response> {
        let reads = matches!(call.method, Method::Get | Method::Head);
        if !reads && !endpoint.push {
            return Err(Error::Unsupported { registry: endpoint.name().to_owned(), what: "pushes" });
        }
        let permits = match call.body {
            Payload::Open { .. } => &endpoint.uploads,
            Payload::Empty | Payload::Bytes(_) => &endpoint.permits,
        };
        let permit = permits.take(call.cancel)?;
        let mut authorization = match self.authorization(endpoint, &call.scopes, call.cancel) {
            // What is open to all needs no login, whatever another repository asked for.
            Err(e) if e.is_auth() => None,
            known => known?,
        };
        let (mut attempt, mut logins) = (0, 0);
        loop {
            call.cancel.check()?;
            attempt += 1;
            let (hop, mut sent) = self.follow(endpoint, call, authorization.as_deref())?;
            if !endpoint.is_proven() {
                let change = match self.speaks_tls(endpoint, &mut sent, call.method) {
                    Tls::Surely => endpoint.turn_to_tls(false),
                    // By TLS already, it is tried once more where it may be.
                    Tls::Perhaps
                        if attempt == 1 && (endpoint.may_turn_to_tls() || self.retry.attempts > 1) =>
                    {
                        endpoint.turn_to_tls(true)
                    }
                    // It was a bad network, not another protocol. This is no repetition, and needs no attempt that is left.
                    _ => sent.as_ref().is_err_and(|e| !e.kind.is_ours()) && endpoint.turn_back(),
                };
                if change {
                    call.cancel.sleep(if attempt > 1 { self.backoff(attempt) } else { Duration::ZERO })?;
                    continue;
                }
            }
            if sent.is_err()
                && attempt < self.retry.attempts
                && hop.home
                && *hop.url.origin() != endpoint.origin()
            {
                // Another thread has found out meanwhile that it is asked by the other scheme.
                continue;
            }
            if call.repeatable
                && let Some(pause) = self.retry_pause(&sent, attempt, endpoint.is_proven())
            {
                drop(sent);
                call.cancel.sleep(pause)?;
                continue;
            }
            let reply = sent.map_err(|e| {
                if hop.home {
                    endpoint.start_over();
                }
                let e = if hop.home { advise(endpoint.directory(), e) } else { e };
                Error::from_transport(call.method, &hop.url, attempt, e)
            })?;
            if hop.home {
                endpoint.prove(hop.url.origin().scheme);
            }
            if reply.status == 401 && hop.home && logins < 2 {
                logins += 1;
                let next =
                    self.answer(endpoint, &reply, authorization.as_deref(), &call.scopes, call.cancel)?;
                if next.is_some() {
                    authorization = next;
                    // It has answered: what came before does not count against what comes now.
                    attempt = 0;
                    continue;
                }
            }
            self.pass_warnings(endpoint, &reply);
            if (200..300).contains(&reply.status) || call.accept.contains(&reply.status) {
                // Of other replies nobody reads the body, and their callers go on to ask for more.
                return Ok(if call.method == Method::Get { hold(reply, permit) } else { reply });
            }
            return Err(status_error(call.method, &hop.url, reply, attempt, self.error_patience()));
        }
    }

    /// Sends a call whose reply is small, and returns its head and body. A body that breaks is asked for again.
    pub(crate) fn fetch(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        limit: u64,
        what: &str,
    ) -> Result<(Response, Bytes)> {
        let url = match &call.target {
            Target::Api(path) => endpoint.url(path)?,
            Target::Named(url, _) => url.clone(),
        };
        let (mut attempt, until) = (0, in_time(self.limits.patience));
        loop {
            attempt += 1;
            let mut reply = self.call(endpoint, call)?;
            let body = std::mem::replace(&mut reply.body, Box::new(std::io::empty()));
            let whole = Response { body, headers: reply.headers.clone(), ..reply };
            match read_capped(whole, limit, self.limits.patience, what, &url) {
                Ok(bytes) => return Ok((reply, bytes)),
                // One that drips is not waited for again.
                Err(e) if e.is_retryable() && attempt < self.retry.attempts && Instant::now() < until => {
                    call.cancel.sleep(self.backoff(attempt))?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// One attempt, with its redirects.
    fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        authorization: Option<&str>,
    ) -> Result<(Hop, Result<Response, TransportError>)> {
        let mut hop = self.first_hop(endpoint, call)?;
        for _ in 0..=self.limits.redirects {
            let sent = self.exchange(endpoint, call, &hop, authorization)?;
            let Ok(reply) = &sent else { return Ok((hop, sent)) };
            if let Some(peer) = reply.peer.filter(|_| *hop.url.origin() == endpoint.origin()) {
                endpoint.meet(peer);
            }
            let location = reply.headers.get("location").map(|l| hop.url.join(l));
            if hop.home
                && matches!(reply.status, 301..=303 | 307 | 308)
                && let Some(Ok(url)) = &location
                && endpoint.follow_to_tls(url.origin())
            {
                hop = self.first_hop(endpoint, call)?;
                continue;
            }
            let method_kept = matches!(reply.status, 307 | 308);
            let reads = matches!(call.method, Method::Get | Method::Head);
            if !(method_kept || (matches!(reply.status, 301..=303) && reads)) {
                return Ok((hop, sent));
            }
            let Some(url) = location else {
                return Err(Error::protocol(&hop.url, "a redirect without a location"));
            };
            if hop.home {
                endpoint.prove(hop.url.origin().scheme);
            }
            hop = self.hop_to(endpoint, url?, Purpose::Redirect, &hop, call.cancel)?;
        }
        Err(Error::protocol(&hop.url, format!("more than {} redirects", self.limits.redirects)))
    }

    /// Whether a URL that the endpoint named may be followed, and to which addresses.
    pub(crate) fn check_url(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        purpose: Purpose,
        cancel: &CancelToken,
    ) -> Result<AddressClasses> {
        let registry = endpoint.origin();
        // Where it answered from counts, not what its name says at another time.
        let own = || match endpoint.met() {
            // A proxy asks another name server, whose answer nobody here knows: such a registry counts as public.
            met if met.is_empty() && self.is_named_to_a_proxy(endpoint)? => Ok(met),
            met if met.is_empty() => {
                let (transport, registry) = (Arc::clone(&self.transport), registry.clone());
                let found = cancel.aside("lookup", move || policy::named(&*transport, &registry))?;
                Ok(found.unwrap_or(AddressClasses::NONE))
            }
            met => Ok(met),
        };
        self.policy.check(endpoint.met(), &own, &registry, url, purpose)
    }

    fn is_named_to_a_proxy(&self, endpoint: &Endpoint) -> Result<bool> {
        let tls = self.tls_for(endpoint, &endpoint.url("/")?, false);
        Ok(endpoint.origin().ip().is_none() && tls.is_some_and(|tls| tls.resolves_elsewhere()))
    }

    /// How to talk to a URL: the endpoint's own options for itself (and for hosts of the same `owner`), the client's roots and proxy
    /// where those say nothing.
    pub(crate) fn tls_for(&self, endpoint: &Endpoint, url: &Url, owner: bool) -> Option<TlsOptions> {
        let mut own = endpoint.tls_for(url, owner);
        if let Some(roots) = &self.roots
            && url.origin().scheme == Scheme::Https
        {
            own = Some(own.map_or_else(|| roots.clone(), |own| own.or_roots_of(roots)));
        }
        match self.proxies.get(url) {
            Some(proxy) if own.as_ref().is_none_or(|o| o.proxy_url().is_none()) => {
                Some(own.unwrap_or_default().proxy(proxy))
            }
            _ => own,
        }
    }

    fn first_hop(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Hop> {
        match &call.target {
            Target::Api(path) => {
                Ok(Hop { url: endpoint.url(path)?, addresses: AddressClasses::ALL, home: true })
            }
            Target::Named(url, purpose) => {
                let origin = endpoint.origin();
                let addresses = self.check_url(endpoint, url, *purpose, call.cancel)?;
                // A foreign URL is nobody's home, even where it points to the registry.
                let home = *url.origin() == origin && *purpose != Purpose::Foreign;
                Ok(Hop { url: url.clone(), addresses, home })
            }
        }
    }

    fn hop_to(
        &self,
        endpoint: &Endpoint,
        url: Url,
        purpose: Purpose,
        from: &Hop,
        cancel: &CancelToken,
    ) -> Result<Hop> {
        let origin = endpoint.origin();
        if from.url.origin().scheme == Scheme::Https && url.origin().scheme == Scheme::Http {
            return Err(Error::Refused { purpose, url: url.to_string(), reason: "it leaves TLS".into() });
        }
        let addresses = self.check_url(endpoint, &url, purpose, cancel)?;
        Ok(Hop { home: from.home && *url.origin() == origin, url, addresses })
    }

    /// One exchange over the transport. The outer error is the caller's (content that cannot be opened), the inner one the network's.
    fn exchange(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        hop: &Hop,
        authorization: Option<&str>,
    ) -> Result<Result<Response, TransportError>> {
        let mut headers = call.headers.clone();
        if hop.home {
            for (name, value) in endpoint.headers().iter() {
                headers.push(name, value);
            }
            if let Some(value) = authorization {
                headers.push("authorization", value);
            }
        }
        let tls = self.tls_for(endpoint, &hop.url, false);
        let send = |headers: &Headers, body: Body<'_>| {
            let mut request = Request::new(call.method, &hop.url, headers, call.cancel);
            request.addresses = hop.addresses;
            request.tls = tls.as_ref();
            self.transport.send(&request, body)
        };
        match &call.body {
            Payload::Empty => Ok(send(&headers, Body::Empty)),
            Payload::Bytes(bytes) => Ok(send(&headers, Body::Bytes(bytes.clone()))),
            Payload::Open { open, size } => {
                let send = |headers: &Headers| {
                    let mut reader = Watched { inner: open()?, failure: None };
                    let sent = send(headers, Body::Reader { reader: &mut reader, size: *size });
                    match (reader.failure, sent) {
                        (Some(failure), Err(_)) => Err(failure),
                        (_, sent) => Ok(sent),
                    }
                };
                let no_expect = &endpoint.quirks.no_expect;
                if *size >= EXPECT_FROM && !no_expect.load(Ordering::Relaxed) {
                    let asking = headers.clone().with("expect", "100-continue");
                    match send(&asking)? {
                        // What stands before it does not pass the question on.
                        Ok(reply) if reply.status == 417 => no_expect.store(true, Ordering::Relaxed),
                        sent => return Ok(sent),
                    }
                }
                send(&headers)
            }
        }
    }

    /// How long to wait before the exchange is repeated; `None` if it shall not be. `answered`: the host has done so before.
    pub(crate) fn retry_pause(
        &self,
        sent: &Result<Response, TransportError>,
        attempt: u32,
        answered: bool,
    ) -> Option<Duration> {
        let retry = &self.retry;
        let attempts = match sent {
            Err(e) if matches!(e.kind, TransportErrorKind::Connect | TransportErrorKind::Lookup) => {
                // A wrong port is no bad network: one more try, then say so. A host that has answered is being started anew, which takes
                // seconds.
                if answered && retry.attempts > 1 { retry.attempts + 2 } else { retry.attempts.min(2) }
            }
            _ => retry.attempts,
        };
        if attempt >= attempts {
            return None;
        }
        match sent {
            // A pooled connection that the server closed meanwhile: at once.
            Err(e) if e.kind == TransportErrorKind::Broken && attempt == 1 => Some(Duration::ZERO),
            // One that held more than the last reply, such as a body after HEAD.
            Err(e) if e.kind == TransportErrorKind::Protocol && answered && attempt <= 2 => {
                Some(Duration::ZERO)
            }
            Err(e) if e.is_retryable() => Some(self.backoff(attempt)),
            Err(_) => None,
            Ok(reply) if is_retryable_status(reply.status) => match retry_after(reply) {
                Some(wanted) if wanted > retry.retry_after_max => None,
                Some(wanted) => Some(wanted.max(self.backoff(attempt) / 2)),
                None => Some(self.backoff(attempt)),
            },
            Ok(_) => None,
        }
    }

    /// Doubles with each attempt, of which half is left to chance, so that many clients do not come back at once.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        let full = self.retry.base.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(self.retry.max);
        full / 2 + full.mul_f64(random() / 2.0)
    }

    fn pass_warnings(&self, endpoint: &Endpoint, reply: &Response) {
        let Some(sink) = &self.warnings else { return };
        for header in reply.headers.all("warning").take(WARNINGS_MAX) {
            let Some(text) = parse_warning(header) else { continue };
            let mut warned = lock(&endpoint.quirks.warned);
            if warned.contains(&text) {
                continue;
            }
            if warned.len() >= WARNINGS_MAX {
                warned.pop_front();
            }
            warned.push_back(text.clone());
            drop(warned);
            sink(endpoint.name(), &text);
        }
    }

    /// Whether the other side does not seem to speak plain HTTP. What Go's, nginx's and Apache's servers say to it on a TLS port is a
    /// 400 whose body names HTTPS; others just hang up.
    fn speaks_tls(
        &self,
        endpoint: &Endpoint,
        sent: &mut Result<Response, TransportError>,
        method: Method,
    ) -> Tls {
        match sent {
            Err(e) if matches!(e.kind, TransportErrorKind::Broken | TransportErrorKind::Protocol) => {
                Tls::Perhaps
            }
            // Without a body it cannot say why.
            Ok(reply) if reply.status == 400 && method == Method::Head => Tls::Perhaps,
            Ok(reply) if reply.status == 400 && endpoint.may_turn_to_tls() => {
                let until = in_time(self.error_patience());
                let (mut start, mut some) = (Vec::new(), [0; 512]);
                // What cannot be read says nothing, here or later; no more does what drips.
                while start.len() < 4096
                    && Instant::now() < until
                    && let Ok(n @ 1..) = reply.body.read(&mut some)
                {
                    start.extend_from_slice(&some[..n]);
                }
                let text = String::from_utf8_lossy(&start).to_ascii_uppercase();
                let rest = std::mem::replace(&mut reply.body, Box::new(std::io::empty()));
                reply.body = Box::new(std::io::Cursor::new(start).chain(rest));
                if text.contains("HTTPS") || text.contains("SSL-ENABLED") { Tls::Surely } else { Tls::No }
            }
            _ => Tls::No,
        }
    }

    /// How long an error's message is waited for.
    pub(crate) fn error_patience(&self) -> Duration {
        self.limits.patience.min(ERROR_PATIENCE)
    }

    pub(crate) fn warn(&self, endpoint: &Endpoint, text: &str) {
        if let Some(sink) = &self.warnings {
            sink(endpoint.name(), text);
        }
    }
}

enum Tls {
    No,
    Perhaps,
    Surely,
}

/// `299 - "text"` (distribution-spec, "Warnings").
fn parse_warning(header: &str) -> Option<String> {
    let text = header.trim().strip_prefix("299 - \"")?.strip_suffix('"')?;
    if text.len() > WARNING_MAX {
        return None;
    }
    Some(text.replace("\\\"", "\"").chars().filter(|c| !c.is_control()).collect())
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(reply: &Response) -> Option<Duration> {
    let value = reply.headers.get("retry-after")?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = crate::httpdate::parse(value)?;
    Some(then.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

/// In `0.0..1.0`; good enough to spread retries, and std has nothing else.
fn random() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let bits = RandomState::new().hash_one(Instant::now()) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let bits = bits as f64;
    bits / (1_u64 << 53) as f64
}

impl Error {
    pub(crate) fn from_transport(method: Method, url: &Url, attempts: u32, source: TransportError) -> Self {
        match source.kind {
            TransportErrorKind::Cancelled => Self::Cancelled,
            TransportErrorKind::Expired => Self::Deadline,
            _ => Self::Transport { method: method.as_str(), url: url.to_string(), attempts, source },
        }
    }

    pub(crate) fn from_body(method: Method, url: &Url, source: std::io::Error) -> Self {
        match Self::from_io(source) {
            Ok(ours) => ours,
            Err(source) => {
                let kind = classify_io(&source);
                Self::from_transport(method, url, 1, TransportError::new(kind, source))
            }
        }
    }
}

pub(crate) fn status_error(
    method: Method,
    url: &Url,
    reply: Response,
    attempts: u32,
    patience: Duration,
) -> Error {
    let (status, retry_after) = (reply.status, retry_after(&reply));
    let codes = read_capped(reply, ERROR_MAX, patience, "an error message", url)
        .map(|b| parse_errors(&b))
        .unwrap_or_default();
    Error::Status { method: method.as_str(), url: url.to_string(), status, codes, attempts, retry_after }
}

fn parse_errors(body: &[u8]) -> Vec<ApiError> {
    #[derive(serde::Deserialize)]
    struct Reply {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let entries = serde_json::from_slice::<Reply>(body).map(|r| r.errors).unwrap_or_default();
    entries.into_iter().take(8).map(|e| ApiError { code: clip(&e.code), message: clip(&e.message) }).collect()
}

/// A small body, in memory. Ends at the limit, whatever the registry still sends.
pub(crate) fn read_capped(
    reply: Response,
    limit: u64,
    patience: Duration,
    what: &str,
    url: &Url,
) -> Result<Bytes> {
    let too_large = || Error::TooLarge { what: what.to_owned(), limit };
    if reply.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let until = in_time(patience);
    let (mut body, mut reader) = (Vec::new(), reply.body.take(limit.saturating_add(1)));
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match reader.read(&mut buffer).map_err(|e| Error::from_body(Method::Get, url, e))? {
            0 => break,
            n => body.extend_from_slice(&buffer[..n]),
        }
        // One that sends a byte now and then never stalls, and never ends.
        if Instant::now() > until {
            let source = TransportError::from(TransportErrorKind::Timeout);
            return Err(Error::from_transport(Method::Get, url, 1, source));
        }
    }
    if body.len() as u64 > limit { Err(too_large()) } else { Ok(body.into()) }
}

/// Keeps the permit as long as the body.
fn hold(reply: Response, permit: Permit) -> Response {
    struct Held {
        body: Box<dyn Read + Send>,
        _permit: Permit,
    }
    impl Read for Held {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.body.read(buf)
        }
    }
    Response { body: Box::new(Held { body: reply.body, _permit: permit }), ..reply }
}

/// Tells a body that could not be read from a connection that broke.
struct Watched<'a> {
    inner: Box<dyn Read + Send + 'a>,
    failure: Option<Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buf).map_err(|e| {
            let (kind, text) = (e.kind(), e.to_string());
            if kind != std::io::ErrorKind::Interrupted {
                self.failure = Some(Error::from_io(e).unwrap_or_else(|e| Error::Unread { source: e.into() }));
            }
            std::io::Error::new(kind, text)
        })
    }
}
