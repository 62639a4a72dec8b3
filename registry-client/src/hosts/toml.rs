//! As much of TOML as `hosts.toml` uses: tables, strings, booleans, numbers, arrays. A whole parser would cost five crates.

/// A value. Tables keep their order, since the order of hosts counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    String(String),
    Bool(bool),
    /// As it was written; no number means anything here.
    Number(String),
    Array(Vec<Self>),
    Table(Table),
}

pub(crate) type Table = Vec<(String, Value)>;

/// What is wrong, and in which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) reason: &'static str,
}

const DEPTH_MAX: usize = 32;

pub(crate) fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    table.iter().find(|(k, _)| k == key).map(|(_, v)| v)
}

/// Parses a document.
pub(crate) fn parse(text: &str) -> Result<Table, Fault> {
    let mut parser = Parser { rest: text, line: 1 };
    parser.document().map_err(|reason| Fault { line: parser.line, reason })
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Table, &'static str> {
        let mut root = Table::new();
        let mut at: Vec<String> = Vec::new();
        loop {
            self.blank(true);
            match self.peek() {
                None => return Ok(root),
                Some('[') => {
                    self.take();
                    if self.peek() == Some('[') {
                        return Err("arrays of tables are not supported");
                    }
                    at = self.path()?;
                    self.expect(']')?;
                    table_at(&mut root, &at)?;
                }
                Some(_) => {
                    let mut path = self.path()?;
                    self.expect('=')?;
                    let value = self.value(0)?;
                    let key = path.pop().ok_or("a key is missing")?;
                    let table = table_at(&mut root, &[at.as_slice(), &path].concat())?;
                    if get(table, &key).is_some() {
                        return Err("a key stands there twice");
                    }
                    table.push((key, value));
                }
            }
            self.blank(false);
            if !matches!(self.peek(), None | Some('\n')) {
                return Err("something follows on the same line");
            }
        }
    }

    fn path(&mut self) -> Result<Vec<String>, &'static str> {
        let mut path = Vec::new();
        loop {
            self.blank(false);
            path.push(self.key()?);
            self.blank(false);
            if path.len() > DEPTH_MAX {
                return Err("it is nested too deeply");
            }
            if self.peek() != Some('.') {
                return Ok(path);
            }
            self.take();
        }
    }

    fn key(&mut self) -> Result<String, &'static str> {
        if matches!(self.peek(), Some('"' | '\'')) {
            return self.string();
        }
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let end = self.rest.find(|c| !is_bare(c)).unwrap_or(self.rest.len());
        let (key, rest) = self.rest.split_at(end);
        self.rest = rest;
        if key.is_empty() { Err("a key is missing") } else { Ok(key.to_owned()) }
    }

    fn value(&mut self, depth: usize) -> Result<Value, &'static str> {
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply");
        }
        self.blank(false);
        match self.peek() {
            Some('"' | '\'') => self.string().map(Value::String),
            Some('[') => {
                self.take();
                let mut items = Vec::new();
                loop {
                    self.blank(true);
                    if self.peek() == Some(']') {
                        self.take();
                        return Ok(Value::Array(items));
                    }
                    items.push(self.value(depth + 1)?);
                    self.blank(true);
                    match self.take() {
                        Some(',') => {}
                        Some(']') => return Ok(Value::Array(items)),
                        _ => return Err("an array does not end"),
                    }
                }
            }
            Some('{') => self.inline_table(depth),
            _ => self.word(),
        }
    }

    fn inline_table(&mut self, depth: usize) -> Result<Value, &'static str> {
        self.take();
        let mut table = Table::new();
        loop {
            self.blank(false);
            if self.peek() == Some('}') && table.is_empty() {
                self.take();
                return Ok(Value::Table(table));
            }
            let key = self.key()?;
            self.expect('=')?;
            table.push((key, self.value(depth + 1)?));
            self.blank(false);
            match self.take() {
                Some(',') => {}
                Some('}') => return Ok(Value::Table(table)),
                _ => return Err("an inline table does not end"),
            }
        }
    }

    fn word(&mut self) -> Result<Value, &'static str> {
        let end =
            self.rest.find(|c: char| c.is_whitespace() || ",]}#".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "" => Err("a value is missing"),
            w if w.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-') => {
                Ok(Value::Number(w.to_owned()))
            }
            _ => Err("a value is neither string, number, true nor false"),
        }
    }

    fn string(&mut self) -> Result<String, &'static str> {
        let quote = self.take().ok_or("a string is missing")?;
        if self.rest.starts_with(if quote == '"' { "\"\"" } else { "''" }) {
            return Err("strings over several lines are not supported");
        }
        let mut text = String::new();
        loop {
            match self.take() {
                None | Some('\n') => return Err("a string does not end"),
                Some(c) if c == quote => return Ok(text),
                Some('\\') if quote == '"' => text.push(self.escape()?),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, &'static str> {
        let digits = match self.take() {
            Some('n') => return Ok('\n'),
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some(c @ ('"' | '\\')) => return Ok(c),
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err("an unknown escape"),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.rest = self.rest.get(digits..).unwrap_or("");
        code.and_then(char::from_u32).ok_or("an escape is no character")
    }

    /// Skips spaces and comments, and ends of lines where they do not count.
    fn blank(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' => {}
                '\n' if lines => {}
                '#' => {
                    self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
                    continue;
                }
                _ => return,
            }
            self.take();
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), &'static str> {
        self.blank(false);
        match (self.take(), wanted) {
            (Some(c), _) if c == wanted => Ok(()),
            (_, '=') => Err("an equals sign is missing"),
            _ => Err("a closing bracket is missing"),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }
}

