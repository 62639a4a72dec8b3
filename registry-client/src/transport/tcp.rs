//! TCP for ureq that looks at a cancel flag while it waits, and a resolver that only lets allowed addresses through.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

use super::AddressClasses;
use crate::CancelToken;
use crate::ctx::CANCEL_POLL;

/// Looks a name up.
pub(super) type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

thread_local! {
    /// What the exchange on this thread may do. ureq's connections outlive exchanges and know nothing of them, and its traits
    /// have no place to hand it through.
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

#[derive(Clone)]
pub(super) struct Scope {
    pub(super) cancel: CancelToken,
    pub(super) addresses: AddressClasses,
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
    job()
}

fn cancelled() -> bool {
    SCOPE.with_borrow(|s| s.as_ref().is_some_and(|s| s.cancel.is_cancelled()))
}

/// Marks an error as ours, for [`super::ureq::classify`].
#[derive(Debug, thiserror::Error)]
#[error("the host's addresses are outside of what this request may reach")]
pub(super) struct Forbidden;

#[derive(Clone)]
pub(super) struct GuardedResolver(pub(super) Arc<Lookup>);

impl std::fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuardedResolver")
    }
}

impl Resolver for GuardedResolver {
    /// Called for each exchange, also when a pooled connection serves it.
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let found = self.lookup(host, uri.port_u16().unwrap_or(default), timeout)?;
        let allowed = SCOPE.with_borrow(|s| s.as_ref().map_or(AddressClasses::ALL, |s| s.addresses));
        let mut addresses = self.empty();
        let any = !found.is_empty();
        for address in found.into_iter().filter(|a| allowed.contains(a.ip())).take(16) {
            addresses.push(address);
        }
        match (addresses.is_empty(), any) {
            (false, _) => Ok(addresses),
            (true, true) => Err(Error::Other(Box::new(Forbidden))),
            (true, false) => Err(Error::HostNotFound),
        }
    }
}

impl GuardedResolver {
    fn lookup(&self, host: &str, port: u16, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        let bare = host.trim_matches(['[', ']']);
        if let Ok(ip) = bare.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let (lookup, name) = (Arc::clone(&self.0), bare.to_owned());
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        // getaddrinfo cannot be interrupted: the thread ends when it does.
        std::thread::Builder::new()
            .name("lookup".into())
            .spawn(move || tx.send(lookup(&name, port)))
            .map_err(Error::Io)?;
        match rx.recv_timeout(*timeout.after) {
            Ok(found) => found.map_err(|_| Error::HostNotFound),
            Err(_) => Err(Error::Timeout(timeout.reason)),
        }
    }
}

#[derive(Debug)]
pub(super) struct PatientConnector;

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
        let total = details.timeout.not_zero().map_or(Duration::from_secs(30), |t| *t);
        let mut last = None;
        for (i, address) in details.addrs.iter().enumerate() {
            if cancelled() {
                break;
            }
            let left = total.saturating_sub(started.elapsed());
            // Half of what is left, so that one dead address does not use up the time of all others.
            let share = if i + 1 < details.addrs.len() { left / 2 } else { left };
            match TcpStream::connect_timeout(address, share.max(Duration::from_millis(10))) {
                Ok(stream) => return PatientTcp::new(stream, details.config).map(|t| Some(Either::B(t))),
                Err(e) => last = Some(e),
            }
        }
        Err(Error::Io(last.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into())))
    }
}

/// A socket whose timeouts are short, so that waiting is a loop that can end.
pub(super) struct PatientTcp {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl PatientTcp {
    fn new(stream: TcpStream, config: &Config) -> Result<Self, Error> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CANCEL_POLL))?;
        stream.set_write_timeout(Some(CANCEL_POLL))?;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Self { stream, buffers })
    }
}

/// Tries `io` until it moves, time is up or the exchange is cancelled.
fn patiently(timeout: NextTimeout, mut io: impl FnMut() -> io::Result<usize>) -> Result<usize, Error> {
    let started = Instant::now();
    loop {
        match io() {
            Ok(n) => return Ok(n),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(Error::Io(e)),
        }
        if cancelled() {
            return Err(Error::Io(io::Error::other("cancelled")));
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
        let timeout = timeout.for_read();
        let mut stream = &self.stream;
        let input = self.buffers.input_append_buf();
        let amount = patiently(timeout, || stream.read(input))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
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
