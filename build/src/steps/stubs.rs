//! Mount points that did not exist before a `RUN`: the kernel needs a file or directory to mount on, the image must not keep it.
//!
//! They are left out while the layer is written, by looking at the tar. Nothing is deleted in the root: a command may have put
//! a link where the mount point was.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use longshore_image::{Ctx, Layer, LayerOptions, Snapshot, Store};

use crate::Result;
use crate::changes::Pax;
use crate::tree::{Tree, resolve};

/// Those of the targets, and of their parents, that the root does not have.
pub(super) fn missing<'t>(tree: &Tree, targets: impl Iterator<Item = &'t str>) -> Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for target in targets {
        let (real, found) = resolve(tree, Path::new(target), true)?;
        if found.is_some() {
            continue;
        }
        for path in real.ancestors().take_while(|p| !p.as_os_str().is_empty()) {
            if tree.entry(path)?.is_some() {
                break;
            }
            paths.insert(path.to_path_buf());
        }
    }
    Ok(paths)
}

/// Makes a layer of the snapshot's changes without empty stubs.
pub(super) fn commit(
    store: &Store,
    snapshot: &Snapshot,
    stubs: BTreeSet<PathBuf>,
    options: &LayerOptions,
    ctx: Ctx<'_>,
) -> Result<Layer> {
    let (reader, mut writer) = io::pipe().map_err(|e| crate::Error::io("pipe", e))?;
    std::thread::scope(|scope| {
        let diff = scope.spawn(move || snapshot.diff(&mut writer, ctx).map(|_| ()));
        let mut filter = Filter::new(reader, stubs, options.clamp_mtime);
        let layer = store.add_layer(&mut filter, options, ctx);
        // Ends the writer if the store gave up early.
        drop(filter);
        diff.join().expect("writing a diff does not panic").and(layer).map_err(Into::into)
    })
}

/// A tar without the stubs that are still empty.
struct Filter<R> {
    input: R,
    stubs: BTreeSet<PathBuf>,
    clamp: Option<i64>,
    /// Bytes that are ready to be read.
    ready: io::Cursor<Vec<u8>>,
    /// Content (and padding) of the entry at hand, passed on as it is or skipped.
    left: u64,
    skip: bool,
    /// Extension headers that belong to the entry that follows.
    prefix: Vec<u8>,
    long_path: Option<PathBuf>,
    /// Directories that go if nothing in them comes.
    held: Vec<(PathBuf, Vec<u8>)>,
    end: bool,
}

impl<R: Read> Filter<R> {
    fn new(input: R, stubs: BTreeSet<PathBuf>, clamp: Option<i64>) -> Self {
        Self {
            input,
            stubs,
            clamp,
            ready: io::Cursor::default(),
            left: 0,
            skip: false,
            prefix: Vec::new(),
            long_path: None,
            held: Vec::new(),
            end: false,
        }
    }

