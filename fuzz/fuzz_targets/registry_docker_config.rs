//! Docker's `config.json` and podman's `auth.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::docker_config(bytes));
