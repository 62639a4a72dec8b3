//! `top`: docker hands its options to the host's `ps`; here those that people use are known, and the others are refused.

use clap::Args;
use longshore_runtime::containers::Process;

use crate::app::App;
use crate::failure::{Failure, Result};
use crate::output;

/// `top`
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
    /// As of ps(1): -ef, aux, -o COLUMN[=TITLE],...
    #[arg(value_name = "ps OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn top(app: &App, args: &TopArgs) -> Result<()> {
    let columns = columns(&args.options)?;
    if !columns.iter().any(|column| column.title == "PID") {
        return Err(Failure::new("Couldn't find PID field in ps output"));
    }
    let host = Host::read();
    let mut lines = vec![columns.iter().map(|column| column.title.clone()).collect::<Vec<_>>()];
    for process in app.containers()?.processes(&args.name)? {
        lines.push(columns.iter().map(|column| (column.show)(&process, &host)).collect());
    }
    output::text(&output::aligned(&lines, 20));
    Ok(())
}

type Show = fn(&Process, &Host) -> String;

#[derive(Debug)]
struct Column {
    title: String,
    show: Show,
}

/// What is not the process's own.
struct Host {
    users: String,
    groups: String,
    /// Bytes.
    memory: u64,
}

impl Host {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let kilobytes = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next());
        let memory = kilobytes.and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024;
        Self { users: text("/etc/passwd"), groups: text("/etc/group"), memory }
    }

    /// The host's name for an id, as `ps` shows it; the id where there is none, or one that is too long.
    fn name(file: &str, id: u32) -> String {
        let id = id.to_string();
        let named = file.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == id && name.len() <= 8).then(|| name.to_owned())
        });
        named.unwrap_or(id)
    }
}

const FULL: &str = "user=UID,pid,ppid,c,stime,tname,time,cmd";
const USER: &str = "user,pid,%cpu,%mem,vsz,rss,tname,stat,stime=START,bsdtime,args";

/// The columns that these options of `ps` ask for.
fn columns(options: &[String]) -> Result<Vec<Column>> {
    let (mut wanted, mut full, mut user) = (Vec::new(), options.is_empty(), false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let letters = option.strip_prefix('-').filter(|rest| !rest.starts_with('-')).unwrap_or(option);
        if let Some(list) = option.strip_prefix("--format=") {
            wanted.push(list.to_owned());
            continue;
        }
        // What stands before `o` only says which processes; `a`, `x`, `e` and `w` change nothing here.
        let (flags, list) = match letters.split_once('o') {
            _ if option == "--format" => ("", Some("")),
            Some((flags, list)) => (flags, Some(list)),
            None => (letters, None),
        };
        for flag in flags.chars() {
            match (flag, option.starts_with('-')) {
                ('e' | 'A' | 'a' | 'x' | 'w', _) => {}
                ('f', _) => full = true,
                ('u', false) => user = true,
                _ => {
                    let why = "of those of ps, -ef, aux and -o COLUMN[=TITLE],... are known";
                    return Err(Failure::new(format!("unknown ps option '{option}': {why}")));
                }
            }
        }
        match list {
            Some("") => wanted.extend(options.next().cloned()),
            Some(list) => wanted.push(list.to_owned()),
            None => {}
        }
    }
    if wanted.is_empty() {
        let default = if user {
            USER
        } else if full {
            FULL
        } else {
            "pid,tname,time,comm=CMD"
        };
        wanted.push(default.to_owned());
    }
    let mut columns = Vec::new();
    for list in &wanted {
        let mut rest = Some(list.as_str());
        while let Some(list) = rest {
            // A title goes to the end, commas and all, but for those of our own lists.
            let own = [FULL, USER, "pid,tname,time,comm=CMD"].contains(&wanted[0].as_str());
            let end =
                list.find([',', ' ']).filter(|end| own || !list[..*end].contains('=')).unwrap_or(list.len());
            columns.push(column(&list[..end])?);
            rest = list.get(end + 1..);
        }
    }
    Ok(columns)
}

/// `name`, `name:width`, `name=TITLE`
fn column(text: &str) -> Result<Column> {
    let (name, title) = text.split_once('=').map_or((text, None), |(name, title)| (name, Some(title)));
    let name = name.split(':').next().unwrap_or(name);
    let found = COLUMNS.iter().find(|(names, ..)| names.split(' ').any(|n| n == name));
    let Some((_, own, show)) = found else {
        return Err(Failure::new(format!("ps: error: unknown user-defined format specifier \"{name}\"")));
    };
    Ok(Column { title: title.unwrap_or(own).to_owned(), show: *show })
}

