//! Connecting a container and disconnecting it, with one published port, beside programs that do the same: `ip -batch` with `nft`,
//! CNI's bridge and portmap plugins. With no other endpoint on the network, and with many.
//! `cargo bench -p longshore-benches --bench network`, as root; it moves itself into a network namespace of its own.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longshore_benches::{BoxError, Race, Sample, time};
use longshore_network::{Bridge, BridgeOptions, Endpoint};

const INSIDE: &str = "LONGSHORE_BENCH_NETNS";

fn main() -> Result<(), BoxError> {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_none() {
        let mut inside = Command::new("unshare");
        let status =
            inside.arg("-n").arg(std::env::current_exe()?).arg("--bench").env(INSIDE, "1").status()?;
        return if status.success() { Ok(()) } else { Err("the run inside failed".into()) };
    }
    sh("ip link set lo up")?;
    for others in [0, 200] {
        let state = tempfile::tempdir()?;
        let bridge = Bridge::open(state.path(), "bridge", &BridgeOptions::new())?;
        let crowd = (0..others).map(|_| Container::start()).collect::<Result<Vec<_>, _>>()?;
        let leases: Vec<_> = crowd
            .iter()
            .map(|c| bridge.attach(c.netns.as_fd(), &Endpoint::new().publish(0, 80)))
            .collect::<Result<_, _>>()?;
        let link = bridge.link().to_owned();
        for part in [Part::Connect, Part::Disconnect] {
            let what = if part == Part::Connect { "connect" } else { "disconnect" };
            Race::new(&format!("{what} a container with a published port, {others} others"))
                .add("longshore", || ours(&bridge, part))
                .add("ip -batch and nft", || scripts(&link, part))
                .add("CNI bridge and portmap", || cni(part))
                .run(15);
        }
        Race::new(&format!("connect a container with published ports, {others} others"))
            .add("1 port", || attach_ports(&bridge, 1))
            .add("100 ports", || attach_ports(&bridge, 100))
            .run(15);
        drop((leases, crowd));
        bridge.remove()?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Connect,
    Disconnect,
}

/// A process in a network namespace of its own.
struct Container {
    process: Child,
    netns: File,
}

impl Container {
    fn start() -> Result<Self, BoxError> {
        let mut command = Command::new("unshare");
        let mut process = command.args(["-n", "sleep", "1000"]).stdin(Stdio::null()).spawn()?;
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", process.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(&path)? == own {
            if Instant::now() > deadline {
                let _ = process.kill();
                return Err("unshare takes too long".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { netns: File::open(path)?, process })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sh(script: &str) -> Result<(), BoxError> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}

fn ours(bridge: &Bridge, part: Part) -> Result<Sample, BoxError> {
    let container = Container::start()?;
    let mut lease = None;
    let connected = time(|| {
        lease = Some(bridge.attach(container.netns.as_fd(), &Endpoint::new().id("bench").publish(8080, 80))?);
        Ok(())
    })?;
    let disconnected = time(|| Ok(lease.take().map(longshore_network::Lease::detach).transpose()?))?;
    Ok(if part == Part::Connect { connected } else { disconnected })
}

fn scripts(bridge: &str, part: Part) -> Result<Sample, BoxError> {
    let container = Container::start()?;
    let pid = container.process.id();
    let up = format!(
        "ip -batch - <<E\nlink add lvbench up master {bridge} type veth peer name eth0 netns {pid}\nE\n\
         nsenter -t {pid} -n ip -batch - <<E\nlink set lo up\nlink set eth0 up\naddr add 172.17.250.2/16 dev eth0\n\
         route add default via 172.17.0.1\nE\n\
         nft 'add element inet longshore ports4 {{ tcp . 8081 : 172.17.250.2 . 80 }}'"
    );
    let down = "nft 'delete element inet longshore ports4 { tcp . 8081 }'; ip link del lvbench";
    let connected = time(|| sh(&up))?;
    let disconnected = time(|| sh(down))?;
    Ok(if part == Part::Connect { connected } else { disconnected })
}

/// As a runtime calls them: two plugins, each a process with its configuration on standard input.
fn cni(part: Part) -> Result<Sample, BoxError> {
    let container = Container::start()?;
    let call = |verb: &str| cni_call(&container, verb);
    let connected = time(|| call("ADD"))?;
    let disconnected = time(|| call("DEL"))?;
    Ok(if part == Part::Connect { connected } else { disconnected })
}

fn cni_call(container: &Container, verb: &str) -> Result<(), BoxError> {
    let plugins = Path::new("/usr/lib/cni");
    if !plugins.join("bridge").exists() {
        return Err("containernetworking-plugins is not installed".into());
    }
    let common = r#""cniVersion":"0.4.0","name":"bench""#;
    let bridge = format!(
        r#"{{{common},"type":"bridge","bridge":"cnibench","isGateway":true,"ipMasq":true,
        "ipam":{{"type":"host-local","subnet":"10.250.0.0/16","routes":[{{"dst":"0.0.0.0/0"}}],"dataDir":"/run/longshore-bench-cni"}}}}"#
    );
    let pid = container.process.id();
    let mut environment = format!(
        "export CNI_COMMAND={verb} CNI_CONTAINERID=bench CNI_NETNS=/proc/{pid}/ns/net CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni; "
    );
    let ports = r#""runtimeConfig":{"portMappings":[{"hostPort":8082,"containerPort":80,"protocol":"tcp"}]}"#;
    let portmap = format!(r#"{{{common},"type":"portmap","capabilities":{{"portMappings":true}},{ports}"#);
    environment += &if verb == "ADD" {
        format!(
            "result=$(/usr/lib/cni/bridge <<'E'\n{bridge}\nE\n)\n/usr/lib/cni/portmap >/dev/null <<E\n{}\nE\n",
            format_args!("{portmap},\"prevResult\":$result}}")
        )
    } else {
        format!(
            "/usr/lib/cni/portmap <<'E'\n{portmap}}}\nE\n/usr/lib/cni/bridge <<'E'\n{bridge}\nE\nrm -rf /run/longshore-bench-cni"
        )
    };
    sh(&environment)
}

fn attach_ports(bridge: &Bridge, ports: u16) -> Result<Sample, BoxError> {
    let container = Container::start()?;
    let endpoint = (0..ports).fold(Endpoint::new(), |e, n| e.publish(20_000 + n, 30_000 + n));
    let mut lease = None;
    let sample = time(|| {
        lease = Some(bridge.attach(container.netns.as_fd(), &endpoint)?);
        Ok(())
    })?;
    drop(lease);
    Ok(sample)
}
