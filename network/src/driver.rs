//! What a kind of network does.

use std::os::fd::BorrowedFd;

use crate::netlink::link;
use crate::netlink::{NETLINK_ROUTE, Netlink};
use crate::{Attachment, Bridge, Endpoint, Error, Lease, Overlay, Repaired, Result, netns};

/// A kind of network: connects network namespaces and disconnects them.
///
/// [`conformance::driver`](crate::conformance::driver) checks an implementation.
pub trait Driver: Send + Sync {
    /// Connects the network namespace. On an error nothing stays behind.
    fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease>;

    /// Disconnects by endpoint ID, whatever is left of it. One that is not there is no error.
    fn detach(&self, id: &str) -> Result<()>;

    /// Disconnects an endpoint whose container has ended; what the kernel removes with the network namespace may be left to it.
    fn release(&self, id: &str) -> Result<()> {
        self.detach(id)
    }

    /// Removes every endpoint that is not in `valid`, and mends what others broke.
    fn repair(&self, valid: &[&str]) -> Result<Repaired>;
}

impl Driver for Bridge {
    fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
        Self::attach(self, netns, endpoint)
    }
    fn detach(&self, id: &str) -> Result<()> {
        Self::detach(self, id)
    }
    fn release(&self, id: &str) -> Result<()> {
        Self::release(self, id)
    }
    fn repair(&self, valid: &[&str]) -> Result<Repaired> {
        Self::repair(self, valid)
    }
}

impl Driver for Overlay {
    fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
        Self::attach(self, netns, endpoint)
    }
    fn detach(&self, id: &str) -> Result<()> {
        Self::detach(self, id)
    }
    fn release(&self, id: &str) -> Result<()> {
        Self::release(self, id)
    }
    fn repair(&self, valid: &[&str]) -> Result<Repaired> {
        Self::repair(self, valid)
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<T: Driver + ?Sized> Driver for $pointer {
            fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
                (**self).attach(netns, endpoint)
            }
            fn detach(&self, id: &str) -> Result<()> {
                (**self).detach(id)
            }
            fn release(&self, id: &str) -> Result<()> {
                (**self).release(id)
            }
            fn repair(&self, valid: &[&str]) -> Result<Repaired> {
                (**self).repair(valid)
            }
        }
    )*};
}
forward!(&T, Box<T>, std::sync::Arc<T>);

/// No network but the container's own loopback: Docker's `--network none`. It keeps no state, so endpoints end with their namespaces.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Loopback;

impl Loopback {
    /// There is only one.
    pub fn new() -> Self {
        Self
    }
}

impl Driver for Loopback {
    fn attach(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<Lease> {
        const LOOPBACK: u32 = 1;
        if !endpoint.ports.is_empty() {
            let reason = "it has no way to publish a port".to_owned();
            return Err(Error::InvalidOption { network: "none".to_owned(), reason });
        }
        let up = || Netlink::open(NETLINK_ROUTE).and_then(|mut socket| socket.run(link::set_up(LOOPBACK)));
        netns::within(netns, up).and_then(|r| r).map_err(Error::kernel("set up the loopback link"))?;
        let id = endpoint.id_or_random()?;
        let attachment =
            Attachment { id, addresses: vec![([127, 0, 0, 1].into(), 8)], ..Attachment::default() };
        Ok(Lease::new(*self, attachment))
    }
    fn detach(&self, _id: &str) -> Result<()> {
        Ok(())
    }
    fn repair(&self, _valid: &[&str]) -> Result<Repaired> {
        Ok(Repaired::default())
    }
}
