//! Attached artifacts, deletion, copies, other digests; with docker-registry, which has no referrers API, and one that has.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fault::{Server, Tame};
use common::{
    Memory, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, have, noise, push, quick,
};
use longshore_registry_client::{
    CancelToken, Client, Content as _, Ctx, Error, Layout, Limits, Platforms, Sink as _,
};
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
fn a_deleted_artifact_leaves_the_list() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let client = quick().build().unwrap();
    let memory = Memory::default();
    let root = memory.image(56, &[100]);
    let reference = registry.reference("app:1");
    push(&client, &reference, &root, &memory);
    let sign = attached(&memory, &root, SIGNATURE, "one");
    let note = attached(&memory, &root, "application/vnd.example.note", "two");
    let at = |d: &Descriptor| reference.with_digest(d.digest().clone());
    for artifact in [&sign, &note] {
        push(&client, &at(artifact), artifact, &memory);
    }
    let listed = || {
        let all = quick().build().unwrap().referrers(&reference, root.digest(), None).unwrap();
        all.iter().map(|d| d.digest().clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed().len(), 2);
    client.delete(&at(&sign)).unwrap();
    assert_eq!(listed(), [note.digest().clone()]);
    assert!(client.manifest(&at(&sign)).unwrap_err().is_not_found(), "nor does the client remember it");
    quick().build().unwrap().delete(&at(&note)).unwrap();
    assert!(listed().is_empty());
    // What is attached to nothing costs no request for a list, and what is gone is an error.
    let before = registry.requests();
    quick().build().unwrap().delete(&at(&root)).unwrap();
    assert_eq!(registry.requests() - before, 2);
    assert!(client.delete(&at(&root)).unwrap_err().is_not_found());
}

