//! Cutting arguments into words, JSON arrays and `name=value` pairs, as BuildKit's line parsers do.

/// Words separated by white space.
pub(super) fn plain(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Words separated by white space outside quotes; quotes and escapes stay in them.
pub(super) fn quoted(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut in_word, mut quote) = (Vec::new(), String::new(), false, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if in_word {
                words.push(std::mem::take(&mut word));
                in_word = false;
            }
            continue;
        }
        in_word = true;
        if c == escape && quote != Some('\'') {
            if let Some(next) = chars.next() {
                word.push(c);
                word.push(next);
            }
            continue;
        }
        match quote {
            Some(q) if q == c => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        word.push(c);
    }
    if in_word {
        words.push(word);
    }
    words
}

/// What an argument that may be a JSON array is.
pub(super) enum Json {
    Array(Vec<String>),
    NotStrings,
    No,
}

pub(super) fn json(text: &str) -> Json {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Json::No;
    }
    // What follows the array does not count, as in Go's decoder.
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Vec<serde_json::Value>>();
    let Some(Ok(values)) = stream.next() else { return Json::No };
    values
        .into_iter()
        .map(|v| if let serde_json::Value::String(s) = v { Some(s) } else { None })
        .collect::<Option<_>>()
        .map_or(Json::NotStrings, Json::Array)
}

/// A JSON array of strings, or words separated by white space.
pub(super) fn json_or_words(text: &str) -> Result<Vec<String>, String> {
    match json(text) {
        Json::Array(a) => Ok(a),
        Json::NotStrings => Err(NOT_STRINGS.to_owned()),
        Json::No => Ok(plain(text)),
    }
}

pub(super) const NOT_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

/// `name=value ...`, or the old `name value`; the flag tells which.
pub(super) fn pairs(
    text: &str,
    keyword: &str,
    escape: char,
) -> Result<(Vec<(String, String)>, bool), String> {
    let words = quoted(text, escape);
    let Some(first) = words.first() else { return Err(format!("{keyword} requires at least one argument")) };
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{keyword} must have two arguments"))?;
        return Ok((vec![(name.to_owned(), value.trim_start().to_owned())], true));
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in &words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!(
                "syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            ));
        };
        if name.is_empty() {
            return Err(format!("{keyword} names can not be blank"));
        }
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok((pairs, false))
}
