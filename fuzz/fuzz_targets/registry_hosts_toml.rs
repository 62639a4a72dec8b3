//! containerd's `hosts.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::fuzzing;

fuzz_target!(|text: &str| fuzzing::hosts_toml(text));