#[test]
fn a_registry_that_keeps_the_list_itself_is_left_to_it() {
    let memory = Memory::default();
    let root = memory.image(57, &[100]);
    let sign = attached(&memory, &root, SIGNATURE, "one");
    let tame = Tame { memory, ..Tame::default() };
    let server = Server::start(move |seen, conn| {
        if seen.target.contains("/referrers/") {
            return conn.reply(200, &[], br#"{"schemaVersion":2,"manifests":[]}"#);
        }
        tame.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    client.delete(&server.reference("app").with_digest(sign.digest().clone())).unwrap();
    assert_eq!(
        (server.count("DELETE", ""), server.count("PUT", ""), server.count("GET", "sha256-")),
        (1, 0, 0)
    );
}

#[test]
fn an_answer_about_artifacts_that_is_no_answer_is_an_error() {
    // Whoever checks signatures must not take "too many requests" for "there are none".
    for status in [401, 403, 429, 500, 503] {
        for at in ["/referrers/", "/manifests/sha256-"] {
            let server = Server::start(move |seen, conn| {
                conn.reply(if seen.target.contains(at) { status } else { 404 }, &[], b"");
            });
            let client = quick().build().unwrap();
            let found = client.referrers(&server.reference("app"), &common::sha256(b""), None);
            assert!(found.is_err(), "{status} {at}: {found:?}");
        }
    }
}

#[test]
fn several_tags_are_set_at_once_where_that_is_possible() {
    let tags: Vec<String> = (0..13).map(|n| format!("t{n}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let (memory, tame) = (Memory::default(), Arc::new(Tame::default()));
    let root = memory.image(58, &[100]);
    let registry = Arc::clone(&tame);
    let server = Server::start(move |seen, conn| {
        if seen.method == "PUT"
            && let Some((_, query)) = seen.target.split_once('?')
            && seen.path().contains("/manifests/sha256:")
        {
            let set: Vec<&str> = query.split('&').map(|p| p.strip_prefix("tag=").unwrap()).collect();
            for tag in &set {
                registry.tags.lock().unwrap().insert((*tag).to_owned(), conn.body.clone());
            }
            let headers: Vec<_> = set.iter().map(|tag| ("oci-tag", *tag)).collect();
            return conn.reply(201, &headers, b"");
        }
        registry.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    push(&client, &server.reference("app:1"), &root, &memory);
    let before = server.count("PUT", "/manifests/");
    client.tag(&server.reference("app:1"), &tags).unwrap();
    assert_eq!(server.count("PUT", "/manifests/") - before, 2, "ten, then three");
    assert!(tags.iter().all(|tag| tame.tags.lock().unwrap().contains_key(*tag)));
    assert!(client.tag(&server.reference("app:1"), &["ok", "not ok"]).is_err());
    assert!(!tame.tags.lock().unwrap().contains_key("ok"), "nothing is done where one of them is no tag");

    if !have("docker-registry") {
        return;
    }
    let real = Registry::start();
    push(&client, &real.reference("app:1"), &root, &memory);
    client.tag(&real.reference("app:1"), &["a", "b", "c"]).unwrap();
    let mut found = client.tags(&real.reference("app")).unwrap();
    found.sort();
    assert_eq!(found, ["1", "a", "b", "c"]);
}

#[test]
fn uploads_that_fail_for_good_are_called_off() {
    let tame = Tame::default();
    let server = Server::start(move |seen, conn| {
        let refused = seen.method == "PUT" && seen.target.contains("/uploads/") && seen.body > 1_000_000;
        if refused {
            return conn.reply(403, &[], br#"{"errors":[{"code":"DENIED","message":"too much"}]}"#);
        }
        tame.answer(seen, conn);
    });
    let memory = Memory::default();
    let root = memory.image(59, &[2_000_000, 10]);
    // The one that failed, and the config's, which was begun first.
    let error =
        quick().build().unwrap().push(&server.reference("app:1"), &root, &memory, Ctx::none()).unwrap_err();
    assert!(error.to_string().contains("DENIED"), "{error}");
    assert!(server.count("DELETE", "/uploads/") >= 2);
}

#[test]
fn a_fallback_list_that_changes_meanwhile_is_written_again() {
    let memory = Memory::default();
    let root = memory.image(52, &[100]);
    let sign = attached(&memory, &root, SIGNATURE, "one");
    let (tame, tries) = (Tame::default(), AtomicUsize::new(0));
    let empty = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let kept = std::sync::Mutex::new(empty.into_bytes());
    let server = Server::start(move |seen, conn| {
        let list = seen.target.contains("/manifests/sha256-");
        if list && seen.method == "GET" {
            let body = kept.lock().unwrap().clone();
            return conn.reply(200, &[("content-type", OCI_INDEX), ("etag", "\"e\"")], &body);
        }
        if list && seen.method == "PUT" {
            assert_eq!(seen.header("if-match"), Some("\"e\""));
            // Neither does the first one that it takes last: it looks at no `If-Match`, and another client was in between.
            let tried = tries.fetch_add(1, Ordering::Relaxed);
            if tried == 3 {
                kept.lock().unwrap().clone_from(&conn.body);
            }
            return conn.reply(if tried < 2 { 412 } else { 201 }, &[], b"");
        }
        tame.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    push(&client, &server.reference("app").with_digest(sign.digest().clone()), &sign, &memory);
    assert_eq!(server.count("PUT", "/manifests/sha256-"), 4);
}

#[test]
fn a_list_that_another_client_begins_meanwhile_is_kept() {
    let memory = Memory::default();
    let root = memory.image(53, &[100]);
    let mine = attached(&memory, &root, SIGNATURE, "mine");
    let other = attached(&memory, &root, SIGNATURE, "other");
    let list =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other]}).to_string();
    let (tame, late) = (Tame::default(), AtomicUsize::new(0));
    let server = Server::start(move |seen, conn| {
        let tag = seen.path().rsplit('/').next().unwrap_or_default();
        if seen.method == "PUT" && tag.starts_with("sha256-") && late.fetch_add(1, Ordering::Relaxed) == 0 {
            tame.tags.lock().unwrap().insert(tag.to_owned(), list.clone().into_bytes());
            if seen.header("if-none-match") == Some("*") {
                return conn.reply(412, &[], b"");
            }
        }
        tame.answer(seen, conn);
    });
    let client = quick().build().unwrap();
    push(&client, &server.reference("app").with_digest(mine.digest().clone()), &mine, &memory);
    let listed = client.referrers(&server.reference("app"), root.digest(), None).unwrap();
    assert_eq!(listed.iter().map(Descriptor::digest).collect::<Vec<_>>(), [other.digest(), mine.digest()]);
}

#[test]
fn a_weak_validator_is_no_condition() {
    let tame = Tame::default();
    let server = Server::start(move |seen, conn| {
        let list = seen.path().contains("/manifests/sha256-");
        let tag = seen.path().rsplit('/').next().unwrap_or_default();
        let kept = tame.tags.lock().unwrap().get(tag).cloned();
        match kept {
            Some(kept) if list && seen.method == "GET" => {
                conn.reply(200, &[("etag", "W/\"e\""), ("content-type", OCI_INDEX)], &kept);
            }
            // By strong comparison it never matches.
            _ if list && seen.header("if-match").is_some() => conn.reply(412, &[], b""),
            _ => tame.answer(seen, conn),
        }
    });
    let (client, memory) = (quick().build().unwrap(), Memory::default());
    let root = memory.image(54, &[100]);
    for text in ["one", "two"] {
        let artifact = attached(&memory, &root, SIGNATURE, text);
        push(&client, &server.reference("app").with_digest(artifact.digest().clone()), &artifact, &memory);
    }
    assert_eq!(client.referrers(&server.reference("app"), root.digest(), None).unwrap().len(), 2);
}

#[test]
fn a_repository_that_is_missing_says_nothing_of_the_others() {
    let subject = common::sha256(b"subject");
    let entry = descriptor(OCI_MANIFEST, b"attached");
    let list =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).to_string();
    let server = Server::start(move |seen, conn| match seen.path() {
        p if p.starts_with("/v2/app/referrers/") => {
            conn.reply(200, &[("content-type", OCI_INDEX)], list.as_bytes());
        }
        p if p.starts_with("/v2/old/") => conn.reply(404, &[], b"404 page not found"),
        p if p.starts_with("/v2/denied/") => conn.reply(404, &[], br#"{"errors":[{"code":"DENIED"}]}"#),
        _ => conn.reply(404, &[], br#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#),
    });
    let client = quick().build().unwrap();
    let count = |name: &str| client.referrers(&server.reference(name), &subject, None).unwrap().len();
    assert_eq!(["app", "missing", "app", "denied", "app"].map(count), [1, 0, 1, 0, 1]);
    assert_eq!(["old", "app"].map(count), [0, 0], "it has no such API");
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
    client.tag(&reference, &["2"]).unwrap();
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

    // Who names the manifest anew brings back what the registry has lost of it.
    let (kept, healed) = (registry.reference("app:kept"), registry.reference("app:healed"));
    push(&client, &kept, &root, &memory);
    client.delete_blob(&kept, layer.digest()).unwrap();
    push(&client, &healed, &root, &memory);
    assert_eq!(source.stat(layer.digest()).unwrap().size(), 100);
    assert!(matches!(client.search(&registry.address, "x"), Err(Error::Unsupported { .. })));
}

/// A registry that deletes no tags, and whose deletion of manifests works `works` times.
fn deletes(works: usize, refusal: u16) -> (Server, Arc<Tame>, Descriptor) {
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(54, &[100]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let (registry, done) = (Arc::clone(&tame), AtomicUsize::new(0));
    let server = Server::start(move |seen, conn| {
        let digest = seen.path().rsplit('/').next().unwrap().parse::<Digest>();
        match (seen.method.as_str(), digest) {
            ("DELETE", Err(_)) => conn.reply(405, &[], br#"{"errors":[{"code":"UNSUPPORTED"}]}"#),
            ("DELETE", Ok(_)) if done.fetch_add(1, Ordering::Relaxed) >= works => {
                conn.reply(refusal, &[], b"");
            }
            ("DELETE", Ok(digest)) => {
                let gone = registry.memory.0.lock().unwrap().remove(&digest);
                registry.tags.lock().unwrap().retain(|_, bytes| gone.as_ref() != Some(&*bytes));
                conn.reply(202, &[], b"");
            }
            _ => registry.answer(seen, conn),
        }
    });
    (server, tame, root)
}

#[test]
fn a_tag_that_cannot_be_deleted_stays() {
    for refusal in [403, 404, 405] {
        // Whether it shows at once or only in the end.
        for works in [0, 1] {
            let (server, tame, root) = deletes(works, refusal);
            let reference = server.reference("app:1");
            quick().build().unwrap().delete(&reference).unwrap_err();
            let tagged = tame.tags.lock().unwrap()["1"].clone();
            assert_eq!(&common::sha256(&tagged), root.digest(), "{works} {refusal}");
            let touched = server.count("PUT", "/manifests/1");
            assert!(
                touched == if works == 0 && refusal != 404 { 0 } else { 2 },
                "{works} {refusal}: {touched}"
            );
        }
    }
    let (server, tame, _) = deletes(2, 405);
    quick().build().unwrap().delete(&server.reference("app:1")).unwrap();
    assert!(!tame.tags.lock().unwrap().contains_key("1"));
}

#[test]
fn a_tag_is_put_back_where_its_deletion_is_cancelled() {
    let token = CancelToken::new();
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(54, &[100]);
    tame.tags.lock().unwrap().insert("1".into(), tame.memory.get(root.digest()).unwrap());
    let (cancel, registry) = (token.clone(), Arc::clone(&tame));
    let server = Server::start(move |seen, conn| match seen.method.as_str() {
        "DELETE" if !seen.path().contains("sha256:") => conn.reply(405, &[], b""),
        method => {
            if method == "PUT" && seen.path().ends_with("/manifests/1") {
                cancel.cancel();
            }
            registry.answer(seen, conn);
        }
    });
    let client = quick().build().unwrap().with_cancel(&token);
    assert!(matches!(client.delete(&server.reference("app:1")), Err(Error::Cancelled)));
    assert_eq!(&common::sha256(&tame.tags.lock().unwrap()["1"]), root.digest());
    assert_eq!(server.count("PUT", "/manifests/1"), 2);
}

#[test]
fn copies_within_a_registry_that_mounts_nothing_do_not_lock_themselves_out() {
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(55, &[100_000; 6]);
    tame.tags.lock().unwrap().insert("latest".into(), tame.memory.get(root.digest()).unwrap());
    let registry = Arc::clone(&tame);
    let server = Server::start(move |seen, conn| {
        if seen.method == "POST" {
            let mut uploads = registry.uploads.lock().unwrap();
            let id = format!("u{}", uploads.len());
            uploads.insert(id.clone(), Vec::new());
            return conn.reply(202, &[("location", &format!("{}{id}", seen.path()))], b"");
        }
        if seen.path().starts_with("/v2/b") && seen.method == "HEAD" {
            return conn.reply(404, &[], b"");
        }
        registry.answer(seen, conn);
    });
    for concurrency in [1, 2, 8] {
        let mut limits = Limits::default();
        limits.concurrency = concurrency;
        let client = quick().limits(limits).build().unwrap();
        let client = client.with_deadline(Instant::now() + Duration::from_secs(20));
        let to = server.reference(&format!("b{concurrency}"));
        assert_eq!(client.copy(&server.reference("a"), &to, Ctx::none()).unwrap().sent, 7);
    }
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

    // An upload says what it will be, so that a registry can hash it as it comes.
    let tame = Tame::default();
    let server = Server::start(move |seen, conn| tame.answer(seen, conn));
    let memory = Memory::default();
    memory.0.lock().unwrap().insert(layer.digest().clone(), bytes.clone());
    let config = memory.add(OCI_CONFIG, b"{}");
    let root = memory.manifest(&config, std::slice::from_ref(&layer));
    let _ = client.push(&server.reference("x:1"), &root, &memory, Ctx::none());
    assert!(server.count("POST", "digest-algorithm=sha512") > 0);
    assert_eq!(server.count("POST", "digest-algorithm=sha256"), 0);

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
