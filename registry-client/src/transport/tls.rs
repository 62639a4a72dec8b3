use std::fmt;
use std::sync::Arc;

/// How to reach one host: trust, client certificate, proxy. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsOptions(Arc<Inner>);

#[derive(Clone, Default, PartialEq, Eq)]
struct Inner {
    roots: Vec<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
    skip_verify: bool,
    proxy: Option<String>,
}

impl TlsOptions {
    /// The transport's default trust, no client certificate, no proxy.
    pub fn new() -> Self {
        Self::default()
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Trusts these PEM certificates (one or more in a file) instead of the built-in ones of Mozilla. May be called several times.
    #[must_use]
    pub fn roots_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        self.change(|t| t.roots.push(pem.into()))
    }

    /// Shows this certificate chain, signed with this key (both PEM).
    #[must_use]
    pub fn client_pem(self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.change(|t| t.client = Some((chain.into(), key.into())))
    }

    /// Accepts every certificate. Then anybody on the way can read and change everything but what a digest protects.
    #[must_use]
    pub fn skip_verify(self) -> Self {
        self.change(|t| t.skip_verify = true)
    }

    /// The same with certificates verified.
    pub(crate) fn verified(self) -> Self {
        if self.0.skip_verify { self.change(|t| t.skip_verify = false) } else { self }
    }

    /// Goes through this proxy: `http://[user:password@]host:port`, `socks5://..` or `socks5h://..`. All but `socks5` look names up by
    /// themselves, so that the rule on addresses ([`Request::addresses`](crate::transport::Request::addresses)) only sees addresses
    /// that stand in the URL itself.
    #[must_use]
    pub fn proxy(self, url: impl Into<String>) -> Self {
        self.change(|t| t.proxy = Some(url.into()))
    }

    /// With the other's roots where there are none of its own.
    pub(crate) fn or_roots_of(self, other: &Self) -> Self {
        if self.0.roots.is_empty() { self.change(|t| t.roots.clone_from(&other.0.roots)) } else { self }
    }

    pub(crate) fn roots(&self) -> &[Vec<u8>] {
        &self.0.roots
    }

    pub(crate) fn client(&self) -> Option<(&[u8], &[u8])> {
        self.0.client.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice()))
    }

    pub(crate) fn is_unverified(&self) -> bool {
        self.0.skip_verify
    }

    /// Whether what the other side is called is looked up by a proxy, so that this side's answer means nothing.
    pub(crate) fn resolves_elsewhere(&self) -> bool {
        let scheme = self.proxy_url().and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
        scheme.is_some_and(|s| !["socks5", "socks"].iter().any(|own| s.eq_ignore_ascii_case(own)))
    }

    pub(crate) fn proxy_url(&self) -> Option<&str> {
        self.0.proxy.as_deref()
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("roots", &self.0.roots.len())
            .field("client", &self.0.client.is_some())
            .field("skip_verify", &self.0.skip_verify)
            .field("proxy", &self.0.proxy.is_some())
            .finish()
    }
}
