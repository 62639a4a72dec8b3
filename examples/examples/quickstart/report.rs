//! What the quickstart prints: each step with its time.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use longshore_examples::{Result, plain};

pub(crate) struct Report {
    started: Instant,
}

impl Report {
    pub(crate) fn start() -> Self {
        print("longshore's quickstart: everything happens in a temporary directory, and nothing stays.\n\n");
        Self { started: Instant::now() }
    }

    /// Does the step and prints what it was, what came of it, and how long it took.
    pub(crate) fn step(&mut self, what: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        crate::check_cancel()?;
        let started = Instant::now();
        let outcome = work().map_err(|e| format!("{what}: {}", chain(&*e)))?;
        print(&format!("{:>6.0} ms  {what:<40} {outcome}\n", started.elapsed().as_secs_f64() * 1e3));
        crate::check_cancel()
    }

    pub(crate) fn text(&self, text: &str) {
        print(&format!("\n{}\n\n", text.trim_end()));
    }

    pub(crate) fn end(&self) {
        print(&format!(
            "{:>6.0} ms  in all; nothing is left behind\n",
            self.started.elapsed().as_secs_f64() * 1e3
        ));
    }
}

/// Writes to standard output. Nobody may read it any more; the work goes on to its clean end.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub(crate) fn failure(error: &(dyn Error + 'static)) {
    let _ = writeln!(std::io::stderr(), "quickstart: {}", plain(&chain(error)));
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
