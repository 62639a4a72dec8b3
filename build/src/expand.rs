//! Variable expansion in the words of a Dockerfile: quotes, escapes, `$name` and `${name...}` as BuildKit reads them.
//!
//! Supported in braces: `:-` `:+` `:?` `-` `+` `?` `#` `##` `%` `%%` `/` `//`. Patterns know `*`, `?` and escapes.

use std::collections::BTreeSet;

/// Longest text that one expansion may make, in bytes: nested references could double without end otherwise.
const MAX_EXPANSION: usize = 1 << 20;
/// Deepest nesting of `${a:-${b:-...}}`.
const MAX_DEPTH: usize = 64;
/// Bound on pattern length times text length squared would be the work of `//`; this caps the text times the pattern.
const MAX_PATTERN_WORK: usize = 1 << 22;

/// Expands words against variables.
#[derive(Clone)]
pub struct Expander<'a> {
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    keep_quotes: bool,
    keep_escapes: bool,
    keep_unset: bool,
    heredoc: bool,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander").field("escape", &self.escape).finish_non_exhaustive()
    }
}

/// One expanded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were referred to without a default and are not set.
    pub undefined: BTreeSet<String>,
}

impl<'a> Expander<'a> {
    /// With the Dockerfile's escape character and a source of values.
    pub fn new(escape: char, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { escape, lookup, keep_quotes: false, keep_escapes: false, keep_unset: false, heredoc: false }
    }

    /// Leaves quotes, escapes and unset variables as they stand: only splits into words.
    pub(crate) fn raw(mut self) -> Self {
        self.keep_quotes = true;
        self.keep_escapes = true;
        self.keep_unset = true;
        self
    }

    /// Leaves `$name` of an unset variable as it stands.
    pub(crate) fn keep_unset(mut self) -> Self {
        self.keep_unset = true;
        self
    }

    /// For here-documents: quotes mean nothing, and the escape character only hides a `$` or itself, as in a shell.
    pub(crate) fn heredoc(mut self) -> Self {
        self.heredoc = true;
        self
    }

    /// Expands one word; spaces do not split it.
    ///
    /// # Errors
    /// A message that says what is malformed, or the one of `${name:?message}`.
    pub fn word(&self, text: &str) -> Result<Expanded, String> {
        let mut run = Run::new(self, text);
        run.until(None)?;
        Ok(Expanded { text: run.out.text, undefined: run.undefined })
    }

    /// Expands a line and splits it into words at spaces outside quotes, those that came out of variables included.
    ///
    /// # Errors
    /// As for [`Expander::word`].
    pub fn words(&self, text: &str) -> Result<Vec<String>, String> {
        let mut run = Run::new(self, text);
        run.until(None)?;
        Ok(run.out.finish())
    }
}

