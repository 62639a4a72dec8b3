//! What every [`ContentWrite`] must do. Each check panics with what went wrong; [`all`] runs them on fresh stores.
//!
//! ```
//! longshore_image::content::conformance::all(&mut longshore_image::content::Memory::new);
//! ```
#![expect(
    clippy::unwrap_used,
    reason = "a conformance suite is a test: it panics where the implementation is wrong"
)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::{Descriptor, Digest, MediaType};

use super::ContentWrite;
use crate::Error;

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
    store.open(digest).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What was written comes back, is listed, and is not taken in twice.
pub fn round_trip(store: &dyn ContentWrite) {
    let d = describe(b"hello");
    let mut ingest = store.ingest(Some(&d)).unwrap().expect("an empty store wants the blob");
    ingest.write_all(b"hel").unwrap();
    assert_eq!(ingest.offset(), 3);
    assert_eq!(store.size(d.digest()).unwrap(), None, "visible before commit");
    assert!(store.list().unwrap().is_empty(), "listed before commit");
    ingest.write_all(b"lo").unwrap();
    assert_eq!(ingest.commit().unwrap(), *d.digest());
    assert_eq!(store.size(d.digest()).unwrap(), Some(5));
    assert_eq!(content(store, d.digest()), b"hello");
    assert_eq!(store.list().unwrap(), [d.digest().clone()]);
    assert!(store.ingest(Some(&d)).unwrap().is_none(), "a present blob is not wanted again");
}

/// Content without a descriptor is named by its SHA-256; dropped, it leaves nothing; written twice, it is there once.
pub fn unnamed_content(store: &dyn ContentWrite) {
    let d = describe(b"hello");
    let mut dropped = store.ingest(None).unwrap().expect("unnamed content is always wanted");
    dropped.write_all(b"half").unwrap();
    drop(dropped);
    for _ in 0..2 {
        let mut ingest = store.ingest(None).unwrap().expect("unnamed content is always wanted");
        assert_eq!(ingest.offset(), 0);
        ingest.write_all(b"hello").unwrap();
        assert_eq!(ingest.commit().unwrap(), *d.digest());
    }
    assert_eq!(store.list().unwrap(), [d.digest().clone()]);
    assert_eq!(content(store, d.digest()), b"hello");
}

/// A blob can be read from anywhere.
pub fn seeks(store: &dyn ContentWrite) {
    let d = describe(b"0123456789");
    super::put(store, &d, b"0123456789").unwrap();
    let mut blob = store.open(d.digest()).unwrap();
    blob.seek(SeekFrom::Start(7)).unwrap();
    let mut tail = String::new();
    blob.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "789");
    assert_eq!(blob.seek(SeekFrom::End(-10)).unwrap(), 0);
}

/// A blob that is not there is told so, and not by another error.
pub fn missing_blobs(store: &dyn ContentWrite) {
    let d = describe(b"nothing");
    assert!(matches!(store.open(d.digest()), Err(Error::NoSuchBlob { .. })));
    assert_eq!(store.size(d.digest()).unwrap(), None);
    assert!(!store.remove(d.digest()).unwrap());
}

/// Other bytes than promised are refused and thrown away.
pub fn wrong_digest(store: &dyn ContentWrite) {
    let d = describe(b"right");
    let mut ingest = store.ingest(Some(&d)).unwrap().unwrap();
    ingest.write_all(b"wrong").unwrap();
    match ingest.commit() {
        Err(Error::DigestMismatch { expected, .. }) => assert_eq!(expected, *d.digest()),
        other => panic!("wrong bytes were answered with {other:?}"),
    }
    assert_eq!(store.size(d.digest()).unwrap(), None);
    let again = store.ingest(Some(&d)).unwrap().unwrap();
    assert_eq!(again.offset(), 0, "wrong bytes were kept");
}

