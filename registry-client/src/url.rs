use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::{Error, Result};

const URL_MAX: usize = 16 * 1024;

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub(crate) const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port: what may see a credential is decided by all three.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Lower-case name, IPv4 address, or IPv6 address in brackets.
    pub host: String,
    /// Port, given or the scheme's own.
    pub port: u16,
}

impl Origin {
    /// The host as an address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => self.host.parse().ok(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// An absolute `http(s)` URL without user and fragment. `Display` and `Debug` leave the query out, since signed URLs carry
/// their secret there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    origin: Origin,
    /// Starts with `/`.
    path: String,
    query: Option<String>,
}

impl Url {
    /// Parses an absolute URL.
    pub fn parse(input: &str) -> Result<Self> {
        let bad = |reason| Error::Url { url: redact(input), reason };
        check_characters(input).map_err(bad)?;
        let (scheme, rest) = input.split_once("://").ok_or_else(|| bad("it is not absolute"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(bad("only http and https are supported")),
        };
        Self::after_scheme(scheme, rest).map_err(bad)
    }

    /// Resolves a reference (RFC 3986, section 5.2), as in `Location`.
    pub fn join(&self, reference: &str) -> Result<Self> {
        let bad = |reason| Error::Url { url: redact(reference), reason: { reason } };
        check_characters(reference).map_err(bad)?;
        let reference_path = reference.split(['?', '#']).next().unwrap_or("");
        if reference_path.split('/').next().is_some_and(|first| first.contains(':')) {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Self::after_scheme(self.origin.scheme, rest).map_err(bad);
        }
        let (reference, _) = reference.split_once('#').unwrap_or((reference, ""));
        let (path, query) = split_query(reference);
        let (path, query) = if path.is_empty() {
            (self.path.clone(), query.or_else(|| self.query.clone()))
        } else if path.starts_with('/') {
            (path.to_owned(), query)
        } else {
            let directory = self.path.rfind('/').map_or("/", |end| &self.path[..=end]);
            (format!("{directory}{path}"), query)
        };
        Ok(Self { origin: self.origin.clone(), path: remove_dots(&path), query })
    }

    fn after_scheme(scheme: Scheme, rest: &str) -> Result<Self, &'static str> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it carries a user name");
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None | Some("") => scheme.default_port(),
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map_err(|_| "its port is out of range")?
            }
            Some(_) => return Err("its port is not a number"),
        };
        let origin = Origin { scheme, host: host.to_ascii_lowercase(), port };
        let (target, _) = target.split_once('#').unwrap_or((target, ""));
        let (path, query) = split_query(target);
        let path = if path.is_empty() { "/".to_owned() } else { remove_dots(path) };
        Ok(Self { origin, path, query })
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path, which starts with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows `?`. May hold a secret.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// All of it, secrets in the query included: for a [`Transport`](crate::Transport) only.
    pub fn to_request_string(&self) -> String {
        match &self.query {
            Some(query) => format!("{}{}?{query}", self.origin, self.path),
            None => format!("{}{}", self.origin, self.path),
        }
    }

    /// Adds `key=value` to the query; the value is percent-encoded.
    #[must_use]
    pub fn with_query(mut self, key: &str, value: &str) -> Self {
        let query = self.query.get_or_insert_with(String::new);
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(key);
        query.push('=');
        encode(value, query);
        self
    }

    pub(crate) fn with_origin(&self, origin: Origin) -> Self {
        Self { origin, ..self.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}{}", if self.query.is_some() { "?..." } else { "" })
    }
}

/// Percent-encodes all but the unreserved characters and those that a query may hold as they are (`:`, `/`).
pub(crate) fn encode(value: &str, out: &mut String) {
    use fmt::Write as _;
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
}

fn check_characters(input: &str) -> Result<(), &'static str> {
    if input.len() > URL_MAX {
        return Err("it is too long");
    }
    if input.bytes().any(|b| b <= b' ' || b >= 0x7f || b"\"<>\\^`{|}".contains(&b)) {
        return Err("it has a character that no URL may have");
    }
    Ok(())
}

