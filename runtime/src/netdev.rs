//! `linux.netDevices`: devices of the caller's network namespace go into the container's, with their addresses (config-linux.md, "Network
//! Devices"). Few messages of rtnetlink(7), made by hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Context, Error, Result};

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;

/// Devices to move: name outside, name inside.
#[derive(Debug, Default)]
pub(crate) struct Devices(BTreeMap<String, String>);

impl Devices {
    pub(crate) fn of(spec: &Spec) -> Result<Self> {
        let Some(linux) = spec.linux() else { return Ok(Self::default()) };
        let mut devices = BTreeMap::new();
        for (outside, device) in linux.net_devices().iter().flatten() {
            let field = format!("linux.netDevices[{outside}]");
            let inside = device.name().clone().filter(|name| !name.is_empty()).unwrap_or(outside.clone());
            if !is_name(outside) || !is_name(&inside) {
                return Err(Error::spec(field, "is not the name of a network device"));
            }
            if devices.values().any(|other| *other == inside) {
                return Err(Error::spec(field, format!("{inside} is named twice")));
            }
            devices.insert(outside.clone(), inside);
        }
        let mut namespaces = linux.namespaces().iter().flatten();
        if !devices.is_empty() && !namespaces.any(|n| n.typ() == LinuxNamespaceType::Network) {
            return Err(Error::spec("linux.netDevices", "needs a network namespace that is not the host's"));
        }
        Ok(Self(devices))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves them into the network namespace of a process, and sets them up there. What has moved when one fails is lost with the
    /// namespace, if it is virtual; the kernel gives hardware back.
    pub(crate) fn move_to(&self, pid: u32) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let path = format!("/proc/{pid}/ns/net");
        let namespace: OwnedFd = File::open(&path).map_err(Error::os(format!("open {path}")))?.into();
        let (here, there) = (Link::new()?, Link::inside(&namespace)?);
        let mut found = Vec::new();
        for (outside, inside) in &self.0 {
            let what = format!("linux.netDevices[{outside}]");
            let index = name_to_index(&here.0, outside).context(&what)?;
            // The kernel renames a device after it has moved: one that must not have its name would be lost there.
            if name_to_index(&there.0, inside).is_ok() {
                return Err(Error::spec(what, format!("the container has a device {inside} already")));
            }
            found.push((what, index, inside, here.addresses(index)?));
        }
        for (what, index, inside, addresses) in found {
            here.hand_over(index, inside, &namespace).map_err(Error::os(what.as_str()))?;
            let index = name_to_index(&there.0, inside).context(&what)?;
            there.set_up(index, &addresses).map_err(Error::os(what))?;
        }
        Ok(())
    }
}

/// As the kernel's `dev_valid_name`.
fn is_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace())
}

/// An address as it will be set again: `struct ifaddrmsg` and its attributes.
#[derive(Debug)]
struct Address(Vec<u8>);

/// A socket of rtnetlink.
struct Link(OwnedFd);

impl Link {
    fn new() -> Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        // NETLINK_ROUTE is protocol 0.
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None);
        socket.map(Self).context("make a netlink socket")
    }

    /// In another network namespace. A thread goes there and ends; the socket stays in it.
    fn inside(namespace: &OwnedFd) -> Result<Self> {
        let enter = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).context("enter the network namespace")?;
            Self::new()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("longshore-net".to_owned());
            let thread = thread.spawn_scoped(scope, enter).map_err(Error::os("start a thread"))?;
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::os("make a netlink socket")(io::ErrorKind::Other.into())))
        })
    }

    /// One device into another namespace, where it gets its name in the same moment.
    fn hand_over(&self, index: u32, name: &str, namespace: &OwnedFd) -> io::Result<()> {
        let mut body = link_header(index, 0);
        attribute(&mut body, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        attribute(&mut body, libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.change(libc::RTM_NEWLINK, 0, &body)
    }

    fn set_up(&self, index: u32, addresses: &[Address]) -> io::Result<()> {
        for Address(body) in addresses {
            let mut body = body.clone();
            // ifa_index
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            self.change(libc::RTM_NEWADDR, (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16, &body)?;
        }
        self.change(libc::RTM_NEWLINK, 0, &link_header(index, libc::IFF_UP as u32))
    }

    /// Addresses of a device that were set by somebody and hold everywhere.
    fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let what = "list the addresses of network devices";
        self.send(libc::RTM_GETADDR, REQUEST | libc::NLM_F_DUMP as u16, &[0; 8]).map_err(Error::os(what))?;
        let mut addresses = Vec::new();
        loop {
            for (kind, body) in messages(&self.receive().map_err(Error::os(what))?) {
                match (kind, body) {
                    (DONE, _) => return Ok(addresses),
                    (ERROR, body) => answer(body).map_err(Error::os(what))?,
                    // struct ifaddrmsg: family, prefix, flags, scope, index.
                    (_, [_, _, flags, scope, i0, i1, i2, i3, ..])
                        if u32::from_ne_bytes([*i0, *i1, *i2, *i3]) == index
                            && u32::from(*flags) & libc::IFA_F_PERMANENT != 0
                            && *scope == libc::RT_SCOPE_UNIVERSE =>
                    {
                        addresses.push(Address(again(body)));
                    }
                    _ => {}
                }
            }
        }
    }

    fn change(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, REQUEST | ACK | flags, body)?;
        loop {
            for (kind, body) in messages(&self.receive()?) {
                if kind == ERROR {
                    return answer(body);
                }
            }
        }
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        // struct nlmsghdr: length, type, flags, sequence, port.
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        let (n, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
        buffer.truncate(n);
        Ok(buffer)
    }
}

const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;

/// Type and body of each message.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let [l0, l1, l2, l3, t0, t1, ..] = *bytes {
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = bytes.get(16..len) else { break };
        all.push((u16::from_ne_bytes([t0, t1]), body));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// What an `NLMSG_ERROR` says: 0 is the acknowledgement.
fn answer(body: &[u8]) -> io::Result<()> {
    match body {
        [a, b, c, d, ..] => match i32::from_ne_bytes([*a, *b, *c, *d]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct ifinfomsg`; the flag is set.
fn link_header(index: u32, flag: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flag.to_ne_bytes());
    body.extend(flag.to_ne_bytes());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The address as a request: of its attributes those that say what it is, and for IPv6 that nobody else has it (the device had it
/// already).
fn again(body: &[u8]) -> Vec<u8> {
    const NO_DUPLICATE_CHECK: u8 = 0x02;
    const KEPT: [u16; 3] = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST];
    let (head, mut rest) = body.split_at(8);
    let mut request = head.to_vec();
    request[2] = if i32::from(head[0]) == libc::AF_INET6 { NO_DUPLICATE_CHECK } else { 0 };
    while let [l0, l1, t0, t1, ..] = *rest {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = rest.get(4..len) else { break };
        let kind = u16::from_ne_bytes([t0, t1]);
        if KEPT.contains(&kind) {
            attribute(&mut request, kind, value);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_do_no_harm() {
        for bytes in
            [&[][..], &[0; 6], &[0; 16], &[255; 40], &[15, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(messages(bytes).len() <= 1);
        }
        assert!(answer(&[]).is_err() && answer(&[0; 4]).is_ok());
        assert_eq!(again(&[2, 24, 0x80, 0, 1, 0, 0, 0, 255, 255, 1, 0]).len(), 8);
    }
}
