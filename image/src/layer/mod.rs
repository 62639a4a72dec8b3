//! Layers in their mountable form, by diff ID.
//!
//! ```text
//! layers/sha256-HEX.erofs      the tar as it came, and an index that makes the kernel see it as a file system
//! layers/sha256-HEX/fs         or a directory tree, with whiteouts as overlay wants them
//! layers/sha256-HEX/layer.json and what is known about it
//! layers/sha256-HEX.ids/       the same of an ordinary user who has a range of ids: its files have the image's owners
//! layers/sha256-HEX.held       who has the first form mounted
//! layers/erofs                 the kernel that was seen to mount the first form
//! ```
//! One strict reader ([`tar`]) and one tree in memory ([`tree`]) serve both forms; an image's paths are resolved there.

mod compare;
mod directory;
mod erofs;
pub(crate) mod fuzzing;
mod header;
mod ids;
pub(crate) mod mount;
mod pax;
pub(crate) mod share;
mod source;
mod tar;
mod tree;
mod verify;
mod writers;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

pub(crate) use self::directory::Owner;
use self::directory::Unpacker;
use self::ids::Ids;
use self::source::{Hash, Source};
use self::tar::TarReader;
pub(crate) use self::tree::{Body, ROOT, Tree, keeps_xattr};
pub(crate) use self::verify::Verdict;
use crate::dir::{Staging, StoreDir};
use crate::error::at;
use crate::{Ctx, Error, Result};

/// Budgets against hostile layers; every one has a default that real images stay far below.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of one layer. While a layer is taken in, each takes about 200 bytes of memory besides its name and attributes; all else that
    /// an import holds in memory (some 20 MB) does not grow with the layer.
    pub entries: u64,
    /// Uncompressed bytes of one layer.
    pub bytes: u64,
    /// Uncompressed bytes per compressed byte, counted after the first MiB.
    pub ratio: u64,
    /// Bytes of a path or link target.
    pub path: u64,
    /// Bytes of one entry's extended attributes.
    pub xattrs: u64,
    /// Bytes of one entry's PAX or GNU records.
    pub pax: u64,
}

const DEFAULT: Limits = Limits {
    entries: 4 << 20,
    bytes: 256 << 30,
    ratio: 2_000,
    path: 16 << 10,
    xattrs: 256 << 10,
    pax: 1 << 20,
};

impl Default for Limits {
    fn default() -> Self {
        DEFAULT
    }
}

/// What was in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// Tar entries.
    pub(crate) entries: u64,
    /// Bytes of the uncompressed tar, padding included.
    pub(crate) bytes: u64,
    /// Bytes that its files hold; `None` where only the stream was looked at.
    #[serde(skip)]
    pub(crate) content: Option<u64>,
}

/// All layers of a store, by whichever driver (EROFS file or directory).
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    dir: StoreDir,
    ids: Ids,
    /// Whether the kernel and our rights let us mount EROFS files: tried once, when first asked.
    erofs: Arc<OnceLock<bool>>,
}

/// A layer as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Erofs(PathBuf),
    Directory(PathBuf),
}

/// What the first bytes of an EROFS layer say, in the part that EROFS leaves free.
const MARK: &[u8; 16] = b"longshore layer\n";
/// Where, behind the mark and the record's place, the hash of all that is not the tar lies.
const SEAL: usize = 32;
/// Ends the name of a directory layer whose files belong to a range of ids.
const IDS: &str = ".ids";
/// Names the kernel that mounts EROFS files.
const PROOF: &str = "layers/erofs";
/// More than a record can need.
const RECORD_MOST: u64 = 16 << 20;

impl Layers {
    /// Makes its directories below the store's if they are not there.
    pub(crate) fn open(dir: &StoreDir) -> Result<Self> {
        dir.create_dir_all(&dir.join("layers"))?;
        Ok(Self { dir: dir.clone(), ids: Ids::own(), erofs: Arc::default() })
    }

    /// Whose files directory layers and snapshots are.
    pub(crate) fn owner(&self) -> Owner {
        self.ids.owner
    }