/// The text that comes out, and the same cut into words.
#[derive(Default)]
struct Out {
    text: String,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Out {
    fn split_char(&mut self, c: char) {
        self.text.push(c);
        if c.is_whitespace() {
            if self.in_word {
                self.words.push(std::mem::take(&mut self.word));
                self.in_word = false;
            }
        } else {
            self.word.push(c);
            self.in_word = true;
        }
    }
    fn raw_char(&mut self, c: char) {
        self.text.push(c);
        self.word.push(c);
        self.in_word = true;
    }
    /// An empty pair of quotes is a word, too.
    fn raw(&mut self, s: &str) {
        self.in_word = true;
        self.text.push_str(s);
        self.word.push_str(s);
    }
    fn finish(mut self) -> Vec<String> {
        if self.in_word {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Run<'e, 'a> {
    options: &'e Expander<'a>,
    chars: Vec<char>,
    at: usize,
    out: Out,
    undefined: BTreeSet<String>,
    depth: usize,
}

impl<'e, 'a> Run<'e, 'a> {
    fn new(options: &'e Expander<'a>, text: &str) -> Self {
        Self {
            options,
            chars: text.chars().collect(),
            at: 0,
            out: Out::default(),
            undefined: BTreeSet::new(),
            depth: 0,
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Reads up to the stop character, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<(), String> {
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += 1;
                return Ok(());
            }
            match c {
                '\'' if !self.options.heredoc => self.single_quoted()?,
                '"' if !self.options.heredoc => self.double_quoted()?,
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| self.out.split_char(c));
                }
                c if c == self.options.escape && self.escapes() => self.escaped(),
                c => {
                    self.at += 1;
                    self.out.split_char(c);
                }
            }
            if self.out.text.len() > MAX_EXPANSION {
                return Err("expansion is too long".to_owned());
            }
        }
        match stop {
            None => Ok(()),
            Some('}') => Err("syntax error: missing '}'".to_owned()),
            Some(c) => Err(format!("syntax error: missing '{c}' in substitution")),
        }
    }

    fn escapes(&self) -> bool {
        !self.options.heredoc
            || self.chars.get(self.at + 1).is_some_and(|c| *c == '$' || *c == self.options.escape)
    }

    fn escaped(&mut self) {
        let escape = self.options.escape;
        self.at += 1;
        let Some(c) = self.next() else {
            if self.options.keep_escapes {
                self.out.raw_char(escape);
            }
            return;
        };
        if self.options.keep_escapes {
            self.out.raw_char(escape);
        }
        self.out.raw_char(c);
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        let keep = self.options.keep_quotes;
        self.at += 1;
        self.out.raw(if keep { "'" } else { "" });
        loop {
            match self.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote".to_owned()
                    );
                }
                Some('\'') => {
                    self.out.raw(if keep { "'" } else { "" });
                    return Ok(());
                }
                Some(c) => self.out.raw_char(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        let keep = self.options.keep_quotes;
        let escape = self.options.escape;
        self.at += 1;
        self.out.raw(if keep { "\"" } else { "" });
        loop {
            match self.peek() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote".to_owned()
                    );
                }
                Some('"') => {
                    self.at += 1;
                    self.out.raw(if keep { "\"" } else { "" });
                    return Ok(());
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.out.raw(&value);
                }
                Some(c) if c == escape => {
                    self.at += 1;
                    match self.next() {
                        None => {
                            return Err(
                                "unexpected end of statement while looking for matching double-quote"
                                    .to_owned(),
                            );
                        }
                        // Inside double quotes the escape character only hides these three.
                        Some(c) if c == '"' || c == '$' || c == escape => {
                            if self.options.keep_escapes {
                                self.out.raw_char(escape);
                            }
                            self.out.raw_char(c);
                        }
                        Some(c) => {
                            self.out.raw_char(escape);
                            self.out.raw_char(c);
                        }
                    }
                }
                Some(c) => {
                    self.at += 1;
                    self.out.raw_char(c);
                }
            }
        }
    }

    /// At a `$`: the value that takes its place.
    fn dollar(&mut self) -> Result<String, String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.plain(&name, &format!("${name}")) });
        }
        self.at += 1;
        let name = self.name();
        let Some(c) = self.next() else { return Err("syntax error: missing '}'".to_owned()) };
        if name.is_empty() {
            return Err(if c == '}' {
                "syntax error: empty \"${}\"".to_owned()
            } else {
                format!("syntax error: bad substitution at '{c}'")
            });
        }
        match c {
            '}' => Ok(self.plain(&name, &format!("${{{name}}}"))),
            ':' => {
                let Some(operator) = self.next().filter(|c| matches!(c, '-' | '+' | '?')) else {
                    return Err(format!("unsupported modifier (:) in substitution of {name}"));
                };
                self.default(&name, operator, true)
            }
            '-' | '+' | '?' => self.default(&name, c, false),
            '#' | '%' => self.trim(&name, c),
            '/' => self.replace(&name),
            c => Err(format!("unsupported modifier ({c}) in substitution of {name}")),
        }
    }

    fn plain(&mut self, name: &str, written: &str) -> String {
        match (self.options.lookup)(name) {
            Some(value) => value,
            None => {
                self.undefined.insert(name.to_owned());
                if self.options.keep_unset { written.to_owned() } else { String::new() }
            }
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_digit() => self.skip(|c| c.is_ascii_digit()),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                self.skip(|c| c.is_ascii_alphanumeric() || c == '_');
            }
            Some('@' | '*' | '#' | '?' | '-' | '!' | '$')
                if self.depth == 0 && self.at > 0 && self.chars[self.at - 1] == '$' =>
            {
                self.at += 1;
            }
            _ => {}
        }
        self.chars[start..self.at].iter().collect()
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
    }

    fn default(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Result<String, String> {
        let word = self.nested('}', false)?;
        let value = (self.options.lookup)(name).filter(|v| !(empty_is_unset && v.is_empty()));
        match (operator, value) {
            ('+', value) => Ok(if value.is_some() { word } else { String::new() }),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) if !word.is_empty() => Err(format!("{name}: {word}")),
            (_, None) => Err(format!(
                "{name}: is not allowed to be {}",
                if empty_is_unset { "empty" } else { "unset" }
            )),
        }
    }

    fn trim(&mut self, name: &str, operator: char) -> Result<String, String> {
        let longest = self.peek() == Some(operator);
        if longest {
            self.at += 1;
        }
        let pattern = Pattern::new(&self.nested('}', true)?, self.options.escape);
        let value: Vec<char> = self.plain(name, "").chars().collect();
        pattern.check(value.len())?;
        Ok(if operator == '#' {
            let n = pattern.prefix(&value, longest).unwrap_or(0);
            value[n..].iter().collect()
        } else {
            let reversed: Vec<char> = value.iter().rev().copied().collect();
            let n = pattern.reversed().prefix(&reversed, longest).unwrap_or(0);
            value[..value.len() - n].iter().collect()
        })
    }

    fn replace(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.at += 1;
        }
        let pattern = Pattern::new(&self.nested('/', true)?, self.options.escape);
        let replacement = self.nested('}', false)?;
        let value: Vec<char> = self.plain(name, "").chars().collect();
        pattern.check(value.len())?;
        let (mut out, mut at, mut done) = (String::new(), 0, false);
        while at < value.len() {
            match pattern.prefix(&value[at..], true).filter(|n| *n > 0 && !done) {
                Some(n) => {
                    out.push_str(&replacement);
                    at += n;
                    done = !all;
                }
                None => {
                    out.push(value[at]);
                    at += 1;
                }
            }
            if out.len() > MAX_EXPANSION {
                return Err("expansion is too long".to_owned());
            }
        }
        Ok(out)
    }

    /// The word inside braces, expanded; a pattern keeps its escapes.
    fn nested(&mut self, stop: char, pattern: bool) -> Result<String, String> {
        if self.depth >= MAX_DEPTH {
            return Err("substitutions are nested too deeply".to_owned());
        }
        let mut options = self.options.clone();
        options.keep_escapes |= pattern;
        let mut inner = Run {
            options: &options,
            chars: std::mem::take(&mut self.chars),
            at: self.at,
            out: Out::default(),
            undefined: std::mem::take(&mut self.undefined),
            depth: self.depth + 1,
        };
        let result = inner.until(Some(stop));
        self.at = inner.at;
        self.chars = inner.chars;
        self.undefined = inner.undefined;
        result.map(|()| inner.out.text)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Char(char),
    Any,
    Many,
}

