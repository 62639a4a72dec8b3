//! Blocking OCI distribution client.
#![forbid(unsafe_code)]

mod auth;
mod client;
mod ctx;
mod digest;
mod endpoint;
mod error;
mod exchange;
mod hosts;
mod httpdate;
mod manifest;
mod parallel;
mod policy;
mod push;
mod reader;
mod reference;
mod source;
pub mod transport;
mod upload;
mod url;

pub use auth::{Credential, Credentials, DockerConfigFile, StaticCredentials};
pub use client::{Client, ClientBuilder, Limits, Retry};
pub use ctx::{CancelToken, Ctx, Event};
pub use error::{ApiError, BoxError, Error, Purpose, Result};
pub use hosts::{Host, HostConfig, Hosts};
pub use push::{Content, Pushed};
pub use reference::Reference;
pub use source::Source;
pub use transport::{Timeouts, TlsOptions, Transport, TransportError, TransportErrorKind, UreqTransport};
pub use url::{Origin, Scheme, Url};
