//! Path patterns: Go's `filepath.Match` for sources of `COPY`, and the `**` and `!` of `.dockerignore` and `--exclude`.

use std::path::{Component, Path};

use crate::{Error, Result};

/// Longest pattern in bytes.
const MAX_PATTERN: usize = 4096;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Star,
    /// `**` at the end
    All,
    /// `**/`: this token lets the next be skipped
    Optional,
    /// `**/`: anything that ends in a slash
    Dirs,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    text: String,
}

impl Glob {
    /// `double_star`: whether `**` crosses slashes.
    pub(crate) fn new(text: &str, double_star: bool) -> Result<Self> {
        let bad = || Error::Pattern { pattern: text.to_owned() };
        if text.len() > MAX_PATTERN {
            return Err(bad());
        }
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if double_star && chars.peek() == Some(&'*') => {
                    while chars.peek() == Some(&'*') {
                        chars.next();
                    }
                    match chars.peek() {
                        Some('/') => {
                            chars.next();
                            tokens.extend([Token::Optional, Token::Dirs]);
                        }
                        _ => tokens.push(Token::All),
                    }
                }
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::One),
                '[' => tokens.push(class(&mut chars).ok_or_else(bad)?),
                '\\' => tokens.push(Token::Char(chars.next().ok_or_else(bad)?)),
                c => tokens.push(Token::Char(c)),
            }
        }
        Ok(Self { tokens, text: text.to_owned() })
    }

    /// Whether the whole of `text` matches. Linear in text times pattern: no backtracking.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let end = self.tokens.len();
        let mut states = vec![false; end + 1];
        states[0] = true;
        self.close(&mut states);
        let mut next = vec![false; end + 1];
        for c in text.chars() {
            next.fill(false);
            for (i, token) in self.tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                match token {
                    Token::Char(t) => next[i + 1] |= *t == c,
                    Token::One => next[i + 1] |= c != '/',
                    Token::Star => next[i] |= c != '/',
                    Token::All => next[i] = true,
                    Token::Optional => {}
                    Token::Dirs => {
                        next[i] = true;
                        next[i + 1] |= c == '/';
                    }
                    Token::Class { negated, ranges } => {
                        let inside = ranges.iter().any(|(a, b)| (*a..=*b).contains(&c));
                        next[i + 1] |= c != '/' && inside != *negated;
                    }
                }
            }
            self.close(&mut next);
            std::mem::swap(&mut states, &mut next);
            if !states.contains(&true) {
                return false;
            }
        }
        states[end]
    }

    fn close(&self, states: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if !states[i] {
                continue;
            }
            match token {
                Token::Star | Token::All => states[i + 1] = true,
                Token::Optional => {
                    states[i + 1] = true;
                    states[i + 2] = true;
                }
                _ => {}
            }
        }
    }

    /// The characters before the first wildcard.
    fn fixed_prefix(&self) -> String {
        self.tokens.iter().map_while(|t| if let Token::Char(c) = t { Some(*c) } else { None }).collect()
    }

    /// Whether there is a wildcard in it.
    pub(crate) fn is_literal(text: &str) -> bool {
        !text.contains(['*', '?', '[', '\\'])
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if(|c| matches!(c, '^' | '!')).is_some();
    let mut ranges = Vec::new();
    loop {
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Some(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

/// The rules of a `.dockerignore` file or of `--exclude`: the last one that matches a path or a parent of it decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignore {
    rules: Vec<(Glob, bool)>,
}

/// Which rules match a directory, so that what is below needs not ask again.
pub(crate) type Matched = Vec<bool>;

impl Ignore {
    /// Reads a `.dockerignore` file.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let lines = text.trim_start_matches('\u{feff}').lines();
        Self::new(lines.filter(|l| !l.starts_with('#')).map(str::trim).filter(|l| !l.is_empty()))
    }

    pub(crate) fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let (negated, body) = pattern.strip_prefix('!').map_or((false, pattern), |p| (true, p.trim()));
            let body = clean(body);
            if negated && body.is_empty() {
                return Err(Error::Pattern { pattern: pattern.to_owned() });
            }
            if !body.is_empty() {
                rules.push((Glob::new(&body, true)?, negated));
            }
        }
        Ok(Self { rules })
    }

    /// Whether the path is ignored, given what matched its parent (empty for the top).
    pub(crate) fn check(&self, path: &str, parent: &[bool]) -> (bool, Matched) {
        let mut ignored = false;
        let matched: Matched = self
            .rules
            .iter()
            .enumerate()
            .map(|(i, (glob, negated))| {
                let m = parent.get(i).copied().unwrap_or(false) || glob.matches(path);
                if m {
                    ignored = !negated;
                }
                m
            })
            .collect();
        (ignored, matched)
    }

    /// Whether something below an ignored directory may be taken in again by a `!` rule.
    pub(crate) fn may_include_below(&self, dir: &str) -> bool {
        let below = format!("{dir}/");
        self.rules.iter().filter(|(_, negated)| *negated).any(|(glob, _)| {
            let prefix = glob.fixed_prefix();
            if Glob::is_literal(&glob.text) {
                prefix.starts_with(&below)
            } else {
                prefix.starts_with(&below) || below.starts_with(&prefix)
            }
        })
    }

    /// [`check`](Self::check) for a path whose parents were not walked; the top itself is never ignored.
    pub(crate) fn check_path(&self, path: &Path) -> (bool, Matched) {
        let (mut ignored, mut matched) = (false, Vec::new());
        if self.rules.is_empty() {
            return (ignored, matched);
        }
        for at in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
            (ignored, matched) = self.check(&at.to_string_lossy(), &matched);
        }
        (ignored, matched)
    }
}

