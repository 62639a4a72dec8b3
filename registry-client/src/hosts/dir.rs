use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file::hosts_toml;
use super::{HostConfig, Hosts, pem, unreadable};
use crate::Result;
use crate::transport::TlsOptions;

/// Directories with a sub-directory per registry: containerd's `hosts.toml` and Docker's `certs.d`.
///
/// For `reg.example:5000` the sub-directories `reg.example:5000` and `reg.example_5000_` are tried, then `_default` (for `hosts.toml`
/// only), in each directory in turn; the first one that exists decides.
/// - With a `hosts.toml` in it: its hosts are mirrors, in the order of the file; its `server` (or else the registry) is asked last.
///   `capabilities`, `ca`, `client`, `skip_verify`, `header` and `override_path` are understood; other settings do nothing, and these
///   with values that they cannot have are errors. Pushes go to the server only.
/// - Otherwise: `*.crt` are roots to trust instead of the built-in ones, `NAME.cert` with `NAME.key` is a client certificate.
///
/// Files are looked into when they are read: an [`Error::Config`](crate::Error::Config) names the one at fault.
#[derive(Clone, Debug, Default)]
pub struct HostsDir(Vec<PathBuf>);

impl HostsDir {
    /// Reads these directories, the first one first (`/etc/containerd/certs.d`, `/etc/docker/certs.d`).
    pub fn new<P: Into<PathBuf>>(directories: impl IntoIterator<Item = P>) -> Self {
        Self(directories.into_iter().map(Into::into).collect())
    }
}

impl Hosts for HostsDir {
    fn get(&self, registry: &str) -> Result<Option<HostConfig>> {
        if registry.contains(['/', '\\']) || registry.starts_with('.') {
            return Ok(None);
        }
        let escaped = match registry.rsplit_once(':') {
            Some((host, port)) => format!("{host}_{port}_"),
            None => registry.to_owned(),
        };
        for directory in &self.0 {
            for name in [registry, &escaped] {
                let directory = directory.join(name);
                if let Some(found) = hosts_toml(&directory, registry)? {
                    return Ok(Some(found));
                }
                if let Some(found) = certificates(&directory, registry)? {
                    return Ok(Some(found));
                }
            }
            if let Some(found) = hosts_toml(&directory.join("_default"), registry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn certificates(directory: &Path, registry: &str) -> Result<Option<HostConfig>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        entries => entries.map_err(|e| unreadable(directory, e))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(|e| unreadable(directory, e))?.path());
    }
    files.sort();
    let (mut tls, mut special) = (TlsOptions::new(), false);
    for file in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls = tls.roots_pem(pem::roots(file)?),
            Some("cert") => {
                let (chain, key) = pem::client(file, &file.with_extension("key"))?;
                tls = tls.client_pem(chain, key);
            }
            _ => continue,
        }
        special = true;
    }
    let mut config = HostConfig::default_for(registry, false)?;
    if special {
        config.server.tls = Some(tls);
        config.require_tls();
    }
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::pem::samples::{CERTIFICATE, KEY, OLD_CERTIFICATE, OTHER_KEY};
    use super::*;

    #[test]
    fn reads_containerds_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("docker.io");
        fs::create_dir(&at).unwrap();
        fs::write(at.join("hosts.toml"), "[host.\"https://m.example\"]\n").unwrap();
        let hosts = HostsDir::new([dir.path().join("missing"), dir.path().to_owned()]);
        assert_eq!(hosts.get("docker.io").unwrap().unwrap().mirrors.len(), 1);
        assert!(hosts.get("quay.io").unwrap().is_none());
        assert!(hosts.get("../docker.io").unwrap().is_none());
        fs::write(at.join("hosts.toml"), "\nserver = ").unwrap();
        assert!(hosts.get("docker.io").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn reads_dockers_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("127.0.0.1_5000_");
        fs::create_dir(&at).unwrap();
        for (name, text) in [("a.crt", CERTIFICATE), ("c.cert", CERTIFICATE), ("c.key", KEY), ("README", "x")]
        {
            fs::write(at.join(name), text).unwrap();
        }
        let read = || HostsDir::new([dir.path()]).get("127.0.0.1:5000").map(Option::unwrap);
        let config = read().unwrap();
        assert_eq!(config.server.url.to_string(), "https://127.0.0.1:5000/v2");
        assert!(!config.server.flexible);
        let tls = config.server.tls.unwrap();
        assert!(tls.client().is_some() && tls.roots().len() == 1);
        let spoilt = |name: &str, text: &str, wanted: &str| {
            let before = fs::read(at.join(name)).unwrap();
            fs::write(at.join(name), text).unwrap();
            let said = read().unwrap_err().to_string();
            assert!(said.starts_with(at.join(name).to_str().unwrap()) && said.contains(wanted), "{said}");
            fs::write(at.join(name), before).unwrap();
        };
        spoilt("a.crt", "x", "cannot be used as certificates");
        spoilt("a.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "as certificates");
        spoilt("c.cert", KEY, "cannot be used as certificates");
        spoilt("c.cert", OLD_CERTIFICATE, "a client's certificate, which has to be of X.509 version 3");
        spoilt("c.key", CERTIFICATE, "cannot be used as a private key");
        spoilt("c.key", OTHER_KEY, "it is not the key of");
        fs::remove_file(at.join("c.key")).unwrap();
        assert!(read().unwrap_err().to_string().contains("c.key: it is missing"));
    }
}
