//! Writable root file systems over layers, and read-only views of them.
//!
//! ```text
//! snapshots/KEY/snapshot.json   the layers, the image, what the root directory was like
//! snapshots/KEY/upper           changes, in overlay's form
//! snapshots/KEY/work            overlay's own
//! snapshots/KEY/mend            directories that layers only imply, with the owner and mode that others give them
//! snapshots/KEY/empty/{a,b}     stand in for layers where overlay wants more of them
//! snapshots/KEY/fs              instead of the last four: a whole copy, of what is not mounted
//! snapshots/KEY/made            when each of its files was made, by the kernel's clock
//! ```

mod copy;
mod mend;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::Digest;
use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

pub(crate) use self::copy::{Merged, ROOT, same_content};
use crate::diff::trees::{self, Made};
use crate::diff::walk;
use crate::dir::{StoreDir, own};
use crate::error::at;
use crate::layer::{self, Form, Layers, Owner, RootMeta, mount, share};
use crate::{Ctx, Error, Result, diff};

/// A container's writable root file system over an image's layers: kept on disk until removed, mounted only where asked.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: String,
    path: PathBuf,
    record: Record,
    layers: Layers,
    /// Held while a temporary one is in use.
    _owner: Option<File>,
}

/// `snapshot.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    layers: Vec<Digest>,
    image: Option<Digest>,
    read_only: bool,
    userxattr: bool,
    /// Whether its files belong to a range of ids.
    #[serde(default)]
    ids: bool,
    root: RootMeta,
    /// Whether `mend` lies on top of the layers.
    #[serde(default)]
    mended: bool,
    /// Whether it goes when nobody holds its lock.
    #[serde(default)]
    temporary: bool,
    /// Whether it is a copy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    copied: bool,
}

/// The directories of an overlay mount, for whoever mounts it in a user namespace of its own.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OverlayDirs {
    /// Read-only layers, top first.
    pub lower: Vec<PathBuf>,
    /// Where changes go; `None` for a read-only view.
    pub upper: Option<PathBuf>,
    /// Overlay's work directory, on the upper's file system.
    pub work: Option<PathBuf>,
    /// Whether overlay's own xattrs are `user.overlay.*` (as in a user namespace) instead of `trusted.overlay.*`.
    pub userxattr: bool,
}

/// How a snapshot is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// A view without a writable layer.
    pub read_only: bool,
    /// The ID of the image that it is made for: this image is then in use, and is not removed without force.
    pub image: Option<Digest>,
    /// It is of use only while the value that [`Store::snapshot_layers`](crate::Store::snapshot_layers) returns (or a clone of it) lives. If
    /// that ends without removing it, also by a kill, then the next [`Store::collect`](crate::Store::collect) or
    /// [`Store::sweep_snapshots`](crate::Store::sweep_snapshots) of any process does.
    pub temporary: bool,
}

/// What [`Snapshot::mount_shared`] returns.
#[derive(Debug)]
#[non_exhaustive]
pub struct SharedMount {
    /// The root, as [`Snapshot::mount`] returns it.
    pub root: OwnedFd,
    /// The layers that nobody had mounted before.
    pub layers: SharedLayers,
}

/// Mounts of layers that others share while this lives.
#[derive(Debug, Default)]
pub struct SharedLayers(Vec<share::Held>);

impl SharedLayers {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether others have mounted all layers before, or nobody can share.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Takes these, too, in the place of mounts of the same layers, which nobody can find any more.
    pub fn extend(&mut self, others: Self) {
        self.0.retain(|held| !others.0.iter().any(|other| held.is_like(other)));
        self.0.extend(others.0);
    }
}

