//! Blocking OCI distribution client.
#![forbid(unsafe_code)]

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
pub use hosts::{Host, HostConfig, Hosts, HostsDir};
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

    /// A manifest or index.
    pub fn manifest(bytes: &[u8], content_type: Option<&str>) {
        let _ = crate::manifest::parse(bytes, content_type);
    }
}
