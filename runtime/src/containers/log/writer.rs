use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{ENTRY_MAX, rotated};
use crate::containers::record::now;
use crate::containers::{Error, LogConfig, LogStream, Map, Result, parse};

/// Writes a container's log. Whole entries go out in one `write` each time, so that a reader never sees a torn one; what a killed writer left
/// torn, the next one cuts off.
#[derive(Debug)]
pub(in crate::containers) struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_file: u32,
    /// Text of each stream whose line has not ended yet.
    open: [Vec<u8>; 2],
    out: Vec<u8>,
    /// A member of each entry, with its comma; empty if there are none.
    attributes: Vec<u8>,
}

/// Entries are handed to the kernel once there are so many bytes of them.
const FLUSH: usize = 256 << 10;

impl Writer {
    /// `None` for the driver `none`.
    pub(in crate::containers) fn open(path: &Path, config: &LogConfig) -> Result<Option<Self>> {
        let Some((max_size, max_file)) = limits(config)? else { return Ok(None) };
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        let size = cut_torn_end(&mut file).map_err(Error::io("repair", path))?;
        let (open, out, attributes) = (Default::default(), Vec::new(), Vec::new());
        Ok(Some(Self { path: path.into(), file, size, max_size, max_file, open, out, attributes }))
    }

    /// Each entry gets these.
    pub(in crate::containers) fn with_attributes(mut self, attributes: &Map) -> Self {
        if !attributes.is_empty() {
            let json = serde_json::to_string(attributes).expect("texts always serialise");
            self.attributes = format!("\"attrs\":{json},").into_bytes();
        }
        self
    }

