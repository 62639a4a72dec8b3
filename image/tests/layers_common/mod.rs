//! What the layer tests share: tar archives written byte by byte, and trees compared.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use longshore_image::{
    Compression, Ctx, Durability, Layer, LayerOptions, Snapshot, SnapshotOptions, Store, StoreOptions,
};

pub(crate) type Tree = BTreeMap<String, String>;

/// Says why a test did not run; where everything is there by agreement, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "must not be skipped: {reason}");
    eprintln!("skipped: {reason}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A range of ids: 1 to `SIZE` inside are these of the machine.
pub(crate) const FIRST: u32 = 100_000;
pub(crate) const SIZE: u32 = 65_535;
/// Set for what runs inside.
pub(crate) const INSIDE: &str = "LONGSHORE_TEST_INSIDE";

/// Runs this test program again as uid 1000 in a user and mount namespace with a range of ids, as `newuidmap` grants it
/// from `/etc/subuid`; what it leaves in its directory `work` is for the caller to look at.
pub(crate) fn with_range(args: &[&str]) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    std::fs::create_dir(at("work")).unwrap();
    for path in [scratch.path(), &at("work")] {
        std::os::unix::fs::chown(path, Some(1000), Some(1000)).unwrap();
    }
    copy_of_this_program(&at("test"));
    std::fs::write(at("ranges"), format!("1000:{FIRST}:{SIZE}\n")).unwrap();
    // In a mount namespace of its own: the machine's files may grant nothing.
    let script = r#"
        mount --make-rprivate /
        mount --bind "$TMPDIR/../ranges" /etc/subuid
        mount --bind "$TMPDIR/../ranges" /etc/subgid
        first=$1 size=$2; shift 2
        exec setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --mount --map-root-user \
            --map-users="$first,1,$size" --map-groups="$first,1,$size" "$0" "$@"
    "#;
    let status = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .arg(at("test"))
        .args([FIRST.to_string(), SIZE.to_string()])
        .args(args)
        .env("TMPDIR", at("work"))
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success(), "{args:?} with a range of ids");
    scratch
}

/// Made by another process: a child that another thread starts meanwhile would have it open for writing, and it could not be run.
pub(crate) fn copy_of_this_program(to: &Path) {
    let mut copy = std::process::Command::new("install");
    let copied = copy.args(["-m", "755"]).arg(std::env::current_exe().unwrap()).arg(to).status().unwrap();
    assert!(copied.success(), "install {}", to.display());
}

/// Runs the named test again as uid 1000, in a directory which that user owns.
pub(crate) fn as_user(test: &str) {
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(1000), Some(1000)).unwrap();
    let program = scratch.path().join("test");
    copy_of_this_program(&program);
    let status = std::process::Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(&program)
        .args([test, "--exact", "--nocapture"])
        .env("TMPDIR", scratch.path())
        .status();
    assert!(status.unwrap().success(), "{test} as uid 1000");
}

/// Runs all other tests of this program with a range of ids; `name` is that of the test that does so.
pub(crate) fn all_with_range(name: &str) {
    if !is_root() {
        return skip("needs root to become an ordinary user with a range of ids");
    }
    with_range(&["--skip", name]);
}

/// A store for throwing away, with one driver or the other.
pub(crate) fn store(dir: &Path, directories: bool) -> Store {
    let mut options = StoreOptions::default();
    options.durability = Durability::None;
    options.directories = directories;
    Store::open_with(dir, &options).unwrap()
}

/// A store whose snapshots are copies, of layers of one driver or the other.
pub(crate) fn copying(dir: &Path, directories: bool) -> Store {
    let mut options = StoreOptions::default();
    options.durability = Durability::None;
    options.directories = directories;
    options.copies = true;
    Store::open_with(dir, &options).unwrap()
}

pub(crate) fn add(store: &Store, mut tar: &[u8]) -> longshore_image::Result<Layer> {
    let mut options = LayerOptions::default();
    options.compression = Compression::None;
    store.add_layer(&mut tar, &options, Ctx::none())
}

/// A read-only view of the layers, as a container would see it.
pub(crate) fn view(store: &Store, layers: &[&Layer]) -> Tree {
    let ids: Vec<_> = layers.iter().map(|l| l.diff_id.clone()).collect();
    let mut options = SnapshotOptions::default();
    options.read_only = true;
    let snapshot = store.snapshot_layers("view", &ids, &options).unwrap();
    let seen = match snapshot.root() {
        Some(copy) => describe(&copy),
        None => describe(&path_of(&snapshot.mount().unwrap())),
    };
    store.remove_snapshot("view").unwrap();
    seen
}

