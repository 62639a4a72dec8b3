//! The one way out: every request of every verb passes URL policy, login, redirects and retries here.
//!
//! A [`Call`] is what a verb wants; [`Inner::call`] repeats it until it is answered. `hop` sends it once, with its redirects; `retry`
//! says whether and when to repeat it, and by which scheme; `reply` reads what is small, and errors.

mod hop;
mod reply;
mod retry;

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::reply::hold;
pub(crate) use self::reply::{read_capped, status_error};
use crate::advice::advise;
use crate::auth::Scopes;
use crate::client::Inner;
use crate::ctx::in_time;
use crate::endpoint::Endpoint;
use crate::error::Purpose;
use crate::transport::{Headers, Method, Response};
use crate::url::Url;
use crate::{CancelToken, Error, Result};

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
        let (mut attempt, mut logins, mut refused_by_tls) = (0, 0, None);
        loop {
            call.cancel.check()?;
            attempt += 1;
            let mut tried = self.follow(endpoint, call, authorization.as_deref())?;
            if self.turns(endpoint, call.method, attempt, &mut tried, &mut refused_by_tls) {
                call.cancel.sleep(if attempt > 1 { self.backoff(attempt) } else { Duration::ZERO })?;
                continue;
            }
            let (hop, sent) = tried;
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
}
