//! Lists that come in pages, and small questions to a registry.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::auth::Scopes;
use crate::client::Inner;
use crate::digest::clip;
use crate::endpoint::Endpoint;
use crate::error::Purpose;
use crate::exchange::{Call, Target, read_capped};
use crate::transport::{Headers, Method, Response};
use crate::{Client, Error, Reference, Result, Url};

/// Entries to ask for per page.
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Option<Vec<String>>,
}

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
    /// All tags of the reference's repository, in the registry's order, each once.
    ///
    /// Bounded by [`Limits`](crate::Limits): a registry that sends more, or pages that go round in a circle, is an error.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>> {
        let registry = self.0.registry(reference.registry())?;
        let path = format!("/{}/tags/list?n={PAGE}", reference.repository());
        let scopes = Scopes::repository(reference.repository(), "pull");
        self.0.pages(&registry.server, &path, &scopes, |page: Tags| page.tags.unwrap_or_default())
    }

    /// All repositories of a registry (`127.0.0.1:5000`). Many registries refuse this.
    pub fn catalog(&self, registry: &str) -> Result<Vec<String>> {
        let registry = self.0.registry(registry)?;
        let path = format!("/_catalog?n={PAGE}");
        self.0.pages(&registry.server, &path, &Scopes::catalog(), |page: Catalog| {
            page.repositories.unwrap_or_default()
        })
    }

    /// Asks the registry for its API's root, logging in if it demands that: whether name and password are right.
    pub fn ping(&self, registry: &str) -> Result<()> {
        let registry = self.0.registry(registry)?;
        let call = Call::new(Method::Get, "/", Scopes::default(), &self.0.cancel);
        self.0.call(&registry.server, &call).map(drop)
    }

    /// Images whose name or description has the term, by the old search API of Docker Hub (`/v1/search`). Hardly any other registry
    /// has one; those are [`Error::Unsupported`].
    pub fn search(&self, registry: &str, term: &str) -> Result<Vec<Found>> {
        #[derive(Deserialize)]
        struct Reply {
            results: Vec<Found>,
        }
        let name = registry;
        let registry = self.0.registry(name)?;
        let unsupported = || Error::Unsupported { registry: name.to_owned(), what: "search" };
        let host = if name == crate::reference::DOCKER_HUB {
            "https://index.docker.io".to_owned()
        } else {
            registry.server.origin().to_string()
        };
        let url = Url::parse(&format!("{host}/v1/search"))?.with_query("q", term).with_query("n", "100");
        let mut call = Call::new(Method::Get, "", Scopes::default(), &self.0.cancel);
        call.target = Target::Named(url.clone(), Purpose::Redirect);
        let reply = match self.0.call(&registry.server, &call) {
            Err(Error::Status { status: 404 | 405 | 501, .. }) => return Err(unsupported()),
            other => other?,
        };
        let body = read_capped(reply, self.0.limits.page, self.0.limits.patience, "a search result", &url)?;
        serde_json::from_slice::<Reply>(&body).map(|r| r.results).map_err(|_| unsupported())
    }
}

impl Inner {
    /// Follows a list through its pages.
    fn pages<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        path: &str,
        scopes: &Scopes,
        entries: impl Fn(T) -> Vec<String>,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut known = HashSet::new();
        self.each_page(endpoint, path, scopes, "application/json", |body| {
            let page: T = serde_json::from_slice(&body).map_err(|e| {
                Error::protocol(endpoint.origin(), format!("no list: {}", clip(&e.to_string())))
            })?;
            for entry in entries(page) {
                if found.len() >= self.limits.entries {
                    return Err(Error::TooLarge { what: "a list".into(), limit: self.limits.entries as u64 });
                }
                if known.insert(entry.clone()) {
                    found.push(entry);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Fetches a list's pages one by one.
    pub(crate) fn each_page(
        &self,
        endpoint: &Endpoint,
        path: &str,
        scopes: &Scopes,
        accept: &str,
        mut take: impl FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        let mut visited = HashSet::new();
        let mut next: Option<Url> = None;
        for _ in 0..self.limits.pages {
            let mut call = Call::new(Method::Get, path, scopes.clone(), &self.cancel);
            call.headers = Headers::new().with("accept", accept);
            let here = match next.take() {
                Some(url) => {
                    call.target = Target::Named(url.clone(), Purpose::Link);
                    url
                }
                None => endpoint.url(path)?,
            };
            let reply = self.call(endpoint, &call)?;
            next = next_page(&reply, &here)?;
            take(read_capped(reply, self.limits.page, self.limits.patience, "a page of a list", &here)?)?;
            visited.insert(here.to_request_string());
            match &next {
                None => return Ok(()),
                Some(url) if visited.contains(&url.to_request_string()) => {
                    return Err(Error::protocol(url, "the pages of the list go round in a circle"));
                }
                Some(_) => {}
            }
        }
        Err(Error::protocol(endpoint.origin(), format!("the list has more than {} pages", self.limits.pages)))
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

    proptest! {
        #[test]
        fn never_panics(header in "\\PC{0,60}") {
            let _ = parse_link(&header);
        }
    }
}
