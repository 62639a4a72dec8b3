//! The crate's own implementations against its conformance checks.

use std::time::Duration;

use longshore_registry_client::credentials_conformance::exact_hosts_only;
use longshore_registry_client::transport::{Body, Request, Response, conformance};
use longshore_registry_client::{
    Credential, Credentials, DockerConfigFile, StaticCredentials, Timeouts, Transport, TransportError,
    UreqTransport,
};

fn short() -> UreqTransport {
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_millis(300);
    timeouts.response = Duration::from_millis(600);
    UreqTransport::new(timeouts)
}

#[test]
fn ureq_conforms() {
    conformance::all(&short()).unwrap();
}

/// As a caller would wrap it.
struct Wrapped(UreqTransport);

impl Transport for Wrapped {
    fn send(&self, request: &Request<'_>, body: Body<'_>) -> Result<Response, TransportError> {
        self.0.send(request, body)
    }
}

#[test]
fn wrappers_conform() {
    conformance::all(&Box::new(Wrapped(short()))).unwrap();
}

#[test]
fn credentials_conform() {
    let secret = Credential::basic("user", "very s3cret");
    let fixed = StaticCredentials::new().with("reg.example:5000", secret.clone());
    exact_hosts_only(&fixed, "reg.example:5000", &secret).unwrap();
    let several: Vec<Box<dyn Credentials>> = vec![Box::new(StaticCredentials::new()), Box::new(fixed)];
    exact_hosts_only(&several, "reg.example:5000", &secret).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for registry in ["reg.example:5000", "docker.io", "reg.example"] {
        DockerConfigFile::login(&path, registry, &secret).unwrap();
        exact_hosts_only(&DockerConfigFile::open(&path).unwrap(), registry, &secret).unwrap();
        DockerConfigFile::logout(&path, registry).unwrap();
    }
}
