//! Docker's `config.json` and podman's `auth.json`, with their helper programs.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{Credential, Credentials};
use crate::endpoint::lock;
use crate::error::BoxError;
use crate::reference::DOCKER_HUB;
use crate::{Error, Result};

/// What Docker calls the Hub in its files.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const FILE_MAX: u64 = 16 << 20;
const HELPER_OUTPUT_MAX: u64 = 1 << 20;
const HELPER_PATIENCE: Duration = Duration::from_secs(60);
/// For another login to be written.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// For the rest of its output to arrive once a helper has ended.
const HELPER_GRACE: Duration = Duration::from_secs(1);

/// Reads docker's `config.json` (or podman's `auth.json`) and its helpers.
///
/// `auths` with `auth`, `identitytoken` and `registrytoken`, `credHelpers` and `credsStore` are understood. A key must name the
/// registry exactly (`https://` in front and `/v1/` or `/v2/` behind are as in Docker ignored); podman's keys with a repository path
/// count for that registry only where no shorter key does. Helper programs (`docker-credential-NAME` in `PATH`) run at most once per
/// registry.
pub struct DockerConfigFile {
    path: PathBuf,
    config: Config,
    asked: Mutex<HashMap<String, Arc<Asked>>>,
}

/// What was found for one registry, once somebody has looked.
type Asked = Mutex<Option<Option<Credential>>>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    #[serde(deserialize_with = "or_default")]
    auths: HashMap<String, Option<Auth>>,
    #[serde(deserialize_with = "or_default")]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfigFile {
    /// Reads the file. One that does not exist is an empty one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let config = match read(&path)? {
            Some(bytes) => {
                parse(&bytes).map_err(|e| bad(&path, "not a registry login file", Some(e.into())))?
            }
            None => Config::default(),
        };
        Ok(Self { path, config, asked: Mutex::default() })
    }

    /// Writes a login into the file (mode 0600, replaced atomically), or into the helper that the file names for the registry. What
    /// else the file holds stays as it is, podman's logins for single repositories of the registry too, and its owner, where that is
    /// the directory's. Several that write at once wait for each other, half a minute at most, by a lock on `.NAME.lock` beside the
    /// file, which stays there; other programs do not know it.
    pub fn login(path: impl AsRef<Path>, registry: &str, credential: &Credential) -> Result<()> {
        let file = Self::open(path)?;
        if let Some(helper) = file.helper(registry) {
            let (username, secret) = match credential {
                Credential::Basic { username, password } => (username.as_str(), password),
                Credential::IdentityToken(token) => ("<token>", token),
                Credential::RegistryToken(_) => {
                    return Err(file.failed("a registry token cannot be kept by a helper", None));
                }
            };
            let input = HelperSecret {
                server_url: key(registry).into(),
                username: username.into(),
                secret: secret.clone(),
            };
            let input = serde_json::to_vec(&input)
                .map_err(|e| file.failed("cannot ask the helper", Some(e.into())))?;
            return file.run(helper, "store", &input).map(drop);
        }
        let entry = match credential {
            Credential::Basic { username, password } => {
                serde_json::json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
            }
            Credential::IdentityToken(token) => {
                serde_json::json!({ "auth": STANDARD.encode("<token>:"), "identitytoken": token })
            }
            Credential::RegistryToken(token) => serde_json::json!({ "registrytoken": token }),
        };
        file.edit(|auths| {
            auths.retain(|k, _| !is_for(k, registry));
            auths.insert(key(registry).to_owned(), entry);
        })
    }

    /// Removes a registry's login from the file or its helper; podman's logins for single repositories stay. True if there was one.
    pub fn logout(path: impl AsRef<Path>, registry: &str) -> Result<bool> {
        let file = Self::open(path)?;
        let kept = file.config.auths.keys().any(|k| is_for(k, registry));
        let mut found = kept;
        if let Some(helper) = file.helper(registry) {
            found |= file.run(helper, "erase", key(registry).as_bytes())?.is_some();
        }
        if kept {
            file.edit(|auths| auths.retain(|k, _| !is_for(k, registry)))?;
        }
        Ok(found)
    }

    /// Whether the logins of this registry are kept by a helper program, and not in the file, which holds them unencrypted.
    pub fn has_helper(&self, registry: &str) -> bool {
        self.helper(registry).is_some()
    }

    fn helper(&self, registry: &str) -> Option<&str> {
        let own = self.config.cred_helpers.iter().find(|(k, _)| host_of(k) == registry).map(|(_, h)| h);
        own.or(self.config.creds_store.as_ref()).map(String::as_str).filter(|h| !h.is_empty())
    }

    fn look_up(&self, registry: &str) -> Result<Option<Credential>> {
        if let Some(helper) = self.helper(registry)
            && let Some(found) = self.ask_helper(helper, registry)?
        {
            return Ok(Some(found));
        }
        let mut entries: Vec<_> = self.config.auths.iter().filter(|(k, _)| host_of(k) == registry).collect();
        // The exact host before one of its old spellings, and in an order that does not change.
        entries.sort_by_key(|(k, _)| (k.len(), k.as_str()));
        for (_, auth) in entries {
            if let Some(auth) = auth
                && let Some(found) = self.credential(auth)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn credential(&self, auth: &Auth) -> Result<Option<Credential>> {
        if let Some(token) = auth.registrytoken.as_ref().filter(|t| !t.is_empty()) {
            return Ok(Some(Credential::RegistryToken(token.clone())));
        }
        if let Some(token) = auth.identitytoken.as_ref().filter(|t| !t.is_empty()) {
            return Ok(Some(Credential::IdentityToken(token.clone())));
        }
        let pair = match (&auth.auth, &auth.username, &auth.password) {
            (Some(auth), ..) if !auth.is_empty() => {
                let decoded = STANDARD.decode(auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
                let decoded = decoded.ok_or_else(|| self.failed("an auth entry is not base64", None))?;
                let (user, password) = decoded
                    .split_once(':')
                    .ok_or_else(|| self.failed("an auth entry lacks its colon", None))?;
                (user.to_owned(), password.trim_end_matches('\0').to_owned())
            }
            (_, Some(user), Some(password)) => (user.clone(), password.clone()),
            _ => return Ok(None),
        };
        Ok(Some(Credential::Basic { username: pair.0, password: pair.1 }))
    }

    fn ask_helper(&self, helper: &str, registry: &str) -> Result<Option<Credential>> {
        let Some(output) = self.run(helper, "get", key(registry).as_bytes())? else { return Ok(None) };
        let secret: HelperSecret = serde_json::from_slice(&output)
            .map_err(|_| self.failed(&format!("docker-credential-{helper} gave no valid answer"), None))?;
        Ok(match secret.username.as_str() {
            // This is how some say that they have none.
            "" if secret.secret.is_empty() => None,
            "<token>" => Some(Credential::IdentityToken(secret.secret)),
            _ => Some(Credential::Basic { username: secret.username, password: secret.secret }),
        })
    }

    /// `None` where the helper has no such entry.
    fn run(&self, helper: &str, action: &str, input: &[u8]) -> Result<Option<Vec<u8>>> {
        if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(self.failed("a helper's name has characters that it must not have", None));
        }
        let program = format!("docker-credential-{helper}");
        let failed = |e: std::io::Error| self.failed(&format!("{program} could not be run"), Some(e.into()));
        let mut child = Command::new(&program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input has answered already.
            let _ = stdin.write_all(input);
        }
        let output = Output::read(child.stdout.take()).map_err(|e| {
            let _ = child.kill();
            let _ = child.wait();
            failed(e)
        })?;
        let until = Instant::now() + HELPER_PATIENCE;
        let status = loop {
            match child.try_wait().map_err(failed)? {
                Some(status) => break status,
                None if Instant::now() >= until => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(self.failed(&format!("{program} did not end in time"), None));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let output = output.end().map_err(failed)?;
        if status.success() {
            return Ok(Some(output));
        }
        let text = String::from_utf8_lossy(&output).to_lowercase();
        if text.contains("not found") || text.contains("no credentials") {
            return Ok(None);
        }
        let said = match crate::digest::clip(text.trim()) {
            text if text.is_empty() || text.contains("secret") || text.contains('{') => String::new(),
            text => format!(": {text}"),
        };
        Err(self.failed(&format!("{program} failed{said}"), None))
    }

    fn edit(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let broken = || self.failed("not a registry login file", None);
        let unwritable = |e: std::io::Error| self.failed("cannot be written", Some(e.into()));
        // A link (dotfiles kept elsewhere) stays one.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let _lock = lock_beside(&path).map_err(|e| {
            let reason = format!("{} beside it cannot be locked", beside(&path, "lock").display());
            self.failed(&reason, Some(e.into()))
        })?;
        let bytes = read(&path)?.unwrap_or_else(|| b"{}".to_vec());
        let mut root: Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
        let object = root.as_object_mut().ok_or_else(broken)?;
        let auths = object.entry("auths").or_insert(Value::Null);
        if auths.is_null() {
            *auths = Value::Object(Map::new());
        }
        change(auths.as_object_mut().ok_or_else(broken)?);
        let text =
            serde_json::to_vec_pretty(&root).map_err(|e| self.failed("cannot be written", Some(e.into())))?;
        replace(&path, &text).map_err(unwritable)
    }

    fn failed(&self, reason: &str, source: Option<BoxError>) -> Error {
        bad(&self.path, reason, source)
    }
}

impl Credentials for DockerConfigFile {
    fn get(&self, registry: &str) -> Result<Option<Credential>> {
        let asked = Arc::clone(lock(&self.asked).entry(registry.to_owned()).or_default());
        // Held while a helper runs, so that it runs once; other registries do not wait for it.
        let mut known = lock(&asked);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        Ok(known.insert(self.look_up(registry)?).clone())
    }
}

impl fmt::Debug for DockerConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfigFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a helper writes, read on a thread of its own.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<std::io::Result<()>>,
}

