//! An ordinary user with a range in `/etc/subuid`: files of other owners in images, containers and builds, `apt-get` in `RUN`.

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{copy_program, have, output, root, skip, succeed, text};

/// A user of this machine with ids 100000 to 165535, in a home of its own.
struct User {
    home: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("scratch directory");
        let user = Self { home };
        copy_program("longshore", &user.path("longshore"));
        fs::write(user.path("ranges"), "1000:100000:65536\n").expect("write");
        chown(user.home.path(), Some(1000), Some(1000)).expect("chown");
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let script = r#"
            mount --make-rprivate /
            mount --bind "$HOME/ranges" /etc/subuid
            mount --bind "$HOME/ranges" /etc/subgid
            cd "$HOME"; exec setpriv --reuid 1000 --regid 1000 --clear-groups ./longshore "$@"
        "#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script, "sh"]).args(args);
        command.env("HOME", self.home.path()).env_remove("XDG_DATA_HOME").env_remove("XDG_CONFIG_HOME");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        output(&mut self.command(args), 300)
    }

    fn ok(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args), 300)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let all = text(&self.run(&["ps", "-aq"]).stdout);
        let ids: Vec<&str> = all.split_whitespace().collect();
        if !ids.is_empty() {
            self.run(&[&["rm", "-fv"], ids.as_slice()].concat());
        }
    }
}

/// A package whose only file belongs to a user that it makes itself.
fn package(dir: &Path) {
    let script = r#"
        mkdir -p p/DEBIAN p/srv/own
        printf 'Package: foreign\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.com>\nDescription: foreign\n' > p/DEBIAN/control
        printf '#!/bin/sh\nuseradd --system foreign && chown foreign: /srv/own\n' > p/DEBIAN/postinst
        chmod 755 p/DEBIAN/postinst; dpkg-deb --build p foreign.deb; rm -r p
    "#;
    succeed(Command::new("sh").args(["-ec", script]).current_dir(dir), 60);
}

#[test]
fn files_of_other_owners() {
    if !root() {
        return skip("needs root to become an ordinary user with a range of ids");
    }
    if !have(&["setpriv", "unshare", "newuidmap", "dpkg-deb"]) {
        return;
    }
    let Some(debian) = std::env::var_os("LONGSHORE_DEBIAN_TAR") else {
        return skip("LONGSHORE_DEBIAN_TAR names no Debian tar");
    };
    let user = User::new();
    // The tar's own directory may be closed to the user.
    fs::copy(&debian, user.path("debian.tar")).expect("copy");
    chown(user.path("debian.tar"), Some(1000), Some(1000)).expect("chown");
    user.ok(&["import", "debian.tar", "debian"]);

    // A build in which dpkg makes users and gives them files.
    fs::create_dir(user.path("context")).expect("mkdir");
    package(&user.path("context"));
    let dockerfile = "FROM debian\nCOPY --chown=www-data:42 foreign.deb /srv/\n\
                      RUN apt-get install -y /srv/foreign.deb\nUSER www-data\nRUN touch /tmp/mine\n";
    fs::write(user.path("context/Dockerfile"), dockerfile).expect("write");
    user.ok(&["build", "-q", "-t", "built", "context"]);
    let said = user.ok(&[
        "run",
        "--rm",
        "built",
        "sh",
        "-c",
        "id -un; stat -c %U:%G /srv/foreign.deb /srv/own /tmp/mine /etc/shadow",
    ]);
    let wanted = "www-data\nwww-data:shadow\nforeign:foreign\nwww-data:www-data\nroot:shadow\n";
    assert_eq!(said, wanted);

    // A container that runs: other invocations of the program enter it, and what it leaves is committed.
    user.ok(&["run", "-d", "--name", "web", "-u", "www-data", "built", "sleep", "1000"]);
    user.ok(&["exec", "-u", "root", "web", "sh", "-c", "touch /srv/new; chown _apt:games /srv/new"]);
    assert!(user.ok(&["top", "web"]).contains("100032"));
    fs::write(user.path("file"), "copied").expect("write");
    user.ok(&["cp", "file", "web:/srv/"]);
    assert_eq!(user.ok(&["exec", "web", "cat", "/srv/file"]), "copied");
    user.ok(&["restart", "-t", "0", "web"]);
    // No cgroup is delegated to the user, so nothing can be paused.
    user.ok(&["commit", "--pause=false", "web", "local/after"]);
    user.ok(&["rm", "-f", "web"]);
    let said = user.ok(&["run", "--rm", "local/after", "stat", "-c", "%U:%G", "/srv/new", "/srv/file"]);
    assert_eq!(said, "_apt:games\nroot:root\n");

    // What was removed is gone, whoever owned it.
    user.ok(&["system", "prune", "-af"]);
    let store = user.path(".local/share/longshore/image");
    for empty in ["tmp", "layers", "snapshots"] {
        let left: Vec<_> = fs::read_dir(store.join(empty)).expect(empty).flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