fn split_query(target: &str) -> (&str, Option<String>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or("its IPv6 address lacks a bracket")?;
        let (host, after) = authority.split_at(end + 1);
        if host[1..end].parse::<Ipv6Addr>().is_err() {
            return Err("its IPv6 address is none");
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("something stands between its host and port"),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("its host is no name or address");
    }
    // A resolver takes `127.1`, `0x7f.1` and `2130706433` for addresses, which no rule for names or addresses would see.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    let numeric =
        last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    if numeric && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err("its host is an address in an unusual notation");
    }
    Ok((host, port))
}

fn remove_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// What of an unparsable URL may be shown.
fn redact(input: &str) -> String {
    let (scheme, rest) = input.split_at(input.find("://").map_or(0, |at| at + 3));
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password may hold any of these characters: an `@` further on makes a secret of all that stands before it, and maybe behind.
    let shown = if after.contains('@') {
        "..."
    } else {
        let host = authority.rfind('@').map_or(0, |at| at + 1);
        let end = after.find(['?', '#']).unwrap_or(after.len());
        &rest[host..authority.len() + end]
    };
    scheme.chars().chain(shown.chars()).filter(char::is_ascii_graphic).take(128).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn joins_by_rfc_3986() {
        let base = Url::parse("http://a:81/b/c/d?q").unwrap();
        for (reference, wanted) in [
            ("g", "http://a:81/b/c/g"),
            ("./g", "http://a:81/b/c/g"),
            ("g/", "http://a:81/b/c/g/"),
            ("/g", "http://a:81/g"),
            ("//g", "http://g/"),
            ("?y", "http://a:81/b/c/d?y"),
            ("g?y#s", "http://a:81/b/c/g?y"),
            ("", "http://a:81/b/c/d?q"),
            (".", "http://a:81/b/c/"),
            ("..", "http://a:81/b/"),
            ("../../../g", "http://a:81/g"),
            ("https://X.y:443/z?a=b", "https://x.y/z?a=b"),
            ("/v2/?last=a:b", "http://a:81/v2/?last=a:b"),
            ("?a=b:c", "http://a:81/b/c/d?a=b:c"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_request_string(), wanted, "{reference}");
        }
    }

    #[test]
    fn refuses_what_is_not_http() {
        for url in [
            "file:///etc/passwd",
            "gopher://x/",
            "http:///x",
            "http://user:secret@host/",
            "http://a b/",
            "http://a\n/",
            "http://h:99999/",
            "http://[::1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://ex\u{e4}mple/",
            "//x",
        ] {
            assert!(Url::parse(url).is_err(), "{url}");
        }
        let message = Url::parse("http://user:secret@host/?token=t").unwrap_err().to_string();
        assert!(!message.contains("secret") && !message.contains("token"), "{message}");
        let long = "s3cret".repeat(50);
        for secret in [&long, "s3?cret", "s3/cret", "s3#cr@et", "s3@cret"] {
            for url in
                [format!("https://u:{secret}@h/t"), format!("//u:{secret}@h"), format!("u:{secret}@h:x/")]
            {
                let message = redact(&url);
                assert!(!message.contains("s3") && !message.contains("cret"), "{message}");
            }
        }
        assert_eq!(redact("https://u:p@h:x/p?q"), "https://h:x/p");
    }

    #[test]
    fn shows_no_query() {
        let url = Url::parse("https://h/p").unwrap().with_query("sig", "s p+");
        assert_eq!(url.to_request_string(), "https://h/p?sig=s%20p%2B");
        assert_eq!(format!("{url} {url:?}"), "https://h/p https://h/p?...");
    }

    proptest! {
        #[test]
        fn round_trips(input in "https?://[a-z0-9.:\\[\\]-]{1,12}[/a-z0-9.?&=:#]{0,20}") {
            if let Ok(url) = Url::parse(&input) {
                prop_assert_eq!(Url::parse(&url.to_request_string()).unwrap(), url);
            }
        }

        #[test]
        fn never_panics(base in "\\PC{0,30}", reference in "\\PC{0,30}") {
            let _ = Url::parse(&base);
            let _ = Url::parse("http://h/a/b").unwrap().join(&reference);
        }
    }
}
