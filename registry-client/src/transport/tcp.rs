//! TCP for ureq that looks at a cancel flag while it waits, and a resolver that only lets allowed addresses through.

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use super::AddressClasses;
use super::addresses::Addresses;
use super::socks::{Socks, Target};
use crate::CancelToken;
use crate::ctx::{CANCEL_POLL, FOREVER};

thread_local! {
    /// What the exchange on this thread may do. ureq's connections outlive exchanges and know nothing of them, and its traits
    /// have no place to hand it through.
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
    /// The address of the host that this thread's last bytes went to, where no proxy alone knows it.
    static PEER: Cell<Option<IpAddr>> = const { Cell::new(None) };
}

#[derive(Clone)]
pub(super) struct Scope {
    pub(super) cancel: CancelToken,
    pub(super) addresses: AddressClasses,
    /// When what goes on now is to have come to something, whatever moves meanwhile.
    pub(super) until: Option<Instant>,
}

/// Runs `job` under `scope`.
pub(super) fn scoped<T>(scope: &Scope, job: impl FnOnce() -> T) -> T {
    /// Puts the outer scope back, also when `job` panics.
    struct Restore(Option<Scope>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPE.set(self.0.take());
        }
    }
    let _restore = Restore(SCOPE.replace(Some(scope.clone())));
    PEER.set(None);
    job()
}

/// The address of the host that the exchange on this thread went to.
pub(super) fn peer() -> Option<IpAddr> {
    PEER.get()
}

fn cancelled() -> bool {
    SCOPE.with_borrow(|s| s.as_ref().is_some_and(|s| s.cancel.is_cancelled()))
}

fn is_overdue() -> bool {
    SCOPE.with_borrow(|s| s.as_ref().and_then(|s| s.until).is_some_and(|until| Instant::now() >= until))
}

/// Marks an error as ours, for [`super::ureq::classify`].
#[derive(Debug, thiserror::Error)]
#[error("the host's addresses are outside of what this request may reach")]
pub(super) struct Forbidden;

#[derive(Clone)]
pub(super) struct GuardedResolver {
    pub(super) addresses: Arc<Addresses>,
    /// A proxy looks names up: there is nothing to do here.
    pub(super) elsewhere: bool,
}

impl std::fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuardedResolver")
    }
}

impl Resolver for GuardedResolver {
    /// Called for each exchange, also when a pooled connection serves it: mostly the addresses are known. The classes are looked at
    /// each time, and what is returned is what is connected to.
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        if self.elsewhere {
            addresses.push(SocketAddr::from(([0, 0, 0, 0], 0)));
            return Ok(addresses);
        }
        let (host, port) = place(uri).ok_or(Error::HostNotFound)?;
        // With an HTTP proxy it is the proxy that is asked for, which the caller chose.
        let free = config.proxy().is_some();
        let allowed =
            SCOPE.with_borrow(|s| s.as_ref().filter(|_| !free).map_or(AddressClasses::ALL, |s| s.addresses));
        let fits = |found: &[SocketAddr]| found.iter().any(|a| allowed.contains(a.ip()));
        let found = match self.addresses.known(host, port) {
            Some(known) if fits(&known) => known,
            // What is known is out of reach, but the name may have moved since.
            _ => self.find(host, port, timeout)?,
        };
        if found.is_empty() {
            return Err(Error::HostNotFound);
        }
        for address in found.into_iter().filter(|a| allowed.contains(a.ip())).take(16) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(Error::Other(Box::new(Forbidden))) } else { Ok(addresses) }
    }
}

impl GuardedResolver {
    fn find(&self, host: &str, port: u16, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        let (addresses, name) = (Arc::clone(&self.addresses), host.to_owned());
        match aside("lookup", *timeout.after, move || addresses.find(&name, port)) {
            Ok(found) => found.map_err(|_| Error::HostNotFound),
            Err(Aside::TimedOut) => Err(Error::Timeout(timeout.reason)),
            Err(Aside::Io(e)) => Err(Error::Io(e)),
        }
    }
}

/// Host and port.
fn place(uri: &Uri) -> Option<(&str, u16)> {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((uri.host()?, uri.port_u16().unwrap_or(default)))
}

pub(super) enum Aside {
    TimedOut,
    Io(io::Error),
}

