//! What is moved, and where it comes from.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longshore_benches::BoxError;
use longshore_registry_client::Layout;

/// An image in a layout directory.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) dir: PathBuf,
    /// Its manifest's descriptor, as JSON.
    pub(crate) root: String,
    /// The digests of its config and layers.
    pub(crate) blobs: Vec<String>,
}

impl Image {
    /// Real layers (a file each that does not compress), so that peers that unpack can.
    pub(crate) fn make(scratch: &Path, name: &'static str, layers: &[usize]) -> Result<Self, BoxError> {
        let dir = scratch.join(format!("layout-{name}"));
        let layout = Layout::open(&dir)?;
        let (mut descriptors, mut diff_ids, mut random) =
            (Vec::new(), Vec::new(), fs::File::open("/dev/urandom")?);
        for (i, size) in layers.iter().enumerate() {
            let file = scratch.join(format!("file-{i}"));
            std::io::copy(&mut Read::by_ref(&mut random).take(*size as u64), &mut fs::File::create(&file)?)?;
            let tar = scratch.join("layer.tar");
            run(Command::new("tar").current_dir(scratch).args(["-cf", "layer.tar", &format!("file-{i}")]))?;
            diff_ids.push(sha256(&tar)?);
            run(Command::new("gzip").current_dir(scratch).args(["-1", "-f", "-n", "layer.tar"]))?;
            descriptors.push(keep(
                &dir,
                &scratch.join("layer.tar.gz"),
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )?);
            fs::remove_file(file)?;
        }
        let text = |value: serde_json::Value, media_type: &str| -> Result<serde_json::Value, BoxError> {
            let path = scratch.join("text");
            fs::write(&path, value.to_string())?;
            keep(&dir, &path, media_type)
        };
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = text(config, "application/vnd.oci.image.config.v1+json")?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
        });
        let root = text(manifest, media_type)?;
        let blobs =
            descriptors.iter().chain([&config]).filter_map(|d| d["digest"].as_str().map(str::to_owned));
        let blobs = blobs.collect();
        let root = serde_json::from_value(root)?;
        layout.set("1", &root)?;
        Ok(Self { name, dir, root: serde_json::to_string(&root)?, blobs })
    }
}

/// Moves a file into a layout and returns its descriptor.
fn keep(layout: &Path, file: &Path, media_type: &str) -> Result<serde_json::Value, BoxError> {
    let (digest, size) = (sha256(file)?, fs::metadata(file)?.len());
    fs::rename(file, layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;
    Ok(serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}))
}

fn sha256(file: &Path) -> Result<String, BoxError> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(format!("sha256:{}", text.split(' ').next().unwrap_or_default()))
}

fn run(command: &mut Command) -> Result<(), BoxError> {
    if command.status()?.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

/// docker-registry, ended when dropped.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
}

impl Registry {
    pub(crate) fn start(scratch: &Path) -> Result<Self, BoxError> {
        let config = scratch.join("config.yml");
        let data = scratch.join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            data.display()
        );
        fs::write(&config, text)?;
        let log = scratch.join("log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        let mut registry = Self { child, address: String::new() };
        for _ in 0..1000 {
            std::thread::sleep(Duration::from_millis(10));
            let text = fs::read_to_string(&log)?;
            if let Some(rest) = text.split("listening on ").nth(1) {
                registry.address = rest.split(['"', ' ', ',']).next().unwrap_or_default().to_owned();
                return Ok(registry);
            }
        }
        Err("docker-registry did not start".into())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
