//! Events: lines of one file that every process appends to.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::handle::Inner;
use super::record::Record;
use super::volumes::has_label;
use super::{Containers, Error, EventLine, EventsOptions, Filters, Map, Result};

/// The file begins anew when it is larger; one older file is kept.
const FILE_MAX: u64 = 4 << 20;

impl Inner {
    fn events_file(&self) -> PathBuf {
        self.base.join("containers").join("events")
    }

    /// Tells of something that happened to a container. That nobody may miss an event is less important than the event itself: a failure to
    /// write it is let go.
    pub(super) fn emit(&self, action: &str, record: &Record, more: &[(&str, &str)]) {
        let mut attributes = record.config.labels.clone();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(more.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        self.append("container", action, &record.id, attributes);
    }

    pub(super) fn emit_volume(&self, action: &str, name: &str) {
        self.append("volume", action, name, Map::from([("driver".into(), "local".into())]));
    }

    pub(super) fn emit_network(&self, action: &str, network: &str, container: &str) {
        let attributes = [("container", container), ("name", network), ("type", "bridge")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.append("network", action, network, attributes.into());
    }

    fn append(&self, kind: &str, action: &str, id: &str, attributes: Map) {
        let now = jiff::Timestamp::now();
        let event = EventLine {
            kind: kind.into(),
            action: action.into(),
            id: id.into(),
            attributes,
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        };
        let path = self.events_file();
        let Ok(mut line) = serde_json::to_vec(&event) else { return };
        line.push(b'\n');
        // One write to a file opened for appending is not mixed with those of others.
        if let Ok(mut file) = File::options().append(true).create(true).open(&path)
            && file.write_all(&line).is_ok()
            && file.metadata().is_ok_and(|m| m.len() > FILE_MAX)
        {
            let _ = std::fs::rename(&path, path.with_extension("1"));
        }
    }
}

impl Containers {
    /// What happens to containers and volumes, until `event` returns false or `until` has come.
    pub fn events(&self, options: &EventsOptions, event: &mut dyn FnMut(EventLine) -> bool) -> Result<()> {
        options.filters.only(&[
            "container",
            "event",
            "image",
            "label",
            "network",
            "scope",
            "type",
            "volume",
        ])?;
        let nanos = |t: SystemTime| {
            t.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
        };
        if let (Some(since), Some(until)) = (options.since, options.until)
            && since > until
        {
            let seconds = |t| nanos(t) / 1_000_000_000;
            let (since, until) = (seconds(since), seconds(until));
            return Err(Error::invalid(format!(
                "`since` time ({since}) cannot be after `until` time ({until})"
            )));
        }
        let from = nanos(options.since.unwrap_or_else(SystemTime::now));
        let path = self.0.events_file();
        let mut readers: Vec<_> = [path.with_extension("1"), path.clone()]
            .iter()
            .filter_map(|p| File::open(p).ok())
            .map(BufReader::new)
            .collect();
        let mut line = Vec::new();
        loop {
            // Whether the time was over before this look: then it was the last.
            let over = options.until.is_some_and(|u| u <= SystemTime::now());
            for reader in &mut readers {
                while reader.read_until(b'\n', &mut line).map_err(Error::io("read", &path))? > 0
                    && line.last() == Some(&b'\n')
                {
                    let parsed = serde_json::from_slice::<EventLine>(&line);
                    line.clear();
                    let Ok(e) = parsed else { continue };
                    let wanted = e.time_nano >= from
                        && options.until.is_none_or(|u| e.time_nano <= nanos(u))
                        && matches(&e, &options.filters);
                    if wanted && !event(e) {
                        return Ok(());
                    }
                }
            }
            if over {
                return Ok(());
            }
            if let Some(next) = self.rotated(readers.last()) {
                line.clear();
                readers = vec![BufReader::new(next)];
                continue;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The file that came after the one being read.
    fn rotated(&self, current: Option<&BufReader<File>>) -> Option<File> {
        let file = File::open(self.0.events_file()).ok()?;
        let inode = |f: &File| f.metadata().map(|m| m.ino()).ok();
        (current.and_then(|c| inode(c.get_ref())) != inode(&file)).then_some(file)
    }
}

fn matches(e: &EventLine, filters: &Filters) -> bool {
    let any = |key: &str, test: &dyn Fn(&str) -> bool| {
        filters.values(key).count() == 0 || filters.values(key).any(test)
    };
    let name = e.attributes.get("name").map(String::as_str).unwrap_or_default();
    any("type", &|t| t == e.kind)
        && any("scope", &|scope| scope == "local")
        && any("event", &|a| a == e.action || e.action.split(':').next() == Some(a))
        && any("container", &|c| e.kind == "container" && (name == c || e.id.starts_with(c)))
        && any("network", &|n| e.kind == "network" && e.id == n)
        && any("volume", &|v| e.kind == "volume" && e.id == v)
        && any("image", &|i| e.attributes.get("image").is_some_and(|image| image == i))
        && filters.values("label").all(|l| has_label(&e.attributes, l))
}