impl Output {
    fn read(stdout: Option<ChildStdout>) -> std::io::Result<Self> {
        let (bytes, (tx, ended)) = (Arc::new(Mutex::new(Vec::new())), sync_channel(1));
        let into = Arc::clone(&bytes);
        let read = move || {
            let Some(mut stdout) = stdout.map(|s| s.take(HELPER_OUTPUT_MAX)) else { return };
            let mut buffer = [0; 4096];
            let end = loop {
                match stdout.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(n) => lock(&into).extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => break Err(e),
                }
            };
            let _ = tx.send(end);
        };
        std::thread::Builder::new().name("helper".into()).spawn(read)?;
        Ok(Self { bytes, ended })
    }

    /// All of it, after the helper has ended; what that started may keep the pipe open for ever.
    fn end(self) -> std::io::Result<Vec<u8>> {
        if let Ok(end) = self.ended.recv_timeout(HELPER_GRACE) {
            end?;
        }
        Ok(std::mem::take(&mut *lock(&self.bytes)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperSecret {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// Go writes an empty map as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

fn key(registry: &str) -> &str {
    if registry == DOCKER_HUB { HUB_KEY } else { registry }
}

/// Whether a key of the file stands for the whole registry: `/v1/` and `/v2/` are no repository, as podman's keys may have.
fn is_for(key: &str, registry: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let path = bare.split_once('/').map_or("", |(_, path)| path.trim_end_matches('/'));
    host_of(key) == registry && matches!(path, "" | "v1" | "v2")
}

/// The registry that a key of the file means.
fn host_of(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = bare.split('/').next().unwrap_or(bare);
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

fn parse(bytes: &[u8]) -> serde_json::Result<Config> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        Ok(Config::default())
    } else {
        serde_json::from_slice(bytes)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let unreadable = |e: std::io::Error| bad(path, "cannot be read", Some(e.into()));
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX { Err(bad(path, "it is too large", None)) } else { Ok(Some(bytes)) }
}

fn bad(path: &Path, reason: &str, source: Option<BoxError>) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_owned(), source }
}

/// `.NAME.suffix` in the same directory.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// Held while the file is read, changed and replaced: of two at once, one would lose its login. The file itself cannot be locked,
/// since it is replaced.
fn lock_beside(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let lock = beside(path, "lock");
    let lock = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
    if let Some(directory) = path.parent().and_then(|d| d.metadata().ok()) {
        give(&lock, &directory);
    }
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(std::io::ErrorKind::TimedOut.into()),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

/// Leaves a file to whom another belongs: what root writes into somebody's home is of no use to him otherwise, and in his way. Others
/// than root cannot, and need not.
fn give(file: &File, like: &Metadata) {
    if file.metadata().is_ok_and(|own| (own.uid(), own.gid()) != (like.uid(), like.gid())) {
        let _ = std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid()));
    }
}

/// Written beside and renamed over, so that nobody sees half of it, and never readable by others.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    // One who was killed here left it behind, with what was to be kept secret. Nobody else writes it, under the lock.
    let beside = beside(path, "new");
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let (old, directory) = (std::fs::metadata(path), path.parent().map(Path::metadata));
    if let (Ok(old), Some(Ok(directory))) = (old, directory)
        && old.uid() == directory.uid()
    {
        give(&file, &old);
    }
    let written =
        file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// For fuzzing: everything that a file's bytes decide.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(config) = parse(bytes) {
        let config = Config { cred_helpers: HashMap::new(), creds_store: None, ..config };
        let file = DockerConfigFile { path: PathBuf::new(), config, asked: Mutex::default() };
        let _ = file.get("registry.example");
        let _ = file.get(DOCKER_HUB);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> DockerConfigFile {
        DockerConfigFile {
            path: "x".into(),
            config: parse(text.as_bytes()).unwrap(),
            asked: Mutex::default(),
        }
    }

    #[test]
    fn reads_all_kinds_of_entries() {
        let f = file(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"aHViOnMzY3JldA=="},
                "reg.example":{"auth":"dTpwOnE="},
                "https://old.example/v2/":{"username":"a","password":"b"},
                "token.example":{"auth":"PHRva2VuPjo=","identitytoken":"it"},
                "bearer.example":{"registrytoken":"rt"},
                "empty.example":{}}}"#,
        );
        assert_eq!(f.get("docker.io").unwrap(), Some(Credential::basic("hub", "s3cret")));
        assert_eq!(f.get("reg.example").unwrap(), Some(Credential::basic("u", "p:q")));
        assert_eq!(f.get("old.example").unwrap(), Some(Credential::basic("a", "b")));
        assert_eq!(f.get("token.example").unwrap(), Some(Credential::IdentityToken("it".into())));
        assert_eq!(f.get("bearer.example").unwrap(), Some(Credential::RegistryToken("rt".into())));
        for none in ["empty.example", "example", "evil.reg.example", "reg.example.evil", "reg.example:5000"] {
            assert_eq!(f.get(none).unwrap(), None, "{none}");
        }
    }

    /// What is beside the file besides its lock.
    fn left(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n != ".config.json.lock").collect()
    }

    #[test]
    fn several_may_write_at_once() {
        let test = "auth::docker_config::tests::several_may_write_at_once";
        let login = |path: &Path, who: &str, i: usize| {
            DockerConfigFile::login(path, &format!("{who}-{i}"), &Credential::basic("u", "p")).unwrap();
        };
        if let Some(path) = std::env::var_os("LONGSHORE_TEST_LOGINS") {
            let who = std::env::var("LONGSHORE_TEST_NAME").unwrap();
            (0..10).for_each(|i| login(path.as_ref(), &who, i));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        // What a process of this number left when it was killed.
        std::fs::write(dir.path().join(format!(".config.json.{}", std::process::id())), "{").unwrap();
        let processes = ["a", "b"].map(|who| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", test]).stdout(Stdio::null());
            command.env("LONGSHORE_TEST_LOGINS", &path).env("LONGSHORE_TEST_NAME", who).spawn().unwrap()
        });
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|i| login(path, &format!("t{thread}"), i)));
            }
        });
        for mut process in processes {
            assert!(process.wait().unwrap().success());
        }
        assert_eq!(DockerConfigFile::open(&path).unwrap().config.auths.len(), 100, "none is lost");
        assert_eq!(left(dir.path()).len(), 2, "no other file stays behind");
    }

    #[test]
    fn logins_of_single_repositories_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text = r#"{"auths":{"r.test/team-a":{"auth":"YTph"},"r.test/v2/b":{"auth":"Yjpi"},"docker.io/me":{"auth":"YzpjCg=="},
            "https://r.test/v1/":{"auth":"eDp4"},"r.test/v2":{"auth":"eDp4"},"r.test/":{"auth":"eDp4"}}}"#;
        std::fs::write(&path, text).unwrap();
        let keys = || {
            let mut keys: Vec<_> = DockerConfigFile::open(&path).unwrap().config.auths.into_keys().collect();
            keys.sort();
            keys
        };
        DockerConfigFile::login(&path, "r.test", &Credential::basic("u", "p")).unwrap();
        assert_eq!(keys(), ["docker.io/me", "r.test", "r.test/team-a", "r.test/v2/b"]);
        assert!(DockerConfigFile::logout(&path, "r.test").unwrap());
        assert!(!DockerConfigFile::logout(&path, "r.test").unwrap());
        assert!(!DockerConfigFile::logout(&path, "docker.io").unwrap());
        assert_eq!(keys(), ["docker.io/me", "r.test/team-a", "r.test/v2/b"]);
    }

    #[test]
    fn it_knows_who_has_a_helper() {
        let some = file(r#"{"credHelpers":{"reg.example":"x","plain.example":""}}"#);
        let all = file(r#"{"credsStore":"y","credHelpers":{"plain.example":""}}"#);
        for (registry, by_some, by_all) in
            [("reg.example", true, true), ("plain.example", false, false), ("docker.io", false, true)]
        {
            assert_eq!(
                (some.has_helper(registry), all.has_helper(registry)),
                (by_some, by_all),
                "{registry}"
            );
        }
    }

    #[test]
    fn null_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for text in [r#"{"auths":null}"#, r#"{"auths":{"r":null}}"#, r#"{"auths":{},"credHelpers":null}"#] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(DockerConfigFile::open(&path).unwrap().get("r").unwrap(), None, "{text}");
            DockerConfigFile::login(&path, "r", &Credential::basic("u", "p")).unwrap();
            let found = DockerConfigFile::open(&path).unwrap().get("r").unwrap();
            assert_eq!(found, Some(Credential::basic("u", "p")), "{text}");
        }
    }

    #[test]
    fn writes_and_forgets_logins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config.json");
        DockerConfigFile::login(&path, "docker.io", &Credential::basic("u", "p")).unwrap();
        std::fs::write(&path, r#"{"other":1,"auths":{"docker.io":{"auth":"eDp5"},"r:1":{"auth":"YTpi"}}}"#)
            .unwrap();
        DockerConfigFile::login(&path, "docker.io", &Credential::IdentityToken("t".into())).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(HUB_KEY) && text.contains("\"other\": 1") && !text.contains("eDp5"), "{text}");
        let f = DockerConfigFile::open(&path).unwrap();
        assert_eq!(f.get("docker.io").unwrap(), Some(Credential::IdentityToken("t".into())));
        assert_eq!(f.get("r:1").unwrap(), Some(Credential::basic("a", "b")));
        assert!(DockerConfigFile::logout(&path, "docker.io").unwrap());
        assert!(!DockerConfigFile::logout(&path, "docker.io").unwrap());
        assert_eq!(DockerConfigFile::open(&path).unwrap().get("docker.io").unwrap(), None);
        assert_eq!(left(&dir.path().join("sub")), ["config.json"], "no temporary file stays behind");
    }

    #[test]
    fn what_a_killed_login_left_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(dir.path().join(".config.json.new"), "s3cret").unwrap();
        DockerConfigFile::login(&path, "r", &Credential::basic("u", "p")).unwrap();
        assert_eq!(left(dir.path()), ["config.json"]);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_root_writes_stays_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{}").unwrap();
        for of_user in [dir.path(), &path] {
            if std::os::unix::fs::chown(of_user, Some(54_330), Some(54_330)).is_err() {
                assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "not root");
                return;
            }
        }
        DockerConfigFile::login(&path, "r", &Credential::basic("u", "p")).unwrap();
        for file in [&path, &dir.path().join(".config.json.lock")] {
            assert_eq!(file.metadata().unwrap().uid(), 54_330, "{}", file.display());
        }
        // Where the directory is not of him whose the file is, root's login stays root's.
        std::os::unix::fs::chown(dir.path(), Some(0), Some(0)).unwrap();
        DockerConfigFile::login(&path, "r", &Credential::basic("u", "p")).unwrap();
        assert_eq!(path.metadata().unwrap().uid(), 0);
    }

    #[test]
    fn a_lock_that_cannot_be_taken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".config.json.lock")).unwrap();
        let path = dir.path().join("config.json");
        let error = DockerConfigFile::login(&path, "r", &Credential::basic("u", "p")).unwrap_err();
        assert!(error.to_string().contains(".config.json.lock beside it cannot be locked"), "{error}");
        assert!(!path.exists());
    }
}
