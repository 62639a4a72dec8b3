//! A scratch store with a busybox image, contexts, and commands without a container.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use longshore_build::{
    BoxError, BuildEvent, BuildOptions, Builder, Built, Command, Context, Executor, MemoryCache, Result,
    StoreResolver,
};
use longshore_image::{Ctx, Image, ImageSpec, LayerOptions, Store, StoreOptions};

/// Ends a test that lacks something: panics where nothing may be missing.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "cannot be skipped: {reason}");
    eprintln!("skipped: {reason}");
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub cache: MemoryCache,
}

/// What a build told.
#[derive(Debug, Default)]
pub struct Log {
    pub output: String,
    pub started: Vec<(usize, usize, String)>,
    pub cached: Vec<usize>,
    pub warnings: Vec<String>,
}

impl World {
    pub fn new() -> Self {
        Self::with(&StoreOptions::default())
    }

    /// Layers are directories, which [`Script`] needs.
    pub fn directories() -> Self {
        let mut options = StoreOptions::default();
        options.directories = true;
        Self::with(&options)
    }

    pub fn with(options: &StoreOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with(dir.path().join("store"), options).unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir, store, cache: MemoryCache::new() }
    }

    pub fn context_path(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.context_path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// An image of a tar.
    pub fn image(&self, name: &str, tar: &[u8]) -> Image {
        let layer = self.store.add_layer(&mut &tar[..], &LayerOptions::default(), Ctx::none()).unwrap();
        let mut spec = ImageSpec::default();
        let platform = longshore_image::host_platform();
        spec.config.oci.set_os(platform.os().clone());
        spec.config.oci.set_architecture(platform.architecture().clone());
        spec.config.oci.set_created(Some("2020-01-01T00:00:00Z".into()));
        spec.layers = vec![layer];
        spec.names = vec![name.to_owned()];
        self.store.create_image(&spec).unwrap()
    }

    /// `base`: a few files, a user, links.
    pub fn base(&self) -> Image {
        self.image("base", &small_root())
    }

    pub fn build(&self, dockerfile: &str) -> Result<Built> {
        self.build_with(dockerfile, None, &BuildOptions::default()).0
    }

    pub fn run(&self, dockerfile: &str, executor: &dyn Executor) -> (Result<Built>, Log) {
        self.build_with(dockerfile, Some(executor), &BuildOptions::default())
    }

    pub fn build_with(
        &self,
        dockerfile: &str,
        executor: Option<&dyn Executor>,
        options: &BuildOptions,
    ) -> (Result<Built>, Log) {
        let resolver = StoreResolver(&self.store);
        let mut builder = Builder::new(&self.store, &resolver).cache(&self.cache);
        if let Some(executor) = executor {
            builder = builder.executor(executor);
        }
        let mut log = Log::default();
        let context = Context::dir(self.context_path()).unwrap();
        let result = builder.build(dockerfile, &context, options, &mut |e| log.note(&e), Ctx::none());
        assert_eq!(self.store.snapshots().unwrap().len(), 0, "a build leaves no snapshot");
        (result, log)
    }

    /// All files of the image as the layers' tars tell: path to `(kind, mode, owner, content or target)`.
    pub fn files(&self, image: &Image) -> BTreeMap<String, File> {
        let mut files = BTreeMap::new();
        for layer in self.store.layers(image).unwrap() {
            for (path, file) in self.layer(&layer) {
                let name =
                    Path::new(&path).file_name().map(|n| n.to_str().unwrap().to_owned()).unwrap_or_default();
                if let Some(gone) = name.strip_prefix(".wh.") {
                    let gone = Path::new(&path).with_file_name(gone).to_str().unwrap().to_owned();
                    files.retain(|p: &String, _| *p != gone && !p.starts_with(&format!("{gone}/")));
                } else {
                    files.insert(path, file);
                }
            }
        }
        files
    }

    pub fn last_layer(&self, image: &Image) -> BTreeMap<String, File> {
        self.layer(self.store.layers(image).unwrap().last().unwrap())
    }

    fn layer(&self, layer: &longshore_image::Layer) -> BTreeMap<String, File> {
        let mut bytes = Vec::new();
        let blob = self.store.open_blob(layer.descriptor.digest()).unwrap();
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut bytes).unwrap();
        read_tar(&bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub kind: char,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub text: String,
}

pub fn read_tar(bytes: &[u8]) -> BTreeMap<String, File> {
    let mut archive = tar::Archive::new(bytes);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut e = entry.unwrap();
        let path =
            e.path().unwrap().to_str().unwrap().trim_end_matches('/').trim_start_matches("./").to_owned();
        let h = e.header().clone();
        let mut text = String::new();
        let kind = match h.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Regular => '-',
            _ => '?',
        };
        match e.link_name().unwrap() {
            Some(t) => text = t.to_str().unwrap().to_owned(),
            None => {
                let mut data = Vec::new();
                e.read_to_end(&mut data).unwrap();
                text.push_str(&String::from_utf8_lossy(&data));
            }
        }
        let owner = (h.uid().unwrap(), h.gid().unwrap());
        files.insert(
            path,
            File { kind, mode: h.mode().unwrap() & 0o7777, owner, mtime: h.mtime().unwrap(), text },
        );
    }
    files
}

