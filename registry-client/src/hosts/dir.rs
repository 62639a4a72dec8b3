use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::toml::{self, Table, Value, get};
use super::{Host, HostConfig, Hosts};
use crate::transport::TlsOptions;
use crate::{Error, Result};

const FILE_MAX: u64 = 1 << 20;

/// Directories with a sub-directory per registry: containerd's `hosts.toml` and Docker's `certs.d`.
///
/// For `reg.example:5000` the sub-directories `reg.example:5000` and `reg.example_5000_` are tried, then `_default` (for `hosts.toml`
/// only), in each directory in turn; the first one that exists decides.
/// - With a `hosts.toml` in it: its hosts are mirrors, in the order of the file; its `server` (or else the registry) is asked last.
///   `capabilities`, `ca`, `client`, `skip_verify`, `header` and `override_path` are understood. Pushes go to the server only.
/// - Otherwise: `*.crt` are roots to trust instead of the built-in ones, `NAME.cert` with `NAME.key` is a client certificate.
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

fn hosts_toml(directory: &Path, registry: &str) -> Result<Option<HostConfig>> {
    let path = directory.join("hosts.toml");
    let Some(bytes) = read(&path)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(&path, "it is not UTF-8"))?;
    let root = toml::parse(text).map_err(|f| bad(&path, &format!("line {}: {}", f.line, f.reason)))?;
    let reader = Reader { path: &path, directory };
    let mut config = match string(get(&root, "server")) {
        Some(server) => HostConfig::new(reader.host(server, &root)?),
        None => {
            let mut config = HostConfig::default_for(registry, false)?;
            reader.settle(&root, &mut config.server)?;
            config.require_tls();
            config
        }
    };
    if let Some(Value::Table(hosts)) = get(&root, "host") {
        for (url, settings) in hosts {
            let Value::Table(settings) = settings else { return Err(bad(&path, "a host is no table")) };
            config.mirrors.push(reader.host(url, settings)?);
        }
    }
    Ok(Some(config))
}

struct Reader<'a> {
    path: &'a Path,
    directory: &'a Path,
}

