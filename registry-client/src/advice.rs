//! What may help where TLS fails: the error itself only says that it did.

use std::error::Error;
use std::fmt;

use crate::error::{BoxError, with_causes};
use crate::{TransportError, TransportErrorKind};

/// Adds to a failure of TLS where the certificate belongs that it failed for, in the words of [`HostsDir`](crate::HostsDir).
pub(crate) fn advise(registry: &str, mut error: TransportError) -> TransportError {
    if error.kind == TransportErrorKind::Tls
        && let Some(source) = error.source.take()
    {
        error.source = Some(match advice(registry, &*source) {
            Some(advice) => Box::new(Advised { source, advice }),
            None => source,
        });
    }
    error
}

/// Whether the other side refused by TLS's own means: so it does speak it.
pub(crate) fn is_alert(error: &TransportError) -> bool {
    error.kind == TransportErrorKind::Tls
        && error.source.as_deref().is_some_and(|e| with_causes(e).contains("fatal alert"))
}

fn advice(registry: &str, error: &(dyn Error + 'static)) -> Option<String> {
    // The types are those of TLS, which are not ours to know: their text has to do.
    let said = with_causes(error);
    let directory = format!("certs.d/{registry}");
    // Another certificate of the same name as the trusted one has a signature that is not by it.
    if said.contains("UnknownIssuer") || said.contains("BadSignature") {
        return Some(format!(
            "trust its authority by {directory}/ca.crt, or by 'ca' in {directory}/hosts.toml"
        ));
    }
    if said.contains("CaUsedAsEndEntity") {
        return Some(format!(
            "the server's certificate says that it is an authority's: make it with basicConstraints CA:FALSE, or let an authority \
             sign it whose own certificate is {directory}/ca.crt"
        ));
    }
    if said.contains("InvalidContentType") {
        return Some(format!(
            "the registry seems to speak plain HTTP: if it may, by 'server = \"http://{registry}\"' in {directory}/hosts.toml"
        ));
    }
    // Alerts come from the other side, which does not like what it was shown.
    let refused =
        ["BadCertificate", "CertificateRequired", "CertificateUnknown", "UnknownCA", "AccessDenied"];
    (said.contains("fatal alert") && refused.iter().any(|r| said.contains(r))).then(|| {
        format!(
            "the registry wants a client certificate, or another one: {directory}/client.cert and client.key, or 'client' in \
             {directory}/hosts.toml"
        )
    })
}

#[derive(Debug)]
struct Advised {
    source: BoxError,
    advice: String,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.source, self.advice)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // What it wraps is shown already.
        self.source.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_file() {
        let shown = |kind, text: &str| {
            advise("h:5", TransportError::new(kind, text.to_owned())).source.unwrap().to_string()
        };
        for (said, file) in [
            ("invalid peer certificate: UnknownIssuer", "certs.d/h:5/ca.crt"),
            ("invalid peer certificate: CaUsedAsEndEntity", "CA:FALSE"),
            ("received corrupt message of type InvalidContentType", "http://h:5"),
            ("received fatal alert: BadCertificate", "certs.d/h:5/client.cert"),
            ("received fatal alert: CertificateRequired", "certs.d/h:5/client.cert"),
        ] {
            let shown = shown(TransportErrorKind::Tls, said);
            assert!(shown.starts_with(said) && shown.contains(file), "{shown}");
        }
        let version = "received fatal alert: ProtocolVersion";
        assert_eq!(shown(TransportErrorKind::Tls, version), version);
        assert_eq!(shown(TransportErrorKind::Broken, "UnknownIssuer"), "UnknownIssuer");
    }
}
