//! Logins and lists where others are near: servers that stand in for many, writers at the same time.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::fault::{Server, Tame};
use common::{Memory, OCI_MANIFEST, push, quick};
use longshore_registry_client::{Credential, HostsDir, StaticCredentials};
use oci_spec::image::Descriptor;

#[test]
fn a_server_for_all_registries_gets_nobodys_login() {
    let server = Server::start(|seen, conn| match seen.header("authorization") {
        Some(_) => conn.reply(200, &[], br#"{"tags":["a"]}"#),
        None => conn.reply(401, &[("www-authenticate", "Basic realm=\"x\"")], b""),
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("_default")).unwrap();
    let text = format!("server = \"{}\"\n", server.url());
    std::fs::write(dir.path().join("_default/hosts.toml"), text).unwrap();
    let hub = StaticCredentials::new().with("docker.io", Credential::basic("user", "s3cret"));
    let client = |logins| quick().hosts(HostsDir::new([dir.path()])).credentials(logins).build().unwrap();
    assert!(client(hub.clone()).tags(&"debian".parse().unwrap()).unwrap_err().is_auth());
    server.saw_no_secret();
    // Its own login it does get.
    let own = hub.with(&server.address.to_string(), Credential::basic("own", "p"));
    assert_eq!(client(own).tags(&"debian".parse().unwrap()).unwrap(), ["a"]);
}

fn attached(memory: &Memory, subject: &Descriptor, i: usize) -> Descriptor {
    let config = memory.add("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "a/b", "config": config, "layers": [config],
        "subject": subject, "annotations": {"i": i.to_string()},
    });
    memory.add(OCI_MANIFEST, manifest.to_string().as_bytes())
}

#[test]
fn artifacts_attached_at_once_are_all_listed() {
    let tame = Arc::new(Tame::default());
    let registry = Arc::clone(&tame);
    let server = Server::start(move |seen, conn| {
        if seen.path().contains("/manifests/sha256-") {
            std::thread::sleep(Duration::from_millis(20));
        }
        registry.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(6, &[100]);
    push(&client, &server.reference("x"), &root, &memory);
    let tag = root.digest().to_string().replace(':', "-");
    let list = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"of":"the list"}}"#;
    tame.tags.lock().unwrap().insert(tag.clone(), list.to_vec());
    let roots: Vec<Descriptor> = (0..4).map(|i| attached(&memory, &root, i)).collect();
    std::thread::scope(|scope| {
        for artifact in &roots {
            let target = server.reference("x").with_digest(artifact.digest().clone());
            let (client, memory) = (&client, &memory);
            scope.spawn(move || push(client, &target, artifact, memory));
        }
    });
    assert_eq!(client.referrers(&server.reference("x"), root.digest(), None).unwrap().len(), 4);
    let kept = String::from_utf8(tame.tags.lock().unwrap()[&tag].clone()).unwrap();
    assert!(kept.contains("the list"), "{kept}");
}
