//! Progress of pulls and pushes: bars on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// Draws what happens to each blob; shared by the worker threads that report it.
pub(crate) struct Blobs {
    bars: MultiProgress,
    kind: Kind,
    /// One line of text.
    say: fn(&str),
    known: Mutex<HashMap<String, ProgressBar>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quiet,
    Plain,
    Bars,
}

impl Blobs {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self::with(quiet, terminal, ProgressDrawTarget::stdout(), output::line)
    }

    /// On standard error: standard output is another's, such as a container's.
    pub(crate) fn aside(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::with(quiet, terminal, ProgressDrawTarget::stderr(), output::note)
    }

    fn with(quiet: bool, terminal: bool, target: ProgressDrawTarget, say: fn(&str)) -> Self {
        let kind = match (quiet, terminal) {
            (true, _) => Kind::Quiet,
            (false, false) => Kind::Plain,
            (false, true) => Kind::Bars,
        };
        Self { bars: MultiProgress::with_draw_target(target), kind, say, known: Mutex::default() }
    }

    /// A transfer begins or goes on; `begins` is the word for its start.
    pub(crate) fn moved(&self, digest: &impl ToString, begins: &str, word: &str, done: u64, size: u64) {
        let digest = digest.to_string();
        let mut known = self.known();
        if let Some(bar) = known.get(&digest) {
            bar.set_position(done);
            return;
        }
        let bar = self.bar(&digest, begins, size);
        bar.set_style(style("{prefix}: {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message(word.to_owned());
        bar.set_position(done);
        known.insert(digest, bar);
    }

    /// A blob is done; nothing is said about one that never moved.
    pub(crate) fn ended(&self, digest: &impl ToString, word: &str) {
        if let Some(bar) = self.known().get(&digest.to_string()) {
            finish(bar, word);
            self.plain(&digest.to_string(), word);
        }
    }

    /// A blob that did not have to move.
    pub(crate) fn told(&self, digest: &impl ToString, word: &str) {
        let digest = digest.to_string();
        let bar = self.known().entry(digest.clone()).or_insert_with(|| self.bar(&digest, word, 0)).clone();
        finish(&bar, word);
    }

    /// Whether this blob moved.
    pub(crate) fn knows(&self, digest: &impl ToString) -> bool {
        self.known().contains_key(&digest.to_string())
    }

    /// A line of its own, above nothing: to be called before or after the work.
    pub(crate) fn line(&self, text: &str) {
        if self.kind != Kind::Quiet {
            (self.say)(text);
        }
    }

    /// With its length from the start: a bar without one is drawn full.
    fn bar(&self, digest: &str, word: &str, size: u64) -> ProgressBar {
        self.plain(digest, word);
        if self.kind != Kind::Bars {
            return ProgressBar::hidden();
        }
        self.bars.add(ProgressBar::new(size).with_prefix(output::short_id(digest)))
    }

    fn plain(&self, digest: &str, word: &str) {
        if self.kind == Kind::Plain {
            (self.say)(&format!("{}: {word}", output::short_id(digest)));
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finish(bar: &ProgressBar, word: &str) {
    bar.set_style(style("{prefix}: {msg}"));
    bar.finish_with_message(word.to_owned());
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a fixed template").progress_chars("=> ")
}
