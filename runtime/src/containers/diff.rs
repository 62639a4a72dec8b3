//! `diff` and `commit`: what a container changed against its image.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::rootview::RootView;
use super::{Change, ChangeKind, Containers, Error, Result, RootfsSource, copy, dir, files};

impl Containers {
    /// Paths that were added, changed or deleted against the image, sorted. As with Docker, what every container has for something to be
    /// mounted on (`/proc`, `/etc/hosts`, ...) is none of its changes, and what its own volumes and binds are mounted on is.
    /// Needs [`super::Images::diff`].
    pub fn diff(&self, key: &str) -> Result<Vec<Change>> {
        let mut found = BTreeMap::new();
        self.unless_cancelled(|_| {
            self.changes(key, &mut |seen, _| {
                found.extend(seen.kind.map(|kind| (seen.shown.clone(), kind)));
                Ok(())
            })
        })?;
        let change = |(path, kind): (PathBuf, _)| Change { kind, path: path.to_string_lossy().into_owned() };
        Ok(found.into_iter().map(change).collect())
    }

    /// Writes what it changed as an OCI layer tar, for an image made of it: what [`Containers::diff`] tells, and no more. Needs
    /// [`super::Images::diff`].
    pub fn diff_tar(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        let mut builder = Builder::new(out);
        self.unless_cancelled(|_| self.changes(key, &mut |seen, data| seen.write(&mut builder, data)))?;
        let finished = builder.into_inner().and_then(Write::flush);
        finished.map_err(Error::io("write the changes of", key))
    }

    fn changes(&self, key: &str, pass: Pass<'_>) -> Result<()> {
        let id = self.id(key)?;
        let (record, _) = self.load(&id)?;
        let mut result = Ok(());
        let mut compare = |source: &RootfsSource| result = self.compare(&id, source, pass);
        let shown = self.0.images.look_at(&dir::new_id()?, &record.image_id, &mut compare);
        shown.map_err(|source| Error::Images { doing: "open the image", source })?;
        result
    }

    fn compare(&self, id: &str, image: &RootfsSource, pass: Pass<'_>) -> Result<()> {
        let view = RootView::new(image)?;
        copy::through(
            |out| {
                let doing = "compare the container with its image";
                let out = &mut copy::Watched { stream: out, cancel: &self.0.options.cancel };
                self.0.images.diff(id, out).map_err(|source| Error::Images { doing, source })
            },
            |tar| sift(tar, &view, pass).map_err(Error::io("read the changes of", id)),
        )
    }
}

/// Takes each change, with the content where it is a file.
type Pass<'a> = &'a mut dyn FnMut(&Seen, &mut dyn Read) -> io::Result<()>;

/// What every container gets in its root file system, unless the image has it. Docker has it in a layer below the container's own.
const DIRECTORIES: [&str; 4] = ["/proc", "/sys", "/dev/pts", "/dev/shm"];

/// The directories above.
const PARENTS: [&str; 2] = ["/dev", "/etc"];

/// Marks a directory that hides those of its name below.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// An entry of the tar of changes.
struct Seen {
    /// As it is called there.
    path: PathBuf,
    /// Without the mark of what is gone.
    shown: PathBuf,
    /// `None`: it is no change of its own.
    kind: Option<ChangeKind>,
    in_image: bool,
    header: Header,
    extensions: Vec<(String, Vec<u8>)>,
}

/// Hands on what is the container's own.
fn sift(tar: &mut dyn Read, image: &RootView, pass: Pass<'_>) -> io::Result<()> {
    // Parents, until something below them is handed on. That may come much later.
    let mut held: Vec<Seen> = Vec::new();
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let seen = Seen::of(&mut entry, image)?;
        if seen.is_for_mounts() {
            continue;
        }
        if seen.is_dir() && is_parent(&seen.path) && !seen.is_touched(image)? {
            held.push(seen);
            continue;
        }
        for dir in held.extract_if(.., |dir| seen.path.starts_with(&dir.path)) {
            pass(&dir, &mut io::empty())?;
        }
        pass(&seen, &mut entry)?;
    }
    Ok(())
}

fn is_parent(path: &Path) -> bool {
    PARENTS.iter().any(|parent| path == Path::new(parent))
}

fn made_for_mounts(path: &Path) -> bool {
    let files = files::NAMES.iter().map(|(_, target)| *target).chain(["/dev/console"]);
    files.chain(DIRECTORIES).any(|made| path == Path::new(made))
}

impl Seen {
    fn of(entry: &mut Entry<'_, &mut dyn Read>, image: &RootView) -> io::Result<Self> {
        let path = Path::new("/").join(entry.path()?.components().collect::<PathBuf>());
        let name = path.file_name().unwrap_or_default().as_bytes();
        let gone = name.strip_prefix(b".wh.").filter(|_| name != OPAQUE);
        let shown = gone.map_or_else(|| path.clone(), |name| path.with_file_name(OsStr::from_bytes(name)));
        let in_image = image.open(&path.to_string_lossy(), OFlags::PATH | OFlags::NOFOLLOW)?.is_some();
        let kind = match gone {
            Some(_) => Some(ChangeKind::Deleted),
            None if name.is_empty() || name == OPAQUE => None,
            None if in_image || is_parent(&path) || made_for_mounts(&path) => Some(ChangeKind::Modified),
            None => Some(ChangeKind::Added),
        };
        let header = entry.header().clone();
        let mut extensions = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let key = extension.key().map_err(io::Error::other)?;
            extensions.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
        // Long names may have come in another way.
        let link = entry.link_name_bytes();
        for (key, whole, short) in [
            ("path", Some(entry.path_bytes()), Some(header.path_bytes())),
            ("linkpath", link, header.link_name_bytes()),
        ] {
            if let Some(whole) = whole.filter(|whole| Some(whole) != short.as_ref())
                && !extensions.iter().any(|(known, _)| known == key)
            {
                extensions.push((key.to_owned(), whole.into_owned()));
            }
        }
        Ok(Self { path, shown, kind, in_image, header, extensions })
    }

    fn is_dir(&self) -> bool {
        self.header.entry_type().is_dir()
    }

    /// It stands there for something to be mounted on, and for nothing else.
    fn is_for_mounts(&self) -> bool {
        let empty =
            self.header.entry_type() == EntryType::Regular && self.header.size().is_ok_and(|n| n == 0);
        !self.in_image && (self.is_dir() || empty) && made_for_mounts(&self.path)
    }

    /// Of a directory: it is changed itself, not only what is in it.
    fn is_touched(&self, image: &RootView) -> io::Result<bool> {
        let Some(fd) = image.open(&self.path.to_string_lossy(), OFlags::PATH)? else { return Ok(false) };
        let stat = rustix::fs::fstat(fd)?;
        let now = (self.header.mode()? & 0o7777, self.header.uid()?, self.header.gid()?);
        Ok(now != (stat.st_mode & 0o7777, stat.st_uid.into(), stat.st_gid.into()))
    }

    fn write(&self, out: &mut Builder<&mut dyn Write>, data: &mut dyn Read) -> io::Result<()> {
        out.append_pax_extensions(
            self.extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
        )?;
        out.append(&self.header, data)
    }
}
