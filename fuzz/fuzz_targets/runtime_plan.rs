#![no_main]
//! Any config.json: it is compiled to a plan, or refused.
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_runtime::fuzzing::plan(data));
