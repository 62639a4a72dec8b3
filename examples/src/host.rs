use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longshore_build::{BuildEvent, BuildOptions, Builder, Built, Context, FileCache, RegistryResolver};
use longshore_image::{Ctx, Imported, Store, StoreOptions};
use longshore_registry_client::{
    Client, ClientBuilder, DockerConfigFile, HostsDir, Proxies, Pushed, Reference,
};
use longshore_runtime::Runtime;
use longshore_runtime::containers::{Containers, OpenOptions};
use oci_spec::image::Platform;

use crate::transfer::{self, Progress};
use crate::user_namespace::IdMaps;
use crate::{HostExecutor, HostNetworks, HttpFetcher, Layout, Result, StoreImages};

/// What the composition takes from its surroundings; the crates read none of it by themselves.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Without root's rights: user namespaces, no networks of its own.
    pub rootless: bool,
    /// The ids of containers' user namespaces, where they are more than the caller's own one (see [`crate::user_namespace`]).
    pub id_maps: Option<IdMaps>,
    /// The host's `resolv.conf`, usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The host's name.
    pub host_name: String,
    /// The program that is started as the shim of a container: the caller's own, whose `main` begins with
    /// [`shim_main`](longshore_runtime::containers::shim_main).
    pub shim: PathBuf,
    /// Docker's `config.json`, for the credentials in it.
    pub docker_config: Option<PathBuf>,
    /// Directories with what is to be known about registries: `hosts.toml`, `certs.d`.
    pub registry_hosts: Vec<PathBuf>,
    /// Registries that are talked to by TLS without verification, or by plain HTTP where that fails.
    pub insecure: Vec<String>,
    /// Registries, and token servers that may see their logins although they look like strangers.
    pub trusted_realms: Vec<(String, String)>,
    /// Certificates to trust, in PEM, usually `/etc/ssl/certs/ca-certificates.crt`; Mozilla's if there is no such file.
    pub trusted: PathBuf,
    /// The proxies of the environment.
    pub proxies: Proxies,
    /// Told a registry's name and what it warns of, or what went wrong with it and did no harm. From any thread.
    pub warn: Option<fn(&str, &str)>,
    /// How layers and containers' root file systems are kept. What is kept otherwise already stays so, and is used all the same.
    pub storage: StoreOptions,
    /// Raised, it ends what goes through a container's whole root file system.
    pub cancel: Arc<AtomicBool>,
}

impl HostOptions {
    /// A registry client that knows all of this but the credentials.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn registry(&self) -> Result<ClientBuilder> {
        let mut builder =
            Client::builder().hosts(HostsDir::new(&self.registry_hosts)).proxies(self.proxies.clone());
        for host in &self.insecure {
            builder = builder.insecure(host);
        }
        for (registry, realm) in &self.trusted_realms {
            builder = builder.trust_realm(registry, realm);
        }
        if let Some(warn) = self.warn {
            builder = builder.warnings(warn);
        }
        Ok(if self.trusted.is_file() { builder.roots_file(&self.trusted)? } else { builder })
    }
}

/// Images, containers, networks and builds in one directory.
#[derive(Clone, Debug)]
pub struct Host {
    layout: Layout,
    options: HostOptions,
    store: Store,
}

impl Host {
    /// Opens `layout`, making what is missing.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(layout: Layout, options: HostOptions) -> Result<Self> {
        let store = Store::open_with(layout.image(), &options.storage)?;
        Ok(Self { layout, options, store })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What it took from its surroundings.
    pub fn options(&self) -> &HostOptions {
        &self.options
    }

    /// The image store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The networks.
    pub fn networks(&self) -> HostNetworks {
        HostNetworks::new(self.layout.network(), &self.options.resolv_conf, self.options.rootless)
    }

    /// The text of the host's `resolv.conf`; empty if there is none.
    pub fn resolv_conf(&self) -> String {
        std::fs::read_to_string(&self.options.resolv_conf).unwrap_or_default()
    }

    /// The runtime.
    ///
    /// # Errors
    /// When its state cannot be opened.
    pub fn runtime(&self) -> Result<Runtime> {
        Ok(Runtime::new(self.layout.runtime())?)
    }

    /// The containers.
    ///
    /// # Errors
    /// When their directory cannot be opened.
    pub fn containers(&self) -> Result<Containers> {
        let mut options = OpenOptions::new(&self.options.shim)
            .shim_context(self.layout.root())
            .resolv_conf(self.resolv_conf())
            .host_name(&self.options.host_name)
            .cancel(Arc::clone(&self.options.cancel))
            .default_network(if self.options.rootless { "host" } else { "bridge" });
        options.id_maps = self.options.id_maps.clone().map(|maps| (maps.uid, maps.gid));
        let images = Arc::new(StoreImages::new(self.store.clone(), self.options.rootless));
        let networks = Arc::new(self.networks());
        Ok(Containers::open(self.layout.root(), self.runtime()?, images, networks, options)?)
    }

    /// A registry client with the user's credentials.
    ///
    /// # Errors
    /// When docker's `config.json` does not parse.
    pub fn registry(&self) -> Result<Client> {
        let mut builder = self.options.registry()?;
        if let Some(file) = self.options.docker_config.as_ref().filter(|f| f.exists()) {
            builder = builder.credentials(DockerConfigFile::open(file)?);
        }
        Ok(builder.build()?)
    }

    /// Pulls an image into the store.
    ///
    /// # Errors
    /// The registry's and the store's.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: Progress<'_>,
    ) -> Result<Imported> {
        transfer::pull(&self.registry()?, &self.store, reference, platform, progress)
    }

    /// Pushes the image that the store holds under this name.
    ///
    /// # Errors
    /// The registry's and the store's.
    pub fn push(&self, reference: &Reference, progress: Progress<'_>) -> Result<Pushed> {
        transfer::push(&self.registry()?, &self.store, reference, progress)
    }

    /// Ends what killed builds left behind; a build does it first.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn sweep_builds(&self) -> Result<()> {
        HostExecutor::new(self).sweep()
    }

    /// Builds a Dockerfile. `pull`: base images are looked up in their registry even if the store has them.
    ///
    /// # Errors
    /// The builder's.
    pub fn build(
        &self,
        dockerfile: &str,
        context: &Context,
        options: &BuildOptions,
        pull: bool,
        events: &mut (dyn FnMut(BuildEvent<'_>) + Send),
        ctx: Ctx<'_>,
    ) -> Result<Built> {
        let resolver = RegistryResolver::new(&self.store, &self.registry()?).always(pull);
        let cache = FileCache::open(self.layout.build())?;
        let executor = HostExecutor::new(self);
        // A build that is answered from the cache runs no command, which would do it.
        executor.sweep()?;
        let fetcher = HttpFetcher::new();
        let mut options = options.clone();
        options.cache_dir.get_or_insert_with(|| self.layout.build().join("mounts"));
        let builder =
            Builder::new(&self.store, &resolver).cache(&cache).executor(&executor).fetcher(&fetcher);
        Ok(builder.build(dockerfile, context, &options, events, ctx)?)
    }
}
