/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's cancel flag was raised; nothing is half-visible, the call can be tried again.
    #[error("cancelled")]
    Cancelled,
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
