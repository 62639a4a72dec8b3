//! Debian's registry, and images to put into it.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::{Longshore, Server, free_port, have, succeed, wait_for};

/// `s3cret`, for the name `user`.
pub(crate) const HTPASSWD: &str = "user:$2b$05$6ZFbdkfo.3UPfazCuI/yxO/6MSrq7XczlrO9su4SNZZwkGXRHx9Mm\n";

/// docker-registry with further configuration, `listens` when it does.
pub(crate) fn registry(dir: &Path, more: &serde_json::Value) -> (String, Server) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut config = serde_json::json!({
        "version": "0.1", "log": {"level": "info", "accesslog": {"disabled": false}},
        "storage": {"filesystem": {"rootdirectory": dir.join("registry")}, "delete": {"enabled": true}},
        "http": {"addr": address},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        match config[key].as_object_mut() {
            Some(map) => map.extend(value.as_object().cloned().unwrap_or_default()),
            None => config[key] = value.clone(),
        }
    }
    let file = dir.join("registry.yml");
    std::fs::write(&file, config.to_string()).expect("the registry's configuration");
    let script = format!("exec docker-registry serve {} >{} 2>&1", file.display(), dir.join("log").display());
    let server = Server::start(Command::new("sh").args(["-c", &script]));
    assert!(
        wait_for(Duration::from_secs(60), || TcpStream::connect(&address).is_ok()),
        "the registry does not listen"
    );
    (address, server)
}

/// A directory with a registry in it, and a `longshore` beside that.
pub(crate) struct Beside {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) _server: Server,
    pub(crate) longshore: Longshore,
}

/// `None`, and said, where the registry or one of these programs is not installed.
pub(crate) fn beside_a_registry(programs: &[&str]) -> Option<Beside> {
    if !have(&[&["docker-registry"], programs].concat()) {
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (address, _server) = registry(dir.path(), &serde_json::json!({}));
    let longshore = Longshore::new(dir.path().join("root"));
    Some(Beside { dir, address, _server, longshore })
}

/// Requests that the registry has answered so far. It may note one a little after it has answered, so one more is waited for.
pub(crate) fn requests(dir: &Path, address: &str) -> usize {
    let noted = || {
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        let answered = |line: &&str| line.contains("HTTP/1.1\" ");
        let (marks, others): (Vec<_>, Vec<_>) =
            log.lines().filter(answered).partition(|l| l.contains("/mark"));
        (marks.len(), others.len())
    };
    std::thread::sleep(Duration::from_millis(200));
    let before = noted().0;
    let mut stream = TcpStream::connect(address).expect("the registry");
    write!(stream, "GET /v2/mark/tags/list HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .expect("a request");
    assert!(wait_for(Duration::from_secs(60), || noted().0 > before), "the registry answers");
    noted().1
}

/// Runs it with a home of its own and this on its standard input.
pub(crate) fn with_input(longshore: &Longshore, home: &Path, args: &[&str], input: &str) -> Output {
    let mut command = longshore.command(args);
    command
        .env("HOME", home)
        .env("DOCKER_CONFIG", home.join("docker"))
        .env("XDG_CONFIG_HOME", home.join("config"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("longshore starts");
    match child.stdin.take().expect("piped").write_all(input.as_bytes()) {
        // It may end without having asked for it.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        written => written.expect("its input"),
    }
    child.wait_with_output().expect("it ends")
}

/// An image of one layer of about this size, which does not compress, as `name` in the store.
pub(crate) fn import(longshore: &Longshore, dir: &Path, name: &str, size: usize) {
    let file = dir.join("file");
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let noise: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| next()).collect();
    std::fs::write(&file, noise).expect("a file");
    let tar = dir.join("import.tar");
    succeed(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(&tar).arg("file"), 30);
    longshore.ok(&["import", &tar.display().to_string(), name]);
}
