//! Shared parts of the benches: contenders run in turn in one process, medians and ratios, a Markdown table and an SVG chart.
//!
//! A bench is a program with `harness = false`: it makes a [`Race`], adds ours and the peers, runs it and prints the table.
//! Each round runs every contender once, and every other round in reverse order, so that whatever drifts on the machine
//! (load, caches, clock) hits all of them alike.

mod report;
mod sys;

use std::process::Command;
use std::time::{Duration, Instant};

/// A foreign error of a contender.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One timed run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Wall-clock time.
    pub wall: Duration,
    /// User and system time, where it was measured.
    pub cpu: Option<Duration>,
    /// Peak resident set in bytes, where it was measured.
    pub peak_rss: Option<u64>,
}

/// One contender's samples, in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The contender's name.
    pub name: String,
    /// Its runs.
    pub runs: Vec<Sample>,
    /// Why it did not (or no longer) run.
    pub failure: Option<String>,
}

impl Samples {
    /// The median of the wall-clock times; `None` without a run.
    pub fn median(&self) -> Option<Duration> {
        let mut walls: Vec<_> = self.runs.iter().map(|r| r.wall).collect();
        walls.sort_unstable();
        walls.get(walls.len() / 2).copied()
    }

    /// The shortest wall-clock time.
    pub fn min(&self) -> Option<Duration> {
        self.runs.iter().map(|r| r.wall).min()
    }

    /// The median of the CPU times.
    pub fn cpu(&self) -> Option<Duration> {
        let mut cpus: Vec<_> = self.runs.iter().filter_map(|r| r.cpu).collect();
        cpus.sort_unstable();
        cpus.get(cpus.len() / 2).copied()
    }

    /// The largest peak resident set in bytes.
    pub fn peak_rss(&self) -> Option<u64> {
        self.runs.iter().filter_map(|r| r.peak_rss).max()
    }
}

type Run<'a> = Box<dyn FnMut() -> Result<Sample, BoxError> + 'a>;

/// Contenders for one job, run beside each other.
pub struct Race<'a> {
    title: String,
    contenders: Vec<(String, Run<'a>)>,
}

impl<'a> Race<'a> {
    /// A race without contenders yet; the first one added is the one that ratios refer to (ours).
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), contenders: Vec::new() }
    }

    /// Adds a contender. The closure does one run, with its own set-up and clean-up outside the time it reports.
    #[must_use]
    pub fn add(mut self, name: &str, run: impl FnMut() -> Result<Sample, BoxError> + 'a) -> Self {
        self.contenders.push((name.to_owned(), Box::new(run)));
        self
    }

    /// Runs all contenders `rounds` times after one round that does not count, then reports: a table on standard output, a
    /// chart in `target/bench/`. A contender that fails is left out from then on, and the table says why.
    pub fn run(self, rounds: usize) -> Vec<Samples> {
        self.rounds(1, rounds)
    }

    /// The same without the round that does not count: for contenders that start from nothing each time.
    pub fn run_cold(self, rounds: usize) -> Vec<Samples> {
        self.rounds(0, rounds)
    }

    fn rounds(mut self, unmeasured: usize, rounds: usize) -> Vec<Samples> {
        let mut all: Vec<Samples> = self
            .contenders
            .iter()
            .map(|(name, _)| Samples { name: name.clone(), ..Samples::default() })
            .collect();
        for round in 0..unmeasured + rounds {
            let mut order: Vec<usize> = (0..all.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for i in order {
                if all[i].failure.is_some() {
                    continue;
                }
                match (self.contenders[i].1)() {
                    Ok(sample) if round >= unmeasured => all[i].runs.push(sample),
                    Ok(_) => {}
                    Err(e) => all[i].failure = Some(e.to_string()),
                }
            }
        }
        report::print(&self.title, &all);
        report::chart(&self.title, &all);
        all
    }
}

/// Times a closure of this process.
pub fn time<T>(job: impl FnOnce() -> Result<T, BoxError>) -> Result<Sample, BoxError> {
    let start = Instant::now();
    job()?;
    Ok(Sample { wall: start.elapsed(), ..Sample::default() })
}

/// Runs a program to its end and measures it: wall, CPU with its waited-for children, peak resident set.
/// A non-zero exit is an error that carries the end of its standard error.
pub fn command(command: &mut Command) -> Result<Sample, BoxError> {
    sys::run(command)
}
