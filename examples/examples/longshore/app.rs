//! What all commands share: the host, opened on first use, and the cancel flag.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use longshore_examples::user_namespace::IdMaps;
use longshore_examples::{Host, HostOptions, Layout};
use longshore_image::StoreOptions;
use longshore_registry_client::{CancelToken, Client, Proxies};
use longshore_runtime::containers::Containers;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::{Failure, Result};
use crate::output;

/// What the command line says of all registries.
#[derive(Args, Debug, Default)]
pub(crate) struct Registries {
    /// Registry without a certificate that can be verified: unverified TLS, or else plain HTTP (may be repeated)
    #[arg(long = "insecure-registry", global = true, value_name = "HOST[:PORT]|NETWORK")]
    insecure: Vec<String>,
    /// Token server that may see a registry's login although its name is not the registry's (may be repeated)
    #[arg(long = "trust-realm", global = true, value_name = "REGISTRY=HOST")]
    trusted_realms: Vec<String>,
}

/// How layers and containers' root file systems are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Storage {
    /// Layers as single files where the kernel mounts those, else as directories; containers in overlays of them
    #[default]
    Overlay,
    /// New layers as directories, also where files could be mounted; containers in overlays of them
    Directories,
    /// Each new container in a copy of its image, for where there is no overlay; blocks are shared where the file system can
    Copies,
}

impl From<Storage> for StoreOptions {
    fn from(storage: Storage) -> Self {
        let mut options = Self::default();
        options.directories = storage == Storage::Directories;
        options.copies = storage == Storage::Copies;
        options
    }
}

pub(crate) struct App {
    root: PathBuf,
    registries: Registries,
    storage: Storage,
    host: OnceCell<Host>,
    containers: OnceCell<Containers>,
    cancel: Arc<AtomicBool>,
}

impl App {
    /// With `cleans_up` the first SIGINT, SIGTERM or SIGHUP raises the cancel flag, and a second one ends the program;
    /// else the first one does.
    pub(crate) fn new(
        root: Option<PathBuf>,
        registries: Registries,
        storage: Storage,
        cleans_up: bool,
    ) -> Result<Self> {
        let cancel = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|_| cleans_up) {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&cancel))?;
            signal_hook::flag::register(signal, Arc::clone(&cancel))?;
        }
        let root = std::path::absolute(root.map_or_else(default_root, Ok)?)?;
        Ok(Self { root, registries, storage, host: OnceCell::new(), containers: OnceCell::new(), cancel })
    }

    pub(crate) fn host(&self) -> Result<&Host> {
        if let Some(host) = self.host.get() {
            return Ok(host);
        }
        let host = Host::open(Layout::new(&self.root), self.options()?).map_err(|e| Failure::from(&*e))?;
        Ok(self.host.get_or_init(|| host))
    }

    /// What the host, its files, the environment and the command line say.
    pub(crate) fn options(&self) -> Result<HostOptions> {
        let pair = |text: &String| {
            let pair =
                text.split_once('=').filter(|(registry, host)| !registry.is_empty() && !host.is_empty());
            let (registry, host) =
                pair.ok_or_else(|| Failure::new(format!("--trust-realm wants REGISTRY=HOST: {text}")))?;
            Ok((registry.to_owned(), host.to_owned()))
        };
        Ok(HostOptions {
            insecure: self.registries.insecure.clone(),
            trusted_realms: self.registries.trusted_realms.iter().map(pair).collect::<Result<_>>()?,
            storage: self.storage.into(),
            cancel: Arc::clone(&self.cancel),
            ..options()?
        })
    }

    pub(crate) fn containers(&self) -> Result<&Containers> {
        if let Some(containers) = self.containers.get() {
            return Ok(containers);
        }
        let containers = self.host()?.containers().map_err(|e| Failure::from(&*e))?;
        Ok(self.containers.get_or_init(|| containers))
    }

    /// A registry client whose calls end when the program is interrupted.
    pub(crate) fn registry(&self) -> Result<Client> {
        let client = self.host()?.registry().map_err(|e| Failure::from(&*e))?;
        Ok(client.with_cancel(&self.token()))
    }

    /// Raised with the cancel flag.
    pub(crate) fn token(&self) -> CancelToken {
        let (token, cancel) = (CancelToken::new(), Arc::clone(&self.cancel));
        let raise = token.clone();
        // Ends with the program.
        std::thread::spawn(move || {
            while !cancel.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            raise.cancel();
        });
        token
    }

    /// Waits for what is removed in the background, so that the space is free when the command has ended.
    pub(crate) fn settle(&self) {
        if let Some(host) = self.host.get() {
            host.store().settle();
        }
    }

    pub(crate) fn cancel(&self) -> &AtomicBool {
        &self.cancel
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// Opens everything below `root` for a container's shim, which asks no registry.
pub(crate) fn open_host(root: &Path) -> longshore_examples::Result<Host> {
    Host::open(Layout::new(root), options()?)
}

/// What the host, its files and the environment say.
fn options() -> std::io::Result<HostOptions> {
    let etc = ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|d| d.is_absolute());
    let config = config.or_else(|| Some(home()?.join(".config")));
    Ok(HostOptions {
        rootless: rootless(),
        id_maps: IdMaps::inherited(),
        resolv_conf: "/etc/resolv.conf".into(),
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        shim: std::env::current_exe()?,
        docker_config: docker_config(),
        registry_hosts: config.map(|c| c.join("docker/certs.d")).into_iter().chain(etc).collect(),
        insecure: Vec::new(),
        trusted_realms: Vec::new(),
        trusted: "/etc/ssl/certs/ca-certificates.crt".into(),
        proxies: Proxies::from_vars(|name| std::env::var(name).ok()),
        warn: Some(|registry, text| output::note(&format!("WARNING: {registry}: {text}"))),
        storage: StoreOptions::default(),
        cancel: Arc::default(),
    })
}

/// An ordinary user, or root of nothing but a user namespace.
pub(crate) fn rootless() -> bool {
    !rustix::process::geteuid().is_root() || IdMaps::inherited().is_some()
}

fn default_root() -> Result<PathBuf> {
    if !rootless() {
        return Ok("/var/lib/longshore".into());
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|d| d.is_absolute());
    let data = data.or_else(|| Some(home()?.join(".local/share")));
    data.map(|d| d.join("longshore"))
        .ok_or_else(|| Failure::new("no home directory: set HOME or XDG_DATA_HOME, or say --root DIR"))
}

/// Docker's `config.json`: where `docker login` and `longshore login` keep credentials.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home()?.join(".docker")));
    dir.map(|d| d.join("config.json"))
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute())
}