/// Names, title, and what is shown.
const COLUMNS: &[(&str, &str, Show)] = &[
    ("pid tgid", "PID", |p, _| p.pid.to_string()),
    ("ppid", "PPID", |p, _| p.ppid.to_string()),
    ("pgid pgrp", "PGID", |p, _| p.pgid.to_string()),
    ("sid", "SID", |p, _| p.session.to_string()),
    ("sess session", "SESS", |p, _| p.session.to_string()),
    ("user euser uname", "USER", |p, host| Host::name(&host.users, p.uid)),
    ("uid euid", "UID", |p, _| p.uid.to_string()),
    ("group egroup", "GROUP", |p, host| Host::name(&host.groups, p.gid)),
    ("gid egid", "GID", |p, _| p.gid.to_string()),
    ("comm ucmd ucomm", "COMMAND", |p, _| p.name.clone()),
    ("args command", "COMMAND", |p, _| arguments(p)),
    ("cmd", "CMD", |p, _| arguments(p)),
    ("s state", "S", |p, _| p.state.to_string()),
    ("stat", "STAT", |p, _| stat(p)),
    ("tname", "TTY", |p, _| tty(p)),
    ("tty tt", "TT", |p, _| tty(p)),
    ("time cputime", "TIME", |p, _| clock(p.cpu_seconds)),
    ("bsdtime", "TIME", |p, _| format!("{}:{:02}", p.cpu_seconds / 60, p.cpu_seconds % 60)),
    ("etimes", "ELAPSED", |p, _| p.elapsed.to_string()),
    ("etime", "ELAPSED", |p, _| elapsed(p.elapsed)),
    ("stime start_time", "STIME", |p, _| began(p)),
    ("c", "C", |p, _| (p.cpu_seconds * 100 / p.elapsed.max(1)).to_string()),
    ("pcpu %cpu", "%CPU", |p, _| format!("{:.1}", p.cpu_seconds as f64 * 100.0 / p.elapsed.max(1) as f64)),
    ("pmem %mem", "%MEM", |p, host| format!("{:.1}", p.memory as f64 * 100.0 / host.memory.max(1) as f64)),
    ("rss rssize rsz", "RSS", |p, _| (p.memory / 1024).to_string()),
    ("vsz vsize", "VSZ", |p, _| (p.virtual_memory / 1024).to_string()),
    ("nlwp thcount", "NLWP", |p, _| p.threads.to_string()),
    ("ni nice", "NI", |p, _| p.nice.to_string()),
    ("pri", "PRI", |p, _| (39 - p.priority).to_string()),
];

fn arguments(p: &Process) -> String {
    if p.arguments.is_empty() { format!("[{}]", p.name) } else { p.arguments.join(" ") }
}

fn stat(p: &Process) -> String {
    let marks = [
        (p.nice < 0, '<'),
        (p.nice > 0, 'N'),
        (p.session == p.pid, 's'),
        (p.threads > 1, 'l'),
        (p.foreground, '+'),
    ];
    let marks = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark);
    std::iter::once(p.state).chain(marks).collect()
}

fn tty(p: &Process) -> String {
    match p.terminal {
        0 => "?".to_owned(),
        device => format!("pts/{}", (device & 0xff) | ((device >> 12) & 0xfff00)),
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `[[DD-]HH:]MM:SS`
fn elapsed(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, _) => format!("{hours:02}:{rest}"),
        _ => format!("{days}-{hours:02}:{rest}"),
    }
}

/// The time of day in UTC; the day where it was another.
fn began(p: &Process) -> String {
    let time = |seconds| jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let (then, now) = (time(p.started), jiff::Timestamp::now());
    let day = |time: jiff::Timestamp| time.strftime("%Y-%j").to_string();
    then.strftime(if day(then) == day(now) { "%H:%M" } else { "%b%d" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(options: &[&str]) -> String {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        match columns(&options) {
            Ok(columns) => columns.iter().map(|c| c.title.as_str()).collect::<Vec<_>>().join(" "),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn options_are_those_of_ps() {
        let full = "UID PID PPID C STIME TTY TIME CMD";
        let user = "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND";
        for (options, wanted) in [
            (&[][..], full),
            (&["-ef"], full),
            (&["-e", "-f"], full),
            (&["aux"], user),
            (&["-e"], "PID TTY TIME CMD"),
            (&["-o", "pid,comm"], "PID COMMAND"),
            (&["-opid,comm"], "PID COMMAND"),
            (&["-eo", "pid,ppid"], "PID PPID"),
            (&["-e", "-o", "pid", "-o", "stat"], "PID STAT"),
            (&["axo", "pid,%cpu"], "PID %CPU"),
            (&["--format", "user:20,pid"], "USER PID"),
            (&["--format=pid,tt"], "PID TT"),
            (&["-o", "pid,comm=a,b"], "PID a,b"),
            (&["-o", "pid,nope"], "ps: error: unknown user-defined format specifier \"nope\""),
            (&["-l"], "unknown ps option '-l': of those of ps, -ef, aux and -o COLUMN[=TITLE],... are known"),
        ] {
            assert_eq!(titles(options), wanted, "{options:?}");
        }
        assert_eq!((elapsed(59), elapsed(3700)), ("00:59".to_owned(), "01:01:40".to_owned()));
        assert_eq!(elapsed(90_061), "1-01:01:01");
    }
}
