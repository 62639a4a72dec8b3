//! The crate stays small to build.

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn fewer_than_sixty_crates() {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "tree",
        "--offline",
        "-p",
        "longshore-registry-client",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let output = cargo.output().unwrap();
    if !output.status.success() {
        assert!(
            std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        eprintln!("skipped: cargo tree does not work offline here");
        return;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text.lines().filter_map(|l| Some(l.split_once(" v")?.0)).collect();
    assert!(crates.contains("ureq") && crates.len() < 60, "{}: {crates:?}", crates.len());
    for async_runtime in ["tokio", "async-std", "smol", "hyper", "reqwest"] {
        assert!(!crates.contains(async_runtime));
    }
}
