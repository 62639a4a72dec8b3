//! Supervised containers: records on disk, a shim process each, logs, restart policies, health checks.
//!
//! ```no_run
//! use longshore_runtime::containers::{self, Containers, CreateRequest, OpenOptions, StartOptions};
//! # use std::sync::Arc;
//! # fn images() -> Arc<dyn containers::Images> { unimplemented!() }
//! # fn networks() -> Arc<dyn containers::Networks> { unimplemented!() }
//! // One function opens it all, for the program and for the shims that it starts.
//! fn open(root: &str) -> containers::Result<Containers> {
//!     let root = std::path::Path::new(root);
//!     let runtime = longshore_runtime::Runtime::new(root.join("runtime"))?;
//!     Containers::open(root, runtime, images(), networks(), OpenOptions::new(std::env::current_exe().expect("own path")))
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // First of all: was this program started as the shim of a container?
//!     if let Some(code) = containers::shim_main(std::env::args_os(), |context| Ok(open(&context.to_string_lossy())?)) {
//!         std::process::exit(code);
//!     }
//!     let all = open("/var/lib/example")?;
//!     let web = all.create(&CreateRequest::new("busybox"))?;
//!     all.start(&web.id, &StartOptions::default())?;
//!     println!("exit code {}", all.wait(&web.id, containers::WaitFor::NotRunning)?);
//!     Ok(())
//! }
//! ```

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

mod api;
mod check;
mod compile;
mod config;
mod copy;
mod copyup;
mod counters;
mod create;
mod diff;
mod dir;
mod error;
mod events;
mod files;
pub mod format;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod inside;
mod inspect;
mod leftovers;
mod log;
mod merge;
mod names;
mod network;
mod ops;
pub mod parse;
mod passwd;
mod process;
mod proto;
mod query;
mod record;
mod rootview;
mod shim;
mod socket;
mod stream;
mod sys;
mod terminal;
mod volumes;
mod warnings;

pub use api::{
    AttachOptions, Change, ChangeKind, CreateOutcome, EventLine, EventsOptions, ExecRequest, Filters,
    LogLine, LogOptions, LogStream, OpenOptions, PruneOutcome, RemoveOptions, StartOptions, Stats,
    StopOptions, Summary, Update, WaitFor,
};
pub use config::{
    BindOptions, Config, CreateRequest, DeviceMapping, Empty, HealthConfig, HostConfig, LogConfig, Mount,
    PortBinding, RestartPolicy, Set, ThrottleDevice, TmpfsOptions, Ulimit, VolumeOptions,
};
pub use copy::CopyOptions;
pub use error::{Error, Result};
pub use handle::Containers;
pub use inspect::{
    ContainerState, EndpointSettings, GraphDriver, Health, HealthResult, Inspect, MountPoint, NetworkSettings,
};
pub use ops::Frozen;
pub use process::Process;
pub use shim::shim_main;
pub use stream::{Output, Stream};
pub use terminal::{DetachKeys, Ended, Terminal};
pub use volumes::{Volume, Volumes};

/// A foreign error, kept as the source of ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where containers get their root file systems: an image store.
pub trait Images: Send + Sync {
    /// The image by name or ID: its ID, and the config that a container takes defaults from. `Ok(None)`: there is no such image.
    fn config(&self, image: &str) -> Result<Option<ImageInfo>, BoxError>;
    /// Sees to it that the image stays for the container: called when that is created.
    fn keep(&self, container_id: &str, image_id: &str) -> Result<(), BoxError> {
        self.rootfs(container_id, image_id).map(drop)
    }
    /// Makes or opens the container's writable root file system. Called at each start, and by operations that look into a container
    /// that does not run.
    fn rootfs(&self, container_id: &str, image_id: &str) -> Result<RootfsSource, BoxError>;
    /// Removes it. One that is not there is no error.
    fn remove_rootfs(&self, container_id: &str) -> Result<(), BoxError>;
    /// Writes what the container changed against its image, as an OCI layer tar: for `diff` and `commit`.
    fn diff(&self, _container_id: &str, _out: &mut dyn std::io::Write) -> Result<(), BoxError> {
        Err("this image store cannot tell changes".into())
    }
    /// Shows the image's own files to `look`. `key` is nobody's container; of what is made for it nothing is to stay, also if this process is
    /// killed meanwhile, as far as the store can see to that.
    fn look_at(
        &self,
        key: &str,
        image_id: &str,
        look: &mut dyn FnMut(&RootfsSource),
    ) -> Result<(), BoxError> {
        look(&self.rootfs(key, image_id)?);
        self.remove_rootfs(key)
    }
    /// Bytes of the files in the container's writable layer, for `ps -s`; `None` where that is not known.
    fn usage(&self, _container_id: &str) -> Result<Option<u64>, BoxError> {
        Ok(None)
    }
}

/// What [`Images::config`] tells.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Image ID (`sha256:...`).
    pub id: String,
    /// The config.
    pub config: ImageConfiguration,
    /// Docker's `Healthcheck`, which the OCI config has no place for.
    pub healthcheck: Option<HealthConfig>,
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
    /// Attaches the namespace; what it tells is shown by `inspect`. Never called for the modes `none`, `host` and `container:ID`. Called once
    /// for each network that the container is on, always by the process that will also detach it if it lives.
    ///
    /// At a start that is on a thread beside the making of the container, wherever its network namespace can be made first: nobody is in it
    /// yet. A start that then fails detaches.
    fn attach(
        &self,
        container_id: &str,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
    ) -> Result<Attached, BoxError>;
    /// Detaches a container that has ended, whatever is left of it. One that was never attached is no error.
    fn detach(&self, container_id: &str) -> Result<(), BoxError>;
    /// Takes a running container off one of its networks, by [`Attached::network`].
    fn leave(&self, _container_id: &str, _netns: BorrowedFd<'_>, _network: &str) -> Result<(), BoxError> {
        Err("containers cannot leave these networks while they run".into())
    }
    /// Publishes ports on a network that a running container has been attached to without any: that with the ports before was left. Returns
    /// them with the host ports chosen; none where the network has no way to the outside.
    fn publish(&self, _container_id: &str, _network: &str, _ports: &[Port]) -> Result<Vec<Port>, BoxError> {
        Ok(Vec::new())
    }
}

/// What a container wants of the network.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct NetworkRequest {
    /// `default`, `bridge` or a network's name (`host`, `none` and `container:ID` never reach [`Networks`]).
    pub mode: String,
    /// Published ports as `docker run -p` writes them, parsed.
    pub ports: Vec<Port>,
    /// DNS names beside the container's own.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// A fixed address.
    #[serde(default)]
    pub ip: Option<String>,
    /// A fixed MAC address.
    #[serde(default)]
    pub mac: Option<String>,
    /// The container's name.
    #[serde(default)]
    pub name: String,
    /// The container's host name.
    #[serde(default)]
    pub hostname: String,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// Name servers for `/etc/resolv.conf`; empty takes the host's.
    pub nameservers: Vec<String>,
}

/// Labels, environment, filters: names to values.
pub type Map = BTreeMap<String, String>;
