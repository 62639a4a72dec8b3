//! `cp` between a container and the host's own paths: one side packs, the other unpacks, and each resolves paths in its own root only.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::{Rules, pack, unpack};
use crate::containers::{Containers, Error, Result, parse, passwd};

/// How [`Containers::copy_to_host`] and [`Containers::copy_from_host`] copy.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Into a container: everything becomes its user's.
    pub archive: bool,
    /// Where the source is a link, copy what it leads to.
    pub follow_link: bool,
}

impl CopyOptions {
    /// `cp -a`, `cp -L`.
    pub fn new(archive: bool, follow_link: bool) -> Self {
        Self { archive, follow_link }
    }
}

/// What a path is that something is copied to or from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Directory,
    Other,
}

/// Where copied things go: a directory that is there, and the name that they get in it instead of their own.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    dir: PathBuf,
    name: Option<OsString>,
}

impl Containers {
    /// Copies `path` of the container to the host (`docker cp web:/path DEST`): into `to` where that is a directory, else as `to`. A path that
    /// ends in `/.` is its content alone. What arrives are the caller's files, without set-user-ID bits, devices and foreign attributes;
    /// links of the container lead nowhere but below `to`.
    pub fn copy_to_host(&self, key: &str, path: &str, to: &Path, options: &CopyOptions) -> Result<()> {
        self.unless_cancelled(|_| self.copy_outwards(key, path, to, options))
    }

    fn copy_outwards(&self, key: &str, path: &str, to: &Path, options: &CopyOptions) -> Result<()> {
        let id = self.id(key)?;
        let path = if options.follow_link { self.real_path(&id, path)? } else { path.to_owned() };
        let source = self.kind_inside(&id, &parse::clean(Path::new(&path)), false)?;
        if source == Kind::Missing {
            return Err(Error::Invalid(format!("Could not find the file {path} in container {key}")));
        }
        let kind = kind_of(fs::metadata(to).map(|m| m.is_dir()))?;
        let target = target(source, to, kind, Path::is_dir)?;
        let dir = if target.dir.as_os_str().is_empty() { Path::new(".") } else { &target.dir };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| Error::io("open", dir)(e.into()))?;
        through(
            |out| self.pack(&id, &path, target.name.as_deref(), out),
            |tar| {
                unpack::into(root.as_fd(), Path::new(""), Rules::Host, tar).map_err(Error::io("copy to", to))
            },
        )
    }

    /// Copies a path of the host into the container (`docker cp SRC web:/path`), with Docker's rules for what the result is called. Owners stay
    /// as numbers unless [`CopyOptions::archive`] makes everything the container user's.
    pub fn copy_from_host(&self, key: &str, from: &Path, path: &str, options: &CopyOptions) -> Result<()> {
        self.unless_cancelled(|_| self.copy_inwards(key, from, path, options))
    }

    fn copy_inwards(&self, key: &str, from: &Path, path: &str, options: &CopyOptions) -> Result<()> {
        let id = self.id(key)?;
        let content = from.as_os_str().as_encoded_bytes().ends_with(b"/.") || from == Path::new(".");
        let real = if options.follow_link || content || from.file_name().is_none() {
            fs::canonicalize(from).map_err(Error::io("open", from))?
        } else {
            from.to_path_buf()
        };
        let source = match fs::symlink_metadata(&real) {
            Ok(meta) if meta.is_dir() => Kind::Directory,
            Ok(_) => Kind::Other,
            Err(e) => return Err(Error::io("open", from)(e)),
        };
        let there = self.kind_inside(&id, &parse::clean(Path::new(path)), true)?;
        // A name that is a link stays one: what it leads to is written.
        let path = if there == Kind::Other { self.real_path(&id, path)? } else { path.to_owned() };
        let is_dir = |dir: &Path| {
            self.kind_inside(&id, &dir.to_string_lossy(), true).is_ok_and(|k| k == Kind::Directory)
        };
        let target = target(source, Path::new(&path), there, is_dir)?;
        let rules = Rules::Container { owner: if options.archive { Some(self.user_of(&id)?) } else { None } };
        let dir = target.dir.to_string_lossy().into_owned();
        through(
            |out| pack_host(&real, content && there == Kind::Directory, target.name.as_deref(), out),
            |tar| self.unpack(&id, &dir, rules, tar),
        )
    }

    /// What a path of the container is; its last link followed or not.
    fn kind_inside(&self, id: &str, path: &str, follow: bool) -> Result<Kind> {
        let (view, inner) = self.view(id, path)?;
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let Some(fd) = view.open(&inner, flags).map_err(Error::io("open", path))? else {
            return Ok(Kind::Missing);
        };
        let stat = rustix::fs::fstat(fd).map_err(|e| Error::io("open", path)(e.into()))?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(if directory { Kind::Directory } else { Kind::Other })
    }

    /// The path without links, as far as they stay in what holds it: a volume, or the root.
    fn real_path(&self, id: &str, path: &str) -> Result<String> {
        let whole = parse::clean(Path::new(path));
        let (view, inner) = self.view(id, &whole)?;
        let real = view.real(&inner).map_err(Error::io("open", path))?;
        let mount = &whole[..whole.len() - if inner == "/" { 0 } else { inner.len() }];
        let end = if path.ends_with("/.") { "/." } else { "" };
        Ok(format!("{mount}{}{end}", real.to_string_lossy()))
    }

    fn user_of(&self, id: &str) -> Result<(u32, u32)> {
        let (record, _) = self.load(id)?;
        let (view, _) = self.view(id, "/")?;
        let who = passwd::resolve(&view, &record.config.user, &[])?;
        Ok((who.uid, who.gid))
    }
}