/// Too few bytes fail at commit, too many at once.
pub fn wrong_size(store: &dyn ContentWrite) {
    let d = describe(b"right");
    let mut short = store.ingest(Some(&d)).unwrap().unwrap();
    short.write_all(b"righ").unwrap();
    assert!(matches!(short.commit(), Err(Error::SizeMismatch { expected: 5, found: 4, .. })));
    let mut long = store.ingest(Some(&d)).unwrap().unwrap();
    if long.offset() > 0 {
        long.restart().unwrap();
    }
    long.write_all(b"right").unwrap();
    let error = long.write_all(b"!").unwrap_err();
    assert!(matches!(Error::from_io(error), Error::SizeMismatch { expected: 5, .. }));
    drop(long);
    assert_eq!(store.size(d.digest()).unwrap(), None);
}

/// A broken off ingest goes on where it was, in any number of pieces.
pub fn resume(store: &dyn ContentWrite) {
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let d = describe(&bytes);
    for end in [1, 65_536, 65_537, 399_999] {
        let mut ingest = store.ingest(Some(&d)).unwrap().unwrap();
        let at = usize::try_from(ingest.offset()).unwrap();
        assert!(at <= end, "more than was written");
        let mut before = Vec::new();
        ingest.written().unwrap().read_to_end(&mut before).unwrap();
        assert_eq!(before, bytes[..at]);
        ingest.write_all(&bytes[at..end]).unwrap();
    }
    let mut last = store.ingest(Some(&d)).unwrap().unwrap();
    let at = usize::try_from(last.offset()).unwrap();
    assert_eq!(at, 399_999, "a finished write is kept");
    last.write_all(&bytes[at..]).unwrap();
    last.commit().unwrap();
    assert_eq!(content(store, d.digest()), bytes);
}

/// After a restart only what came later counts.
pub fn restart(store: &dyn ContentWrite) {
    let d = describe(b"right");
    let mut first = store.ingest(Some(&d)).unwrap().unwrap();
    first.write_all(b"wro").unwrap();
    drop(first);
    let mut ingest = store.ingest(Some(&d)).unwrap().unwrap();
    ingest.restart().unwrap();
    assert_eq!(ingest.offset(), 0);
    ingest.write_all(b"right").unwrap();
    ingest.commit().unwrap();
    assert_eq!(content(store, d.digest()), b"right");
}

/// A removed blob is gone for new readers, and stays for those who have it open.
pub fn removal(store: &dyn ContentWrite) {
    let d = describe(b"hello");
    super::put(store, &d, b"hello").unwrap();
    let mut open = store.open(d.digest()).unwrap();
    assert!(store.remove(d.digest()).unwrap());
    assert!(!store.remove(d.digest()).unwrap());
    assert_eq!(store.size(d.digest()).unwrap(), None);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"hello");
    super::put(store, &d, b"hello").unwrap();
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
                if let Some(mut ingest) = store.ingest(Some(&d)).unwrap() {
                    writers.fetch_add(1, Ordering::Relaxed);
                    let at = usize::try_from(ingest.offset()).unwrap();
                    for piece in bytes[at..].chunks(10_000) {
                        ingest.write_all(piece).unwrap();
                    }
                    ingest.commit().unwrap();
                }
                assert_eq!(store.size(d.digest()).unwrap(), Some(1 << 20));
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
        let d = Descriptor::new(MediaType::ImageLayer, 5, digest.parse::<Digest>().unwrap());
        super::put(store, &d, b"hello").unwrap();
        assert_eq!(content(store, d.digest()), b"hello");
        assert!(store.list().unwrap().contains(d.digest()));
        assert!(store.remove(d.digest()).unwrap());
        assert!(super::put(store, &d, b"hell0").is_err());
    }
}

/// A digest that cannot be computed is refused, not trusted.
pub fn unknown_algorithm(store: &dyn ContentWrite) {
    let d = Descriptor::new(MediaType::ImageLayer, 5, "crc32:3610a686".parse::<Digest>().unwrap());
    assert!(matches!(store.ingest(Some(&d)), Err(Error::Unsupported { .. })));
}
