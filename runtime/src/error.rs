//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No container of this ID.
    #[error("container {id} does not exist")]
    NotFound {
        /// The ID.
        id: String,
    },
    /// The ID is taken.
    #[error("container {id} already exists")]
    Exists {
        /// The ID.
        id: String,
    },
    /// Not an ID: letters, digits and `_+-.`, not `.` or `..`, at most 1024 bytes.
    #[error("invalid container id {id:?}")]
    InvalidId {
        /// What was given.
        id: String,
    },
    /// The container is in a state that does not permit this.
    #[error("cannot {action} a container that is {status}")]
    WrongStatus {
        /// What was asked.
        action: &'static str,
        /// runtime-spec's name of its state.
        status: &'static str,
    },
    /// The spec asks for what is not legal.
    #[error("invalid spec: {field}: {reason}")]
    Spec {
        /// Field, as a path in `config.json`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The spec, or the caller, asks for what this kernel, user or version cannot do.
    #[error("not supported: {what}")]
    Unsupported {
        /// What was asked, and why it cannot be had.
        what: String,
    },
    /// A step of the container's own process failed before `execve`.
    #[error("{step}")]
    Child {
        /// The step: names the mount, path or field.
        step: String,
        /// The system call's error.
        source: io::Error,
    },
    /// The container's program could not be executed.
    #[error("exec {program:?}")]
    Exec {
        /// `process.args[0]`.
        program: String,
        /// `ENOENT`: not found (exit code 127 by convention); otherwise not executable (126).
        source: io::Error,
    },
    /// The container's process ended before it was ready, without a report (killed, or out of memory).
    #[error("the container's process died during set-up")]
    Died,
    /// A hook failed.
    #[error("{kind} hook {path}: {reason}")]
    Hook {
        /// `prestart`, `createRuntime`...
        kind: String,
        /// Its path.
        path: PathBuf,
        /// Exit status, time-out, or why it could not run.
        reason: String,
    },
    /// systemd refused (feature `systemd`).
    #[error("systemd: {action}: {reason}")]
    Systemd {
        /// What it was asked for.
        action: String,
        /// Its words, and the name of its error.
        reason: String,
    },
    /// A control group could not be made, written or removed.
    #[error("cgroup {path}: {action}")]
    Cgroup {
        /// Directory or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the container's state.
    #[error("state {path}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why it could not be read or written.
        source: io::Error,
    },
    /// A system call of the parent's side.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: String,
        /// The system call's error.
        source: io::Error,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// There is no such container.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    /// The container exists already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Error::Exists { .. })
    }

    /// The program does not exist in the container: exit code 127 by convention.
    pub fn is_program_not_found(&self) -> bool {
        matches!(self, Error::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The program exists but cannot be executed: exit code 126 by convention.
    pub fn is_program_not_executable(&self) -> bool {
        matches!(self, Error::Exec { source, .. } if source.kind() != io::ErrorKind::NotFound)
    }

    /// The same call may succeed later: out of processes, memory or descriptors.
    pub fn is_retryable(&self) -> bool {
        let (Error::Child { source, .. } | Error::Cgroup { source, .. } | Error::Os { source, .. }) = self
        else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EBUSY | libc::EINTR)
        )
    }

    pub(crate) fn spec(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Spec { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Os { what: what.into(), source }
    }
}

/// Turns the error of `rustix` into ours.
pub(crate) trait Context<T> {
    fn context(self, what: &str) -> Result<T>;
}
impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|e| Error::Os { what: what.to_owned(), source: e.into() })
    }
}
