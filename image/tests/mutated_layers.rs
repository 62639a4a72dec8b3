//! Valid archives with some bytes changed: no panic, and both drivers refuse the same.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[path = "layers_common/mod.rs"]
mod common;

use common::{Raw, archive, device, dir, file, hard, pax, raw, symlink};
use longshore_image::fuzzing;
use proptest::prelude::*;

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
    let cases = std::env::var("LONGSHORE_PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(changes in changes)| {
        let mut bytes = base.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        fuzzing::tar(&bytes);
        fuzzing::apply(&place, &bytes);
    });
}