    pub(crate) fn contains(&self, diff_id: &Digest) -> bool {
        self.find(diff_id).is_some()
    }

    /// Whether it is here in any form, be it one that only another process can mount.
    pub(crate) fn exists(&self, diff_id: &Digest) -> bool {
        self.forms(diff_id).iter().any(|(_, mark)| mark.exists())
    }

    /// Where the layer is, in a form that can be mounted here.
    pub(crate) fn find(&self, diff_id: &Digest) -> Option<Form> {
        self.find_for(diff_id, self.owner())
    }

    /// The same for a snapshot of this owner.
    pub(crate) fn find_for(&self, diff_id: &Digest, owner: Owner) -> Option<Form> {
        let file = self.path(diff_id, ".erofs");
        let directory = self.path(diff_id, suffix(owner));
        let unpacked =
            || directory.join("layer.json").exists().then(|| Form::Directory(directory.join("fs")));
        // Another process may have opened the store for the other driver: what it has made serves as well.
        let other = if self.dir.options().directories { unpacked() } else { None };
        other
            .or_else(|| (file.exists() && self.mounts_erofs()).then_some(Form::Erofs(file)))
            .or_else(unpacked)
    }

    /// What is known about a layer that is there.
    pub(crate) fn record(&self, diff_id: &Digest) -> Result<Record> {
        match self.find(diff_id) {
            None => Err(Error::NoSuchLayer { diff_id: diff_id.clone() }),
            Some(Form::Erofs(path)) => {
                let file = File::open(&path).map_err(at("open", &path))?;
                read_mark(&file, &path)
            }
            Some(Form::Directory(root)) => {
                let path = root.with_file_name("layer.json");
                let text = fs::read(&path).map_err(at("read", &path))?;
                serde_json::from_slice(&text).map_err(|e| Error::invalid(path.display().to_string(), &e))
            }
        }
    }

    /// Reads the uncompressed tar to its end of file, and publishes the layer if its digest is `diff_id`.
    /// Single flight per diff ID across threads and processes; one that is there already is read and verified no less.
    /// An error of `tar` ends it; the caller knows the real reason.
    pub(crate) fn unpack(
        &self,
        diff_id: &Digest,
        tar: &mut dyn Read,
        limits: &Limits,
        ctx: Ctx<'_>,
    ) -> Result<Unpacked> {
        let _single = self.lock(diff_id)?;
        if self.contains(diff_id) {
            let (found, unpacked) = check(Hash::like(Some(diff_id))?, tar, limits, ctx)?;
            expect(diff_id, found)?;
            return Ok(unpacked);
        }
        let draft = self.draft(Hash::like(Some(diff_id))?, tar, limits, ctx)?;
        expect(diff_id, draft.diff_id.clone())?;
        self.publish(&draft)?;
        Ok(draft.unpacked)
    }

    /// The same where the diff ID (SHA-256) is not known beforehand.
    pub(crate) fn ingest(
        &self,
        tar: &mut dyn Read,
        limits: &Limits,
        ctx: Ctx<'_>,
    ) -> Result<(Digest, Unpacked)> {
        let draft = self.draft(Hash::like(None)?, tar, limits, ctx)?;
        let _single = self.lock(&draft.diff_id)?;
        if !self.contains(&draft.diff_id) {
            self.publish(&draft)?;
        }
        Ok((draft.diff_id, draft.unpacked))
    }

