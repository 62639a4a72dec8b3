//! runtime-spec, rule by rule: each MUST and SHOULD of config.md, config-linux.md and runtime.md that can be seen from outside has a
//! case, and so has what engines and other suites expect of a stand-in for runc.
//!
//! Every case runs against `longshore-oci` and, as a check of the suite, against Debian's runc. Where runc falls short of the rule, the
//! case says why; it must then fail with runc, so a stale reason is found.
#![expect(
    clippy::panic,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    reason = "tables of cases; a case that fails says so"
)]

#[path = "../common/mod.rs"]
mod common;

mod command_line;
mod config;
mod hooks;
mod lifecycle;
mod linux;
mod mounts;
mod world;

use world::{Case, Trial};

fn run(cases: &[Case]) {
    world::run(cases);
}

fn run_trials(trials: &[Trial]) {
    world::run_trials(trials);
}

#[test]
fn config_md() {
    run(&config::cases());
}

#[test]
fn config_md_mounts() {
    run(&mounts::cases());
}

#[test]
fn config_linux_md() {
    run(&linux::cases());
    run_trials(&linux::trials());
}

#[test]
fn config_md_hooks() {
    run_trials(&hooks::trials());
}

#[test]
fn runtime_md() {
    run_trials(&lifecycle::trials());
}

#[test]
fn command_line_of_runc() {
    run_trials(&command_line::trials());
}
