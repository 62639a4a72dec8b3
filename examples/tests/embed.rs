//! The embedding example leaves nothing, whatever becomes of its command, and takes away what a killed run of it has left.

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Registry, example, have, output, skip, succeed, text};

#[test]
fn nothing_stays() {
    if !common::root() {
        return skip("the embedding example needs root");
    }
    if !have(&["docker-registry", "skopeo", "ip", "nft", "busybox"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path());
    let image = format!("{}/busybox:latest", registry.address);
    common::skopeo_push(dir.path(), &layer(dir.path()), &image);
    let embed = Embed { image, root: dir.path().join("embed") };

    assert!(succeed(&mut embed.command(&["busybox", "true"]), 60).contains("exit code 0"));
    embed.assert_clean();
    assert!(succeed(&mut embed.command(&["busybox", "sh", "-c", "exit 3"]), 60).contains("exit code 3"));
    embed.assert_clean();
    let failed = output(&mut embed.command(&["no-such-program"]), 60);
    assert!(!failed.status.success() && text(&failed.stderr).contains("no-such-program"), "{failed:?}");
    embed.assert_clean();
    // Not a program: that shows only when it is to be run.
    let failed = output(&mut embed.command(&["/etc/broken"]), 60);
    assert!(!failed.status.success() && text(&failed.stdout).contains("publishes"), "{failed:?}");
    embed.assert_clean();

    let mut command = embed.command(&["busybox", "sleep", "1000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("embed");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its first line");
    assert!(line.contains("publishes"), "{line}");
    let bridge = common::bridge_of(&embed.root);
    // Not SIGINT, which whoever runs the tests in the background has ignored.
    succeed(Command::new("kill").args(["-TERM", &child.id().to_string()]), 10);
    assert!(!child.wait().expect("its end").success());
    assert!(!common::traces(&[&bridge]).is_empty(), "there is something to take away");
    succeed(&mut embed.command(&["busybox", "true"]), 60);
    common::assert_no_traces(&[&bridge]);
    embed.assert_clean();
}

/// A root file system of busybox alone.
fn layer(dir: &Path) -> PathBuf {
    let path = dir.join("busybox.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).expect("the layer"));
    tar.append_path_with_name("/bin/busybox", "bin/busybox").expect("busybox");
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o755);
    tar.append_data(&mut header, "etc/broken", &b"\0\0\0\0"[..]).expect("a broken program");
    for name in ["dev", "proc", "sys", "tmp"] {
        tar.append_dir(name, dir).expect("a directory");
    }
    tar.finish().expect("the layer's end");
    path
}

struct Embed {
    image: String,
    root: PathBuf,
}

impl Embed {
    fn command(&self, command: &[&str]) -> Command {
        let mut embed = Command::new(example("embed"));
        embed.arg(&self.image).arg(&self.root).args(command);
        embed
    }

    fn assert_clean(&self) {
        common::assert_no_traces(&[&self.root.display().to_string()]);
        let found = succeed(Command::new("find").arg(&self.root).args(["-name", "web"]), 10);
        assert_eq!(found, "");
    }
}

/// A test that fails leaves nothing either.
impl Drop for Embed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.command(&["busybox", "true"]).output();
        }
    }
}
