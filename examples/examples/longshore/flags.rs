//! Docker's spellings of flags that clap does not take: `-eA=b` before a command of the container's own, `--rm=false`, a flag
//! given twice. They are written out by what the command says of its flags; what follows an image or a container stays as it is.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command, Id};

/// The program's arguments as clap takes them.
pub(crate) fn written_out(
    program: &Command,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Vec<OsString> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut writer =
        Writer { program, command: program.clone(), rest: arguments.into_iter(), written: Vec::new() };
    // The program itself.
    writer.written.extend(writer.rest.next().map(|name| (None, name)));
    while let Some(argument) = writer.rest.next()
        && writer.argument(argument)
    {}
    writer.written.into_iter().map(|(_, word)| word).chain(writer.rest).collect()
}

enum Kind {
    /// There or not.
    Switch,
    /// `true` unless its value says otherwise.
    Boolean,
    /// With a value.
    Value,
    /// Clap's own.
    Other,
}

struct Writer<'a> {
    program: &'a Command,
    command: Command,
    rest: std::vec::IntoIter<OsString>,
    /// A flag that there can be one of stands with its name.
    written: Vec<(Option<Id>, OsString)>,
}

impl Writer<'_> {
    fn word(&mut self, word: impl Into<OsString>) {
        self.written.push((None, word.into()));
    }

    /// Whether the next one is looked at, too.
    fn argument(&mut self, argument: OsString) -> bool {
        match argument.to_str() {
            Some(text) if text.starts_with("--") && text.len() > 2 => self.long(text),
            Some(text) if text.starts_with('-') && !matches!(text, "-" | "--") => self.shorts(text),
            _ => {
                let more = argument != "--" && self.flags_follow(&argument);
                self.word(argument);
                return more;
            }
        }
        true
    }

    /// Whether there may be flags behind this, a command's name or an argument of a command.
    fn flags_follow(&mut self, argument: &OsStr) -> bool {
        if !self.command.has_subcommands() {
            return !self.command.get_positionals().any(Arg::is_trailing_var_arg_set);
        }
        let Some(mut below) = self.command.find_subcommand(argument).cloned() else { return false };
        // For this it is described, and not all that is below it, as `build` does.
        below.render_usage();
        self.command = below;
        true
    }

    fn find(&self, is: impl Fn(&Arg) -> bool) -> Option<Arg> {
        self.command.get_arguments().chain(self.program.get_arguments()).find(|arg| is(arg)).cloned()
    }

    fn long(&mut self, text: &str) {
        let (name, value) = match text[2..].split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&text[2..], None),
        };
        let named = |arg: &Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
        };
        match self.find(named) {
            Some(flag) => self.flag(&flag, name, value),
            None => self.word(text),
        }
    }

    /// `-it`, `-eA=b`, `-itp8080:80`, `-t=false`; what is none stays as it is.
    fn shorts(&mut self, text: &str) {
        let mut found = Vec::new();
        let mut rest = &text[1..];
        while let Some(letter) = rest.chars().next() {
            let Some(flag) = self.find(|arg| arg.get_short() == Some(letter)) else { return self.word(text) };
            rest = &rest[letter.len_utf8()..];
            let value = match rest.strip_prefix('=').filter(|value| !value.is_empty()) {
                None => Some(rest).filter(|rest| matches!(kind(&flag), Kind::Value) && !rest.is_empty()),
                value => value,
            };
            if value.is_some() {
                rest = "";
            }
            found.push((flag, value));
        }
        if found.iter().any(|(flag, _)| flag.get_long().is_none()) {
            return self.word(text);
        }
        for (flag, value) in found {
            self.flag(&flag, flag.get_long().unwrap_or_default(), value);
        }
    }

    /// Where there can be one, the last one counts.
    fn flag(&mut self, flag: &Arg, name: &str, value: Option<&str>) {
        let kind = kind(flag);
        let off = matches!(kind, Kind::Switch) && value.and_then(boolean) == Some(false);
        let mut word = OsString::from(format!("--{name}"));
        let value = match (&kind, value, value.and_then(boolean)) {
            (Kind::Switch, _, Some(_)) => None,
            (Kind::Boolean, _, Some(given)) => Some(given.to_string().into()),
            // Whatever it looks like.
            (Kind::Value, None, _) => self.rest.next(),
            (_, value, _) => value.map(OsString::from),
        };
        if let Some(value) = value {
            word.push("=");
            word.push(value);
        }
        let one = (!matches!(flag.get_action(), ArgAction::Append)).then(|| flag.get_id().clone());
        self.written.retain(|(earlier, _)| one.is_none() || *earlier != one);
        if !off {
            self.written.push((one, word));
        }
    }
}

fn kind(flag: &Arg) -> Kind {
    match flag.get_action() {
        ArgAction::SetTrue => Kind::Switch,
        ArgAction::Set if flag.get_num_args().is_some_and(|n| n.min_values() == 0) => Kind::Boolean,
        ArgAction::Set | ArgAction::Append => Kind::Value,
        _ => Kind::Other,
    }
}

/// As docker reads it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn written(line: &str) -> String {
        let words = written_out(&crate::Cli::command(), line.split(' '));
        words.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn a_short_flags_value_may_be_attached() {
        for (line, as_clap) in [
            ("l run -eA=b -uroot -w/tmp bb true", "l run --env=A=b --user=root --workdir=/tmp bb true"),
            ("l container run -itp8080:80 bb", "l container run --interactive --tty --publish=8080:80 bb"),
            ("l create -c512 -h=foo -e=A=b bb", "l create --cpu-shares=512 --hostname=foo --env=A=b bb"),
            (
                "l --root /r exec -ituroot x1 sh -uroot",
                "l --root=/r exec --interactive --tty --user=root x1 sh -uroot",
            ),
            ("l ps -an1", "l ps --all --last=1"),
            ("l run -dz bb -eA=b", "l run -dz bb -eA=b"),
        ] {
            assert_eq!(written(line), as_clap);
        }
    }

    #[test]
    fn a_boolean_flag_may_have_a_value_and_the_last_one_counts() {
        for (line, as_clap) in [
            (
                "l run --rm=false --init=true -it=false bb --rm=false",
                "l run --init --interactive bb --rm=false",
            ),
            ("l run --rm -d --rm=f -d=0 --tty=T bb", "l run --tty bb"),
            ("l run --sig-proxy=0 --rm=maybe bb", "l run --sig-proxy=false --rm=maybe bb"),
            ("l run --name a -e A --name b -e --rm bb", "l run --env=A --name=b --env=--rm bb"),
            ("l rm box -f=true other", "l rm box --force other"),
            ("l rm -- -f=true", "l rm -- -f=true"),
            ("l top box -o=pid", "l top box -o=pid"),
            ("l commit -p=F box", "l commit --pause=false box"),
        ] {
            assert_eq!(written(line), as_clap);
        }
    }
}
