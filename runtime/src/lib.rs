//! OCI container runtime.
#![deny(unsafe_code)]

mod caps;
mod cgroup;
pub mod console;
mod container;
#[cfg(feature = "containers")]
pub mod containers;
mod created;
mod error;
mod exec;
mod features;
mod hooks;
mod idmap;
mod launch;
mod namespaces;
mod plan;
mod process;
mod runtime;
mod seccomp;
pub mod spec;
mod state;
mod stdio;
mod sys;
mod sysctl;

pub use cgroup::Stats;
pub use container::Container;
pub use created::{Created, Exit, Running};
pub use error::{Error, Result};
pub use exec::{ExecOptions, ExecProcess};
pub use features::features;
pub use runtime::{CreateOptions, Rootfs, Runtime};
pub use state::{State, Status};
pub use stdio::Stdio;
