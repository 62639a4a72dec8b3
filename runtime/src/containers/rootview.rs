//! Looking into a container's root file system from outside, without ever leaving it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
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

/// Links that are followed on the way to one path, as many as by the kernel.
const LINKS_MAX: usize = 40;

type Missing<'a> = dyn FnMut(&Path, &OsStr, usize, bool) -> io::Result<bool> + 'a;

/// What is to be at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Directory,
    DirectoryBehindLink,
    FileBehindLink,
}

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

    /// Makes the directory and those above it where they are missing. A link that leads to nothing is followed, and what it names made inside.
    pub(super) fn make_dirs(&self, path: &str) -> io::Result<()> {
        self.make(path, Make::Directory)
    }

    /// Where a mount's target lies behind a link that leads to nothing, what the link names is made; the rest is done by who mounts.
    pub(super) fn mend_links(&self, path: &str, file: bool) -> io::Result<()> {
        self.make(path, if file { Make::FileBehindLink } else { Make::DirectoryBehindLink })
    }

    fn make(&self, path: &str, what: Make) -> io::Result<()> {
        if self.open(path, OFlags::PATH)?.is_some() {
            return Ok(());
        }
        self.walk(path, &mut |parent, name, links, last| {
            if links == 0 && what != Make::Directory {
                return Ok(false);
            }
            self.make_one(parent, name, last && what == Make::FileBehindLink).map(|()| true)
        })
        .map(drop)
    }

    /// The path with every link in it replaced by what it says, inside; what is not there stays as it is written.
    pub(super) fn real(&self, path: &str) -> io::Result<PathBuf> {
        self.walk(path, &mut |_, _, _, _| Ok(true))
    }

    /// Follows a path link by link. Where something is missing, `missing` gets the directory, the name, the number of links followed and
    /// whether it is the last name, and says whether to go on.
    fn walk(&self, path: &str, missing: &mut Missing<'_>) -> io::Result<PathBuf> {
        let mut todo: VecDeque<OsString> = names(Path::new(path));
        let (mut real, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            let Some(there) = self.open(&next.to_string_lossy(), OFlags::PATH | OFlags::NOFOLLOW)? else {
                if !missing(&real, &name, links, todo.is_empty())? {
                    return Ok(next);
                }
                real = next;
                continue;
            };
            match FileType::from_raw_mode(rustix::fs::fstat(&there)?.st_mode) {
                FileType::Symlink if links == LINKS_MAX => return Err(rustix::io::Errno::LOOP.into()),
                FileType::Symlink => {
                    links += 1;
                    let target = rustix::fs::readlinkat(&there, "", Vec::new())?;
                    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    names(target).into_iter().rev().for_each(|name| todo.push_front(name));
                }
                FileType::Directory => real = next,
                _ if todo.is_empty() => real = next,
                _ => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Ok(real)
    }

    /// Makes `name` in a directory that is there, in the topmost layer.
    fn make_one(&self, parent: &Path, name: &OsStr, file: bool) -> io::Result<()> {
        let at = self.copied_up(parent)?;
        let made = if file {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&at, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))
        };
        match made {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The directory in the topmost layer, made as it is further down where only a lower one has it.
    fn copied_up(&self, path: &Path) -> io::Result<OwnedFd> {
        let top = self.layers.first().ok_or(io::ErrorKind::NotFound)?;
        let text = path.to_string_lossy();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match resolve(top.as_fd(), Path::new(relative(&text)), flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let stat = rustix::fs::fstat(self.open(&text, OFlags::PATH)?.ok_or_else(missing)?)?;
        let above = self.copied_up(path.parent().ok_or_else(missing)?)?;
        let name = path.file_name().ok_or_else(missing)?;
        rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        Ok(rustix::fs::openat(&above, name, flags | OFlags::NOFOLLOW, Mode::empty())?)
    }
}

/// The names of a path, `..` among them.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
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
        view.make_dirs("/a/b/c").unwrap();
        assert!(root.join("a/b/c").is_dir());
        symlink(dir.path(), root.join("out")).unwrap();
        let _ = view.make_dirs("/out/made");
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn what_a_link_to_nothing_names_is_made_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        symlink("/srv/data", root.join("data")).unwrap();
        symlink("../../../../run/etc", root.join("etc")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let view = RootView::new(&RootfsSource::Path(root.clone())).unwrap();
        view.make_dirs("/data/x").unwrap();
        view.mend_links("/etc/hosts", true).unwrap();
        view.mend_links("/untouched/x", false).unwrap();
        assert!(root.join("srv/data/x").is_dir() && root.join("run/etc/hosts").is_file());
        assert!(!root.join("untouched").exists() && !dir.path().join("run").exists());
        assert!(view.make_dirs("/loop/x").is_err());
    }

    #[test]
    fn a_directory_made_over_a_lower_one_is_as_that() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower, work) = (dir.path().join("u"), dir.path().join("l"), dir.path().join("w"));
        for path in [&upper, &lower, &work] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::create_dir(lower.join("private")).unwrap();
        std::fs::set_permissions(lower.join("private"), PermissionsExt::from_mode(0o700)).unwrap();
        symlink("/private/deep", lower.join("link")).unwrap();
        let source = RootfsSource::Overlay { lower: vec![lower], upper: upper.clone(), work };
        RootView::new(&source).unwrap().make_dirs("/link/x").unwrap();
        assert_eq!(std::fs::metadata(upper.join("private")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(upper.join("private/deep/x").is_dir() && !upper.join("link").exists());
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
