//! What every [`ContentWrite`] must do. Each check panics with what went wrong; [`all`] runs them on fresh stores.
//!
//! ```
//! longshore_image::content::conformance::all(&mut longshore_image::content::Memory::new);
//! ```

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::{Descriptor, Digest, MediaType};

use super::ContentWrite;
use crate::Error;

/// What every panic about an unexpected error says first.
const WORKS: &str = "the implementation refused what it must do";

/// Runs every check, each on a store that `fresh` has just made.
pub fn all<C: ContentWrite>(fresh: &mut dyn FnMut() -> C) {
    round_trip(&fresh());
    unnamed_content(&fresh());
    seeks(&fresh());
    missing_blobs(&fresh());
    wrong_digest(&fresh());
    wrong_size(&fresh());
    resume(&fresh());
    restart(&fresh());
    removal(&fresh());
    single_flight(&fresh());
    other_algorithms(&fresh());
    unknown_algorithm(&fresh());
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new(MediaType::ImageLayer, bytes.len() as u64, crate::digest::sha256(bytes))
}

fn content(store: &dyn ContentWrite, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open(digest).expect(WORKS).read_to_end(&mut bytes).expect(WORKS);
    bytes
}

/// What was written comes back, is listed, and is not taken in twice.
pub fn round_trip(store: &dyn ContentWrite) {
    let d = describe(b"hello");
    let mut ingest = store.ingest(Some(&d)).expect(WORKS).expect("an empty store wants the blob");
    ingest.write_all(b"hel").expect(WORKS);
    assert_eq!(ingest.offset(), 3);
    assert_eq!(store.size(d.digest()).expect(WORKS), None, "visible before commit");
    assert!(store.list().expect(WORKS).is_empty(), "listed before commit");
    ingest.write_all(b"lo").expect(WORKS);
    assert_eq!(ingest.commit().expect(WORKS), *d.digest());
    assert_eq!(store.size(d.digest()).expect(WORKS), Some(5));
    assert_eq!(content(store, d.digest()), b"hello");
    assert_eq!(store.list().expect(WORKS), [d.digest().clone()]);
    assert!(store.ingest(Some(&d)).expect(WORKS).is_none(), "a present blob is not wanted again");
}

/// Content without a descriptor is named by its SHA-256; dropped, it leaves nothing; written twice, it is there once.
pub fn unnamed_content(store: &dyn ContentWrite) {
    let d = describe(b"hello");
    let mut dropped = store.ingest(None).expect(WORKS).expect("unnamed content is always wanted");
    dropped.write_all(b"half").expect(WORKS);
    drop(dropped);
    for _ in 0..2 {
        let mut ingest = store.ingest(None).expect(WORKS).expect("unnamed content is always wanted");
        assert_eq!(ingest.offset(), 0);
        ingest.write_all(b"hello").expect(WORKS);
        assert_eq!(ingest.commit().expect(WORKS), *d.digest());
    }
    assert_eq!(store.list().expect(WORKS), [d.digest().clone()]);
    assert_eq!(content(store, d.digest()), b"hello");
}

/// A blob can be read from anywhere.
pub fn seeks(store: &dyn ContentWrite) {
    let d = describe(b"0123456789");
    super::put(store, &d, b"0123456789").expect(WORKS);
    let mut blob = store.open(d.digest()).expect(WORKS);
    blob.seek(SeekFrom::Start(7)).expect(WORKS);
    let mut tail = String::new();
    blob.read_to_string(&mut tail).expect(WORKS);
    assert_eq!(tail, "789");
    assert_eq!(blob.seek(SeekFrom::End(-10)).expect(WORKS), 0);
}

/// A blob that is not there is told so, and not by another error.
pub fn missing_blobs(store: &dyn ContentWrite) {
    let d = describe(b"nothing");
    assert!(matches!(store.open(d.digest()), Err(Error::NoSuchBlob { .. })));
    assert_eq!(store.size(d.digest()).expect(WORKS), None);
    assert!(!store.remove(d.digest()).expect(WORKS));
}

/// Other bytes than promised are refused and thrown away.
pub fn wrong_digest(store: &dyn ContentWrite) {
    let d = describe(b"right");
    let mut ingest = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    ingest.write_all(b"wrong").expect(WORKS);
    match ingest.commit() {
        Err(Error::DigestMismatch { expected, .. }) => assert_eq!(expected, *d.digest()),
        other => panic!("wrong bytes were answered with {other:?}"),
    }
    assert_eq!(store.size(d.digest()).expect(WORKS), None);
    let again = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    assert_eq!(again.offset(), 0, "wrong bytes were kept");
}

