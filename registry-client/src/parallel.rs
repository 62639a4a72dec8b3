//! Threads of one call.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};

use crate::ctx::CANCEL_POLL;
use crate::endpoint::lock;
use crate::{CancelToken, Ctx, Error, Result};

/// Runs `job` with a token that is raised when the caller's flag is.
pub(crate) fn watched<T>(
    ctx: Ctx<'_>,
    parent: &CancelToken,
    job: impl FnOnce(&CancelToken) -> Result<T>,
) -> Result<T> {
    let token = parent.child();
    if ctx.cancel.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    std::thread::scope(|scope| {
        // Dropped when `job` is done, also by a panic: that ends the watcher.
        let (_done, watch) = channel::<()>();
        let token = &token;
        let watcher = move || {
            while watch.recv_timeout(CANCEL_POLL) == Err(RecvTimeoutError::Timeout) {
                if ctx.cancel.load(Ordering::Relaxed) {
                    token.cancel();
                }
            }
        };
        let spawned = std::thread::Builder::new().name("cancel".into()).spawn_scoped(scope, watcher);
        spawned.map_err(|e| Error::Unread { source: e.into() })?;
        job(token)
    })
}

/// Does `job` for each item on up to `threads` threads, in the order given. The first failure ends the others, and is returned.
pub(crate) fn for_each<T: Sync>(
    items: &[T],
    threads: usize,
    cancel: &CancelToken,
    job: impl Fn(&T, &CancelToken) -> Result<()> + Sync,
) -> Result<()> {
    let stop = cancel.child();
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = stop.check().and_then(|()| job(item, &stop));
            if let Err(e) = done {
                stop.cancel();
                // What was cancelled because of another's failure says nothing.
                let mut first = lock(&failure);
                if first.as_ref().is_none_or(|f| matches!(f, Error::Cancelled)) {
                    *first = Some(e);
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            // Where there can be no more of them, those that are there do it.
            if std::thread::Builder::new().name("blob".into()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let failure = lock(&failure).take();
    failure.map_or(Ok(()), Err)
}