/// Lexically cleaned, relative, with forward slashes; empty for the root itself.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A path's normal components joined anew; `..` stops at the root.
pub(crate) fn clean_path(path: &Path) -> std::path::PathBuf {
    let mut out = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(p) => out.push(p),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_as_in_go() {
        // From the table in Go's path/filepath tests.
        for (pattern, text, wanted) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("arr[[]0].txt", "arr[0].txt", true),
        ] {
            assert_eq!(Glob::new(pattern, false).unwrap().matches(text), wanted, "{pattern} {text}");
        }
        for bad in ["[]a]", "[-]", "[x-]", "[-x]", "a[", "[^", "\\", "[a"] {
            assert!(Glob::new(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn ignore_rules() {
        for (rules, path, wanted) in [
            ("a", "a", true),
            ("a", "a/b", true),
            ("a", "b/a", false),
            ("/a", "a", true),
            ("*/a", "b/a", true),
            ("**", "a/b/c", true),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "x/ya", false),
            ("a/**", "a/b", true),
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("**/*.o", "x/y.o", true),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "keep/x", false),
            ("*\n!d/keep", "d/keep", false),
            ("*\n!d/keep", "d/other", true),
            ("!a\na", "a", true),
            ("# a\n\n ./b/../c/ ", "c", true),
            ("a\n!a/b\na/b/c", "a/b/c", true),
        ] {
            assert_eq!(
                Ignore::parse(rules).unwrap().check_path(Path::new(path)).0,
                wanted,
                "{rules:?} {path}"
            );
        }
        assert!(Ignore::parse("!").is_err());
        let i = Ignore::parse("*\n!d/keep\n!*/x").unwrap();
        assert!(i.may_include_below("d") && i.may_include_below("e"));
        assert!(!Ignore::parse("*\n!d/keep").unwrap().may_include_below("e"));
    }

    proptest::proptest! {
        #[test]
        fn literals_match_themselves(path in "[a-z.]{1,8}(/[a-z.]{1,8}){0,3}") {
            proptest::prop_assert!(Glob::new(&path, true).unwrap().matches(&path));
            proptest::prop_assert_eq!(clean(&clean(&path)), clean(&path));
        }
        #[test]
        fn never_panics(pattern in "[a*?/\\[\\]^!\\\\-]{0,20}", path in "[a/]{0,12}") {
            if let Ok(g) = Glob::new(&pattern, true) { g.matches(&path); }
        }
    }
}
