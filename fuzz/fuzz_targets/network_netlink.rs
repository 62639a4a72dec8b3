//! Datagrams as a netlink socket gives them, through every parser that this crate has for them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore_network::fuzzing::netlink(data));