fn kind_of(is_dir: io::Result<bool>) -> Result<Kind> {
    match is_dir {
        Ok(true) => Ok(Kind::Directory),
        Ok(false) => Ok(Kind::Other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Kind::Missing),
        Err(e) => Err(Error::io("open", "the destination")(e)),
    }
}

/// Docker's rules of what is copied where, under which name.
fn target(source: Kind, to: &Path, there: Kind, is_dir: impl Fn(&Path) -> bool) -> Result<Target> {
    let slash = to.as_os_str().as_encoded_bytes().ends_with(b"/");
    match (there, source) {
        (Kind::Directory, _) => return Ok(Target { dir: to.into(), name: None }),
        (Kind::Other, Kind::Directory) => return Err(Error::invalid("cannot copy directory")),
        (Kind::Other, _) if slash => return Err(Error::invalid("not a directory")),
        (Kind::Missing, Kind::Other) if slash => {
            return Err(Error::invalid("no such directory"));
        }
        _ => {}
    }
    let name = to.file_name().ok_or_else(|| Error::invalid("no such directory"))?.to_owned();
    let dir = to.parent().unwrap_or(Path::new("")).to_path_buf();
    if !dir.as_os_str().is_empty() && !is_dir(&dir) {
        return Err(Error::invalid(format!("no such directory: {}", dir.display())));
    }
    Ok(Target { dir, name: Some(name) })
}

/// Packs a path of the host; the last component is never followed.
fn pack_host(from: &Path, content: bool, shown: Option<&OsStr>, out: &mut dyn Write) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path)(e.into()))
    };
    let fail = Error::io("copy", from);
    let Some(name) = from.file_name().filter(|_| !content) else {
        return pack::tree(&[open(from)?], Path::new(shown.unwrap_or_default()), true, out).map_err(fail);
    };
    let parent = from.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match pack::one(&[open(parent)?], name, Path::new(shown.unwrap_or(name)), out).map_err(fail)? {
        true => Ok(()),
        false => Err(Error::io("open", from)(io::ErrorKind::NotFound.into())),
    }
}

/// Packs on a thread what is unpacked on this one.
pub(in crate::containers) fn through(
    pack: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    unpack: impl FnOnce(&mut dyn Read) -> Result<()>,
) -> Result<()> {
    let (mut reader, writer) = io::pipe().map_err(Error::io("make", "a pipe"))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut writer = io::BufWriter::with_capacity(256 << 10, writer);
            pack(&mut writer)?;
            writer.flush().map_err(Error::io("write to", "a pipe"))
        });
        let mut result = unpack(&mut reader);
        if result.is_ok() {
            // What follows the archive's end.
            let _ = io::copy(&mut reader, &mut io::sink());
        }
        drop(reader);
        let packed = packing.join().map_err(|_| Error::invalid("copying failed")).flatten();
        // Of two errors the one that did not follow from the other: a reader that gives up breaks the pipe, a writer that does ends it early.
        match packed {
            Err(e) if !e.is_broken_pipe() => result = Err(e),
            _ => {}
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_docker_gives_them() {
        let yes = |_: &Path| true;
        let at = |dir: &str, name: Option<&str>| Target { dir: dir.into(), name: name.map(OsString::from) };
        let of = |source, to: &str, there| target(source, Path::new(to), there, yes);
        assert_eq!(of(Kind::Other, "/d", Kind::Directory).unwrap(), at("/d", None));
        assert_eq!(of(Kind::Directory, "/d", Kind::Directory).unwrap(), at("/d", None));
        assert_eq!(of(Kind::Other, "/d/new", Kind::Missing).unwrap(), at("/d", Some("new")));
        assert_eq!(of(Kind::Directory, "new/", Kind::Missing).unwrap(), at("", Some("new")));
        assert_eq!(of(Kind::Other, "/f", Kind::Other).unwrap(), at("/", Some("f")));
        assert!(of(Kind::Other, "/d/new/", Kind::Missing).is_err());
        assert!(of(Kind::Directory, "/f", Kind::Other).is_err());
        assert!(of(Kind::Other, "/", Kind::Missing).is_err());
        assert!(target(Kind::Other, Path::new("/no/f"), Kind::Missing, |_| false).is_err());
    }
}
