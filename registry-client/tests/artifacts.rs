//! Attached artifacts, deletion, copies, other digests; with docker-registry, which has no referrers API, and one that has.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::fault::{Server, Tame};
use common::{
    Memory, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, have, noise, push, quick,
};
use longshore_registry_client::{Client, Content as _, Ctx, Error, Layout, Platforms, Sink as _};
use oci_spec::image::{Descriptor, Digest};

const SIGNATURE: &str = "application/vnd.example.signature";

fn attached(memory: &Memory, subject: &Descriptor, kind: &str, text: &str) -> Descriptor {
    let empty = memory.add("application/vnd.oci.empty.v1+json", b"{}");
    let layer = memory.add("text/plain", text.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "config": empty, "layers": [layer],
        "subject": subject, "annotations": {"text": text},
    });
    memory.add(OCI_MANIFEST, manifest.to_string().as_bytes())
}

#[test]
fn artifacts_are_listed_by_tag_where_there_is_no_api() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(50, &[100]);
    let reference = registry.reference("app:1");
    push(&client, &reference, &root, &memory);
    assert!(client.referrers(&reference, root.digest(), None).unwrap().is_empty());
    let sign = attached(&memory, &root, SIGNATURE, "one");
    let note = attached(&memory, &root, "application/vnd.example.note", "two");
    for artifact in [&sign, &note, &sign] {
        push(&client, &reference.with_digest(artifact.digest().clone()), artifact, &memory);
    }
    let all = client.referrers(&reference, root.digest(), None).unwrap();
    let digests: Vec<_> = all.iter().map(Descriptor::digest).collect();
    assert_eq!(digests, [sign.digest(), note.digest()]);
    assert_eq!(all[0].annotations().as_ref().unwrap()["text"], "one");
    let signs = client.referrers(&reference, root.digest(), Some(SIGNATURE)).unwrap();
    assert_eq!(signs.len(), 1);
    assert_eq!(signs[0].artifact_type().as_ref().unwrap().as_ref(), SIGNATURE);
}

#[test]
fn the_referrers_api_is_used_where_there_is_one() {
    let memory = Memory::default();
    let root = memory.image(51, &[100]);
    let sign = attached(&memory, &root, SIGNATURE, "one");
    let mut entry = sign.clone();
    entry.set_artifact_type(Some(SIGNATURE.into()));
    let list =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).to_string();
    let tame = Tame::default();
    let server = Server::start(move |seen, conn| {
        if seen.target.contains("/referrers/") {
            assert_eq!(seen.header("accept"), Some(OCI_INDEX));
            // Two pages; the filter is not applied here, which a registry may leave to us.
            let link = format!("<{}?page=2>; rel=\"next\"", seen.path());
            let headers: &[(&str, &str)] =
                if seen.query("page").is_none() { &[("link", &link)] } else { &[] };
            return conn.reply(200, headers, list.as_bytes());
        }
        if seen.method == "PUT" && seen.target.contains("/manifests/") {
            return conn.reply(201, &[("oci-subject", "sha256:x")], b"");
        }
        tame.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    let reference = server.reference("app:1");
    push(&client, &reference.with_digest(sign.digest().clone()), &sign, &memory);
    assert_eq!(server.count("PUT", "/manifests/"), 1, "the registry keeps the list itself");
    assert_eq!(client.referrers(&reference, root.digest(), Some(SIGNATURE)).unwrap().len(), 2);
    assert!(client.referrers(&reference, root.digest(), Some("other")).unwrap().is_empty());
    assert!(
        server.seen().iter().any(|s| s.target.ends_with("?artifactType=application/vnd.example.signature"))
    );
}

#[test]
fn a_fallback_list_that_changes_meanwhile_is_written_again() {
    let memory = Memory::default();
    let root = memory.image(52, &[100]);
    let sign = attached(&memory, &root, SIGNATURE, "one");
    let (tame, tries) = (Tame::default(), AtomicUsize::new(0));
    let server = Server::start(move |seen, conn| {
        let list = seen.target.contains("/manifests/sha256-");
        if list && seen.method == "GET" {
            let body =
                serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
            return conn.reply(200, &[("content-type", OCI_INDEX), ("etag", "\"e\"")], body.as_bytes());
        }
        if list && seen.method == "PUT" {
            assert_eq!(seen.header("if-match"), Some("\"e\""));
            let status = if tries.fetch_add(1, Ordering::Relaxed) < 2 { 412 } else { 201 };
            return conn.reply(status, &[], b"");
        }
        tame.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    push(&client, &server.reference("app").with_digest(sign.digest().clone()), &sign, &memory);
    assert_eq!(server.count("PUT", "/manifests/sha256-"), 3);
}

#[test]
fn tags_manifests_and_blobs_are_deleted() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(53, &[100]);
    let reference = registry.reference("app:1");
    push(&client, &reference, &root, &memory);
    client.tag(&reference, "2").unwrap();
    let mut tags = client.tags(&reference).unwrap();
    tags.sort();
    assert_eq!(tags, ["1", "2"]);
    assert_eq!(client.catalog(&registry.address).unwrap(), ["app"]);

    // One tag alone, which this registry cannot by itself; a client that knows nothing of it yet must not take its 400 for TLS.
    quick().build().unwrap().delete(&reference).unwrap();
    assert!(client.resolve(&reference).unwrap_err().is_not_found());
    let two = registry.reference("app:2");
    assert_eq!(client.resolve(&two).unwrap().digest(), root.digest());
    assert!(client.delete(&registry.reference("app:none")).unwrap_err().is_not_found());

    client.delete(&two.with_digest(root.digest().clone())).unwrap();
    assert!(client.resolve(&two).unwrap_err().is_not_found());
    let layer = descriptor(OCI_LAYER, &noise(53_001, 100));
    let source = client.source(&two).unwrap();
    assert_eq!(source.stat(layer.digest()).unwrap().size(), 100);
    client.delete_blob(&two, layer.digest()).unwrap();
    assert!(source.stat(layer.digest()).unwrap_err().is_not_found());
    assert!(matches!(client.search(&registry.address, "x"), Err(Error::Unsupported { .. })));
}

#[test]
fn copies_stream_between_registries_and_mount_within_one() {
    if !have("docker-registry") {
        return;
    }
    let (a, b) = (Registry::start(), Registry::start());
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let (one, two) = (memory.image(54, &[3_000_000, 10]), memory.image(55, &[2_000_000]));
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [one, two]});
    let index = memory.add(OCI_INDEX, index.to_string().as_bytes());
    push(&client, &a.reference("x/app:1"), &index, &memory);
    let fresh = || quick().build().unwrap();
    let across = fresh().copy(&a.reference("x/app:1"), &b.reference("y/app:1"), Ctx::none()).unwrap();
    assert_eq!((across.sent, across.reused), (5, 0));
    assert_eq!(fresh().resolve(&b.reference("y/app:1")).unwrap().digest(), index.digest());
    let within = fresh().copy(&b.reference("y/app:1"), &b.reference("z/app:1"), Ctx::none()).unwrap();
    assert_eq!((within.sent, within.reused), (0, 5));

    // And all platforms of it into a directory that is then pushed from.
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let pulled = fresh().pull(&b.reference("z/app:1"), &Platforms::All, &layout, Ctx::none()).unwrap();
    assert_eq!(pulled.fetched, 5);
    let again = fresh().pull(&b.reference("z/app:1"), &Platforms::All, &layout, Ctx::none()).unwrap();
    assert_eq!((again.fetched, again.reused), (0, 5));
    layout.set("app", &pulled.root).unwrap();
    let c = Registry::start();
    assert_eq!(push(&fresh(), &c.reference("w:1"), &pulled.root, &layout).sent, 5);
}

