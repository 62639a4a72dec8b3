//! What the runtime left of a container whose creator was killed before there was a state to open it by.

use std::path::Path;

use crate::cgroup::Groups;
use crate::store::check_id;
use crate::{Result, Runtime};

/// Kills and removes it: the cgroups by their path, and the state's directory.
pub(super) fn remove(runtime: &Runtime, id: &str, cgroups_path: &str) -> Result<()> {
    let groups = Groups::existing(&runtime.inner.layout, Path::new(cgroups_path));
    if !groups.is_empty() {
        groups.kill()?;
        groups.remove()?;
    }
    check_id(id)?;
    runtime.inner.store.remove(id)
}
