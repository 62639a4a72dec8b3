//! How a command fails: one line on standard error, and Docker's exit code.

use std::error::Error;
use std::io::Write;

use longshore_examples::plain;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code of the program.
    pub(crate) code: u8,
    /// The line; empty when all has been said.
    pub(crate) message: String,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// Docker's code for a container that could not be started at all.
    pub(crate) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The program's end with this code and no more words.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(chain(&error))
    }
}

/// The message with its causes. A cause that only repeats what stands before it is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    // One line, whatever a foreign message holds.
    text.replace('\n', " ")
}

/// Does `work` for every name; like docker it goes on after a failure and ends in exit code 1.
pub(crate) fn each(names: &[String], mut work: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut failed = None;
    for name in names {
        if let Err(failure) = work(name)
            && let Some(earlier) = failed.replace(failure)
        {
            report(&earlier);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Writes the failure's line.
pub(crate) fn report(failure: &Failure) {
    if !failure.message.is_empty() {
        let _ = writeln!(std::io::stderr(), "longshore: {}", plain(&failure.message));
    }
}
