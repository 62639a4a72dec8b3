//! Token servers: the distribution project's token and OAuth2 protocols.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;

use super::{Credential, MARGIN, basic};
use crate::client::Inner;
use crate::ctx::in_time;
use crate::endpoint::Endpoint;
use crate::error::Purpose;
use crate::exchange::{read_capped, status_error};
use crate::transport::{Body, Headers, Method, Request, Response};
use crate::{CancelToken, Error, Result, Url};

const REPLY_MAX: u64 = 64 * 1024;
/// By the protocol, also for a reply that says less.
const LIFETIME_MIN: f64 = 60.0;
const LIFETIME_MAX: f64 = 24.0 * 3600.0;

pub(super) struct Ask<'a> {
    pub(super) realm: &'a Url,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: &'a [String],
    pub(super) credential: Option<Credential>,
    pub(super) refreshed: Option<&'a str>,
}

pub(super) struct Got {
    pub(super) token: String,
    pub(super) lifetime: Duration,
    pub(super) refresh: Option<String>,
}

#[derive(Deserialize)]
struct Reply {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl Inner {
    pub(super) fn fetch_token(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        cancel: &CancelToken,
    ) -> Result<Got> {
        let api = endpoint.origin();
        let addresses = self.check_url(endpoint, ask.realm, Purpose::Realm, cancel)?;
        let trusted = self.policy.trusts_realm(endpoint.name(), &api, ask.realm);
        let withheld = ask.credential.is_some() && !trusted;
        // Without scopes the question is whether the login is right, which a token for nobody does not answer.
        if withheld && ask.scopes.is_empty() {
            return Err(refused(endpoint, ask.realm, &why(ask, 401, withheld), None));
        }
        let credential = ask.credential.as_ref().filter(|_| trusted);

        let mut headers = Headers::new().with("accept", "application/json");
        let (method, url, body) = match credential {
            Some(Credential::IdentityToken(token)) => {
                headers.push("content-type", "application/x-www-form-urlencoded");
                (Method::Post, ask.realm.clone(), Some(form(ask, ask.refreshed.unwrap_or(token))))
            }
            other => {
                if let Some(value) = other.and_then(basic) {
                    headers.push("authorization", value);
                }
                (Method::Get, query(ask, other.is_some()), None)
            }
        };
        // The registry's own roots serve its token server too; its client certificate only where the owner is the same.
        let tls = self.tls_for(endpoint, &url, trusted);
        let (mut attempt, until) = (0, in_time(self.limits.patience));
        loop {
            attempt += 1;
            let mut request = Request::new(method, &url, &headers, cancel);
            request.addresses = addresses;
            request.tls = tls.as_ref();
            let body = body.clone().map_or(Body::Empty, Body::Bytes);
            let sent = self.transport.send(&request, body);
            if let Some(pause) = self.retry_pause(&sent, attempt, endpoint.is_proven()) {
                cancel.sleep(pause)?;
                continue;
            }
            let reply = sent.map_err(|e| Error::from_transport(method, &url, attempt, e))?;
            match reply.status {
                200..=299 => match parse(reply, &url, self.limits.patience) {
                    // It broke in the middle.
                    Err(e) if e.is_retryable() && attempt < self.retry.attempts && Instant::now() < until => {
                        cancel.sleep(self.backoff(attempt))?;
                    }
                    // Only what our own refresh token was changed into may take its place.
                    Ok(got) if !matches!(credential, Some(Credential::IdentityToken(_))) => {
                        return Ok(Got { refresh: None, ..got });
                    }
                    done => return done,
                },
                // A redirect would carry the credential, or the registry's wish, to where nobody checked.
                300..=399 => {
                    let reason = "it redirects, and redirects of a token server are not followed";
                    return Err(refused(endpoint, &url, reason, None));
                }
                status => {
                    let reason = why(ask, status, withheld);
                    let source = status_error(method, &url, reply, attempt, self.error_patience());
                    return Err(refused(endpoint, &url, &reason, Some(source)));
                }
            }
        }
    }
}

/// What a token server's status means.
fn why(ask: &Ask<'_>, status: u16, withheld: bool) -> String {
    match (status, withheld) {
        (400..=499, true) => format!(
            "the login was withheld from the token server {}, which is not known to belong to the registry",
            ask.realm.origin()
        ),
        (401 | 403, _) if ask.credential.is_none() => "a login is needed".to_owned(),
        (401 | 403, _) => "the user name or password is wrong".to_owned(),
        _ => "the token server failed".to_owned(),
    }
}

fn refused(endpoint: &Endpoint, url: &Url, reason: &str, source: Option<Error>) -> Error {
    Error::Auth {
        registry: endpoint.name().to_owned(),
        reason: format!("{reason} ({})", url.origin()),
        source: source.map(Into::into),
    }
}

fn query(ask: &Ask<'_>, with_account: bool) -> Url {
    let mut url = ask.realm.clone();
    if let Some(service) = ask.service {
        url = url.with_query("service", service);
    }
    for scope in ask.scopes {
        url = url.with_query("scope", scope);
    }
    match &ask.credential {
        Some(Credential::Basic { username, .. }) if with_account => url.with_query("account", username),
        _ => url,
    }
}

fn form(ask: &Ask<'_>, refresh_token: &str) -> Bytes {
    let mut body = String::from("grant_type=refresh_token&client_id=longshore");
    let mut add = |key: &str, value: &str| {
        body.push('&');
        body.push_str(key);
        body.push('=');
        crate::url::encode(value, &mut body);
    };
    add("service", ask.service.unwrap_or_default());
    add("scope", &ask.scopes.join(" "));
    add("refresh_token", refresh_token);
    body.into()
}

fn parse(reply: Response, url: &Url, patience: Duration) -> Result<Got> {
    let body = read_capped(reply, REPLY_MAX, patience, "the token server's reply", url)?;
    let reply: Reply = serde_json::from_slice(&body)
        .map_err(|_| Error::protocol(url, "the token server's reply is not what it should be"))?;
    let token = [reply.token, reply.access_token].into_iter().flatten().find(|t| !t.is_empty());
    let token = token.ok_or_else(|| Error::protocol(url, "the token server's reply has no token"))?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::protocol(url, "the token has characters that no header may have"));
    }
    // Some say it in fractions, or below zero where they do not know.
    let seconds = reply.expires_in.and_then(|v| v.as_f64()).unwrap_or(LIFETIME_MIN);
    let lifetime = Duration::from_secs_f64(seconds.clamp(LIFETIME_MIN, LIFETIME_MAX));
    Ok(Got { token, lifetime: lifetime - MARGIN, refresh: reply.refresh_token })
}
