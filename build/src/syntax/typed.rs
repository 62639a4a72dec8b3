//! From an instruction's words to what it means.

use longshore_image::Healthcheck;

use super::words::{self, Json};
use super::{Heredoc, Instruction, heredoc, nearest};

/// What an instruction means. Variables in it are not replaced yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// `FROM image [AS name]`.
    From {
        /// Image or stage.
        image: String,
        /// The stage's name.
        name: Option<String>,
        /// `--platform`.
        platform: Option<String>,
    },
    /// `RUN`.
    Run(RunOp),
    /// `CMD`.
    Cmd(CommandForm),
    /// `ENTRYPOINT`.
    Entrypoint(CommandForm),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `LABEL`.
    Label(Vec<(String, String)>),
    /// `ARG name[=default] ...`.
    Arg(Vec<(String, Option<String>)>),
    /// `COPY` or `ADD`.
    Copy(Box<CopyOp>),
    /// `WORKDIR`.
    Workdir(String),
    /// `USER`.
    User(String),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(String),
    /// `HEALTHCHECK`.
    Healthcheck(HealthcheckOp),
    /// `ONBUILD`: the trigger as written, its here-documents included.
    Onbuild(String),
    /// `MAINTAINER`.
    Maintainer(String),
}

/// A command as a JSON array or as text for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandForm {
    /// Program and arguments.
    Exec(Vec<String>),
    /// One line for the shell.
    Shell(String),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunOp {
    /// The command.
    pub command: CommandForm,
    /// `--mount`, each as written.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
    /// `--device`.
    pub devices: Vec<String>,
    /// Here-documents.
    pub heredocs: Vec<Heredoc>,
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyOp {
    /// It is `ADD`.
    pub add: bool,
    /// Sources in order.
    pub sources: Vec<CopySource>,
    /// Destination.
    pub dest: String,
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// A source of `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path, pattern or address.
    Path(String),
    /// A file with this content.
    Heredoc(Heredoc),
}

/// `HEALTHCHECK`.
pub type HealthcheckOp = Healthcheck;

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Whether `<<` words in it announce here-documents.
pub(super) fn takes_heredocs(i: &Instruction) -> bool {
    let (name, arguments) = if i.name == "ONBUILD" {
        let (name, rest) = i.arguments.split_once(char::is_whitespace).unwrap_or((&i.arguments, ""));
        (name.to_uppercase(), super::flags::split(rest).1)
    } else {
        (i.name.clone(), i.arguments.as_str())
    };
    matches!(name.as_str(), "RUN" | "COPY" | "ADD") && !matches!(words::json(arguments), Json::Array(_))
}

/// Types an instruction, or says what is wrong with it.
pub(super) fn op(i: &Instruction, escape: char) -> Result<Op, String> {
    if !KEYWORDS.contains(&i.name.as_str()) {
        let written = i.text.split_whitespace().next().unwrap_or_default();
        return Err(match nearest(&i.name, KEYWORDS) {
            Some(k) => format!("unknown instruction: {written} (did you mean {k}?)"),
            None => format!("unknown instruction: {written}"),
        });
    }
    let f = Flags::check(i)?;
    let args = i.arguments.as_str();
    let some = |args: &str| {
        if args.is_empty() { Err(format!("{} requires at least one argument", i.name)) } else { Ok(()) }
    };
    let one = || match words::plain(args).as_slice() {
        [_] => Ok(args.to_owned()),
        _ => Err(format!("{} requires exactly one argument", i.name)),
    };
    Ok(match i.name.as_str() {
        "FROM" => from(args, &f)?,
        "RUN" => Op::Run(run(i, &f)?),
        "CMD" => Op::Cmd(command(args)?),
        "ENTRYPOINT" => Op::Entrypoint(command(args)?),
        "SHELL" => match words::json(args) {
            Json::Array(a) if a.is_empty() => return Err("SHELL requires at least one argument".to_owned()),
            Json::Array(a) => Op::Shell(a),
            _ => return Err(format!("SHELL requires the arguments to be in JSON form: {args}")),
        },
        "ENV" => Op::Env(words::pairs(args, "ENV", escape)?.0),
        "LABEL" => Op::Label(words::pairs(args, "LABEL", escape)?.0),
        "ARG" => Op::Arg(arg(args, escape)?),
        "COPY" | "ADD" => Op::Copy(Box::new(copy(i, &f, escape)?)),
        "WORKDIR" => Op::Workdir(some(args).map(|()| args.to_owned())?),
        "USER" => Op::User(one()?),
        "VOLUME" => {
            some(args)?;
            let volumes = words::json_or_words(args)?;
            if volumes.iter().any(|v| v.trim().is_empty()) || volumes.is_empty() {
                return Err("VOLUME specified can not be an empty string".to_owned());
            }
            Op::Volume(volumes)
        }
        "EXPOSE" => Op::Expose(some(args).map(|()| words::plain(args))?),
        "STOPSIGNAL" => Op::Stopsignal(one()?),
        "HEALTHCHECK" => Op::Healthcheck(healthcheck(args, &f)?),
        "ONBUILD" => onbuild(i)?,
        _ => Op::Maintainer(some(args).map(|()| args.to_owned())?),
    })
}

/// The flags of an instruction, checked against the ones that it may have.
struct Flags<'a>(&'a Instruction);

