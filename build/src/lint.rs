//! What is allowed and still worth a word: BuildKit's build checks, under the same names.
//!
//! `# check=skip=RULE,RULE` (or `skip=all`) at the top of a Dockerfile silences rules.

use std::collections::{BTreeMap, BTreeSet};

use crate::expand::Expander;
use crate::syntax::{CommandForm, Dockerfile, Instruction, Op};

/// One remark.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lint {
    /// The rule's name, such as `JSONArgsRecommended`.
    pub rule: &'static str,
    /// 1-based line.
    pub line: usize,
    /// What is odd.
    pub message: String,
}

impl std::fmt::Display for Lint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

/// Goes through a file. Nothing is looked up: neither images nor the context.
///
/// ```
/// use longshore_build::{lint::lint, syntax::parse};
/// let remarks = lint(&parse("FROM debian AS Base\nCMD echo hello\n"));
/// assert_eq!(remarks.iter().map(|r| r.rule).collect::<Vec<_>>(), ["StageNameCasing", "JSONArgsRecommended"]);
/// ```
pub fn lint(file: &Dockerfile) -> Vec<Lint> {
    let mut linter = Linter { file, out: Vec::new(), stages: BTreeSet::new(), globals: BTreeMap::new() };
    let mut stage = Stage::default();
    linter.casing();
    for i in file.instructions() {
        if i.empty_continuation {
            linter.say(
                "NoEmptyContinuation",
                i.line,
                "empty continuation line found in the instruction".to_owned(),
            );
        }
        match &i.op {
            Some(Op::From { image, name, platform }) => {
                stage = Stage::default();
                stage.begun = true;
                linter.from(i, image, name.as_deref(), platform.as_deref());
            }
            Some(op) => linter.op(i, op, &mut stage),
            None => {}
        }
    }
    let skip = skipped(file.directive("check").unwrap_or_default());
    linter.out.retain(|l| !skip.iter().any(|s| s == "all" || s.eq_ignore_ascii_case(l.rule)));
    linter.out.sort_by_key(|l| l.line);
    linter.out
}

fn skipped(check: &str) -> Vec<String> {
    let skip = check.split(';').find_map(|part| part.trim().strip_prefix("skip="));
    skip.unwrap_or_default().split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

#[derive(Default)]
struct Stage {
    begun: bool,
    cmd: bool,
    entrypoint: bool,
    healthcheck: bool,
    workdir: bool,
}

struct Linter<'a> {
    file: &'a Dockerfile,
    out: Vec<Lint>,
    stages: BTreeSet<String>,
    globals: BTreeMap<String, Option<String>>,
}

