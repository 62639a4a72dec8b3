//! From bytes to instructions: lines, comments, continuations, directives, here-documents.

use super::{
    Directive, Dockerfile, Instruction, Item, ItemKind, MAX_FILE, MAX_LINE, SyntaxError, flags, heredoc,
    typed,
};

pub(super) fn scan(source: &str) -> Dockerfile {
    let mut scanner = scan_items(source);
    if source.len() <= MAX_FILE {
        scanner.whole_file();
    }
    scanner.file
}

/// Instructions that need not begin with a `FROM`.
pub(super) fn scan_fragment(source: &str) -> Dockerfile {
    scan_items(source).file
}

fn scan_items(source: &str) -> Scanner<'_> {
    let mut scanner = Scanner {
        source,
        at: 0,
        line: 0,
        directives_done: false,
        comments: Vec::new(),
        file: Dockerfile {
            source: source.to_owned(),
            escape: '\\',
            directives: Vec::new(),
            items: Vec::new(),
            errors: Vec::new(),
        },
    };
    if source.len() > MAX_FILE {
        scanner.error(1, 0..0, format!("dockerfile is larger than {MAX_FILE} bytes"));
        scanner.file.items.push(Item { span: 0..source.len(), line: 1, kind: ItemKind::Comment });
        return scanner;
    }
    while scanner.item() {}
    scanner
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
    /// Lines read so far.
    line: usize,
    directives_done: bool,
    comments: Vec<String>,
    file: Dockerfile,
}

impl<'a> Scanner<'a> {
    /// The next physical line without its end.
    fn next_line(&mut self) -> Option<&'a str> {
        let rest = &self.source[self.at..];
        if rest.is_empty() {
            return None;
        }
        let n = rest.find('\n').map_or(rest.len(), |n| n + 1);
        self.at += n;
        self.line += 1;
        let line = rest[..n].trim_end_matches('\n').trim_end_matches('\r');
        if line.len() > MAX_LINE {
            self.error(self.line, self.at - n..self.at, format!("line is longer than {MAX_LINE} bytes"));
        }
        Some(line)
    }

    fn error(&mut self, line: usize, span: std::ops::Range<usize>, message: String) {
        self.file.errors.push(SyntaxError { line, span, message });
    }

    fn item(&mut self) -> bool {
        let start = self.at;
        let Some(mut text) = self.next_line() else { return false };
        let line = self.line;
        if start == 0 {
            text = text.trim_start_matches('\u{feff}');
        }
        let trimmed = text.trim_start();
        let kind = if trimmed.is_empty() {
            self.directives_done = true;
            self.comments.clear();
            ItemKind::Blank
        } else if let Some(comment) = trimmed.strip_prefix('#') {
            self.directive(comment, line, start);
            self.comments.push(comment.trim().to_owned());
            ItemKind::Comment
        } else {
            self.directives_done = true;
            match self.instruction(trimmed, start) {
                Some(instruction) => ItemKind::Instruction(Box::new(instruction)),
                None => ItemKind::Blank,
            }
        };
        self.file.items.push(Item { span: start..self.at, line, kind });
        true
    }

    fn directive(&mut self, comment: &str, line: usize, start: usize) {
        if self.directives_done {
            return;
        }
        let parsed = comment.split_once('=').map(|(n, v)| (n.trim().to_lowercase(), v.trim().to_owned()));
        let Some((name, value)) =
            parsed.filter(|(n, v)| matches!(n.as_str(), "escape" | "syntax" | "check") && !v.is_empty())
        else {
            self.directives_done = true;
            return;
        };
        if self.file.directives.iter().any(|d| d.name == name) {
            return self.error(line, start..self.at, format!("only one {name} parser directive can be used"));
        }
        if name == "escape" {
            match value.as_str() {
                "\\" => {}
                "`" => self.file.escape = '`',
                _ => {
                    return self.error(
                        line,
                        start..self.at,
                        format!("invalid ESCAPE '{value}'. Must be ` or \\"),
                    );
                }
            }
        }
        self.file.directives.push(Directive { name, value, line });
    }

    /// `None` when nothing is left of the line, such as of a lone continuation at the end of the file.
    fn instruction(&mut self, first: &str, start: usize) -> Option<Instruction> {
        let line = self.line;
        let keyword_at = self.offset_of(first);
        let (mut text, mut more) = self.uncontinued(first);
        let mut empty_continuation = false;
        while more {
            let Some(next) = self.next_line() else { break };
            let trimmed = next.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_continuation = true;
                continue;
            }
            let (part, again) = self.uncontinued(next);
            text.push_str(&part);
            more = again;
        }
        let logical = text.trim();
        if logical.is_empty() {
            return None;
        }
        let keyword = logical.split_whitespace().next().unwrap_or_default();
        let (flags, arguments) = flags::split(&logical[keyword.len()..]);
        let mut instruction = Instruction {
            line,
            end_line: line,
            keyword: keyword_at..(keyword_at + keyword.len()).min(self.at),
            name: keyword.to_uppercase(),
            flags,
            arguments: arguments.trim().to_owned(),
            heredocs: Vec::new(),
            empty_continuation,
            comments: std::mem::take(&mut self.comments),
            op: None,
            text: logical.to_owned(),
        };
        self.heredocs(&mut instruction, start);
        instruction.end_line = self.line;
        match typed::op(&instruction, self.file.escape) {
            Ok(op) => instruction.op = Some(op),
            Err(message) => self.error(line, start..self.at, message),
        }
        Some(instruction)
    }

    fn offset_of(&self, part: &str) -> usize {
        (part.as_ptr() as usize).saturating_sub(self.source.as_ptr() as usize).min(self.source.len())
    }

    /// The line without its continuation character, and whether it had one. A doubled one is a literal.
    fn uncontinued(&self, line: &str) -> (String, bool) {
        let escape = self.file.escape;
        let body = line.trim_end_matches([' ', '\t']);
        match body.strip_suffix(escape) {
            Some(before) if !before.ends_with(escape) => (before.to_owned(), true),
            _ => (line.to_owned(), false),
        }
    }

    fn heredocs(&mut self, instruction: &mut Instruction, start: usize) {
        if !typed::takes_heredocs(instruction) || !instruction.text.contains("<<") {
            return;
        }
        for mut doc in heredoc::announced(&instruction.text, self.file.escape) {
            let mut ended = false;
            loop {
                let from = self.at;
                let Some(line) = self.next_line() else { break };
                let candidate = if doc.chomp { line.trim_start_matches('\t') } else { line };
                if candidate == doc.name {
                    ended = true;
                    break;
                }
                doc.content.push_str(&self.source[from..self.at]);
            }
            if !ended {
                self.error(instruction.line, start..self.at, format!("unterminated heredoc: {}", doc.name));
            }
            instruction.heredocs.push(doc);
        }
    }

    /// What no single line shows.
    fn whole_file(&mut self) {
        let early = self
            .file
            .instructions()
            .find(|i| i.name != "ARG")
            .map(|i| (i.line, i.name.clone(), i.op.is_some()));
        let message = match early {
            None => (1, "file with no instructions".to_owned()),
            Some((line, name, true)) if name != "FROM" => {
                (line, "no build stage in current context".to_owned())
            }
            _ => return,
        };
        if self.file.errors.is_empty() {
            self.error(message.0, 0..self.source.len(), message.1);
        }
    }
}
