//! Lists that come in pages, and small questions to a registry.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::auth::Scopes;
use crate::client::Inner;
use crate::digest::clip;
use crate::endpoint::Endpoint;
use crate::error::Purpose;
use crate::exchange::{Call, Target};
use crate::reference::{check_path, check_tag};
use crate::transport::{Headers, Method, Response};
use crate::{CancelToken, Client, Error, Reference, Result, Url};

/// Entries to ask for per page.
const PAGE: usize = 1000;
const JSON: &str = "application/json";

/// One image of a [search](Client::search).
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Found {
    /// Its name, as the registry has it.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub description: String,
    /// How many like it.
    #[serde(default, rename = "star_count")]
    pub stars: u64,
    /// Whether the registry's own people made it.
    #[serde(default, rename = "is_official")]
    pub official: bool,
}

impl Client {
    /// All tags of the reference's repository, in the registry's order, each once. What is no tag by the grammar is left out, with a
    /// [warning](crate::ClientBuilder::warnings).
    ///
    /// Bounded by [`Limits`](crate::Limits): a registry that sends more, or pages that go round in a circle, is an error.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>> {
        let registry = self.0.registry(reference.registry())?;
        let path = format!("/{}/tags/list?n={PAGE}", reference.repository());
        let scopes = Scopes::repository(reference.repository(), "pull");
        let list = List { path: &path, scopes, accept: JSON, cancel: &self.1 };
        let found = self.0.names(&registry.server, &list, "tags")?;
        Ok(self.0.well_formed(&registry.server, found, |tag| check_tag(tag).is_ok()))
    }

    /// All repositories of a registry (`127.0.0.1:5000`), without those whose names are none by the grammar. Many registries refuse this.
    pub fn catalog(&self, registry: &str) -> Result<Vec<String>> {
        let registry = self.0.registry(registry)?;
        let path = format!("/_catalog?n={PAGE}");
        let list = List { path: &path, scopes: Scopes::catalog(), accept: JSON, cancel: &self.1 };
        let found = self.0.names(&registry.server, &list, "repositories")?;
        Ok(self.0.well_formed(&registry.server, found, |path| check_path(path).is_ok()))
    }

    /// Asks the registry for its API's root, logging in if it demands that: whether name and password are right.
    pub fn ping(&self, registry: &str) -> Result<()> {
        let registry = self.0.registry(registry)?;
        let call = Call::new(Method::Get, "/", Scopes::default(), &self.1);
        self.0.call(&registry.server, &call).map(drop)
    }

    /// Images whose name or description has the term, by the old search API of Docker Hub (`/v1/search`). Hardly any other registry
    /// has one; those are [`Error::Unsupported`]. Control characters in what it says are turned into spaces.
    pub fn search(&self, registry: &str, term: &str) -> Result<Vec<Found>> {
        #[derive(Deserialize)]
        struct Reply {
            results: Vec<Found>,
        }
        let name = registry;
        let registry = self.0.registry(name)?;
        let unsupported = || Error::Unsupported { registry: name.to_owned(), what: "search" };
        if registry.server.is_guessed()
            && let Err(e @ Error::Transport { .. }) = self.ping(name)
        {
            // Only its API tells by which scheme it is asked.
            return Err(e);
        }
        let host = if name == crate::reference::DOCKER_HUB {
            "https://index.docker.io".to_owned()
        } else {
            registry.server.origin().to_string()
        };
        let url = Url::parse(&format!("{host}/v1/search"))?.with_query("q", term).with_query("n", "100");
        let mut call = Call::new(Method::Get, "", Scopes::default(), &self.1);
        call.target = Target::Named(url, Purpose::Redirect);
        let (_, body) = match self.0.fetch(&registry.server, &call, self.0.limits.page, "a search result") {
            Err(Error::Status { status: 404 | 405 | 501, .. }) => return Err(unsupported()),
            other => other?,
        };
        crate::manifest::check_parts(crate::manifest::parts(&body))
            .map_err(|_| Error::TooLarge { what: "a search result".into(), limit: self.0.limits.page })?;
        let mut found = serde_json::from_slice::<Reply>(&body).map_err(|_| unsupported())?.results;
        for image in &mut found {
            image.name = image.name.replace(char::is_control, " ");
            image.description = image.description.replace(char::is_control, " ");
        }
        Ok(found)
    }
}

/// A list to fetch.
pub(crate) struct List<'a> {
    pub(crate) path: &'a str,
    pub(crate) scopes: Scopes,
    pub(crate) accept: &'a str,
    pub(crate) cancel: &'a CancelToken,
}

impl Inner {
    /// A list of names, which are the array `field` of each page.
    fn names(&self, endpoint: &Endpoint, list: &List<'_>, field: &str) -> Result<Vec<String>> {
        let mut names = Names { most: self.limits.entries, ..Names::default() };
        self.each_page(endpoint, list, |body| {
            let mut parser = serde_json::Deserializer::from_slice(&body);
            let read = Page { field, names: &mut names }.deserialize(&mut parser);
            read.and_then(|()| parser.end()).map_err(|e| {
                if names.full {
                    return Error::TooLarge { what: "a list".into(), limit: self.limits.entries as u64 };
                }
                Error::protocol(endpoint.origin(), format!("no list: {}", clip(&e.to_string())))
            })
        })?;
        Ok(names.found)
    }

    /// Without what no name may be (`../x`, what moves a terminal's cursor): callers print names, and make paths of them.
    fn well_formed(
        &self,
        endpoint: &Endpoint,
        mut names: Vec<String>,
        fits: fn(&str) -> bool,
    ) -> Vec<String> {
        let before = names.len();
        names.retain(|name| fits(name));
        if names.len() < before {
            self.warn(endpoint, "the list has names that are none; they are left out");
        }
        names
    }

