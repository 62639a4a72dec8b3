//! OCI containers as a library: what `runc`, `crun` and `bubblewrap` do, callable from any program, threaded or large.
//!
//! Any [`oci_spec::runtime::Spec`] in memory becomes a container; no bundle directory, no daemon, no other program is needed.
//!
//! ```no_run
//! use longshore_runtime::{CreateOptions, Runtime, Stdio, spec};
//!
//! # fn main() -> longshore_runtime::Result<()> {
//! let runtime = Runtime::new("/run/example")?;
//! let mut spec = spec::default_spec(["echo", "hello"]); // as `docker run`; `rootless_spec` without privileges
//! spec.root_mut().as_mut().expect("the default has one").set_path("/srv/rootfs".into());
//! let mut options = CreateOptions::default();
//! options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Inherit];
//! let created = runtime.create("web", &spec, options)?; // namespaces exist, the process waits before `execve`
//! let netns = created.netns()?; // ... attach it to a network ...
//! let mut running = created.start()?; // a handle; dropped: killed and removed
//! let output = std::io::read_to_string(std::fs::File::from(running.take_stdio(1).expect("it is piped")));
//! let exit = running.wait(None)?.expect("no time-out was given");
//! assert_eq!(exit.code, 0);
//! # drop((netns, output));
//! # Ok(())
//! # }
//! ```
//!
//! [`Container::builder`] is the short way, [`Capabilities::probe`] tells what this kernel and user can do.
//!
//! # How a container starts
//!
//! The parent compiles the spec into a *plan*: a flat list of system calls with all their memory laid out, for a fixed address
//! (`plan`). `clone3(CLONE_VM | CLONE_VFORK)` with the namespaces' flags makes a process that borrows the caller's memory for the few
//! calls up to `execveat` of a *helper*: a freestanding program of some kilobytes, without allocator or C library, that this crate
//! carries and executes from a sealed memfd (`sys`). The helper maps the plan and walks it. So
//! - the start costs the same in a program of a megabyte and of many gigabytes, and no lock of the caller can be met;
//! - a container that waits between `create` and `start` shares nothing with its creator, which may end;
//! - `/proc/self/exe` inside is never the embedding program (CVE-2019-5736);
//! - a failed call comes back as its step: [`Error::Child`] names the mount, path or field.
//!
//! Where a user or time namespace is made, or any is joined, the helper first forks itself there (`CLONE_PARENT`, so the container's
//! process is the caller's child either way).
//!
//! # What is where
//!
//! | kernel or disk | what |
//! |---|---|
//! | `ROOT/ID/state.json` | the record: PID with start time and boot ID, groups, spec; written by rename |
//! | `ROOT/ID/cgroup` | the groups' path, for [`Runtime::gc`] if the creator dies before it has written the record; it holds a `flock` on the directory until then |
//! | `ROOT/ID/start` | while created: the socket on which the process waits for its start |
//! | `/sys/fs/cgroup/.../longshore-ID` | its groups, where the spec names none and the user may make them |
//!
//! | module | what |
//! |---|---|
//! | [`spec`] | specs to start from: Docker's defaults, with and without privileges |
//! | [`console`] | terminals |
//! | [`store`] | where records are kept: on disk, in memory, or where you like |
//! | `containers` (feature) | supervised containers: records, logs, restarts, health |
//!
//! With the feature `systemd` a systemd makes the groups, as a transient scope for each container (`Runtime::with_systemd`).
//!
//! Not yet: checkpoints.
#![deny(unsafe_code)]

mod builder;
mod caps;
mod cgroup;
mod children;
pub mod console;
mod container;
#[cfg(feature = "containers")]
pub mod containers;
mod created;
mod error;
mod exec;
mod features;
#[doc(hidden)]
pub mod fuzzing;
mod hooks;
mod idmap;
mod landlock;
mod launch;
mod namespaces;
mod netdev;
mod parking;
mod plan;
mod probe;
mod process;
mod runtime;
mod seccomp;
mod sources;
pub mod spec;
mod state;
mod stdio;
pub mod store;
mod sys;
mod sysctl;
mod waiting;

pub use builder::{Builder, Seccomp};
#[cfg(feature = "systemd")]
pub use cgroup::systemd::Systemd;
pub use cgroup::{OomEvents, Stats};
pub use container::Container;
pub use created::{Created, Exit, Running};
pub use error::{Error, Result};
pub use exec::{ExecOptions, ExecProcess};
pub use features::features;
pub use landlock::Landlock;
pub use probe::{Capabilities, Support};
pub use process::send_pidfd;
pub use runtime::{CreateOptions, Rootfs, Runtime};
pub use state::{State, Status};
pub use stdio::Stdio;