/// Too few bytes fail at commit, too many at once.
pub fn wrong_size(store: &dyn ContentWrite) {
    let d = describe(b"right");
    let mut short = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    short.write_all(b"righ").expect(WORKS);
    assert!(matches!(short.commit(), Err(Error::SizeMismatch { expected: 5, found: 4, .. })));
    let mut long = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    if long.offset() > 0 {
        long.restart().expect(WORKS);
    }
    long.write_all(b"right").expect(WORKS);
    let error = long.write_all(b"!").expect_err("more bytes than promised are refused");
    assert!(matches!(Error::from_io(error), Error::SizeMismatch { expected: 5, .. }));
    drop(long);
    assert_eq!(store.size(d.digest()).expect(WORKS), None);
}

/// A broken off ingest goes on where it was, in any number of pieces.
pub fn resume(store: &dyn ContentWrite) {
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let d = describe(&bytes);
    for end in [1, 65_536, 65_537, 399_999] {
        let mut ingest = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
        let at = usize::try_from(ingest.offset()).expect(WORKS);
        assert!(at <= end, "more than was written");
        let mut before = Vec::new();
        ingest.written().expect(WORKS).read_to_end(&mut before).expect(WORKS);
        assert_eq!(before, bytes[..at]);
        ingest.write_all(&bytes[at..end]).expect(WORKS);
    }
    let mut last = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    let at = usize::try_from(last.offset()).expect(WORKS);
    assert_eq!(at, 399_999, "a finished write is kept");
    last.write_all(&bytes[at..]).expect(WORKS);
    last.commit().expect(WORKS);
    assert_eq!(content(store, d.digest()), bytes);
}

/// After a restart only what came later counts.
pub fn restart(store: &dyn ContentWrite) {
    let d = describe(b"right");
    let mut first = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    first.write_all(b"wro").expect(WORKS);
    drop(first);
    let mut ingest = store.ingest(Some(&d)).expect(WORKS).expect("an absent blob is wanted");
    ingest.restart().expect(WORKS);
    assert_eq!(ingest.offset(), 0);
    ingest.write_all(b"right").expect(WORKS);
    ingest.commit().expect(WORKS);
    assert_eq!(content(store, d.digest()), b"right");
}

/// A removed blob is gone for new readers, and stays for those who have it open.
pub fn removal(store: &dyn ContentWrite) {
    let d = describe(b"hello");
    super::put(store, &d, b"hello").expect(WORKS);
    let mut open = store.open(d.digest()).expect(WORKS);
    assert!(store.remove(d.digest()).expect(WORKS));
    assert!(!store.remove(d.digest()).expect(WORKS));
    assert_eq!(store.size(d.digest()).expect(WORKS), None);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).expect(WORKS);
    assert_eq!(bytes, b"hello");
    super::put(store, &d, b"hello").expect(WORKS);
    assert_eq!(content(store, d.digest()), b"hello");
}

/// Of many who want the same blob at once one writes it, and all find it there.
pub fn single_flight(store: &dyn ContentWrite) {
    let bytes = vec![7; 1 << 20];
    let d = describe(&bytes);
    let writers = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                if let Some(mut ingest) = store.ingest(Some(&d)).expect(WORKS) {
                    writers.fetch_add(1, Ordering::Relaxed);
                    let at = usize::try_from(ingest.offset()).expect(WORKS);
                    for piece in bytes[at..].chunks(10_000) {
                        ingest.write_all(piece).expect(WORKS);
                    }
                    ingest.commit().expect(WORKS);
                }
                assert_eq!(store.size(d.digest()).expect(WORKS), Some(1 << 20));
            });
        }
    });
    assert_eq!(writers.load(Ordering::Relaxed), 1, "the blob was written more than once");
    assert_eq!(content(store, d.digest()), bytes);
}

/// SHA-384 and SHA-512 digests work like SHA-256.
pub fn other_algorithms(store: &dyn ContentWrite) {
    for digest in [
        "sha384:59e1748777448c69de6b800d7a33bbfb9ff1b463e44354c3553bcdb9c666fa90125a3c79f90397bdf5f6a13de828684f",
        "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043",
    ] {
        let d = Descriptor::new(MediaType::ImageLayer, 5, digest.parse::<Digest>().expect(WORKS));
        super::put(store, &d, b"hello").expect(WORKS);
        assert_eq!(content(store, d.digest()), b"hello");
        assert!(store.list().expect(WORKS).contains(d.digest()));
        assert!(store.remove(d.digest()).expect(WORKS));
        assert!(super::put(store, &d, b"hell0").is_err());
    }
}

/// A digest that cannot be computed is refused, not trusted.
pub fn unknown_algorithm(store: &dyn ContentWrite) {
    let d = Descriptor::new(MediaType::ImageLayer, 5, "crc32:3610a686".parse::<Digest>().expect(WORKS));
    assert!(matches!(store.ingest(Some(&d)), Err(Error::Unsupported { .. })));
}
