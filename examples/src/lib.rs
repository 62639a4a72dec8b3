//! The reference composition.
