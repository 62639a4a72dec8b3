//! Files of certificates and keys, looked into when they are read, so that an error names the one at fault.

use std::path::Path;

use super::{bad, read};
use crate::transport::{check_certificates, check_client_certificate, check_key, check_pair};
use crate::{Error, Result};

/// A certificate chain and its key, both PEM.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Roots to trust.
pub(crate) fn roots(path: &Path) -> Result<Vec<u8>> {
    let pem = load(path)?;
    check_certificates(&pem).map_err(|e| wrong(path, "it cannot be used as certificates", e))?;
    Ok(pem)
}

/// A client's certificate and key, which may be in one file.
pub(super) fn client(chain: &Path, key: &Path) -> Result<Pair> {
    let (chain_pem, key_pem) = (load(chain)?, load(key)?);
    check_certificates(&chain_pem).map_err(|e| wrong(chain, "it cannot be used as certificates", e))?;
    check_client_certificate(&chain_pem).map_err(|e| {
        wrong(chain, "it cannot be used as a client's certificate, which has to be of X.509 version 3", e)
    })?;
    check_key(&key_pem).map_err(|e| wrong(key, "it cannot be used as a private key", e))?;
    check_pair(&chain_pem, &key_pem)
        .map_err(|e| wrong(key, &format!("it is not the key of {}", chain.display()), e))?;
    Ok((chain_pem, key_pem))
}

fn load(path: &Path) -> Result<Vec<u8>> {
    read(path)?.ok_or_else(|| bad(path, "it is missing"))
}

fn wrong(path: &Path, reason: &str, source: crate::TransportError) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_owned(), source: source.source }
}

/// Made for these tests.
#[cfg(test)]
pub(super) mod samples {
    pub(in crate::hosts) const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBbTCCAROgAwIBAgIUDohWJ9ZPzOBHsHrsnHIX30jYu/wwCgYIKoZIzj0EAwIw\n\
DDEKMAgGA1UEAwwBeDAeFw0yNjExMjIwMjAwNTFaFw0yNjExMjQwMjAwNTFaMAwx\n\
CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQcbBc9Y/mplqv0\n\
MMdmTApUbNaVgKIpxT6S5ZZLGlXEDBP9yjOoFaLzjjL0ILFJyc7nmgqiDNkmYHqY\n\
2gYtOA5Ko1MwUTAdBgNVHQ4EFgQUHu5DZXXpEbOLOp/ExKUfutR/PfowHwYDVR0j\n\
BBgwFoAUHu5DZXXpEbOLOp/ExKUfutR/PfowDwYDVR0TAQH/BAUwAwEB/zAKBggq\n\
hkjOPQQDAgNIADBFAiEAgm4Ad5OERbSRhaZG6sKa70si4hleHxVUQxppEDwymioC\n\
IH1fvyTFeNseIATuqnm8RoulPup78B4BJpyMkRnxaIWi\n\
-----END CERTIFICATE-----\n";
    pub(in crate::hosts) const KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/Uzl6v+2EXArUqM0\n\
SaAhhNhljALPDJLL+NNZkniqZLehRANCAAQcbBc9Y/mplqv0MMdmTApUbNaVgKIp\n\
xT6S5ZZLGlXEDBP9yjOoFaLzjjL0ILFJyc7nmgqiDNkmYHqY2gYtOA5K\n\
-----END PRIVATE KEY-----\n";
    pub(in crate::hosts) const OTHER_KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg41dF/7N7+N/LPFlZ\n\
f8QWVbV6EjkSvzRDu4JT/R5KTLyhRANCAASY4JozM/Oo4sesc8OyLUbEffda1t2d\n\
eaZTYLIO+ZHsP26ZAKWtXGbC3o+ZIQK/LaTZfUFrdgeTqZZY2FP3xLXZ\n\
-----END PRIVATE KEY-----\n";
    /// Of X.509 version 1: what `openssl x509 -req` makes if it is not told of extensions.
    pub(in crate::hosts) const OLD_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBETCBuQIUcNmMyNFFK1615aaN+A+1OVS7RUQwCgYIKoZIzj0EAwIwDDEKMAgG\n\
A1UEAwwBeDAeFw0yNjExMjIwMzQ4MjlaFw0zNjExMTkwMzQ4MjlaMAwxCjAIBgNV\n\
BAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASsrfJdg9tUj04ARZ2UvKlg\n\
1d+BpV/74WcAoRvNoWOqLor7gz1uaK16ChleDZuMU0snTxRvuzDDBqpVydJs4Iox\n\
MAoGCCqGSM49BAMCA0cAMEQCICT5GV2z+6bH9DERy5N//iDngxoNAh5n6zVFre1N\n\
MA3fAiB67VYsLLhG4Sechn6rPbBcMck5lce+Un8Mijmm4dRfAA==\n\
-----END CERTIFICATE-----\n";
}
