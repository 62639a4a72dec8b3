use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use longshore_build::{BoxError, Command, Executor, RuntimeExecutor};
use longshore_image::Ctx;

use crate::{Host, Result};

/// What a command sees as `/etc/hosts`, as with BuildKit.
const HOSTS: &str = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// `RUN` in containers of the host's runtime. Runtime and bridge are opened by the first command: a build that is answered
/// from the cache needs neither.
#[derive(Debug)]
pub struct HostExecutor<'a> {
    host: &'a Host,
    opened: OnceLock<RuntimeExecutor>,
}

impl<'a> HostExecutor<'a> {
    /// Over this host.
    pub fn new(host: &'a Host) -> Self {
        Self { host, opened: OnceLock::new() }
    }

    /// Ends what `RUN` left behind when its builder was killed: its process, its endpoint on the bridge, its files.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn sweep(&self) -> Result<()> {
        let leftovers = std::fs::read_dir(self.scratch()).is_ok_and(|mut entries| entries.next().is_some());
        if leftovers { self.open()?.sweep() } else { Ok(()) }
    }

    fn scratch(&self) -> PathBuf {
        self.host.layout().build().join("run")
    }

    fn open(&self) -> Result<RuntimeExecutor> {
        let options = self.host.options();
        let scratch = self.scratch();
        let executor = RuntimeExecutor::new(&self.host.runtime()?, scratch)
            .resolv_conf(self.host.resolv_conf())
            .hosts(HOSTS);
        if options.rootless {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            // An ordinary user can make no bridge; downloads in a build need some network.
            let executor = executor.rootless(uid.as_raw(), gid.as_raw()).host_network();
            return Ok(match &options.id_maps {
                Some(maps) => executor.id_maps(maps.uid.clone(), maps.gid.clone()),
                None => executor,
            });
        }
        Ok(executor.bridge(&self.host.networks().open("bridge")?))
    }
}

impl Executor for HostExecutor<'_> {
    fn execute(
        &self,
        command: &Command<'_>,
        output: &mut (dyn Write + Send),
        ctx: Ctx<'_>,
    ) -> Result<i32, BoxError> {
        if self.opened.get().is_none() {
            // Steps run in parallel: another one may have been quicker, and either will do.
            let _ = self.opened.set(self.open()?);
        }
        self.opened.get().expect("set just now").execute(command, output, ctx)
    }

    fn mounted_files(&self) -> &[&str] {
        &["/etc/resolv.conf", "/etc/hosts"]
    }
}
