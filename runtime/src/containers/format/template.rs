use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::containers::{Error, Result};

/// A Go template: fields, variables, `if`, `range`, `with`, pipes, and the functions `json`, `join`, `split`, `len`, `index`, `slice`,
/// `upper`, `lower`, `title`, `print`, `println`, `printf`, `eq`, `ne`, `lt`, `le`, `gt`, `ge`, `and`, `or`, `not`, `truncate`.
#[derive(Clone, Debug)]
pub struct Template {
    nodes: Vec<Node>,
    /// The template is `json` or `{{json .}}` alone: the value is written in its own order of fields.
    whole_json: bool,
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    Assign(String, Pipe),
    If { cond: Pipe, then: Vec<Node>, other: Vec<Node> },
    With { value: Pipe, then: Vec<Node>, other: Vec<Node> },
    Range { names: Vec<String>, over: Pipe, body: Vec<Node>, other: Vec<Node> },
}

/// Commands joined by `|`; each is a list of operands, the first perhaps a function.
type Pipe = Vec<Vec<Operand>>;

#[derive(Clone, Debug)]
enum Operand {
    /// A field chain from the dot.
    Field(Vec<String>),
    /// A field chain from a variable; `""` is `$`.
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Nested(Pipe),
    /// Fields of what stands in parentheses.
    Chain(Pipe, Vec<String>),
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("template parsing error: template: :1: {why}"))
}

