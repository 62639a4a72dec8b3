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

/// Played with `$D` as docker, whose daemon shares the network namespace, and as longshore.
const CONNECT: &str = r##"
say() { sed -e 's/^longshore: //' -e 's/^Error response from daemon: //' -e 's/[0-9a-f]\{64\}/ID/g'; }
ping() { $D exec $1 ping -c 1 -W 10 $2 2>/dev/null | grep -o '1 packets received\|bad address' || echo no answer; }
reach() { curl -sm 20 http://127.0.0.1:18080/text; $D port web | grep -c 0.0.0.0:18080; }
links() { $D exec $1 ls /sys/class/net | grep -c eth; }
of() { $D inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' $1; }
$D network create --subnet 10.88.0.0/24 back > $W/id; $D network create --subnet 10.89.0.0/24 front > $W/id
$D run -d --name web --network front --network-alias www -p 18080:80 bb httpd -f -h / > $W/id; short=$(cut -c1-12 $W/id)
$D run -d --name db --network back bb sleep 1000 > $W/id; $D run -d --name lone bb sleep 1000 > $W/id
echo apart; $D exec db ping -c 1 -W 2 web > /dev/null 2>&1; echo $?
echo connected; $D network connect --alias site --ip 10.88.0.77 back web; of web; links web
ping db web; ping db site; ping db $short; ping db 10.88.0.77; $D exec db ping -c 1 -W 2 www > /dev/null 2>&1; echo $?
$D inspect -f '{{.NetworkSettings.Networks.back.IPAddress}} {{.NetworkSettings.Networks.back.Gateway}} {{.NetworkSettings.Networks.back.IPAMConfig.IPv4Address}} {{.HostConfig.NetworkMode}}' web
$D exec web grep -c '10\.8[89]\.' /etc/hosts; $D ps -f network=back --format '{{.Names}}' | sort | tr '\n' ' '
$D network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}} {{end}}' front; $D network rm back > /dev/null 2>&1; echo $?
echo refused
$D network connect back web 2>&1 | say; $D network connect nope web 2>&1 | say; $D network connect back nope 2>&1 | say
$D network connect --alias x bridge web 2>&1 | say; $D network connect --ip 172.17.0.9 bridge web 2>&1 | say
$D network connect host web 2>&1 | say; $D network disconnect bridge web 2>&1 | say
$D run -d --name on-host --network host bb sleep 1000 > $W/id; $D network connect back on-host 2>&1 | say; $D rm -f on-host
$D run -d --name with-none --network none bb sleep 1000 > $W/id; $D network connect back with-none 2>&1 | say; $D rm -f with-none
echo published; reach
echo left; $D network disconnect front web; of web; reach; links web; $D exec web ip route | grep -c 'default via 10.88.0.1'; ping db web
echo stopped; $D stop -t 0 web; $D network connect front web; $D start web; links web; reach; ping db web; of web | tr ' ' '\n' | grep -c '^10\.8[89]\.'
$D network disconnect back web; reach; $D restart -t 0 web; links web; reach; $D network disconnect front web; $D port web; $D network connect front web; reach; $D exec web ip route | grep -c 'default via 10.89.0.1'
echo default; $D network connect back lone; ping lone db; $D exec lone grep -c 'nameserver 127.0.0.11' /etc/resolv.conf; $D network disconnect back lone
$D network disconnect bridge lone; links lone; $D network connect bridge lone; links lone
$D run --rm --network front --mac-address 02:00:00:00:12:34 bb cat /sys/class/net/eth0/address
$D network ls -f type=custom --format '{{.Name}} {{.Driver}}' | sort
$D rm -f web db lone; $D network prune -f | grep -c 'back\|front'
"##;

