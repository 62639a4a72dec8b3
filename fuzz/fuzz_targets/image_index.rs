#![no_main]

use std::sync::OnceLock;

use longshore_image::{Store, fuzzing};

static STORE: OnceLock<Store> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let store = STORE.get_or_init(|| {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image-index");
        fuzzing::store(dir.as_ref()).expect("the target directory can be written")
    });
    let _ = fuzzing::index(store, bytes);
});
