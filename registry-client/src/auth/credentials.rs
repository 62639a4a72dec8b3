use std::fmt;

use crate::Result;

/// Where user names and secrets come from, per registry host.
///
/// Asked at most once per registry and [`Client`](crate::Client), and only after the registry demanded a login.
/// An implementation must answer for the exact host only: a credential of one registry never goes to another.
pub trait Credentials: Send + Sync {
    /// The credential for this registry (`docker.io`, `127.0.0.1:5000`), or `None` for anonymous.
    fn get(&self, registry: &str) -> Result<Option<Credential>>;
}

impl<T: Credentials + ?Sized> Credentials for std::sync::Arc<T> {
    fn get(&self, registry: &str) -> Result<Option<Credential>> {
        (**self).get(registry)
    }
}

impl<T: Credentials + ?Sized> Credentials for Box<T> {
    fn get(&self, registry: &str) -> Result<Option<Credential>> {
        (**self).get(registry)
    }
}

/// A credential. Its `Debug` redacts.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// User and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
    /// A bearer token to show to the registry as it is.
    RegistryToken(String),
}

impl Credential {
    /// User and password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic { username: username.into(), password: password.into() }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => {
                f.debug_struct("Basic").field("username", username).finish_non_exhaustive()
            }
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(..)"),
        }
    }
}

/// Credentials that the caller holds in memory.
#[derive(Clone, Debug, Default)]
pub struct StaticCredentials(Vec<(String, Credential)>);

impl StaticCredentials {
    /// None yet: everything is anonymous.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the credential of one registry (`docker.io`, `127.0.0.1:5000`).
    #[must_use]
    pub fn with(mut self, registry: &str, credential: Credential) -> Self {
        self.0.push((registry.to_owned(), credential));
        self
    }
}

impl Credentials for StaticCredentials {
    fn get(&self, registry: &str) -> Result<Option<Credential>> {
        Ok(self.0.iter().find(|(host, _)| host == registry).map(|(_, c)| c.clone()))
    }
}

/// Asks several sources in turn.
impl Credentials for Vec<Box<dyn Credentials>> {
    fn get(&self, registry: &str) -> Result<Option<Credential>> {
        for source in self {
            if let Some(found) = source.get(registry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Checks of [`Credentials`] that any implementation can run in its tests.
pub mod conformance {
    use super::{Credential, Credentials};

    /// `registry` has this credential, and nobody whose name only resembles it gets it. The error says which rule was broken.
    pub fn exact_hosts_only(
        credentials: &dyn Credentials,
        registry: &str,
        expected: &Credential,
    ) -> Result<(), String> {
        let get = |name: &str| credentials.get(name).map_err(|e| format!("{name}: {e}"));
        for _ in 0..2 {
            if get(registry)?.as_ref() != Some(expected) {
                return Err(format!("{registry} does not get its credential"));
            }
        }
        let host = registry.split(':').next().unwrap_or(registry);
        let strangers = [
            format!("evil.{registry}"),
            format!("{host}.evil"),
            format!("{host}:1"),
            format!("evil{registry}"),
            format!("{registry}@evil"),
            String::new(),
        ];
        for stranger in strangers.iter().filter(|s| *s != registry) {
            if get(stranger).ok().flatten().as_ref() == Some(expected) {
                return Err(format!("{stranger} gets the credential of {registry}"));
            }
        }
        let shown = format!("{expected:?}");
        let secret = match expected {
            Credential::Basic { password, .. } => password,
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => token,
        };
        if !secret.is_empty() && shown.contains(secret.as_str()) {
            Err("it shows its secret".into())
        } else {
            Ok(())
        }
    }
}