pub(crate) fn writable(store: &Store, key: &str, layers: &[&Layer]) -> Snapshot {
    let ids: Vec<_> = layers.iter().map(|l| l.diff_id.clone()).collect();
    store.snapshot_layers(key, &ids, &SnapshotOptions::default()).unwrap()
}

/// The path under which a detached mount can be walked.
pub(crate) fn path_of(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/", mount.as_raw_fd()).into()
}

/// A tar header and its content, every field as the test wants it.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) ids: (u32, u32),
    pub(crate) mtime: u64,
    /// The size field, when it shall not be that of the content.
    pub(crate) size: Option<[u8; 12]>,
    pub(crate) device: (u32, u32),
    pub(crate) content: Vec<u8>,
    pub(crate) gnu: bool,
    /// Changes the block before its checksum is made.
    pub(crate) patch: fn(&mut [u8; 512]),
}

pub(crate) fn raw(name: impl AsRef<[u8]>, kind: u8) -> Raw {
    Raw {
        name: name.as_ref().to_vec(),
        kind,
        link: Vec::new(),
        mode: 0o755,
        ids: (0, 0),
        mtime: 1_700_000_000,
        size: None,
        device: (0, 0),
        content: Vec::new(),
        gnu: false,
        patch: |_| {},
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Raw {
    Raw { content: content.as_ref().to_vec(), ..raw(name, b'0') }
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> Raw {
    raw(name, b'5')
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Raw {
    Raw { link: to.as_ref().to_vec(), ..raw(name, b'2') }
}

pub(crate) fn hard(name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Raw {
    Raw { link: to.as_ref().to_vec(), ..raw(name, b'1') }
}

pub(crate) fn device(name: impl AsRef<[u8]>, kind: u8, major: u32, minor: u32) -> Raw {
    Raw { device: (major, minor), ..raw(name, kind) }
}

/// An extended header with these records.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Raw {
    let content = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    Raw { content, ..raw("PaxHeaders/x", b'x') }
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let length = (body..).find(|n| body + n.to_string().len() == *n).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

impl Raw {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.ids.0).as_bytes());
        put(116, format!("{:07o}", self.ids.1).as_bytes());
        match self.size {
            Some(size) => put(124, &size),
            None => put(124, format!("{:011o}", self.content.len()).as_bytes()),
        }
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, if self.gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        (self.patch)(&mut block);
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut out = block.to_vec();
        out.extend_from_slice(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

pub(crate) fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out: Vec<u8> = entries.iter().flat_map(Raw::bytes).collect();
    out.resize(out.len() + 1024, 0);
    out
}

/// Everything about a tree that a container could see, one line for each name.
pub(crate) fn describe(root: &Path) -> Tree {
    let mut all = BTreeMap::new();
    let mut links: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let path = root.join(&relative);
        let shown = format!("/{}", relative.display());
        let meta =
            if relative.as_os_str().is_empty() { std::fs::metadata(&path) } else { path.symlink_metadata() };
        let meta = meta.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let mut line = format!("{:o} {}:{} {time}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_dir() {
            let mut below: Vec<_> =
                std::fs::read_dir(&path).unwrap().map(|e| relative.join(e.unwrap().file_name())).collect();
            below.sort();
            below.reverse();
            todo.extend(below);
        } else if meta.is_file() {
            line += &format!(" {} bytes {:x}", meta.len(), digest(&path));
        } else if meta.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
        } else {
            line += &format!(" device {:x}", meta.rdev());
        }
        if meta.nlink() > 1 && !meta.is_dir() {
            let first = links.entry((meta.dev(), meta.ino())).or_insert_with(|| shown.clone());
            line += &format!(" {} links, first {first}", meta.nlink());
        }
        for (name, value) in xattrs(&path) {
            line += &format!(" {name}={}", String::from_utf8_lossy(&value).escape_debug());
        }
        all.insert(shown, line);
    }
    all
}

fn digest(path: &Path) -> u64 {
    use std::hash::Hasher;
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    hash.finish()
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.insert(String::from_utf8_lossy(name).into_owned(), value[..n].to_vec());
    }
    found
}

/// Panics with the lines that differ, not with two whole trees.
pub(crate) fn assert_same(left: &Tree, right: &Tree) {
    let mut wrong = Vec::new();
    for key in left.keys().chain(right.keys()).collect::<std::collections::BTreeSet<_>>() {
        if left.get(key) != right.get(key) {
            wrong.push(format!("{key}\n  {:?}\n  {:?}", left.get(key), right.get(key)));
        }
    }
    let count = wrong.len();
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{count} differ:\n{}", wrong.join("\n"));
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (name, link) = (text(&self.name), text(&self.link));
        write!(
            f,
            "{:?} {name:?} -> {link:?} {:o} {} bytes",
            char::from(self.kind),
            self.mode,
            self.content.len()
        )
    }
}