/// Runs what cannot be interrupted (a lookup, a handshake) on a thread of its own, which is left to its fate when time is up or the
/// exchange is cancelled.
pub(super) fn aside<T: Send + 'static>(
    name: &str,
    patience: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Aside> {
    let (tx, rx) = sync_channel(1);
    std::thread::Builder::new().name(name.into()).spawn(move || tx.send(job())).map_err(Aside::Io)?;
    let until = Instant::now().checked_add(patience);
    loop {
        let left = until.map_or(CANCEL_POLL, |u| u.saturating_duration_since(Instant::now()));
        match rx.recv_timeout(left.min(CANCEL_POLL)) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Aside::Io(io::Error::other("the thread panicked")));
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Aside::TimedOut),
            Err(RecvTimeoutError::Timeout) if cancelled() => {
                return Err(Aside::Io(io::Error::other("cancelled")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Connects by TCP, through a SOCKS proxy if there is one.
pub(super) struct PatientConnector {
    pub(super) addresses: Arc<Addresses>,
    pub(super) socks: Option<Arc<Socks>>,
    /// A proxy looks names up: an address that is connected to is the proxy's.
    pub(super) elsewhere: bool,
}

impl std::fmt::Debug for PatientConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatientConnector").field("socks", &self.socks.is_some()).finish_non_exhaustive()
    }
}

impl PatientConnector {
    fn open(&self, uri: &Uri, address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        let job: Box<dyn FnOnce() -> io::Result<TcpStream> + Send> = match &self.socks {
            None => Box::new(move || TcpStream::connect_timeout(&address, patience)),
            Some(socks) => {
                let target = if socks.resolves { named(uri) } else { Target::Address(address) };
                let (socks, addresses) = (Arc::clone(socks), Arc::clone(&self.addresses));
                Box::new(move || socks.connect(&addresses, &target, patience))
            }
        };
        match aside("connect", patience + CANCEL_POLL, job) {
            Ok(connected) => connected,
            Err(Aside::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Err(Aside::Io(e)) => Err(e),
        }
    }
}

/// The URI's host as it is, for a proxy to look up.
fn named(uri: &Uri) -> Target {
    let (host, port) = place(uri).unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    match host.parse() {
        Ok(ip) => Target::Address(SocketAddr::new(ip, port)),
        Err(_) => Target::Name(host.to_owned(), port),
    }
}

impl<In: Transport> Connector<In> for PatientConnector {
    type Out = Either<In, PatientTcp>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(chained) = chained {
            return Ok(Some(Either::A(chained)));
        }
        let started = Instant::now();
        let total = details.timeout.not_zero().map_or(Duration::from_secs(30), |t| (*t).min(FOREVER));
        let mut last = None;
        for (i, address) in details.addrs.iter().enumerate() {
            if cancelled() {
                break;
            }
            let left = total.saturating_sub(started.elapsed());
            // Half of what is left, so that one dead address does not use up the time of all others.
            let share = if i + 1 < details.addrs.len() { left / 2 } else { left };
            match self.open(details.uri, *address, share.max(Duration::from_millis(10))) {
                Ok(stream) => {
                    let host = (!self.elsewhere).then(|| address.ip());
                    let tcp = PatientTcp::new(stream, host, started + total, details.config);
                    return tcp.map(|tcp| Some(Either::B(tcp)));
                }
                Err(e) => last = Some(e),
            }
        }
        if let Some((host, port)) = place(details.uri) {
            self.addresses.forget(host, port);
        }
        Err(Error::Io(last.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into())))
    }
}

/// A socket whose timeouts are short, so that waiting is a loop that can end.
pub(super) struct PatientTcp {
    stream: TcpStream,
    /// The host's own address, where this is no connection to a proxy that looks it up.
    host: Option<IpAddr>,
    /// When it is to be of use: handshakes with a proxy and of TLS are over then.
    ready_by: Instant,
    buffers: LazyBuffers,
}

impl PatientTcp {
    fn new(
        stream: TcpStream,
        host: Option<IpAddr>,
        ready_by: Instant,
        config: &Config,
    ) -> Result<Self, Error> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CANCEL_POLL))?;
        stream.set_write_timeout(Some(CANCEL_POLL))?;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Self { stream, host, ready_by, buffers })
    }

    /// Whether the exchange on this thread may use it. A pooled connection was made for another, which may have been allowed more.
    fn is_allowed(&self) -> bool {
        let allowed = SCOPE.with_borrow(|s| s.as_ref().map_or(AddressClasses::ALL, |s| s.addresses));
        self.host.is_none_or(|ip| allowed.contains(ip))
    }
}

/// Tries `io` until it moves, time is up or the exchange is cancelled.
fn patiently(timeout: NextTimeout, mut io: impl FnMut() -> io::Result<usize>) -> Result<usize, Error> {
    let started = Instant::now();
    loop {
        // Also while data flows: a long transfer must not have to end first.
        if cancelled() {
            return Err(Error::Io(io::Error::other("cancelled")));
        }
        // What is above may ask again and again for a little more, of a TLS record or of what frames a body.
        if timeout.after.is_zero() || is_overdue() {
            return Err(Error::Timeout(timeout.reason));
        }
        match io() {
            Ok(n) => return Ok(n),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(Error::Io(e)),
        }
        if timeout.not_zero().is_some_and(|limit| started.elapsed() >= *limit) {
            return Err(Error::Timeout(timeout.reason));
        }
    }
}

impl Transport for PatientTcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        // The pool has asked `is_open` before. This is the last door, and does not rely on that.
        if !self.is_allowed() {
            return Err(Error::Other(Box::new(Forbidden)));
        }
        PEER.set(self.host);
        let mut stream = &self.stream;
        let mut left = &self.buffers.output()[..amount];
        while !left.is_empty() {
            match patiently(timeout, || stream.write(left))? {
                0 => return Err(Error::Io(io::ErrorKind::WriteZero.into())),
                n => left = &left[n..],
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // A reply's head has a time of its own: a registry may have much to do before it begins.
        let mut timeout = if timeout.reason == Timeout::RecvResponse { timeout } else { timeout.for_read() };
        if timeout.reason == Timeout::Connect {
            // That of a handshake with a proxy does not grow shorter by itself.
            timeout.after =
                (*timeout.after).min(self.ready_by.saturating_duration_since(Instant::now())).into();
        }
        let mut stream = &self.stream;
        let input = self.buffers.input_append_buf();
        let amount = patiently(timeout, || stream.read(input))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Asked before it is taken from the pool: one that may not be used is as good as closed, and another is made.
    fn is_open(&mut self) -> bool {
        if !self.is_allowed() {
            return false;
        }
        let probe = || -> io::Result<bool> {
            self.stream.set_nonblocking(true)?;
            let open =
                matches!((&self.stream).read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
            self.stream.set_nonblocking(false)?;
            Ok(open)
        };
        probe().unwrap_or(false)
    }
}

impl std::fmt::Debug for PatientTcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatientTcp").field("peer", &self.stream.peer_addr().ok()).finish_non_exhaustive()
    }
}
