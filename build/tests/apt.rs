//! The main job: packages are installed in a Debian image, over a bridge with NAT.
#![cfg(all(feature = "runtime", feature = "network"))]

mod common;

use common::{World, skip};
use longshore_build::{BuildOptions, RuntimeExecutor};
use longshore_network::{Bridge, BridgeOptions};
use longshore_runtime::Runtime;

#[test]
fn apache_is_installed_and_then_cached() {
    let Some(tar) = std::env::var_os("LONGSHORE_DEBIAN_TAR") else {
        return skip("needs LONGSHORE_DEBIAN_TAR");
    };
    if !rustix::process::geteuid().is_root() {
        return skip("needs root");
    }
    let world = World::new();
    world.image("debian", &std::fs::read(tar).unwrap());
    let runtime = Runtime::new(world.dir.path().join("runtime")).unwrap();
    let name = format!("bt{}", std::process::id());
    let bridge = Bridge::open(world.dir.path().join("network"), &name, &BridgeOptions::default()).unwrap();
    let executor = RuntimeExecutor::new(&runtime, world.dir.path().join("scratch"))
        .resolv_conf(std::fs::read("/etc/resolv.conf").unwrap())
        .bridge(&bridge);
    let file = "FROM debian\nRUN apt-get update\nRUN apt-get install -y apache2\n\
        RUN echo \"Welcome to my web site\" > /var/www/html/index.html\nEXPOSE 80\n";
    let (built, log) = world.run(file, &executor);
    let begun = std::time::Instant::now();
    let (again, second) = world.build_with(file, Some(&executor), &BuildOptions::default());
    eprintln!("second build: {:?}", begun.elapsed());
    bridge.remove().unwrap();
    let built = built.unwrap_or_else(|e| panic!("{e}: {}", log.output));
    assert_eq!(world.last_layer(&built.image)["var/www/html/index.html"].text, "Welcome to my web site\n");
    assert_eq!((again.unwrap().cached, second.cached.len()), (3, 3));
}
