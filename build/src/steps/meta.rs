//! Instructions that only change the config.

use super::StageRun;
use crate::Result;
use crate::changes::Changes;
use crate::copy::make_workdir;
use crate::passwd::Accounts;
use crate::syntax::{CommandForm, Op};
use crate::tree::join;

impl StageRun<'_, '_> {
    pub(super) fn metadata(&mut self, op: &Op) -> Result<()> {
        let text = match op {
            Op::Env(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                pairs.iter().for_each(|(n, v)| self.state.set_env(n, v));
                format!("ENV {}", joined(&pairs))
            }
            Op::Label(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                pairs.iter().for_each(|(n, v)| self.state.add_label(n, v));
                format!("LABEL {}", joined(&pairs))
            }
            Op::Arg(args) => self.arg(args)?,
            Op::Cmd(form) => {
                let cmd = self.command(form);
                let text = format!("CMD {}", quoted(&cmd));
                self.state.set_cmd(cmd);
                text
            }
            Op::Entrypoint(form) => {
                let entrypoint = self.command(form);
                let text = format!("ENTRYPOINT {}", quoted(&entrypoint));
                self.state.set_entrypoint(entrypoint);
                text
            }
            Op::Shell(shell) => {
                self.state.set_shell(shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Op::User(user) => {
                let user = self.expand(user)?;
                self.state.run.set_user(Some(user.clone()));
                format!("USER {user}")
            }
            Op::Volume(volumes) => {
                let volumes = volumes.iter().map(|v| self.expand(v)).collect::<Result<Vec<_>>>()?;
                if volumes.iter().any(String::is_empty) {
                    return self.fail("VOLUME specified can not be an empty string");
                }
                self.state.add_volumes(&volumes);
                format!("VOLUME [{}]", volumes.join(" "))
            }
            Op::Expose(words) => self.expose(words)?,
            Op::Stopsignal(signal) => {
                let signal = self.expand(signal)?;
                if !is_signal(&signal) {
                    return self.fail(format!("invalid signal: {signal}"));
                }
                self.state.run.set_stop_signal(Some(signal.clone()));
                format!("STOPSIGNAL {signal}")
            }
            Op::Healthcheck(check) => {
                self.state.set_healthcheck(check.clone());
                format!("HEALTHCHECK {}", quoted(&check.test))
            }
            Op::Onbuild(trigger) => {
                self.state.add_trigger(trigger);
                // BuildKit writes none into history.
                return Ok(());
            }
            Op::Maintainer(name) => {
                self.state.set_author(name);
                format!("MAINTAINER {name}")
            }
            Op::From { .. } | Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => return Ok(()),
        };
        self.state.record(text, false);
        Ok(())
    }

    /// All values are replaced with what was there before the instruction.
    fn expand_pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        pairs.iter().map(|(n, v)| Ok((self.expand(n)?, self.expand(v)?))).collect()
    }

    fn arg(&mut self, args: &[(String, Option<String>)]) -> Result<String> {
        let mut words = Vec::new();
        for (name, default) in args {
            let name = self.expand(name)?;
            let given =
                self.shared.options.build_args.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
            let default = default.as_ref().map(|d| self.expand(d)).transpose()?;
            words.push(default.as_ref().map_or(name.clone(), |d| format!("{name}={d}")));
            let value = given.or(default).or_else(|| self.shared.plan.globals.get(&name).cloned());
            let value = value.or_else(|| self.state.arg(&name));
            self.state.set_arg(&name, value);
        }
        Ok(format!("ARG {}", words.join(" ")))
    }

    pub(super) fn command(&self, form: &CommandForm) -> Vec<String> {
        match form {
            CommandForm::Exec(args) => args.clone(),
            CommandForm::Shell(line) if line.is_empty() => Vec::new(),
            CommandForm::Shell(line) => {
                let mut args = self.state.shell();
                args.push(line.clone());
                args
            }
        }
    }

    fn expose(&mut self, words: &[String]) -> Result<String> {
        let mut ports = Vec::new();
        for word in words {
            for word in self.expand_words(word)? {
                match port_range(&word) {
                    Some(more) => ports.extend(more),
                    None => return self.fail(format!("invalid containerPort: {word}")),
                }
            }
        }
        ports.sort();
        self.state.add_exposed(&ports);
        let shown: Vec<_> = ports.iter().map(|p| format!("{p}:{{}}")).collect();
        Ok(format!("EXPOSE map[{}]", shown.join(" ")))
    }

    pub(super) fn workdir(&mut self, dir: &str) -> Result<()> {
        let dir = self.expand(dir)?;
        if dir.is_empty() {
            return self.fail("WORKDIR can not be an empty string");
        }
        let dir = join(self.state.workdir(), &dir);
        self.state.run.set_working_dir(Some(dir.clone()));
        let user = self.state.user().to_owned();
        let key = self.key("workdir", &serde_json::json!([dir, user]));
        self.layer_step(&key, format!("WORKDIR {dir}"), |run| {
            let view = run.view()?;
            let mut changes = Changes::new(&view.tree, run.now());
            let owner = if user.is_empty() {
                (0, 0)
            } else {
                Accounts::read(&view.tree)?.user(&user).map(|u| (u.uid, u.gid)).or_else(|m| run.fail(m))?
            };
            make_workdir(&mut changes, &dir, owner)?;
            run.store_changes(changes)
        })
    }
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
}

/// As Go's `%q` prints a list.
fn quoted(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" "))
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn port_range(text: &str) -> Option<Vec<String>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    // What docker allows in front, `[ip:][host:]container`, means nothing in an image.
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
    let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high && low > 0).then(|| (low..=high).map(|p| format!("{p}/{protocol}")).collect())
}

/// A number, or a name as in `signal(7)`.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset =
        |of: &str, most: u8| name.strip_prefix(of).is_some_and(|r| (1..=most).any(|n| r == n.to_string()));
    NAMES.contains(&name)
        || matches!(name, "IOT" | "POLL" | "CLD" | "RTMIN" | "RTMAX")
        || offset("RTMIN+", 15)
        || offset("RTMAX-", 14)
        || text.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_signals() {
        assert_eq!(port_range("80").unwrap(), ["80/tcp"]);
        assert_eq!(port_range("80-82/UDP").unwrap(), ["80/udp", "81/udp", "82/udp"]);
        for bad in ["", "x", "0", "70000", "82-80", "80/xyz", "80-"] {
            assert!(port_range(bad).is_none(), "{bad}");
        }
        assert!(is_signal("SIGTERM") && is_signal("9") && is_signal("RTMIN+3"));
        assert!(!is_signal("SIGFOO") && !is_signal("0") && !is_signal("x"));
        assert!(is_signal("sigrtmin") && is_signal("SIGRTMIN+15") && is_signal("RTMAX-14"));
        for bad in [
            "RTMIN+16",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN+03",
            "RTMIN++3",
            "RTMAX-15",
            "RTMIN+0",
            "SIGRTMINé",
            "RTMAX€",
        ] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
