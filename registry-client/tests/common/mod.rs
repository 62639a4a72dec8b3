//! Parts that the integration tests share.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

pub mod fault;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_registry_client::{BoxError, Client, ClientBuilder, Content, Ctx, Pushed, Reference, Retry};
use oci_spec::image::{Descriptor, Digest};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Whether a program is there; without it the test is skipped, or fails where everything is required.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
    }
    found
}

pub fn sha256(bytes: &[u8]) -> Digest {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}").parse().unwrap()
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type.into(), bytes.len() as u64, sha256(bytes))
}

/// Bytes that look random and are the same each time.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Content in memory.
#[derive(Default)]
pub struct Memory(pub Mutex<HashMap<Digest, Vec<u8>>>);

impl Memory {
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let d = descriptor(media_type, bytes);
        self.0.lock().unwrap().insert(d.digest().clone(), bytes.to_vec());
        d
    }

    pub fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(digest).cloned()
    }

    /// An image of layers of these sizes; the same seed makes the same image.
    pub fn image(&self, seed: u64, layers: &[usize]) -> Descriptor {
        let layers: Vec<Descriptor> = layers
            .iter()
            .enumerate()
            .map(|(i, size)| self.add(OCI_LAYER, &noise(seed * 1000 + i as u64 + 1, *size)))
            .collect();
        let diff_ids: Vec<&str> = layers.iter().map(|l| l.digest().as_ref()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Labels": {"seed": seed.to_string()}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(OCI_CONFIG, config.to_string().as_bytes());
        self.manifest(&config, &layers)
    }

    pub fn manifest(&self, config: &Descriptor, layers: &[Descriptor]) -> Descriptor {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
        });
        self.add(OCI_MANIFEST, manifest.to_string().as_bytes())
    }
}

impl Content for Memory {
    fn open(&self, d: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError> {
        let bytes = self.get(d.digest()).ok_or("not in memory")?;
        Ok(Box::new(Cursor::new(bytes)))
    }
}

/// A real docker-registry on a port of its own.
pub struct Registry {
    child: Child,
    pub address: String,
    pub dir: tempfile::TempDir,
    log: PathBuf,
}

impl Registry {
    pub fn start() -> Self {
        Self::with("", "", tempfile::tempdir().unwrap())
    }

    /// With further lines of configuration: below `http:`, and at the top.
    pub fn with(http: &str, top: &str, dir: tempfile::TempDir) -> Self {
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("data");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
                 delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:0\n{http}\n{top}\n",
                storage.display()
            ),
        )
        .unwrap();
        let log = dir.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut registry = Self { child, address: String::new(), dir, log };
        for _ in 0..2000 {
            if let Some(at) = registry.log().lines().find_map(|l| {
                Some(l.split_once("listening on ")?.1.split(['"', ',', ' ']).next()?.to_owned())
            }) {
                registry.address = at;
                return registry;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("docker-registry did not start: {}", registry.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> usize {
        self.accesses().len()
    }

    /// The lines of its access log.
    pub fn accesses(&self) -> Vec<String> {
        // It is written after the reply: there once nothing more has come for a while.
        let (mut lines, mut same) = (Vec::new(), 0);
        while same < 3 {
            std::thread::sleep(Duration::from_millis(60));
            let file = BufReader::new(std::fs::File::open(&self.log).unwrap());
            let all = file.lines().map_while(Result::ok);
            let now: Vec<String> = all.filter(|l| l.contains("HTTP/1.1\" ")).collect();
            same = if now.len() == lines.len() { same + 1 } else { 0 };
            lines = now;
        }
        lines
    }

    pub fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that does not make tests wait.
pub fn quick() -> ClientBuilder {
    let mut retry = Retry::default();
    retry.base = Duration::from_millis(5);
    Client::builder().retry(retry)
}

pub fn push(client: &Client, reference: &Reference, root: &Descriptor, content: &dyn Content) -> Pushed {
    client.push(reference, root, content, Ctx::none()).unwrap_or_else(|e| panic!("{}", chain(&e)))
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text += &format!(": {e}");
        next = e.source();
    }
    text
}

pub fn read_all(source: &longshore_registry_client::Source, d: &Descriptor) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut reader = source.open(d, 0).map_err(|e| chain(&e))?;
    reader.read_to_end(&mut bytes).map_err(|e| {
        longshore_registry_client::Error::in_io(&e).map_or_else(|| e.to_string(), |e| chain(e))
    })?;
    Ok(bytes)
}

/// Raises a flag after a while, from another thread.
pub fn raise_after(flag: &'static AtomicBool, after: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(after);
        flag.store(true, Ordering::Relaxed);
    });
}
