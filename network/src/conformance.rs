//! What every implementation of this crate's traits must do, as functions that panic where one does not.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;

use crate::{Driver, Endpoint, Error, Ipam, PeerStore};

/// Checks an [`Ipam`]. `fresh` makes one that has given out nothing.
///
/// # Panics
/// Where it does not do what the trait says.
pub fn ipam<T: Ipam>(fresh: impl Fn() -> T) {
    let subnet: IpNet = "10.9.8.0/29".parse().expect("a subnet");
    let address = |last: u8| IpAddr::from([10, 9, 8, last]);
    let reserved = [address(1)];
    let ipam = fresh();
    let first = ipam.allocate(subnet, &reserved, "a", None).expect("an address");
    assert!(subnet.contains(&first) && first != address(1) && first != address(0) && first != address(7));
    let taken = ipam.allocate(subnet, &reserved, "b", Some(first));
    assert!(matches!(taken, Err(Error::AddressInUse { .. })), "an address has one owner");
    let gateway = ipam.allocate(subnet, &reserved, "b", Some(address(1)));
    assert!(matches!(gateway, Err(Error::AddressInUse { .. })), "reserved is in use");
    for outside in [address(0), address(7), address(8)] {
        let refused = ipam.allocate(subnet, &reserved, "b", Some(outside));
        assert!(matches!(refused, Err(Error::AddressOutside { .. })), "{outside} is not usable");
    }
    ipam.release(subnet, first, "b").expect("nothing to do");
    assert_eq!(ipam.list(subnet).expect("a list"), [(first, "a".to_owned())], "only the owner releases");
    ipam.release(subnet, first, "a").expect("release");
    let next = ipam.allocate(subnet, &reserved, "c", None).expect("an address");
    assert_ne!(next, first, "what was just freed rests");
    for owner in ["d", "e", "f", "g"] {
        ipam.allocate(subnet, &reserved, owner, None).expect("five are usable");
    }
    let exhausted = ipam.allocate(subnet, &reserved, "h", None);
    assert!(matches!(exhausted, Err(Error::PoolExhausted { .. })));
    let ipam = fresh();
    let wide: IpNet = "10.9.0.0/24".parse().expect("a subnet");
    let mut all: Vec<IpAddr> = std::thread::scope(|scope| {
        let give = |n: usize| ipam.allocate(wide, &[], &format!("o{n}"), None).expect("an address");
        let threads: Vec<_> = (0..4)
            .map(|t| scope.spawn(move || (0..10).map(|n| give(t * 10 + n)).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("a thread")).collect()
    });
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40, "many at once do not get the same");
}

/// Checks a [`PeerStore`]. `store` must be empty.
///
/// # Panics
/// Where it does not do what the trait says.
pub fn peer_store(store: &(impl PeerStore + ?Sized)) {
    let keys = |prefix: &str| -> Vec<String> {
        store.list(prefix).expect("a list").0.into_iter().map(|entry| entry.key).collect()
    };
    assert!(keys("").is_empty(), "begin with an empty one");
    assert!(store.write("net/a/1", Some(b"x"), None).expect("write"), "made if it is not there");
    assert!(!store.write("net/a/1", Some(b"y"), None).expect("write"), "and not if it is");
    assert!(store.write("net/a/10", Some(b""), None).expect("write"));
    assert!(store.write("net/b/1", Some(&[0, 255]), None).expect("write"), "any bytes");
    assert_eq!(keys("net/a/"), ["net/a/1", "net/a/10"]);
    assert_eq!(keys("net/"), ["net/a/1", "net/a/10", "net/b/1"]);
    let (entries, revision) = store.list("net/a/").expect("a list");
    assert_eq!(entries[0].value, b"x");
    assert!(entries.iter().all(|entry| entry.revision <= revision));
    let seen = entries[0].revision;
    assert!(!store.write("net/a/1", Some(b"z"), Some(seen + 1000)).expect("write"), "another revision");
    assert!(store.write("net/a/1", Some(b"z"), Some(seen)).expect("write"));
    assert!(!store.write("net/a/1", None, Some(seen)).expect("write"), "it changed since");
    let (entries, later) = store.list("net/a/").expect("a list");
    assert!(later > revision && entries[0].revision > seen, "revisions grow");
    assert!(store.write("net/a/1", None, Some(entries[0].revision)).expect("delete"));
    assert!(!store.write("net/none", None, Some(1)).expect("delete"), "nothing to delete");
    assert_eq!(keys("net/a/"), ["net/a/10"]);
    let now = store.list("net/").expect("a list").1;
    assert_eq!(store.wait("net/", now, Duration::from_millis(1)).expect("wait"), now, "nothing happens");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait("net/", now, Duration::from_secs(60)));
        assert!(store.write("net/c", Some(b"1"), None).expect("write"));
        assert!(waiting.join().expect("a thread").expect("wait") > now, "a waiter wakes");
    });
    for bad in ["", "/a", "a//b", "a b", "..", "a/../b", "a\n"] {
        assert!(store.write(bad, Some(b""), None).is_err(), "{bad:?} is no key");
    }
}

/// Checks a [`Driver`]. `netns` makes a network namespace; needs the rights to connect it.
///
/// # Panics
/// Where it does not do what the trait says.
pub fn driver<N: AsFd>(driver: &(impl Driver + ?Sized), netns: impl Fn() -> N) {
    let (a, b) = (netns(), netns());
    driver.detach("nobody").expect("no endpoint is no error");
    let first = driver.attach(a.as_fd(), &Endpoint::new().id("first")).expect("attach");
    assert_eq!(first.id(), "first");
    assert!(!first.addresses().is_empty(), "an endpoint has an address");
    let second = driver.attach(b.as_fd(), &Endpoint::new()).expect("attach");
    assert!(!second.id().is_empty() && second.id() != "first", "an ID is made up");
    let kept = second.keep();
    driver.repair(&["first", &kept]).expect("repair");
    driver.detach(&kept).expect("detach");
    driver.detach(&kept).expect("detach twice");
    first.detach().expect("detach");
    let again = driver.attach(a.as_fd(), &Endpoint::new().id("first")).expect("attach again");
    driver.release(&again.keep()).expect("release");
    driver.release("first").expect("release twice");
    let again = driver.attach(a.as_fd(), &Endpoint::new().id("first")).expect("attach what was released");
    again.keep();
    driver.repair(&[]).expect("repair");
    assert_eq!(driver.repair(&[]).expect("repair").removed, [""; 0], "the first repair did all");
    drop(driver.attach(a.as_fd(), &Endpoint::new().id("first")).expect("attach after a repair"));
    let bad = driver.attach(a.as_fd(), &Endpoint::new().id("../x"));
    assert!(matches!(bad, Err(Error::InvalidName { .. })), "an ID names a file and kernel objects");
}