impl Template {
    /// Parses `{{.Names}}` and the like; `json` alone stands for `{{json .}}`. `\t` and `\n` in the text are a tab and a line end.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let whole_json = text.replace(' ', "") == "{{json.}}";
        let mut parser = Parser { parts: split(text)?, at: 0, depth: 0 };
        let (nodes, end) = parser.nodes()?;
        match end {
            None => Ok(Self { nodes, whole_json }),
            Some(word) => Err(bad(format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// Applies it to a value.
    pub fn render<T: Serialize>(&self, value: &T) -> Result<String> {
        let fail = |e: serde_json::Error| Error::invalid(e.to_string());
        if self.whole_json {
            return serde_json::to_string(value).map_err(fail);
        }
        self.run(&serde_json::to_value(value).map_err(fail)?)
    }

    /// Column titles: where a template calls for a value, the title of its field.
    pub(super) fn render_header(&self, titles: &Value) -> Result<String> {
        let mut out = String::new();
        for node in &self.nodes {
            match node {
                Node::Text(text) => out += text,
                Node::Print(pipe) => {
                    let field = pipe.iter().flatten().find_map(|o| match o {
                        Operand::Field(path) => path.first(),
                        _ => None,
                    });
                    let title = field.and_then(|f| titles.get(f)).and_then(Value::as_str).map(String::from);
                    out += &title.or_else(|| field.cloned()).unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(out)
    }

    fn run(&self, root: &Value) -> Result<String> {
        let mut scope = Scope { root, variables: BTreeMap::new(), out: String::new() };
        scope.nodes(&self.nodes, root)?;
        Ok(scope.out)
    }
}

/// Text and actions in turn, white space trimmed where `{{-` and `-}}` ask for it.
fn split(text: &str) -> Result<Vec<Part>> {
    let (mut parts, mut rest, mut trim) = (Vec::new(), text, false);
    while let Some(open) = rest.find("{{") {
        let (before, after) = (&rest[..open], &rest[open + 2..]);
        let close = end_of_action(after).ok_or_else(|| bad("unclosed action"))?;
        let (mut action, next) = (&after[..close], &after[close + 2..]);
        let before = unescape(before);
        let mut before = if trim { before.trim_start() } else { &before };
        if let Some(inner) = action.strip_prefix("- ") {
            (before, action) = (before.trim_end(), inner);
        }
        trim = action.ends_with(" -");
        let action = if trim { &action[..action.len() - 2] } else { action };
        parts.push(Part::Text(before.to_owned()));
        if !action.trim_start().starts_with("/*") {
            parts.push(Part::Action(action.trim().to_owned()));
        }
        rest = next;
    }
    let rest = unescape(rest);
    parts.push(Part::Text(if trim { rest.trim_start().to_owned() } else { rest }));
    Ok(parts)
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Action(String),
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// Where `}}` is that is not inside a string.
fn end_of_action(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut quote) = (0, 0u8);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (0, q @ (b'"' | b'`')) => quote = q,
            (b'"', b'\\') => at += 1,
            (q, b) if q != 0 && q == b => quote = 0,
            (0, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

struct Parser {
    parts: Vec<Part>,
    at: usize,
    depth: usize,
}

/// Nested blocks and parentheses may be so deep.
const DEPTH_MAX: usize = 64;

impl Parser {
    /// Nodes up to `end` or `else`, which is given back, or to the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>)> {
        let mut nodes = Vec::new();
        while let Some(part) = self.parts.get(self.at).cloned() {
            self.at += 1;
            let action = match part {
                Part::Text(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text(text));
                    }
                    continue;
                }
                Part::Action(action) => action,
            };
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
            match word {
                "end" | "else" => return Ok((nodes, Some(action))),
                "if" | "with" | "range" => nodes.push(self.block(word, rest)?),
                _ => nodes.push(simple(&action)?),
            }
        }
        Ok((nodes, None))
    }

    fn block(&mut self, word: &str, rest: &str) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(bad("too deeply nested"));
        }
        let (body, end) = self.nodes()?;
        let mut other = Vec::new();
        match end.as_deref() {
            Some("end") => {}
            Some("else") => {
                let (nodes, end) = self.nodes()?;
                other = nodes;
                if end.as_deref() != Some("end") {
                    return Err(bad("unexpected EOF"));
                }
            }
            // `else if` is an `if` in the `else` branch that shares our `end`.
            Some(elif) if elif.starts_with("else if ") => {
                other = vec![self.block("if", &elif["else if ".len()..])?];
            }
            _ => return Err(bad("unexpected EOF")),
        }
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If { cond: pipe(rest)?, then: body, other },
            "with" => Node::With { value: pipe(rest)?, then: body, other },
            _ => {
                let (names, over) = match rest.split_once(":=") {
                    Some((names, over)) => (
                        names.split(',').map(|n| n.trim().trim_start_matches('$').to_owned()).collect(),
                        over,
                    ),
                    None => (Vec::new(), rest),
                };
                Node::Range { names, over: pipe(over)?, body, other }
            }
        })
    }
}

fn simple(action: &str) -> Result<Node> {
    if let Some(rest) = action.strip_prefix('$')
        && let Some((name, value)) = rest.split_once(":=").or_else(|| rest.split_once(" = "))
        && name.trim().chars().all(|c| c.is_alphanumeric() || c == '_')
    {
        return Ok(Node::Assign(name.trim().to_owned(), pipe(value)?));
    }
    Ok(Node::Print(pipe(action)?))
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    /// `.Field` right after a closing parenthesis.
    Chain(String),
    Bar,
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut out = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => out.push(Token::Open),
            ')' => out.push(Token::Close),
            '|' => out.push(Token::Bar),
            '`' => {
                let string: String = chars.by_ref().map(|(_, c)| c).take_while(|c| *c != '`').collect();
                out.push(Token::Text(string));
            }
            '"' => {
                let (mut end, mut escaped) = (None, false);
                for (i, c) in chars.by_ref() {
                    match c {
                        '"' if !escaped => {
                            end = Some(i);
                            break;
                        }
                        '\\' => escaped = !escaped,
                        _ => escaped = false,
                    }
                }
                let end = end.ok_or_else(|| bad("unterminated quoted string"))?;
                out.push(Token::Text(serde_json::from_str(&text[at..=end]).map_err(bad)?));
            }
            _ => {
                let mut end = at + c.len_utf8();
                while let Some((i, c)) = chars.next_if(|(_, c)| !c.is_whitespace() && !"()|\"`".contains(*c))
                {
                    end = i + c.len_utf8();
                }
                let word = text[at..end].to_owned();
                let chained = c == '.' && text[..at].ends_with(')');
                out.push(if chained { Token::Chain(word) } else { Token::Word(word) });
            }
        }
    }
    Ok(out)
}

fn pipe(text: &str) -> Result<Pipe> {
    let tokens = tokens(text)?;
    let (pipe, used) = pipe_of(&tokens, 0)?;
    if used < tokens.len() {
        return Err(bad("unexpected right paren"));
    }
    Ok(pipe)
}

