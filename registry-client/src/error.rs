use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::image::Digest;

/// A foreign error, kept as the source of ours or handed over by a caller's trait implementation.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in this crate. URLs in it never carry a query, user or token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// The deadline of [`Client::with_deadline`](crate::Client::with_deadline) or [`CancelToken::until`](crate::CancelToken::until).
    #[error("the deadline has passed")]
    Deadline,
    /// Not an image name.
    #[error("invalid reference {input:?}: {reason}")]
    Reference {
        /// What was to be parsed.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a digest, or of an algorithm that this crate cannot verify.
    #[error("invalid digest {value:?}: {reason}")]
    Digest {
        /// The digest.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a URL that a registry may use.
    #[error("invalid URL {url}: {reason}")]
    Url {
        /// The URL without query and user.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A URL that a registry named and that must not be followed.
    #[error("refused to follow the {purpose} to {url}: {reason}")]
    Refused {
        /// Which kind of URL.
        purpose: Purpose,
        /// The URL without query and user.
        url: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// The request did not get through, or the connection broke too often.
    #[error("{method} {url} failed{}", AfterAttempts(*attempts))]
    Transport {
        /// The HTTP method.
        method: &'static str,
        /// The URL without query and user.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// Why.
        source: crate::TransportError,
    },
    /// The registry answered with an error.
    #[error("{}{method} {url}: {status}{}{}{}", Missing(*status, url), Codes(codes), AfterAttempts(*attempts), Missing::end(*status, url))]
    Status {
        /// The HTTP method.
        method: &'static str,
        /// The URL without query and user.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The errors in the reply's body (distribution-spec, "Error Codes").
        codes: Vec<ApiError>,
        /// How often it was tried.
        attempts: u32,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// No token or login could be had.
    #[error("authentication for {registry} failed: {reason}")]
    Auth {
        /// The registry's host.
        registry: String,
        /// Why.
        reason: String,
        /// The error beneath, if there is one.
        source: Option<BoxError>,
    },
    /// A reply breaks the protocol.
    #[error("{url}: {reason}")]
    Protocol {
        /// The URL without query and user.
        url: String,
        /// What is wrong with the reply.
        reason: String,
    },
    /// A manifest or index that cannot be used.
    #[error("invalid manifest: {reason}")]
    Manifest {
        /// What is wrong with it.
        reason: String,
    },
    /// Docker's image manifest version 2 schema 1, which has no digests worth the name. Push the image again with a newer tool.
    #[error(
        "image uses the retired manifest format schema 1, which cannot be verified; push it again with a current tool"
    )]
    Schema1,
    /// A reply that should be small is not.
    #[error("{what} exceeds the limit of {limit} bytes")]
    TooLarge {
        /// What it is.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Content has another length than its descriptor says.
    #[error("{digest} has {actual} bytes or more where its descriptor says {expected}")]
    Size {
        /// The content's digest.
        digest: Digest,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes seen.
        actual: u64,
    },
    /// Content has another digest than its descriptor says.
    #[error("content has digest {actual} where {expected} was asked for")]
    Mismatch {
        /// By the descriptor.
        expected: Digest,
        /// Of the content.
        actual: Digest,
    },
    /// An index has nothing for the platform.
    #[error("no image for platform {wanted}; there are: {}", available.join(", "))]
    NoPlatform {
        /// `os/architecture[/variant]`.
        wanted: String,
        /// What the index has.
        available: Vec<String>,
    },
    /// The caller's [`Content`](crate::Content) or [`Sink`](crate::Sink) failed.
    #[error("local content {digest} failed")]
    Content {
        /// The content's digest.
        digest: Digest,
        /// Why.
        source: BoxError,
    },
    /// A body to send could not be read.
    #[error("local content could not be read")]
    Unread {
        /// Why.
        source: BoxError,
    },
    /// A configuration file cannot be read or understood.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The error beneath, if there is one.
        source: Option<BoxError>,
    },
    /// What [`ClientBuilder::insecure`](crate::ClientBuilder::insecure) was given is neither a host nor a network.
    #[error("invalid insecure registry {pattern:?}: {reason}")]
    Insecure {
        /// What it was given.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A registry lacks a function.
    #[error("{registry} does not support {what}")]
    Unsupported {
        /// The registry's host.
        registry: String,
        /// The function.
        what: &'static str,
    },
}

impl Error {
    /// Whether the registry says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    /// Whether the registry gives this code (`MANIFEST_BLOB_UNKNOWN`, ...) as a reason.
    pub(crate) fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Status { codes, .. } if codes.iter().any(|c| c.code == code))
    }

    /// Whether a login (or another one) is needed.
    pub fn is_auth(&self) -> bool {
        matches!(self, Self::Status { status: 401 | 403, .. } | Self::Auth { .. })
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport { source, .. } => source.is_retryable(),
            Self::Status { status, .. } => is_retryable_status(*status),
            _ => false,
        }
    }

    /// How long the registry asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the content is not what its digest or descriptor promised.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Size { .. } | Self::Mismatch { .. } | Self::Manifest { .. })
    }

    /// Finds this crate's error in what a [`Source`](crate::Source)'s reader returned.
    pub fn in_io(error: &std::io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Takes this crate's error out of what a [`Source`](crate::Source)'s reader returned, or gives the foreign one back.
    pub fn from_io(error: std::io::Error) -> Result<Self, std::io::Error> {
        if Self::in_io(&error).is_none() {
            return Err(error);
        }
        let Some(inner) = error.into_inner() else { return Err(std::io::Error::other("no error")) };
        match inner.downcast::<Self>() {
            Ok(ours) => Ok(*ours),
            Err(foreign) => Err(std::io::Error::other(foreign)),
        }
    }

    pub(crate) fn into_io(self) -> std::io::Error {
        // Not `Interrupted`, which std's helpers would retry for ever.
        std::io::Error::other(self)
    }

    pub(crate) fn protocol(url: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self::Protocol { url: url.to_string(), reason: reason.into() }
    }

    pub(crate) fn manifest(reason: impl Into<String>) -> Self {
        Self::Manifest { reason: reason.into() }
    }
}