    /// Reads the next header and decides about its entry.
    fn advance(&mut self) -> io::Result<()> {
        let mut block = [0u8; 512];
        self.input.read_exact(&mut block)?;
        if block == [0; 512] {
            self.end = true;
            self.ready = io::Cursor::new(block.to_vec());
            return Ok(());
        }
        let mut header = tar::Header::from_byte_slice(&block).clone();
        let size = header.entry_size()?;
        let padded = size.next_multiple_of(512);
        let kind = header.entry_type();
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
            return self.extension(&block, size, padded, kind);
        }
        let path =
            self.long_path.take().map_or_else(|| header.path().map(std::borrow::Cow::into_owned), Ok)?;
        let path: PathBuf =
            path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
        if let Some(clamp) = self.clamp
            && header.mtime()? > clamp.max(0).cast_unsigned()
        {
            header.set_mtime(clamp.max(0).cast_unsigned());
            header.set_cksum();
        }
        let mut bytes = std::mem::take(&mut self.prefix);
        bytes.extend_from_slice(header.as_bytes());
        self.held.retain(|(dir, _)| path.starts_with(dir));
        if self.stubs.contains(&path) && kind.is_dir() {
            self.held.push((path, bytes));
            return Ok(());
        }
        self.left = padded;
        self.skip = self.stubs.contains(&path) && kind.is_file() && size == 0;
        if !self.skip {
            let mut all: Vec<u8> = self.held.drain(..).flat_map(|(_, b)| b).collect();
            all.extend_from_slice(&bytes);
            self.ready = io::Cursor::new(all);
        }
        Ok(())
    }

    fn extension(
        &mut self,
        block: &[u8; 512],
        size: u64,
        padded: u64,
        kind: tar::EntryType,
    ) -> io::Result<()> {
        if size > 1 << 20 {
            return Err(io::Error::other("extension header is too large"));
        }
        let mut body = vec![0; padded as usize];
        self.input.read_exact(&mut body)?;
        let content = &body[..size as usize];
        if kind.is_gnu_longname() {
            let name = content.split(|b| *b == 0).next().unwrap_or_default();
            self.long_path = Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
        } else if kind.is_pax_local_extensions() {
            self.prefix.extend_from_slice(&self.records(content)?.finish());
            let path = tar::PaxExtensions::new(content).flatten().find(|e| e.key_bytes() == b"path");
            if let Some(path) = path {
                self.long_path = Some(PathBuf::from(std::ffi::OsStr::from_bytes(path.value_bytes())));
            }
            return Ok(());
        }
        self.prefix.extend_from_slice(block);
        self.prefix.extend_from_slice(&body);
        Ok(())
    }
}

impl<R> Filter<R> {
    /// The records of an extended header but for times that are later than they may be: the header's own takes their place.
    fn records(&self, content: &[u8]) -> io::Result<Pax> {
        let mut pax = Pax::default();
        for record in tar::PaxExtensions::new(content) {
            let record = record?;
            let key = record.key().map_err(io::Error::other)?;
            let late = |clamp: i64| {
                let seconds = record.value().ok().and_then(|v| v.split('.').next()?.parse::<i64>().ok());
                seconds.is_none_or(|s| s >= clamp)
            };
            if !(matches!(key, "mtime" | "atime" | "ctime") && self.clamp.is_some_and(late)) {
                pax.add(key, record.value_bytes());
            }
        }
        Ok(pax)
    }
}

impl<R: Read> Read for Filter<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.ready.read(out)?;
            if n > 0 || out.is_empty() {
                return Ok(n);
            }
            if self.left > 0 {
                let want = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                let n = self.input.read(&mut out[..want])?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.left -= n as u64;
                if self.skip {
                    continue;
                }
                return Ok(n);
            }
            if self.end {
                return self.input.read(out);
            }
            self.advance()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_stubs_go_and_full_ones_stay() {
        let mut b = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, data: &[u8]| {
            let mut h = tar::Header::new_ustar();
            h.set_entry_type(kind);
            h.set_mode(0o755);
            h.set_mtime(100);
            h.set_size(data.len() as u64);
            b.append_data(&mut h, path, data).unwrap();
        };
        use tar::EntryType::{Directory, Regular};
        add("etc/", Directory, b"");
        add("etc/hosts", Regular, b"");
        add("etc/resolv.conf", Regular, b"kept");
        add("run/secrets/", Directory, b"");
        add("run/secrets/s", Regular, b"");
        add("srv/a/", Directory, b"");
        add("srv/a/b/", Directory, b"");
        add("srv/a/x", Regular, b"");
        let stubs = ["etc/hosts", "etc/resolv.conf", "run/secrets", "run/secrets/s", "srv/a", "srv/a/b"];
        let tar = b.into_inner().unwrap();
        let filter = Filter::new(&tar[..], stubs.iter().map(PathBuf::from).collect(), Some(9));
        let mut left = Vec::new();
        for entry in tar::Archive::new(filter).entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 9);
            left.push(entry.path().unwrap().to_str().unwrap().to_owned());
        }
        assert_eq!(left, ["etc/", "etc/resolv.conf", "srv/a/", "srv/a/x"]);
    }
}
