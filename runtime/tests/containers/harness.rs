//! What is needed of libtest, which would bring a `main` of its own: names, filters, parallel runs, a summary in its words.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) type Test = (&'static str, fn());

pub(crate) fn run(tests: &[Test]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let valued = ["--test-threads", "--format", "--skip", "--color"];
    let filters: Vec<&String> = args
        .iter()
        .enumerate()
        .filter(|(i, a)| !a.starts_with('-') && (*i == 0 || !valued.contains(&args[i - 1].as_str())))
        .map(|(_, a)| a)
        .collect();
    let exact = args.iter().any(|a| a == "--exact");
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if exact { name == **f } else { name.contains(f.as_str()) })
    };
    let chosen: Vec<&Test> =
        tests.iter().filter(|(name, _)| wanted(name) && !args.contains(&"--ignored".to_owned())).collect();
    if args.contains(&"--list".to_owned()) {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(8) {
            scope.spawn(|| {
                while let Some((name, test)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
                    println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
                    if !ok {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let (word, passed) = (if failed.is_empty() { "ok" } else { "FAILED" }, chosen.len() - failed.len());
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
        failed.len(),
        tests.len() - chosen.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
