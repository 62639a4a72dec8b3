//! Network namespaces as hosts, clients and containers. Nothing here touches the one that the tests run in.
#![allow(dead_code, unreachable_pub, reason = "shared by test files, each of which uses its own part")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// Whether the test can run; it must when `LONGSHORE_REQUIRE_ALL` is set.
pub fn ready(tools: &[&str]) -> bool {
    let mut lacking: Vec<_> = tools.iter().filter(|tool| !on_path(tool)).map(ToString::to_string).collect();
    if !rustix::process::geteuid().is_root() {
        lacking.push("root".into());
    }
    if lacking.is_empty() {
        return true;
    }
    assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "lacks {lacking:?}");
    #[expect(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
    let say = || eprintln!("skipped: lacks {lacking:?}");
    say();
    false
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|d| d.join(tool).exists())
}

/// A network namespace of the test's own; it ends with the last process in it.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    pub fn new() -> Self {
        let fd = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            File::open("/proc/thread-self/ns/net").expect("open netns")
        });
        let netns = Self(fd.join().expect("thread").into());
        // Addresses count at once, without looking for others that have them.
        netns.sh("ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/dad_transmits");
        netns
    }

    /// Runs in the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("setns");
                job()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn try_sh(&self, script: &str) -> Output {
        self.run(|| Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().expect("sh"))
    }

    /// Runs a script that must succeed; its standard output.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// A process in the namespace that is killed when dropped.
    pub fn spawn(&self, program: &str, args: &[&str]) -> Process {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process(self.run(|| command.spawn().expect(program)))
    }

    /// The body that `curl` gets, or `None`.
    pub fn curl(&self, url: &str) -> Option<String> {
        self.curl_within(url, 10)
    }

    /// Whether nothing answers there; a second tells, where an answer would take milliseconds.
    pub fn blocked(&self, url: &str) -> bool {
        self.curl_within(url, 1).is_none()
    }

    fn curl_within(&self, url: &str, seconds: u32) -> Option<String> {
        let output = self.try_sh(&format!("exec curl -sS --noproxy '*' --max-time {seconds} '{url}'"));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A web server whose only page is `text`.
    pub fn serve(&self, port: u16, text: &str) -> Server {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::write(directory.path().join("index.html"), text).expect("index.html");
        let home = directory.path().to_str().expect("UTF-8").to_owned();
        let process = self.spawn("busybox", &["httpd", "-f", "-p", &port.to_string(), "-h", &home]);
        let up = || self.run(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        wait_for("the web server", up);
        Server { process, directory }
    }

    /// Answers each datagram with `text` and the sender's address, for as long as the result lives.
    pub fn udp_server(&self, port: u16, text: &'static str) -> UdpServer {
        let socket = self.run(|| UdpSocket::bind(("0.0.0.0", port)).expect("bind"));
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (ours, stopped) = (socket.try_clone().expect("clone"), stop.clone());
        ours.set_read_timeout(Some(Duration::from_millis(20))).expect("timeout");
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((_, from)) = ours.recv_from(&mut buffer) {
                    let _ = ours.send_to(format!("{text} {from}").as_bytes(), from);
                }
            }
        });
        UdpServer { stop, thread: Some(thread) }
    }

    pub fn udp_socket(&self, address: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(address).expect("bind"));
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
        socket
    }

    /// Everything that longshore could leave: links, addresses, routes, rules. Whether a carrier is there, and what follows from
    /// that alone, shows up late and is left out.
    pub fn dump(&self) -> String {
        self.sh("{ ip -o link | sed 's/^[0-9]*: //' | sort; ip -o addr | sed 's/^[0-9]*: //'; \
                 ip route show table all | grep -v 'multicast ff00::/8'; ip neigh show nud permanent; nft list ruleset; } | \
                 sed 's/NO-CARRIER,//; s/,LOWER_UP//; s/ state [A-Z]*//; s/ linkdown//'")
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Compares two dumps, and shows only the lines that differ.
pub fn assert_same(before: &str, after: &str) {
    let gone: Vec<_> = before.lines().filter(|line| !after.lines().any(|l| l == *line)).collect();
    let new: Vec<_> = after.lines().filter(|line| !before.lines().any(|l| l == *line)).collect();
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

/// What `text` a UDP server answers, or `None`.
pub fn ask(socket: &UdpSocket, to: &str) -> Option<String> {
    let mut buffer = [0; 128];
    for _ in 0..3 {
        let to: SocketAddr = to.parse().expect("address");
        if socket.send_to(b"?", to).is_err() {
            continue;
        }
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    None
}

/// Asks until the answer begins so: a slow machine's answer to an earlier question may come first.
pub fn answered(socket: &UdpSocket, to: &str, text: &str) {
    wait_for(text, || ask(socket, to).is_some_and(|answer| answer.starts_with(text)));
}

pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Server {
    pub process: Process,
    pub directory: tempfile::TempDir,
}

pub struct UdpServer {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A host with an uplink to a client, which is its default route.
pub struct Lab {
    pub host: Netns,
    pub client: Netns,
    pub state: tempfile::TempDir,
}

/// Addresses of the link between the two.
pub const HOST: &str = "10.99.0.1";
pub const CLIENT: &str = "10.99.0.2";

impl Lab {
    pub fn new() -> Self {
        let (host, client) = (Netns::new(), Netns::new());
        let fd = std::os::fd::AsRawFd::as_raw_fd(&client.0);
        let pid = std::process::id();
        host.sh(&format!(
            "ip link add eth0 type veth peer name eth0 netns /proc/{pid}/fd/{fd}; \
             ip addr add {HOST}/24 dev eth0; ip link set eth0 addrgenmode none; ip link set eth0 up"
        ));
        client.sh(&format!(
            "ip addr add {CLIENT}/24 dev eth0; ip link set eth0 addrgenmode none; ip link set eth0 up"
        ));
        host.sh(&format!("ip route add default via {CLIENT}"));
        // Settled, so that a dump now compares with one later.
        client.sh(&format!("busybox ping -c1 -W2 {HOST} >/dev/null"));
        Self { host, client, state: tempfile::tempdir().expect("tempdir") }
    }

    pub fn open(&self, name: &str, options: &longshore_network::BridgeOptions) -> longshore_network::Bridge {
        self.host.run(|| longshore_network::Bridge::open(self.state.path(), name, options)).expect("open")
    }

    pub fn bridge(&self) -> longshore_network::Bridge {
        self.open("bridge", &longshore_network::BridgeOptions::default())
    }
}

/// A connection that is one in each direction.
pub fn roundtrip(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}
