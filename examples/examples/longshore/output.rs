//! Tables, sizes and times as docker prints them.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, Write};

use longshore_examples::{is_control, plain};
use longshore_runtime::containers::format::{self, Template};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// Writes a line to standard output. A closed pipe (`longshore ps | head -1`) ends the program quietly.
pub(crate) fn line(text: &str) {
    self::text(&format!("{text}\n"));
}

/// Writes text to standard output, without control characters: parts of it may come from a registry, an image or a container.
pub(crate) fn text(text: &str) {
    bytes(plain(text).as_bytes());
}

/// Writes bytes to standard output as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    write(|out| out.write_all(bytes));
}

fn write(what: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut out = BufWriter::new(io::stdout().lock());
    if what(&mut out).and_then(|()| out.flush()).is_err() {
        // Docker dies of SIGPIPE here.
        std::process::exit(141);
    }
}

/// A word to the user that is not output.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", plain(text));
}

/// Prints rows by `--format`: `table ...`, `json`, a template per row; or by `default`, which is a table.
/// `titles` holds the column title of each field that rows have.
pub(crate) fn rows(
    titles: &[(&str, &str)],
    default: &str,
    format: Option<&str>,
    rows: &[Value],
) -> Result<()> {
    bytes(by_format(&format::list(format, default, titles, rows)?, format).as_bytes());
    Ok(())
}

/// Prints `inspect` results: a JSON array, or a template per object.
pub(crate) fn inspected(objects: &[Value], format: Option<&str>) -> Result<()> {
    match format {
        None => text(&pretty(&json!(objects))),
        Some("json") => line(&json!(objects).to_string()),
        Some(format) => {
            let template = parsed(format)?;
            for object in objects {
                bytes(format!("{}\n", by_format(&template.render(object)?, Some(format))).as_bytes());
            }
        }
    }
    Ok(())
}

/// Prints one value by `--format`.
pub(crate) fn one(format: &str, value: Value) -> Result<()> {
    parsed(format)?;
    rows(&[], format, Some(format), &[value])
}

/// Where there is one object, docker's code for what is no template is another.
pub(crate) fn parsed(format: &str) -> Result<Template> {
    Template::parse(format).map_err(|error| Failure::from(error).code(64))
}

/// What a format of the user's own made may have its colours, and what goes to a program is as it is.
fn by_format<'a>(text: &'a str, format: Option<&str>) -> Cow<'a, str> {
    let own = |format: &str| format.contains(is_control) || !io::stdout().is_terminal();
    if format.is_some_and(own) { text.into() } else { plain(text) }
}

/// Aligns cells: at least so wide, 3 apart, the last one as it is.
pub(crate) fn aligned(lines: &[Vec<String>], least: usize) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let widths =
            lines.iter().filter(|row| column + 1 < row.len()).map(|row| row[column].chars().count() + 3);
        widths.max().unwrap_or_default().max(least)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in lines {
        for (column, cell) in row.iter().enumerate() {
            let width = if column + 1 < row.len() { widths[column] } else { 0 };
            text += &format!("{cell:width$}");
        }
        text.push('\n');
    }
    text
}

/// Prints a JSON document, indented anew with nothing else changed but that its strings have no control characters. What deep
/// nesting makes of it may be long and is not held in memory.
pub(crate) fn indented(document: &str, indent: &str) {
    write(|out| {
        indent_into(&plain(document), indent, out)?;
        out.write_all(b"\n")
    });
}

fn indent_into(document: &str, indent: &str, out: &mut dyn Write) -> io::Result<()> {
    let (mut depth, mut quoted, mut escaped, mut last) = (0_usize, false, false, ' ');
    for c in document.chars() {
        if quoted {
            write!(out, "{c}")?;
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let (opened, closes) = (matches!(last, '{' | '['), matches!(c, '}' | ']'));
        depth = match (opened, closes) {
            (true, false) => depth + 1,
            (false, true) => depth.saturating_sub(1),
            _ => depth,
        };
        // What is empty stays on its line.
        if opened != closes || last == ',' {
            write!(out, "\n{}", indent.repeat(depth))?;
        }
        write!(out, "{c}{}", if c == ':' { " " } else { "" })?;
        (quoted, last) = (c == '"', c);
    }
    Ok(())
}

/// JSON with docker's four spaces.
pub(crate) fn pretty(value: &impl serde::Serialize) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value.serialize(&mut serializer).expect("plain data serialises");
    out.push(b'\n');
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// `74.8MB`: decimal units, three digits.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

/// `1.984MB`: four digits, as `system df` has them.
pub(crate) fn fine_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 4)
}

