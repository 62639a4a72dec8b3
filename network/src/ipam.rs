//! Addresses: who has which.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use crate::{Error, Result};

/// Gives out the addresses of subnets.
///
/// An address has one owner at a time, whoever else asks and however many do so at once. What [`Ipam::release`] frees is not given
/// out again while there are others that were free for longer, because neighbours and connections remember for a while.
/// [`conformance::ipam`](crate::conformance::ipam) checks an implementation.
pub trait Ipam: Send + Sync {
    /// Gives `owner` the address `wanted`, or any that is free and not in `reserved`. Network, broadcast and all-zero host addresses
    /// are never given.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressOutside`], [`Error::PoolExhausted`].
    fn allocate(
        &self,
        subnet: IpNet,
        reserved: &[IpAddr],
        owner: &str,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr>;

    /// Frees the address if it is `owner`'s; otherwise does nothing.
    fn release(&self, subnet: IpNet, address: IpAddr, owner: &str) -> Result<()>;

    /// Every address that was given out here, with its owner.
    fn list(&self, subnet: IpNet) -> Result<Vec<(IpAddr, String)>>;
}

impl<T: Ipam + ?Sized> Ipam for &T {
    fn allocate(&self, net: IpNet, reserved: &[IpAddr], owner: &str, ip: Option<IpAddr>) -> Result<IpAddr> {
        (**self).allocate(net, reserved, owner, ip)
    }
    fn release(&self, subnet: IpNet, address: IpAddr, owner: &str) -> Result<()> {
        (**self).release(subnet, address, owner)
    }
    fn list(&self, subnet: IpNet) -> Result<Vec<(IpAddr, String)>> {
        (**self).list(subnet)
    }
}

impl<T: Ipam + ?Sized> Ipam for std::sync::Arc<T> {
    fn allocate(&self, net: IpNet, reserved: &[IpAddr], owner: &str, ip: Option<IpAddr>) -> Result<IpAddr> {
        (**self).allocate(net, reserved, owner, ip)
    }
    fn release(&self, subnet: IpNet, address: IpAddr, owner: &str) -> Result<()> {
        (**self).release(subnet, address, owner)
    }
    fn list(&self, subnet: IpNet) -> Result<Vec<(IpAddr, String)>> {
        (**self).list(subnet)
    }
}

/// Addresses in a directory, for any number of processes: one symbolic link per address, whose target is the owner.
///
/// Making a symbolic link either does all of it or nothing, and fails if there is one; so no lock is needed and no crash leaves half
/// an entry. The directory should be one per boot, since addresses do not survive one.
#[derive(Clone, Debug)]
pub struct DirIpam {
    directory: PathBuf,
}

impl DirIpam {
    /// Makes the directory if need be.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(Error::state(&directory))?;
        Ok(Self { directory })
    }

    fn entry(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    fn claim(&self, address: IpAddr, owner: &str) -> Result<bool> {
        let entry = self.entry(address);
        match std::os::unix::fs::symlink(owner, &entry) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Error::state(entry)(e)),
        }
    }

    /// The cursor is a hint: two processes that both read the old one cost each other a try.
    fn cursor(&self) -> PathBuf {
        self.directory.join(".last")
    }
}

impl Ipam for DirIpam {
    fn allocate(
        &self,
        subnet: IpNet,
        reserved: &[IpAddr],
        owner: &str,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr> {
        if let Some(address) = wanted {
            check(subnet, reserved, address)?;
            return match self.claim(address, owner)? {
                true => Ok(address),
                false => Err(Error::AddressInUse { address }),
            };
        }
        let last = fs::read_to_string(self.cursor()).ok().and_then(|text| text.parse().ok());
        for address in candidates(subnet, last).filter(|a| !reserved.contains(a)) {
            if self.claim(address, owner)? {
                fs::write(self.cursor(), address.to_string()).map_err(Error::state(self.cursor()))?;
                return Ok(address);
            }
        }
        Err(Error::PoolExhausted { subnet })
    }

    fn release(&self, _subnet: IpNet, address: IpAddr, owner: &str) -> Result<()> {
        let entry = self.entry(address);
        if fs::read_link(&entry).is_ok_and(|target| target == Path::new(owner)) {
            fs::remove_file(&entry).map_err(Error::state(entry))?;
        }
        Ok(())
    }

    fn list(&self, subnet: IpNet) -> Result<Vec<(IpAddr, String)>> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            // Removed with its network.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(all),
            entries => entries.map_err(Error::state(&self.directory))?,
        };
        for entry in entries {
            let name = entry.map_err(Error::state(&self.directory))?.file_name();
            let address = name.to_str().and_then(|n| n.parse().ok()).filter(|a| subnet.contains(a));
            if let (Some(address), Ok(owner)) = (address, fs::read_link(self.directory.join(&name))) {
                all.push((address, owner.to_string_lossy().into_owned()));
            }
        }
        all.sort();
        Ok(all)
    }
}

