use std::io::Read;

use oci_spec::image::Descriptor;

/// A foreign error, kept as the source of ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where [`Store::import`](crate::Store::import) gets manifests, configs and layers from: a registry, an archive, another store.
///
/// The caller verifies size and digest of what it reads; an implementation only has to deliver.
/// `open` is called from several threads at once.
pub trait BlobSource: Send + Sync {
    /// Opens the blob's bytes from `offset` on (`0..=size`); a resumed download asks for more than 0.
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, BoxError>;
}

impl<T: BlobSource + ?Sized> BlobSource for &T {
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, BoxError> {
        (**self).open(descriptor, offset)
    }
}

impl<T: BlobSource + ?Sized> BlobSource for Box<T> {
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, BoxError> {
        (**self).open(descriptor, offset)
    }
}

impl<T: BlobSource + ?Sized> BlobSource for std::sync::Arc<T> {
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, BoxError> {
        (**self).open(descriptor, offset)
    }
}

/// Makes a [`BlobSource`] of a closure `|descriptor, offset| -> Result<impl Read, impl Into<BoxError>>`.
pub fn from_fn<F, R, E>(open: F) -> FromFn<F>
where
    F: Fn(&Descriptor, u64) -> Result<R, E> + Send + Sync,
    R: Read + Send + 'static,
    E: Into<BoxError>,
{
    FromFn(open)
}

/// See [`from_fn`].
#[derive(Clone, Copy, Debug)]
pub struct FromFn<F>(F);

impl<F, R, E> BlobSource for FromFn<F>
where
    F: Fn(&Descriptor, u64) -> Result<R, E> + Send + Sync,
    R: Read + Send + 'static,
    E: Into<BoxError>,
{
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, BoxError> {
        match (self.0)(descriptor, offset) {
            Ok(reader) => Ok(Box::new(reader)),
            Err(e) => Err(e.into()),
        }
    }
}
