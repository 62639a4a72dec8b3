//! A blocking client of the [OCI distribution API](https://github.com/opencontainers/distribution-spec) (Docker's registry v2):
//! pull, push, copy, list, delete. It streams, it verifies what it streams, it goes on after a connection broke, it spends as few
//! requests as the protocol allows, and it trusts nothing that a registry says about where to go next.
//!
//! # Example
//!
//! ```no_run
//! use longshore_registry_client::{Client, Ctx, DockerConfigFile, Layout, Platforms, Reference};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().credentials(DockerConfigFile::open("/home/me/.docker/config.json")?).build()?;
//! let debian: Reference = "debian:bookworm".parse()?;
//!
//! let layout = Layout::open("images")?;
//! let pulled = client.pull(&debian, &Platforms::Host, &layout, Ctx::none())?;
//! client.push(&"127.0.0.1:5000/debian:bookworm".parse()?, &pulled.root, &layout, Ctx::none())?;
//! # Ok(())
//! # }
//! ```
//!
//! A reader of one blob, without a store:
//!
//! ```
//! # fn run() -> longshore_registry_client::Result<()> {
//! # use longshore_registry_client::{Client, Reference};
//! let client = Client::builder().build()?;
//! let source = client.source(&"127.0.0.1:5000/debian".parse::<Reference>()?)?;
//! let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
//! let blob = source.stat(&digest)?;
//! std::io::copy(&mut source.open(&blob, 0)?, &mut std::io::sink()).unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! # Parts
//!
//! - [`Reference`]: image names by the distribution project's grammar, normalised as Docker does.
//! - [`Client`]: connections, logins, and what hosts turned out to (not) support. Made by a [`ClientBuilder`]; [`Limits`], [`Retry`] and
//!   [`Timeouts`] have finite defaults.
//! - Reading: [`Client::resolve`], [`Client::manifest`], [`Client::source`] and [`Source::open`], [`Client::pull`] into a [`Sink`].
//! - Writing: [`Client::push`] from a [`Content`], [`Client::copy`], [`Client::tag`], [`Client::delete`].
//! - Lists: [`Client::tags`], [`Client::catalog`], [`Client::referrers`].
//! - [`Layout`]: an OCI image layout directory, which is both [`Sink`] and [`Content`].
//! - Logins: [`Credentials`], with [`StaticCredentials`] and [`DockerConfigFile`] (Docker's and podman's files, helper programs).
//! - Hosts: [`HostConfig`] and [`Hosts`], with [`HostsDir`] (containerd's `hosts.toml`, Docker's `certs.d`); [`Proxies`].
//! - [`transport`]: the seam to HTTP, with the rules an implementation must keep and checks for them. [`UreqTransport`] is the real one.
//!
//! # What happens to a request
//!
//! Each request of each verb takes the same way: the login known for its scopes is added, if it goes to the registry itself; it is
//! sent; a redirect is followed by hand, after its URL passed the rules below; 408, 429, 5xx and broken connections are waited out and
//! tried again, within a budget, if the request may be repeated (so are small replies that break); a 401 of the registry itself is answered with a login, once or twice.
//!
//! Nothing asks for a login before the registry does, so an anonymous pull of a public image costs no extra request.
//!
//! # Where a registry may send us
//!
//! Token servers (`realm`), redirects, upload locations, next pages (`Link`) and foreign layers (`urls`) are all URLs that a registry
//! chooses. For every one of them:
//!
//! - From `https` only to `https`; only those two schemes; no user names; no addresses in unusual notation.
//! - A public registry leads to public addresses only, one on an inner network also to that kind of network; which it is shows where
//!   it answered from, and what it names at its own origin is no exception. This holds for what a name *resolves to*, at each connection, not for how it looks;
//!   [`ClientBuilder::allow_inner`] makes exceptions. (Where a proxy looks names up, only addresses in the URL
//!   itself are seen, and a registry that has a name counts as public.)
//! - Credentials, and configured headers, go to the very origin of the registry: scheme, host *and* port. A token server gets a login
//!   if it is that origin, or over TLS the same host, a domain above it, or one of a domain known to have one owner (as `docker.io`), or
//!   named by [`ClientBuilder::trust_realm`]; otherwise it is asked anonymously, and if that is not enough the error names it. Redirects
//!   of token servers are not followed.
//! - Next pages stay on the registry. Foreign layers are left out unless [`ClientBuilder::foreign_layers`], and never see a login.
//! - Errors and `Debug` show no query, no token, no password.
//!
//! # Cancellation
//!
//! [`Ctx::cancel`] and [`CancelToken`] end a call within about a tenth of a second, also while it waits for a silent server: sockets
//! are read with short timeouts, between which the flag is looked at; name lookups and TCP handshakes are waited for in the same way.
//! [`Client::with_deadline`] bounds a whole call in time, whatever it does.
//!
//! # Time
//!
//! Nobody who is silent is waited for longer than [`Timeouts`] say: a link that stalls looks as if all stood still for half a minute, and
//! then goes on over another connection; it is given up after [`Retry::attempts`] of those in a row without 64 KiB of progress. Nobody
//! who drips is, either, where the whole is small (a manifest, a page, a token, what they are framed in, a manifest that is sent). A blob
//! that moves may take as long as it likes, in both directions: who wants an end to that sets a deadline.
//!
//! # What is believed
//!
//! That a registry has what it says it has. A push that finds its manifest under its tag sends nothing more, which is what makes it two
//! requests; where the registry has lost a blob since, pushing to another tag finds out, and brings it back, or not even that where it
//! takes the manifest all the same.
//!
//! # Not yet
//!
//! HTTP/2; cloud providers' own logins (their helper programs do).
#![forbid(unsafe_code)]