fn table_at<'t>(root: &'t mut Table, path: &[String]) -> Result<&'t mut Table, &'static str> {
    let mut table = root;
    for key in path {
        let at = match table.iter().position(|(k, _)| k == key) {
            Some(at) => at,
            None => {
                table.push((key.clone(), Value::Table(Table::new())));
                table.len() - 1
            }
        };
        table = match &mut table[at].1 {
            Value::Table(inner) => inner,
            _ => return Err("a table has the name of a value"),
        };
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_hosts_files_hold() {
        let text = "# c\nserver = \"https://a\" # d\n\n[host.\"https://b:1/p\"]\n  capabilities = [\"pull\", # e\n 'resolve',]\n  \
                    skip_verify=true\n dial_timeout = \"5s\"\n n = 5\n[host.\"https://b:1/p\".header]\n x-y = [\"\\u0041\\\"\"]\n inl = {a = 1, b = 'c'}\n[x]\n";
        let root = parse(text).unwrap();
        assert_eq!(get(&root, "server"), Some(&Value::String("https://a".into())));
        let Some(Value::Table(hosts)) = get(&root, "host") else { panic!() };
        let Some(Value::Table(b)) = get(hosts, "https://b:1/p") else { panic!() };
        let strings = |s: &[&str]| Value::Array(s.iter().map(|s| Value::String((*s).into())).collect());
        assert_eq!(get(b, "capabilities"), Some(&strings(&["pull", "resolve"])));
        assert_eq!(get(b, "skip_verify"), Some(&Value::Bool(true)));
        let Some(Value::Table(header)) = get(b, "header") else { panic!() };
        assert_eq!(get(header, "x-y"), Some(&strings(&["A\""])));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, line) in [
            ("a", 1),
            ("a = ", 1),
            ("\n\na = \"x", 3),
            ("a = 1\na = 2", 2),
            ("a = 1 b = 2", 1),
            ("[a\n]", 2),
            ("[[a]]", 1),
            ("a = \"\"\"x\"\"\"", 1),
            ("a = 1\n[a]", 2),
            ("a = \"\\q\"", 1),
            ("a = nope", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
        assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
        assert!(parse(&"a.".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]\"'=.a#\\\\u{}, \n-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
