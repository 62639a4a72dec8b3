//! Hashing. `ring` is in the tree for TLS already, so its digests come for free.

use std::fmt::Write as _;

use oci_spec::image::{Digest, DigestAlgorithm};
use ring::digest::{Context, SHA256, SHA384, SHA512};

use crate::{Error, Result};

/// Hashes content as it streams.
#[derive(Clone)]
pub(crate) struct Hasher {
    algorithm: DigestAlgorithm,
    context: Context,
}

impl Hasher {
    /// For the algorithm of `like`; an unknown one cannot be verified and is an error.
    pub(crate) fn like(like: &Digest) -> Result<Self> {
        let (algorithm, ring) = match like.algorithm() {
            DigestAlgorithm::Sha256 => (DigestAlgorithm::Sha256, &SHA256),
            DigestAlgorithm::Sha384 => (DigestAlgorithm::Sha384, &SHA384),
            DigestAlgorithm::Sha512 => (DigestAlgorithm::Sha512, &SHA512),
            _ => {
                return Err(Error::Digest {
                    value: like.to_string(),
                    reason: "unknown algorithm; sha256, sha384 and sha512 can be verified".into(),
                });
            }
        };
        Ok(Self { algorithm, context: Context::new(ring) })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        digest(&self.algorithm, self.context.finish().as_ref())
    }
}

/// The SHA-256 digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    digest(&DigestAlgorithm::Sha256, ring::digest::digest(&SHA256, bytes).as_ref())
}

/// The digest of `bytes` by the algorithm of `like`.
pub(crate) fn of(bytes: &[u8], like: &Digest) -> Result<Digest> {
    let mut hasher = Hasher::like(like)?;
    hasher.update(bytes);
    Ok(hasher.finish())
}

fn digest(algorithm: &DigestAlgorithm, hash: &[u8]) -> Digest {
    let mut text = algorithm.to_string();
    text.push(':');
    for byte in hash {
        let _ = write!(text, "{byte:02x}");
    }
    text.try_into().expect("a hash printed in hexadecimal is a digest")
}

/// Parses a digest that this crate can verify.
pub(crate) fn parse(text: &str) -> Result<Digest> {
    let digest: Digest = text.try_into().map_err(|e: oci_spec::OciSpecError| Error::Digest {
        value: clip(text),
        reason: clip(&e.to_string()),
    })?;
    Hasher::like(&digest).map(|_| digest)
}

/// Foreign text for a message: bounded, without control characters.
pub(crate) fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}
