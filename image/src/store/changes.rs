use std::collections::BTreeMap;

use super::Store;
use crate::compress;
use crate::layer::{Body, ROOT, Tree};
use crate::{Ctx, Error, Image, Result};

/// What one layer does to the file system of those below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerChanges {
    /// Files, links and devices with a new name.
    pub added: u64,
    /// Those that take the place of one below.
    pub changed: u64,
    /// Those below that are hidden and not replaced.
    pub removed: u64,
    /// Bytes of files below that nobody sees any more: they are stored and moved for nothing.
    pub wasted: u64,
}

/// What is visible so far: path to size in bytes.
type Visible = BTreeMap<Vec<u8>, u64>;

impl Store {
    /// What each layer of the image adds, changes, removes and makes useless, base first. Reads the layers' tars.
    pub fn layer_changes(&self, image: &Image, ctx: Ctx<'_>) -> Result<Vec<LayerChanges>> {
        let mut visible = Visible::new();
        let mut all = Vec::new();
        for (descriptor, diff_id) in image.manifest().layers().iter().zip(image.diff_ids()) {
            ctx.check()?;
            let mut tar = match self.0.layers.open_tar(diff_id)? {
                Some(tar) => tar,
                None => compress::decoder(self.open_blob(descriptor.digest())?)?.1,
            };
            let tree = self.0.layers.read_tree(&mut tar, &self.0.limits, ctx)?;
            all.push(apply(&tree, &mut visible)?);
        }
        Ok(all)
    }
}

fn apply(tree: &Tree, visible: &mut Visible) -> Result<LayerChanges> {
    let mut changes = LayerChanges::default();
    let mut own = Visible::new();
    let mut counted = vec![false; tree.len()];
    let mut todo = vec![(ROOT, Vec::new())];
    while let Some((id, path)) = todo.pop() {
        let dir = tree.dir(id).ok_or(Error::Stream { reason: "a directory that is none".to_owned() })?;
        if dir.opaque {
            hide(&path, visible, &mut changes);
        }
        for (name, child) in &dir.children {
            let below = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
            let before = visible.remove(&below);
            changes.wasted += before.unwrap_or(0);
            match &tree.node(*child).body {
                Body::Dir(_) => {
                    changes.removed += u64::from(before.is_some());
                    todo.push((*child, below));
                    continue;
                }
                Body::Whiteout => changes.removed += u64::from(before.is_some()),
                body => {
                    *(if before.is_some() { &mut changes.changed } else { &mut changes.added }) += 1;
                    // Names of one file share its bytes.
                    let first = !std::mem::replace(&mut counted[*child as usize], true);
                    let size = if let Body::File(data) = body { data.stored } else { 0 };
                    own.insert(below.clone(), if first { size } else { 0 });
                }
            }
            hide(&below, visible, &mut changes);
        }
    }
    visible.append(&mut own);
    Ok(changes)
}

/// Takes away all below a directory.
fn hide(dir: &[u8], visible: &mut Visible, changes: &mut LayerChanges) {
    let prefix = if dir.is_empty() { Vec::new() } else { [dir, b"/"].concat() };
    let below = visible.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
    let hidden: Vec<_> = below.map(|(path, size)| (path.clone(), *size)).collect();
    for (path, size) in hidden {
        visible.remove(&path);
        changes.removed += 1;
        changes.wasted += size;
    }
}
