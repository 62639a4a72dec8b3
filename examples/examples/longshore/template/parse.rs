use serde_json::Value;

use super::{Node, Operand, Pipe, Start};

type Result<T> = std::result::Result<T, String>;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `.A.B`, `.`
    Field(Vec<String>),
    /// `$x.A`
    Variable(String, Vec<String>),
    Word(String),
    Literal(Value),
    /// `|`, `(`, `)`, `,`, `:=`, `=`
    Mark(&'static str),
}

type Pieces = std::vec::IntoIter<Piece>;

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>> {
    let pieces = split(text)?;
    let mut rest = pieces.into_iter();
    let (nodes, end) = block(&mut rest, 0)?;
    match end {
        End::Input => Ok(nodes),
        End::End => Err("unexpected {{end}}".into()),
        End::Else(_) => Err("unexpected {{else}}".into()),
    }
}

/// Text and actions; `{{-` and `-}}` trim the text beside them.
fn split(mut text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut trim = false;
    loop {
        let (before, after) = match text.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        let mut before = if trim { before.trim_start() } else { before };
        let Some(mut after) = after else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        if let Some(trimmed) = after.strip_prefix("- ") {
            (before, after) = (before.trim_end(), trimmed);
        }
        pieces.push(Piece::Text(before.to_owned()));
        let end = action_end(after).ok_or("unclosed action")?;
        let mut action = &after[..end];
        trim = action.ends_with(" -");
        if trim {
            action = &action[..action.len() - 2];
        }
        if !action.trim_start().starts_with("/*") {
            pieces.push(Piece::Action(tokens(action)?));
        }
        text = &after[end + 2..];
    }
}

/// Where `}}` is, outside of strings.
fn action_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut quote, mut i) = (None, 0);
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(b'"'), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            (None, b @ (b'"' | b'`')) => quote = Some(b),
            (None, b'}') if bytes.get(i + 1) == Some(&b'}') => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut rest = text.trim_start();
    let mut out = Vec::new();
    while let Some(first) = rest.chars().next() {
        let (token, len) = match first {
            '|' => (Token::Mark("|"), 1),
            '(' => (Token::Mark("("), 1),
            ')' => (Token::Mark(")"), 1),
            ',' => (Token::Mark(","), 1),
            ':' if rest.starts_with(":=") => (Token::Mark(":="), 2),
            '=' => (Token::Mark("="), 1),
            '"' => quoted(rest)?,
            '`' => {
                let len = rest[1..].find('`').ok_or("unterminated raw string")?;
                (Token::Literal(rest[1..=len].into()), len + 2)
            }
            _ => {
                let len =
                    rest.find(|c: char| c.is_whitespace() || "|(),:=\"`".contains(c)).unwrap_or(rest.len());
                (word(&rest[..len])?, len)
            }
        };
        if len == 0 {
            return Err(format!("unexpected {first:?} in command"));
        }
        out.push(token);
        rest = rest[len..].trim_start();
    }
    Ok(out)
}

fn quoted(text: &str) -> Result<(Token, usize)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match values.next() {
        Some(Ok(value)) => Ok((Token::Literal(value.into()), values.byte_offset())),
        _ => Err("unterminated quoted string".into()),
    }
}

fn word(word: &str) -> Result<Token> {
    let fields =
        |text: &str| text.split('.').filter(|f| !f.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    if let Some(path) = word.strip_prefix('.') {
        return Ok(Token::Field(fields(path)));
    }
    if word.starts_with('$') {
        let (name, path) = word.split_once('.').unwrap_or((word, ""));
        return Ok(Token::Variable(name.to_owned(), fields(path)));
    }
    Ok(match word {
        "true" => Token::Literal(true.into()),
        "false" => Token::Literal(false.into()),
        "nil" => Token::Literal(Value::Null),
        _ if word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') => {
            Token::Literal(serde_json::from_str(word).map_err(|_| format!("bad number syntax: {word:?}"))?)
        }
        _ => Token::Word(word.to_owned()),
    })
}

enum End {
    Input,
    End,
    Else(Vec<Token>),
}

