//! Small files are made by threads of their own: most of a layer's time goes into the kernel's work on them, and it can be done beside
//! the reading, and by two at once as long as they do not meet in one directory.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{self as rfs, Mode, OFlags};

use super::directory::{Owner, describe_fd, lossy};
use super::tar::Meta;
use super::tree::{Id, Xattrs};
use crate::error::at;
use crate::{Error, Result};

/// Larger files are streamed instead.
pub(super) const SMALL: u64 = 64 << 10;
/// More gain little: directories and the journal are locked.
const THREADS: usize = 2;
/// What is handed over at once: waking a thread costs as much as making a file.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: usize = 256 << 10;
/// Batches that may wait for one thread.
const AHEAD: usize = 4;

/// An open directory.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    /// For messages.
    pub(super) path: PathBuf,
}

/// What the kernel gives a new file if nobody says otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Natural {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u32,
}

/// A regular file to be made.
pub(super) struct Job {
    pub(super) dir: Arc<Opened>,
    pub(super) name: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) xattrs: Option<Box<Xattrs>>,
}

/// Files that are handed over together.
#[derive(Default)]
struct Batch {
    /// Each with where its content ends in `bytes`; it begins where the one before ends.
    jobs: Vec<(Job, usize)>,
    bytes: Vec<u8>,
}

/// Threads that make files; they end when this is dropped.
pub(super) struct Writers {
    owner: Owner,
    natural: Natural,
    state: Arc<State>,
    /// What each thread is given next.
    batches: Vec<Batch>,
    queues: Vec<SyncSender<Batch>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    progress: Mutex<Progress>,
    idle: Condvar,
}

#[derive(Default)]
struct Progress {
    /// Batches handed over and not done.
    open: usize,
    /// Buffers of batches that are done: fresh memory costs more than copying into it.
    spare: Vec<Vec<u8>>,
    error: Option<Error>,
}

impl State {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writers {
    pub(super) fn new(owner: Owner, natural: Natural) -> Self {
        let (state, batches) = (Arc::default(), Vec::new());
        Self { owner, natural, state, batches, queues: Vec::new(), threads: Vec::new() }
    }

    /// Makes the file, soon, of what `content` appends. An error may come out at any later call.
    pub(super) fn file(
        &mut self,
        parent: Id,
        job: Job,
        content: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.start();
        if self.queues.is_empty() {
            let mut bytes = Vec::new();
            content(&mut bytes)?;
            return make(&job, &bytes, self.owner, self.natural);
        }
        let n = parent as usize % self.queues.len();
        let batch = &mut self.batches[n];
        content(&mut batch.bytes)?;
        batch.jobs.push((job, batch.bytes.len()));
        let full = batch.jobs.len() >= BATCH_FILES || batch.bytes.len() >= BATCH_BYTES;
        if full { self.hand_over(n) } else { Ok(()) }
    }

    /// Waits until all files are made.
    pub(super) fn wait(&mut self) -> Result<()> {
        for n in 0..self.queues.len() {
            self.hand_over(n)?;
        }
        let mut progress = self.state.progress();
        while progress.open > 0 {
            progress = self.state.idle.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.error.take().map_or(Ok(()), Err)
    }

    fn hand_over(&mut self, n: usize) -> Result<()> {
        if self.batches[n].jobs.is_empty() {
            return Ok(());
        }
        let bytes = {
            let mut progress = self.state.progress();
            if let Some(error) = progress.error.take() {
                return Err(error);
            }
            progress.open += 1;
            progress.spare.pop().unwrap_or_default()
        };
        let next = Batch { jobs: Vec::with_capacity(BATCH_FILES), bytes };
        self.queues[n]
            .send(std::mem::replace(&mut self.batches[n], next))
            .map_err(|_| Error::Stream { reason: "a writing thread ended early".to_owned() })
    }

    /// On first use; where no thread can be had, files are made by the caller.
    fn start(&mut self) {
        if !self.threads.is_empty() {
            return;
        }
        let wanted = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        for _ in self.queues.len()..wanted {
            let (tx, rx) = sync_channel(AHEAD);
            let (state, owner, natural) = (Arc::clone(&self.state), self.owner, self.natural);
            let thread = std::thread::Builder::new().name("longshore-write".to_owned());
            let Ok(thread) = thread.spawn(move || work(&rx, &state, owner, natural)) else { return };
            self.threads.push(thread);
            self.queues.push(tx);
            self.batches.push(Batch::default());
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            // Nobody may write any more when the directory is removed.
            let _ = thread.join();
        }
    }
}

fn work(queue: &Receiver<Batch>, state: &State, owner: Owner, natural: Natural) {
    for mut batch in queue {
        let failed = state.progress().error.is_some();
        let result = if failed { Ok(()) } else { batch.make(owner, natural) };
        batch.bytes.clear();
        let mut progress = state.progress();
        progress.open -= 1;
        progress.spare.push(batch.bytes);
        if let Err(error) = result {
            progress.error.get_or_insert(error);
        }
        if progress.open == 0 {
            state.idle.notify_one();
        }
    }
}

impl Batch {
    fn make(&self, owner: Owner, natural: Natural) -> Result<()> {
        let mut from = 0;
        self.jobs.iter().try_for_each(|(job, end)| {
            let content = &self.bytes[std::mem::replace(&mut from, *end)..*end];
            make(job, content, owner, natural)
        })
    }
}

fn make(job: &Job, content: &[u8], owner: Owner, natural: Natural) -> Result<()> {
    let failed = |op| {
        let path = || job.dir.path.join(lossy(&job.name));
        move |e: std::io::Error| at(op, path())(e)
    };
    let mode = u32::from(job.meta.mode) & 0o777;
    let mut file = create(&job.dir, &job.name, mode).map_err(|e| failed("create")(e.into()))?;
    file.write_all(content).map_err(failed("write"))?;
    describe_fd(&file, &job.meta, job.xattrs.as_deref(), owner, natural, Some(mode & !natural.umask))
        .map_err(|e| failed("describe")(e.into()))
}

/// A file that must not be there yet.
pub(super) fn create(dir: &Opened, name: &[u8], mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat(&dir.fd, name, flags, Mode::from_raw_mode(mode)).map(File::from)
}
