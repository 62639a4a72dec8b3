//! Where a runtime keeps what it knows about its containers.
//!
//! A [`StateStore`] holds one record per container, as bytes that only the runtime reads. [`Disk`] keeps them in files, for any process that
//! knows the directory; [`Memory`] keeps them in this process, for programs whose containers are their own business and end with them.
//! [`conformance`] checks an implementation of yours.

pub mod conformance;
mod disk;
mod memory;

pub use disk::Disk;
pub(crate) use disk::START;
pub use memory::Memory;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Records of containers, by ID.
///
/// The runtime checks IDs before it asks: 1 to 1024 of `A-Za-z0-9_+-.`, neither `.` nor `..`.
///
/// An ID is first *claimed*, by one caller alone. The claim's holder makes the container and then *publishes* its record; from there on
/// others can read it, until it is removed. All methods may be called from many threads at once, and, where the store is shared, from
/// many processes.
pub trait StateStore: Debug + Send + Sync {
    /// Takes an ID that nobody has; [`Error::Exists`] where somebody has claimed or published it.
    fn claim(&self, id: &str) -> Result<Box<dyn Claim>>;

    /// The published record; [`Error::NotFound`] where there is none, or none yet.
    fn read(&self, id: &str) -> Result<Vec<u8>>;

    /// Forgets an ID, claimed or published; a missing one is no error.
    fn remove(&self, id: &str) -> Result<()>;

    /// All IDs, published or not, in any order. There may be names among them that are none.
    fn ids(&self) -> Result<Vec<String>>;

    /// Takes over a claim whose holder died before it had published. Never one whose holder is at work, nor a published one.
    fn abandoned(&self, id: &str) -> Result<Option<Box<dyn Claim>>> {
        let _ = id;
        Ok(None)
    }

    /// The directory of a claimed or published ID, in which a container that is created listens for its start, so that any process can
    /// start it; it goes with [`Self::remove`]. `None`: the runtime that creates a container, and its clones, start it.
    fn directory(&self, id: &str) -> Option<PathBuf> {
        let _ = id;
        None
    }
}

/// An ID in the making. Dropped before it is published, it stays claimed: its holder removes it, or has died.
pub trait Claim: Debug + Send {
    /// Writes down what has to be undone if the record is never published.
    fn note(&self, note: &[u8]) -> Result<()>;

    /// The last note, which whoever takes over an abandoned claim reads.
    fn noted(&self) -> Result<Option<Vec<u8>>>;

    /// Publishes the record: from now on it is read whole, or, when this fails, not at all.
    fn publish(&self, record: &[u8]) -> Result<()>;
}

macro_rules! forward {
    ($($of:ty),*) => {$(
        impl<T: StateStore + ?Sized> StateStore for $of {
            fn claim(&self, id: &str) -> Result<Box<dyn Claim>> {
                (**self).claim(id)
            }
            fn read(&self, id: &str) -> Result<Vec<u8>> {
                (**self).read(id)
            }
            fn remove(&self, id: &str) -> Result<()> {
                (**self).remove(id)
            }
            fn ids(&self) -> Result<Vec<String>> {
                (**self).ids()
            }
            fn abandoned(&self, id: &str) -> Result<Option<Box<dyn Claim>>> {
                (**self).abandoned(id)
            }
            fn directory(&self, id: &str) -> Option<PathBuf> {
                (**self).directory(id)
            }
        }
    )*};
}
forward!(&T, Box<T>, Arc<T>);

/// runc's rule for IDs.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    match id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(legal) {
        true => Err(Error::InvalidId { id: id.to_owned() }),
        false => Ok(()),
    }
}
