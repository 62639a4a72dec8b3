//! Networks over several hosts: VXLAN, with every peer told and none learnt.
//!
//! Each host has a bridge of its own with the same subnet, and a VXLAN device on it. Which addresses exist, and behind which host, is in
//! a [`PeerStore`]; the device's forwarding and neighbour tables are made to hold what the store says, and nothing else. A store that
//! does not answer changes nothing: what is programmed stays.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::bridge::mac;
use crate::ipam::{self, Ipam};
use crate::netlink::neighbour::Neighbour;
use crate::state::Tunnel;
use crate::{Bridge, BridgeOptions, Endpoint, Error, Lease, PeerStore, Repaired, Result};

/// How a network over several hosts is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OverlayOptions {
    /// Its subnet, the same on all hosts.
    pub subnet: Ipv4Net,
    /// Its VXLAN network identifier, the same on all hosts; 24 bits.
    pub vni: u32,
    /// This host's address, by which the others reach it.
    pub vtep: Ipv4Addr,
    /// The UDP port, the same on all hosts.
    pub port: u16,
    /// MTU in bytes; `None` is the default route's less 50.
    pub mtu: Option<u32>,
}

impl OverlayOptions {
    /// On the port that IANA gave VXLAN, 4789.
    pub fn new(subnet: Ipv4Net, vni: u32, vtep: Ipv4Addr) -> Self {
        Self { subnet, vni, vtep, port: 4789, mtu: None }
    }
}

/// A network over several hosts.
#[derive(Clone)]
pub struct Overlay {
    bridge: Bridge,
    store: Arc<dyn PeerStore>,
    prefix: String,
    tunnel: Tunnel,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("bridge", &self.bridge).finish_non_exhaustive()
    }
}

/// What a reconciliation changed in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciled {
    /// Entries of forwarding and neighbour tables that were missing.
    pub added: usize,
    /// Those that were stale.
    pub removed: usize,
    /// The store's revision that is now programmed.
    pub revision: u64,
}

/// What all hosts must agree on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shared {
    subnet: Ipv4Net,
    vni: u32,
    port: u16,
}

/// Who has an address.
#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    endpoint: String,
    vtep: Ipv4Addr,
}

impl Overlay {
    /// Opens the network on this host, and programs the peers that there are.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if other hosts made it with another subnet, VNI or port.
    pub fn open(
        state: impl Into<PathBuf>,
        name: &str,
        options: &OverlayOptions,
        store: Arc<dyn PeerStore>,
    ) -> Result<Self> {
        let invalid =
            |reason: &str| Error::InvalidOption { network: name.to_owned(), reason: reason.to_owned() };
        if options.vni == 0 || options.vni >= 1 << 24 {
            return Err(invalid("a VNI is 1 to 16777215"));
        }
        crate::state::check_name("network name", name)?;
        let shared = Shared { subnet: options.subnet.trunc(), vni: options.vni, port: options.port };
        agree(&*store, &format!("net/{name}/config"), &shared)?
            .then_some(())
            .ok_or_else(|| invalid("other hosts have it with another subnet, VNI or port"))?;
        let tunnel = Tunnel { vni: options.vni, vtep: options.vtep, port: options.port };
        let bridge_options =
            BridgeOptions { subnet: Some(options.subnet), mtu: options.mtu, ..BridgeOptions::default() };
        let prefix = format!("net/{name}/ip/");
        let addresses = StoreIpam::new(Arc::clone(&store), &prefix, options.vtep);
        let bridge = Bridge::make(&state.into(), name, Some(&bridge_options), Some(tunnel), |_| {
            Ok(Box::new(addresses))
        })?;
        let overlay = Self { bridge, store, prefix, tunnel };
        overlay.reconcile()?;
        Ok(overlay)
    }

    /// The bridge on this host.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// As [`Bridge::attach`]; the address is the endpoint's on all hosts.
    pub fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
        self.bridge.attach(netns, endpoint)
    }

    /// As [`Bridge::detach`].
    pub fn detach(&self, id: &str) -> Result<()> {
        self.bridge.detach(id)
    }

    /// As [`Bridge::release`].
    pub fn release(&self, id: &str) -> Result<()> {
        self.bridge.release(id)
    }

    /// As [`Bridge::repair`], of this host's endpoints; peers too.
    pub fn repair(&self, valid: &[&str]) -> Result<Repaired> {
        let repaired = self.bridge.repair(valid)?;
        self.reconcile()?;
        Ok(repaired)
    }

    /// Removes the network from this host; other hosts keep it.
    pub fn remove(self) -> Result<()> {
        self.bridge.remove()
    }

    /// Makes the kernel hold the peers that the store holds, whatever it held before.
    pub fn reconcile(&self) -> Result<Reconciled> {
        let (entries, revision) = self.store.list(&self.prefix)?;
        let peers: Vec<(Ipv4Addr, Peer)> = entries
            .iter()
            .filter_map(|entry| {
                let address = entry.key.strip_prefix(&self.prefix)?.parse().ok()?;
                // What cannot be read is nobody's peer; it must not keep the others from being programmed.
                Some((address, serde_json::from_slice::<Peer>(&entry.value).ok()?))
            })
            .filter(|(_, peer)| peer.vtep != self.tunnel.vtep)
            .collect();
        let wanted = peers.iter().flat_map(|(address, peer)| {
            let mac = mac((*address).into());
            [Neighbour::Forward { mac, to: peer.vtep }, Neighbour::Resolve { address: *address, mac }]
        });
        let mut ends: Vec<_> = peers.iter().map(|(_, peer)| peer.vtep).collect();
        ends.sort_unstable();
        ends.dedup();
        let inner = self.bridge.inner();
        let _lock = inner.lock()?;
        let mut sockets = inner.sockets();
        sockets.allow_tunnel_ends(self.bridge.link(), self.tunnel, &ends)?;
        let (added, removed) = sockets.connect(self.bridge.link(), wanted.collect())?;
        Ok(Reconciled { added, removed, revision })
    }

    /// Follows the store on a thread of its own for as long as the result lives. `report` hears of each reconciliation and each failure;
    /// after a failure it goes on.
    pub fn follow(&self, report: impl Fn(Result<Reconciled>) + Send + 'static) -> Result<Reconciler> {
        let stop = Arc::new(AtomicBool::new(false));
        let (overlay, stopped) = (self.clone(), Arc::clone(&stop));
        let builder = std::thread::Builder::new().name("longshore-peers".into());
        let thread = builder.spawn(move || follow(&overlay, &stopped, &report));
        Ok(Reconciler { stop, thread: Some(thread.map_err(Error::kernel("start a thread"))?) })
    }
}

