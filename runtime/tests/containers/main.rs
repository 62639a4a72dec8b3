//! Supervised containers, end to end: this program starts containers and is their shim.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program with a harness of its own"
)]

mod crash;
mod edges;
mod harness;
mod lifecycle;
mod races;
mod sessions;
mod supervision;
mod world;

use std::process::ExitCode;

use longshore_runtime::containers::shim_main;

fn main() -> ExitCode {
    if let Some(code) = shim_main(std::env::args_os(), |context| Ok(world::open(context.as_ref())?)) {
        return ExitCode::from(code as u8);
    }
    if let [_, flag, dir, name] = &std::env::args().collect::<Vec<_>>()[..]
        && flag == "--start"
    {
        crash::start(dir.as_ref(), name);
        return ExitCode::SUCCESS;
    }
    let mut tests = Vec::new();
    tests.extend(lifecycle::TESTS);
    tests.extend(sessions::TESTS);
    tests.extend(supervision::TESTS);
    tests.extend(edges::TESTS);
    tests.extend(races::TESTS);
    tests.extend(crash::TESTS);
    harness::run(&tests)
}
