use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_network::{
    Bridge, BridgeOptions, DNS_ADDRESS, DnsOptions, DnsServer, Endpoint, Error, PortMapping, Protocol,
};
use longshore_runtime::containers::{Attached, BoxError, NetworkRequest, Networks, Port, parse};

/// The network of containers that ask for no other.
const DEFAULT: &str = "bridge";

/// Bridge networks of this host, by name; `bridge` is made when it is first used.
///
/// As with Docker, containers find each other by name on every network but `bridge`: the container's shim, which attaches it,
/// runs its name server.
#[derive(Clone, Debug)]
pub struct HostNetworks {
    state: PathBuf,
    resolv_conf: PathBuf,
    rootless: bool,
    /// By container ID, in the process that attached it.
    servers: Arc<Mutex<HashMap<String, DnsServer>>>,
}

impl HostNetworks {
    /// With the networks' state in this directory, and the host's `resolv.conf` for what the networks do not know.
    /// `rootless`: nothing can be attached, and the error says so.
    pub fn new(state: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>, rootless: bool) -> Self {
        Self { state: state.into(), resolv_conf: resolv_conf.into(), rootless, servers: Arc::default() }
    }

    /// Opens a network; only `bridge` is made if it is not there.
    ///
    /// # Errors
    /// When there is no such network, or the caller may not have one.
    pub fn open(&self, name: &str) -> Result<Bridge, BoxError> {
        self.check(name)?;
        match name {
            "default" | DEFAULT => Ok(Bridge::open(&self.state, DEFAULT, &BridgeOptions::new())?),
            name => Bridge::find(&self.state, name).map_err(|e| told(name, e)),
        }
    }

    /// A network that is there, to look at or to take down; nothing is made or mended.
    ///
    /// # Errors
    /// When there is no such network, or the caller may not have one.
    pub fn find(&self, name: &str) -> Result<Bridge, BoxError> {
        self.check(name)?;
        let name = if name == "default" { DEFAULT } else { name };
        Bridge::as_is(&self.state, name).map_err(|e| told(name, e))
    }

    /// Makes a network.
    ///
    /// # Errors
    /// When there is one of this name, or the caller may not have one.
    pub fn create(&self, name: &str, options: &BridgeOptions) -> Result<Bridge, BoxError> {
        self.check(name)?;
        if ["default", DEFAULT, "host", "none"].contains(&name) || self.list()?.iter().any(|n| n == name) {
            return Err(format!("network with name {name} already exists").into());
        }
        Ok(Bridge::open(&self.state, name, options)?)
    }

    /// The names of the networks that there are.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn list(&self) -> Result<Vec<String>, BoxError> {
        if self.rootless || !self.state.exists() {
            return Ok(Vec::new());
        }
        Ok(Bridge::list(&self.state)?)
    }

    /// Removes the networks that nothing is attached to; `bridge` too, which comes back when it is needed.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune(&self) -> Result<Vec<String>, BoxError> {
        let mut removed = Vec::new();
        for name in self.list()? {
            match Bridge::as_is(&self.state, &name).and_then(Bridge::remove) {
                Ok(()) => removed.push(name),
                // Another may have removed it just now.
                Err(Error::NotFound { .. } | Error::NetworkInUse { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }

    fn serve_names(&self, id: &str, netns: BorrowedFd<'_>, bridge: &Bridge) -> Result<Vec<String>, BoxError> {
        if bridge.name() == DEFAULT {
            return Ok(Vec::new());
        }
        let mut options = DnsOptions::new();
        if bridge.gateway().is_some() {
            options = options.resolv_conf(&self.resolv_conf);
        }
        let server = DnsServer::start(netns, vec![Arc::new(bridge.clone())], options)?;
        self.servers().insert(id.to_owned(), server);
        Ok(vec![DNS_ADDRESS.to_string()])
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<String, DnsServer>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, network: &str, container_id: &str) -> longshore_network::Result<()> {
        let bridge = match Bridge::as_is(&self.state, network) {
            // Another may have removed it just now.
            Err(error) if error.is_not_found() => return Ok(()),
            bridge => bridge?,
        };
        if bridge.endpoints()?.iter().any(|id| id == container_id) {
            bridge.detach(container_id)?;
        }
        Ok(())
    }

    fn check(&self, name: &str) -> Result<(), BoxError> {
        if !self.rootless {
            return Ok(());
        }
        Err(format!("network {name} needs root: an ordinary user's containers have --network host or none")
            .into())
    }
}

impl Networks for HostNetworks {
    fn attach(
        &self,
        container_id: &str,
        netns: BorrowedFd<'_>,
        request: &NetworkRequest,
    ) -> Result<Attached, BoxError> {
        let bridge = self.open(&request.mode)?;
        let mut endpoint = Endpoint::new().id(container_id);
        for port in &request.ports {
            endpoint = endpoint.port(mapping(port)?);
        }
        if request.ip.is_some() && bridge.name() == DEFAULT {
            return Err("user specified IP address is supported on user defined networks only".into());
        }
        if let Some(ip) = &request.ip {
            endpoint = endpoint.address(ip.parse::<std::net::IpAddr>()?);
        }
        if let Some(mac) = &request.mac {
            endpoint =
                endpoint.mac(parse::mac(mac).ok_or_else(|| format!("{mac} is not a valid mac address"))?);
        }
        for name in request.aliases.iter().chain([&request.name]).filter(|n| !n.is_empty()) {
            endpoint = endpoint.name(name);
        }
        let lease = bridge.attach(netns, &endpoint)?;
        let (address, prefix) = lease.address();
        let attached = Attached {
            network: bridge.name().to_owned(),
            address: format!("{address}/{prefix}"),
            gateway: lease.gateway().map(|g| g.to_string()).unwrap_or_default(),
            mac: lease.mac(),
            ports: lease.ports().iter().map(port).collect(),
            nameservers: self.serve_names(container_id, netns, &bridge)?,
        };
        lease.keep();
        Ok(attached)
    }

    fn detach(&self, container_id: &str) -> Result<(), BoxError> {
        self.servers().remove(container_id);
        let mut result = Ok(());
        for name in self.list()? {
            // The trouble of one network is none of the others'.
            result = result.and(self.leave(&name, container_id));
        }
        Ok(result?)
    }
}

fn told(name: &str, error: Error) -> BoxError {
    if error.is_not_found() { format!("network {name} not found").into() } else { error.into() }
}

fn mapping(port: &Port) -> Result<PortMapping, BoxError> {
    let protocol = match port.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(format!("cannot publish a port of protocol {other}").into()),
    };
    let mut mapping = PortMapping::new(port.host_port, port.container_port, protocol);
    if !port.host_ip.is_empty() {
        mapping.host_ip = Some(port.host_ip.parse()?);
    }
    Ok(mapping)
}

fn port(mapping: &PortMapping) -> Port {
    Port {
        host_ip: mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Udp => "udp".into(),
            _ => "tcp".into(),
        },
    }
}