#[test]
fn sha512_is_verified_too() {
    let bytes = noise(60, 200_000);
    let hash = ring::digest::digest(&ring::digest::SHA512, &bytes);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let digest: Digest = format!("sha512:{hex}").parse().unwrap();
    let flip = Arc::new(Mutex::new(false));
    let (content, wrong) = (bytes.clone(), Arc::clone(&flip));
    let server = Server::start(move |_, conn| {
        let mut content = content.clone();
        content[7] ^= u8::from(*wrong.lock().unwrap());
        conn.reply(200, &[], &content);
    });
    let layer = Descriptor::new(OCI_LAYER.into(), bytes.len() as u64, digest);
    let client: Client = quick().build().unwrap();
    let source = client.source(&server.reference("x")).unwrap();
    assert_eq!(common::read_all(&source, &layer).unwrap(), bytes);
    *flip.lock().unwrap() = true;
    assert!(common::read_all(&source, &layer).unwrap_err().contains("sha512:"));

    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    layout.put(&layer, &mut bytes.as_slice()).unwrap();
    assert!(layout.has(&layer).unwrap() && layout.open(&layer).is_ok());
}

#[test]
fn warnings_are_passed_on_once() {
    let tame = Tame::default();
    let root = tame.memory.image(61, &[10]);
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    let server = Server::start(move |_, conn| {
        let long = format!("299 - \"{}\"", "x".repeat(5000));
        conn.reply(
            200,
            &[("warning", "299 - \"say \\\"no\\\"\""), ("warning", &long), ("warning", "110 - \"stale\"")],
            b"{\"tags\":[]}",
        );
    });
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&heard);
    let client = quick().warnings(move |_, text| sink.lock().unwrap().push(text.to_owned())).build().unwrap();
    for _ in 0..3 {
        client.tags(&server.reference("x")).unwrap();
    }
    assert_eq!(*heard.lock().unwrap(), ["say \"no\""]);
}

#[test]
fn foreign_layers_are_left_out() {
    let server = {
        let tame = Tame::default();
        Server::start(move |seen, conn| tame.answer(seen, conn))
    };
    let memory = Memory::default();
    let config = memory.add(OCI_CONFIG, b"{}");
    let foreign = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"elsewhere");
    let own = memory.add(OCI_LAYER, b"own");
    let root = memory.manifest(&config, &[foreign, own]);
    let client = quick().build().unwrap();
    let pushed = push(&client, &server.reference("w:1"), &root, &memory);
    assert_eq!((pushed.sent, pushed.skipped), (2, 1));
    let dir = tempfile::tempdir().unwrap();
    let pulled = client
        .pull(&server.reference("w:1"), &Platforms::Host, &Layout::open(dir.path()).unwrap(), Ctx::none())
        .unwrap();
    assert_eq!((pulled.fetched, pulled.skipped), (2, 1));
}