/// A pattern of `*`, `?` and characters.
struct Pattern(Vec<Piece>);

impl Pattern {
    fn new(text: &str, escape: char) -> Self {
        let mut pieces = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::Many,
                '?' => Piece::Any,
                c if c == escape => Piece::Char(chars.next().unwrap_or(escape)),
                c => Piece::Char(c),
            });
        }
        pieces.dedup_by(|a, b| *a == Piece::Many && *b == Piece::Many);
        Self(pieces)
    }

    fn reversed(self) -> Self {
        Self(self.0.into_iter().rev().collect())
    }

    fn check(&self, text: usize) -> Result<(), String> {
        if self.0.len().saturating_mul(text) > MAX_PATTERN_WORK {
            Err("pattern and value are too long".to_owned())
        } else {
            Ok(())
        }
    }

    /// Length of the shortest or longest prefix that matches. Linear in the text: all states advance together.
    fn prefix(&self, text: &[char], longest: bool) -> Option<usize> {
        let end = self.0.len();
        let mut states = vec![false; end + 1];
        states[0] = true;
        self.close(&mut states);
        let mut best = None;
        for (n, c) in text.iter().map(Some).chain([None]).enumerate() {
            if states[end] {
                best = Some(n);
                if !longest {
                    return best;
                }
            }
            let Some(c) = c else { break };
            let mut next = vec![false; end + 1];
            for (i, piece) in self.0.iter().enumerate().filter(|(i, _)| states[*i]) {
                match piece {
                    Piece::Many => next[i] = true,
                    Piece::Any => next[i + 1] = true,
                    Piece::Char(p) if p == c => next[i + 1] = true,
                    Piece::Char(_) => {}
                }
            }
            self.close(&mut next);
            states = next;
            if !states.contains(&true) {
                break;
            }
        }
        best
    }

    fn close(&self, states: &mut [bool]) {
        for (i, piece) in self.0.iter().enumerate() {
            if states[i] && *piece == Piece::Many {
                states[i + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "A" => "hello",
            "E" => "",
            "P" => "/usr/local/bin/x.tar.gz",
            "S" => "a b  c",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn word(text: &str) -> Result<String, String> {
        Expander::new('\\', &env).word(text).map(|e| e.text)
    }

    #[test]
    fn table() {
        for (text, wanted) in [
            ("x$A", "xhello"),
            ("${A}y", "helloy"),
            ("$Ay", ""),
            ("'$A'", "$A"),
            ("\"$A\"", "hello"),
            ("\\$A", "$A"),
            ("\"\\$A\\n\"", "$A\\n"),
            ("${N:-d}", "d"),
            ("${E:-d}", "d"),
            ("${E-d}", ""),
            ("${N-d}", "d"),
            ("${A:+y}", "y"),
            ("${E:+y}", ""),
            ("${E+y}", "y"),
            ("${N+y}", ""),
            ("${N:-${A}}", "hello"),
            ("${N:-'a}b'}", "a}b"),
            ("${P#*/}", "usr/local/bin/x.tar.gz"),
            ("${P##*/}", "x.tar.gz"),
            ("${P%.*}", "/usr/local/bin/x.tar"),
            ("${P%%.*}", "/usr/local/bin/x"),
            ("${P/\\//_}", "_usr/local/bin/x.tar.gz"),
            ("${P//\\//_}", "_usr_local_bin_x.tar.gz"),
            ("${A/l*/L}", "heL"),
            ("${A//l/}", "heo"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("$1x", "x"),
            ("", ""),
        ] {
            assert_eq!(word(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn errors() {
        for text in ["${A", "'a", "\"a", "${}", "${A:}", "${A:=x}", "${A^}", "${N:?}", "${N?gone}", "${P/x}"]
        {
            assert!(word(text).is_err(), "{text}");
        }
        assert_eq!(word("${N?gone}").unwrap_err(), "N: gone");
        assert!(word(&"${N:-".repeat(500)).is_err());
    }

    #[test]
    fn words_split_variables_outside_quotes() {
        let words = Expander::new('\\', &env).words("x $S \"$S\" '' \"\" a\\ b").unwrap();
        assert_eq!(words, ["x", "a", "b", "c", "a b  c", "", "", "a b"]);
    }

    #[test]
    fn heredocs_only_replace_variables() {
        let e = Expander::new('\\', &env).heredoc().word("'$A' \"x\" \\$A \\n \\\\ it's").unwrap();
        assert_eq!(e.text, "'hello' \"x\" $A \\n \\ it's");
    }

    #[test]
    fn undefined_names_are_told() {
        let e = Expander::new('\\', &env).word("$X ${Y} ${Z:-z} $A").unwrap();
        assert_eq!(e.undefined.into_iter().collect::<Vec<_>>(), ["X", "Y"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[$a-zA-E{}:/#%?*+'\"\\\\ -]{0,60}") {
            let _ = Expander::new('\\', &env).word(&text);
            let _ = Expander::new('\\', &env).raw().words(&text);
        }

        #[test]
        fn plain_text_stands(text in "[a-zA-Z0-9 /._-]{0,40}") {
            proptest::prop_assert_eq!(word(&text).unwrap(), text);
        }
    }
}