    /// Fetches a list's pages one by one.
    pub(crate) fn each_page(
        &self,
        endpoint: &Endpoint,
        list: &List<'_>,
        mut take: impl FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        // Hashes rather than URLs, which may be long, and many.
        let (mut visited, hasher) = (HashSet::new(), RandomState::new());
        let mut next: Option<Url> = None;
        let mut total = 0;
        for _ in 0..self.limits.pages {
            let mut call = Call::new(Method::Get, list.path, list.scopes.clone(), list.cancel);
            call.headers = Headers::new().with("accept", list.accept);
            let linked = next.take();
            if let Some(url) = &linked {
                call.target = Target::Named(url.clone(), Purpose::Link);
            }
            let (reply, page) = self.fetch(endpoint, &call, self.limits.page, "a page of a list")?;
            // The first request may have shown that the registry is asked by another scheme.
            let here = linked.map_or_else(|| endpoint.url(list.path), Ok)?;
            next = next_page(&reply, &here)?;
            total += page.len() as u64;
            if total > self.limits.list {
                return Err(Error::TooLarge { what: "a list".into(), limit: self.limits.list });
            }
            take(page)?;
            visited.insert(hasher.hash_one(here.to_request_string()));
            match &next {
                None => return Ok(()),
                Some(url) if visited.contains(&hasher.hash_one(url.to_request_string())) => {
                    return Err(Error::protocol(url, "the pages of the list go round in a circle"));
                }
                Some(_) => {}
            }
        }
        Err(Error::protocol(endpoint.origin(), format!("the list has more than {} pages", self.limits.pages)))
    }
}

/// The names of a list, each once, taken while they are parsed: a page of short names is many times as large in memory.
#[derive(Default)]
struct Names {
    found: Vec<String>,
    /// Hashes with a key of our own: nobody can make two names meet.
    known: HashSet<u64>,
    hasher: RandomState,
    most: usize,
    full: bool,
}

impl Names {
    fn add(&mut self, name: String) -> bool {
        if self.known.insert(self.hasher.hash_one(&name)) {
            self.full = self.found.len() >= self.most;
            if !self.full {
                self.found.push(name);
            }
        }
        !self.full
    }
}

/// A single page, for the fuzz target.
pub(crate) fn names(body: &[u8], field: &str, most: usize) -> serde_json::Result<Vec<String>> {
    let mut names = Names { most, ..Names::default() };
    Page { field, names: &mut names }.deserialize(&mut serde_json::Deserializer::from_slice(body))?;
    Ok(names.found)
}

/// Reads the array `field` of a document into the names.
struct Page<'a> {
    field: &'a str,
    names: &'a mut Names,
}

impl<'de> DeserializeSeed<'de> for Page<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        document.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Page<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with an array {:?}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.field {
                map.next_value_seed(Entries(self.names))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Entries<'a>(&'a mut Names);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, array: D) -> Result<(), D::Error> {
        array.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of names, or null")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(name) = array.next_element()? {
            if !self.0.add(name) {
                return Err(serde::de::Error::custom("too many"));
            }
        }
        Ok(())
    }
}

fn next_page(reply: &Response, base: &Url) -> Result<Option<Url>> {
    match reply.headers.all("link").find_map(parse_link) {
        Some(target) => base.join(target).map(Some),
        None => Ok(None),
    }
}

/// The target of `<target>; rel="next"` in a `Link` header (RFC 8288), which may hold several.
pub(crate) fn parse_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let end = end_of_params(after);
        if is_next(&after[..end]) {
            return Some(target);
        }
        rest = &after[end..];
    }
    None
}

/// The comma that ends a link's parameters, which may hold commas in quotes.
fn end_of_params(params: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in params.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => return at,
            _ => {}
        }
    }
    params.len()
}

fn is_next(params: &str) -> bool {
    params.split(';').filter_map(|p| p.split_once('=')).any(|(name, value)| {
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("rel") && value.split(' ').any(|r| r.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_next_page() {
        for (header, wanted) in [
            (r#"</v2/_catalog?last=b&n=2>; rel="next""#, Some("/v2/_catalog?last=b&n=2")),
            ("<x>; REL=next", Some("x")),
            (r#"<p>; rel="prev"; title="a, <b>", <n>;rel="start next""#, Some("n")),
            (r#"<p>; rel="prev""#, None),
            ("x", None),
            ("<x", None),
            ("", None),
        ] {
            assert_eq!(parse_link(header), wanted, "{header}");
        }
    }

    #[test]
    fn names_are_read_from_one_field_and_counted() {
        let read = |text: &str, most| {
            let mut names = Names { most, ..Names::default() };
            let mut parser = serde_json::Deserializer::from_str(text);
            let read = Page { field: "tags", names: &mut names }.deserialize(&mut parser);
            (read.is_ok(), names.found.join(" "), names.full)
        };
        assert_eq!(read(r#"{"name":"x","tags":["a","b","a"],"more":[1]}"#, 2), (true, "a b".into(), false));
        assert_eq!(read(r#"{"tags":null}"#, 2), (true, String::new(), false));
        assert_eq!(read(r#"{"name":"x"}"#, 2), (true, String::new(), false));
        assert_eq!(read(r#"{"tags":["a","b","c"]}"#, 2), (false, "a b".into(), true));
        for bad in [r#"{"tags":"a"}"#, r#"{"tags":[1]}"#, r#"["a"]"#, "{", ""] {
            assert!(!read(bad, 2).0, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(header in "\\PC{0,60}") {
            let _ = parse_link(&header);
        }
    }
}