impl Linter<'_> {
    fn say(&mut self, rule: &'static str, line: usize, message: String) {
        self.out.push(Lint { rule, line, message });
    }

    /// Instructions are all in one case: that of the majority.
    fn casing(&mut self) {
        let words: Vec<(usize, String)> = self
            .file
            .instructions()
            .map(|i| (i.line, i.text.split_whitespace().next().unwrap_or_default().to_owned()))
            .collect();
        let lower = words.iter().filter(|(_, w)| *w == w.to_lowercase()).count();
        let wanted = if lower * 2 > words.len() { "lowercase" } else { "uppercase" };
        for (line, word) in words {
            let right = if wanted == "lowercase" { word.to_lowercase() } else { word.to_uppercase() };
            if word != right {
                self.say(
                    "ConsistentInstructionCasing",
                    line,
                    format!("command '{word}' should match the case of the command majority ({wanted})"),
                );
            }
        }
    }

    fn from(&mut self, i: &Instruction, image: &str, name: Option<&str>, platform: Option<&str>) {
        if let Some(name) = name {
            let lower = name.to_lowercase();
            if lower != name {
                self.say("StageNameCasing", i.line, format!("stage name '{name}' should be lowercase"));
            }
            if matches!(lower.as_str(), "scratch" | "context") {
                self.say(
                    "ReservedStageName",
                    i.line,
                    format!("stage name should not use the same name as reserved stage \"{lower}\""),
                );
            }
            if !self.stages.insert(lower) {
                self.say(
                    "DuplicateStageName",
                    i.line,
                    format!("duplicate stage name \"{name}\", stage names should be unique"),
                );
            }
            let words: Vec<&str> = i.text.split_whitespace().collect();
            let as_word = words.get(words.len().saturating_sub(2)).copied().unwrap_or_default();
            if (words[0] == words[0].to_uppercase()) != (as_word == as_word.to_uppercase()) {
                self.say(
                    "FromAsCasing",
                    i.line,
                    format!("'{as_word}' and '{}' keywords' casing do not match", words[0]),
                );
            }
        }
        if let Some(p) = platform {
            if p == "$TARGETPLATFORM" || p == "${TARGETPLATFORM}" {
                self.say("RedundantTargetPlatform", i.line, format!("setting platform to predefined {p} in FROM is redundant as this is the default behavior"));
            } else if !p.contains('$') {
                self.say(
                    "FromPlatformFlagConstDisallowed",
                    i.line,
                    format!("FROM --platform flag should not use constant value \"{p}\""),
                );
            }
        }
        self.base_arguments(i, image);
    }

    fn base_arguments(&mut self, i: &Instruction, image: &str) {
        let globals = self.globals.clone();
        let lookup = |name: &str| {
            globals.get(name).cloned().flatten().or_else(|| is_builtin(name).then(|| "x".to_owned()))
        };
        let Ok(expanded) = Expander::new(self.file.escape, &lookup).word(image) else { return };
        for name in expanded.undefined {
            if globals.contains_key(&name) {
                continue;
            }
            self.say("UndefinedArgInFrom", i.line, format!("FROM argument '{name}' is not declared"));
        }
        if expanded.text.is_empty() || expanded.text.ends_with(':') || expanded.text.starts_with(':') {
            self.say(
                "InvalidDefaultArgInFrom",
                i.line,
                format!("default value for ARG {image} results in empty or invalid base image name"),
            );
        }
    }

    fn op(&mut self, i: &Instruction, op: &Op, stage: &mut Stage) {
        let words = || i.arguments.split_whitespace();
        match op {
            Op::Arg(args) => {
                for (name, value) in args {
                    if !stage.begun {
                        self.globals.insert(name.clone(), value.clone());
                    }
                    self.secret(i, name);
                }
            }
            Op::Env(pairs) => {
                pairs.iter().for_each(|(name, _)| self.secret(i, name));
                self.legacy(i, words().next());
            }
            Op::Label(_) => self.legacy(i, words().next()),
            Op::Cmd(form) => self.command(i, form, &mut stage.cmd),
            Op::Entrypoint(form) => self.command(i, form, &mut stage.entrypoint),
            Op::Healthcheck(_) => self.once(i, &mut stage.healthcheck),
            Op::Maintainer(_) => {
                self.say(
                    "MaintainerDeprecated",
                    i.line,
                    "maintainer instruction is deprecated in favor of using label".to_owned(),
                );
            }
            Op::Workdir(dir) => {
                if !stage.workdir && !dir.starts_with(['/', '$']) {
                    self.say(
                        "WorkdirRelativePath",
                        i.line,
                        format!(
                            "relative workdir \"{dir}\" can have unexpected results if the base image changes"
                        ),
                    );
                }
                stage.workdir = true;
            }
            Op::Expose(ports) => ports.iter().filter(|p| !p.contains('$')).for_each(|p| self.expose(i, p)),
            _ => {}
        }
    }

    fn expose(&mut self, i: &Instruction, port: &str) {
        if let Some((_, protocol)) = port.split_once('/')
            && protocol != protocol.to_lowercase()
        {
            self.say("ExposeProtoCasing", i.line, format!("defined protocol '{port}' should be lowercase"));
        }
        if port.contains(':') {
            self.say(
                "ExposeInvalidFormat",
                i.line,
                format!("EXPOSE should not define an IP address or host-port mapping, found '{port}'"),
            );
        }
    }

    fn legacy(&mut self, i: &Instruction, first: Option<&str>) {
        if first.is_some_and(|w| !w.contains('=')) {
            let name = &i.name;
            self.say(
                "LegacyKeyValueFormat",
                i.line,
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"),
            );
        }
    }

    fn command(&mut self, i: &Instruction, form: &CommandForm, seen: &mut bool) {
        if matches!(form, CommandForm::Shell(_)) {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                i.name
            );
            self.say("JSONArgsRecommended", i.line, message);
        }
        self.once(i, seen);
    }

    fn once(&mut self, i: &Instruction, seen: &mut bool) {
        if std::mem::replace(seen, true) {
            let message = format!(
                "multiple {} instructions should not be used in the same stage because only the last one will be used",
                i.name
            );
            self.say("MultipleInstructionsDisallowed", i.line, message);
        }
    }

    fn secret(&mut self, i: &Instruction, name: &str) {
        const WORDS: [&str; 9] =
            ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret"];
        let lower = name.to_lowercase();
        let parts: Vec<&str> = lower.split(['_', '-']).collect();
        let secret = parts.iter().any(|p| WORDS.contains(p) || *p == "token") && !parts.contains(&"public");
        if secret {
            let message =
                format!("do not use ARG or ENV instructions for sensitive data ({} \"{name}\")", i.name);
            self.say("SecretsUsedInArgOrEnv", i.line, message);
        }
    }
}