impl Snapshot {
    /// The key that it was made with.
    pub fn key(&self) -> &str {
        &self.0.key
    }
    /// The ID of the image that it was made for.
    pub fn image(&self) -> Option<&Digest> {
        self.0.record.image.as_ref()
    }
    /// The layers that it stands on, base first.
    pub fn layers(&self) -> &[Digest] {
        &self.0.record.layers
    }
    /// The directory that is the root file system, of a [copy](crate::StoreOptions::copies); others must be mounted: `None`.
    pub fn root(&self) -> Option<PathBuf> {
        self.0.record.copied.then(|| self.0.path.join("fs"))
    }
    /// The overlay's directories. Layers that are EROFS files cannot be named so: `None`, use [`Snapshot::mount`]. A copy has none.
    pub fn overlay(&self) -> Option<OverlayDirs> {
        if self.0.record.copied {
            return None;
        }
        let owner = self.owner().ok()?;
        let mut lower = Vec::with_capacity(self.layers().len() + 2);
        lower.extend(self.mended());
        for layer in distinct(self.layers()) {
            let Form::Directory(path) = self.0.layers.find_for(layer, owner)? else { return None };
            let last = mount::hides_all_below(&path, owner);
            lower.push(path);
            if last {
                break;
            }
        }
        lower.extend(self.stand_ins(lower.len()));
        let below = |name: &str| (!self.0.record.read_only).then(|| self.0.path.join(name));
        Some(OverlayDirs {
            lower,
            upper: below("upper"),
            work: below("work"),
            userxattr: self.0.record.userxattr,
        })
    }
    /// Mounts it detached: visible nowhere, gone with the last descriptor. Needs `CAP_SYS_ADMIN` in the user namespace of the mount namespace.
    ///
    /// The kernel does not define what a second writable mount of the same snapshot sees; mount it once at a time. Of a copy it is its
    /// directory, which is not protected from writes: a read-only one is refused.
    pub fn mount(&self) -> Result<OwnedFd> {
        self.mount_over(&mut |path| mount::erofs(path))
    }
    /// [`Snapshot::mount`], over the same mounts of its layers as other processes that have called this: what several of them read is in
    /// memory once, and a layer that is in use costs no mount. Who is the first mounts it, and shares it as long as it keeps
    /// [`SharedMount::layers`]; dropping them harms nobody.
    pub fn mount_shared(&self) -> Result<SharedMount> {
        let mut layers = SharedLayers::default();
        let mut found = false;
        let shared = self.mount_over(&mut |path| {
            if let Some(mount) = share::find(path) {
                found = true;
                return Ok(mount);
            }
            let (mount, held) = share::mount(path, mount::erofs)?;
            layers.0.extend(held);
            Ok(mount)
        });
        let root = match shared {
            // The holder may have let go of it in between, or live in another mount namespace.
            Err(_) if found => self.mount()?,
            other => other?,
        };
        Ok(SharedMount { root, layers })
    }

    fn mount_over(&self, erofs: MountErofs<'_>) -> Result<OwnedFd> {
        let owner = self.owner()?;
        if let Some(root) = self.root() {
            if self.0.record.read_only {
                let reason = "it is a copy; use its directory".to_owned();
                return Err(Error::Unsupported { what: "mounting a read-only snapshot", reason });
            }
            return mount::tree(&root);
        }
        let mut lower = Vec::with_capacity(self.layers().len() + 2);
        if let Some(path) = self.mended() {
            lower.push(mount::directory(&path)?);
        }
        for layer in distinct(self.layers()) {
            let opened = open_layer(&self.0.layers, layer, owner, erofs)?;
            let last = mount::hides_all_below(mount::by_number(opened.as_fd()), owner);
            lower.push(opened);
            if last {
                break;
            }
        }
        for path in self.stand_ins(lower.len()) {
            lower.push(mount::directory(&path)?);
        }
        mount::overlay(&lower, (!self.0.record.read_only).then_some(&*self.0.path), owner)
    }
    /// Writes what changed against the layers as a layer tar (deterministic order, whiteouts as in the OCI image-spec).
    pub fn diff(&self, out: &mut dyn Write, ctx: Ctx<'_>) -> Result<DiffOutcome> {
        self.diff_clamped(None, out, ctx)
    }
    /// [`Snapshot::diff`] with no time later than `clamp` (seconds since the epoch).
    pub(crate) fn diff_clamped(
        &self,
        clamp: Option<i64>,
        out: &mut dyn Write,
        ctx: Ctx<'_>,
    ) -> Result<DiffOutcome> {
        if self.0.record.read_only {
            return Ok(DiffOutcome::default());
        }
        let owner = self.owner()?;
        let options = diff::Options { clamp_mtime: clamp, root: Some(self.0.record.root), owner };
        if self.0.record.copied {
            let told: Vec<_> =
                self.layers().iter().map(|l| self.0.layers.record(l)).collect::<Result<_>>()?;
            let layers = opened(&self.0.layers, self.layers(), &told, owner)?;
            let _alone = self.0.layers.alone(self.layers(), owner)?;
            let (copy, made) = (self.0.path.join("fs"), self.0.path.join("made"));
            let made = Made::from_bytes(&fs::read(&made).map_err(at("read", made))?);
            let left = Merged::new(layers, self.0.record.root, owner, &copy)?;
            return trees::trees(&left, &copy, &made, &options, out, ctx);
        }
        diff::upper(&self.0.path.join("upper"), &options, out, ctx)
    }
    /// Bytes and inodes of the writable layer; of a copy, of all of it.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let Some(tree) = self.own_tree() else { return Ok((0, 0)) };
        let (bytes, inodes) = usage_of(&tree)?;
        // The root itself is there from the start, unless all is gone by now.
        Ok((bytes, inodes.saturating_sub(1)))
    }

    /// The lengths of the writable layer's files together, as Docker counts: directories and whiteouts are nothing, and neither are
    /// the blocks that a file takes or saves.
    pub fn file_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        if let Some(tree) = self.own_tree() {
            each_inode(&tree, &mut |stat| {
                let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                bytes += if is_dir { 0 } else { stat.st_size as u64 };
            })?;
        }
        Ok(bytes)
    }

    fn own_tree(&self) -> Option<PathBuf> {
        let copied = self.0.record.copied;
        let tree = self.0.path.join(if copied { "fs" } else { "upper" });
        (copied || !self.0.record.read_only).then_some(tree)
    }

    /// Whose its files are. Outside of their user namespace those of a range have other ids, and some cannot be read.
    pub(crate) fn owner(&self) -> Result<Owner> {
        let record = &self.0.record;
        match (record.ids, record.userxattr) {
            (true, _) if self.0.layers.owner() != Owner::Range => Err(Error::Unsupported {
                what: "a snapshot of files of several owners",
                reason: "it was made in a user namespace with a range of ids, and this process is in none"
                    .to_owned(),
            }),
            (true, _) => Ok(Owner::Range),
            (false, true) => Ok(Owner::User),
            (false, false) => Ok(Owner::Root),
        }
    }

    fn mended(&self) -> Option<PathBuf> {
        self.0.record.mended.then(|| self.0.path.join("mend"))
    }

    /// Overlay wants one lower directory under a writable one, and two different ones without.
    fn stand_ins(&self, there: usize) -> impl Iterator<Item = PathBuf> + '_ {
        let wanted = if self.0.record.read_only { 2 } else { 1_usize };
        let missing = wanted.saturating_sub(there);
        ["a", "b"].into_iter().take(missing).map(|name| self.0.path.join("empty").join(name))
    }
}

