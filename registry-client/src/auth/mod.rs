//! Logins: nothing is sent before the registry asks, and then only to it and to token servers of the same owner.

pub(crate) mod challenge;
mod credentials;
pub(crate) mod docker_config;
mod token;

pub use credentials::{Credential, Credentials, StaticCredentials, conformance};
pub use docker_config::DockerConfigFile;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::Inner;
use crate::endpoint::Endpoint;
use crate::transport::Response;
use crate::{CancelToken, Error, Result, Url};
use challenge::Challenge;

/// More scopes than a client ever needs; a token cache must not grow with what registries say.
const TOKENS_MAX: usize = 256;

/// What is known of one host's way to authenticate.
#[derive(Default)]
pub(crate) struct AuthState {
    method: Option<Method>,
    tokens: HashMap<String, Token>,
    /// Asked for once.
    credential: Option<Option<Credential>>,
    /// The newest refresh token, where the token server changes it.
    refreshed: Option<String>,
}

#[derive(Clone)]
enum Method {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

struct Token {
    header: String,
    expires: Instant,
}

/// `repository:NAME:pull`, one or more, sorted: what a request needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes(Vec<String>);

impl Scopes {
    pub(crate) fn repository(name: &str, actions: &str) -> Self {
        Self(vec![format!("repository:{name}:{actions}")])
    }

    pub(crate) fn catalog() -> Self {
        Self(vec!["registry:catalog:*".into()])
    }

    /// The first stays first: some registries read no further.
    pub(crate) fn and_pull(mut self, repository: &str) -> Self {
        let scope = format!("repository:{repository}:pull");
        if !self.0.contains(&scope) {
            self.0.push(scope);
        }
        self
    }

    fn key(&self) -> String {
        self.0.join(" ")
    }
}

impl Inner {
    /// The `Authorization` header for a request, as far as it is known without a challenge.
    pub(crate) fn authorization(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        cancel: &CancelToken,
    ) -> Result<Option<String>> {
        let mut state = endpoint.auth(cancel)?;
        let Some(method) = state.method.clone() else { return Ok(None) };
        self.header(endpoint, &mut state, &method, scopes, cancel)
    }

    /// After a 401: the header to try next, or `None` where nothing better than `used` can be had.
    pub(crate) fn answer(
        &self,
        endpoint: &Endpoint,
        reply: &Response,
        used: Option<&str>,
        scopes: &Scopes,
        cancel: &CancelToken,
    ) -> Result<Option<String>> {
        let challenges: Vec<Challenge> =
            reply.headers.all("www-authenticate").take(8).flat_map(challenge::parse).collect();
        let Some(method) = self.choose(endpoint, &challenges)? else { return Ok(None) };
        let mut state = endpoint.auth(cancel)?;
        state.method = Some(method.clone());
        // Another thread may have fetched a newer one meanwhile.
        let key = scopes.key();
        if let Some(token) = state.tokens.get(&key)
            && Some(token.header.as_str()) == used
        {
            state.tokens.remove(&key);
        }
        let header = self.header(endpoint, &mut state, &method, scopes, cancel)?;
        Ok(header.filter(|h| Some(h.as_str()) != used))
    }

    fn choose(&self, endpoint: &Endpoint, challenges: &[Challenge]) -> Result<Option<Method>> {
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            let realm = bearer
                .get("realm")
                .ok_or_else(|| Error::protocol(endpoint.origin(), "the Bearer challenge lacks a realm"))?;
            // Relative realms do not exist; a URL of another kind (file:, gopher:) ends here.
            let realm = Url::parse(realm)?;
            return Ok(Some(Method::Bearer { realm, service: bearer.get("service").map(str::to_owned) }));
        }
        Ok(challenges.iter().any(|c| c.scheme == "basic").then_some(Method::Basic))
    }

    fn header(
        &self,
        endpoint: &Endpoint,
        state: &mut AuthState,
        method: &Method,
        scopes: &Scopes,
        cancel: &CancelToken,
    ) -> Result<Option<String>> {
        let credential = self.credential(endpoint, state, cancel)?;
        if let Some(Credential::RegistryToken(token)) = &credential {
            return Ok(Some(format!("Bearer {token}")));
        }
        let (realm, service) = match method {
            Method::Basic => return Ok(credential.as_ref().and_then(basic)),
            Method::Bearer { realm, service } => (realm, service.as_deref()),
        };
        let key = scopes.key();
        if let Some(token) = state.tokens.get(&key).filter(|t| t.expires > Instant::now()) {
            return Ok(Some(token.header.clone()));
        }
        let ask = token::Ask {
            realm,
            service,
            scopes: &scopes.0,
            credential,
            refreshed: state.refreshed.as_deref(),
        };
        let got = self.fetch_token(endpoint, &ask, cancel)?;
        if got.refresh.is_some() {
            state.refreshed = got.refresh;
        }
        if state.tokens.len() >= TOKENS_MAX {
            state.tokens.clear();
        }
        let header = format!("Bearer {}", got.token);
        state.tokens.insert(key, Token { header: header.clone(), expires: Instant::now() + got.lifetime });
        Ok(Some(header))
    }

    fn credential(
        &self,
        endpoint: &Endpoint,
        state: &mut AuthState,
        cancel: &CancelToken,
    ) -> Result<Option<Credential>> {
        if let Some(known) = &state.credential {
            return Ok(known.clone());
        }
        let found = match &self.credentials {
            Some(credentials) => {
                let (source, registry) = (Arc::clone(credentials), endpoint.login().to_owned());
                let got = cancel.aside("login", move || source.get(&registry))?;
                got.unwrap_or_else(|| {
                    Err(Error::Auth {
                        registry: endpoint.name().to_owned(),
                        reason: "the source of credentials panicked".into(),
                        source: None,
                    })
                })?
            }
            None => None,
        };
        Ok(state.credential.insert(found).clone())
    }
}

/// `Basic ...`, for a credential that has a password.
fn basic(credential: &Credential) -> Option<String> {
    match credential {
        Credential::Basic { username, password } => {
            Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
        }
        _ => None,
    }
}

/// How long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(10);
