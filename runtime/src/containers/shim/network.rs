//! `network connect` and `disconnect`: a running container's networks change. The record on disk has changed already; ours follows.

use std::fs::File;
use std::os::fd::AsFd;

use super::supervise::Shim;
use crate::containers::{Error, NetworkRequest, Result, files};

impl Shim<'_> {
    pub(super) fn connect(&mut self, wanted: NetworkRequest, lives: bool) -> Result<()> {
        if lives {
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
            self.state.networks.retain(|attached| attached.network != network);
            self.networks_changed()?;
        }
        self.record.disconnect(network);
        Ok(())
    }

    /// Ours as long as its process, which is our child, is not reaped.
    fn netns(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.state.shown.pid);
        File::open(&path).map_err(Error::io("open", &path))
    }

    fn networks_changed(&mut self) -> Result<()> {
        let (inner, id) = (&self.all.0, &self.record.id);
        files::write_all(&inner.dir.path(id), &self.record, &self.state.networks, &inner.options)?;
        self.save(false)
    }
}
