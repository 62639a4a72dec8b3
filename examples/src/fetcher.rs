use std::time::Duration;

use longshore_build::{BoxError, Fetched, Fetcher};
use longshore_image::Ctx;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// `ADD` of addresses: `http` and `https`, by the caller's proxies, following redirects.
#[derive(Debug)]
pub struct HttpFetcher {
    agent: ureq::Agent,
}

impl HttpFetcher {
    /// With the proxies that the environment names.
    pub fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build();
        Self { agent: config.new_agent() }
    }
}

impl Default for HttpFetcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Fetcher for HttpFetcher {
    fn fetch(&self, url: &str, _: Ctx<'_>) -> Result<Fetched, BoxError> {
        let response = self.agent.get(url).call()?;
        let modified = response
            .headers()
            .get("last-modified")
            .and_then(|value| jiff::fmt::rfc2822::parse(value.to_str().ok()?).ok())
            .map(|time| time.timestamp().as_second());
        let fetched = Fetched::new(response.into_body().into_reader());
        Ok(match modified {
            Some(seconds) => fetched.modified(seconds),
            None => fetched,
        })
    }
}
