//! A container's log file with anything in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_runtime::containers::fuzzing::log_file(data));