impl Log {
    pub fn note(&mut self, event: &BuildEvent<'_>) {
        match event {
            BuildEvent::Output { bytes, .. } => self.output.push_str(&String::from_utf8_lossy(bytes)),
            BuildEvent::Started { step, total, instruction } => {
                self.started.push((*step, *total, (*instruction).to_owned()));
            }
            BuildEvent::Cached { step } => self.cached.push(*step),
            BuildEvent::Warning { message, .. } => self.warnings.push((*message).to_owned()),
            _ => {}
        }
    }
}

/// Makes tars.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
    fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(1_000_000);
        h.set_size(0);
        h
    }
    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut h = Self::header(tar::EntryType::Directory, mode);
        self.0.append_data(&mut h, path, &[][..]).unwrap();
        self
    }
    pub fn file(mut self, path: &str, data: impl AsRef<[u8]>, mode: u32) -> Self {
        let mut h = Self::header(tar::EntryType::Regular, mode);
        h.set_size(data.as_ref().len() as u64);
        self.0.append_data(&mut h, path, data.as_ref()).unwrap();
        self
    }
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let mut h = Self::header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut h, path, target).unwrap();
        self
    }
    /// A member with any name, however bad.
    pub fn raw(mut self, path: &str, kind: tar::EntryType, target: &str, data: &[u8]) -> Self {
        let mut h = Self::header(kind, 0o644);
        h.set_size(data.len() as u64);
        h.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        h.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        h.set_cksum();
        self.0.append(&h, data).unwrap();
        self
    }
    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn small_root() -> Vec<u8> {
    Tar::new()
        .dir("bin", 0o755)
        .dir("etc", 0o755)
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\n", 0o644)
        .file("etc/group", "root:x:0:\nwww:x:34:\nadm:x:4:www\n", 0o644)
        .dir("tmp", 0o1777)
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .link("lib", "usr/lib")
        .link("abs", "/usr/lib")
        .link("dangling", "/created/here")
        .link("up", "../../../../../../escape")
        .end()
}

/// A root with busybox in it, if the machine has a static one.
pub fn busybox() -> Option<Vec<u8>> {
    let busybox = std::fs::read("/bin/busybox").or_else(|_| std::fs::read("/usr/bin/busybox")).ok()?;
    let mut tar = Tar::new().dir("bin", 0o755).file("bin/busybox", busybox, 0o755);
    for name in [
        "sh", "cat", "ls", "echo", "mkdir", "rm", "mv", "ln", "id", "env", "touch", "true", "false", "sleep",
        "test", "wget", "stat", "chmod", "grep", "hostname", "ip", "find", "cp",
    ] {
        tar = tar.link(&format!("bin/{name}"), "busybox");
    }
    Some(
        tar.dir("etc", 0o755)
            .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\n", 0o644)
            .file("etc/group", "root:x:0:\nwww:x:34:\nadm:x:4:www\n", 0o644)
            .dir("tmp", 0o1777)
            .dir("root", 0o700)
            .end(),
    )
}

type Step = dyn Fn(&Path, &[String], &mut dyn Write) -> i32 + Send + Sync;

/// Commands that are closures over the root's writable directory.
pub struct Script {
    step: Box<Step>,
    pub seen: Mutex<Vec<Vec<String>>>,
}

impl Script {
    pub fn new(step: impl Fn(&Path, &[String], &mut dyn Write) -> i32 + Send + Sync + 'static) -> Self {
        Self { step: Box::new(step), seen: Mutex::default() }
    }
    /// `/bin/sh -c "write PATH TEXT"` writes; `fail N` ends so; all else says what it is.
    pub fn simple() -> Self {
        Self::new(|upper, args, out| {
            let words: Vec<&str> = args[2].splitn(3, ' ').collect();
            match words.as_slice() {
                ["write", path, text] => {
                    let path = upper.join(path.trim_start_matches('/'));
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, text).unwrap();
                    0
                }
                ["fail", code] => code.parse().unwrap(),
                _ => {
                    writeln!(out, "{}", args[2]).unwrap();
                    0
                }
            }
        })
    }
}

impl Executor for Script {
    fn execute(
        &self,
        command: &Command<'_>,
        output: &mut (dyn Write + Send),
        _: Ctx<'_>,
    ) -> Result<i32, BoxError> {
        let mut seen = command.args.to_vec();
        seen.extend(command.env.iter().cloned());
        seen.push(format!(
            "cwd={} user={} uid={} gid={} groups={:?}",
            command.cwd, command.user, command.uid, command.gid, command.groups
        ));
        self.seen.lock().unwrap().push(seen);
        let upper = command.rootfs.overlay().ok_or("layers are not directories")?.upper.ok_or("read-only")?;
        Ok((self.step)(&upper, command.args, output))
    }
}
