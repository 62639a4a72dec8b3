//! `WWW-Authenticate` headers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::fuzzing;

fuzz_target!(|header: &str| fuzzing::challenge(header));
