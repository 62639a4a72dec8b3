//! Records in this process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Claim, StateStore};
use crate::error::{Error, Result};

/// Records that end with this process: no file, no directory.
///
/// A container that is created and not started ends with the process, too; one that runs goes on, and nobody knows of it any more.
/// [`Running`](crate::Running) ends it when it is dropped.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    slots: Slots,
}

type Slots = Arc<Mutex<HashMap<String, Slot>>>;

#[derive(Debug, Default)]
struct Slot {
    note: Option<Vec<u8>>,
    record: Option<Vec<u8>>,
}

impl StateStore for Memory {
    fn claim(&self, id: &str) -> Result<Box<dyn Claim>> {
        match lock(&self.slots).entry(id.to_owned()) {
            Entry::Occupied(_) => Err(Error::Exists { id: id.to_owned() }),
            Entry::Vacant(free) => {
                free.insert(Slot::default());
                Ok(Box::new(Held { slots: Arc::clone(&self.slots), id: id.to_owned() }))
            }
        }
    }

    fn read(&self, id: &str) -> Result<Vec<u8>> {
        let record = lock(&self.slots).get(id).and_then(|slot| slot.record.clone());
        record.ok_or_else(|| Error::NotFound { id: id.to_owned() })
    }

    fn remove(&self, id: &str) -> Result<()> {
        lock(&self.slots).remove(id);
        Ok(())
    }

    fn ids(&self) -> Result<Vec<String>> {
        Ok(lock(&self.slots).keys().cloned().collect())
    }
}

#[derive(Debug)]
struct Held {
    slots: Slots,
    id: String,
}

impl Held {
    fn change(&self, change: impl FnOnce(&mut Slot)) -> Result<()> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(&self.id).ok_or_else(|| Error::NotFound { id: self.id.clone() })?;
        change(slot);
        Ok(())
    }
}

impl Claim for Held {
    fn note(&self, note: &[u8]) -> Result<()> {
        self.change(|slot| slot.note = Some(note.to_owned()))
    }

    fn noted(&self) -> Result<Option<Vec<u8>>> {
        Ok(lock(&self.slots).get(&self.id).and_then(|slot| slot.note.clone()))
    }

    fn publish(&self, record: &[u8]) -> Result<()> {
        self.change(|slot| slot.record = Some(record.to_owned()))
    }
}

/// Each change is one assignment: a panic elsewhere leaves nothing half done.
fn lock(slots: &Slots) -> MutexGuard<'_, HashMap<String, Slot>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}