    /// The very bytes of the tar where the driver keeps them; `None` for directories.
    pub(crate) fn open_tar(&self, diff_id: &Digest) -> Result<Option<Box<dyn Read + Send>>> {
        let path = self.path(diff_id, ".erofs");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at("open", &path)(e)),
        };
        let record = read_mark(&file, &path)?;
        file.seek(SeekFrom::Start(erofs::HEAD)).map_err(at("seek", &path))?;
        Ok(Some(Box::new(file.take(record.unpacked.bytes))))
    }

    /// What a tar describes, without its content.
    pub(crate) fn read_tree(&self, tar: &mut dyn Read, limits: &Limits, ctx: Ctx<'_>) -> Result<Tree> {
        let mut source = Source::new(tar, Hash::like(None)?, None, limits, ctx);
        let mut reader = TarReader::new(&mut source, limits);
        let mut tree = Tree::new(limits);
        while let Some(entry) = reader.next()? {
            place(&mut tree, entry)?;
        }
        Ok(tree)
    }

    /// Takes it out of sight at once; `false` when it was not there.
    pub(crate) fn remove(&self, diff_id: &Digest) -> Result<bool> {
        let _single = self.lock(diff_id)?;
        let _ = fs::remove_file(self.path(diff_id, share::HELD));
        let mut removed = false;
        for (path, mark) in self.forms(diff_id) {
            if path.exists() {
                self.dir.discard(&path, &mark)?;
                removed = true;
            }
        }
        Ok(removed)
    }

    pub(crate) fn list(&self) -> Result<Vec<Digest>> {
        let layers = self.dir.join("layers");
        let mut found = Vec::new();
        for entry in fs::read_dir(&layers).map_err(at("read", &layers))? {
            let name = entry.map_err(at("read", &layers))?.file_name();
            let name = name.to_string_lossy();
            let name = name.strip_suffix(".erofs").or(name.strip_suffix(IDS)).unwrap_or(&name);
            // What is not a layer is not ours.
            found.extend(
                name.split_once('-').and_then(|(alg, hex)| format!("{alg}:{hex}").parse::<Digest>().ok()),
            );
        }
        found.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        found.dedup();
        Ok(found)
    }

    /// Bytes on disk, of all forms together.
    pub(crate) fn usage(&self, diff_id: &Digest) -> Result<u64> {
        let mut bytes = None;
        for (path, _) in self.forms(diff_id) {
            if path.exists() {
                *bytes.get_or_insert(0) += crate::snapshot::usage_of(&path)?.0;
            }
        }
        bytes.ok_or_else(|| Error::NoSuchLayer { diff_id: diff_id.clone() })
    }

    /// Where each form of a layer would lie, and the file by which it is known to be whole.
    fn forms(&self, diff_id: &Digest) -> [(PathBuf, PathBuf); 3] {
        let file = self.path(diff_id, ".erofs");
        let directory = |suffix| {
            let path = self.path(diff_id, suffix);
            let mark = path.join("layer.json");
            (path, mark)
        };
        [(file.clone(), file), directory(""), directory(IDS)]
    }

    fn path(&self, diff_id: &Digest, suffix: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{}-{}{suffix}", diff_id.algorithm(), diff_id.digest()))
    }

    fn lock(&self, diff_id: &Digest) -> Result<crate::dir::Lock> {
        self.dir.lock(&format!("layer-{}-{}", diff_id.algorithm(), diff_id.digest()))
    }

    /// Held by who reads directories of an ordinary user: what denies its owner access is opened up for that long, and nobody else should
    /// see it so, nor close it too early.
    pub(crate) fn alone(&self, layers: &[Digest], owner: Owner) -> Result<Vec<crate::dir::Lock>> {
        if owner != Owner::User {
            return Ok(Vec::new());
        }
        // In one order for all, lest two wait for each other.
        let mut sorted: Vec<&Digest> = layers.iter().collect();
        sorted.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        sorted.dedup();
        sorted.into_iter().map(|diff_id| self.lock(diff_id)).collect()
    }

    /// Whether the kernel mounts such layers, tried once for each kernel: the trial's unmounting takes milliseconds, more than the
    /// start of a container does without it.
    fn mounts_erofs(&self) -> bool {
        self.owner() == Owner::Root && *self.erofs.get_or_init(|| self.proven() || self.prove())
    }

    fn proven(&self) -> bool {
        fs::read(self.dir.join(PROOF)).is_ok_and(|kernel| kernel == this_kernel())
    }

    fn prove(&self) -> bool {
        let proven = self.try_erofs().is_ok();
        if proven {
            // Without the note, as on a full disk, the next process tries again.
            let _ = fs::write(self.dir.join(PROOF), this_kernel());
        }
        proven
    }

    /// Mounts an empty layer under overlay, as a snapshot will.
    fn try_erofs(&self) -> Result<()> {
        let staging = self.dir.staging("probe")?;
        let path = staging.path().join("empty.erofs");
        let file = create(&path)?;
        let tree = Tree::new(&Limits::default());
        erofs::finish(&file, &path, &tree, 0, &Hash::like(None)?.finish(), u64::MAX / 4)?;
        let layer = mount::erofs(&path)?;
        mount::overlay(&[layer], Some(staging.path()), self.owner()).map(drop)
    }

    fn draft(&self, hash: Hash, tar: &mut dyn Read, limits: &Limits, ctx: Ctx<'_>) -> Result<Draft> {
        let staging = self.dir.staging("layer")?;
        if !self.dir.options().directories && self.mounts_erofs() {
            self.draft_erofs(staging, hash, tar, limits, ctx)
        } else {
            self.draft_directory(staging, hash, tar, limits, ctx)
        }
    }

    fn draft_erofs(
        &self,
        staging: Staging,
        hash: Hash,
        tar: &mut dyn Read,
        limits: &Limits,
        ctx: Ctx<'_>,
    ) -> Result<Draft> {
        let path = staging.path().join("layer.erofs");
        self.dir.step("write", &path)?;
        let file = create(&path)?;
        (&file).seek(SeekFrom::Start(erofs::HEAD)).map_err(at("seek", &path))?;
        let mut source = Source::new(tar, hash, Some((&file, &path)), limits, ctx);
        let mut reader = TarReader::new(&mut source, limits);
        let mut tree = Tree::new(limits);
        while let Some(entry) = reader.next()? {
            place(&mut tree, entry)?;
        }
        let unpacked =
            Unpacked { entries: reader.entries(), bytes: source.position(), content: Some(tree.content()) };
        let diff_id = source.finish();
        self.dir.step("write", &path)?;
        erofs::finish(&file, &path, &tree, unpacked.bytes, &diff_id, limits.bytes)?;
        write_mark(&file, &path, &Record::new(unpacked, 0, &tree))?;
        let seal = compare::seal(&file, unpacked.bytes).map_err(at("read", &path))?;
        file.write_all_at(&seal, SEAL as u64).map_err(at("write", &path))?;
        self.dir.sync_file(&file, &path)?;
        Ok(Draft { staging, file: path, suffix: ".erofs", diff_id, unpacked })
    }

    fn draft_directory(
        &self,
        staging: Staging,
        hash: Hash,
        tar: &mut dyn Read,
        limits: &Limits,
        ctx: Ctx<'_>,
    ) -> Result<Draft> {
        let layer = staging.path().join("layer");
        let root = layer.join("fs");
        self.dir.create_dir_all(&root)?;
        let mut source = Source::new(tar, hash, None, limits, ctx);
        let mut reader = TarReader::new(&mut source, limits);
        let mut tree = Tree::new(limits);
        let mut unpacker = Unpacker::new(&root, self.owner(), ctx)?;
        while let Some(entry) = reader.next()? {
            self.ids.check(&entry)?;
            let placed = place(&mut tree, entry)?;
            unpacker.make(&tree, &placed, &mut reader)?;
        }
        unpacker.finish(&tree)?;
        let unpacked =
            Unpacked { entries: reader.entries(), bytes: source.position(), content: Some(tree.content()) };
        let diff_id = source.finish();
        let record = Record::new(unpacked, unpacker.skipped(), &tree);
        let json = layer.join("layer.json");
        self.dir.step("write", &json)?;
        let text = serde_json::to_vec(&record).expect("numbers become JSON");
        fs::write(&json, text).map_err(at("write", &json))?;
        self.dir.sync_fs(&layer)?;
        Ok(Draft { staging, file: layer, suffix: suffix(self.owner()), diff_id, unpacked })
    }

    fn publish(&self, draft: &Draft) -> Result<()> {
        debug_assert!(draft.file.starts_with(draft.staging.path()), "a draft lies in its staging directory");
        let path = self.path(&draft.diff_id, draft.suffix);
        if path.is_dir() {
            // What a kill left of one that was being removed from a full disk.
            self.dir.discard(&path, &path.join("layer.json"))?;
        }
        self.dir.publish(&draft.file, &path)
    }
}

