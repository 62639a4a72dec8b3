//! Compiles the start-up helper (`src/sys/child`) and, for supervised containers, the program behind `--init` (`src/containers/init`): static,
//! freestanding programs of a few kilobytes that the library carries as bytes. They are built by the same `rustc` as the crate, for the same
//! target, with no flags inherited from the environment.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/sys/child");
    println!("cargo::rerun-if-changed=src/sys/wire.rs");
    println!("cargo::rerun-if-changed=src/containers/init");
    compile("longshore_child", "src/sys/child/main.rs", "child.elf");
    if env::var_os("CARGO_FEATURE_CONTAINERS").is_some() {
        compile("longshore_init", "src/containers/init/main.rs", "init.elf");
    }
}

fn compile(name: &str, source: &str, output: &str) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(output);
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", name, "--crate-type", "bin", "--target", &target])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args(["-Cstrip=symbols", "-Cdebuginfo=0", "-Coverflow-checks=off"])
        .args([
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
            "-Clink-arg=-no-pie",
        ])
        .args([
            "-Clink-arg=-Wl,--build-id=none",
            "-Clink-arg=-Wl,-z,noexecstack",
            "-Clink-arg=-Wl,--gc-sections",
        ])
        .arg("-Clink-arg=-Wl,--no-eh-frame-hdr")
        .arg("-o")
        .arg(&out)
        .arg(source);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("-Clinker=");
        flag.push(linker);
        rustc.arg(flag);
    }
    let status = rustc.status().expect("rustc runs");
    assert!(status.success(), "{source} does not compile for {target}");
}
