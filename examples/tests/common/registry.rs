//! Debian's registry, and images to put into it.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::{Longshore, Server, free_port, succeed, wait_for};

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
        wait_for(Duration::from_secs(20), || TcpStream::connect(&address).is_ok()),
        "the registry does not listen"
    );
    (address, server)
}

/// Requests that the registry has answered so far.
pub(crate) fn requests(dir: &Path) -> usize {
    std::thread::sleep(Duration::from_millis(200));
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    log.lines().filter(|l| l.contains("HTTP/1.1\" ")).count()
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
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("its input");
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
