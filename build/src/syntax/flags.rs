use super::Flag;

/// Takes the `--flag` words off the front of an instruction's arguments. Returns them and the rest.
pub(super) fn split(line: &str) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = line.trim_start();
    while rest.starts_with("--") {
        let (word, after) = word(rest);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        let body = &word[2..];
        flags.push(match body.split_once('=') {
            Some((name, value)) => Flag { name: name.to_owned(), value: Some(value.to_owned()) },
            None => Flag { name: body.to_owned(), value: None },
        });
    }
    (flags, rest)
}

/// One word; quotes and escapes are taken away.
fn word(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return (out, &text[at..]),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (_, '\\') => match chars.next() {
                Some((_, c)) => out.push(c),
                None => break,
            },
            (_, c) => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_flags_off() {
        let (flags, rest) = split(" --from=a --link --x='b c'  d --e");
        let names: Vec<_> = flags.iter().map(|f| (f.name.as_str(), f.value.as_deref())).collect();
        assert_eq!(names, [("from", Some("a")), ("link", None), ("x", Some("b c"))]);
        assert_eq!(rest, "d --e");
        assert_eq!(split("-- --x").1, "--x");
        assert_eq!(split("a").1, "a");
    }
}
