//! What the quickstart prints: each step with its time.

use std::error::Error;
use std::time::Instant;

use longshore_examples::Result;

pub(crate) struct Report {
    started: Instant,
}

#[expect(clippy::print_stdout, reason = "the quickstart is there to be read")]
impl Report {
    pub(crate) fn start() -> Self {
        println!("longshore's quickstart: everything happens in a temporary directory, and nothing stays.\n");
        Self { started: Instant::now() }
    }

    /// Does the step and prints what it was, what came of it, and how long it took.
    pub(crate) fn step(&mut self, what: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        let started = Instant::now();
        let outcome = work().map_err(|e| format!("{what}: {}", chain(&*e)))?;
        println!("{:>6.0} ms  {what:<40} {outcome}", started.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    pub(crate) fn text(&self, text: &str) {
        println!("\n{}\n", text.trim_end());
    }

    pub(crate) fn end(&self) {
        println!("{:>6.0} ms  in all; nothing is left behind", self.started.elapsed().as_secs_f64() * 1e3);
    }
}

#[expect(clippy::print_stderr, reason = "where failures are told")]
pub(crate) fn failure(error: &(dyn Error + 'static)) {
    eprintln!("quickstart: {}", chain(error));
}

/// The message with its causes.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
