//! Looking into a container's root file system from outside, without ever leaving it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::{Error, Result, RootfsSource};

/// One directory, or the layers of an overlay that nobody has mounted; the topmost first.
#[derive(Debug)]
pub(super) struct RootView {
    layers: Vec<OwnedFd>,
}

/// What one layer says about a path.
enum Look<T> {
    Found(T),
    /// Deleted, or a file where a directory should be: layers below do not count.
    Hidden,
    Absent,
}

/// Every path is resolved by the kernel as if the layer were `/`; `/proc`'s own links are refused.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl RootView {
    pub(super) fn new(source: &RootfsSource) -> Result<Self> {
        let directory = |path: &PathBuf| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::io("open", path)(e.into()))
        };
        let layers = match source {
            RootfsSource::Path(path) => vec![directory(path)?],
            RootfsSource::Detached(fd) => {
                vec![fd.try_clone().map_err(Error::io("open", "the root file system"))?]
            }
            RootfsSource::Overlay { lower, upper, .. } => {
                std::iter::once(upper).chain(lower).map(directory).collect::<Result<_>>()?
            }
        };
        Ok(Self { layers })
    }

    /// One already open directory.
    pub(super) fn of(root: OwnedFd) -> Self {
        Self { layers: vec![root] }
    }

    /// The directory, where it is one and not layers.
    pub(super) fn only(&self) -> Option<BorrowedFd<'_>> {
        if let [root] = &self.layers[..] { Some(root.as_fd()) } else { None }
    }

    /// The content of a regular file of at most `max` bytes; `None` if there is none.
    pub(super) fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path, OFlags::RDONLY)? else { return Ok(None) };
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        if file.take(max + 1).read_to_end(&mut bytes)? as u64 > max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{path} is larger than {max} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    /// Opens what is there; links are followed inside.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        // openat2(2) takes none of these beside O_PATH, which opens neither a FIFO nor a terminal anyway.
        let careful =
            if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
        let flags = flags | OFlags::CLOEXEC | careful;
        for layer in &self.layers {
            match look(layer.as_fd(), path, flags)? {
                Look::Found(fd) => return Ok(Some(fd)),
                Look::Hidden => return Ok(None),
                Look::Absent => {}
            }
        }
        Ok(None)
    }

    /// The directories that together are `path`, topmost first.
    pub(super) fn directories(&self, path: &str) -> io::Result<Vec<OwnedFd>> {
        let mut found = Vec::new();
        for layer in &self.layers {
            match look(layer.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC) {
                Ok(Look::Found(fd)) => {
                    let opaque = is_opaque(fd.as_fd());
                    found.push(fd);
                    if opaque {
                        break;
                    }
                }
                Ok(Look::Hidden) => break,
                Ok(Look::Absent) => {}
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => break,
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Makes the directory and those above it where they are missing, as `uid`:`gid`.
    pub(super) fn make_dirs(&self, path: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
        if self.open(path, OFlags::PATH)?.is_some() {
            return Ok(());
        }
        let top = self.layers.first().ok_or(io::ErrorKind::NotFound)?;
        let mut so_far = PathBuf::new();
        for part in Path::new(path).components() {
            let Component::Normal(name) = part else { continue };
            let parent = so_far.clone();
            so_far.push(name);
            if resolve(top.as_fd(), &so_far, OFlags::PATH | OFlags::CLOEXEC).is_ok() {
                continue;
            }
            let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
            let at = resolve(top.as_fd(), &parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Err(rustix::io::Errno::EXIST) => {}
                other => other?,
            }
            if let Some((uid, gid)) = owner {
                let made = rustix::fs::openat(
                    &at,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let _ = rustix::fs::fchown(
                    made,
                    Some(rustix::fs::Uid::from_raw(uid)),
                    Some(rustix::fs::Gid::from_raw(gid)),
                );
            }
        }
        Ok(())
    }
}

fn relative(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    if path.is_empty() { "." } else { path }
}

pub(super) fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), INSIDE) {
            // Something was renamed meanwhile; the kernel asks to try again.
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

fn look(layer: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<Look<OwnedFd>> {
    let path = relative(path);
    // The name itself first, not followed: a whiteout is a device that must not be opened.
    let mut prefix = PathBuf::new();
    for part in Path::new(path).components() {
        prefix.push(part);
        let fd = match resolve(layer, &prefix, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(if parent_is_opaque(layer, &prefix) { Look::Hidden } else { Look::Absent });
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(Look::Hidden),
            Err(e) => return Err(e),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0 {
            return Ok(Look::Hidden);
        }
    }
    match resolve(layer, Path::new(path), flags) {
        Ok(fd) => Ok(Look::Found(fd)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Look::Absent),
        Err(e) => Err(e),
    }
}

fn parent_is_opaque(layer: BorrowedFd<'_>, path: &Path) -> bool {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    resolve(layer, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
        .is_ok_and(|fd| is_opaque(fd.as_fd()))
}

pub(super) fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    ["user.overlay.opaque", "trusted.overlay.opaque"].iter().any(|name| {
        let mut value = [0u8; 4];
        rustix::fs::fgetxattr(dir, *name, &mut value).is_ok_and(|n| n == 1 && value[0] == b'y')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_outside_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        symlink("../../../secret", root.join("etc/up")).unwrap();
        symlink(dir.path().join("secret"), root.join("etc/abs")).unwrap();
        symlink("/etc/real", root.join("etc/good")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("etc/magic")).unwrap();
        std::fs::write(root.join("etc/real"), "inside").unwrap();
        let view = RootView::new(&RootfsSource::Path(root.clone())).unwrap();
        assert_eq!(view.read("/etc/good", 100).unwrap().unwrap(), b"inside");
        for name in ["/etc/up", "/etc/abs", "/etc/magic", "/../secret", "etc/../../secret", "/missing"] {
            assert!(view.read(name, 100).unwrap().is_none(), "{name}");
        }
        assert!(view.read("/etc/real", 3).is_err());
        assert!(view.read("/etc", 100).unwrap().is_none());
        view.make_dirs("/a/b/c", None).unwrap();
        assert!(root.join("a/b/c").is_dir());
        symlink(dir.path(), root.join("out")).unwrap();
        let _ = view.make_dirs("/out/made", None);
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn layers_hide_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower, work) = (dir.path().join("u"), dir.path().join("l"), dir.path().join("w"));
        for path in [&upper, &lower, &work] {
            std::fs::create_dir_all(path.join("etc")).unwrap();
        }
        std::fs::write(lower.join("etc/a"), "low").unwrap();
        std::fs::write(lower.join("etc/b"), "low").unwrap();
        std::fs::write(upper.join("etc/b"), "up").unwrap();
        let view =
            RootView::new(&RootfsSource::Overlay { lower: vec![lower], upper: upper.clone(), work }).unwrap();
        assert_eq!(view.read("/etc/a", 9).unwrap().unwrap(), b"low");
        assert_eq!(view.read("/etc/b", 9).unwrap().unwrap(), b"up");
        if rustix::process::geteuid().is_root() {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                upper.join("etc/a"),
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )
            .unwrap();
            assert!(view.read("/etc/a", 9).unwrap().is_none());
        }
        assert_eq!(view.directories("/etc").unwrap().len(), 2);
        assert!(view.directories("/etc/b").unwrap().is_empty());
    }
}
