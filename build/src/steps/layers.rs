//! Steps that make a layer: asked from the cache first, with views of roots that go when they are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_image::{Layer, LayerOptions, Snapshot, SnapshotOptions, Store};
use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use super::{Message, StageRun};
use crate::changes::{Changes, TarStream};
use crate::state::rfc3339;
use crate::tree::Tree;
use crate::{Error, Result};

/// A snapshot that is removed when it is dropped, and after a kill by the next build.
pub(super) struct Scratch<'a> {
    store: &'a Store,
    pub(super) snapshot: Snapshot,
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

impl<'a> Scratch<'a> {
    pub(super) fn new(store: &'a Store, layers: &[Digest], read_only: bool) -> Result<Self> {
        let mut options = SnapshotOptions::default();
        options.read_only = read_only;
        options.temporary = true;
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let key = format!("build-{}-{now:x}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        Ok(Self { store, snapshot: store.snapshot_layers(&key, layers, &options)? })
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a failure here that would be worth hiding the step's own error.
        let _ = self.store.remove_snapshot(self.snapshot.key());
    }
}

/// A root to look at, and the snapshot behind it.
pub(super) struct View<'a> {
    pub(super) tree: Arc<Tree>,
    _scratch: Option<Scratch<'a>>,
}

impl<'a> View<'a> {
    pub(super) fn new(store: &'a Store, layers: &[Digest]) -> Result<Self> {
        if layers.is_empty() {
            return Ok(Self { tree: Arc::new(Tree::empty()), _scratch: None });
        }
        let scratch = Scratch::new(store, layers, true)?;
        Ok(Self { tree: Arc::new(Tree::of_snapshot(&scratch.snapshot)?), _scratch: Some(scratch) })
    }
}

/// What the cache remembers of a step.
#[derive(Serialize, Deserialize)]
struct Record {
    /// `None` if nothing had changed.
    layer: Option<String>,
    created: String,
}

/// A step's layer, if it made one, and when.
pub(super) type StepResult = (Option<Layer>, String);

/// What the cache said.
pub(super) struct Asked {
    /// Keys that it does not know.
    pub(super) tried: Vec<String>,
    pub(super) hit: Option<StepResult>,
}

impl<'a> StageRun<'_, 'a> {
    pub(super) fn view(&self) -> Result<View<'a>> {
        View::new(self.shared.store, &self.state.diff_ids())
    }

    /// The key of an operation on what the stage is so far.
    pub(super) fn key(&self, kind: &str, operation: &serde_json::Value) -> String {
        self.key_on(kind, &self.state.diff_ids(), operation)
    }

    pub(super) fn key_on(&self, kind: &str, layers: &[Digest], operation: &serde_json::Value) -> String {
        let operation = serde_json::json!([operation, self.shared.options.source_date_epoch]);
        crate::keys::key(kind, &crate::plan::platform_text(&self.state.platform), layers, &operation)
    }

    /// Adds the layer that the cache knows under the key, or the one that `make` makes.
    pub(super) fn layer_step(
        &mut self,
        key: &str,
        history: String,
        make: impl FnOnce(&Self) -> Result<Option<Layer>>,
    ) -> Result<()> {
        let asked = self.ask(&[&|| Ok(key.to_owned())])?;
        let cached = asked.hit.is_some();
        let result = match asked.hit {
            Some(hit) => hit,
            None => self.made(make(self)?),
        };
        self.add_layer(&asked.tried, cached, result, history)
    }

    /// Asks the cache for each key in turn, cheap ones first: a later key is only made when the earlier ones are not known.
    pub(super) fn ask(&self, keys: &[&dyn Fn() -> Result<String>]) -> Result<Asked> {
        let mut asked = Asked { tried: Vec::new(), hit: None };
        for key in keys {
            let key = key()?;
            asked.hit = self.remembered(&key)?;
            if asked.hit.is_some() {
                break;
            }
            asked.tried.push(key);
        }
        Ok(asked)
    }

    /// A step's result that was just made: an empty layer is none.
    pub(super) fn made(&self, layer: Option<Layer>) -> StepResult {
        (layer.filter(|l| l.entries > 0), rfc3339(self.now()))
    }

    /// Puts the layer on top, and remembers it under the keys that did not find it.
    pub(super) fn add_layer(
        &mut self,
        keys: &[String],
        cached: bool,
        result: StepResult,
        history: String,
    ) -> Result<()> {
        self.count(cached);
        if cached {
            self.tell(Message::Cached { step: self.step });
        }
        let (layer, created) = result;
        self.remember(keys, layer.as_ref(), &created)?;
        self.state.created = created;
        self.state.record(history, layer.is_some());
        self.state.layers.extend(layer);
        Ok(())
    }

    /// A layer of the cache, if the store still has it.
    fn remembered(&self, key: &str) -> Result<Option<StepResult>> {
        let Some(cache) = self.shared.cache.filter(|_| !self.shared.options.no_cache) else {
            return Ok(None);
        };
        let Some(bytes) = cache.get(key).map_err(Error::Cache)? else { return Ok(None) };
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
        let Some(text) = record.layer else { return Ok(Some((None, record.created))) };
        let Ok(diff_id) = text.parse::<Digest>() else { return Ok(None) };
        Ok(self.shared.store.layer(&diff_id)?.map(|layer| (Some(layer), record.created)))
    }

    pub(super) fn remember(&self, keys: &[String], layer: Option<&Layer>, created: &str) -> Result<()> {
        let Some(cache) = self.shared.cache else { return Ok(()) };
        let record = Record { layer: layer.map(|l| l.diff_id.to_string()), created: created.to_owned() };
        let bytes = serde_json::to_vec(&record).expect("a record is two strings");
        keys.iter().try_for_each(|key| cache.put(key, &bytes).map_err(Error::Cache))
    }

    pub(super) fn layer_options(&self) -> LayerOptions {
        let mut options = LayerOptions::default();
        options.clamp_mtime = self.shared.options.source_date_epoch;
        options.compression = self.shared.options.compression;
        options
    }

    /// A layer of what was gathered.
    pub(super) fn store_changes(&self, changes: Changes<'_>) -> Result<Option<Layer>> {
        if changes.is_empty() {
            return Ok(None);
        }
        let mut nodes = changes.finish()?;
        if let Some(epoch) = self.shared.options.source_date_epoch {
            nodes.iter_mut().for_each(|(_, n)| n.mtime = n.mtime.min(epoch));
        }
        let mut stream = TarStream::new(nodes);
        match self.shared.store.add_layer(&mut stream, &self.layer_options(), self.ctx) {
            Ok(layer) => Ok(Some(layer)),
            Err(e) => Err(stream.failure().unwrap_or_else(|| e.into())),
        }
    }
}
