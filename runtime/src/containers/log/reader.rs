use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

use super::rotated;
use crate::containers::record::stamp;
use crate::containers::{Error, LogLine, LogOptions, LogStream, Map, Result};

/// What a follower does at the end of the log.
pub(in crate::containers) enum Wake {
    /// There may be more.
    Again,
    /// The writer has ended; what is there now is all.
    End,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: LogStream,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(default)]
    attrs: Map,
}

/// Reads a log from its oldest file on. With `follow`, `wait` is called at the end; it blocks until something happened.
pub(in crate::containers) fn read(
    path: &Path,
    options: &LogOptions,
    wait: &mut dyn FnMut() -> Result<Wake>,
    line: &mut dyn FnMut(LogLine) -> bool,
) -> Result<()> {
    let fail = |e| Error::io("read", path)(e);
    let bound =
        |t: Option<std::time::SystemTime>| t.and_then(|t| jiff::Timestamp::try_from(t).ok()).map(stamp);
    let (since, until) = (bound(options.since), bound(options.until));
    let mut sink = |entry: &[u8]| -> bool {
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(entry) else { return true };
        if until.as_ref().is_some_and(|u| &*entry.time > u.as_str()) {
            return false;
        }
        let wanted = match entry.stream {
            LogStream::Stdout => options.stdout,
            LogStream::Stderr => options.stderr,
        };
        if !wanted || since.as_ref().is_some_and(|s| &*entry.time < s.as_str()) {
            return true;
        }
        line(LogLine {
            stream: entry.stream,
            time: entry.time.into_owned(),
            log: entry.log.into_owned().into_bytes(),
            attributes: entry.attrs,
        })
    };
    let mut files = open_all(path).map_err(fail)?;
    if let Some(tail) = options.tail {
        seek_tail(&mut files, tail).map_err(fail)?;
    }
    let Some(mut last) = files.pop() else { return Ok(()) };
    for file in files {
        if !Lines::new(file).each(&mut sink).map_err(fail)? {
            return Ok(());
        }
    }
    let mut ended = !options.follow;
    let mut lines = Lines::new(last.try_clone().map_err(fail)?);
    loop {
        if !lines.each(&mut sink).map_err(fail)? {
            return Ok(());
        }
        // Rotated away under us: the files after it come next.
        for file in newer(path, &last).map_err(fail)? {
            if !lines.each(&mut sink).map_err(fail)? {
                return Ok(());
            }
            last = file;
            lines = Lines::new(last.try_clone().map_err(fail)?);
        }
        if !lines.each(&mut sink).map_err(fail)? {
            return Ok(());
        }
        if ended {
            return Ok(());
        }
        ended = matches!(wait()?, Wake::End);
    }
}

/// All files of the log, oldest first. Opened newest first, so that a rotation meanwhile shows a file twice rather than not at all; twice is
/// told by its inode.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files: Vec<(u64, File)> = Vec::new();
    for n in 0.. {
        match File::open(rotated(path, n)) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                if files.iter().all(|(known, _)| *known != inode) {
                    files.push((inode, file));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        }
    }
    files.reverse();
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

/// The files that were begun after `current`, oldest first.
fn newer(path: &Path, current: &File) -> io::Result<Vec<File>> {
    let inode = current.metadata()?.ino();
    match fs::metadata(path) {
        Ok(meta) if meta.ino() == inode => return Ok(Vec::new()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        _ => {}
    }
    let mut files = open_all(path)?;
    if let Some(at) = files.iter().position(|f| f.metadata().is_ok_and(|m| m.ino() == inode)) {
        files.drain(..=at);
    }
    Ok(files)
}

/// Places the files so that `tail` entries are left to read.
fn seek_tail(files: &mut Vec<File>, tail: usize) -> io::Result<()> {
    let mut left = tail;
    for index in (0..files.len()).rev() {
        let file = &mut files[index];
        let size = file.metadata()?.len();
        let (start, found) = tail_start(file, size, left)?;
        file.seek(SeekFrom::Start(start))?;
        left -= found;
        if left == 0 {
            files.drain(..index);
            return Ok(());
        }
    }
    Ok(())
}

/// Where the last `want` whole lines begin, and how many of them there are.
fn tail_start(file: &mut File, size: u64, want: usize) -> io::Result<(u64, usize)> {
    let mut block = vec![0u8; 64 << 10];
    let (mut end, mut seen) = (size, 0usize);
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        for at in (0..part.len()).rev().filter(|i| part[*i] == b'\n') {
            if seen == want {
                return Ok((start + at as u64 + 1, want));
            }
            seen += 1;
        }
        end = start;
    }
    Ok((0, seen))
}

