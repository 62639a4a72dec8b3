//! A container's networks, at its start and, by `network connect` and `disconnect`, while it runs.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use rustix::io::Errno;

use super::supervise::Shim;
use crate::containers::record::Record;
use crate::containers::{Attached, Containers, Error, NetworkRequest, Port, Result, files, sys};

/// The networks' part of a start, which waits for the kernel more than it works, beside the rest: the network namespace is made here, and
/// the container joins it.
pub(super) struct Attaching<'scope> {
    netns: Receiver<Result<Option<Arc<OwnedFd>>>>,
    thread: ScopedJoinHandle<'scope, Result<Option<Vec<Attached>>>>,
}

impl<'scope> Attaching<'scope> {
    /// `None` if there is nothing to attach, or the network namespace has to be the container's own, as an ordinary user's.
    pub(super) fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        all: &'env Containers,
        record: &'env Record,
    ) -> Result<Option<Self>> {
        if record.networks().is_empty() || all.0.options.id_maps.is_some() {
            return Ok(None);
        }
        let (tell, netns) = channel();
        let thread = Builder::new().spawn_scoped(scope, move || {
            let made = sys::new_netns().map_err(Error::io("make", "a network namespace"));
            let made = made.map(|netns| netns.map(Arc::new));
            let ours = made.as_ref().ok().cloned().flatten();
            // A start that has failed by now no longer asks.
            let _ = tell.send(made);
            ours.map(|netns| attach(all, record, netns.as_fd())).transpose()
        });
        Ok(Some(Self { netns, thread: thread.map_err(Error::io("start", "a thread"))? }))
    }

    /// Waits for the network namespace; `None` where the caller may not make one. To be asked once.
    pub(super) fn netns(&self) -> Result<Option<Arc<OwnedFd>>> {
        self.netns.recv().unwrap_or(Ok(None))
    }

    /// Waits for the rest; `None` if there was no network namespace to attach.
    pub(super) fn end(self) -> Result<Option<Vec<Attached>>> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

pub(super) fn attach(all: &Containers, record: &Record, netns: BorrowedFd<'_>) -> Result<Vec<Attached>> {
    let attach = |request| {
        let attached = all.0.networks.attach(&record.id, netns, request);
        attached.map_err(|source| Error::Networks { doing: "set up", source })
    };
    record.networks().iter().map(attach).collect()
}

/// The record on disk has changed already; ours follows.
impl Shim<'_> {
    pub(super) fn connect(&mut self, wanted: NetworkRequest, lives: bool) -> Result<()> {
        if lives {
            // As on a start: the first network gets the ports.
            let mut wanted = wanted.clone();
            if self.state.networks.is_empty() {
                wanted.ports.clone_from(&self.record.network.ports);
            }
            let attached = self.all.0.networks.attach(&self.record.id, self.netns()?.as_fd(), &wanted);
            let attached = attached.map_err(|source| Error::Networks { doing: "set up", source })?;
            self.state.networks.push(attached);
            self.networks_changed()?;
        }
        self.record.connect(wanted);
        Ok(())
    }

    pub(super) fn disconnect(&mut self, network: &str, lives: bool) -> Result<()> {
        if lives {
            let left = self.all.0.networks.leave(&self.record.id, self.netns()?.as_fd(), network);
            left.map_err(|source| Error::Networks { doing: "take down", source })?;
            let of_it = |attached: &Attached| attached.network == network;
            let (left, rest) = std::mem::take(&mut self.state.networks).into_iter().partition(of_it);
            self.state.networks = rest;
            self.move_ports(left);
            self.networks_changed()?;
        }
        self.record.disconnect(network);
        Ok(())
    }

    /// Where the network with the published ports was left, the first of the others that can takes them over, as with Docker.
    /// It has left, whatever becomes of its ports: where somebody else was faster, `port` tells, and the next start says why.
    fn move_ports(&mut self, left: Vec<Attached>) {
        let ports: Vec<Port> = left.into_iter().flat_map(|attached| attached.ports).collect();
        for attached in self.state.networks.iter_mut().filter(|_| !ports.is_empty()) {
            let published = self.all.0.networks.publish(&self.record.id, &attached.network, &ports);
            attached.ports = published.unwrap_or_default();
            if !attached.ports.is_empty() {
                break;
            }
        }
    }

    /// Ours as long as its process, which is our child, is not reaped.
    fn netns(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.state.shown.pid);
        // It may have ended just now, and be no more than a number that is to be waited for.
        File::open(&path).map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::NOENT | Errno::SRCH) => Error::NotRunning(self.record.id.clone()),
            _ => Error::io("open", &path)(e),
        })
    }

    fn networks_changed(&mut self) -> Result<()> {
        let (inner, id) = (&self.all.0, &self.record.id);
        files::write_all(&inner.dir.path(id), &self.record, &self.state.networks, &inner.options)?;
        self.save(false)
    }
}
