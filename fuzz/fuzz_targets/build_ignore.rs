#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| longshore_build::fuzzing::ignore(input.0, input.1));
