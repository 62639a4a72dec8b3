//! What the runtime left of a container whose creator was killed before there was a state to open it by.

use std::path::Path;

use crate::cgroup::{Groups, join};
use crate::state::Dir;
use crate::{Result, Runtime};

/// Kills and removes it: the cgroups by their path, and the state's directory.
pub(super) fn remove(runtime: &Runtime, id: &str, cgroups_path: &str) -> Result<()> {
    let layout = &runtime.inner.layout;
    let there = |mount: &Path| Some(join(mount, Path::new(cgroups_path))).filter(|dir| dir.is_dir());
    let groups = Groups {
        v1: layout.v1.iter().filter_map(|h| Some((h.controllers.clone(), there(&h.mount)?))).collect(),
        v2: layout.v2.as_deref().and_then(there),
    };
    if !groups.is_empty() {
        groups.kill()?;
        groups.remove()?;
    }
    Dir::new(&runtime.inner.root, id)?.remove()
}
