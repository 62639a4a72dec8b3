//! Against Debian's docker-registry, with skopeo as the second opinion.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::process::Command;

use common::{Memory, OCI_INDEX, Registry, have, push, quick, read_all};
use longshore_registry_client::Error;

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").args(args).output().unwrap();
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_pushed_comes_back() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(1, &[300_000, 20, 5_000_000]);
    let reference = registry.reference("a/b:v1");

    let pushed = push(&client, &reference, &root, &memory);
    assert_eq!((pushed.sent, pushed.reused), (4, 0));

    let found = client.resolve(&reference).unwrap();
    assert_eq!((found.digest(), found.size()), (root.digest(), root.size()));
    let fresh = quick().build().unwrap();
    let (descriptor, bytes) = fresh.manifest(&reference).unwrap();
    assert_eq!(descriptor.digest(), root.digest());
    assert_eq!(Some(bytes.to_vec()), memory.get(root.digest()));

    let source = fresh.source(&reference).unwrap();
    let manifest: oci_spec::image::ImageManifest = serde_json::from_slice(&bytes).unwrap();
    for blob in manifest.layers().iter().chain([manifest.config()]) {
        assert_eq!(Some(read_all(&source, blob).unwrap()), memory.get(blob.digest()));
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut source.open(blob, 7).unwrap(), &mut rest).unwrap();
        assert_eq!(rest, memory.get(blob.digest()).unwrap()[7..]);
    }
    assert!(client.resolve(&registry.reference("a/b:v2")).unwrap_err().is_not_found());
}

#[test]
fn skopeo_reads_what_we_push_and_we_what_it_pushes() {
    if !have("docker-registry") || !have("skopeo") {
        return;
    }
    let registry = Registry::start();
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(2, &[100_000]);
    push(&client, &registry.reference("ours:1"), &root, &memory);
    let from = format!("docker://{}/ours:1", registry.address);
    let to = format!("docker://{}/theirs:1", registry.address);
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &from]);
    assert_eq!(Some(raw.into_bytes()), memory.get(root.digest()));
    skopeo(&["copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
    let (theirs, _) = client.manifest(&registry.reference("theirs:1")).unwrap();
    assert_eq!(theirs.digest(), root.digest());
}

#[test]
fn an_index_goes_with_its_children() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let (a, b) = (memory.image(3, &[1000]), memory.image(4, &[2000, 1000]));
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [a, b]});
    let index = memory.add(OCI_INDEX, index.to_string().as_bytes());
    let pushed = push(&client, &registry.reference("multi:1"), &index, &memory);
    assert_eq!(pushed.sent, 5);
    let (found, _) = client.manifest(&registry.reference("multi:1")).unwrap();
    assert_eq!(found.digest(), index.digest());
    let again = push(&client, &registry.reference("multi:1"), &index, &memory);
    assert_eq!(again.sent, 0);

    // Without one of the children at hand, the registry's own does.
    memory.0.lock().unwrap().remove(b.digest());
    let other = quick().build().unwrap();
    push(&other, &registry.reference("multi:2"), &index, &memory);
    let error = other.push(
        &registry.reference("elsewhere:1"),
        &index,
        &memory,
        longshore_registry_client::Ctx::none(),
    );
    assert!(matches!(error, Err(Error::Content { .. })), "{error:?}");
}

#[test]
fn requests_are_counted() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let memory = Memory::default();
    let root = memory.image(5, &[20_000; 100]);
    let reference = registry.reference("many:1");
    let spent = |work: &dyn Fn()| {
        let before = registry.requests();
        work();
        registry.requests() - before
    };
    let fresh = || quick().build().unwrap();
    let fresh_push = spent(&|| drop(push(&fresh(), &reference, &root, &memory)));
    let re_push = spent(&|| drop(push(&fresh(), &reference, &root, &memory)));
    let re_tag = spent(&|| drop(push(&fresh(), &registry.reference("many:2"), &root, &memory)));
    let re_pull = spent(&|| drop(fresh().resolve(&reference)));
    let mounts = spent(&|| {
        let client = fresh();
        let source = client.source(&reference).unwrap();
        let (_, bytes) = client.manifest(&reference).unwrap();
        let manifest: oci_spec::image::ImageManifest = serde_json::from_slice(&bytes).unwrap();
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            read_all(&source, blob).unwrap();
        }
        let pushed = push(&client, &registry.reference("mounted:1"), &root, &memory);
        assert_eq!(pushed.sent, 0);
    });
    assert_eq!((fresh_push, re_push, re_tag, re_pull), (203, 2, 4, 1));
    assert_eq!(
        mounts,
        102 + 102 + 2,
        "pull: manifest and blobs; push: a mount each, two questions... and the manifest"
    );
}