/// Played after [`CONNECT`]: addresses that are planned, labels, filters.
const PLAN: &str = r##"
echo planned; $D network create --subnet 10.90.0.0/16 --gateway 10.90.9.9 --ip-range 10.90.5.7/24 --aux-address a=10.90.5.1 --aux-address b=10.90.7.7 --label x=y --label z plan > $W/id
$D network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{.AuxiliaryAddresses.a}} {{.AuxiliaryAddresses.b}} {{end}}{{json .Labels}} {{.Internal}} {{.EnableIPv6}} {{.Attachable}} {{.ConfigOnly}} {{.IPAM.Driver}}' plan
$D run --rm --network plan bb sh -c 'ip route | grep -o "default via [0-9.]*"; ip addr show eth0 | grep -o "inet 10\.90\.5\."'
$D run --rm --network plan --ip 10.90.200.1 bb ip addr show eth0 | grep -o 'inet [0-9./]*'
for taken in 10.90.7.7 10.90.5.1 10.90.9.9; do $D run --rm --network plan --ip $taken bb true > $W/out 2>&1; echo $?; grep -ic 'already in use' $W/out; done
try() { $D network create "$@" no > $W/out 2>&1; echo $?; head -1 $W/out | say; }
try --gateway 10.91.0.1; try --ip-range 10.91.0.0/24
try --subnet 10.91.0.0/16 --gateway 10.92.0.1; try --subnet 10.91.0.0/16 --ip-range 10.92.0.0/24; try --subnet 10.91.0.0/16 --aux-address a=10.92.0.5
try --subnet 10.91.0.0/16 --gateway x; try --subnet 10.91.0.0/16 --ip-range x; try --subnet 10.91.0.0/16 --aux-address a
try --subnet 10.91.0.0/16 --subnet 10.91.4.0/24; try --subnet 10.91.0.0/16 --subnet 10.92.0.0/16; try --label =a
try --subnet 10.91.0.0/16 --gateway 10.91.0.1 --gateway 10.91.0.2; try --subnet 10.91.0.0/16 --ip-range 10.91.1.0/24 --ip-range 10.91.2.0/24
echo labels; $D network create --internal --label x=n other > $W/id
for filter in label=x label=x=y label=z label=no; do $D network ls -f $filter --format '{{.Name}} {{.Internal}} {{.IPv6}}' | sort | tr '\n' ';'; done; echo; $D network ls -f name=other --format '{{.Labels}}'
$D network prune -f --filter label=x=no; $D network prune -f --filter label!=x --filter until=1h; $D network prune -f --filter label=x=n
$D network prune -f --filter no=1 > $W/out 2>&1; echo $?; $D network prune -f --filter until=1h --filter label=x
$D create --label keep=1 bb true > $W/id; $D create --label go=1 bb true > $W/id; $D volume create --label go=1 named > $W/id
$D system prune -f --volumes --filter until=1h 2>&1 | say; $D system prune -f --filter no=1 > $W/out 2>&1; echo $?
$D system prune -f --filter label=go=1 --filter label!=keep | sed 's/[0-9a-f]\{64\}/ID/; s/space: .*//'; $D ps -aq | wc -l
$D system prune -f --filter label=x=y | sed 's/space: .*//'; $D network ls -q -f name=plan
for filter in until=1h no=1; do $D volume prune -f --filter $filter > $W/out 2>&1; echo $?; done; $D volume prune -f --filter label=no | grep -c reclaimed; $D volume ls -q
$D rm -f $($D ps -aq) > $W/out
"##;

/// Runs [`CONNECT`] and [`PLAN`] in a network namespace of its own.
const AROUND: &str = r#"
ip link set lo up; mkdir "$W"
if test -n "$DOCKERD"; then
    $DOCKERD > "$W/log" 2>&1 & daemon=$!; trap 'kill $daemon; wait $daemon' EXIT
    for n in $(seq 300); do $D version > /dev/null 2>&1 && break; sleep 0.2; done
fi
$D import -c 'CMD ["sh"]' "$TAR" bb > "$W/id"
sh -c "$SCENE" 2>&1
$D ps -aq | xargs -r $D rm -f; test -n "$DOCKERD" || $D network prune -f > /dev/null
ip -br link | grep -v 'lo\|docker0' | wc -l
"#;

#[test]
fn containers_come_and_go_as_with_docker() {
    if !common::root() {
        return skip("bridges need root");
    }
    if !have(&["unshare", "ip", "busybox", "curl", "dockerd", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let tar = common::busybox(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let play = |name: &str, program: &str, daemon: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "sh", "-c", AROUND])
            .env("D", program)
            .env("W", path(name))
            .env("TAR", &tar);
        succeed(command.env("DOCKERD", daemon).env("SCENE", format!("{CONNECT}{PLAN}")), 240)
    };
    std::fs::write(path("daemon.json"), "{}").expect("daemon.json");
    let daemon = format!(
        "dockerd --iptables=false --data-root {0} --exec-root {1} -p {2} -H unix://{3} --config-file {4}",
        path("data"),
        path("exec"),
        path("pid"),
        path("sock"),
        path("daemon.json")
    );
    let docker = format!("/usr/bin/docker -H unix://{}", path("sock"));
    let ours = format!("{} --root {}", example("longshore").display(), path("root"));
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| play("docker", &docker, &daemon));
        (play("longshore", &ours, ""), theirs.join().expect("docker's part"))
    });
    assert_eq!(ours, theirs, "\n{ours}\n--- docker:\n{theirs}");
    common::assert_no_traces(&[&dir.path().display().to_string()]);
}

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
