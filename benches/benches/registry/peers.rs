//! skopeo and podman, each without what it remembers of other runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore_benches::{BoxError, Sample, command};

/// With `home` for its memory of which blobs are where. As root it would keep that in /var/lib whatever HOME is, so it is told to be
/// somebody else's.
pub(crate) fn skopeo(home: &Path, verify: &str, from: &str, to: &str) -> Result<Sample, BoxError> {
    let mut skopeo = Command::new("skopeo");
    skopeo.env("_CONTAINERS_ROOTLESS_UID", "1000").env("HOME", home).env("XDG_DATA_HOME", home);
    command(skopeo.args(["copy", "-q", "--insecure-policy", verify, from, to]))
}

/// A podman store of its own.
pub(crate) struct Podman(PathBuf);

impl Podman {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub(crate) fn pull(&self, reference: &str) -> Result<Sample, BoxError> {
        command(self.command().args(["pull", "-q", "--tls-verify=false", reference]))
    }

    /// Takes in an image to push, and returns its ID.
    pub(crate) fn take(&self, reference: &str) -> Result<String, BoxError> {
        let output = self.command().args(["pull", "-q", "--tls-verify=false", reference]).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    pub(crate) fn push(&self, image: &str, reference: &str) -> Result<Sample, BoxError> {
        command(self.command().args([
            "push",
            "-q",
            "--tls-verify=false",
            image,
            &format!("docker://{reference}"),
        ]))
    }

    /// As root it keeps what it knows of where blobs are in /var/lib, whatever its store is: that is hidden from it, as the mounts that
    /// it leaves are from others.
    fn command(&self) -> Command {
        let script = "mkdir -p /var/lib/containers/cache && mount -t tmpfs none /var/lib/containers/cache && exec podman \"$@\"";
        let at = |name: &str| self.0.join(name).display().to_string();
        let mut podman = Command::new("unshare");
        podman.args(["-m", "sh", "-c", script, "podman", "--root", &at("root"), "--runroot", &at("run")]);
        podman.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        podman
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut remove = self.command();
        let _ = remove.args(["rmi", "-af"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
