//! What the kernel cannot hold, in a directory.
//!
//! ```text
//! STATE/lock                       flock: held by each operation
//! STATE/NETWORK/network.json       subnet, options; outlives a reboot
//! STATE/NETWORK/BOOT/ip/ADDRESS    symbolic link to the owner
//! STATE/NETWORK/BOOT/ENDPOINT.json written before the first change in the kernel
//! STATE/NETWORK/BOOT/stale         addresses of former endpoints whose connections the kernel may still know, and their links
//! ```
//! What is under another boot's ID describes things that are gone, and is removed. So nothing here but `network.json` needs `fsync`:
//! files survive the death of a process, and after that of the machine they do not matter.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, PortMapping, Result};

/// What makes a network the same one after a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) link: String,
    pub(crate) subnets: Vec<IpNet>,
    /// Whether the subnets were ours to choose, so that others may be chosen after a reboot.
    pub(crate) chosen: bool,
    pub(crate) internal: bool,
    pub(crate) mtu: Option<u32>,
    #[serde(default)]
    pub(crate) tunnel: Option<Tunnel>,
    /// Of subnets whose gateway is not the first address.
    #[serde(default)]
    pub(crate) gateways: Vec<IpAddr>,
    /// Of subnets that give out addresses of a part of them only.
    #[serde(default)]
    pub(crate) ranges: Vec<IpNet>,
    #[serde(default)]
    pub(crate) reserved: BTreeMap<String, IpAddr>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub(crate) created: u64,
}

impl Network {
    /// The bridge's own address in a subnet.
    pub(crate) fn gateway(&self, subnet: IpNet) -> IpAddr {
        let own = self.gateways.iter().find(|gateway| subnet.contains(*gateway));
        own.copied().unwrap_or_else(|| first(subnet))
    }

    /// The part of a subnet whose addresses are given out, if it is not all of it.
    pub(crate) fn range(&self, subnet: IpNet) -> Option<IpNet> {
        self.ranges.iter().find(|range| subnet.contains(*range)).copied()
    }

    /// Whether it has its subnets, the chosen one too.
    pub(crate) fn is_settled(&self) -> bool {
        !self.chosen || self.subnets.iter().any(|subnet| subnet.addr().is_ipv4())
    }
}

fn first(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) + 1).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) + 1).into(),
    }
}

/// This host's end of a VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tunnel {
    pub(crate) vni: u32,
    pub(crate) vtep: std::net::Ipv4Addr,
    pub(crate) port: u16,
}

/// One endpoint, as intended; whether the kernel has it all is found out from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) veth: String,
    pub(crate) mac: [u8; 6],
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) names: Vec<String>,
}

/// A state directory.
#[derive(Clone, Debug)]
pub(crate) struct State {
    root: PathBuf,
    boot: String,
}

/// The state directory's lock; others wait until it is dropped.
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its flock")] File);

impl State {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(Error::state(root))?;
        let root = fs::canonicalize(root).map_err(Error::state(root))?;
        let source = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(source).map_err(Error::state(source))?.trim().to_owned();
        Ok(Self { root, boot })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.root.join("lock");
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = open().map_err(Error::state(&path))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(|e| Error::state(&path)(e.into()))?,
            }
        }
        Ok(Lock(file))
    }

    fn network_dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn boot_dir(&self, name: &str) -> PathBuf {
        self.network_dir(name).join(&self.boot)
    }

    pub(crate) fn ip_dir(&self, name: &str) -> PathBuf {
        self.boot_dir(name).join("ip")
    }

    fn record_path(&self, name: &str, id: &str) -> PathBuf {
        self.boot_dir(name).join(format!("{id}.json"))
    }

    pub(crate) fn network(&self, name: &str) -> Result<Option<Network>> {
        read(&self.network_dir(name).join("network.json"))
    }

    /// All networks of this directory. The lock must be held: what is not a network then, is what a crash left of one.
    pub(crate) fn networks(&self) -> Result<Vec<String>> {
        let (mut names, rest): (Vec<_>, Vec<_>) = list(&self.root)?
            .into_iter()
            .filter(|name| self.network_dir(name).is_dir())
            .partition(|name| self.network_dir(name).join("network.json").exists());
        rest.iter().try_for_each(|name| self.remove_network(name))?;
        names.sort();
        Ok(names)
    }

    /// Removes files that a crash kept from being renamed. The lock must be held.
    pub(crate) fn remove_half_written(&self, name: &str) -> Result<()> {
        for directory in [self.network_dir(name), self.boot_dir(name)] {
            for file in list(&directory)?.iter().filter(|file| file.ends_with(".tmp")) {
                let path = directory.join(file);
                fs::remove_file(&path).map_err(Error::state(path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn save_network(&self, name: &str, network: &Network) -> Result<()> {
        fs::create_dir_all(self.boot_dir(name)).map_err(Error::state(self.boot_dir(name)))?;
        write(&self.network_dir(name).join("network.json"), network, true)
    }

    /// Removes what other boots left.
    pub(crate) fn forget_other_boots(&self, name: &str) -> Result<()> {
        let directory = self.network_dir(name);
        fs::create_dir_all(self.boot_dir(name)).map_err(Error::state(self.boot_dir(name)))?;
        for entry in list(&directory)? {
            let path = directory.join(&entry);
            if entry != self.boot && path.is_dir() {
                fs::remove_dir_all(&path).map_err(Error::state(path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove_network(&self, name: &str) -> Result<()> {
        match fs::remove_dir_all(self.network_dir(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::state(self.network_dir(name))(e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn record(&self, name: &str, id: &str) -> Result<Option<Record>> {
        read(&self.record_path(name, id))
    }

    pub(crate) fn records(&self, name: &str) -> Result<Vec<Record>> {
        let mut ids = list(&self.boot_dir(name))?;
        ids.sort();
        let ids = ids.iter().filter_map(|file| file.strip_suffix(".json"));
        Ok(ids.map(|id| self.record(name, id)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    pub(crate) fn stale(&self, name: &str) -> Result<BTreeMap<IpAddr, String>> {
        Ok(read(&self.boot_dir(name).join("stale"))?.unwrap_or_default())
    }

    pub(crate) fn save_stale(&self, name: &str, stale: &BTreeMap<IpAddr, String>) -> Result<()> {
        let path = self.boot_dir(name).join("stale");
        if stale.is_empty() { remove(&path) } else { write(&path, stale, false) }
    }

    pub(crate) fn save_record(&self, name: &str, record: &Record) -> Result<()> {
        write(&self.record_path(name, &record.id), record, false)
    }

    pub(crate) fn remove_record(&self, name: &str, id: &str) -> Result<()> {
        remove(&self.record_path(name, id))
    }
}

/// 1 to 128 characters that name a file, a kernel object's comment and, but for dots, a DNS label.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let body = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let good =
        name.len() <= 128 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(body);
    if good { Ok(()) } else { Err(Error::InvalidName { what, name: name.to_owned() }) }
}

fn list(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::state(directory))?,
    };
    let names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(Error::state(directory))
}

/// `None` if there is no such file. One that does not parse is an error: it was renamed into place whole.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::state(path)(e.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::state(path)(e)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::state(path)(e)),
        _ => Ok(()),
    }
}

fn write<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    write().map_err(Error::state(path))
}

/// A name for a kernel object that any process derives again.
pub(crate) fn hashed(prefix: &str, parts: &[&str]) -> String {
    // A NUL after each: ("a", "bc") is not ("ab", "c").
    let hash = fnv(parts.iter().flat_map(|part| part.bytes().chain([0])));
    format!("{prefix}{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff)
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