/// Nodes up to the end of this block, and what ended it.
fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, End)> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let keyword = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            Some(_) => "",
            None => return Err("missing value for command".into()),
        };
        match keyword {
            "end" => return Ok((nodes, End::End)),
            "else" => return Ok((nodes, End::Else(tokens[1..].to_vec()))),
            "if" | "with" | "range" if depth < 50 => {
                nodes.push(control(keyword, &tokens[1..], pieces, depth)?)
            }
            "if" | "with" | "range" => return Err("nested too deeply".into()),
            _ => nodes.push(simple(&tokens)?),
        }
    }
    Ok((nodes, End::Input))
}

fn control(keyword: &str, head: &[Token], pieces: &mut Pieces, depth: usize) -> Result<Node> {
    let (body, end) = block(pieces, depth + 1)?;
    let otherwise = match end {
        End::Input => return Err("unexpected end of template: {{end}} is missing".into()),
        End::End => Vec::new(),
        End::Else(tokens) => match tokens.first() {
            None => match block(pieces, depth + 1)? {
                (nodes, End::End) => nodes,
                _ => return Err("expected {{end}} after {{else}}".into()),
            },
            Some(Token::Word(word)) if word == keyword => {
                vec![control(keyword, &tokens[1..], pieces, depth + 1)?]
            }
            Some(_) => return Err("unexpected words after {{else".into()),
        },
    };
    Ok(match keyword {
        "if" => Node::If(pipe(head)?, body, otherwise),
        "with" => Node::With(pipe(head)?, body, otherwise),
        _ => {
            let (names, over) = declaration(head)?;
            Node::Range { names, over: pipe(over)?, body, otherwise }
        }
    })
}

/// `$k, $v :=` before a pipeline.
fn declaration(tokens: &[Token]) -> Result<(Vec<String>, &[Token])> {
    let Some(at) = tokens.iter().position(|t| matches!(t, Token::Mark(":=" | "="))) else {
        return Ok((Vec::new(), tokens));
    };
    let names = tokens[..at].iter().filter(|t| **t != Token::Mark(","));
    let names = names.map(|t| match t {
        Token::Variable(name, path) if path.is_empty() => Ok(name.clone()),
        _ => Err("expected a variable before :=".to_owned()),
    });
    Ok((names.collect::<Result<_>>()?, &tokens[at + 1..]))
}

fn simple(tokens: &[Token]) -> Result<Node> {
    let (names, rest) = declaration(tokens)?;
    match names.as_slice() {
        [] => Ok(Node::Print(pipe(rest)?)),
        [name] => Ok(Node::Set(name.clone(), pipe(rest)?)),
        _ => Err("too many declarations in command".into()),
    }
}

fn pipe(tokens: &[Token]) -> Result<Pipe> {
    let mut rest = tokens;
    let pipe = commands(&mut rest, 0)?;
    if rest.is_empty() { Ok(pipe) } else { Err("unexpected \")\" in command".into()) }
}

fn commands(rest: &mut &[Token], depth: usize) -> Result<Pipe> {
    let mut pipe = vec![Vec::new()];
    while let Some((token, tail)) = rest.split_first() {
        let operand = match token {
            Token::Mark(")") => break,
            Token::Mark("|") => {
                pipe.push(Vec::new());
                *rest = tail;
                continue;
            }
            Token::Mark("(") if depth < 50 => {
                *rest = tail;
                let group = commands(rest, depth + 1)?;
                let Some((Token::Mark(")"), tail)) = rest.split_first() else {
                    return Err("unclosed left parenthesis".into());
                };
                *rest = tail;
                let path = match rest.split_first() {
                    Some((Token::Field(path), tail)) if !path.is_empty() => {
                        *rest = tail;
                        path.clone()
                    }
                    _ => Vec::new(),
                };
                push(&mut pipe, Operand::Path(Start::Group(group), path));
                continue;
            }
            Token::Mark(mark) => return Err(format!("unexpected {mark:?} in command")),
            Token::Field(path) => Operand::Path(Start::Dot, path.clone()),
            Token::Variable(name, path) => Operand::Path(Start::Variable(name.clone()), path.clone()),
            Token::Word(name) => Operand::Function(name.clone()),
            Token::Literal(value) => Operand::Literal(value.clone()),
        };
        *rest = tail;
        push(&mut pipe, operand);
    }
    if pipe.iter().any(Vec::is_empty) { Err("missing value for command".into()) } else { Ok(pipe) }
}

fn push(pipe: &mut Pipe, operand: Operand) {
    pipe.last_mut().expect("a pipe starts with one command").push(operand);
}