/// Up to the closing parenthesis or the end; also the number of tokens taken.
fn pipe_of(tokens: &[Token], depth: usize) -> Result<(Pipe, usize)> {
    if depth > DEPTH_MAX {
        return Err(bad("too deeply nested"));
    }
    let (mut pipe, mut command, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Close => {
                at -= 1;
                break;
            }
            Token::Bar => pipe.push(std::mem::take(&mut command)),
            Token::Text(text) => command.push(Operand::Literal(text.clone().into())),
            Token::Word(word) => command.push(operand(word)?),
            Token::Chain(word) => return Err(bad(format!("unexpected {word}"))),
            Token::Open => {
                let (inner, used) = pipe_of(&tokens[at..], depth + 1)?;
                at += used;
                if tokens.get(at) != Some(&Token::Close) {
                    return Err(bad("unclosed left paren"));
                }
                at += 1;
                if let Some(Token::Chain(word)) = tokens.get(at) {
                    at += 1;
                    command.push(Operand::Chain(inner, path(word)));
                } else {
                    command.push(Operand::Nested(inner));
                }
            }
        }
    }
    pipe.push(command);
    if pipe.iter().any(Vec::is_empty) {
        return Err(bad("missing value for command"));
    }
    Ok((pipe, at))
}

fn path(text: &str) -> Vec<String> {
    text.split('.').filter(|p| !p.is_empty()).map(String::from).collect()
}

fn operand(word: &str) -> Result<Operand> {
    if word.starts_with('.') {
        return Ok(Operand::Field(path(word)));
    }
    if let Some(rest) = word.strip_prefix('$') {
        let (name, fields) = rest.split_once('.').unwrap_or((rest, ""));
        return Ok(Operand::Variable(name.to_owned(), path(fields)));
    }
    match word {
        "true" | "false" => return Ok(Operand::Literal((word == "true").into())),
        "nil" => return Ok(Operand::Literal(Value::Null)),
        _ => {}
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Operand::Literal(number.into()));
    }
    if FUNCTIONS.contains(&word) {
        return Ok(Operand::Function(word.to_owned()));
    }
    Err(bad(format!("function \"{word}\" not defined")))
}

const FUNCTIONS: [&str; 24] = [
    "json", "join", "split", "len", "index", "slice", "upper", "lower", "title", "print", "println",
    "printf", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "truncate", "pad", "table",
];

