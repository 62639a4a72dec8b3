//! Rules for the whole workspace: who may depend on whom, which licences and crates are in, the minimum Rust version.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Async runtimes, C libraries with a Rust rival, and crates that a measurement or a licence ruled out.
const BANNED: &[&str] = &[
    "async-std",
    "cgroups-rs",
    "futures-executor",
    "hyper",
    "libseccomp",
    "native-tls",
    "openssl",
    "reqwest",
    "rustables",
    "smol",
    "tokio",
    "zbus",
];

const CRATES: &[&str] = &[
    "longshore-build",
    "longshore-image",
    "longshore-network",
    "longshore-registry-client",
    "longshore-runtime",
];

fn cargo(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("cargo prints UTF-8")
}

fn packages() -> Vec<Value> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--locked", "--format-version", "1"]))
        .expect("metadata is JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// The names of a crate's normal dependencies, itself included.
fn tree(crate_name: &str, extra: &[&str]) -> BTreeSet<String> {
    let mut args =
        vec!["tree", "--locked", "-p", crate_name, "-e", "normal", "--prefix", "none", "--format", "{p}"];
    args.extend(extra);
    cargo(&args)
        .lines()
        .filter_map(|l| l.split(' ').next())
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_crates_stand_alone_and_build_knows_only_image() {
    for name in CRATES {
        let ours: BTreeSet<_> = tree(name, &[]).into_iter().filter(|n| n.starts_with("longshore")).collect();
        let mut expected = BTreeSet::from([(*name).to_owned()]);
        if *name == "longshore-build" {
            expected.insert("longshore-image".to_owned());
        }
        assert_eq!(ours, expected, "{name} knows crates that it must not know");
    }
}

#[test]
fn nothing_banned_is_linked() {
    for name in CRATES {
        let linked = tree(name, &["--all-features"]);
        let banned: Vec<_> = linked.iter().filter(|n| BANNED.contains(&n.as_str())).collect();
        assert!(banned.is_empty(), "{name} pulls in {banned:?}");
    }
}

#[test]
fn every_licence_is_allowed() {
    let mut bad = BTreeMap::new();
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none").replace('/', " OR ");
        // A choice is fine when one side is; every part of a conjunction must be.
        let fine = licence
            .replace(['(', ')'], "")
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|choice| ALLOWED.contains(&choice.trim())));
        if !fine {
            bad.insert(package["name"].to_string(), licence);
        }
    }
    assert!(bad.is_empty(), "licences not on the list: {bad:?}");
}

#[test]
fn no_dependency_needs_a_newer_rust_than_we_promise() {
    let number = |v: &str| v.split('.').map(|n| n.parse().expect("a number")).collect::<Vec<u32>>();
    let packages = packages();
    let ours = packages.iter().find(|p| p["name"] == "longshore-image").expect("image is a member");
    let ours = number(&format!("{}.0", ours["rust_version"].as_str().expect("the workspace declares one")));
    let newer: Vec<_> = packages
        .iter()
        .filter_map(|p| Some((p["name"].as_str()?, p["rust_version"].as_str()?)))
        .filter(|(_, version)| number(version) > ours)
        .collect();
    assert!(newer.is_empty(), "need a newer Rust than {ours:?}: {newer:?}");
}

#[test]
fn the_readme_shows_the_embedding_example_as_it_is() {
    let read =
        |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path);
    let example = read("examples/embed.rs");
    let code = &example[example.find("use std::").expect("it imports something")..];
    assert!(read("../README.md").contains(code), "README.md and examples/embed.rs differ");
}
