//! The thread: one loop over its sockets and those of the queries under way.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::forward::{MOST, Pending, Upstreams};
use super::message::{self, Step};
use super::names::Names;
use super::redirect::Redirect;
use super::tcp::Connections;
use super::{DNS_ADDRESS, DnsOptions};
use crate::netns::Host;

struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    names: Arc<[Arc<dyn Names>]>,
    upstreams: Arc<Upstreams>,
    connections: Connections,
    pending: Vec<Pending>,
    turn: usize,
    _redirect: Redirect,
}

/// Moves the thread into the container's network namespace, says how that went, and serves until it is woken.
pub(super) fn run(
    netns: BorrowedFd<'_>,
    host: Host,
    names: Vec<Arc<dyn Names>>,
    options: DnsOptions,
    wake: &OwnedFd,
    started: &Sender<io::Result<()>>,
) {
    let entered = move_into_link_name_space(netns, Some(LinkNameSpaceType::Network));
    let server = entered.map_err(io::Error::from).and_then(|()| Server::bind(host, names, options));
    match server {
        Ok(mut server) => {
            let _ = started.send(Ok(()));
            while server.turn(wake).unwrap_or(false) {}
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

impl Server {
    fn bind(host: Host, names: Vec<Arc<dyn Names>>, options: DnsOptions) -> io::Result<Self> {
        let udp = UdpSocket::bind((DNS_ADDRESS, 0))?;
        let tcp = TcpListener::bind((DNS_ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let IpAddr::V4(address) = DNS_ADDRESS else { return Err(io::ErrorKind::Unsupported.into()) };
        let redirect = Redirect::install(address, udp.local_addr()?.port(), tcp.local_addr()?.port())?;
        Ok(Self {
            udp,
            tcp,
            names: names.into(),
            upstreams: Arc::new(Upstreams::new(options, host)),
            connections: Connections::new(),
            pending: Vec::new(),
            turn: 0,
            _redirect: redirect,
        })
    }

    /// Waits for something and deals with it; false when woken to end.
    fn turn(&mut self, wake: &OwnedFd) -> io::Result<bool> {
        let ready = self.wait(wake)?;
        if ready[0] {
            return Ok(false);
        }
        let answered: Vec<usize> = (0..self.pending.len()).filter(|n| ready[n + 3]).collect();
        let now = Instant::now();
        // From the back, so that removing one does not move those still to come.
        for index in (0..self.pending.len()).rev() {
            if answered.contains(&index) {
                self.answered(index);
            } else if self.pending[index].deadline <= now {
                self.give_up(index);
            }
        }
        if ready[1] {
            self.queries();
        }
        if ready[2]
            && let Ok((stream, _)) = self.tcp.accept()
        {
            self.connections.serve(stream, &self.names, &self.upstreams);
        }
        Ok(true)
    }

    /// Which of the sockets have something: the wake-up, UDP, TCP, then those of the queries under way.
    fn wait(&self, wake: &OwnedFd) -> io::Result<Vec<bool>> {
        let mut fds = vec![
            PollFd::new(wake, PollFlags::IN),
            PollFd::new(&self.udp, PollFlags::IN),
            PollFd::new(&self.tcp, PollFlags::IN),
        ];
        fds.extend(self.pending.iter().map(|p| PollFd::from_borrowed_fd(p.socket.as_fd(), PollFlags::IN)));
        let first = self.pending.iter().map(|p| p.deadline).min();
        let timeout = first.map(|deadline| {
            // Rounded up: waking too early would only mean to wait again.
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(vec![false; fds.len()]),
            other => {
                other.map_err(io::Error::from).map(|_| fds.iter().map(|f| !f.revents().is_empty()).collect())
            }
        }
    }

    /// Reads what clients sent, a bounded number so that answers get their turn.
    fn queries(&mut self) {
        const AT_ONCE: usize = 64;
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..AT_ONCE {
            let Ok((length, client)) = self.udp.recv_from(&mut buffer) else { return };
            self.query(&buffer[..length], client);
        }
    }

    fn query(&mut self, query: &[u8], client: SocketAddr) {
        self.turn = self.turn.wrapping_add(1);
        let forwards = !self.upstreams.list().is_empty();
        match message::step(query, &self.names, forwards, self.turn) {
            Step::Answer(answer) => self.send(query, answer, client),
            Step::Forward if self.pending.len() < MOST => {
                match Pending::start(query.to_vec(), client, &self.upstreams) {
                    Some(pending) => self.pending.push(pending),
                    None => self.send(query, message::failure(query), client),
                }
            }
            Step::Forward => self.send(query, message::failure(query), client),
            Step::Ignore => {}
        }
    }

    fn answered(&mut self, index: usize) {
        let pending = &self.pending[index];
        match pending.receive() {
            Ok(None) => {}
            Ok(Some((answer, settled))) if settled || pending.is_last() => {
                let pending = self.pending.remove(index);
                self.send(&pending.query, answer, pending.client);
            }
            // Declined, or nobody listens there.
            Ok(Some(_)) | Err(_) => self.give_up(index),
        }
    }

    /// Gives up on a server: the next is asked, and after the last the client is told.
    fn give_up(&mut self, index: usize) {
        let pending = self.pending.remove(index);
        let (query, client) = (pending.query.clone(), pending.client);
        match pending.next(&self.upstreams) {
            Some(next) => self.pending.push(next),
            None => self.send(&query, message::failure(&query), client),
        }
    }

    fn send(&self, query: &[u8], answer: Vec<u8>, client: SocketAddr) {
        // A client that went away, or a full queue: it asks again if it still cares.
        let _ = self.udp.send_to(&message::fit(query, answer), client);
    }
}
