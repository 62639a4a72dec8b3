//! DNS messages from containers and from servers: answered, passed on or passed over, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_network::fuzzing::dns(data));