mod advice;
mod auth;
mod client;
mod ctx;
mod delete;
mod digest;
mod endpoint;
mod error;
mod exchange;
mod hosts;
mod httpdate;
mod layout;
mod list;
mod manifest;
mod parallel;
mod policy;
mod pull;
mod push;
mod ranges;
mod reader;
mod reference;
mod referrers;
mod source;
pub mod transport;
mod upload;
mod url;

pub use auth::{
    Credential, Credentials, DockerConfigFile, StaticCredentials, conformance as credentials_conformance,
};
pub use client::{Client, ClientBuilder, Limits, Retry};
pub use ctx::{CancelToken, Ctx, Event};
pub use error::{ApiError, BoxError, Error, Purpose, Result};
pub use hosts::{Host, HostConfig, Hosts, HostsDir, Proxies};
pub use layout::Layout;
pub use list::Found;
pub use pull::{Platforms, Pulled, Sink};
pub use push::{Content, Pushed};
pub use reference::Reference;
pub use source::Source;
pub use transport::{Timeouts, TlsOptions, Transport, TransportError, TransportErrorKind, UreqTransport};
pub use url::{Origin, Scheme, Url};

/// Parsers of foreign bytes, for the fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::auth::docker_config::fuzz as docker_config;

    /// A `WWW-Authenticate` header.
    pub fn challenge(header: &str) {
        for challenge in crate::auth::challenge::parse(header) {
            let _ = challenge.get("realm");
        }
    }

    /// A `hosts.toml`.
    pub fn hosts_toml(text: &str) {
        let _ = crate::hosts::toml::parse(text);
    }

    /// A `Link` header.
    pub fn link(header: &str) -> Option<&str> {
        crate::list::parse_link(header)
    }

    /// A page of tags.
    pub fn names(bytes: &[u8]) {
        let _ = crate::list::names(bytes, "tags", 1000);
    }

    /// A manifest or index.
    pub fn manifest(bytes: &[u8], content_type: Option<&str>) {
        let _ = crate::manifest::parse(bytes, content_type);
    }
}
