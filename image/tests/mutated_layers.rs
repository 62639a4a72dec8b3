//! Valid archives and indexes with some bytes changed: no panic, both drivers refuse the same, and the store stays sound.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[path = "layers_common/mod.rs"]
mod common;

use common::{Raw, archive, device, dir, file, hard, pax, raw, symlink};
use longshore_image::fuzzing;
use proptest::prelude::*;

fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("LONGSHORE_PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn no_change_of_bytes_makes_a_panic() {
    let scratch = tempfile::tempdir().unwrap();
    let place = fuzzing::place_in(scratch.path()).unwrap();
    let base = archive(&[
        dir("a"),
        file("a/b", "content"),
        symlink("s", "a"),
        hard("s/h", "a/b"),
        raw("f", b'6'),
        device("c", b'3', 0, 0),
        pax(&[("path", b"a/long"), ("mtime", b"-1.5"), ("SCHILY.xattr.user.x", b"y")]),
        file("x", "1"),
        Raw { content: b"gnu\0".to_vec(), ..raw("L", b'L') },
        file("x", "2"),
        pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9999")]),
        file("sparse", [&b"1\n512\n5\n"[..], &[0; 504], b"abcde"].concat()),
        file("a/.wh.b", ""),
        file("d/.wh..wh..opq", ""),
    ]);
    let changes = prop::collection::vec((0..base.len(), any::<u8>()), 0..6);
    proptest!(cases(400), |(changes in changes)| {
        let mut bytes = base.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        fuzzing::tar(&bytes);
        fuzzing::apply(&place, &bytes);
    });
}

#[test]
fn no_index_of_another_tool_does_harm() {
    const NAME: &str = r#""org.opencontainers.image.ref.name""#;
    const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let scratch = tempfile::tempdir().unwrap();
    let store = fuzzing::store(scratch.path()).unwrap();
    let name = prop_oneof![
        4 => "[ab]".prop_map(|name| format!(r#""{name}""#)),
        1 => Just(r#""../a""#.to_owned()),
        1 => Just(r#""sha256:""#.to_owned()),
        1 => Just(format!(r#""{OTHER}""#)),
        1 => Just(r#""a b\n""#.to_owned()),
        1 => Just("1".to_owned()),
    ];
    let descriptor = prop_oneof![
        4 => Just("@".to_owned()),
        1 => Just(format!(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{OTHER}","size":2"#)),
        1 => Just(r#"@,"size":1"#.to_owned()),
        1 => Just(r#"@,"platform":{"os":"none","architecture":"none"}"#.to_owned()),
    ];
    let entry = (descriptor, prop::option::weighted(0.8, name)).prop_map(|(descriptor, name)| {
        let annotations = name.map(|name| format!(r#","annotations":{{{NAME}:{name}}}"#)).unwrap_or_default();
        format!("{{{descriptor}{annotations}}}")
    });
    let entries = prop::collection::vec(entry, 0..5);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    let index = |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    assert_eq!(
        fuzzing::index(&store, index(&[format!(r#"{{@,"annotations":{{{NAME}:"a"}}}}"#)]).as_bytes()),
        1
    );
    proptest!(cases(100), |(entries in entries, changes in changes)| {
        let mut bytes = index(&entries).into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzzing::index(&store, &bytes);
    });
}
