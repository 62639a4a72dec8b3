//! containerd's `hosts.toml`. What is understood in it and is not as it has to be is an error: a typing mistake must not turn
//! verification, or a mirror, into something else.

use std::fmt::Display;
use std::path::Path;

use super::pem;
use super::toml::{self, Table, Value, get};
use super::{Host, HostConfig, bad, read};
use crate::transport::TlsOptions;
use crate::{Error, Result};

/// The configuration of this directory's `hosts.toml`, if there is one.
pub(super) fn hosts_toml(directory: &Path, registry: &str) -> Result<Option<HostConfig>> {
    let path = directory.join("hosts.toml");
    let Some(bytes) = read(&path)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(&path, "it is not UTF-8"))?;
    let root = toml::parse(text).map_err(|f| bad(&path, format!("line {}: {}", f.line, f.reason)))?;
    let top = Section { path: &path, directory, name: String::new(), settings: &root };
    let mut config = match top.string("server")? {
        Some(server) => HostConfig::new(top.host("server", server)?),
        None => {
            let mut config = HostConfig::default_for(registry, false)?;
            top.settle(&mut config.server)?;
            config.require_tls();
            config
        }
    };
    for (url, settings) in top.table("host")? {
        let name = format!("host.\"{url}\"");
        let Value::Table(settings) = settings else { return Err(top.bad(&name, "is no table")) };
        let section = Section { name: format!("{name}: "), settings, ..top };
        config.mirrors.push(section.host("the URL", url)?);
    }
    Ok(Some(config))
}

/// The settings of one host.
struct Section<'a> {
    path: &'a Path,
    directory: &'a Path,
    /// In front of a setting's name in an error.
    name: String,
    settings: &'a Table,
}

impl Section<'_> {
    /// The host with this URL, which is `what`.
    fn host(&self, what: &str, url: &str) -> Result<Host> {
        let unusable = |e: Error| match e {
            Error::Url { reason, .. } => self.bad(what, format!("{url:?}: {reason}")),
            other => other,
        };
        let mut host = Host::new(&with_scheme(url)).map_err(unusable)?;
        let path = host.url.path().trim_end_matches('/').to_owned();
        if !self.is_set("override_path")? && !path.ends_with("/v2") {
            host.url = host.url.join(&format!("{path}/v2"))?;
        }
        self.settle(&mut host)?;
        Ok(host)
    }

    fn settle(&self, host: &mut Host) -> Result<()> {
        // Also where it means nothing.
        self.is_set("override_path")?;
        if let Some(capabilities) = self.strings("capabilities")? {
            if let Some(unknown) = capabilities.iter().find(|c| !["pull", "resolve", "push"].contains(c)) {
                return Err(self.bad("capabilities", format!("{unknown:?} is none: pull, resolve, push are")));
            }
            let can = |what| capabilities.contains(&what);
            (host.pull, host.resolve, host.push) = (can("pull"), can("resolve"), can("push"));
        }
        let mut tls = TlsOptions::new();
        for file in self.strings("ca")?.unwrap_or_default() {
            tls = tls.roots_pem(pem::roots(&self.directory.join(file))?);
        }
        if let Some((chain, key)) = self.client()? {
            tls = tls.client_pem(chain, key);
        }
        if self.is_set("skip_verify")? {
            tls = tls.skip_verify();
        }
        if tls != TlsOptions::new() {
            host.tls = Some(tls);
        }
        self.headers(host)
    }

    fn headers(&self, host: &mut Host) -> Result<()> {
        for (name, value) in self.table("header")? {
            let values = strings(value).ok_or_else(|| self.bad("header", format!("{name:?}: no strings")))?;
            let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            if !named || values.iter().any(|v| v.contains(|c: char| c.is_control() && c != '\t')) {
                return Err(self.bad("header", format!("{name:?} cannot be sent")));
            }
            for value in values {
                host.headers.push(name, value);
            }
        }
        Ok(())
    }

    /// `client = "both.pem"`, `["cert.pem", "key.pem"]` or `[["cert.pem", "key.pem"]]`; the first pair counts.
    fn client(&self) -> Result<Option<pem::Pair>> {
        let Some(value) = get(self.settings, "client") else { return Ok(None) };
        let names = match value {
            Value::Array(pairs) if matches!(pairs.first(), Some(Value::Array(_))) => strings(&pairs[0]),
            other => strings(other),
        };
        let at = |name: &str| self.directory.join(name);
        match names.as_deref() {
            Some([chain, key, ..]) if !key.is_empty() => pem::client(&at(chain), &at(key)).map(Some),
            Some([both, ..]) => pem::client(&at(both), &at(both)).map(Some),
            _ => Err(self.bad("client", "names no files")),
        }
    }

    fn string(&self, key: &str) -> Result<Option<&str>> {
        match get(self.settings, key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(key, "is no string")),
        }
    }

    fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = get(self.settings, key) else { return Ok(None) };
        strings(value).map(Some).ok_or_else(|| self.bad(key, "is neither a string nor a list of them"))
    }

    fn is_set(&self, key: &str) -> Result<bool> {
        match get(self.settings, key) {
            None => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(_) => Err(self.bad(key, "is neither true nor false")),
        }
    }

    fn table(&self, key: &str) -> Result<&[(String, Value)]> {
        match get(self.settings, key) {
            None => Ok(&[]),
            Some(Value::Table(table)) => Ok(table),
            Some(_) => Err(self.bad(key, "is no table")),
        }
    }

    fn bad(&self, key: &str, reason: impl Display) -> Error {
        bad(self.path, format!("{}{key} {reason}", self.name))
    }
}