impl<'a> Flags<'a> {
    fn check(i: &'a Instruction) -> Result<Self, String> {
        let known: &[&str] = match i.name.as_str() {
            "FROM" => &["platform"],
            "RUN" => &["mount", "network", "security", "device"],
            "COPY" => &["chown", "chmod", "from", "link", "parents", "exclude"],
            "ADD" => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
            "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
            _ => &[],
        };
        for (at, flag) in i.flags.iter().enumerate() {
            let name = flag.name.as_str();
            if !known.contains(&name) {
                return Err(match nearest(name, known.iter().copied()) {
                    Some(k) => format!("unknown flag: --{name} (did you mean {k}?)"),
                    None => format!("unknown flag: --{name}"),
                });
            }
            let many = matches!(name, "mount" | "exclude" | "device");
            if !many && i.flags[..at].iter().any(|f| f.name == name) {
                return Err(format!("duplicate flag specified: --{name}"));
            }
            if flag.value.is_none() && !matches!(name, "link" | "parents" | "keep-git-dir" | "unpack") {
                return Err(format!("missing a value on flag: --{name}"));
            }
        }
        Ok(Self(i))
    }

    fn one(&self, name: &str) -> Option<String> {
        self.0.flags.iter().find(|f| f.name == name).and_then(|f| f.value.clone())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.flags.iter().filter(|f| f.name == name).filter_map(|f| f.value.clone()).collect()
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, String> {
        let Some(flag) = self.0.flags.iter().find(|f| f.name == name) else { return Ok(None) };
        match flag.value.as_deref().unwrap_or("true") {
            "true" | "TRUE" | "True" | "1" | "t" | "T" => Ok(Some(true)),
            "false" | "FALSE" | "False" | "0" | "f" | "F" => Ok(Some(false)),
            other => Err(format!("expecting boolean value for flag --{name}, not: {other}")),
        }
    }
}

fn from(args: &str, f: &Flags<'_>) -> Result<Op, String> {
    let words = words::plain(args);
    let (image, name) = match words.as_slice() {
        [image] => (image.clone(), None),
        [image, word, name] if word.eq_ignore_ascii_case("as") => {
            let lower = name.to_lowercase();
            let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
                && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !valid {
                return Err(format!(
                    "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
                ));
            }
            (image.clone(), Some(name.clone()))
        }
        _ => return Err("FROM requires either one or three arguments".to_owned()),
    };
    Ok(Op::From { image, name, platform: f.one("platform") })
}

fn run(i: &Instruction, f: &Flags<'_>) -> Result<RunOp, String> {
    let network = f.one("network");
    if let Some(n) = network.as_deref()
        && !matches!(n, "default" | "none" | "host")
    {
        return Err(format!("invalid network mode: \"{n}\""));
    }
    let command = command(&i.arguments)?;
    if i.arguments.is_empty() {
        return Err("RUN requires at least one argument".to_owned());
    }
    Ok(RunOp {
        command,
        mounts: f.all("mount"),
        network,
        security: f.one("security"),
        devices: f.all("device"),
        heredocs: i.heredocs.clone(),
    })
}

fn command(args: &str) -> Result<CommandForm, String> {
    match words::json(args) {
        Json::Array(a) => Ok(CommandForm::Exec(a)),
        Json::NotStrings => Err(words::NOT_STRINGS.to_owned()),
        Json::No => Ok(CommandForm::Shell(args.to_owned())),
    }
}

fn arg(args: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = words::quoted(args, escape);
    if words.is_empty() {
        return Err("ARG requires at least one argument".to_owned());
    }
    words
        .iter()
        .map(|w| {
            let (name, value) =
                w.split_once('=').map_or((w.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
            if name.is_empty() {
                Err("ARG names can not be blank".to_owned())
            } else {
                Ok((name.to_owned(), value))
            }
        })
        .collect()
}

fn copy(i: &Instruction, f: &Flags<'_>, escape: char) -> Result<CopyOp, String> {
    let mut words = match words::json(&i.arguments) {
        Json::Array(a) => a,
        Json::NotStrings => return Err(words::NOT_STRINGS.to_owned()),
        Json::No => words::quoted(&i.arguments, escape),
    };
    let dest = words.pop().filter(|_| !words.is_empty());
    let Some(dest) = dest else {
        return Err(format!("{} requires at least two arguments, but only one was provided", i.name));
    };
    if heredoc::word(&dest).is_some() && !i.heredocs.is_empty() {
        return Err(format!("{} cannot accept a heredoc as a destination", i.name));
    }
    let mut docs = i.heredocs.iter();
    let sources = words
        .into_iter()
        .map(|w| match heredoc::word(&w).and_then(|_| docs.next()) {
            Some(doc) => CopySource::Heredoc(doc.clone()),
            None => CopySource::Path(w),
        })
        .collect();
    Ok(CopyOp {
        add: i.name == "ADD",
        sources,
        dest,
        from: f.one("from"),
        chown: f.one("chown"),
        chmod: f.one("chmod"),
        link: f.boolean("link")?.unwrap_or(false),
        parents: f.boolean("parents")?.unwrap_or(false),
        exclude: f.all("exclude"),
        checksum: f.one("checksum"),
        keep_git_dir: f.boolean("keep-git-dir")?.unwrap_or(false),
        unpack: f.boolean("unpack")?,
    })
}

fn healthcheck(args: &str, f: &Flags<'_>) -> Result<Healthcheck, String> {
    let (kind, rest) = args.split_once(char::is_whitespace).unwrap_or((args, ""));
    let rest = rest.trim();
    let test = match kind.to_uppercase().as_str() {
        "" => return Err("HEALTHCHECK requires at least one argument".to_owned()),
        "NONE" if rest.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err("HEALTHCHECK NONE takes no arguments".to_owned()),
        "CMD" => match command(rest)? {
            CommandForm::Exec(a) if a.is_empty() => {
                return Err("missing command after HEALTHCHECK CMD".to_owned());
            }
            CommandForm::Exec(a) => std::iter::once("CMD".to_owned()).chain(a).collect(),
            CommandForm::Shell(s) if s.is_empty() => {
                return Err("missing command after HEALTHCHECK CMD".to_owned());
            }
            CommandForm::Shell(s) => vec!["CMD-SHELL".to_owned(), s],
        },
        other => return Err(format!("unknown type \"{other}\" in HEALTHCHECK (try CMD)")),
    };
    let time = |name: &str| f.one(name).map_or(Ok(0), |v| duration(name, &v));
    let retries = match f.one("retries") {
        Some(v) => v.parse().map_err(|_| format!("--retries must be a number of at least 0, not {v}"))?,
        None => 0,
    };
    Ok(Healthcheck {
        test,
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    })
}

/// A duration as Go writes it (`1m30s`, `1.5h`, `250ms`), in nanoseconds.
fn duration(flag: &str, text: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration \"{text}\" for --{flag}");
    let (mut rest, mut total) = (text, 0f64);
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let units = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..units] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
        rest = &rest[units..];
    }
    if text.is_empty() || total > 9.2e18 {
        return Err(bad());
    }
    if total > 0.0 && total < 1e6 {
        return Err(format!("--{flag} \"{text}\" cannot be less than 1ms"));
    }
    Ok(total as i64)
}