/// All snapshots of a store.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    dir: StoreDir,
    layers: Layers,
}

impl Snapshots {
    /// Makes its directory below the store's if it is not there.
    pub(crate) fn open_all(dir: &StoreDir, layers: &Layers) -> Result<Self> {
        dir.create_dir_all(&dir.join("snapshots"))?;
        Ok(Self { dir: dir.clone(), layers: layers.clone() })
    }
    /// Makes a snapshot over layers that are all there ([`Error::NoSuchLayer`](crate::Error::NoSuchLayer) else); the caller holds the store's shared lock.
    pub(crate) fn prepare(
        &self,
        key: &str,
        layers: &[Digest],
        options: &SnapshotOptions,
    ) -> Result<Snapshot> {
        let path = self.path(key)?;
        let told: Vec<_> = layers.iter().map(|layer| self.layers.record(layer)).collect::<Result<_>>()?;
        let plain = RootMeta { mode: 0o755, uid: 0, gid: 0 };
        let mut record = Record {
            layers: layers.to_vec(),
            image: options.image.clone(),
            read_only: options.read_only,
            userxattr: self.layers.owner().by_user_attributes(),
            ids: self.layers.owner() == Owner::Range,
            // What the topmost layer that speaks about it says.
            root: told.iter().rev().find_map(|told| told.root).unwrap_or(plain),
            mended: false,
            temporary: options.temporary,
            copied: false,
        };
        let staging = self.dir.staging("snapshot")?;
        let draft = staging.path().join("snapshot");
        self.dir.step("mkdir", &draft)?;
        fs::create_dir(&draft).map_err(at("create", &draft))?;
        if self.dir.options().copies {
            self.copy(&draft, layers, &told, &mut record)?;
        } else {
            record.mended = self.mend(&draft.join("mend"), layers, &told, &record)?;
            self.draft(&draft, &record)?;
        }
        // Locked before anybody else can see it.
        let owner = if options.temporary { own(&draft)? } else { None };
        self.dir.step("rename", &path)?;
        loop {
            match fs::rename(&draft, &path) {
                Ok(()) => break,
                Err(e)
                    if e.kind() == io::ErrorKind::DirectoryNotEmpty
                        || e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(at("rename", &path)(e)),
            }
            if self.open(key).is_ok() {
                return Err(Error::SnapshotExists { key: key.to_owned() });
            }
            // A power cut has left half of one, which nobody can open.
            self.discard(&path)?;
        }
        Ok(self.snapshot(key, path, record, owner))
    }
    pub(crate) fn open(&self, key: &str) -> Result<Snapshot> {
        let path = self.path(key)?;
        let missing = || Error::NoSuchSnapshot { key: key.to_owned() };
        let text = match fs::read(path.join("snapshot.json")) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(e) => return Err(at("read", path.join("snapshot.json"))(e)),
        };
        let record = serde_json::from_slice(&text).map_err(|_| missing())?;
        Ok(self.snapshot(key, path, record, None))
    }
    pub(crate) fn list(&self) -> Result<Vec<Snapshot>> {
        let all = self.dir.join("snapshots");
        let mut keys = Vec::new();
        for entry in fs::read_dir(&all).map_err(at("read", &all))? {
            keys.extend(entry.map_err(at("read", &all))?.file_name().into_string());
        }
        keys.sort();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            match self.open(&key) {
                Ok(snapshot) => found.push(snapshot),
                // Removed meanwhile, or never complete.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }
    pub(crate) fn remove(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        self.open(key)?;
        self.discard(&path)
    }

    fn discard(&self, path: &Path) -> Result<()> {
        self.dir.discard(path, &path.join("snapshot.json"))
    }

    /// Removes temporary ones whose owner is gone; their keys.
    pub(crate) fn sweep(&self) -> Result<Vec<String>> {
        let mut swept = Vec::new();
        for snapshot in self.list()?.iter().filter(|s| s.0.record.temporary) {
            if let Some(_dead) = own(&snapshot.0.path)? {
                self.discard(&snapshot.0.path)?;
                swept.push(snapshot.key().to_owned());
            }
        }
        Ok(swept)
    }

    fn snapshot(&self, key: &str, path: PathBuf, record: Record, owner: Option<File>) -> Snapshot {
        let layers = self.layers.clone();
        Snapshot(Arc::new(Inner { key: key.to_owned(), path, record, layers, _owner: owner }))
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        let invalid = |reason| Err(Error::InvalidName { name: key.to_owned(), reason });
        if key.is_empty() || key.len() > 200 {
            return invalid("a snapshot's key has 1 to 200 bytes");
        }
        if key.starts_with('.') || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return invalid(
                "a snapshot's key consists of letters, digits, `_`, `.` and `-`, and begins with no `.`",
            );
        }
        Ok(self.dir.join("snapshots").join(key))
    }

    /// See [`mend`]. Costs nothing for layers that name every directory, as most do.
    fn mend(&self, to: &Path, layers: &[Digest], told: &[layer::Record], record: &Record) -> Result<bool> {
        let implies = |told: &layer::Record| !told.implied.is_empty();
        // A writable layer's root directory speaks for itself.
        let only_root = !record.read_only || told.last().is_none_or(|top| top.root.is_some());
        if !told.iter().skip(1).any(implies) && only_root {
            return Ok(false);
        }
        let owner = self.layers.owner();
        mend::mend(to, &opened(&self.layers, layers, told, owner)?, record.root, owner)
    }

    /// A whole copy of the layers instead of an overlay's directories.
    fn copy(
        &self,
        draft: &Path,
        layers: &[Digest],
        told: &[layer::Record],
        record: &mut Record,
    ) -> Result<()> {
        self.dir.step("mkdir", draft)?;
        let fs = draft.join("fs");
        fs::create_dir(&fs).map_err(at("create", &fs))?;
        let owner = self.layers.owner();
        let _alone = self.layers.alone(layers, owner)?;
        let merged = Merged::new(opened(&self.layers, layers, told, owner)?, record.root, owner, &fs)?;
        let made = merged.copy(&fs)?;
        let (json, notes) = (draft.join("snapshot.json"), draft.join("made"));
        fs::write(&notes, made.to_bytes()).map_err(at("create", &notes))?;
        // What is changed from now on gets another time than it was made at: the clock ticks only every few milliseconds.
        loop {
            fs::write(&json, "").map_err(at("create", &json))?;
            let meta = fs::metadata(&json).map_err(at("stat", &json))?;
            if (meta.ctime(), meta.ctime_nsec()) != made.last() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        record.copied = true;
        let text = serde_json::to_vec(record).expect("a snapshot's record has only string keys");
        fs::write(&json, text).map_err(at("write", json))?;
        // Its name must not outlive its files.
        self.dir.sync_fs(draft)
    }

    fn draft(&self, draft: &Path, record: &Record) -> Result<()> {
        self.dir.step("mkdir", draft)?;
        let make = || -> io::Result<()> {
            fs::create_dir(draft.join("empty"))?;
            fs::create_dir(draft.join("empty").join("a"))?;
            fs::create_dir(draft.join("empty").join("b"))?;
            if !record.read_only {
                fs::create_dir(draft.join("work"))?;
                let upper = draft.join("upper");
                fs::create_dir(&upper)?;
                if self.layers.owner().keeps_ids() {
                    std::os::unix::fs::chown(&upper, Some(record.root.uid), Some(record.root.gid))?;
                }
                fs::set_permissions(&upper, fs::Permissions::from_mode(record.root.mode.into()))?;
            }
            fs::write(draft.join("snapshot.json"), serde_json::to_vec(record)?)
        };
        make().map_err(at("create", draft))
    }
}

/// The layers, top first, each once: overlay refuses the same one twice, and what a layer adds or hides further down,
/// it adds or hides at its topmost place as well.
fn distinct(layers: &[Digest]) -> impl Iterator<Item = &Digest> {
    let lasts = layers.iter().enumerate().rev().filter(|(i, layer)| !layers[i + 1..].contains(layer));
    lasts.map(|(_, layer)| layer)
}

/// The layers, opened for reading, top first.
fn opened(
    layers: &Layers,
    stack: &[Digest],
    told: &[layer::Record],
    owner: Owner,
) -> Result<Vec<mend::Opened>> {
    let open = |layer| {
        let told = &told[stack.iter().rposition(|l| l == layer).expect("it is one of them")];
        // A mount is opened by path only; its root is what the layer holds.
        let root = walk::reopen(&open_layer(layers, layer, owner, &mut |path| mount::erofs(path))?)?;
        Ok(mend::Opened { root, implied: told.implied.iter().cloned().collect(), says: told.root })
    };
    distinct(stack).map(open).collect()
}

/// How a layer's file is mounted.
type MountErofs<'a> = &'a mut dyn FnMut(&Path) -> Result<OwnedFd>;

fn open_layer(layers: &Layers, layer: &Digest, owner: Owner, erofs: MountErofs<'_>) -> Result<OwnedFd> {
    match layers.find_for(layer, owner) {
        None => Err(Error::NoSuchLayer { diff_id: layer.clone() }),
        Some(Form::Erofs(path)) => erofs(&path),
        Some(Form::Directory(path)) => mount::directory(&path),
    }
}

/// What a diff contained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffOutcome {
    /// Entries written, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Bytes on disk and inodes of a directory tree, its root included; hard links count once, and what this user may not
/// read does not.
pub(crate) fn usage_of(root: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut inodes) = (0, 0);
    each_inode(root, &mut |stat| {
        bytes += stat.st_blocks as u64 * 512;
        inodes += 1;
    })?;
    Ok((bytes, inodes))
}

