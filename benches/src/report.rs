//! The table that a README quotes and the chart beside it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::Samples;

#[expect(clippy::print_stdout, reason = "a bench's table is its output")]
pub(crate) fn print(title: &str, all: &[Samples]) {
    print!("{}", table(title, all));
}

fn table(title: &str, all: &[Samples]) -> String {
    let mut out = format!(
        "\n### {title}\n\n| | median | min | ratio of medians | CPU | peak RSS |\n|---|---|---|---|---|---|\n"
    );
    let ours = all.first().and_then(Samples::median);
    for s in all {
        if let Some(failure) = &s.failure {
            let _ = writeln!(out, "| {} | did not run: {failure} | | | | |", s.name);
            continue;
        }
        let ratio = ours.zip(s.median()).map(|(a, b)| format!("{:.2}x", b.as_secs_f64() / a.as_secs_f64()));
        let rss = s.peak_rss().map(|b| format!("{} MB", b / 1_000_000));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            s.name,
            shown(s.median()),
            shown(s.min()),
            ratio.unwrap_or_default(),
            shown(s.cpu()),
            rss.unwrap_or_default()
        );
    }
    let rounds = all.iter().map(|s| s.runs.len()).max().unwrap_or(0);
    let _ = writeln!(out, "\n{rounds} rounds in one run, order reversed every other round.");
    out
}

fn shown(d: Option<Duration>) -> String {
    match d {
        None => String::new(),
        Some(d) if d < Duration::from_millis(1) => format!("{:.0} µs", d.as_secs_f64() * 1e6),
        Some(d) if d < Duration::from_secs(1) => format!("{:.2} ms", d.as_secs_f64() * 1e3),
        Some(d) => format!("{:.2} s", d.as_secs_f64()),
    }
}

/// Draws one bar a contender, as long as its median, with a tick at its minimum.
pub(crate) fn chart(title: &str, all: &[Samples]) {
    let rows: Vec<_> = all.iter().filter_map(|s| Some((s, s.median()?))).collect();
    let Some(longest) = rows.iter().map(|r| r.1.as_secs_f64()).reduce(f64::max) else { return };
    let height = 50 + 28 * rows.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"10\" y=\"22\" font-size=\"15\">{}</text>",
        escaped(title)
    );
    for (i, (s, median)) in rows.iter().enumerate() {
        let y = 40 + 28 * i;
        let scale = |d: Duration| 420.0 * d.as_secs_f64() / longest;
        let colour = if i == 0 { "#2563eb" } else { "#94a3b8" };
        let tick = 230.0 + scale(s.min().unwrap_or_default());
        let _ = write!(
            svg,
            "<text x=\"220\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"230\" y=\"{y}\" width=\"{:.1}\" height=\"20\" fill=\"{colour}\"/>\
             <line x1=\"{tick:.1}\" x2=\"{tick:.1}\" y1=\"{y}\" y2=\"{}\" stroke=\"black\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
            y + 15,
            escaped(&s.name),
            scale(*median),
            y + 20,
            236.0 + scale(*median),
            y + 15,
            shown(Some(*median))
        );
    }
    svg.push_str("</svg>\n");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let name: String =
        title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let written =
        std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(format!("{name}.svg")), svg));
    if let Err(e) = written {
        complain(&format!("chart not written: {e}"));
    }
}

#[expect(clippy::print_stderr, reason = "a bench talks to a person")]
fn complain(message: &str) {
    eprintln!("{message}");
}

fn escaped(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Race, command, time};

    #[test]
    fn a_race_measures_both_kinds_and_leaves_out_who_fails() {
        let samples = Race::new("self test <&>")
            .add("closure", || {
                time(|| {
                    std::thread::sleep(Duration::from_millis(2));
                    Ok(())
                })
            })
            .add("program", || command(&mut std::process::Command::new("true")))
            .add("broken", || command(&mut std::process::Command::new("false")))
            .run(3);
        assert_eq!(samples[0].runs.len(), 3);
        assert!(samples[0].median().unwrap() >= Duration::from_millis(2));
        assert!(samples[1].peak_rss().unwrap() > 100_000);
        assert!(samples[2].failure.as_deref().unwrap().contains("false"));
        let table = table("t", &samples);
        assert!(table.contains("| broken | did not run: false: wait status 256"), "{table}");
    }
}
