//! Asking the host's servers: raw bytes, with a new ID from a new port, so that nobody else can answer.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::message;
use super::{DNS_ADDRESS, DnsOptions};
use crate::netns::Host;

/// Queries under way at once; the next one is answered with a failure.
pub(super) const MOST: usize = 256;

/// The servers, in the order in which they are asked.
pub(super) struct Upstreams {
    options: DnsOptions,
    host: Host,
    file: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
}

impl Upstreams {
    pub(super) fn new(options: DnsOptions, host: Host) -> Self {
        Self { options, host, file: Mutex::new(None) }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// The servers as they are now.
    pub(super) fn list(&self) -> Vec<SocketAddr> {
        let mut all = self.options.upstreams.clone();
        if let Some(path) = &self.options.resolv_conf {
            all.extend(self.read_file(path));
        }
        // A container's own file passed back to us must not make us ask ourselves.
        all.retain(|server| server.ip() != DNS_ADDRESS);
        all
    }

    fn read_file(&self, path: &Path) -> Vec<SocketAddr> {
        let mut cached = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(changed) = std::fs::metadata(path).and_then(|m| m.modified()) else { return Vec::new() };
        match &*cached {
            Some((when, servers)) if *when == changed => servers.clone(),
            _ => {
                let servers = parse_resolv_conf(&std::fs::read_to_string(path).unwrap_or_default());
                *cached = Some((changed, servers.clone()));
                servers
            }
        }
    }

    /// Runs `job` where the server is reached from: its thread's namespace, or the host's for a server on the host's loopback.
    pub(super) fn reach<T: Send>(
        &self,
        server: SocketAddr,
        job: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        if server.ip().is_loopback() { self.host.run(job)? } else { job() }
    }
}

/// The `nameserver` lines of a `resolv.conf` (resolv.conf(5)); what is not an address is left out.
pub(crate) fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    const MOST_SERVERS: usize = 16;
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    lines
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| (ip, 53).into())
        .take(MOST_SERVERS)
        .collect()
}

/// A query under way.
pub(super) struct Pending {
    pub(super) query: Vec<u8>,
    pub(super) client: SocketAddr,
    pub(super) socket: UdpSocket,
    pub(super) deadline: Instant,
    id: [u8; 2],
    servers: Vec<SocketAddr>,
}

impl Pending {
    /// Asks the first of the servers that can be asked.
    pub(super) fn start(query: Vec<u8>, client: SocketAddr, upstreams: &Upstreams) -> Option<Self> {
        let mut servers = upstreams.list();
        servers.reverse();
        Self::ask(query, client, servers, upstreams)
    }

    fn ask(
        query: Vec<u8>,
        client: SocketAddr,
        mut servers: Vec<SocketAddr>,
        upstreams: &Upstreams,
    ) -> Option<Self> {
        while let Some(server) = servers.pop() {
            let id = crate::random::<2>();
            if let Ok(socket) = upstreams.reach(server, || send(&query, id, server)) {
                let deadline = Instant::now() + upstreams.timeout();
                return Some(Self { query, client, socket, deadline, id, servers });
            }
        }
        None
    }

    /// Asks the next server; `None` if that was the last.
    pub(super) fn next(self, upstreams: &Upstreams) -> Option<Self> {
        Self::ask(self.query, self.client, self.servers, upstreams)
    }

    pub(super) fn is_last(&self) -> bool {
        self.servers.is_empty()
    }

    /// Reads what came: an answer with the client's ID, and whether it settles the matter. Anything else is passed over.
    pub(super) fn receive(&self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut buffer = vec![0; 1 << 16];
        let length = match self.socket.recv(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        };
        buffer.truncate(length);
        if buffer.get(..2) != Some(&self.id) {
            return Ok(None);
        }
        buffer[..2].copy_from_slice(&self.query[..2]);
        Ok(message::settles(&self.query, &buffer).map(|settled| (buffer, settled)))
    }
}

fn send(query: &[u8], id: [u8; 2], server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    let mut query = query.to_vec();
    query[..2].copy_from_slice(&id);
    socket.send(&query)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_read() {
        let text = "# nameserver 1.1.1.1\nnameserver 10.0.0.1 # x\nsearch a\nnameserver fe80::1%eth0\n nameserver ::1\n";
        let expected: Vec<SocketAddr> = vec!["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(parse_resolv_conf(text), expected);
    }
}
