//! Logs in Docker's `json-file` format: one JSON object a line, `{"log":"text\n","stream":"stdout","time":"..."}`.

mod reader;
mod writer;

pub(super) use reader::{Wake, read};
pub(super) use writer::{Writer, limits};

use std::path::{Path, PathBuf};

use super::{Config, LogConfig, Map};

/// Longest text in one entry; Docker cuts there too.
const ENTRY_MAX: usize = 16 << 10;

/// Cuts off what a killed writer left torn.
pub(super) fn repair(path: &Path) {
    if let Ok(mut file) = std::fs::File::options().read(true).write(true).open(path) {
        let _ = writer::cut_torn_end(&mut file);
    }
}

/// What `--log-opt labels=NAME,...` and `env=NAME,...` add to each entry.
pub(super) fn attributes(config: &Config, log: &LogConfig) -> Map {
    let named = |option: &str| log.options.get(option).into_iter().flat_map(|names| names.split(','));
    let labels = named("labels").filter_map(|name| config.labels.get_key_value(name));
    let labels = labels.map(|(name, value)| (name.clone(), value.clone()));
    let of = |name: &str| config.env.iter().filter_map(|e| e.split_once('=')).find(|(n, _)| *n == name);
    let env = named("env").filter_map(of).map(|(name, value)| (name.to_owned(), value.to_owned()));
    labels.chain(env).collect()
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