impl Reader<'_> {
    fn host(&self, url: &str, settings: &Table) -> Result<Host> {
        let mut host = Host::new(&with_scheme(url))?;
        let overridden = matches!(get(settings, "override_path"), Some(Value::Bool(true)));
        let path = host.url.path().trim_end_matches('/').to_owned();
        if !overridden && !path.ends_with("/v2") {
            host.url = host.url.join(&format!("{path}/v2"))?;
        }
        self.settle(settings, &mut host)?;
        Ok(host)
    }

    fn settle(&self, settings: &Table, host: &mut Host) -> Result<()> {
        if let Some(value) = get(settings, "capabilities") {
            let capabilities = strings(value).ok_or_else(|| self.bad("capabilities are strings"))?;
            let can = |what| capabilities.contains(&what);
            (host.pull, host.resolve, host.push) = (can("pull"), can("resolve"), can("push"));
        }
        self.apply(settings, host)
    }

    fn apply(&self, settings: &Table, host: &mut Host) -> Result<()> {
        let mut tls = TlsOptions::new();
        let mut special = false;
        if let Some(value) = get(settings, "ca") {
            for file in strings(value).ok_or_else(|| self.bad("ca names files"))? {
                tls = tls.roots_pem(self.file(file)?);
                special = true;
            }
        }
        if let Some((chain, key)) = self.client(settings)? {
            tls = tls.client_pem(chain, key);
            special = true;
        }
        if matches!(get(settings, "skip_verify"), Some(Value::Bool(true))) {
            tls = tls.skip_verify();
            special = true;
        }
        if special {
            host.tls = Some(tls);
        }
        if let Some(Value::Table(headers)) = get(settings, "header") {
            for (name, value) in headers {
                for value in strings(value).ok_or_else(|| self.bad("headers are strings"))? {
                    host.headers.push(name, value);
                }
            }
        }
        Ok(())
    }

    /// `client = "both.pem"`, `["cert.pem", "key.pem"]` or `[["cert.pem", "key.pem"]]`; the first pair counts.
    fn client(&self, settings: &Table) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let Some(value) = get(settings, "client") else { return Ok(None) };
        let names = match value {
            Value::Array(pairs) if matches!(pairs.first(), Some(Value::Array(_))) => strings(&pairs[0]),
            other => strings(other),
        };
        match names.as_deref() {
            Some([both]) => self.file(both).map(|pem| Some((pem.clone(), pem))),
            Some([chain, key, ..]) if !key.is_empty() => Ok(Some((self.file(chain)?, self.file(key)?))),
            Some([chain, ..]) => self.file(chain).map(|pem| Some((pem.clone(), pem))),
            _ => Err(self.bad("client names files")),
        }
    }

    fn file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
        read(&path)?.ok_or_else(|| bad(&path, "it is missing"))
    }

    fn bad(&self, reason: &str) -> Error {
        bad(self.path, reason)
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
    let load = |path: &Path| read(path)?.ok_or_else(|| bad(path, "it is missing"));
    for file in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls = tls.roots_pem(load(file)?),
            Some("cert") => tls = tls.client_pem(load(file)?, load(&file.with_extension("key"))?),
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

fn string(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// One string, or several.
fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(items) => items.iter().map(|v| string(Some(v))).collect(),
        _ => None,
    }
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("https://{url}") }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    use io::Read as _;
    let file = match fs::File::open(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened.map_err(|e| unreadable(path, e))?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
    if bytes.len() as u64 > FILE_MAX { Err(bad(path, "it is too large")) } else { Ok(Some(bytes)) }
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Config { path: path.to_owned(), reason: "cannot be read".into(), source: Some(source.into()) }
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_owned(), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_containerds_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("docker.io");
        fs::create_dir(&at).unwrap();
        fs::write(at.join("ca.pem"), "x").unwrap();
        fs::write(
            at.join("hosts.toml"),
            "server = \"https://registry-1.docker.io\"\n[host.\"http://127.0.0.1:5001\"]\ncapabilities = [\"pull\"]\n\
             [host.\"https://m.example/own/path\"]\noverride_path = true\nca = \"ca.pem\"\n[host.\"https://m.example/own/path\".header]\nx-a = [\"1\"]\n\
             [host.\"plain.example\"]\n",
        )
        .unwrap();
        let hosts = HostsDir::new([dir.path().join("missing"), dir.path().to_owned()]);
        let config = hosts.get("docker.io").unwrap().unwrap();
        assert_eq!(config.server.url.to_string(), "https://registry-1.docker.io/v2");
        let urls: Vec<_> = config.mirrors.iter().map(|m| m.url.to_string()).collect();
        assert_eq!(
            urls,
            ["http://127.0.0.1:5001/v2", "https://m.example/own/path", "https://plain.example/v2"]
        );
        assert!(!config.mirrors[0].resolve && config.mirrors[1].resolve);
        assert_eq!(config.mirrors[1].headers.get("x-a"), Some("1"));
        assert!(config.mirrors[1].tls.is_some() && config.mirrors[0].tls.is_none());
        assert!(hosts.get("quay.io").unwrap().is_none());
        assert!(hosts.get("../docker.io").unwrap().is_none());
        fs::write(at.join("hosts.toml"), "\nserver = ").unwrap();
        assert!(hosts.get("docker.io").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn a_server_is_read_as_its_mirrors_are() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let at = dir.path().join("127.0.0.1:5000");
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("ca.pem"), "x").unwrap();
            fs::write(at.join("hosts.toml"), text).unwrap();
            HostsDir::new([dir.path()]).get("127.0.0.1:5000").unwrap().unwrap().server
        };
        let plain = read("");
        assert!(plain.flexible && plain.url.to_string() == "http://127.0.0.1:5000/v2");
        let secured = read("ca = \"ca.pem\"\n");
        assert!(!secured.flexible && secured.url.to_string() == "https://127.0.0.1:5000/v2");
        let path = "server = \"https://h.example/repository/docker\"\ncapabilities = [\"pull\"]\n";
        let below = read(path);
        assert_eq!(below.url.to_string(), "https://h.example/repository/docker/v2");
        assert!(below.pull && !below.resolve && !below.push);
        let own = read(&format!("{path}override_path = true\n"));
        assert_eq!(own.url.to_string(), "https://h.example/repository/docker");
    }

    #[test]
    fn reads_dockers_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("127.0.0.1_5000_");
        fs::create_dir(&at).unwrap();
        for name in ["a.crt", "c.cert", "c.key", "README"] {
            fs::write(at.join(name), "x").unwrap();
        }
        let config = HostsDir::new([dir.path()]).get("127.0.0.1:5000").unwrap().unwrap();
        assert_eq!(config.server.url.to_string(), "https://127.0.0.1:5000/v2");
        assert!(!config.server.flexible);
        let tls = config.server.tls.unwrap();
        assert!(tls.client().is_some() && tls.roots().len() == 1);
        fs::remove_file(at.join("c.key")).unwrap();
        assert!(HostsDir::new([dir.path()]).get("127.0.0.1:5000").is_err());
    }
}
