//! `network connect` and `disconnect`: a running container's networks change. The record on disk has changed already; ours follows.

use std::fs::File;
use std::os::fd::AsFd;

use super::supervise::Shim;
use crate::containers::{Attached, Error, NetworkRequest, Port, Result, files};

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
        File::open(&path).map_err(Error::io("open", &path))
    }

    fn networks_changed(&mut self) -> Result<()> {
        let (inner, id) = (&self.all.0, &self.record.id);
        files::write_all(&inner.dir.path(id), &self.record, &self.state.networks, &inner.options)?;
        self.save(false)
    }
}
