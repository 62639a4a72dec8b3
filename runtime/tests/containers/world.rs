//! A store of containers in a temporary directory, with an image made of busybox and no network.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_runtime::Runtime;
use longshore_runtime::containers::{
    Attached, BoxError, Containers, CreateRequest, ImageInfo, Images, LogOptions, NetworkRequest, Networks,
    OpenOptions, RemoveOptions, Result, RootfsSource, StartOptions, WaitFor,
};
use oci_spec::image::{ConfigBuilder, ImageConfiguration};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &str = "sh true false echo cat sleep ls id env pwd mkdir touch rm kill ps head tail wc seq yes dd grep test hostname stty tty \
    printf trap nproc mount readlink stat dirname vi tar chmod ln mv cp";

/// Every container's root is a small tree with hard links to one busybox.
struct Busybox {
    dir: PathBuf,
}

impl Busybox {
    fn root(&self, id: &str) -> PathBuf {
        self.dir.join("roots").join(id)
    }
}

impl Images for Busybox {
    fn config(&self, image: &str) -> Result<Option<ImageInfo>, BoxError> {
        if image != "busybox" {
            return Ok(None);
        }
        let config = ConfigBuilder::default()
            .cmd(vec!["sh".into()])
            .env(vec!["PATH=/bin".into(), "FROM=image".into()])
            .build()?;
        let mut whole = ImageConfiguration::default();
        whole.set_config(Some(config));
        Ok(Some(ImageInfo { id: format!("sha256:{}", "1".repeat(64)), config: whole, healthcheck: None }))
    }

    fn rootfs(&self, container_id: &str, _image_id: &str) -> Result<RootfsSource, BoxError> {
        let root = self.root(container_id);
        if !root.exists() {
            let fresh = self.root(&format!(".{container_id}"));
            let _ = std::fs::remove_dir_all(&fresh);
            for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "data"] {
                std::fs::create_dir_all(fresh.join(dir))?;
            }
            let ours = self.dir.join("busybox");
            std::fs::hard_link(&ours, fresh.join("bin/busybox"))?;
            for applet in APPLETS.split_ascii_whitespace() {
                symlink("busybox", fresh.join("bin").join(applet))?;
            }
            std::fs::write(
                fresh.join("etc/passwd"),
                "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/data:/bin/sh\n",
            )?;
            std::fs::write(fresh.join("etc/group"), "root:x:0:\nweb:x:34:\nmore:x:77:web\n")?;
            std::fs::write(fresh.join("data/from-image"), "content\n")?;
            std::fs::rename(fresh, &root)?;
        }
        Ok(RootfsSource::Path(root))
    }

    fn remove_rootfs(&self, container_id: &str) -> Result<(), BoxError> {
        // Also what a shim had begun to make when it was killed.
        for root in [self.root(container_id), self.root(&format!(".{container_id}"))] {
            match std::fs::remove_dir_all(root) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Puts containers on no network but "broken", from which none can be taken while there is a file of that name.
struct Nowhere {
    dir: PathBuf,
}

impl Networks for Nowhere {
    fn attach(
        &self,
        _id: &str,
        _netns: BorrowedFd<'_>,
        request: &NetworkRequest,
    ) -> Result<Attached, BoxError> {
        match request.mode.as_str() {
            "broken" => Ok(Attached::default()),
            mode => Err(format!("no network {mode}").into()),
        }
    }
    fn detach(&self, id: &str) -> Result<(), BoxError> {
        if self.dir.join("broken").exists() {
            return Err("it does not let go".into());
        }
        Ok(std::fs::write(self.dir.join("detached"), id)?)
    }
}

/// Opens the containers below `dir`: for a test, and for the shims that it starts.
pub(crate) fn open(dir: &Path) -> Result<Containers> {
    let runtime = Runtime::new(dir.join("runtime"))?;
    let options = OpenOptions::new(std::env::current_exe().expect("own path"))
        .shim_context(dir)
        .default_network("none")
        .resolv_conf("nameserver 192.0.2.1\n")
        .host_name("the-host");
    let networks = Arc::new(Nowhere { dir: dir.into() });
    Containers::open(dir, runtime, Arc::new(Busybox { dir: dir.into() }), networks, options)
}

/// A fresh directory of containers, all of which are gone when it is dropped.
pub(crate) struct World {
    pub(crate) all: Containers,
    pub(crate) dir: PathBuf,
    _temporary: tempfile::TempDir,
}

impl World {
    /// `None`, with a word why, where containers cannot run.
    pub(crate) fn new() -> Option<Self> {
        if !Path::new(BUSYBOX).exists() {
            return skip("no busybox-static");
        }
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().to_path_buf();
        std::fs::create_dir_all(dir.join("roots")).unwrap();
        std::fs::copy(BUSYBOX, dir.join("busybox")).unwrap();
        Some(Self { all: open(&dir).unwrap(), dir, _temporary: temporary })
    }

    pub(crate) fn create(
        &self,
        name: &str,
        args: &[&str],
        change: impl FnOnce(&mut CreateRequest),
    ) -> String {
        let mut request = CreateRequest::new("busybox");
        request.name = Some(name.into());
        request.config.cmd = Some(args.iter().map(ToString::to_string).collect());
        change(&mut request);
        self.all.create(&request).unwrap().id
    }

    /// Creates and starts.
    pub(crate) fn run(&self, name: &str, args: &[&str], change: impl FnOnce(&mut CreateRequest)) -> String {
        let id = self.create(name, args, change);
        self.all.start(&id, &StartOptions::default()).unwrap();
        id
    }

    /// Runs to the end; exit code and log.
    pub(crate) fn run_to_end(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut CreateRequest),
    ) -> (i32, String) {
        self.run(name, &["sh", "-c", script], change);
        let code = self.all.wait(name, WaitFor::NotRunning).unwrap();
        (code, self.log(name))
    }

    pub(crate) fn log(&self, name: &str) -> String {
        let mut text = Vec::new();
        let mut take = |line: longshore_runtime::containers::LogLine| {
            text.extend_from_slice(&line.log);
            true
        };
        self.all.logs(name, &LogOptions::default(), &mut take).unwrap();
        String::from_utf8(text).unwrap()
    }

    pub(crate) fn status(&self, name: &str) -> String {
        self.all.inspect(name).unwrap().state.status
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for summary in self.all.list(true, &Default::default(), false).unwrap_or_default() {
            let _ = self.all.remove(&summary.id, &RemoveOptions::new(true, true));
        }
    }
}

/// Nothing is skipped silently, and nothing at all where the tests are to be complete.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "would be skipped: {reason}");
    eprintln!("skipped: {reason}");
    None
}

/// Waits for something that takes a while to come true.
pub(crate) fn until(what: &str, mut test: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if test() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("in vain: {what}");
}
