//! What is read of a reply by this crate itself: warnings, errors, small bodies.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::retry::retry_after;
use crate::client::Inner;
use crate::ctx::in_time;
use crate::digest::clip;
use crate::endpoint::{Endpoint, Permit, lock};
use crate::error::ApiError;
use crate::transport::{Method, Response, TransportError, TransportErrorKind, classify_io};
use crate::url::Url;
use crate::{Error, Result};

const ERROR_MAX: u64 = 64 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(10);
const WARNING_MAX: usize = 4096;
const WARNINGS_MAX: usize = 64;

impl Inner {
    pub(super) fn pass_warnings(&self, endpoint: &Endpoint, reply: &Response) {
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

    pub(crate) fn warn(&self, endpoint: &Endpoint, text: &str) {
        if let Some(sink) = &self.warnings {
            sink(endpoint.name(), text);
        }
    }

    /// How long an error's message is waited for.
    pub(crate) fn error_patience(&self) -> Duration {
        self.limits.patience.min(ERROR_PATIENCE)
    }
}

/// `299 - "text"` (distribution-spec, "Warnings").
fn parse_warning(header: &str) -> Option<String> {
    let text = header.trim().strip_prefix("299 - \"")?.strip_suffix('"')?;
    if text.len() > WARNING_MAX {
        return None;
    }
    Some(text.replace("\\\"", "\"").chars().filter(|c| !c.is_control()).collect())
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
pub(super) fn hold(reply: Response, permit: Permit) -> Response {
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