/// In quotes, as Go writes it (`strconv.Quote`).
pub(crate) fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        '\x07' => "\\a".into(),
        '\x08' => "\\b".into(),
        '\x0b' => "\\v".into(),
        '\x0c' => "\\f".into(),
        '\n' | '\r' | '\t' => c.escape_default().to_string(),
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        // What Rust would escape cannot be printed.
        c if c == '\'' || c.escape_debug().len() == 1 => c.into(),
        c if u32::from(c) > 0xffff => format!("\\U{:08x}", u32::from(c)),
        c => format!("\\u{:04x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

/// `1.441MiB`: binary units, four digits, as `stats` shows memory.
pub(crate) fn binary_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let (mut number, mut unit) = (bytes as f64, 0);
    // Half of the last digit below the base already rounds up to the next unit.
    let limit = base - 0.5 * 10f64.powi(4 - i32::try_from(digits).unwrap_or(4) - 1);
    while number >= limit.min(base) && unit + 1 < units.len() {
        number /= base;
        unit += 1;
    }
    let whole = (number.max(1.0).log10().floor() as usize) + 1;
    let text = format!("{number:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// `2 hours ago`, from seconds since 1970.
pub(crate) fn ago(created: i64) -> String {
    format!("{} ago", format::human_duration(jiff::Timestamp::now().as_second() - created))
}

/// `2026-11-21 12:26:01 +0000 UTC`, from seconds since 1970.
pub(crate) fn date(created: i64) -> String {
    let time = jiff::Timestamp::from_second(created).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// `2026-01-02T03:04:05Z`
pub(crate) fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// RFC 3339 to seconds since 1970; 0 where it does not parse.
pub(crate) fn seconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second)
}

/// At most `width` characters, the last one `…` where some are missing.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The first twelve digits of an ID, without its algorithm.
pub(crate) fn short_id(id: &str) -> String {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_rounds_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1234, "1.23kB"),
            (74_850_000, "74.8MB"),
            (117_000_000, "117MB"),
            (1_000_000, "1MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(999_700), "1MB");
        assert_eq!((fine_size(1_984_172).as_str(), fine_size(6).as_str()), ("1.984MB", "6B"));
        assert_eq!(
            (binary_size(1_511_424).as_str(), binary_size(25_000_000_000).as_str()),
            ("1.441MiB", "23.28GiB")
        );
    }

    #[test]
    fn quoted_as_go_quotes() {
        let text = "a \"b\" \\ it's \t\n\x01\x7f\u{85}\u{200b} ä …";
        assert_eq!(quoted(text), r#""a \"b\" \\ it's \t\n\x01\x7f\u0085\u200b ä …""#);
    }

    #[test]
    fn formats_may_have_colours_and_foreign_text_not() {
        // Standard output is captured or a file here, not a terminal.
        assert_eq!(by_format("\x1b[31mx", None), "\\u001b[31mx");
        assert_eq!(by_format("\x1b[31mx", Some("\x1b[31m{{.ID}}")), "\x1b[31mx");
    }

    #[test]
    fn documents_are_indented_and_nothing_else() {
        let mut out = Vec::new();
        indent_into(r#"{"a":[ 1,{"b{":"c: \"[,"}],"d":[],"e":{}}"#, " ", &mut out).unwrap();
        let wanted = concat!(
            "{\n \"a\": [\n  1,\n  {\n   \"b{\": \"c: \\\"[,\"\n  }\n ],",
            "\n \"d\": [],\n \"e\": {}\n}"
        );
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    #[test]
    fn columns_align() {
        let lines = [vec!["A", "IMAGE", "NAMES"], vec!["0123456789ab", "x", "web"]];
        let lines = lines.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(aligned(&lines, 10), "A              IMAGE     NAMES\n0123456789ab   x         web\n");
    }
}