struct Scope<'a> {
    root: &'a Value,
    variables: BTreeMap<String, Value>,
    out: String,
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out += text,
                Node::Print(pipe) => {
                    let text = show(&self.pipe(pipe, dot)?);
                    self.out += &text;
                }
                Node::Assign(name, pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    self.variables.insert(name.clone(), value);
                }
                Node::If { cond, then, other } => {
                    let branch = if truth(&self.pipe(cond, dot)?) { then } else { other };
                    self.nodes(branch, dot)?;
                }
                Node::With { value, then, other } => {
                    let value = self.pipe(value, dot)?;
                    if truth(&value) { self.nodes(then, &value)? } else { self.nodes(other, dot)? }
                }
                Node::Range { names, over, body, other } => {
                    let over = self.pipe(over, dot)?;
                    self.range(names, &over, body, other, dot)?;
                }
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        names: &[String],
        over: &Value,
        body: &[Node],
        other: &[Node],
        dot: &Value,
    ) -> Result<()> {
        let items: Vec<(Value, Value)> = match over {
            Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.into(), v.clone())).collect(),
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone().into(), v.clone())).collect(),
            Value::Null => Vec::new(),
            other => return Err(Error::invalid(format!("range can't iterate over {}", show(other)))),
        };
        if items.is_empty() {
            return self.nodes(other, dot);
        }
        for (key, value) in items {
            match names {
                [element] => drop(self.variables.insert(element.clone(), value.clone())),
                [index, element] => {
                    self.variables.insert(index.clone(), key);
                    self.variables.insert(element.clone(), value.clone());
                }
                _ => {}
            }
            self.nodes(body, &value)?;
        }
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value> {
        let mut last = None;
        for command in pipe {
            last = Some(self.command(command, last, dot)?);
        }
        last.ok_or_else(|| bad("empty command"))
    }

    fn command(&self, command: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value> {
        let (first, rest) = command.split_first().ok_or_else(|| bad("empty command"))?;
        let mut args: Vec<Value> = rest.iter().map(|o| self.operand(o, dot)).collect::<Result<_>>()?;
        args.extend(piped);
        match first {
            Operand::Function(name) => call(name, &args),
            // The one method that listings have: the value of a label.
            Operand::Field(path) if path.last().is_some_and(|p| p == "Label") && args.len() == 1 => {
                Ok(label(dot, &args[0]))
            }
            _ if args.is_empty() => self.operand(first, dot),
            _ => Err(bad("can't give argument to non-function")),
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value> {
        match operand {
            Operand::Field(path) => field(dot, path),
            Operand::Variable(name, path) if name.is_empty() => field(self.root, path),
            Operand::Variable(name, path) => field(
                self.variables.get(name).ok_or_else(|| bad(format!("undefined variable \"${name}\"")))?,
                path,
            ),
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Nested(pipe) => self.pipe(pipe, dot),
            Operand::Chain(pipe, path) => field(&self.pipe(pipe, dot)?, path),
            Operand::Function(name) => call(name, &[]),
        }
    }
}

fn field(from: &Value, path: &[String]) -> Result<Value> {
    let mut value = from;
    for name in path {
        value = match value {
            Value::Object(map) => match map.get(name) {
                Some(value) => value,
                // Fields begin with a capital; a small letter is the key of a map, which may well be missing.
                None if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
                    return Err(Error::invalid(format!(
                        "template: :1: executing \"\" at <.{name}>: can't evaluate field {name}"
                    )));
                }
                None => return Ok(Value::Null),
            },
            Value::Null => return Ok(Value::Null),
            _ => {
                return Err(Error::invalid(format!(
                    "template: :1: executing \"\" at <.{name}>: can't evaluate field {name}"
                )));
            }
        };
    }
    Ok(value.clone())
}

fn label(dot: &Value, name: &Value) -> Value {
    let (Some(labels), Some(name)) = (dot.get("Labels"), name.as_str()) else { return "".into() };
    match labels {
        Value::Object(map) => map.get(name).cloned().unwrap_or_else(|| "".into()),
        Value::String(text) => text
            .split(',')
            .filter_map(|l| l.split_once('='))
            .find(|(k, _)| *k == name)
            .map_or("", |(_, v)| v)
            .into(),
        _ => "".into(),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Go's `%v`.
fn show(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(" ");
    match value {
        Value::Null => "<no value>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", list(items.iter().map(show).collect())),
        Value::Object(map) => {
            format!("map[{}]", list(map.iter().map(|(k, v)| format!("{k}:{}", show(v))).collect()))
        }
        other => other.to_string(),
    }
}

fn call(name: &str, args: &[Value]) -> Result<Value> {
    let wrong = || Error::invalid(format!("template: wrong arguments for {name}"));
    let text = |n: usize| args.get(n).and_then(Value::as_str).ok_or_else(wrong);
    Ok(match (name, args) {
        ("json", [value]) => value.to_string().into(),
        ("join", [Value::Array(items), Value::String(by)]) => {
            items.iter().map(show).collect::<Vec<_>>().join(by).into()
        }
        ("join", [Value::Null, _]) => "".into(),
        ("split", [_, _]) => text(0)?.split(text(1)?).map(Value::from).collect::<Vec<_>>().into(),
        ("upper", [_]) => text(0)?.to_uppercase().into(),
        ("lower", [_]) => text(0)?.to_lowercase().into(),
        ("title", [_]) => title(text(0)?).into(),
        ("truncate", [Value::String(s), Value::Number(n)]) => {
            s.chars().take(n.as_u64().unwrap_or(0) as usize).collect::<String>().into()
        }
        ("pad", [Value::String(s), Value::Number(a), Value::Number(b)]) if !s.is_empty() => {
            let blanks = |n: &serde_json::Number| " ".repeat(n.as_u64().unwrap_or(0).min(1000) as usize);
            format!("{}{s}{}", blanks(a), blanks(b)).into()
        }
        ("pad", [Value::String(s), ..]) => s.clone().into(),
        ("len", [value]) => length(value).ok_or_else(wrong)?.into(),
        ("index", [value, keys @ ..]) => {
            keys.iter().try_fold(value.clone(), |v, key| index(&v, key).ok_or_else(wrong))?
        }
        ("slice", [Value::String(s), bounds @ ..]) => {
            let bound = |n: usize, default: usize| {
                bounds.get(n).map_or(Some(default), |b| b.as_u64().map(|b| b as usize))
            };
            let (from, to) = (bound(0, 0).ok_or_else(wrong)?, bound(1, s.len()).ok_or_else(wrong)?);
            s.get(from..to).ok_or_else(wrong)?.into()
        }
        ("print", args) => args.iter().map(show).collect::<String>().into(),
        ("println", args) => format!("{}\n", args.iter().map(show).collect::<Vec<_>>().join(" ")).into(),
        ("printf", [Value::String(format), args @ ..]) => printf(format, args).into(),
        ("not", [value]) => (!truth(value)).into(),
        ("and", [first, rest @ ..]) => rest.iter().fold(first, |a, b| if truth(a) { b } else { a }).clone(),
        ("or", [first, rest @ ..]) => rest.iter().fold(first, |a, b| if truth(a) { a } else { b }).clone(),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => rest.iter().any(|other| other == first).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("lt" | "le" | "gt" | "ge", [a, b]) => compare(name, a, b).ok_or_else(wrong)?.into(),
        _ => return Err(wrong()),
    })
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let upper = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
            start = !c.is_alphanumeric();
            upper
        })
        .collect()
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(s) => Some(s.len()),
        Value::Array(list) => Some(list.len()),
        Value::Object(map) => Some(map.len()),
        Value::Null => Some(0),
        _ => None,
    }
}