/// The error and what it came of, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

pub(crate) const fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Why a registry's URL was about to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// The token server of a `WWW-Authenticate` challenge.
    Realm,
    /// A `Location` of a 3xx status.
    Redirect,
    /// The `Location` of an upload.
    Upload,
    /// The next page of a list (`Link`).
    Link,
    /// A descriptor's `urls`.
    Foreign,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Realm => "token server",
            Self::Redirect => "redirect",
            Self::Upload => "upload location",
            Self::Link => "next page",
            Self::Foreign => "foreign URL",
        })
    }
}

/// One error of a registry's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiError {
    /// `BLOB_UNKNOWN`, `DENIED`, ...
    pub code: String,
    /// What the registry has to say; control characters are removed and the length is bounded.
    pub message: String,
}

struct Codes<'a>(&'a [ApiError]);

impl fmt::Display for Codes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for e in self.0 {
            match (e.code.as_str(), e.message.as_str()) {
                ("", message) => write!(f, ": {message}")?,
                (code, "") => write!(f, ": {code}")?,
                (code, message) => write!(f, ": {code} ({message})")?,
            }
        }
        Ok(())
    }
}

/// In front of a 404: what there is none of, by the URL that was asked. Replies to `HEAD` cannot say it.
struct Missing<'a>(u16, &'a str);

impl Missing<'_> {
    fn end(status: u16, url: &str) -> &'static str {
        if status == 404 && named(url).is_some() { ")" } else { "" }
    }
}

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match named(self.1) {
            Some((kind, name)) if self.0 == 404 => write!(f, "no such {kind} {name} ("),
            _ => Ok(()),
        }
    }
}

/// The manifest or blob of an API's URL.
fn named(url: &str) -> Option<(&'static str, String)> {
    let (host, path) = url.split_once("://")?.1.split_once("/v2/")?;
    let (place, selector) = path.rsplit_once('/')?;
    let (repository, kind) = place.rsplit_once('/')?;
    let kind = match kind {
        "manifests" => "manifest",
        "blobs" => "blob",
        _ => return None,
    };
    let mark = if selector.contains(':') { '@' } else { ':' };
    Some((kind, format!("{host}/{repository}{mark}{selector}")))
}

struct AfterAttempts(u32);

impl fmt::Display for AfterAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 1 { write!(f, " after {} attempts", self.0) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &'static str, url: &str, status: u16, attempts: u32) -> String {
        let codes = Vec::new();
        Error::Status { method, url: url.into(), status, codes, attempts, retry_after: None }.to_string()
    }

    #[test]
    fn what_is_missing_is_named() {
        for (url, wanted) in [
            (
                "http://h:5/v2/a/b/manifests/v1",
                "no such manifest h:5/a/b:v1 (HEAD http://h:5/v2/a/b/manifests/v1: 404)",
            ),
            (
                "https://h/v2/a/blobs/sha256:0",
                "no such blob h/a@sha256:0 (HEAD https://h/v2/a/blobs/sha256:0: 404)",
            ),
            ("https://h/v2/a/tags/list", "HEAD https://h/v2/a/tags/list: 404"),
            ("https://h/v2/a/blobs/uploads/x", "HEAD https://h/v2/a/blobs/uploads/x: 404"),
            ("https://h/", "HEAD https://h/: 404"),
        ] {
            assert_eq!(status("HEAD", url, 404, 1), wanted);
        }
        assert_eq!(
            status("GET", "http://h/v2/a/manifests/v1", 500, 3),
            "GET http://h/v2/a/manifests/v1: 500 after 3 attempts"
        );
    }

    #[test]
    fn one_attempt_is_not_counted() {
        let failed = |attempts| {
            let source = crate::TransportErrorKind::Connect.into();
            Error::Transport { method: "GET", url: "http://h/".into(), attempts, source }.to_string()
        };
        assert_eq!(failed(1), "GET http://h/ failed");
        assert_eq!(failed(2), "GET http://h/ failed after 2 attempts");
    }
}