/// One string, or several.
fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(items) => items.iter().map(string).collect(),
        _ => None,
    }
}

fn string(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("https://{url}") }
}

#[cfg(test)]
mod tests {
    use super::super::pem::samples::{CERTIFICATE, KEY, OTHER_KEY};
    use super::*;

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), CERTIFICATE).unwrap();
        std::fs::write(dir.path().join("both.pem"), format!("{CERTIFICATE}{KEY}")).unwrap();
        dir
    }

    fn read_as(dir: &Path, text: &str, registry: &str) -> Result<HostConfig> {
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
        hosts_toml(dir, registry).map(Option::unwrap)
    }

    #[test]
    fn reads_what_containerd_reads() {
        let dir = dir();
        let text = "server = \"https://registry-1.docker.io\"\n[host.\"http://127.0.0.1:5001\"]\ncapabilities = [\"pull\"]\n\
             [host.\"https://m.example/own/path\"]\noverride_path = true\nca = \"ca.pem\"\nclient = \"both.pem\"\n\
             [host.\"https://m.example/own/path\".header]\nx-a = [\"1\"]\n[host.\"plain.example\"]\ndial_timeout = \"5s\"\n";
        let config = read_as(dir.path(), text, "docker.io").unwrap();
        assert_eq!(config.server.url.to_string(), "https://registry-1.docker.io/v2");
        let urls: Vec<_> = config.mirrors.iter().map(|m| m.url.to_string()).collect();
        assert_eq!(
            urls,
            ["http://127.0.0.1:5001/v2", "https://m.example/own/path", "https://plain.example/v2"]
        );
        assert!(!config.mirrors[0].resolve && config.mirrors[1].resolve);
        assert_eq!(config.mirrors[1].headers.get("x-a"), Some("1"));
        assert!(config.mirrors[1].tls.is_some() && config.mirrors[0].tls.is_none());
    }

    #[test]
    fn a_server_is_read_as_its_mirrors_are() {
        let dir = dir();
        let read = |text: &str| read_as(dir.path(), text, "127.0.0.1:5000").unwrap().server;
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
    fn what_is_wrong_is_said_with_file_and_setting() {
        let dir = dir();
        std::fs::write(dir.path().join("text.pem"), "no certificate").unwrap();
        std::fs::write(dir.path().join("other.key"), OTHER_KEY).unwrap();
        let host = "[host.\"https://m.example\"]\n";
        for (text, wanted) in [
            ("server = 5".to_owned(), "server is no string"),
            ("server = \"ftp://x\"".to_owned(), "server \"ftp://x\": only http and https"),
            ("skip_verify = \"true\"".to_owned(), "skip_verify is neither true nor false"),
            ("override_path = 1".to_owned(), "override_path is neither true nor false"),
            ("host = true".to_owned(), "host is no table"),
            ("[host]\na = 1".to_owned(), "host.\"a\" is no table"),
            ("[host.\"https://u@x\"]".to_owned(), "the URL \"https://u@x\": it carries a user name"),
            (
                format!("{host}capabilities = [\"pul\"]"),
                "host.\"https://m.example\": capabilities \"pul\" is none",
            ),
            (format!("{host}capabilities = true"), "capabilities is neither a string nor a list"),
            (format!("{host}header = \"x\""), "header is no table"),
            (format!("{host}header = {{x = 1}}"), "header \"x\": no strings"),
            (format!("{host}header = {{\"a b\" = \"1\"}}"), "header \"a b\" cannot be sent"),
            (format!("{host}client = true"), "client names no files"),
            (format!("{host}ca = [\"none.pem\"]"), "none.pem: it is missing"),
            (format!("{host}ca = [\"text.pem\"]"), "text.pem: it cannot be used as certificates"),
            (
                format!("{host}client = [\"both.pem\", \"ca.pem\"]"),
                "ca.pem: it cannot be used as a private key",
            ),
            (format!("{host}client = [\"ca.pem\", \"other.key\"]"), "other.key: it is not the key of"),
        ] {
            let said = read_as(dir.path(), &text, "h.example").unwrap_err().to_string();
            assert!(
                said.starts_with(dir.path().to_str().unwrap()) && said.contains(wanted),
                "{text}: {said}"
            );
        }
    }
}
