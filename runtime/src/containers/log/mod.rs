//! Logs in Docker's `json-file` format: one JSON object a line, `{"log":"text\n","stream":"stdout","time":"..."}`.

mod reader;
mod writer;

pub(super) use reader::{Wake, read};
pub(super) use writer::{Writer, limits};

use std::path::{Path, PathBuf};

/// Longest text in one entry; Docker cuts there too.
const ENTRY_MAX: usize = 16 << 10;

/// Cuts off what a killed writer left torn.
pub(super) fn repair(path: &Path) {
    if let Ok(mut file) = std::fs::File::options().read(true).write(true).open(path) {
        let _ = writer::cut_torn_end(&mut file);
    }
}

/// The file's name before rotation, as Docker has it.
pub(super) fn file_name(id: &str) -> String {
    format!("{id}-json.log")
}

/// The name of the `n`th older file.
fn rotated(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_path_buf();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}
