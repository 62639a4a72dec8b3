use std::fmt;
use std::str::FromStr;

use oci_spec::image::Digest;

use crate::{Error, Result, digest};

/// Docker's default registry.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// Of the repository's path. Older versions of the grammar (Docker 20.10) counted the registry too.
const PATH_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// An image's name: registry, repository, tag and/or digest, normalised as Docker does.
///
/// The grammar is that of the [distribution project](https://pkg.go.dev/github.com/distribution/reference):
/// `[domain/]path[:tag][@digest]`. The first component is a domain if it has a dot, a colon or an upper-case letter, or is
/// `localhost`; otherwise the image is on Docker Hub, in `library/` where the path has one component only.
///
/// ```
/// use longshore_registry_client::Reference;
/// let r: Reference = "debian".parse()?;
/// assert_eq!(r.to_string(), "docker.io/library/debian:latest");
/// assert_eq!(r.familiar(), "debian:latest");
/// # Ok::<(), longshore_registry_client::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<DigestText>,
}

/// A digest that orders, for [`Reference`]'s own order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DigestText(Digest);

impl PartialOrd for DigestText {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DigestText {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_ref().cmp(other.0.as_ref())
    }
}

impl Reference {
    /// Parses a name as it stands, without the default tag `latest`: a repository has neither tag nor digest.
    pub fn parse_untagged(input: &str) -> Result<Self> {
        parse(input).map_err(|reason| Error::Reference { input: digest::clip(input), reason })
    }

    /// `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or defaulted. A reference with a digest gets no default.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given. It decides; a tag beside it is only remembered.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref().map(|d| &d.0)
    }

    /// The same repository, with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).map_err(|reason| Error::Reference { input: digest::clip(tag), reason })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name, with this digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(DigestText(digest)), ..self.clone() }
    }

    /// `docker.io/library/debian`: registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// As Docker shows it: `debian:bookworm` for `docker.io/library/debian:bookworm`.
    pub fn familiar(&self) -> String {
        let name = match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            // `library/a/b` would read as the user `a`'s repository.
            (DOCKER_HUB, Some(short)) if !short.contains('/') => short.to_owned(),
            (DOCKER_HUB, _) => self.repository.clone(),
            _ => self.name(),
        };
        name + &self.suffix()
    }

    fn suffix(&self) -> String {
        let mut suffix = String::new();
        if let Some(tag) = &self.tag {
            suffix.push(':');
            suffix += tag;
        }
        if let Some(digest) = self.digest() {
            suffix.push('@');
            suffix += digest.as_ref();
        }
        suffix
    }

    /// What a manifest URL ends in: the digest, or the tag.
    pub(crate) fn selector(&self) -> &str {
        match (self.digest(), &self.tag) {
            (Some(digest), _) => digest.as_ref(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl fmt::Display for Reference {
    /// The full, normalised name: `docker.io/library/debian:bookworm`. What the image store keys on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let mut reference = Self::parse_untagged(s)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".into());
        }
        Ok(reference)
    }
}

fn parse(input: &str) -> Result<Reference, String> {
    if input.is_empty() {
        return Err("it is empty".into());
    }
    if let Some(c) = input.chars().find(|c| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
        return Err(format!("the character {c:?} is not allowed"));
    }
    if let Some(scheme) = ["http://", "https://"].into_iter().find(|scheme| input.starts_with(scheme)) {
        return Err(format!("a name is no URL: leave out {scheme:?}"));
    }
    if input.len() == 64 && input.bytes().all(is_lower_hex) {
        return Err("64 hexadecimal digits are an image ID, not a name".into());
    }
    let (rest, digest) = match input.split_once('@') {
        Some((rest, digest)) => (rest, Some(DigestText(digest::parse(digest).map_err(|e| e.to_string())?))),
        None => (input, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        // A colon before a slash belongs to a port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_domain(name)?;
    if repository.len() > PATH_MAX {
        return Err(format!("the repository is longer than {PATH_MAX} characters"));
    }
    Ok(Reference { registry, repository, tag: tag.map(str::to_owned), digest })
}

fn split_domain(name: &str) -> Result<(String, String), String> {
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain(first) => (first, path),
        _ => (DOCKER_HUB, name),
    };
    check_domain(domain)?;
    check_path(path)?;
    // Old names of the Hub.
    let domain = if domain == "index.docker.io" { DOCKER_HUB } else { domain };
    if domain == DOCKER_HUB && !path.contains('/') {
        return Ok((domain.into(), format!("library/{path}")));
    }
    Ok((domain.into(), path.into()))
}

fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `host[:port]`, where the host is dotted labels or an IPv6 address in brackets.
fn check_domain(domain: &str) -> Result<(), String> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("an IPv6 address lacks its closing bracket")?;
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return Err(format!("{address:?} is not an IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(format!("unexpected {after:?} after the registry's address")),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    for label in host.into_iter().flat_map(|h| h.split('.')) {
        let bytes = label.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        if !edge(bytes.first())
            || !edge(bytes.last())
            || !bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        {
            return Err(format!("{domain:?} is not a registry's host name"));
        }
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("{port:?} is not a port"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository is missing".into());
    }
    for component in path.split('/') {
        if component.is_empty() {
            return Err("the repository has an empty component".into());
        }
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("repository names are lower case, {component:?} is not"));
        }
        if !is_path_component(component) {
            return Err(format!(
                "the component {component:?} must be letters and digits, separated by '.', '_', '__' or dashes"
            ));
        }
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let end = rest.iter().position(|b| !word(*b)).unwrap_or(rest.len());
        if end == 0 {
            return false;
        }
        rest = &rest[end..];
        if rest.is_empty() {
            return true;
        }
        let end = rest.iter().position(|b| word(*b)).unwrap_or(rest.len());
        let separator = &rest[..end];
        if !matches!(separator, b"." | b"_" | b"__") && !separator.iter().all(|b| *b == b'-') {
            return false;
        }
        rest = &rest[end..];
    }
}

/// `[\w][\w.-]{0,127}`
pub(crate) fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.as_bytes() {
        [] => Err("the tag is empty".into()),
        tag if tag.len() > TAG_MAX => Err(format!("the tag is longer than {TAG_MAX} characters")),
        [first, rest @ ..] if word(*first) && rest.iter().all(|b| word(*b) || matches!(b, b'.' | b'-')) => {
            Ok(())
        }
        _ => Err(format!(
            "{tag:?} is not a tag: letters, digits, '_', '.' and '-', the last two not at the start"
        )),
    }
}

const fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || matches!(b, b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa";

    #[track_caller]
    fn full(input: &str) -> String {
        input.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn normalises_as_docker_does() {
        for (input, wanted, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("127.0.0.1:5000/debian", "127.0.0.1:5000/debian:latest", "127.0.0.1:5000/debian:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("REG/a", "REG/a:latest", "REG/a:latest"),
            ("a.b/c__d/e--f.g_h", "a.b/c__d/e--f.g_h:latest", "a.b/c__d/e--f.g_h:latest"),
        ] {
            assert_eq!(full(input), wanted, "{input}");
            assert_eq!(input.parse::<Reference>().unwrap().familiar(), familiar, "{input}");
        }
        let both = format!("debian:v1@sha256:{HEX}");
        let r: Reference = both.parse().unwrap();
        assert_eq!((r.tag(), r.familiar()), (Some("v1"), both.clone()));
        assert_eq!(r.selector(), format!("sha256:{HEX}"));
        assert_eq!(full(&format!("a@sha256:{HEX}")), format!("docker.io/library/a@sha256:{HEX}"));
    }

    #[test]
    fn refuses_with_a_reason() {
        for (input, reason) in [
            ("", "empty"),
            ("Debian", "lower case"),
            ("a//b", "empty component"),
            ("a/", "empty component"),
            ("/a", "empty component"),
            ("host.io/", "repository is missing"),
            ("a:", "tag is empty"),
            ("a:-x", "is not a tag"),
            ("a___b", "must be letters"),
            ("a_-b", "must be letters"),
            ("-a", "must be letters"),
            ("a-", "must be letters"),
            ("a..b/c", "not a registry's host name"),
            ("a b", "not allowed"),
            ("ä", "not allowed"),
            ("host:99999/a", "is not a port"),
            ("host:/a", "is not a port"),
            ("http://localhost:5000/a", "leave out \"http://\""),
            ("https://host.io/a:1", "leave out \"https://\""),
            ("[::1/a", "bracket"),
            (HEX, "image ID"),
            ("a@sha256:../../etc", "nvalid"),
            ("a@sha256:ABC", "nvalid"),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "unknown algorithm"),
            ("a@", "nvalid"),
        ] {
            let message = input.parse::<Reference>().unwrap_err().to_string();
            assert!(message.contains(reason), "{input:?}: {message}");
        }
        assert!(format!("a:{}", "x".repeat(129)).parse::<Reference>().is_err());
        assert!(format!("a:{}", "x".repeat(128)).parse::<Reference>().is_ok());
    }

    #[test]
    fn the_path_is_bounded_and_the_domain_is_not_counted() {
        // As distribution/reference has it since its change "Exclude domain from name length check".
        let parse =
            |domain: &str, path: usize| format!("{domain}{}:tag", "a".repeat(path)).parse::<Reference>();
        assert!(parse("example.com/", 255).is_ok());
        let error = parse("example.com/", 256).unwrap_err().to_string();
        assert!(error.contains("longer than 255"), "{error}");
        assert!(parse("domain/", 256).is_err());
        let long = format!("{}.example.com:5000/", "d".repeat(60));
        assert!(parse(&long, 255).is_ok());
        // What Docker adds counts.
        assert!(parse("", 255 - "library/".len()).is_ok());
        assert!(parse("", 256 - "library/".len()).is_err());
        assert!(format!("{}a", "a/".repeat(127)).parse::<Reference>().is_ok());
        assert!(format!("{}a", "a/".repeat(128)).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn prints_what_it_parses(input in "([a-zA-Z0-9.-]{1,9}(:[0-9]{1,5})?/)?[a-z0-9._/-]{1,20}(:[A-Za-z0-9_.-]{1,9})?") {
            if let Ok(r) = input.parse::<Reference>() {
                prop_assert_eq!(&r.to_string().parse::<Reference>().unwrap(), &r);
                prop_assert_eq!(&r.familiar().parse::<Reference>().unwrap(), &r);
            }
        }

        #[test]
        fn never_panics(input in "\\PC{0,40}") {
            let _ = input.parse::<Reference>();
        }
    }
}
