use std::cmp::Ordering;

use serde_json::Value;

use super::{Node, Operand, Start};

type Result<T> = std::result::Result<T, String>;
type Variables = Vec<(String, Value)>;

pub(super) fn run(nodes: &[Node], dot: &Value, variables: &mut Variables, out: &mut String) -> Result<()> {
    let scope = variables.len();
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&show(&value(pipe, dot, variables)?)),
            Node::Set(name, pipe) => {
                let value = value(pipe, dot, variables)?;
                variables.push((name.clone(), value));
            }
            Node::If(pipe, then, otherwise) => {
                let branch = if truth(&value(pipe, dot, variables)?) { then } else { otherwise };
                run(branch, dot, variables, out)?;
            }
            Node::With(pipe, then, otherwise) => {
                let value = value(pipe, dot, variables)?;
                if truth(&value) {
                    run(then, &value, variables, out)?;
                } else {
                    run(otherwise, dot, variables, out)?;
                }
            }
            Node::Range { names, over, body, otherwise } => {
                let items = items(value(over, dot, variables)?)?;
                if items.is_empty() {
                    run(otherwise, dot, variables, out)?;
                }
                for (key, item) in items {
                    range_once((names, body), key, &item, variables, out)?;
                }
            }
        }
    }
    variables.truncate(scope);
    Ok(())
}

fn range_once(
    (names, body): (&[String], &[Node]),
    key: Value,
    item: &Value,
    variables: &mut Variables,
    out: &mut String,
) -> Result<()> {
    let scope = variables.len();
    match names {
        [] => {}
        [value] => variables.push((value.clone(), item.clone())),
        [index, value, ..] => {
            variables.push((index.clone(), key));
            variables.push((value.clone(), item.clone()));
        }
    }
    run(body, item, variables, out)?;
    variables.truncate(scope);
    Ok(())
}

fn items(value: Value) -> Result<Vec<(Value, Value)>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items.into_iter().enumerate().map(|(i, v)| (i.into(), v)).collect()),
        Value::Object(map) => Ok(map.into_iter().map(|(k, v)| (k.into(), v)).collect()),
        other => Err(format!("range can't iterate over {}", show(&other))),
    }
}

fn value(pipe: &[Vec<Operand>], dot: &Value, variables: &Variables) -> Result<Value> {
    let mut piped = None;
    for command in pipe {
        let (first, rest) = command.split_first().ok_or("empty command")?;
        let mut arguments = rest.iter().map(|o| operand(o, dot, variables)).collect::<Result<Vec<_>>>()?;
        arguments.extend(piped);
        piped = Some(match first {
            Operand::Function(name) => call(name, &arguments)?,
            // `.Label "x"`: the one method that Docker's rows have.
            Operand::Path(Start::Dot, path)
                if path.len() == 1 && path[0] == "Label" && arguments.len() == 1 =>
            {
                label(dot, &show(&arguments[0]))
            }
            other if arguments.is_empty() => operand(other, dot, variables)?,
            _ => return Err("can't give argument to non-function".into()),
        });
    }
    piped.ok_or_else(|| "empty pipeline".into())
}

/// Docker's rows hold labels as `a=1,b=2`.
fn label(dot: &Value, name: &str) -> Value {
    let labels = dot["Labels"].as_str().unwrap_or_default();
    let found = labels.split(',').filter_map(|l| l.split_once('=')).find(|(n, _)| *n == name);
    found.map_or("", |(_, value)| value).into()
}

fn operand(operand: &Operand, dot: &Value, variables: &Variables) -> Result<Value> {
    let (start, path) = match operand {
        Operand::Literal(value) => return Ok(value.clone()),
        Operand::Function(name) => return call(name, &[]),
        Operand::Path(start, path) => (start, path),
    };
    let start = match start {
        Start::Dot => dot.clone(),
        Start::Group(pipe) => value(pipe, dot, variables)?,
        Start::Variable(name) => {
            let found = variables.iter().rev().find(|(n, _)| n == name);
            found.ok_or_else(|| format!("undefined variable {name:?}"))?.1.clone()
        }
    };
    path.iter().try_fold(start, |value, field| match value {
        Value::Object(mut map) => {
            map.remove(field).ok_or_else(|| format!("map has no entry for key {field:?}"))
        }
        Value::Null => Err(format!("nil pointer evaluating .{field}")),
        _ => Err(format!("can't evaluate field {field}")),
    })
}

