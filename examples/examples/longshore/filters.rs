//! `--filter` of what removes: `until`, `label`, `label!`.

use std::time::{SystemTime, UNIX_EPOCH};

use longshore_runtime::containers::parse;

use crate::failure::{Failure, Result};

/// What may go: all of its conditions must hold.
pub(crate) struct PruneFilters(Vec<PruneFilter>);

enum PruneFilter {
    /// Made at this time (seconds since 1970) or before.
    Until(i64),
    Label(String),
    NoLabel(String),
}

impl PruneFilters {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        arguments.iter().map(|argument| PruneFilter::parse(argument)).collect::<Result<_>>().map(Self)
    }

    /// `created` in seconds since 1970; `value` is that of a label.
    pub(crate) fn matches(&self, created: i64, value: &dyn Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|filter| match filter {
            PruneFilter::Until(time) => created <= *time,
            PruneFilter::Label(wanted) => has_label(value, wanted),
            PruneFilter::NoLabel(unwanted) => !has_label(value, unwanted),
        })
    }

    /// Whether time is a condition.
    pub(crate) fn has_until(&self) -> bool {
        self.0.iter().any(|filter| matches!(filter, PruneFilter::Until(_)))
    }
}

impl PruneFilter {
    fn parse(text: &str) -> Result<Self> {
        if let Some(label) = text.strip_prefix("label!=") {
            return Ok(Self::NoLabel(label.to_owned()));
        }
        match text.split_once('=') {
            Some(("label", label)) => Ok(Self::Label(label.to_owned())),
            Some(("until", time)) => {
                let time = parse::time(time, SystemTime::now())?;
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                Ok(Self::Until(since.as_secs().cast_signed()))
            }
            Some((key, _)) => Err(Failure::new(format!("invalid filter '{key}'"))),
            None => Err(bad_filter(text, "--filter")),
        }
    }
}

/// `name` or `name=value`
pub(crate) fn has_label(value: &dyn Fn(&str) -> Option<String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, wanted)) => value(name).is_some_and(|v| v == wanted),
        None => value(wanted).is_some(),
    }
}

/// A flag that cannot be read.
pub(crate) fn bad_filter(text: &str, flag: &str) -> Failure {
    let why = "bad format of filter (expected name=value)";
    Failure { code: 125, message: format!("invalid argument \"{text}\" for \"{flag}\" flag: {why}") }
}
