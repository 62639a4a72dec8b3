#![no_main]

use std::sync::OnceLock;

use longshore_image::fuzzing::{Place, apply, place_in};

static PLACE: OnceLock<Place> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let place = PLACE.get_or_init(|| {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/target/layers");
        place_in(dir.as_ref()).expect("the target directory can be written")
    });
    apply(place, bytes);
});
