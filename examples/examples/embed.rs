//! A container in twenty lines: pull, snapshot, network, run, wait. As root:
//!
//! ```sh
//! cargo run --release --example embed -- 127.0.0.1:5000/debian:bookworm /tmp/embed hostname -I
//! ```

#![expect(clippy::print_stdout, reason = "a program speaks")]

use std::os::fd::AsFd;
use std::path::Path;

use longshore_image::{Ctx, ImportOptions, Store, from_fn};
use longshore_network::{Bridge, BridgeOptions, Endpoint};
use longshore_registry_client::{Client, Reference};
use longshore_runtime::{CreateOptions, Rootfs, Runtime, spec::default_spec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, name, dir, command @ ..] = args.as_slice() else {
        return Err("usage: embed IMAGE DIR COMMAND...".into());
    };
    let (reference, dir): (Reference, _) = (name.parse()?, Path::new(dir));

    let (client, store) = (Client::builder().build()?, Store::open(dir.join("images"))?);
    let registry = client.source(&reference)?;
    let source = from_fn(move |blob, offset| registry.open(blob, offset));
    let pulled =
        store.import(&source, &client.resolve(&reference)?, &ImportOptions::default(), Ctx::none())?;
    let runtime = Runtime::new(dir.join("runtime"))?;
    // An earlier run may have been cut short: its container, and what that stood on.
    let _ = runtime.open("web").and_then(|stale| stale.delete(true));
    let _ = store.remove_snapshot("web");
    let bridge = Bridge::open(dir.join("network"), "web", &BridgeOptions::default())?;
    bridge.repair(&[])?;

    // Container, endpoint and mount go with their values, whatever fails.
    let run = || -> Result<i32, Box<dyn std::error::Error>> {
        let root = store.snapshot("web", &pulled.image)?.mount()?;
        let mut options = CreateOptions::default();
        options.rootfs = Rootfs::Detached(root.as_fd());
        let created = runtime.create("web", &default_spec(command), options)?;
        let lease = bridge.attach(created.netns()?.as_fd(), &Endpoint::new().publish(0, 80))?;
        println!("{} publishes port 80 at {}", lease.address().0, lease.ports()[0].host_port);
        Ok(created.start()?.wait_to_end()?.code)
    };
    let code = run();

    let removed = (bridge.remove(), store.remove_snapshot("web"));
    println!("exit code {}", code?);
    removed.0?;
    Ok(removed.1?)
}
