//! Docker's output: columns, Go templates (the subset that people use), sizes and times in words.

use serde::Serialize;

use super::{Result, Summary};

/// A Go template: fields, `json`, `range`, `if`, `with`, `join`, `len`, `index`, `upper`, `lower`, `title`, `split`, `println`, `table`.
#[derive(Clone, Debug)]
pub struct Template {}

impl Template {
    /// Parses `{{.Names}}` and the like; `json` alone stands for `{{json .}}`.
    pub fn parse(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
    /// Applies it to a value.
    pub fn render<T: Serialize>(&self, value: &T) -> Result<String> {
        let _ = value;
        todo!()
    }
}

/// A listing as Docker prints it: by `--format` (`table ...`, `json`, a template), else by `default`, which is `table {{.ID}}\t...`.
/// `headers` names the column of each field, `("ID", "CONTAINER ID")`. Ends with a line end unless it is empty.
pub fn list<T: Serialize>(
    format: Option<&str>,
    default: &str,
    headers: &[(&str, &str)],
    rows: &[T],
) -> Result<String> {
    let _ = (format, default, headers, rows);
    todo!()
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
    /// Local time.
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
        let _ = (summary, no_trunc, now);
        todo!()
    }
}

/// What `ps` prints: by `--format`, else Docker's columns, with `SIZE` if `size`.
pub fn ps(format: Option<&str>, rows: &[PsRow], size: bool) -> Result<String> {
    let _ = (format, rows, size);
    todo!()
}

/// `Less than a second`, `About a minute`, `5 hours`, `2 weeks`.
pub fn human_duration(seconds: i64) -> String {
    let _ = seconds;
    todo!()
}

/// Bytes in units of 1000 with up to 4 digits: `1.234MB`.
pub fn human_size(bytes: u64) -> String {
    let _ = bytes;
    todo!()
}
