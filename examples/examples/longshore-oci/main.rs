//! `longshore-oci`: a stand-in for `runc` over `longshore-runtime`. Argument parsing and printing; what a container is, the crate knows.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod args;
mod commands;
mod config;
mod events;
mod signals;
mod template;
mod terminal;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match commands::run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let message = failure.to_string();
            log(&args, "error", &message);
            if args.log.is_some() {
                eprintln!("{message}");
            }
            ExitCode::from(match args.command {
                // runc's own, for what never became the container's process.
                Command::Exec(_) => 255,
                _ => 1,
            })
        }
    }
}

/// Appends to `--log`, as an engine reads it; without one, to standard error.
fn log(args: &Args, level: &str, message: &str) {
    let time = jiff::Timestamp::now();
    let line = match args.log_format.as_str() {
        "json" => serde_json::json!({"level": level, "msg": message, "time": time.to_string()}).to_string(),
        _ => format!("time=\"{time}\" level={level} msg={}", serde_json::Value::from(message)),
    };
    let Some(path) = &args.log else {
        eprintln!("{line}");
        return;
    };
    // Nobody is left to tell when the log itself cannot be written.
    let _ =
        OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
}
