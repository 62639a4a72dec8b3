//! Which compressed blobs hold a layer, by diff ID: `diffs/<alg>/<hex>`, so that nothing is compressed or fetched twice.

use std::fs;
use std::path::PathBuf;

use oci_spec::image::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::dir::StoreDir;
use crate::layer::Unpacked;

/// What is known of a layer. It can be found out again from a blob, so a lost or torn file does no harm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Diff {
    /// Bytes of the uncompressed tar.
    pub(crate) size: u64,
    /// Tar entries.
    pub(crate) entries: u64,
    /// Bytes that its files hold.
    #[serde(default)]
    pub(crate) content: Option<u64>,
    /// Blobs that were seen to inflate to it.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Diff {
    /// What the tar takes is the best guess where nobody has counted.
    pub(crate) fn content(&self) -> u64 {
        self.content.unwrap_or(self.size)
    }
}

/// `diffs/` of a store.
#[derive(Clone, Debug)]
pub(crate) struct Diffs {
    dir: StoreDir,
}

impl Diffs {
    pub(crate) fn open(dir: &StoreDir) -> Result<Self> {
        dir.create_dir_all(&dir.join("diffs/sha256"))?;
        Ok(Self { dir: dir.clone() })
    }

    pub(crate) fn get(&self, diff_id: &Digest) -> Option<Diff> {
        serde_json::from_slice(&fs::read(self.path(diff_id)).ok()?).ok()
    }

    /// The blob of that digest, if it is known to inflate to the diff ID.
    pub(crate) fn knows(&self, diff_id: &Digest, blob: &Digest) -> Option<Diff> {
        self.get(diff_id).filter(|diff| diff.blobs.iter().any(|b| b.digest() == blob))
    }

    /// Records that the blob inflates to the layer.
    pub(crate) fn add(&self, diff_id: &Digest, unpacked: &Unpacked, blob: &Descriptor) -> Result<()> {
        let _lock = self.dir.lock("diffs")?;
        let mut diff = self.get(diff_id).unwrap_or_default();
        (diff.size, diff.entries) = (unpacked.bytes, unpacked.entries);
        diff.content = unpacked.content.or(diff.content);
        if !diff.blobs.iter().any(|b| b.digest() == blob.digest()) {
            diff.blobs.push(blob.clone());
        }
        self.write(diff_id, &diff)
    }

    /// Drops blobs that `keep` does not want, and records that have none left and whose layer `keep` does not want either.
    pub(crate) fn retain(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<()> {
        let _lock = self.dir.lock("diffs")?;
        for diff_id in self.list() {
            let Some(mut diff) = self.get(&diff_id) else {
                self.dir.remove_file(&self.path(&diff_id))?;
                continue;
            };
            let before = diff.blobs.len();
            diff.blobs.retain(|b| keep(b.digest()));
            if diff.blobs.is_empty() && !keep(&diff_id) {
                self.dir.remove_file(&self.path(&diff_id))?;
            } else if diff.blobs.len() != before {
                self.write(&diff_id, &diff)?;
            }
        }
        Ok(())
    }

    fn list(&self) -> Vec<Digest> {
        ["sha256", "sha384", "sha512"]
            .iter()
            .filter_map(|alg| Some((alg, fs::read_dir(self.dir.join("diffs").join(alg)).ok()?)))
            .flat_map(|(alg, entries)| {
                entries
                    .flatten()
                    .filter_map(move |e| format!("{alg}:{}", e.file_name().to_str()?).parse().ok())
            })
            .collect()
    }

    fn write(&self, diff_id: &Digest, diff: &Diff) -> Result<()> {
        let path = self.path(diff_id);
        self.dir.create_dir_all(path.parent().expect("a record lies in a directory"))?;
        self.dir.write_derived(&path, &serde_json::to_vec(diff).expect("a record has only string keys"))
    }

    /// The caller has parsed the digest, and its algorithm is one that was computed.
    fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("diffs").join(diff_id.algorithm().as_ref()).join(diff_id.digest())
    }
}
