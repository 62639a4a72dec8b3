//! One attempt of a call: the request, its redirects, and where each of them may go.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Call, Payload, Target};
use crate::client::Inner;
use crate::endpoint::Endpoint;
use crate::error::Purpose;
use crate::policy;
use crate::transport::{
    AddressClasses, Body, Headers, Method, Request, Response, TlsOptions, TransportError,
};
use crate::url::{Scheme, Url};
use crate::{CancelToken, Error, Result};

/// From here on the registry is asked before a body is sent, so that a 401 or 413 costs no transfer.
const EXPECT_FROM: u64 = 1024 * 1024;

/// One hop on the way of a call.
#[derive(Clone)]
pub(super) struct Hop {
    pub(super) url: Url,
    addresses: AddressClasses,
    /// Whether it still is the registry itself, which alone sees credentials and configured headers.
    pub(super) home: bool,
}

/// Where an attempt ended, and how.
pub(super) type Tried = (Hop, Result<Response, TransportError>);

impl Inner {
    /// One attempt, with its redirects.
    pub(super) fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        authorization: Option<&str>,
    ) -> Result<Tried> {
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
