//! `linux.netDevices`: devices of the host move into the container, addresses and all.
#![expect(clippy::unwrap_used, unsafe_code, reason = "test code: a network namespace of its own")]

mod common;

use std::collections::HashMap;
use std::process::Command;

use common::{World, id, is_root, skip};
use longshore_runtime::{CreateOptions, Error};
use oci_spec::runtime::{LinuxNamespaceType, LinuxNetDevice, Spec};

fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A pair of devices with a name of their own, in the namespace of this thread, which is new.
fn pair() -> Option<()> {
    // Nobody is disturbed by a device in a network namespace that only this thread has.
    // SAFETY: only `CLONE_FILES` is what makes this call unsafe.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    if Command::new("ip").arg("-V").output().is_err() {
        skip("iproute2 is not installed");
        return None;
    }
    ip("link add name dev0 mtu 1400 address 02:00:00:00:00:07 type veth peer name peer0");
    Some(())
}

fn with_devices(spec: &mut Spec, devices: &[(&str, Option<&str>)]) {
    let device = |name: Option<&str>| LinuxNetDevice::default().set_name(name.map(str::to_owned)).clone();
    let devices: HashMap<_, _> = devices.iter().map(|(from, to)| ((*from).to_owned(), device(*to))).collect();
    spec.linux_mut().as_mut().unwrap().set_net_devices(Some(devices));
}

#[test]
fn a_device_moves_with_its_addresses() {
    if !is_root() {
        return;
    }
    let Some(world) = World::new() else { return };
    let Some(()) = pair() else { return };
    ip("addr add 192.0.2.7/24 dev dev0");
    ip("-6 addr add 2001:db8::7/64 dev dev0 nodad");
    ip("link set dev0 up");
    let script = "ip addr show eth7; cat /sys/class/net/eth7/mtu";
    let mut spec = world.spec(&["sh", "-c", script]);
    with_devices(&mut spec, &[("dev0", Some("eth7"))]);
    let (code, out, err) = world.run(&id("netdev"), &spec);
    assert_eq!(code, 0, "{out}{err}");
    for part in ["UP", "192.0.2.7/24", "2001:db8::7/64", "02:00:00:00:00:07", "1400"] {
        assert!(out.contains(part), "{part} is missing: {out}");
    }
    // The namespace is gone, and a virtual device goes with it.
    for _ in 0..600 {
        if !ip("link show").contains("peer0") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the device is still there: {}", ip("link show"));
}

#[test]
fn what_cannot_move_is_told_by_name() {
    if !is_root() {
        return;
    }
    let Some(world) = World::new() else { return };
    let Some(()) = pair() else { return };
    let refused = |devices: &[(&str, Option<&str>)], host_network: bool| {
        let mut spec = world.spec(&["true"]);
        with_devices(&mut spec, devices);
        if host_network {
            common::without(&mut spec, LinuxNamespaceType::Network);
        }
        let error = world.runtime.create(&id("netdev"), &spec, CreateOptions::default()).unwrap_err();
        assert!(error.to_string().contains("linux.netDevices"), "{error:?}");
        error
    };
    assert!(matches!(refused(&[("none0", None)], false), Error::Os { .. }));
    assert!(matches!(refused(&[("dev0", Some("lo"))], false), Error::Spec { .. }));
    for name in ["a-name-that-is-too-long", "a/b", "a b", ".."] {
        assert!(matches!(refused(&[("dev0", Some(name))], false), Error::Spec { .. }), "{name}");
    }
    assert!(matches!(refused(&[("dev0", Some("x")), ("peer0", Some("x"))], false), Error::Spec { .. }));
    assert!(matches!(refused(&[("dev0", None)], true), Error::Spec { .. }));
    assert!(world.runtime.list().unwrap().is_empty());
    assert!(ip("link show").contains("dev0"), "it is where it was");
}
