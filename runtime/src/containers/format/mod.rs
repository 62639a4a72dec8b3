//! Docker's output: columns, Go templates (the subset that people use), sizes and times in words.

use serde::Serialize;

use super::{Result, Summary};

mod template;
mod words;

pub use template::Template;
pub use words::{human_duration, human_size};

/// A listing as Docker prints it: by `--format` (`table ...`, `json`, a template), else by `default`, which is `table {{.ID}}\t...`.
/// `headers` names the column of each field, `("ID", "CONTAINER ID")`. Ends with a line end unless it is empty.
pub fn list<T: Serialize>(
    format: Option<&str>,
    default: &str,
    headers: &[(&str, &str)],
    rows: &[T],
) -> Result<String> {
    let format = match format {
        None | Some("" | "table") => default,
        Some(format) => format,
    };
    let Some(columns) = format.strip_prefix("table ") else {
        let template = Template::parse(format)?;
        let mut out = String::new();
        for row in rows {
            out += &template.render(row)?;
            out.push('\n');
        }
        return Ok(out);
    };
    let columns = columns.replace("\\t", "\t");
    let template = Template::parse(&columns)?;
    let heads: serde_json::Map<String, serde_json::Value> =
        headers.iter().map(|(k, v)| (k.to_string(), (*v).into())).collect();
    let mut lines = vec![Template::parse(&columns)?.render_header(&heads.into())?];
    for row in rows {
        lines.push(template.render(row)?);
    }
    Ok(align(&lines))
}

/// Columns at least 10 wide and 3 apart, as Go's tabwriter makes them for Docker.
fn align(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|l| l.split('\t').collect()).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |c: usize| cells.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|c| (width(c) + 3).max(10)).collect();
    let mut out = String::new();
    for row in &cells {
        for (c, text) in row.iter().enumerate() {
            out += text;
            if c + 1 < row.len() {
                out.extend(std::iter::repeat_n(' ', widths[c] - text.chars().count()));
            }
        }
        out.push('\n');
    }
    out
}

/// One row of `ps` with the fields that its templates name.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct PsRow {
    /// ID, cut to 12 digits unless `no_trunc`.
    #[serde(rename = "ID")]
    pub id: String,
    /// Names.
    pub names: String,
    /// Image.
    pub image: String,
    /// Command in quotes, cut to 20 characters unless `no_trunc`.
    pub command: String,
    /// In UTC.
    pub created_at: String,
    /// `5 minutes ago`.
    pub running_for: String,
    /// Ports.
    pub ports: String,
    /// State.
    pub state: String,
    /// Status in words.
    pub status: String,
    /// Size of the writable layer.
    pub size: String,
    /// `a=b,c=d`.
    pub labels: String,
    /// Mounts.
    pub mounts: String,
    /// Networks.
    pub networks: String,
    /// Number of named volumes.
    pub local_volumes: String,
}

impl PsRow {
    /// From what [`super::Containers::list`] gives; `now` in seconds since 1970.
    pub fn new(summary: &Summary, no_trunc: bool, now: i64) -> Self {
        let cut = |text: &str, max: usize| {
            if no_trunc || text.chars().count() <= max {
                text.to_owned()
            } else {
                text.chars().take(max - 1).chain(['…']).collect()
            }
        };
        let image = match summary.image.strip_prefix("sha256:") {
            Some(hex) if !no_trunc => hex.chars().take(12).collect(),
            _ => summary.image.clone(),
        };
        let created = jiff::Timestamp::from_second(summary.created).unwrap_or_default().to_string();
        Self {
            id: summary.id.chars().take(if no_trunc { 64 } else { 12 }).collect(),
            names: summary.name.clone(),
            image,
            command: format!("\"{}\"", cut(&summary.command, 20)),
            created_at: format!("{} +0000 UTC", created.trim_end_matches('Z').replace('T', " ")),
            running_for: format!("{} ago", human_duration(now - summary.created)),
            ports: summary.ports.clone(),
            state: summary.state.clone(),
            status: summary.status.clone(),
            size: summary.size.map_or_else(|| "0B".into(), human_size),
            labels: summary.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            mounts: summary.mounts.iter().map(|m| cut(m, 15)).collect::<Vec<_>>().join(","),
            networks: summary.networks.join(","),
            local_volumes: summary
                .mounts
                .iter()
                .filter(|m| !m.is_empty() && !m.starts_with('/'))
                .count()
                .to_string(),
        }
    }
}

const PS_HEADERS: [(&str, &str); 14] = [
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
];

/// What `ps` prints: by `--format`, else Docker's columns, with `SIZE` if `size`.
pub fn ps(format: Option<&str>, rows: &[PsRow], size: bool) -> Result<String> {
    let mut default =
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
            .to_owned();
    if size {
        default += "\t{{.Size}}";
    }
    list(format, &default, &PS_HEADERS, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_looks_like_dockers() {
        let summary = Summary {
            id: "ab".repeat(32),
            name: "web".into(),
            image: "busybox".into(),
            image_id: String::new(),
            command: "sh -c while true; do sleep 1; done".into(),
            created: 1000,
            state: "running".into(),
            status: "Up 2 minutes".into(),
            ports: String::new(),
            labels: [("a".to_string(), "b".to_string())].into(),
            mounts: vec!["data".into(), "/srv".into()],
            local_volumes: 0,
            networks: vec!["bridge".into()],
            size: None,
        };
        let row = PsRow::new(&summary, false, 1120);
        let text = ps(None, std::slice::from_ref(&row), false).unwrap();
        assert_eq!(
            text,
            "CONTAINER ID   IMAGE     COMMAND                  CREATED         STATUS         PORTS     NAMES\n\
             abababababab   busybox   \"sh -c while true; d…\"   2 minutes ago   Up 2 minutes             web\n"
        );
        assert_eq!(
            ps(Some("{{.Names}} {{.Label \"a\"}} {{.LocalVolumes}}"), std::slice::from_ref(&row), false)
                .unwrap(),
            "web b 1\n"
        );
        assert!(
            ps(Some("table {{.ID}}\\t{{.Names}}"), std::slice::from_ref(&row), false)
                .unwrap()
                .starts_with("CONTAINER ID   NAMES\n")
        );
        assert!(ps(Some("json"), &[row], false).unwrap().starts_with("{\"ID\":\"abab"));
    }
}
