//! The crate's own implementations against its conformance checks.

mod common;

use std::sync::Arc;

use common::{Lab, Netns, ready};
use longshore_network::{
    DirIpam, DirStore, Loopback, MemoryIpam, MemoryStore, Overlay, OverlayOptions, conformance,
};

#[test]
fn ipams() {
    conformance::ipam(MemoryIpam::default);
    let directory = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    conformance::ipam(|| {
        number.set(number.get() + 1);
        DirIpam::open(directory.path().join(number.get().to_string())).unwrap()
    });
}

#[test]
fn stores() {
    conformance::peer_store(&MemoryStore::new());
    let directory = tempfile::tempdir().unwrap();
    conformance::peer_store(&DirStore::open(directory.path()).unwrap());
    conformance::peer_store(&Arc::new(MemoryStore::new()));
}

#[test]
fn drivers() {
    if !ready(&["ip"]) {
        return;
    }
    let lab = Lab::new();
    conformance::driver(&lab.bridge(), Netns::new);
    conformance::driver(&Loopback::new(), Netns::new);
    let options = OverlayOptions::new("10.77.0.0/24".parse().unwrap(), 7, common::HOST.parse().unwrap());
    let store = Arc::new(MemoryStore::new());
    let overlay = lab.host.run(|| Overlay::open(lab.state.path(), "over", &options, store)).unwrap();
    conformance::driver(&overlay, Netns::new);
    let boxed: Box<dyn longshore_network::Driver> = Box::new(overlay);
    conformance::driver(&boxed, Netns::new);
}