/// Whole lines of a file that may still grow.
struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
}

impl Lines {
    fn new(file: File) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, file), line: Vec::new() }
    }

    /// Gives every line that is complete by now; false: the sink wants no more.
    fn each(&mut self, sink: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<bool> {
        loop {
            // The start of an entry that has not been written in full stays for the next call.
            self.reader.read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                return Ok(true);
            }
            if !sink(&self.line) {
                return Ok(false);
            }
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;
    use crate::containers::LogConfig;

    fn all(path: &Path, options: &LogOptions) -> Vec<String> {
        let mut out = Vec::new();
        let mut take = |l: LogLine| {
            out.push(String::from_utf8(l.log).unwrap().trim_end().to_string());
            true
        };
        read(path, options, &mut || Ok(Wake::End), &mut take).unwrap();
        out
    }

    #[test]
    fn tail_goes_back_over_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let options = [("max-size".to_string(), "1k".to_string()), ("max-file".into(), "100".into())].into();
        let mut log = Writer::open(&path, &LogConfig { driver: String::new(), options }).unwrap().unwrap();
        for i in 0..200 {
            log.write(
                if i % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr },
                format!("{i}\n").as_bytes(),
            )
            .unwrap();
        }
        let whole = all(&path, &LogOptions::default());
        assert_eq!(whole, (0..200).map(|i| i.to_string()).collect::<Vec<_>>());
        for tail in [0, 1, 7, 50, 199, 200, 1000] {
            assert_eq!(
                all(&path, &LogOptions { tail: Some(tail), ..LogOptions::default() }),
                whole[200usize.saturating_sub(tail)..]
            );
        }
        assert_eq!(all(&path, &LogOptions { stderr: false, ..LogOptions::default() }).len(), 100);
        assert!(
            all(&path, &LogOptions { since: Some(std::time::SystemTime::now()), ..LogOptions::default() })
                .is_empty()
        );
        assert!(
            all(
                &path,
                &LogOptions { until: Some(std::time::SystemTime::UNIX_EPOCH), ..LogOptions::default() }
            )
            .is_empty()
        );
    }

    #[test]
    fn a_follower_misses_nothing_while_the_log_rotates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let options = [("max-size".to_string(), "2k".to_string()), ("max-file".into(), "1000".into())].into();
        let mut log = Writer::open(&path, &LogConfig { driver: String::new(), options }).unwrap().unwrap();
        let (mut written, mut got) = (0, Vec::new());
        let mut wait = || {
            // Several rotations between two looks.
            for _ in 0..37 {
                log.write(LogStream::Stdout, format!("{written}\n").as_bytes()).unwrap();
                written += 1;
            }
            Ok(if written >= 37 * 20 { Wake::End } else { Wake::Again })
        };
        let mut take = |l: LogLine| {
            got.push(String::from_utf8(l.log).unwrap().trim_end().parse::<i32>().unwrap());
            true
        };
        read(&path, &LogOptions { follow: true, ..LogOptions::default() }, &mut wait, &mut take).unwrap();
        assert_eq!(got, (0..37 * 20).collect::<Vec<_>>());
    }
}