/// Each inode of a tree that this user may see, its root included. A running container changes it as it likes: what is gone by now, or closed
/// to us by its owner inside the container, is not counted, and a link in a directory's place leads nowhere.
fn each_inode(root: &Path, see: &mut dyn FnMut(&Stat)) -> Result<()> {
    let Some(stat) = there(rustix::fs::lstat(root).map_err(at("stat", root)))? else { return Ok(()) };
    see(&stat);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    let Some(top) = there(walk::open_dir(root))? else { return Ok(()) };
    let mut seen = HashSet::new();
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let opened =
            if path.is_empty() { walk::again(&top, root) } else { walk::open_below(&top, &path, root) };
        let Some(dir) = there(opened)?.flatten() else { continue };
        let Some(items) = there(walk::read_dir(&dir, root))? else { continue };
        for item in items {
            let is_dir = FileType::from_raw_mode(item.stat.st_mode) == FileType::Directory;
            if is_dir || item.stat.st_nlink == 1 || seen.insert((item.stat.st_dev, item.stat.st_ino)) {
                see(&item.stat);
            }
            if is_dir {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                todo.push([&path, slash, &item.name].concat());
            }
        }
    }
    Ok(())
}

/// `None` for what is gone, or closed to us.
fn there<T>(found: Result<T>) -> Result<Option<T>> {
    use io::ErrorKind::{NotFound, PermissionDenied};
    match found {
        Err(Error::Io { source, .. }) if matches!(source.kind(), NotFound | PermissionDenied) => Ok(None),
        other => other.map(Some),
    }
}
