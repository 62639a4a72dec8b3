//! Names of containers, and a resolver for each container.
//!
//! A [`DnsServer`] is a thread that answers on 127.0.0.11 in one container's network namespace, as Docker's does: the names of the
//! networks that the container is on by itself, everything else by asking the host's servers. The thread lives as long as its handle.

mod forward;
pub(crate) mod message;
mod names;
mod redirect;
mod server;
mod tcp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::netns::Host;
use crate::{Error, Result};
pub use names::{MemoryNames, Names};

/// Where the server answers; for the `nameserver` line of the container's `resolv.conf`.
pub const DNS_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// How a [`DnsServer`] treats what it does not know itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DnsOptions {
    /// Servers to ask, in this order. They are asked from the container's network namespace, those on a loopback address from the one
    /// in which the server was started.
    pub upstreams: Vec<SocketAddr>,
    /// A file whose `nameserver` lines are asked after `upstreams`; read again when it changes.
    pub resolv_conf: Option<PathBuf>,
    /// How long one server may take before the next is asked too.
    pub timeout: Duration,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self { upstreams: Vec::new(), resolv_conf: None, timeout: Duration::from_secs(2) }
    }
}

impl DnsOptions {
    /// Asks nobody: what is not a name of a network is refused. Internal networks want this.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a server to ask.
    pub fn upstream(mut self, server: SocketAddr) -> Self {
        self.upstreams.push(server);
        self
    }
    /// Asks the servers of a `resolv.conf`.
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = Some(path.into());
        self
    }
    /// Sets how long one server may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A running resolver; dropping it ends it.
#[derive(Debug)]
#[must_use = "dropping the handle ends the server"]
pub struct DnsServer {
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Starts a server in the container's network namespace; when this returns, it answers. `names` are asked in turn.
    pub fn start(netns: BorrowedFd<'_>, names: Vec<Arc<dyn Names>>, options: DnsOptions) -> Result<Self> {
        let doing = || Error::kernel("start a DNS server");
        let netns = netns.try_clone_to_owned().map_err(doing())?;
        let host = Host::current().map_err(doing())?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| doing()(e.into()))?);
        let (started, start) = mpsc::channel();
        let woken = Arc::clone(&wake);
        let serve = move || server::run(netns.as_fd(), host, names, options, &woken, &started);
        let builder = std::thread::Builder::new().name("longshore-dns".into());
        let thread = builder.spawn(serve).map_err(doing())?;
        start.recv().unwrap_or_else(|gone| Err(std::io::Error::other(gone))).map_err(doing())?;
        Ok(Self { wake, thread: Some(thread) })
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // Writing to an event counter that is zero cannot block, and nothing else writes to it.
        let _ = rustix::io::write(self.wake.as_fd(), &1u64.to_ne_bytes());
        // A panic over there was printed over there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
