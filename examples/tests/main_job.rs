//! The main job, word for word: pull a Debian image, build a web server on it with network, run it with a published port, look inside,
//! stop, start, remove, push; and strangers can read and run what was pushed.

#![expect(clippy::print_stdout, reason = "times are for the reader of the log")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Dockerd, Longshore, Registry, free_port, have, skip, succeed, wait_for};

const PAGE: &str = "Welcome to my web site";

#[test]
fn the_main_job() {
    if !common::root() {
        return skip("the main job needs a bridge network, and so root");
    }
    if !have(&["docker-registry", "skopeo", "ip", "nft"]) {
        return;
    }
    let Some(debian) = common::debian() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path());
    let (base, web) =
        (format!("{}/debian:bookworm", registry.address), format!("{}/web:v1", registry.address));
    common::skopeo_push(dir.path(), &debian, &base);

    let longshore = Longshore::new(dir.path().join("root"));
    let ids = run_web_server(&longshore, &base, dir.path());
    build_again(&longshore, dir.path());
    longshore.ok(&["tag", "webserver", &web]);
    longshore.ok(&["push", &web]);
    let seen = succeed(
        Command::new("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{web}")]),
        60,
    );
    assert!(seen.contains("\"Digest\": \"sha256:"), "{seen}");
    docker_runs(dir.path(), &web);

    let bridge = common::bridge_of(&longshore.root);
    assert!(!bridge.is_empty(), "the bridge that containers of this root are on");
    longshore.ok(&["network", "prune", "-f"]);
    drop(longshore);
    let mut words: Vec<&str> = ids.iter().map(String::as_str).collect();
    let root = dir.path().join("root").display().to_string();
    words.extend([root.as_str(), &bridge]);
    common::assert_no_traces(&words);
}

/// From `pull` to `rm`; the IDs of the containers that there were.
fn run_web_server(longshore: &Longshore, base: &str, dir: &std::path::Path) -> Vec<String> {
    longshore.ok(&["pull", base]);
    let dockerfile = format!(
        "FROM {base}\nRUN apt-get update\nRUN apt-get install -y apache2\nRUN echo \"{PAGE}\" > /var/www/html/index.html\nEXPOSE 80\n"
    );
    std::fs::create_dir(dir.join("context")).expect("the context");
    std::fs::write(dir.join("context/Dockerfile"), dockerfile).expect("the Dockerfile");
    succeed(longshore.command(&["build", "-t", "webserver", "."]).current_dir(dir.join("context")), 600);

    let port = free_port();
    let published = format!("{port}:80");
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        &published,
        "webserver",
        "/usr/sbin/apache2ctl",
        "-D",
        "FOREGROUND",
    ];
    let id = longshore.ok(&run).trim().to_owned();
    assert_eq!((id.len(), id.bytes().all(|b| b.is_ascii_hexdigit())), (64, true), "{id}");
    assert_served(port);

    let processes = longshore.ok(&["exec", "web", "ps", "-ef"]);
    assert!(processes.contains("apache2 -D FOREGROUND"), "{processes}");
    let logs = common::text(&longshore.run(&["logs", "web"]).stderr);
    assert!(logs.contains("AH00558") || logs.contains("ServerName"), "apache warns about its name: {logs}");
    let inspect: serde_json::Value = serde_json::from_str(&longshore.ok(&["inspect", "web"])).expect("JSON");
    assert_eq!((&inspect[0]["Id"], &inspect[0]["State"]["Status"]), (&id.clone().into(), &"running".into()));
    assert_eq!(inspect[0]["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], port.to_string());
    let row = longshore.ok(&["ps"]);
    assert!(row.contains("web") && row.contains(&format!("0.0.0.0:{port}->80/tcp")), "{row}");

    assert_eq!(longshore.ok(&["stop", "web"]).trim(), "web");
    let row = longshore.ok(&["ps", "-a"]);
    assert!(
        row.contains("Exited (0)") || row.contains("Exited (137)") || row.contains("Exited (143)"),
        "{row}"
    );
    assert_eq!(longshore.ok(&["start", "web"]).trim(), "web");
    assert_served(port);
    assert!(longshore.fails(1, &["rm", "web"]).contains("cannot remove"), "a running container stays");
    assert_eq!(longshore.ok(&["rm", "-f", "web"]).trim(), "web");
    assert_eq!(longshore.ok(&["ps", "-aq"]), "");
    vec![id]
}

/// The second build of the same Dockerfile takes everything from the cache and says so.
fn build_again(longshore: &Longshore, dir: &std::path::Path) {
    let started = Instant::now();
    let again = common::output(
        longshore.command(&["build", "-t", "webserver", "."]).current_dir(dir.join("context")),
        60,
    );
    let said = common::text(&again.stderr);
    println!("the second build took {:?}", started.elapsed());
    assert!(
        again.status.success() && said.matches("CACHED").count() >= 3 && said.contains(" 0 executed"),
        "{said}"
    );
}

/// A real dockerd pulls and runs what longshore pushed.
fn docker_runs(dir: &std::path::Path, web: &str) {
    if !have(&["dockerd", "docker"]) {
        return;
    }
    let docker = Dockerd::start(dir);
    succeed(&mut docker.command(&["pull", "-q", web]), 120);
    let page = succeed(
        &mut docker.command(&["run", "--rm", "--network", "none", web, "cat", "/var/www/html/index.html"]),
        60,
    );
    assert_eq!(page.trim(), PAGE);
}

fn assert_served(port: u16) {
    let mut answer = String::new();
    let served = wait_for(Duration::from_secs(10), || {
        answer = fetch(port).unwrap_or_else(|e| e.to_string());
        answer.contains(PAGE)
    });
    assert!(served, "port {port}: {answer}");
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
