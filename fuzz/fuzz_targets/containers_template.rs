//! Go templates of `--format`: rendered or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_runtime::containers::fuzzing::template(data));