/// A layer that is complete but not yet visible.
struct Draft {
    staging: Staging,
    file: PathBuf,
    suffix: &'static str,
    diff_id: Digest,
    unpacked: Unpacked,
}

/// What is known about a layer: `layer.json` of a directory, the first bytes of an EROFS file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    unpacked: Unpacked,
    /// Entries that an ordinary user could not make.
    #[serde(default)]
    skipped: u64,
    /// Owner and mode of the root directory, if the layer says anything about it.
    pub(crate) root: Option<RootMeta>,
    /// Directories that the layer has but says nothing about, as far as that is worth a record.
    #[serde(default)]
    pub(crate) implied: Vec<String>,
}

/// Owner and mode of a root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootMeta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Record {
    fn new(unpacked: Unpacked, skipped: u64, tree: &Tree) -> Self {
        let meta = tree.node(tree::ROOT).meta;
        let told = tree.dir(tree::ROOT).is_some_and(|dir| !dir.implied);
        let root = told.then_some(RootMeta { mode: meta.mode, uid: meta.uid, gid: meta.gid });
        Self { unpacked, skipped, root, implied: tree.implied() }
    }
}

fn place(tree: &mut Tree, entry: tar::Entry) -> Result<tree::Placed> {
    // Kept for the message: placing consumes the entry.
    let name = entry.name.clone();
    tree.place(entry).map_err(|reason| tar::entry_error(&name, reason))
}