    /// Takes what was read from a stream.
    pub(in crate::containers) fn write(&mut self, stream: LogStream, mut bytes: &[u8]) -> io::Result<()> {
        let time = now();
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end + 1);
            self.line(stream, line, &time)?;
            bytes = rest;
        }
        self.open[stream as usize].extend_from_slice(bytes);
        while self.open[stream as usize].len() >= ENTRY_MAX {
            let mut text = std::mem::take(&mut self.open[stream as usize]);
            let rest = text.split_off(boundary(&text, ENTRY_MAX));
            self.entry(stream, &text, &time)?;
            self.open[stream as usize] = rest;
        }
        self.flush()
    }

    /// Writes what is left without a line end: the stream has ended.
    pub(in crate::containers) fn finish(&mut self, stream: LogStream) -> io::Result<()> {
        let text = std::mem::take(&mut self.open[stream as usize]);
        if !text.is_empty() {
            self.entry(stream, &text, &now())?;
        }
        self.flush()?;
        self.out = Vec::new();
        Ok(())
    }

    fn line(&mut self, stream: LogStream, line: &[u8], time: &str) -> io::Result<()> {
        if self.open[stream as usize].is_empty() && line.len() <= ENTRY_MAX {
            return self.entry(stream, line, time);
        }
        let mut text = std::mem::take(&mut self.open[stream as usize]);
        text.extend_from_slice(line);
        let mut rest = text.as_slice();
        while rest.len() > ENTRY_MAX {
            let (head, tail) = rest.split_at(boundary(rest, ENTRY_MAX));
            self.entry(stream, head, time)?;
            rest = tail;
        }
        self.entry(stream, rest, time)
    }

    fn entry(&mut self, stream: LogStream, text: &[u8], time: &str) -> io::Result<()> {
        let start = self.out.len();
        self.out.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.out, text);
        self.out.extend_from_slice(match stream {
            LogStream::Stdout => b"\",\"stream\":\"stdout\",",
            LogStream::Stderr => b"\",\"stream\":\"stderr\",",
        });
        self.out.extend_from_slice(&self.attributes);
        self.out.extend_from_slice(b"\"time\":\"");
        self.out.extend_from_slice(time.as_bytes());
        self.out.extend_from_slice(b"\"}\n");
        if self.size + self.out.len() as u64 > self.max_size && self.size + start as u64 > 0 {
            let entry = self.out.split_off(start);
            self.flush()?;
            self.rotate()?;
            self.out = entry;
        }
        if self.out.len() >= FLUSH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let result = self.file.write_all(&self.out);
        match result {
            Ok(()) => self.size += self.out.len() as u64,
            // A full disk must not leave half an entry for the next one to be glued to.
            Err(_) => self.size = cut_torn_end(&mut self.file)?,
        }
        self.out.clear();
        result
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file <= 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for n in (0..self.max_file - 1).rev() {
            match fs::rename(rotated(&self.path, n), rotated(&self.path, n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.file = File::options().read(true).append(true).create(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// Size in bytes and number of files; `None` for the driver `none`.
pub(in crate::containers) fn limits(config: &LogConfig) -> Result<Option<(u64, u32)>> {
    match config.driver.as_str() {
        "none" if config.options.is_empty() => return Ok(None),
        "none" => return Err(Error::invalid("invalid logging opts for driver none")),
        "" | "json-file" | "local" => {}
        other => {
            return Err(Error::invalid(format!(
                "error looking up logging plugin {other}: plugin \"{other}\" not found"
            )));
        }
    }
    let mut limits = (u64::MAX, 1);
    for (key, value) in &config.options {
        let bad = || Error::invalid(format!("invalid value for log opt '{key}': {value}"));
        match key.as_str() {
            "max-size" if value == "-1" => {}
            "max-size" => limits.0 = parse::bytes(value).ok().filter(|n| *n > 0).ok_or_else(bad)? as u64,
            "max-file" => limits.1 = value.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(bad)?,
            "compress" | "labels" | "labels-regex" | "env" | "env-regex" | "tag" | "mode"
            | "max-buffer-size" => {}
            _ => return Err(Error::invalid(format!("unknown log opt '{key}' for json-file log driver"))),
        }
    }
    if limits.1 > 1 && limits.0 == u64::MAX {
        return Err(Error::invalid("max-file cannot be set without max-size"));
    }
    Ok(Some(limits))
}

/// Cuts the file after its last line end, and tells its size.
pub(in crate::containers) fn cut_torn_end(file: &mut File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    let mut block = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|b| *b == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < size {
        file.set_len(end)?;
    }
    Ok(end)
}

fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    // The compiler turns the inner comparison of a fixed block into vector instructions; a plain `position` it does not.
    let mut at = 0;
    for block in bytes.chunks_exact(32) {
        if block.iter().fold(false, |found, b| found | (*b == byte)) {
            break;
        }
        at += 32;
    }
    bytes[at..].iter().position(|b| *b == byte).map(|i| at + i)
}

/// The last end of a character at or before `max`, if the text is UTF-8 there.
fn boundary(text: &[u8], max: usize) -> usize {
    let max = max.min(text.len());
    (max.saturating_sub(3)..=max).rev().find(|i| text.get(*i).is_none_or(|b| b & 0xc0 != 0x80)).unwrap_or(max)
}

/// Appends text as the inside of a JSON string; what is not UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_ascii() {
        return escape_valid(out, text);
    }
    for chunk in text.utf8_chunks() {
        escape_valid(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_valid(out: &mut Vec<u8>, text: &[u8]) {
    let special = |b: u8| b < 0x20 || b == b'"' || b == b'\\';
    let mut rest = text;
    while !rest.is_empty() {
        let mut plain = 0;
        for block in rest.chunks_exact(16) {
            if block.iter().fold(false, |found, b| found | special(*b)) {
                break;
            }
            plain += 16;
        }
        plain += rest[plain..].iter().position(|b| special(*b)).unwrap_or(rest.len() - plain);
        out.extend_from_slice(&rest[..plain]);
        let Some(byte) = rest.get(plain) else { return };
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            byte => {
                let hex = |n: u8| b"0123456789abcdef"[n as usize];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
        }
        rest = &rest[plain + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(pairs: &[(&str, &str)]) -> LogConfig {
        LogConfig {
            driver: String::new(),
            options: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }

    /// All text of a stream, as a JSON reader sees it.
    fn text(path: &Path, stream: &str) -> String {
        let file = fs::read_to_string(path).unwrap();
        file.lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
            .filter(|v| v["stream"] == stream)
            .map(|v| v["log"].as_str().unwrap().to_string())
            .collect()
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..60_000), piece in 1usize..20_000) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = Writer::open(&path, &config(&[])).unwrap().unwrap();
            for chunk in bytes.chunks(piece) {
                log.write(LogStream::Stdout, chunk).unwrap();
            }
            log.finish(LogStream::Stdout).unwrap();
            // Cutting long lines may split what is not UTF-8 in another place; ASCII text must be exact.
            if bytes.is_ascii() {
                prop_assert_eq!(text(&path, "stdout").into_bytes(), bytes);
            } else if bytes.len() < ENTRY_MAX {
                prop_assert_eq!(text(&path, "stdout"), String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        #[test]
        fn long_text_is_cut_between_characters(s in "[aé€😀\n]{0,30000}") {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = Writer::open(&path, &config(&[])).unwrap().unwrap();
            log.write(LogStream::Stderr, s.as_bytes()).unwrap();
            log.finish(LogStream::Stderr).unwrap();
            prop_assert_eq!(text(&path, "stderr"), s);
        }
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"x\"}\n{\"log\":\"to").unwrap();
        let mut log = Writer::open(&path, &config(&[])).unwrap().unwrap();
        log.write(LogStream::Stdout, b"b\n").unwrap();
        assert_eq!(text(&path, "stdout"), "a\nb\n");
    }

    #[test]
    fn rotation_keeps_so_many_files_of_such_a_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log =
            Writer::open(&path, &config(&[("max-size", "1k"), ("max-file", "3")])).unwrap().unwrap();
        for i in 0..100 {
            log.write(LogStream::Stdout, format!("line {i}\n").as_bytes()).unwrap();
        }
        for n in 0..3 {
            assert!(fs::metadata(rotated(&path, n)).unwrap().len() <= 1024);
        }
        assert!(!rotated(&path, 3).exists());
        assert!(text(&path, "stdout").ends_with("line 99\n"));
        assert!(limits(&config(&[("max-file", "3")])).is_err() && limits(&config(&[("nope", "3")])).is_err());
    }
}
