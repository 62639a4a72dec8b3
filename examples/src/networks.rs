use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_network::{
    Bridge, BridgeOptions, DNS_ADDRESS, DnsOptions, DnsServer, Endpoint, Error, Names, PortMapping, Protocol,
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
    served: Arc<Mutex<HashMap<String, Served>>>,
}

/// The networks of a container, and the name server that knows them.
#[derive(Debug, Default)]
struct Served {
    bridges: Vec<Bridge>,
    server: Option<DnsServer>,
}

impl HostNetworks {
    /// With the networks' state in this directory, and the host's `resolv.conf` for what the networks do not know.
    /// `rootless`: nothing can be attached, and the error says so.
    pub fn new(state: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>, rootless: bool) -> Self {
        Self { state: state.into(), resolv_conf: resolv_conf.into(), rootless, served: Arc::default() }
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

    /// Removes the networks that nothing is attached to and that `goes` says yes to; `bridge` too, which comes back when it is needed.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune(&self, goes: impl Fn(&Bridge) -> bool) -> Result<Vec<String>, BoxError> {
        let mut removed = Vec::new();
        for name in self.list()? {
            let bridge = Bridge::as_is(&self.state, &name);
            if bridge.as_ref().is_ok_and(|bridge| !goes(bridge)) {
                continue;
            }
            match bridge.and_then(Bridge::remove) {
                Ok(()) => removed.push(name),
                // Another may have removed it just now.
                Err(Error::NotFound { .. } | Error::NetworkInUse { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }

    /// Runs a name server where one of the container's networks has names.
    fn serve_names(
        &self,
        id: &str,
        netns: BorrowedFd<'_>,
        bridges: Vec<Bridge>,
    ) -> Result<Vec<String>, BoxError> {
        // The one before would be in the way of the next.
        self.served().remove(id);
        let named: Vec<Arc<dyn Names>> =
            bridges.iter().filter(|b| b.name() != DEFAULT).map(|b| Arc::new(b.clone()) as _).collect();
        let mut served = Served { bridges, server: None };
        if !named.is_empty() {
            let mut options = DnsOptions::new();
            if served.bridges.iter().any(|bridge| bridge.gateway().is_some()) {
                options = options.resolv_conf(&self.resolv_conf);
            }
            served.server = Some(DnsServer::start(netns, named, options)?);
        }
        let servers = served.server.iter().map(|_| DNS_ADDRESS.to_string()).collect();
        self.served().insert(id.to_owned(), served);
        Ok(servers)
    }

    fn bridges_of(&self, id: &str) -> Vec<Bridge> {
        self.served().get(id).map(|served| served.bridges.clone()).unwrap_or_default()
    }

    fn served(&self) -> MutexGuard<'_, HashMap<String, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach_from(
        &self,
        network: &str,
        container_id: &str,
        detach: fn(&Bridge, &str) -> longshore_network::Result<()>,
    ) -> longshore_network::Result<()> {
        let bridge = match Bridge::as_is(&self.state, network) {
            // Another may have removed it just now.
            Err(error) if error.is_not_found() => return Ok(()),
            bridge => bridge?,
        };
        if bridge.endpoints()?.iter().any(|id| id == container_id) {
            detach(&bridge, container_id)?;
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
        let short = container_id.chars().take(12).collect();
        for name in request.aliases.iter().chain([&request.name, &short]).filter(|n| !n.is_empty()) {
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
            nameservers: {
                let mut bridges = self.bridges_of(container_id);
                bridges.push(bridge.clone());
                self.serve_names(container_id, netns, bridges)?
            },
        };
        lease.keep();
        Ok(attached)
    }

    fn detach(&self, container_id: &str) -> Result<(), BoxError> {
        self.served().remove(container_id);
        let mut result = Ok(());
        for name in self.list()? {
            // The trouble of one network is none of the others'.
            result = result.and(self.detach_from(&name, container_id, Bridge::release));
        }
        Ok(result?)
    }

    fn leave(&self, container_id: &str, netns: BorrowedFd<'_>, network: &str) -> Result<(), BoxError> {
        self.detach_from(network, container_id, Bridge::detach)?;
        let mut bridges = self.bridges_of(container_id);
        bridges.retain(|bridge| bridge.name() != network);
        self.serve_names(container_id, netns, bridges).map(drop)
    }

    fn publish(&self, container_id: &str, network: &str, ports: &[Port]) -> Result<Vec<Port>, BoxError> {
        let bridge = self.open(network)?;
        if bridge.gateway().is_none() {
            return Ok(Vec::new());
        }
        let wanted = ports.iter().map(mapping).collect::<Result<Vec<_>, _>>()?;
        Ok(bridge.publish(container_id, &wanted)?.iter().map(port).collect())
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