/// A thread that follows the store; dropping it ends it, within a quarter of a second.
#[derive(Debug)]
#[must_use = "dropping it ends it"]
pub struct Reconciler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Everything is compared whenever anything changed, and once in a while when nothing did: events only say when to look.
fn follow(overlay: &Overlay, stop: &AtomicBool, report: &impl Fn(Result<Reconciled>)) {
    const PATIENCE: Duration = Duration::from_millis(250);
    const QUIET_ROUNDS: u32 = 240;
    let (mut seen, mut quiet) = (0, QUIET_ROUNDS);
    while !stop.load(Ordering::Relaxed) {
        let now = match overlay.store.wait(&overlay.prefix, seen, PATIENCE) {
            Ok(now) => now,
            Err(error) => {
                report(Err(error));
                std::thread::sleep(PATIENCE);
                continue;
            }
        };
        quiet += 1;
        if now == seen && quiet < QUIET_ROUNDS {
            continue;
        }
        let reconciled = overlay.reconcile();
        if let Ok(done) = &reconciled {
            (seen, quiet) = (done.revision, 0);
        } else {
            std::thread::sleep(PATIENCE);
        }
        report(reconciled);
    }
}

/// Writes what is to be shared if it is not there; whether what is there is the same.
fn agree(store: &dyn PeerStore, key: &str, shared: &Shared) -> Result<bool> {
    let value = serde_json::to_vec(shared).map_err(|e| Error::StoreUnavailable { source: e.into() })?;
    if store.write(key, Some(&value), None)? {
        return Ok(true);
    }
    let (entries, _) = store.list(key)?;
    let there = entries.iter().find(|entry| entry.key == key);
    Ok(there.is_some_and(|entry| serde_json::from_slice::<Shared>(&entry.value).is_ok_and(|s| s == *shared)))
}

/// Addresses from a store that hosts share: a key each, made only if it is not there.
struct StoreIpam {
    store: Arc<dyn PeerStore>,
    prefix: String,
    vtep: Ipv4Addr,
    last: Mutex<Option<IpAddr>>,
}

impl StoreIpam {
    fn new(store: Arc<dyn PeerStore>, prefix: &str, vtep: Ipv4Addr) -> Self {
        Self { store, prefix: prefix.to_owned(), vtep, last: Mutex::new(None) }
    }

    fn claim(&self, address: IpAddr, owner: &str) -> Result<bool> {
        let peer = Peer { endpoint: owner.to_owned(), vtep: self.vtep };
        let value = serde_json::to_vec(&peer).map_err(|e| Error::StoreUnavailable { source: e.into() })?;
        self.store.write(&format!("{}{address}", self.prefix), Some(&value), None)
    }
}

impl Ipam for StoreIpam {
    fn allocate(
        &self,
        subnet: IpNet,
        reserved: &[IpAddr],
        owner: &str,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr> {
        if let Some(address) = wanted {
            ipam::check(subnet, reserved, address)?;
            return if self.claim(address, owner)? {
                Ok(address)
            } else {
                Err(Error::AddressInUse { address })
            };
        }
        let (entries, _) = self.store.list(&self.prefix)?;
        let taken: std::collections::BTreeSet<IpAddr> =
            entries.iter().filter_map(|e| e.key.strip_prefix(&self.prefix)?.parse().ok()).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |a: &IpAddr| !reserved.contains(a) && !taken.contains(a);
        for address in ipam::candidates(subnet, *last).filter(free) {
            if self.claim(address, owner)? {
                *last = Some(address);
                return Ok(address);
            }
        }
        Err(Error::PoolExhausted { subnet })
    }

    fn release(&self, _subnet: IpNet, address: IpAddr, owner: &str) -> Result<()> {
        let key = format!("{}{address}", self.prefix);
        let (entries, _) = self.store.list(&key)?;
        let Some(entry) = entries.iter().find(|entry| entry.key == key) else { return Ok(()) };
        let peer = serde_json::from_slice::<Peer>(&entry.value);
        if peer.is_ok_and(|p| p.endpoint == owner && p.vtep == self.vtep) {
            // If it changed meanwhile, it is someone else's.
            self.store.write(&key, None, Some(entry.revision))?;
        }
        Ok(())
    }

    /// This host's only.
    fn list(&self, subnet: IpNet) -> Result<Vec<(IpAddr, String)>> {
        let (entries, _) = self.store.list(&self.prefix)?;
        let ours = entries.iter().filter_map(|entry| {
            let address: IpAddr = entry.key.strip_prefix(&self.prefix)?.parse().ok()?;
            let peer: Peer = serde_json::from_slice(&entry.value).ok()?;
            (peer.vtep == self.vtep && subnet.contains(&address)).then_some((address, peer.endpoint))
        });
        Ok(ours.collect())
    }
}
