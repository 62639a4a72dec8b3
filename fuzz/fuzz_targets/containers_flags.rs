//! Flags of containers as a user may write them: taken or refused, never a panic, and no path leads out.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_runtime::containers::fuzzing::flags(data));