/// Addresses in memory, for one process.
#[derive(Debug, Default)]
pub struct MemoryIpam(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    owners: BTreeMap<IpAddr, String>,
    last: Option<IpAddr>,
}

impl Ipam for MemoryIpam {
    fn allocate(
        &self,
        subnet: IpNet,
        reserved: &[IpAddr],
        owner: &str,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = match wanted {
            Some(address) => {
                check(subnet, reserved, address)?;
                if memory.owners.contains_key(&address) {
                    return Err(Error::AddressInUse { address });
                }
                address
            }
            None => {
                let free = |a: &IpAddr| !reserved.contains(a) && !memory.owners.contains_key(a);
                let last = memory.last;
                let address = candidates(subnet, last).find(free).ok_or(Error::PoolExhausted { subnet })?;
                memory.last = Some(address);
                address
            }
        };
        memory.owners.insert(address, owner.to_owned());
        Ok(address)
    }

    fn release(&self, _subnet: IpNet, address: IpAddr, owner: &str) -> Result<()> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.owners.get(&address).is_some_and(|o| o == owner) {
            memory.owners.remove(&address);
        }
        Ok(())
    }

    fn list(&self, subnet: IpNet) -> Result<Vec<(IpAddr, String)>> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = memory.owners.iter().filter(|(address, _)| subnet.contains(*address));
        Ok(inside.map(|(address, owner)| (*address, owner.clone())).collect())
    }
}

pub(crate) fn check(subnet: IpNet, reserved: &[IpAddr], address: IpAddr) -> Result<()> {
    let number = to_number(address);
    let (first, last) = bounds(subnet);
    if !subnet.contains(&address) || number < first || number > last {
        return Err(Error::AddressOutside { address, subnet });
    }
    if reserved.contains(&address) { Err(Error::AddressInUse { address }) } else { Ok(()) }
}

/// Every usable address once, beginning after `last`.
pub(crate) fn candidates(subnet: IpNet, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let (low, high) = bounds(subnet);
    let start = last
        .filter(|l| subnet.contains(l))
        .map(to_number)
        .filter(|l| (low..high).contains(l))
        .map_or(low, |l| l + 1);
    // A subnet may hold 2^64 addresses; whoever has that many endpoints has other problems first.
    const MOST: usize = 1 << 20;
    (start..=high).chain(low..start).take(MOST).map(move |n| to_address(subnet, n))
}

/// The lowest and highest usable host address.
fn bounds(subnet: IpNet) -> (u128, u128) {
    let (network, broadcast) = (to_number(subnet.network()), to_number(subnet.broadcast()));
    let v4 = u128::from(subnet.addr().is_ipv4());
    (network + 1, broadcast.saturating_sub(v4).max(network + 1))
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn to_address(subnet: IpNet, number: u128) -> IpAddr {
    match subnet {
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// Docker's default pools for networks without a subnet of their own.
pub(crate) fn default_pools() -> impl Iterator<Item = IpNet> {
    let net = |a: u8, b: u8, c: u8, prefix| IpNet::new_assert(Ipv4Addr::new(a, b, c, 0).into(), prefix);
    (17..=31).map(move |b| net(172, b, 0, 16)).chain((0..=240).step_by(16).map(move |c| net(192, 168, c, 20)))
}

/// Whether two subnets share an address.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}
