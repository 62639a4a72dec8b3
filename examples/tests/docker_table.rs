//! The README's table of docker's commands and flags, made from docker's own `--help` and ours: no flag of a command is left out.
//!
//! `LONGSHORE_BLESS=1` writes it anew.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use common::{example, output, skip, text};

const DOCKER: &str = "/usr/bin/docker";
const NOUNS: [&str; 6] = ["container", "image", "manifest", "network", "system", "volume"];

/// Command, flag, and how ours is different. A flag that ours does not know either says why it never will.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("", "--config", "the variable `DOCKER_CONFIG` alone"),
    ("", "--context", "no daemon to choose: `--root` chooses the state"),
    ("", "--debug", "no daemon whose log it would be"),
    ("", "--host", "no daemon to choose: `--root` chooses the state"),
    ("", "--log-level", "no daemon whose log it would be"),
    ("", "--tls", "no daemon to talk to"),
    ("", "--tlscacert", "no daemon to talk to"),
    ("", "--tlscert", "no daemon to talk to"),
    ("", "--tlskey", "no daemon to talk to"),
    ("", "--tlsverify", "no daemon to talk to"),
    ("build", "--disable-content-trust", "accepted: no signatures are checked"),
    ("build", "--isolation", "`default` alone: the others are for Windows"),
    ("pull", "--disable-content-trust", "accepted: no signatures are checked"),
    ("push", "--disable-content-trust", "accepted: no signatures are checked"),
    ("run", "--disable-content-trust", "accepted: no signatures are checked"),
    ("run", "--isolation", "`default` alone: the others are for Windows"),
    ("run", "--kernel-memory", "accepted, does nothing: given up by the kernel"),
    ("run", "--log-driver", "`json-file` and `none`; `local` writes `json-file`"),
    ("run", "--log-opt", "`max-size`, `max-file`, `labels`, `env`; docker's others do nothing"),
    ("run", "--runtime", "accepted: there is one"),
    ("run", "--volume-driver", "`local` alone"),
];

/// The commands below one, from the help of either program: indented words before two blanks, under a title that speaks of commands.
fn commands(help: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut under = false;
    for line in help.lines() {
        if !line.starts_with(' ') && !line.is_empty() {
            under = line.trim_end().ends_with("Commands:") || line.trim_end().ends_with("Command:");
        } else if let Some(rest) = line.strip_prefix("  ").filter(|l| under && !l.starts_with(' ')) {
            found.extend(rest.split_whitespace().next().map(|w| w.trim_end_matches('*').to_owned()));
        }
    }
    found.remove("help");
    found
}

/// The long flags that lines begin with; of ours those in the text, too, where aliases stand.
fn flags(help: &str, anywhere: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in help.lines().filter(|l| l.starts_with(' ')) {
        let words = line.split([' ', ',', '[', ']', '=']).filter(|w| !w.is_empty());
        let flags = words.filter(|w| w.starts_with("--") && w.len() > 2).map(str::to_owned);
        let first = line.trim_start();
        if anywhere {
            found.extend(flags);
        } else if first.starts_with('-') {
            found.extend(flags.take(1));
        }
    }
    found.remove("--help");
    found
}

fn help(program: &Path, words: &[&str]) -> String {
    let out = output(Command::new(program).args(words).arg("--help").env_remove("DOCKER_CONFIG"), 30);
    if out.status.success() { text(&out.stdout) } else { String::new() }
}

fn table() -> String {
    let (docker, ours) = (Path::new(DOCKER), example("longshore"));
    let top = commands(&help(docker, &[]));
    let all_ours = commands(&help(&ours, &[]));
    let quoted =
        |list: &BTreeSet<&String>| list.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(" ");
    let mut out = String::new();
    let (done, missing): (BTreeSet<_>, BTreeSet<_>) = top.iter().partition(|c| all_ours.contains(*c));
    let _ = writeln!(out, "Commands: {}\n\nNot yet: {}\n", quoted(&done), quoted(&missing));
    out.push_str("| command | flags done | different | not yet |\n|---|---|---|---|\n");
    // The options of all commands stand first.
    let mut rows = vec![vec![]];
    rows.extend(top.iter().filter(|c| !NOUNS.contains(&c.as_str())).map(|c| vec![c.as_str()]));
    let below: Vec<(&str, BTreeSet<String>)> =
        NOUNS.iter().map(|n| (*n, commands(&help(docker, &[n])))).collect();
    for (noun, verbs) in &below {
        // A verb of its own is the same command.
        let own = |verb: &&String| {
            !top.contains(*verb)
                || ["manifest", "network", "volume"].contains(noun)
                || ["inspect", "rm"].contains(&verb.as_str())
        };
        rows.extend(verbs.iter().filter(own).map(|verb| vec![*noun, verb.as_str()]));
    }
    for words in rows {
        let mine = help(&ours, &words);
        if mine.is_empty() {
            if words.len() > 1 {
                let _ = writeln!(out, "| `{}` | | | the command |", words.join(" "));
            }
            continue;
        }
        let command = words.join(" ");
        let (theirs, mine) = (flags(&help(docker, &words), false), flags(&mine, true));
        let like = if command == "create" { "run" } else { &command };
        let how =
            |flag: &str| DIFFERENT.iter().find(|(c, f, _)| *c == like && *f == flag).map(|(_, _, how)| *how);
        let (different, plain): (Vec<&String>, Vec<&String>) = theirs.iter().partition(|f| how(f).is_some());
        let (done, missing): (BTreeSet<&String>, BTreeSet<&String>) =
            plain.into_iter().partition(|f| mine.contains(*f));
        let different: Vec<String> =
            different.iter().map(|f| format!("`{f}`: {}", how(f).unwrap_or_default())).collect();
        let title = if command.is_empty() { "of all commands".to_owned() } else { format!("`{command}`") };
        let _ = writeln!(
            out,
            "| {title} | {} | {} | {} |",
            quoted(&done),
            different.join("; "),
            quoted(&missing)
        );
    }
    out
}

#[test]
fn the_readme_says_what_of_docker_there_is() {
    if !Path::new(DOCKER).exists() {
        return skip("no docker client");
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&readme).expect("the README");
    let (begin, end) = (
        "<!-- docker's commands: made by tests/docker_table.rs -->\n",
        "<!-- end of docker's commands -->\n",
    );
    let (before, rest) = text.split_once(begin).expect("the table's beginning");
    let (old, after) = rest.split_once(end).expect("the table's end");
    let new = format!("\n{}\n", table());
    if std::env::var_os("LONGSHORE_BLESS").is_some() {
        std::fs::write(&readme, format!("{before}{begin}{new}{end}{after}")).expect("the README");
    } else {
        let differs = old.lines().zip(new.lines()).find(|(old, new)| old != new);
        assert!(old == new, "LONGSHORE_BLESS=1 writes the table anew: {differs:#?}");
    }
}
