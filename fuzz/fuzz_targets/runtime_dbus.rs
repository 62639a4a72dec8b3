#![no_main]
//! Any message of a bus: it is read, or refused.
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_runtime::fuzzing::dbus(data));