fn call(name: &str, arguments: &[Value]) -> Result<Value> {
    let text = |i: usize| arguments.get(i).map(show).unwrap_or_default();
    let count = |n: usize| {
        if arguments.len() == n {
            Ok(())
        } else {
            Err(format!("wrong number of args for {name}: want {n} got {}", arguments.len()))
        }
    };
    match name {
        "json" | "upper" | "lower" | "title" | "len" | "not" => count(1)?,
        "join" | "split" | "truncate" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" if name != "eq" => count(2)?,
        "pad" => count(3)?,
        _ => {}
    }
    Ok(match name {
        "json" => serde_json::to_string(&arguments[0]).map_err(|e| e.to_string())?.into(),
        "upper" => text(0).to_uppercase().into(),
        "lower" => text(0).to_lowercase().into(),
        "title" => title(&text(0)).into(),
        "join" => {
            let items = arguments[0].as_array().cloned().unwrap_or_default();
            items.iter().map(show).collect::<Vec<_>>().join(&text(1)).into()
        }
        "split" => text(0).split(&text(1)).map(Value::from).collect(),
        "truncate" => text(0).chars().take(size(arguments, 1)).collect::<String>().into(),
        "pad" if text(0).is_empty() => "".into(),
        "pad" => {
            format!("{}{}{}", " ".repeat(size(arguments, 1)), text(0), " ".repeat(size(arguments, 2))).into()
        }
        "len" => length(&arguments[0])?.into(),
        "index" => index(arguments)?,
        "slice" => slice(arguments)?,
        "not" => (!truth(&arguments[0])).into(),
        "and" => pick(arguments, |v| !truth(v)),
        "or" => pick(arguments, truth),
        "eq" => arguments.iter().skip(1).any(|v| order(&arguments[0], v) == Some(Ordering::Equal)).into(),
        "ne" => (order(&arguments[0], &arguments[1]) != Some(Ordering::Equal)).into(),
        "lt" => (order(&arguments[0], &arguments[1]) == Some(Ordering::Less)).into(),
        "gt" => (order(&arguments[0], &arguments[1]) == Some(Ordering::Greater)).into(),
        "le" => matches!(order(&arguments[0], &arguments[1]), Some(Ordering::Less | Ordering::Equal)).into(),
        "ge" => {
            matches!(order(&arguments[0], &arguments[1]), Some(Ordering::Greater | Ordering::Equal)).into()
        }
        "print" => arguments.iter().map(show).collect::<String>().into(),
        "println" => format!("{}\n", arguments.iter().map(show).collect::<Vec<_>>().join(" ")).into(),
        "printf" => printf(arguments).into(),
        _ => return Err(format!("function {name:?} not defined")),
    })
}

/// The first argument that decides, else the last.
fn pick(arguments: &[Value], decides: impl Fn(&Value) -> bool) -> Value {
    arguments.iter().find(|v| decides(v)).or(arguments.last()).cloned().unwrap_or_default()
}

fn size(arguments: &[Value], at: usize) -> usize {
    let number = arguments.get(at).and_then(Value::as_u64).unwrap_or_default();
    usize::try_from(number.min(1 << 16)).unwrap_or_default()
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

fn length(value: &Value) -> Result<usize> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Ok(0),
        _ => Err("len of type that has no length".into()),
    }
}

fn index(arguments: &[Value]) -> Result<Value> {
    let (first, keys) = arguments.split_first().ok_or("index of nothing")?;
    keys.iter().try_fold(first.clone(), |value, key| match (&value, key) {
        // As Go: a missing key of a map is its zero value, an index out of range is an error.
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or_default()),
        (Value::Array(items), Value::Number(n)) => {
            let at = n.as_u64().and_then(|n| usize::try_from(n).ok());
            at.and_then(|at| items.get(at).cloned()).ok_or_else(|| format!("index out of range: {n}"))
        }
        (Value::Null, _) => Err("index of untyped nil".into()),
        _ => Err(format!("can't index item of {} with {}", show(&value), show(key))),
    })
}

fn slice(arguments: &[Value]) -> Result<Value> {
    let range = |len: usize| {
        let (start, end) = (size(arguments, 1), if arguments.len() > 2 { size(arguments, 2) } else { len });
        if start <= end && end <= len { Ok(start..end) } else { Err("slice index out of range".to_owned()) }
    };
    match arguments.first() {
        Some(Value::String(text)) => {
            Ok(text.get(range(text.len())?).ok_or("slice index inside a character")?.into())
        }
        Some(Value::Array(items)) => Ok(items[range(items.len())?].to_vec().into()),
        _ => Err("can't slice this".into()),
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => (a == b).then_some(Ordering::Equal),
    }
}

/// `%s %d %v %q %%` with the rest of the verb ignored.
fn printf(arguments: &[Value]) -> String {
    let format = arguments.first().map(show).unwrap_or_default();
    let (mut out, mut next, mut chars) = (String::new(), arguments.iter().skip(1), format.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.by_ref().find(|c| c.is_ascii_alphabetic() || *c == '%') {
            Some('%') => out.push('%'),
            Some('q') => out.push_str(&next.next().map(|v| format!("{:?}", show(v))).unwrap_or_default()),
            _ => out.push_str(&next.next().map(show).unwrap_or_default()),
        }
    }
    out
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// As Go's `fmt.Print` writes it.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", show(v))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}
