//! `network connect` and `disconnect`: containers come to networks, and leave them, whether they run or not.

use super::proto::Request;
use super::record::Record;
use super::{Containers, Error, NetworkRequest, Result};

impl Containers {
    /// Puts it on one more network: at once if it runs, and at each of its starts. Of the request count `mode`, which is the network's name,
    /// `aliases`, `ip` and `mac`.
    pub fn connect(&self, key: &str, wanted: &NetworkRequest) -> Result<()> {
        let network = wanted.mode.as_str();
        self.change_networks(key, network, "connect", |record, wanted_too| {
            if wanted_too {
                return Err(Error::Conflict(format!(
                    "endpoint with name {} already exists in network {network}",
                    record.name
                )));
            }
            let wanted = NetworkRequest {
                ports: Vec::new(),
                name: record.name.clone(),
                hostname: record.config.hostname.clone(),
                ..wanted.clone()
            };
            record.connect(wanted.clone());
            Ok(Request::Connect(wanted))
        })
    }

    /// Takes it off a network.
    pub fn disconnect(&self, key: &str, network: &str) -> Result<()> {
        self.change_networks(key, network, "disconnect", |record, there| {
            if !there {
                return Err(Error::Conflict(format!(
                    "container {} is not connected to network {network}",
                    record.id
                )));
            }
            record.disconnect(network);
            Ok(Request::Disconnect(network.to_owned()))
        })
    }

    /// `change` gets the record, and whether the container is on the network.
    fn change_networks(
        &self,
        key: &str,
        network: &str,
        action: &str,
        change: impl FnOnce(&mut Record, bool) -> Result<Request>,
    ) -> Result<()> {
        let id = self.id(key)?;
        self.load(&id)?;
        let _op = self.0.dir.op_lock(&id)?;
        let before = self.0.dir.record(&id)?;
        permit(&before, network, action)?;
        let mut record = before.clone();
        let there = record.networks().iter().any(|request| request.mode == network);
        let request = change(&mut record, there)?;
        // First on disk: whoever is killed in between has said what he wants, and the next start does it.
        self.0.dir.write_record(&record)?;
        let changed = if self.0.state(&id)?.is_live() { self.ask(&id, &request) } else { Ok(()) };
        match changed {
            // It has ended just now.
            Ok(()) | Err(Error::NotRunning(_)) => {}
            Err(Error::Shim(_)) if self.load_locked(&id).is_ok_and(|(_, state)| !state.is_live()) => {}
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.0.dir.write_record(&before);
                return Err(error);
            }
        }
        self.0.emit_network(action, network, &id);
        Ok(())
    }
}

/// In Docker's words.
fn permit(record: &Record, network: &str, action: &str) -> Result<()> {
    let no = |why: &str| Err(Error::Conflict(why.to_owned()));
    match (record.network.mode.as_str(), network) {
        ("host", "host") if action == "disconnect" => {
            no("container cannot be disconnected from host network or connected to host network")
        }
        ("host", _) => no(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (mode, _) if mode.starts_with("container:") => no(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (_, "host") => no("container cannot be disconnected from host network or connected to host network"),
        ("none", _) | (_, "none") if action == "connect" => no(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        _ => Ok(()),
    }
}