fn is_builtin(name: &str) -> bool {
    let rest = name.strip_prefix("TARGET").or_else(|| name.strip_prefix("BUILD"));
    matches!(rest, Some("PLATFORM" | "OS" | "ARCH" | "VARIANT" | "STAGE"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    #[test]
    fn rules() {
        for (text, rules) in [
            ("FROM a AS Build", vec!["StageNameCasing"]),
            ("FROM a as x", vec!["FromAsCasing"]),
            ("from a as x\nrun y", vec![]),
            ("FROM a\nRUN x \\\n\n  y", vec!["NoEmptyContinuation"]),
            ("FROM a\nRUN x\nrun y", vec!["ConsistentInstructionCasing"]),
            ("FROM a AS x\nFROM b AS x", vec!["DuplicateStageName"]),
            ("FROM a AS scratch", vec!["ReservedStageName"]),
            ("FROM a\nCMD x", vec!["JSONArgsRecommended"]),
            ("FROM a\nMAINTAINER x", vec!["MaintainerDeprecated"]),
            ("FROM a$B", vec!["UndefinedArgInFrom"]),
            ("ARG B=c\nFROM a$B", vec![]),
            ("ARG B\nFROM a:$B", vec!["InvalidDefaultArgInFrom"]),
            ("FROM a\nWORKDIR x\nWORKDIR y", vec!["WorkdirRelativePath"]),
            ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", vec!["MultipleInstructionsDisallowed"]),
            ("FROM a\nENV x y\nLABEL x y", vec!["LegacyKeyValueFormat", "LegacyKeyValueFormat"]),
            ("FROM --platform=$TARGETPLATFORM a", vec!["RedundantTargetPlatform"]),
            ("FROM --platform=linux/amd64 a", vec!["FromPlatformFlagConstDisallowed"]),
            ("FROM a\nARG DB_PASSWORD\nENV PUBLIC_KEY=x MONKEY=y", vec!["SecretsUsedInArgOrEnv"]),
            ("FROM a\nEXPOSE 80/TCP 1:2", vec!["ExposeProtoCasing", "ExposeInvalidFormat"]),
            (
                "# check=skip=JSONArgsRecommended,StageNameCasing\nFROM a AS X\nCMD x\nMAINTAINER y",
                vec!["MaintainerDeprecated"],
            ),
            ("# check=skip=all\nFROM a AS X\nCMD x", vec![]),
        ] {
            assert_eq!(lint(&parse(text)).iter().map(|l| l.rule).collect::<Vec<_>>(), rules, "{text}");
        }
    }
}