fn index(value: &Value, key: &Value) -> Option<Value> {
    match (value, key) {
        (Value::Object(map), Value::String(key)) => Some(map.get(key).cloned().unwrap_or(Value::Null)),
        (Value::Array(list), Value::Number(n)) => list.get(n.as_u64()? as usize).cloned(),
        (Value::Null, _) => Some(Value::Null),
        _ => None,
    }
}

fn compare(name: &str, a: &Value, b: &Value) -> Option<bool> {
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?)?,
        (Value::String(a), Value::String(b)) => a.cmp(b),
        _ => return None,
    };
    Some(match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Verbs of all kinds print the value; widths count for text.
fn printf(format: &str, args: &[Value]) -> String {
    let (mut out, mut args) = (String::new(), args.iter());
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(f) = chars.next_if(|c| "-+ 0123456789.".contains(*c)) {
            flags.push(f);
        }
        let text = match chars.next() {
            Some('%') => "%".to_owned(),
            Some('q') => args.next().map(|v| Value::from(show(v)).to_string()).unwrap_or_default(),
            _ => args.next().map(show).unwrap_or_default(),
        };
        let (left, width) =
            (flags.starts_with('-'), flags.trim_start_matches('-').split('.').next().unwrap_or(""));
        let width = width.parse::<usize>().unwrap_or(0).min(1000);
        if left { out += &format!("{text:<width$}") } else { out += &format!("{text:>width$}") }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn run(template: &str) -> String {
        let value = json!({
            "Name": "/web",
            "State": {"Running": true, "Pid": 42, "ExitCode": 0},
            "Args": ["-c", "x"],
            "Config": {"Labels": {"a": "b"}, "Env": null},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "1.2.3.4"}, "other": {"IPAddress": "5.6.7.8"}}, "Ports": {"80/tcp": [{"HostPort": "8080"}]}},
        });
        Template::parse(template).unwrap().render(&value).unwrap()
    }

    #[test]
    fn what_people_write() {
        assert_eq!(run("{{.Name}}"), "/web");
        assert_eq!(run("{{.State.Running}} {{.State.Pid}}"), "true 42");
        assert_eq!(run("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"), "1.2.3.4 5.6.7.8 ");
        assert_eq!(run("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}"), "8080");
        assert_eq!(run("{{json .State}}"), r#"{"ExitCode":0,"Pid":42,"Running":true}"#);
        assert_eq!(run("{{join .Args \", \"}}"), "-c, x");
        assert_eq!(run("{{if eq .State.ExitCode 0}}good{{else}}bad{{end}}"), "good");
        assert_eq!(run("{{if .Config.Env}}x{{else if not .State.Running}}y{{else}}z{{end}}"), "z");
        assert_eq!(run("{{index .Config.Labels \"a\"}}{{.Config.Labels.nope}}"), "b<no value>");
        assert_eq!(run("{{range $i, $a := .Args}}{{$i}}={{$a}};{{end}}"), "0=-c;1=x;");
        assert_eq!(run("{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}"), "bridge other ");
        assert_eq!(run("{{with .State}}{{.Pid}}/{{$.Name}}{{end}}"), "42//web");
        assert_eq!(run("{{.Name | upper | printf \"%-6s|\"}}"), "/WEB  |");
        assert_eq!(run("{{ .Args }} {{len .Args}} {{slice .Name 1}}"), "[-c x] 2 web");
        assert_eq!(run("a\\t{{- /* no */ -}} b"), "ab");
        assert_eq!(run("{{println \"x\"}}"), "x\n");
    }

    #[test]
    fn errors_are_errors() {
        for text in
            ["{{", "{{.A", "{{if .A}}", "{{end}}", "{{nope .}}", "{{(.A}}", "{{.A |}}", "{{\"x}}", "{{)}}"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert!(Template::parse("{{.Nope}}").unwrap().render(&json!({"A": 1})).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[{}.a-zA-Z|()$:=\" \\\\%-]{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&json!({"A": [1, "x"], "B": {"c": null}}));
            }
        }
    }
}
