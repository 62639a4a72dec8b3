//! Tables, sizes and times as docker prints them.

use std::io::Write;

use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::template::Template;

/// Writes a line to standard output. A closed pipe (`longshore ps | head -1`) ends the program quietly.
pub(crate) fn line(text: &str) {
    bytes(format!("{text}\n").as_bytes());
}

/// Writes bytes to standard output.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        // Docker dies of SIGPIPE here.
        std::process::exit(141);
    }
}

/// A word to the user that is not output.
#[expect(clippy::print_stderr, reason = "the program's voice beside its output")]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Prints rows by `--format`: `table ...`, `json`, a template per row; or by `default`, which is a table.
/// `titles` holds the column title of each field that rows have.
pub(crate) fn rows(titles: &Value, default: &str, format: Option<&str>, rows: &[Value]) -> Result<()> {
    let format = match format {
        None | Some("table") => default.to_owned(),
        Some(format) => format.replace("\\t", "\t").replace("\\n", "\n"),
    };
    if format == "json" {
        rows.iter().for_each(|row| line(&row.to_string()));
        return Ok(());
    }
    let (body, table) = match format.strip_prefix("table") {
        Some(body) => (body.trim_start_matches(' '), true),
        None => (format.as_str(), false),
    };
    let template = Template::parse(body).map_err(Failure::new)?;
    let head = table.then_some(titles);
    let lines = head.into_iter().chain(rows).map(|row| template.render(row).map_err(Failure::new));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let text = if table { aligned(&lines) } else { lines.into_iter().map(|l| l + "\n").collect() };
    bytes(text.as_bytes());
    Ok(())
}

/// Aligns the cells of tab-separated lines: at least 10 wide, 3 apart, the last one as it is.
pub(crate) fn aligned(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let widths =
            cells.iter().filter(|row| column + 1 < row.len()).map(|row| row[column].chars().count() + 3);
        widths.max().unwrap_or_default().max(10)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

/// Prints `inspect` results: a JSON array, or a template per object.
pub(crate) fn inspected(objects: &[Value], format: Option<&str>) -> Result<()> {
    match format {
        None => bytes(pretty(&json!(objects)).as_bytes()),
        Some("json") => line(&json!(objects).to_string()),
        Some(format) => {
            let template = Template::parse(format).map_err(Failure::new)?;
            for object in objects {
                line(&template.render(object).map_err(Failure::new)?);
            }
        }
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

/// `2 hours`, `About a minute`: a length of time in docker's words.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds as f64 / 3600.0).round() as i64);
    match seconds {
        i64::MIN..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `2 hours ago`, from seconds since 1970.
pub(crate) fn ago(created: i64) -> String {
    format!("{} ago", duration(jiff::Timestamp::now().as_second() - created))
}

/// `2026-11-21 12:26:01 +0000 UTC`, from seconds since 1970.
pub(crate) fn date(created: i64) -> String {
    let time = jiff::Timestamp::from_second(created).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
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
        assert_eq!(
            (binary_size(1_511_424).as_str(), binary_size(25_000_000_000).as_str()),
            ("1.441MiB", "23.28GiB")
        );
    }

    #[test]
    fn times_as_docker_words_them() {
        let cases = [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (300, "5 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 20, "2 weeks"),
            (86_400 * 800, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn columns_align() {
        let lines = ["A\tIMAGE\tNAMES".to_owned(), "0123456789ab\tx\tweb".to_owned()];
        assert_eq!(aligned(&lines), "A              IMAGE     NAMES\n0123456789ab   x         web\n");
    }
}
