//! Supervised containers, end to end: this program starts containers and is their shim.

mod harness;
mod lifecycle;
mod world;

use std::process::ExitCode;

use longshore_runtime::containers::shim_main;

fn main() -> ExitCode {
    if let Some(code) = shim_main(std::env::args_os(), |context| Ok(world::open(context.as_ref())?)) {
        return ExitCode::from(code as u8);
    }
    let mut tests = Vec::new();
    tests.extend(lifecycle::TESTS);
    harness::run(&tests)
}
