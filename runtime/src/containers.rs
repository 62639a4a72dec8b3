//! Supervised containers: records on disk, a shim process each, logs, restart policies, health checks.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

/// A foreign error, kept as the source of ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where containers get their root file systems: an image store.
pub trait Images: Send + Sync {
    /// The image by name or ID: its ID, and the config that a container takes defaults from.
    fn config(&self, image: &str) -> Result<ImageInfo, BoxError>;
    /// Makes or opens the container's writable root file system.
    fn rootfs(&self, container_id: &str, image_id: &str) -> Result<RootfsSource, BoxError>;
    /// Removes it.
    fn remove_rootfs(&self, container_id: &str) -> Result<(), BoxError>;
}

/// What [`Images::config`] tells.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Image ID (`sha256:...`).
    pub id: String,
    /// The config.
    pub config: ImageConfiguration,
}

/// A root file system for [`crate::CreateOptions`].
#[derive(Debug)]
pub enum RootfsSource {
    /// A directory.
    Path(PathBuf),
    /// A detached mount.
    Detached(OwnedFd),
    /// See [`crate::Rootfs::Overlay`].
    Overlay {
        /// Read-only layers, top first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// Work directory.
        work: PathBuf,
    },
}

/// Puts containers on networks.
pub trait Networks: Send + Sync {
    /// Attaches the namespace; what it tells is shown by `inspect`.
    fn attach(&self, container_id: &str, netns: BorrowedFd<'_>, request: &NetworkRequest) -> Result<Attached, BoxError>;
    /// Detaches, whatever is left of it.
    fn detach(&self, container_id: &str) -> Result<(), BoxError>;
}

/// What a container wants of the network.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct NetworkRequest {
    /// `bridge`, a network's name, `host`, `none`, `container:ID`.
    pub mode: String,
    /// Published ports as `docker run -p` writes them, parsed.
    pub ports: Vec<Port>,
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// Host address; empty for all.
    pub host_ip: String,
    /// Host port; 0 picks a free one.
    pub host_port: u16,
    /// Container port.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// What [`Networks::attach`] did.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Attached {
    /// Network name.
    pub network: String,
    /// Address with prefix length, e.g. `172.17.0.2/16`.
    pub address: String,
    /// Gateway.
    pub gateway: String,
    /// MAC address.
    pub mac: String,
    /// Published ports with the host ports chosen.
    pub ports: Vec<Port>,
    /// Lines for `/etc/resolv.conf`.
    pub nameservers: Vec<String>,
}

/// All supervised containers under one directory. Cheap to clone; many processes may share the directory.
#[derive(Clone, Debug)]
pub struct Containers(());

impl Containers {
    /// Opens the directory. `shim` is the program that is started for a detached container (usually the caller's own executable,
    /// whose `main` first calls [`shim_main`]).
    pub fn open(_dir: &Path, _runtime: crate::Runtime, _shim: &Path) -> crate::Result<Self> {
        todo!()
    }
}

/// To be called first in the `main` of the program named as shim: does nothing and returns `false` unless the program was started as one.
pub fn shim_main(_images: &dyn Images, _networks: &dyn Networks) -> bool {
    todo!()
}
