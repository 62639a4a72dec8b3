#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| longshore_build::fuzzing::options(text));
