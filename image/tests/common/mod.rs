//! Images made by hand, and sources that misbehave.

use std::collections::HashMap;
use std::io::{Cursor, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore_image::{BlobSource, BoxError, Store, StoreOptions};
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Says why a test does nothing here; on a machine that has everything this is an error.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(),
        "skipped although all is required: {reason}"
    );
    #[expect(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
    {
        eprintln!("skipped: {reason}");
    }
}

/// Whether the program is on the path.
pub fn has(program: &str) -> bool {
    let found = std::process::Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|o| o.status.success());
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

pub fn run(program: &str, args: &[&str]) -> String {
    let out = std::process::Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(args)
        .output()
        .expect("timeout runs");
    assert!(
        out.status.success(),
        "{program} {args:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("UTF-8")
}

pub fn digest(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}").parse().unwrap()
}

pub fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type.into(), bytes.len() as u64, digest(bytes))
}

/// A tar of regular files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Blobs by digest that are served with as much trouble as asked for.
#[derive(Default)]
pub struct Source {
    pub blobs: HashMap<Digest, Vec<u8>>,
    pub opened: AtomicUsize,
    /// Opened at an offset above 0.
    pub resumed: AtomicUsize,
    /// Blobs that break off after that many bytes, once each.
    pub breaks: Mutex<HashMap<Digest, usize>>,
}

impl Source {
    pub fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = describe(media_type, &bytes);
        self.blobs.insert(descriptor.digest().clone(), bytes);
        descriptor
    }

    pub fn opened(&self) -> usize {
        self.opened.swap(0, Ordering::Relaxed)
    }

    /// An image of the layers (each a media type, its blob, its diff ID); the manifest's descriptor.
    pub fn image_of(&mut self, layers: &[(&str, Vec<u8>, Digest)], mut config: Value) -> Descriptor {
        config["rootfs"] =
            json!({"type": "layers", "diff_ids": layers.iter().map(|l| l.2.to_string()).collect::<Vec<_>>()});
        let config = self.put(MediaType::ImageConfig.as_ref(), serde_json::to_vec(&config).unwrap());
        let layers: Vec<_> =
            layers.iter().map(|(media_type, blob, _)| self.put(media_type, blob.clone())).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::ImageManifest, "config": config, "layers": layers});
        self.put(MediaType::ImageManifest.as_ref(), serde_json::to_vec(&manifest).unwrap())
    }

    /// An image of gzipped tars.
    pub fn image(&mut self, tars: &[Vec<u8>]) -> Descriptor {
        let layers: Vec<_> = tars
            .iter()
            .map(|t| ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(t), digest(t)))
            .collect();
        self.image_of(&layers, config())
    }
}

pub fn config() -> Value {
    json!({"architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": {"Cmd": ["sh"]}})
}

impl BlobSource for Source {
    fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, BoxError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        if offset > 0 {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let bytes =
            self.blobs.get(descriptor.digest()).ok_or_else(|| format!("no blob {}", descriptor.digest()))?;
        let rest = &bytes[usize::try_from(offset)?..];
        match self.breaks.lock().unwrap().remove(descriptor.digest()) {
            Some(n) => Ok(Box::new(rest[..n].chain(Broken))),
            None => Ok(Box::new(Cursor::new(rest))),
        }
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

/// A store in a directory of its own, with each driver: of layers, and of snapshots.
pub fn stores() -> Vec<(tempfile::TempDir, Store)> {
    [(false, false), (true, false), (true, true)]
        .into_iter()
        .map(|(directories, copies)| {
            let temp = tempfile::tempdir().unwrap();
            let mut options = StoreOptions::default();
            options.directories = directories;
            options.copies = copies;
            let store = Store::open_with(temp.path().join("store"), &options).unwrap();
            (temp, store)
        })
        .collect()
}

/// Every path below `dir` with its size, sorted: what a clean-up must bring back.
pub fn listing(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            found.push(format!(
                "{} {}",
                entry.path().strip_prefix(dir).unwrap().display(),
                if meta.is_dir() { 0 } else { meta.len() }
            ));
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// [`listing`] without lock files and the kernel that mounts layers, once what is removed in the background is gone.
pub fn settled(store: &Store) -> Vec<String> {
    for _ in 0..3000 {
        if std::fs::read_dir(store.path().join("tmp")).unwrap().next().is_none() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let lasts = |line: &String| line.starts_with("locks/") || line.starts_with("layers/erofs");
    listing(store.path()).into_iter().filter(|line| !lasts(line)).collect()
}

/// Whether mounting may be expected to work.
pub fn mounts() -> bool {
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    if !root {
        skip("mounting needs root");
    }
    root
}
