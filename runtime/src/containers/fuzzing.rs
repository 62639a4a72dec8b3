//! Entries for fuzzers: foreign bytes into this module's parsers, which must take or refuse them without a panic.

use std::path::Path;
use std::time::SystemTime;

use super::format::Template;
use super::log::{self, Wake};
use super::proto::Decoder;
use super::record::{Record, State};
use super::{DetachKeys, DeviceMapping, Filters, LogConfig, LogOptions, Mount, RestartPolicy, Ulimit, parse};

/// What a user writes after a flag: each line goes to every parser.
pub fn flags(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for word in text.lines().take(64) {
        let list = [word.to_owned()];
        let _ = (parse::bytes(word), parse::memory_swap(word), parse::duration(word), parse::cpus(word));
        let _ = (parse::signal(word), parse::time(word, SystemTime::UNIX_EPOCH), parse::tmpfs(word));
        let _ = (parse::env(&list, &|_| None), parse::labels(&list), parse::pairs(&list, "x"));
        let _ = parse::ports(&list, &[]).and(parse::ports(&[], &list));
        let _ = (word.parse::<DeviceMapping>(), word.parse::<RestartPolicy>(), word.parse::<Ulimit>());
        let _ = (word.parse::<DetachKeys>(), Filters::new().parse(word));
        if let Ok(mount) = word.parse::<Mount>() {
            // What is accepted has a target inside the container's root.
            assert!(mount.target.starts_with('/') && !mount.target.split('/').any(|p| p == ".."), "{word}");
        }
        if let Ok((binds, _)) = parse::volumes(&list, Path::new("/home")) {
            for bind in binds.iter().filter_map(|b| parse::parse_bind(b).ok()) {
                assert!(!bind.target.split('/').any(|p| p == ".."), "{word}");
                assert!(bind.source.starts_with('/') || !bind.source.contains('/'), "{word}");
            }
        }
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let options = [(key.to_owned(), value.to_owned())].into();
        let _ = log::limits(&LogConfig { driver: String::new(), options });
    }
    let _ = parse::env_file(text, &|_| None);
}

/// `--format`, over a value with all kinds in it.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value =
        serde_json::json!({"ID": "x", "N": 3, "List": [1, "a", null], "Map": {"a": {"b": true}}, "F": 1.5});
    if let Ok(template) = Template::parse(text) {
        let _ = template.render(&value);
    }
}

/// A log that something else has written into.
pub fn log_file(data: &[u8]) {
    let (Some(selector), Ok(dir)) = (data.first(), std::env::temp_dir().canonicalize()) else { return };
    let path = dir.join(format!("longshore-fuzz-log-{}", std::process::id()));
    if std::fs::write(&path, &data[1..]).is_err() {
        return;
    }
    let options = LogOptions {
        tail: (selector & 1 == 1).then_some(usize::from(*selector >> 1)),
        ..LogOptions::default()
    };
    let mut count = 0;
    let _ = log::read(&path, &options, &mut || Ok(Wake::End), &mut |_| {
        count += 1;
        true
    });
    assert!(options.tail.is_none_or(|tail| count <= tail), "{count} lines");
    let _ = std::fs::remove_file(path);
}

/// Records of a damaged disk, and frames of a client that is none.
pub fn records(data: &[u8]) {
    let _ = serde_json::from_slice::<Record>(data);
    if let Ok(state) = serde_json::from_slice::<State>(data) {
        let text = serde_json::to_vec(&state).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<State>(&text).expect("and read again"), state);
    }
    let mut decoder = Decoder::default();
    for chunk in data.chunks(7) {
        decoder.push(chunk);
        while let Ok(Some(_)) = decoder.next() {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_input_panics(text in "[-a-z0-9:/.,=%{}\\[\\] \"\\n$|()]{0,120}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::flags(text.as_bytes());
            super::template(text.as_bytes());
            super::records(&bytes);
            super::log_file(&bytes);
        }
    }
}
