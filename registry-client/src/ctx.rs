use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use oci_spec::image::Digest;

use crate::transport::TransportErrorKind;
use crate::{Error, Result};

static NEVER: AtomicBool = AtomicBool::new(false);

/// Longer than anything lasts, and short enough to be added to the time.
pub(crate) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The time when that much has passed, of which a caller may have said the most there is.
pub(crate) fn in_time(duration: Duration) -> Instant {
    Instant::now() + duration.min(FOREVER)
}

/// How often a blocked call looks at its cancel flag.
pub(crate) const CANCEL_POLL: Duration = Duration::from_millis(50);

/// What every long call takes.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// Called from worker threads, often; must be quick.
    pub progress: &'a (dyn Fn(Event<'_>) + Sync),
    /// Once true, the call ends soon in [`Error::Cancelled`], also while it waits for the network.
    pub cancel: &'a AtomicBool,
}

impl Ctx<'_> {
    /// No progress, never cancelled.
    pub const fn none() -> Ctx<'static> {
        Ctx { progress: &|_| {}, cancel: &NEVER }
    }

    pub(crate) fn report(&self, event: Event<'_>) {
        (self.progress)(event);
    }
}

impl fmt::Debug for Ctx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

/// What happened to one blob.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A transfer began.
    Started {
        /// The blob.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Bytes have moved.
    Bytes {
        /// The blob.
        digest: &'a Digest,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The connection broke and the transfer goes on from `offset`; less than was reported before where an upload starts again.
    Resumed {
        /// The blob.
        digest: &'a Digest,
        /// Where it goes on, in bytes.
        offset: u64,
    },
    /// The other side already has it.
    Exists {
        /// The blob.
        digest: &'a Digest,
    },
    /// Mounted from another repository.
    Mounted {
        /// The blob.
        digest: &'a Digest,
        /// The repository, without its registry.
        from: &'a str,
    },
    /// Left out: a foreign (non-distributable) layer.
    Skipped {
        /// The blob.
        digest: &'a Digest,
    },
    /// Complete and verified.
    Done {
        /// The blob.
        digest: &'a Digest,
    },
}

/// Ends calls that have no [`Ctx`], such as reads from a [`Source`](crate::Source). Clones share the flag, and a child ends with its parent.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    flag: AtomicBool,
    deadline: Option<Instant>,
    parent: Option<CancelToken>,
}

impl CancelToken {
    /// A token of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that ends with this one, or earlier by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Node { parent: Some(self.clone()), ..Node::default() }))
    }

    /// A token that ends with this one, and by itself at that time: what uses it then ends in [`Error::Deadline`].
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self(Arc::new(Node { deadline: Some(deadline), parent: Some(self.clone()), ..Node::default() }))
    }

    /// Ends everything that uses this token within a tenth of a second, also while it waits for the network.
    pub fn cancel(&self) {
        self.0.flag.store(true, Ordering::Relaxed);
    }

    /// Whether it was raised, or its deadline has passed.
    pub fn is_cancelled(&self) -> bool {
        self.ended().is_some()
    }

    /// Why it ended, if it did: raised before out of time.
    pub(crate) fn ended(&self) -> Option<TransportErrorKind> {
        let mut late = false;
        let mut next = Some(self);
        while let Some(Self(node)) = next {
            if node.flag.load(Ordering::Relaxed) {
                return Some(TransportErrorKind::Cancelled);
            }
            late |= node.deadline.is_some_and(|at| at <= Instant::now());
            next = node.parent.as_ref();
        }
        late.then_some(TransportErrorKind::Expired)
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(TransportErrorKind::Expired) => Err(Error::Deadline),
            Some(_) => Err(Error::Cancelled),
        }
    }

    /// Runs what cannot be interrupted on a thread of its own, which is left to its fate when this token ends. `None` if it panicked.
    pub(crate) fn aside<T: Send + 'static>(
        &self,
        name: &str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        let (tx, rx) = sync_channel(1);
        let spawned = std::thread::Builder::new().name(name.into()).spawn(move || tx.send(job()));
        spawned.map_err(|e| Error::Unread { source: e.into() })?;
        loop {
            self.check()?;
            match rx.recv_timeout(CANCEL_POLL) {
                Ok(done) => return Ok(Some(done)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Sleeps unless and until cancelled.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<()> {
        let until = in_time(duration);
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(CANCEL_POLL));
        }
    }
}
