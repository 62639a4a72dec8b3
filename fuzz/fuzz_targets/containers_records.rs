//! Records and frames of containers, damaged.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_runtime::containers::fuzzing::records(data));
