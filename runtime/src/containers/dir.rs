//! The directory of all containers: `<id>/{config.json,state.json,op,alive,...}` and `names/<name>`.
//!
//! Locks are `flock`s, so they die with their holder: `lock` guards names, `<id>/op` one container's changes, and `<id>/alive` is held by its
//! shim for as long as that lives.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::record::{Record, State, VERSION};
use super::{Error, Result};

/// Bytes set aside per started container: a file system's block, and more than a state without health checks' outputs.
const RESERVE: usize = 4096;

/// The program behind `--init`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init.elf"));

/// Largest record that is read.
const RECORD_MAX: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct Dir {
    root: PathBuf,
}

/// A held lock.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Dir {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let names = root.join("names");
        private_dir(&names).map_err(Error::io("create", &names))?;
        Ok(Self { root })
    }
    /// A container's directory. `id` is one that [`Self::resolve`] or [`Self::ids`] gave.
    pub(super) fn path(&self, id: &str) -> PathBuf {
        debug_assert!(is_id(id));
        self.root.join(id)
    }
    pub(super) fn file(&self, id: &str, name: &str) -> PathBuf {
        self.root.join(id).join(name)
    }

    /// The file that is mounted into containers with `--init`, made or brought up to date where it is `wanted`.
    pub(super) fn init_program(&self, wanted: bool) -> Result<PathBuf> {
        let path = self.root.join("init");
        if wanted && fs::read(&path).ok().as_deref() != Some(INIT) {
            let fresh = self.root.join(format!(".init-{}", new_id()?));
            let make = || {
                fs::write(&fresh, INIT)?;
                fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o555))?;
                fs::rename(&fresh, &path)
            };
            make().map_err(Error::io("make", &path))?;
        }
        Ok(path)
    }

    /// IDs of all containers, in no order.
    pub(super) fn ids(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.root).map_err(Error::io("read", &self.root))?;
        Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| is_id(n)).collect())
    }

    /// The ID behind an ID, a name, or a unique beginning of an ID, in Docker's order.
    pub(super) fn resolve(&self, key: &str) -> Result<String> {
        if is_id(key) && self.path(key).is_dir() {
            return Ok(key.into());
        }
        if let Some(id) = self.by_name(key.strip_prefix('/').unwrap_or(key))? {
            return Ok(id);
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if key.is_empty() || key.len() > 64 || !key.bytes().all(hex) {
            return Err(Error::NotFound(key.into()));
        }
        let mut found = self.ids()?.into_iter().filter(|id| id.starts_with(key));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(Error::NotFound(key.into())),
            _ => Err(Error::Ambiguous(key.into())),
        }
    }

    /// Who has a name. An entry left by a crash, whose container is gone or has another name, counts for nothing.
    pub(super) fn by_name(&self, name: &str) -> Result<Option<String>> {
        if super::names::check(name).is_err() {
            return Ok(None);
        }
        // A symbolic link that points nowhere: its text is the ID, it is made in one step and needs no data block.
        let path = self.root.join("names").join(name);
        let id = match fs::read_link(&path) {
            Ok(id) => id.to_string_lossy().into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        if !is_id(&id) {
            return Ok(None);
        }
        match self.record(&id) {
            Ok(record) if record.name == name => Ok(Some(id)),
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a container's directory under a name that is not taken, complete or not at all.
    pub(super) fn publish(&self, record: &Record) -> Result<()> {
        let temporary = self.root.join(format!(".new-{}", record.id));
        private_dir(&temporary).map_err(Error::io("create", &temporary))?;
        let result = (|| {
            // As long as it is held, the directory is nobody's to sweep away.
            let held = File::open(&temporary).and_then(|held| held.lock().map(|()| held));
            let _held = held.map_err(Error::io("lock", &temporary))?;
            // What removes itself at its end need not outlive the machine's.
            let durable = !record.host.auto_remove;
            write(&temporary.join("config.json"), &to_json(record)?, durable)?;
            write(&temporary.join("state.json"), &to_json(&State::created())?, false)?;
            let _names = self.lock()?;
            self.claim(&record.name, &record.id)?;
            let path = self.path(&record.id);
            fs::rename(&temporary, &path).map_err(Error::io("create", &path))?;
            if durable { sync_dir(&self.root) } else { Ok(()) }
        })();
        if result.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        result
    }

    /// Takes a name; the caller holds [`Self::lock`].
    fn claim(&self, name: &str, id: &str) -> Result<()> {
        if let Some(holder) = self.by_name(name)? {
            return Err(Error::NameInUse { name: name.into(), id: holder });
        }
        let path = self.root.join("names").join(name);
        fs::remove_file(&path).or_else(missing_ok).map_err(Error::io("replace", &path))?;
        std::os::unix::fs::symlink(id, &path).map_err(Error::io("create", &path))
    }

    pub(super) fn rename(&self, record: &mut Record, name: &str) -> Result<()> {
        let _names = self.lock()?;
        self.claim(name, &record.id)?;
        let old = std::mem::replace(&mut record.name, name.into());
        record.network.name = name.into();
        self.write_record(record)?;
        let _ = fs::remove_file(self.root.join("names").join(old));
        Ok(())
    }

    /// Removes a container's directory: it is out of sight at once, and gone for good even if this process dies half-way.
    pub(super) fn unpublish(&self, id: &str, name: Option<&str>) -> Result<()> {
        let _names = self.lock()?;
        let (path, doomed) = (self.path(id), self.root.join(format!(".old-{id}")));
        match fs::rename(&path, &doomed) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", &path)(e)),
        }
        if let Some(name) = name {
            let entry = self.root.join("names").join(name);
            if fs::read_link(&entry).is_ok_and(|holder| holder.as_os_str() == id) {
                let _ = fs::remove_file(entry);
            }
        }
        fs::remove_dir_all(&doomed).or_else(missing_ok).map_err(Error::io("remove", &doomed))
    }

    /// Removes what crashed creations, removals and renames left. Cheap: one directory listing when there is nothing.
    pub(super) fn sweep(&self) -> Result<()> {
        let _names = self.lock()?;
        for entry in fs::read_dir(&self.root).map_err(Error::io("read", &self.root))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Its creator was killed; one that has just made it is about to lock it.
            let stale = || {
                let file = File::open(entry.path()).ok()?;
                file.try_lock().ok()?;
                let age = file.metadata().and_then(|m| m.modified()).ok()?.elapsed().ok()?;
                (age.as_secs() >= 2).then_some(())
            };
            if name.starts_with(".old-") || (name.starts_with(".new-") && stale().is_some()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for id in self.ids()? {
            // Power was lost between the record and its name: the record counts.
            if let Ok(record) = self.record(&id)
                && matches!(self.by_name(&record.name), Ok(None))
            {
                self.claim(&record.name, &id)?;
            }
        }
        for entry in fs::read_dir(self.root.join("names")).map_err(Error::io("read", &self.root))?.flatten() {
            if let Some(name) = entry.file_name().to_str()
                && matches!(self.by_name(name), Ok(None))
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    pub(super) fn record(&self, id: &str) -> Result<Record> {
        let record: Record = self.read(id, "config.json")?;
        if record.version != VERSION || record.id != id {
            let path = self.file(id, "config.json");
            return Err(Error::Record {
                path,
                source: format!("version {} of {}", record.version, record.id).into(),
            });
        }
        Ok(record)
    }
    pub(super) fn state(&self, id: &str) -> Result<State> {
        self.read(id, "state.json")
    }
    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        write(&self.file(&record.id, "config.json"), &to_json(record)?, true)
    }
    pub(super) fn write_state(&self, id: &str, state: &State, durable: bool) -> Result<()> {
        write(&self.file(id, "state.json"), &to_json(state)?, durable)
    }
    /// Sets blocks aside for [`Self::write_last_state`].
    pub(super) fn reserve(&self, id: &str) -> Result<()> {
        let path = self.file(id, "reserve");
        if fs::metadata(&path).is_ok_and(|m| m.len() >= RESERVE as u64) {
            return Ok(());
        }
        fs::write(&path, [b' '; RESERVE]).map_err(Error::io("write", &path))
    }

    /// [`Self::write_state`] that also finds room on a full disk: the state goes into the file that was set aside, and the two files change
    /// names, so that a reader or a crash sees the old state or the new one.
    pub(super) fn write_last_state(&self, id: &str, state: &State, durable: bool) -> Result<()> {
        let Err(full) = self.write_state(id, state, durable) else { return Ok(()) };
        let (path, reserve) = (self.file(id, "state.json"), self.file(id, "reserve"));
        let mut text = to_json(state)?;
        if text.len() > RESERVE {
            // The outputs of health checks are what makes a state large.
            let mut short = state.clone();
            short.shown.health.iter_mut().for_each(|health| health.log.clear());
            text = to_json(&short)?;
        }
        text.resize(text.len().max(RESERVE), b' ');
        let exchange = || {
            let mut file = File::options().write(true).open(&reserve)?;
            file.write_all(&text)?;
            file.sync_all()?;
            let cwd = rustix::fs::CWD;
            rustix::fs::renameat_with(cwd, &reserve, cwd, &path, rustix::fs::RenameFlags::EXCHANGE)?;
            File::open(self.path(id))?.sync_all()
        };
        exchange().map_err(|_: io::Error| full)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, id: &str, name: &str) -> Result<T> {
        let path = self.file(id, name);
        let mut text = Vec::new();
        match File::open(&path).and_then(|f| f.take(RECORD_MAX).read_to_end(&mut text)) {
            Ok(_) => serde_json::from_slice(&text).map_err(|e| Error::Record { path, source: Box::new(e) }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(id.into())),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// The lock over names.
    fn lock(&self) -> Result<Lock> {
        lock_file(&self.root.join("lock"))
    }
    /// The lock over one container's changes.
    pub(super) fn op_lock(&self, id: &str) -> Result<Lock> {
        let path = self.file(id, "op");
        match lock_file(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound(id.into()))
            }
            // It may have been removed while we waited.
            Ok(_) if !path.exists() => Err(Error::NotFound(id.into())),
            other => other,
        }
    }
    /// The shim's own lock, held for its life. Others hold it only for the moment in which they look.
    pub(super) fn alive_lock(&self, id: &str) -> Result<Lock> {
        for _ in 0..200 {
            if let Some(lock) = self.try_alive(id)? {
                return Ok(lock);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(Error::Conflict(format!("container {id} already has a supervisor")))
    }
    /// The lock over one container's changes, if nobody has it.
    pub(super) fn try_op(&self, id: &str) -> Result<Option<Lock>> {
        self.try_lock(id, "op")
    }
    /// The shim's lock, if no shim lives.
    pub(super) fn try_alive(&self, id: &str) -> Result<Option<Lock>> {
        self.try_lock(id, "alive")
    }
    fn try_lock(&self, id: &str, name: &str) -> Result<Option<Lock>> {
        let path = self.file(id, name);
        let file = match open_lock(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(id.into())),
            file => file.map_err(Error::io("open", &path))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &path)(e)),
        }
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(Error::io("sync", path))
}

fn missing_ok(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// A lock on a directory itself, which needs no file in it.
pub(super) fn lock_dir(path: &Path, exclusive: bool) -> Result<Lock> {
    let dir = File::open(path).map_err(Error::io("open", path))?;
    if exclusive { dir.lock() } else { dir.lock_shared() }.map_err(Error::io("lock", path))?;
    Ok(Lock { _file: dir })
}

fn lock_file(path: &Path) -> Result<Lock> {
    let file = open_lock(path).map_err(Error::io("open", path))?;
    file.lock().map_err(Error::io("lock", path))?;
    Ok(Lock { _file: file })
}

/// Makes a directory and those above it, for its owner alone.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::Record { path: PathBuf::new(), source: Box::new(e) })
}

/// Replaces a file as a whole: a reader, or a crash, sees the old or the new one.
pub(super) fn write(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let fail = Error::io("write", path);
    let result = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable && let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(fail)
}

/// Random bytes of the kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(Error::io("read", "/dev/urandom"))?;
    Ok(bytes)
}

/// A new ID.
pub(super) fn new_id() -> Result<String> {
    loop {
        let id: String = random::<32>()?.iter().map(|b| format!("{b:02x}")).collect();
        // An ID whose beginning is all digits would be mistaken for a number where the short form is used as a host name.
        if !id[..12].bytes().all(|b| b.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without room for another file: the old state stays whole until the new one is in its place.
    #[test]
    fn the_last_state_replaces_the_old_one_as_a_whole() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open(temporary.path().into()).unwrap();
        let id = "a".repeat(64);
        private_dir(&dir.path(&id)).unwrap();
        dir.write_state(&id, &State::created(), false).unwrap();
        dir.reserve(&id).unwrap();
        let mut old = File::open(dir.file(&id, "state.json")).unwrap();
        let before = fs::read(dir.file(&id, "state.json")).unwrap();
        // Nothing can be made under the temporary file's name, as on a full disk.
        fs::create_dir(dir.file(&id, &format!("state.json.{}.tmp", std::process::id()))).unwrap();
        let mut ended = State::created();
        ended.set_ended("exited", 7, false, "x".repeat(100));
        assert!(dir.write_state(&id, &ended, false).is_err());
        dir.write_last_state(&id, &ended, true).unwrap();
        assert_eq!(dir.state(&id).unwrap(), ended);
        let mut seen = Vec::new();
        old.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, before);
        // And again, over what was the old one.
        ended.shown.exit_code = 8;
        dir.write_last_state(&id, &ended, true).unwrap();
        assert_eq!(dir.state(&id).unwrap(), ended);
    }
}