fn onbuild(i: &Instruction) -> Result<Op, String> {
    let trigger = i.arguments.split_whitespace().next().unwrap_or_default().to_uppercase();
    match trigger.as_str() {
        "" => Err("ONBUILD requires at least one argument".to_owned()),
        "ONBUILD" => Err("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "FROM" | "MAINTAINER" => Err(format!("{trigger} isn't allowed as an ONBUILD trigger")),
        name if !KEYWORDS.contains(&name) => Err(format!("unknown instruction: {trigger}")),
        _ => {
            let mut text = i.arguments.clone();
            for doc in &i.heredocs {
                text.push('\n');
                text.push_str(&doc.content);
                text.push_str(&doc.name);
            }
            Ok(Op::Onbuild(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ItemKind, parse};
    use super::*;

    fn ops(text: &str) -> Vec<Op> {
        let file = parse(text);
        assert_eq!(file.errors, []);
        file.instructions().map(|i| i.op.clone().unwrap()).collect()
    }

    fn error(text: &str) -> String {
        parse(&format!("FROM x\n{text}\n")).errors.first().map(|e| e.message.clone()).unwrap_or_default()
    }

    #[test]
    fn continuation_comments_and_blank_lines() {
        let ops = ops("FROM a\nRUN one \\\n  # comment\n\n  two \\ \n\t&& three\nCMD x\\\\\nUSER u");
        assert_eq!(
            ops[1],
            Op::Run(RunOp { command: CommandForm::Shell("one   two \t&& three".into()), ..run_op() })
        );
        assert_eq!(ops[2], Op::Cmd(CommandForm::Shell("x\\\\".into())));
        assert_eq!(ops.len(), 4);
    }

    fn run_op() -> RunOp {
        RunOp {
            command: CommandForm::Shell(String::new()),
            mounts: vec![],
            network: None,
            security: None,
            devices: vec![],
            heredocs: vec![],
        }
    }

    #[test]
    fn escape_directive() {
        let file = parse("# escape=`\nFROM a\nRUN dir C:\\ `\n  x\n");
        assert_eq!(file.escape, '`');
        assert_eq!(file.instructions().nth(1).unwrap().arguments, "dir C:\\   x");
        assert_eq!(parse("# x\n# escape=`\nFROM a\n").escape, '\\');
        assert!(!parse("# escape=x\nFROM a\n").errors.is_empty());
        assert!(!parse("# escape=`\n# escape=`\nFROM a\n").errors.is_empty());
    }

    #[test]
    fn forms() {
        assert_eq!(
            ops("FROM a\nCMD [\"x\", \"y\"]")[1],
            Op::Cmd(CommandForm::Exec(vec!["x".into(), "y".into()]))
        );
        assert_eq!(ops("FROM a\nCMD [x, y]")[1], Op::Cmd(CommandForm::Shell("[x, y]".into())));
        assert!(error("CMD [\"x\", 1]").contains("JSON array syntax"));
        assert_eq!(ops("FROM a\nENV a b  c")[1], Op::Env(vec![("a".into(), "b  c".into())]));
        assert_eq!(
            ops("FROM a\nENV a=\"b c\" d=e\\ f")[1],
            Op::Env(vec![("a".into(), "\"b c\"".into()), ("d".into(), "e\\ f".into())])
        );
        assert_eq!(
            ops("FROM --platform=linux/arm64 a AS b")[0],
            Op::From { image: "a".into(), name: Some("b".into()), platform: Some("linux/arm64".into()) }
        );
        let Op::Healthcheck(h) = &ops("FROM a\nHEALTHCHECK --interval=1m30s --retries=3 CMD curl x")[1]
        else {
            panic!()
        };
        assert_eq!((h.interval, h.retries, h.test.len()), (90_000_000_000, 3, 2));
    }

    #[test]
    fn heredocs() {
        let ops = ops("FROM a\nRUN <<EOF\necho $x\nEOF\nCOPY <<A <<-'B' /d/\n1\nA\n\t2\n\tB\nCMD z");
        let Op::Run(run) = &ops[1] else { panic!() };
        assert_eq!(run.heredocs[0].content, "echo $x\n");
        let Op::Copy(copy) = &ops[2] else { panic!() };
        let texts: Vec<_> = copy
            .sources
            .iter()
            .map(|s| match s {
                CopySource::Heredoc(h) => (h.name.clone(), h.text(), h.expand),
                CopySource::Path(_) => panic!(),
            })
            .collect();
        assert_eq!(texts, [("A".into(), "1\n".into(), true), ("B".into(), "2\n".into(), false)]);
        assert!(error("RUN <<EOF\nx").contains("unterminated heredoc"));
    }

    #[test]
    fn errors_and_suggestions() {
        assert_eq!(error("COYP a b"), "unknown instruction: COYP (did you mean COPY?)");
        assert_eq!(error("COPY --chwon=1 a b"), "unknown flag: --chwon (did you mean chown?)");
        assert_eq!(error("COPY --from a b"), "missing a value on flag: --from");
        assert_eq!(error("COPY a"), "COPY requires at least two arguments, but only one was provided");
        assert_eq!(error("ENV a"), "ENV must have two arguments");
        assert_eq!(error("ONBUILD ONBUILD RUN x"), "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
        assert_eq!(error("HEALTHCHECK --interval=1us CMD x"), "--interval \"1us\" cannot be less than 1ms");
        assert!(parse("").errors[0].message.contains("no instructions"));
        assert!(parse("RUN x").errors[0].message.contains("no build stage"));
    }

    proptest::proptest! {
        #[test]
        fn items_tile_the_file(text in "(FROM a|RUN x|COPY|#|<<E|E|\\\\|`|\n|\r\n| |\t|\"|'|\\[|--|=|[a-z$]|\u{e4}){0,60}") {
            let file = parse(&text);
            proptest::prop_assert_eq!(file.to_string(), &*text);
            for item in &file.items {
                if let ItemKind::Instruction(i) = &item.kind {
                    proptest::prop_assert!(item.span.start <= i.keyword.start && i.keyword.end <= item.span.end);
                    proptest::prop_assert!(i.line <= i.end_line);
                }
            }
        }
    }
}
