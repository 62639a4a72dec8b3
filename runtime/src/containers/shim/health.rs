//! Health checks: a program run inside now and then; its exit code is the container's health.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use super::io::{self, Read};
use crate::containers::record::{Record, now};
use crate::containers::{Containers, ExecRequest, Health, HealthConfig, HealthResult, Result};
use crate::{Container, ExecProcess, Stdio};

/// Output of a check that is kept, in bytes.
const OUTPUT_MAX: usize = 4096;
/// Results that are kept.
const RESULTS: usize = 5;

#[derive(Debug)]
pub(super) struct Monitor {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    began: Instant,
    next: Instant,
    check: Option<Check>,
}

/// A check that is under way.
#[derive(Debug)]
struct Check {
    process: ExecProcess,
    output: Option<OwnedFd>,
    text: Vec<u8>,
    start: String,
    deadline: Instant,
}

fn nanos(n: i64, default: Duration) -> Duration {
    u64::try_from(n).ok().filter(|n| *n > 0).map_or(default, Duration::from_nanos)
}

impl Monitor {
    /// `None` where nothing is to be checked.
    pub(super) fn new(record: &Record) -> Option<Self> {
        let config = record.config.healthcheck.as_ref()?;
        let args = command(config, &record.config.shell)?;
        let (began, interval) = (Instant::now(), nanos(config.interval, Duration::from_secs(30)));
        let start_period = nanos(config.start_period, Duration::ZERO);
        let start_interval = nanos(config.start_interval, Duration::from_secs(5));
        let mut monitor = Self {
            args,
            interval,
            timeout: nanos(config.timeout, Duration::from_secs(30)),
            start_period,
            start_interval,
            retries: u32::try_from(config.retries).ok().filter(|n| *n > 0).unwrap_or(3),
            began,
            next: began,
            check: None,
        };
        monitor.next = began + monitor.pause("starting");
        Some(monitor)
    }

    pub(super) fn starting(&self) -> Health {
        Health { status: "starting".into(), ..Health::default() }
    }

    /// In the start period, and until the first success in it, checks come more often.
    fn pause(&self, status: &str) -> Duration {
        if status == "starting" && self.began.elapsed() < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }

    /// When [`Self::tick`] has something to do without any descriptor telling so.
    pub(super) fn due(&self) -> Instant {
        self.check.as_ref().map_or(self.next, |c| c.deadline)
    }

    /// Descriptors that wake a check.
    pub(super) fn poll_fds<'a>(&'a self, add: &mut dyn FnMut(BorrowedFd<'a>)) {
        if let Some(check) = &self.check {
            add(check.process.as_fd());
            if let Some(fd) = &check.output {
                add(fd.as_fd());
            }
        }
    }

    /// Starts, reads, ends a check. `Some`: the new health.
    pub(super) fn tick(
        &mut self,
        all: &Containers,
        record: &Record,
        container: &Container,
        health: Option<&Health>,
    ) -> Option<Health> {
        let instant = Instant::now();
        let Some(check) = &mut self.check else {
            if self.next > instant {
                return None;
            }
            match begin(all, record, container, &self.args, self.timeout) {
                Ok(check) => self.check = Some(check),
                Err(e) => {
                    let text = crate::containers::error::chain(&e);
                    return Some(self.result(
                        health,
                        HealthResult { start: now(), end: now(), exit_code: -1, output: text },
                    ));
                }
            }
            return None;
        };
        check.read();
        let code = match check.process.wait(Some(Duration::ZERO)) {
            Ok(Some(exit)) => Some(exit.code),
            Ok(None) if check.deadline <= instant => {
                let _ =
                    rustix::process::pidfd_send_signal(check.process.as_fd(), rustix::process::Signal::KILL);
                let _ = check.process.wait(Some(Duration::from_secs(1)));
                check.text =
                    format!("Health check exceeded timeout ({})", in_words(self.timeout)).into_bytes();
                Some(-1)
            }
            Ok(None) => None,
            Err(_) => Some(-1),
        }?;
        let mut check = self.check.take()?;
        if code != -1 {
            check.read();
        }
        let output = String::from_utf8_lossy(&check.text).into_owned();
        Some(self.result(health, HealthResult { start: check.start, end: now(), exit_code: code, output }))
    }

    fn result(&mut self, health: Option<&Health>, result: HealthResult) -> Health {
        let mut health = health.cloned().unwrap_or_else(|| self.starting());
        if result.exit_code == 0 {
            (health.status, health.failing_streak) = ("healthy".into(), 0);
        } else if health.status != "starting" || self.began.elapsed() >= self.start_period {
            health.failing_streak += 1;
            if health.failing_streak >= self.retries {
                health.status = "unhealthy".into();
            }
        }
        health.log.push(result);
        let surplus = health.log.len().saturating_sub(RESULTS);
        health.log.drain(..surplus);
        self.next = Instant::now() + self.pause(&health.status);
        health
    }
}

impl Check {
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(fd) = &self.output {
            match io::read(fd, &mut buffer) {
                Read::Bytes(n) => {
                    let room = OUTPUT_MAX.saturating_sub(self.text.len());
                    self.text.extend_from_slice(&buffer[..n.min(room)]);
                }
                Read::Later => return,
                Read::End => self.output = None,
            }
        }
    }
}

/// A check that the monitor is dropped over dies with its container.
fn begin(
    all: &Containers,
    record: &Record,
    container: &Container,
    args: &[String],
    timeout: Duration,
) -> Result<Check> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|e| crate::containers::Error::io("make", "a pipe")(e.into()))?;
    rustix::io::ioctl_fionbio(&read, true)
        .map_err(|e| crate::containers::Error::io("set up", "a pipe")(e.into()))?;
    let second = write.try_clone().map_err(crate::containers::Error::io("duplicate", "a pipe"))?;
    let stdio = [Stdio::Null, Stdio::Fd(write), Stdio::Fd(second)];
    let start = now();
    let process = all.exec_in(record, container, &ExecRequest::new(args), stdio)?;
    Ok(Check { process, output: Some(read), text: Vec::new(), start, deadline: Instant::now() + timeout })
}

fn command(config: &HealthConfig, shell: &[String]) -> Option<Vec<String>> {
    let (kind, rest) = config.test.split_first()?;
    match kind.as_str() {
        "CMD" if !rest.is_empty() => Some(rest.to_vec()),
        "CMD-SHELL" if !rest.is_empty() => {
            let shell: Vec<String> =
                if shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { shell.to_vec() };
            Some(shell.into_iter().chain([rest[0].clone()]).collect())
        }
        _ => None,
    }
}

fn in_words(d: Duration) -> String {
    if d.subsec_millis() == 0 { format!("{}s", d.as_secs()) } else { format!("{}ms", d.as_millis()) }
}
