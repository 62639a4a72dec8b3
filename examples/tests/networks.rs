//! Networks of the program, on a host whose routes change.

mod common;

use std::process::Command;

use common::{example, have, skip, succeed};

/// A VPN comes up while containers run: they stop, start and go as before, and so do others.
const SCRIPT: &str = r#"
set -e
ip link set lo up; ip link add uplink type veth peer name far; ip link set far up; ip addr add 10.99.0.1/24 dev uplink; ip link set uplink up
ip -br link | sed 's/ .*//' > "$WORK/before"
L() { "$PROGRAM" --root "$WORK/root" "$@"; }
trap 'L rm -f web passing > /dev/null 2>&1 || true' EXIT
L import "$WORK/busybox.tar" box > /dev/null
L run -d --name web -p 8080:80 box busybox sleep 1000 > /dev/null
L run -d --rm --name passing box busybox sleep 1000 > /dev/null
for to in 0.0.0.0/1 128.0.0.0/1 172.16.0.0/12; do ip route add $to via 10.99.0.2; done
L run --rm box busybox echo runs
L kill passing
L stop -t 0 web
L ps -a --format '{{.Names}} {{.State}}'
L start web
L network inspect -f '{{.Name}} {{.Driver}}' bridge
L rm -f web
L network prune -f
ip -br link | sed 's/ .*//' > "$WORK/after"
nft list ruleset
"#;

#[test]
fn a_route_that_comes_later_stops_no_container() {
    if !common::root() {
        return skip("bridges need root");
    }
    if !have(&["unshare", "ip", "nft", "busybox"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = std::fs::File::create(dir.path().join("busybox.tar")).expect("the image");
    let mut tar = tar::Builder::new(file);
    tar.append_path_with_name("/bin/busybox", "bin/busybox").expect("busybox");
    tar.finish().expect("the image's end");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", SCRIPT]);
    let said = succeed(command.env("WORK", dir.path()).env("PROGRAM", example("longshore")), 90);
    let lines: Vec<_> = said.trim_end().lines().collect();
    assert_eq!(
        lines,
        [
            "runs",
            "passing",
            "web",
            "web exited",
            "web",
            "bridge bridge",
            "web",
            "Deleted Networks:",
            "bridge"
        ]
    );
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("what the script saw");
    assert_eq!(read("before"), read("after"));
    common::assert_no_traces(&[&dir.path().display().to_string()]);
}
