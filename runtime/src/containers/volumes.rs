//! Named volumes: directories that outlive containers.

use std::path::Path;

use serde::Serialize;

use super::{Containers, Filters, Map, PruneOutcome, Result};

/// The volumes beside the containers.
#[derive(Clone, Debug)]
pub struct Volumes(pub(super) Containers);

/// A volume as `docker volume inspect` writes it.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// RFC 3339.
    pub created_at: String,
    /// `local`.
    pub driver: String,
    /// Labels.
    pub labels: Map,
    /// Host path of its content.
    pub mountpoint: String,
    /// Name.
    pub name: String,
    /// Options.
    pub options: Map,
    /// `local`.
    pub scope: String,
}

impl Volumes {
    /// Makes a volume, or gives the one that is there. An empty name makes an anonymous one.
    pub fn create(&self, name: &str, labels: &Map) -> Result<Volume> {
        let _ = (name, labels);
        todo!()
    }
    /// One by name.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        let _ = name;
        todo!()
    }
    /// Those that match (`name`, `label`, `dangling`, `driver`), by name.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Volume>> {
        let _ = filters;
        todo!()
    }
    /// Removes one that no container uses; with `force` a missing one is no error.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        todo!()
    }
    /// Removes those that no container uses: anonymous ones, with `all` named ones too.
    pub fn prune(&self, all: bool, filters: &Filters) -> Result<PruneOutcome> {
        let _ = (all, filters);
        todo!()
    }
    /// Where the volumes are.
    pub fn dir(&self) -> &Path {
        todo!()
    }
}
