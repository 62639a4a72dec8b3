//! What every [`StateStore`] has to do, as checks that panic where one does not.
//!
//! ```
//! use longshore_runtime::store::{Memory, conformance};
//!
//! conformance::check(Memory::default);
//! ```

use std::sync::Barrier;

use super::StateStore;
use crate::error::Error;

/// Runs all checks, each on a store that `make` makes, without records.
///
/// # Panics
/// With what the store does wrong.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
pub fn check<S: StateStore>(make: impl Fn() -> S) {
    for check in [life, two_ids, claims_are_one_s_own, abandoned, races, large] {
        check(&make());
    }
    let boxed: Box<dyn StateStore + '_> = Box::new(make());
    life(&boxed);
    assert!(boxed.ids().unwrap().is_empty(), "a record is left");
}

/// Claimed, published, read, removed; and again.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
fn life(store: &dyn StateStore) {
    for record in [&b"first"[..], b"second"] {
        assert!(is_not_found(store, "one"), "nothing is there to begin with");
        let claim = store.claim("one").unwrap();
        assert!(is_not_found(store, "one"), "what is claimed cannot be read");
        assert_eq!(store.ids().unwrap(), ["one"], "what is claimed is listed");
        claim.publish(record).unwrap();
        assert_eq!(store.read("one").unwrap(), record);
        drop(claim);
        assert_eq!(store.read("one").unwrap(), record, "it stays when the claim ends");
        assert!(matches!(store.claim("one"), Err(Error::Exists { .. })), "what is published is taken");
        store.remove("one").unwrap();
        assert!(store.ids().unwrap().is_empty());
        store.remove("one").unwrap();
    }
}

/// One ID is nothing to another, also where one begins as the other, or looks like a file of the store's.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
fn two_ids(store: &dyn StateStore) {
    let ids = ["a", "ab", "A", "a.b", "state.json", "..a", "-", "+", "_", &"x".repeat(200)];
    for id in ids {
        store.claim(id).unwrap().publish(id.as_bytes()).unwrap();
    }
    let mut listed = store.ids().unwrap();
    listed.sort();
    let mut sorted = ids;
    sorted.sort_unstable();
    assert_eq!(listed, sorted);
    for id in ids {
        assert_eq!(store.read(id).unwrap(), id.as_bytes());
        store.remove(id).unwrap();
    }
    assert!(store.ids().unwrap().is_empty());
}

/// A claim can be given back, and its note read.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
fn claims_are_one_s_own(store: &dyn StateStore) {
    let claim = store.claim("one").unwrap();
    assert!(matches!(store.claim("one"), Err(Error::Exists { .. })), "it is claimed");
    assert!(store.abandoned("one").unwrap().is_none(), "its holder lives");
    assert_eq!(claim.noted().unwrap(), None);
    for note in [&b"/first"[..], b"", b"\xff/second"] {
        claim.note(note).unwrap();
        assert_eq!(claim.noted().unwrap().as_deref(), Some(note));
    }
    store.remove("one").unwrap();
    drop(claim);
    store.claim("one").unwrap().publish(b"x").unwrap();
    assert!(store.abandoned("one").unwrap().is_none(), "it is published");
    store.remove("one").unwrap();
}

/// What a dropped claim leaves is either its own business, or can be taken over by one, with its note.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
fn abandoned(store: &dyn StateStore) {
    assert!(store.abandoned("one").unwrap().is_none(), "nothing is there");
    let claim = store.claim("one").unwrap();
    claim.note(b"note").unwrap();
    drop(claim);
    if let Some(claim) = store.abandoned("one").unwrap() {
        assert_eq!(claim.noted().unwrap().as_deref(), Some(&b"note"[..]));
        assert!(store.abandoned("one").unwrap().is_none(), "it is taken over");
    }
    store.remove("one").unwrap();
    assert!(store.ids().unwrap().is_empty());
}

/// Of many who claim at once one succeeds, and who reads meanwhile reads all or nothing.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
fn races(store: &dyn StateStore) {
    let record = vec![b'r'; 100_000];
    for _ in 0..20 {
        let begin = Barrier::new(4);
        let won = std::thread::scope(|scope| {
            let claimants: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        begin.wait();
                        let Ok(claim) = store.claim("one") else {
                            while let Ok(read) = store.read("one") {
                                assert_eq!(read, record, "a record is read in part");
                            }
                            return false;
                        };
                        claim.publish(&record).unwrap();
                        store.remove("one").unwrap();
                        true
                    })
                })
                .collect();
            claimants.into_iter().map(|claimant| claimant.join().unwrap()).filter(|won| *won).count()
        });
        assert!(won >= 1, "nobody could claim it");
        assert!(store.ids().unwrap().is_empty());
    }
}

/// Records are bytes, of any size.
#[expect(clippy::unwrap_used, reason = "a check fails by a panic")]
fn large(store: &dyn StateStore) {
    let record: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    store.claim("large").unwrap().publish(&record).unwrap();
    assert!(store.read("large").unwrap() == record);
    store.remove("large").unwrap();
}

fn is_not_found(store: &dyn StateStore, id: &str) -> bool {
    matches!(store.read(id), Err(Error::NotFound { .. }))
}