fn create(path: &Path) -> Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(at("create", path))
}

fn expect(expected: &Digest, found: Digest) -> Result<()> {
    if *expected == found { Ok(()) } else { Err(Error::DigestMismatch { expected: expected.clone(), found }) }
}

/// Reads a tar as strictly as for unpacking, and keeps nothing.
fn check(hash: Hash, tar: &mut dyn Read, limits: &Limits, ctx: Ctx<'_>) -> Result<(Digest, Unpacked)> {
    let mut source = Source::new(tar, hash, None, limits, ctx);
    let mut reader = TarReader::new(&mut source, limits);
    while reader.next()?.is_some() {}
    let unpacked = Unpacked { entries: reader.entries(), bytes: source.position(), content: None };
    Ok((source.finish(), unpacked))
}

/// EROFS leaves the first 1024 bytes free, and does not mind what follows its last block.
fn write_mark(file: &File, path: &Path, record: &Record) -> Result<()> {
    let json = serde_json::to_vec(record).expect("numbers and strings become JSON");
    let write = || -> io::Result<()> {
        let end = file.metadata()?.len();
        file.write_all_at(&json, end)?;
        let place = [end.to_le_bytes(), (json.len() as u64).to_le_bytes()].concat();
        file.write_all_at(&[&MARK[..], &place].concat(), 0)
    };
    write().map_err(at("write", path))
}

fn read_mark(file: &File, path: &Path) -> Result<Record> {
    let mut mark = [0; 32];
    file.read_exact_at(&mut mark, 0).map_err(at("read", path))?;
    let number = |at: usize| u64::from_le_bytes(mark[at..at + 8].try_into().expect("8 bytes"));
    let (place, length) = (number(16), number(24));
    if mark[..16] != *MARK || length > RECORD_MOST {
        return Err(Error::invalid(path.display().to_string(), &"not a layer of ours"));
    }
    let mut json = vec![0; length as usize];
    file.read_exact_at(&mut json, place).map_err(at("read", path))?;
    serde_json::from_slice(&json).map_err(|e| Error::invalid(path.display().to_string(), &e))
}

/// How the name of a directory layer of this owner ends.
fn suffix(owner: Owner) -> &'static str {
    if owner == Owner::Range { IDS } else { "" }
}

fn this_kernel() -> Vec<u8> {
    let kernel = rustix::system::uname();
    [kernel.release().to_bytes(), b" ", kernel.version().to_bytes(), b"\n"].concat()
}
