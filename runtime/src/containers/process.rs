//! What `/proc` says of a container's processes.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{Containers, Error, Result};

/// A process of a container, with the host's numbers (proc(5)).
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Process ID.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub session: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// `R`, `S`, `D`, `Z`, ...
    pub state: char,
    /// Whether its group has the terminal.
    pub foreground: bool,
    /// Niceness.
    pub nice: i64,
    /// Priority, as the kernel counts it: lower runs first.
    pub priority: i64,
    /// Threads.
    pub threads: u64,
    /// The terminal's device number; 0 is none.
    pub terminal: u64,
    /// CPU time in seconds.
    pub cpu_seconds: u64,
    /// How long it has been running, in seconds.
    pub elapsed: u64,
    /// When it began, in seconds since 1970.
    pub started: i64,
    /// Address space in bytes.
    pub virtual_memory: u64,
    /// Resident memory in bytes.
    pub memory: u64,
    /// The program's name, at most 15 bytes.
    pub name: String,
    /// Program and arguments; empty where it has given them away.
    pub arguments: Vec<String>,
}

impl Process {
    /// Reads one; `None` if it has gone.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let proc = Path::new("/proc").join(pid.to_string());
        let stat = fs::read(proc.join("stat")).ok()?;
        let status = fs::read(proc.join("status")).ok()?;
        let arguments = fs::read(proc.join("cmdline")).unwrap_or_default();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec as u64;
        let mut process =
            Self::parse(&String::from_utf8_lossy(&stat), &String::from_utf8_lossy(&status), now)?;
        process.pid = pid;
        process.started = jiff::Timestamp::now().as_second() - process.elapsed.cast_signed();
        let arguments = String::from_utf8_lossy(&arguments);
        let arguments = arguments.trim_end_matches('\0').split('\0').filter(|_| !arguments.is_empty());
        process.arguments = arguments.map(str::to_owned).collect();
        Some(process)
    }

    /// `now` in seconds since the machine's start.
    fn parse(stat: &str, status: &str, now: u64) -> Option<Self> {
        let (open, close) = (stat.find('(')?, stat.rfind(')')?);
        let fields: Vec<&str> = stat.get(close + 1..)?.split_ascii_whitespace().collect();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
        let positive = |n: usize| u64::try_from(number(n)).unwrap_or(0);
        let id = |n: usize| u32::try_from(number(n)).unwrap_or(0);
        // Real, effective, saved, file system.
        let effective = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u32>().ok()
        };
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        Some(Self {
            ppid: id(1),
            pgid: id(2),
            session: id(3),
            uid: effective("Uid:")?,
            gid: effective("Gid:")?,
            state: fields.first()?.chars().next()?,
            foreground: number(5) > 0 && number(5) == number(2),
            nice: number(16),
            priority: number(15),
            threads: positive(17),
            terminal: positive(4),
            cpu_seconds: (positive(11) + positive(12)) / ticks,
            elapsed: now.saturating_sub(positive(19) / ticks),
            virtual_memory: positive(20),
            memory: positive(21).saturating_mul(rustix::param::page_size() as u64),
            name: stat.get(open + 1..close)?.to_owned(),
            ..Self::default()
        })
    }
}

impl Containers {
    /// Its processes.
    ///
    /// # Errors
    /// [`Error::NotRunning`]
    pub fn processes(&self, key: &str) -> Result<Vec<Process>> {
        let id = self.id(key)?;
        let (_, state) = self.load(&id)?;
        if !state.shown.running {
            return Err(Error::NotRunning(id));
        }
        Ok(self.0.runtime.open(&id)?.processes()?.into_iter().filter_map(Process::read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat =
            "7 (a) R (b) S 3 7 7 34816 7 0 1 2 3 4 200 100 0 0 20 5 2 0 1000 4096 3 18446744073709551615";
        let status = "Name:\ta\nUid:\t0\t33\t0\t0\nGid:\t0\t34\t0\t0\n";
        let process = Process::parse(stat, status, 100).unwrap();
        assert_eq!((process.name.as_str(), process.state, process.ppid), ("a) R (b", 'S', 3));
        assert_eq!((process.uid, process.gid, process.nice, process.threads), (33, 34, 5, 2));
        assert!(process.foreground && process.terminal == 34816 && process.virtual_memory == 4096);
        assert!(Process::parse("", "", 0).is_none() && Process::parse(")(", status, 0).is_none());
    }

    #[test]
    fn this_process_is_seen() {
        let own = Process::read(std::process::id()).unwrap();
        assert!(own.memory > 0 && !own.arguments.is_empty() && own.threads > 0);
    }
}
