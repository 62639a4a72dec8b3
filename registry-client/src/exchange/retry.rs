//! Whether, when and by which scheme a call is repeated.

use std::io::Read;
use std::time::{Duration, Instant};

use super::hop::Tried;
use crate::advice::is_alert;
use crate::client::Inner;
use crate::ctx::in_time;
use crate::endpoint::Endpoint;
use crate::error::is_retryable_status;
use crate::transport::{Method, Response, TransportError, TransportErrorKind};

impl Inner {
    /// How long to wait before the exchange is repeated; `None` if it shall not be. `answered`: the host has done so before.
    pub(crate) fn retry_pause(
        &self,
        sent: &Result<Response, TransportError>,
        attempt: u32,
        answered: bool,
    ) -> Option<Duration> {
        let retry = &self.retry;
        use TransportErrorKind::{Broken, Connect, Lookup};
        let attempts = match sent {
            // A host that has answered is being started anew, which takes seconds. What stands before it may take connections all the
            // while, and hang up.
            Err(e) if answered && retry.attempts > 1 && matches!(e.kind, Connect | Lookup | Broken) => {
                retry.attempts + 2
            }
            // A wrong port is no bad network: one more try, then say so.
            Err(e) if matches!(e.kind, Connect | Lookup) => retry.attempts.min(2),
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

    /// Whether the call is sent again because it may have gone by the wrong scheme. `refused`: how TLS refused it before plain HTTP was
    /// tried.
    pub(super) fn turns(
        &self,
        endpoint: &Endpoint,
        method: Method,
        attempt: u32,
        tried: &mut Tried,
        refused: &mut Option<Tried>,
    ) -> bool {
        if endpoint.is_proven() {
            return self.is_behind(endpoint, attempt, tried);
        }
        let tls = self.speaks_tls(endpoint, &mut tried.1, method);
        let failed = tried.1.as_ref().is_err_and(|e| !e.kind.is_ours());
        // Plain HTTP was not it either, and cannot say why.
        if let Some(refused) = refused.take_if(|_| failed || !matches!(tls, Tls::No)) {
            *tried = refused;
            return false;
        }
        match tls {
            Tls::Surely => endpoint.turn_to_tls(false),
            // By TLS already, it is tried once more where it may be.
            Tls::Perhaps if attempt == 1 && (endpoint.may_turn_to_tls() || self.retry.attempts > 1) => {
                endpoint.turn_to_tls(true)
            }
            // It was a bad network, not another protocol. This is no repetition, and needs no attempt that is left.
            _ if failed && endpoint.turn_back() => {
                if tried.1.as_ref().is_err_and(is_alert) {
                    let said = std::mem::replace(&mut tried.1, Err(TransportErrorKind::Tls.into()));
                    *refused = Some((tried.0.clone(), said));
                }
                true
            }
            _ => self.is_behind(endpoint, attempt, tried),
        }
    }

    /// Whether another thread has found out meanwhile that it is asked by the other scheme.
    fn is_behind(&self, endpoint: &Endpoint, attempt: u32, (hop, sent): &Tried) -> bool {
        sent.is_err() && attempt < self.retry.attempts && hop.home && *hop.url.origin() != endpoint.origin()
    }

    /// Whether the other side does not seem to speak plain HTTP. What Go's, nginx's and Apache's servers say to it on a TLS port is a
    /// 400 whose body names HTTPS; others just hang up.
    pub(super) fn speaks_tls(
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
}

/// What an answer tells of the other side's protocol.
pub(super) enum Tls {
    No,
    Perhaps,
    Surely,
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(reply: &Response) -> Option<Duration> {
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
