//! The short way to a container, in the manner of `std::process::Command`.

use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxSeccomp, Mount, Process, Spec,
};

use crate::container::Container;
use crate::created::Running;
use crate::error::{Error, Result};
use crate::landlock::Landlock;
use crate::runtime::{CreateOptions, Runtime};
use crate::spec;
use crate::stdio::Stdio;

/// Which system calls the processes may make.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Seccomp {
    /// Docker's profile for the container's capabilities.
    #[default]
    DockerDefault,
    /// All.
    Unconfined,
    /// What this filter lets through.
    Filter(Box<LinuxSeccomp>),
}

impl Seccomp {
    /// Docker's profile.
    pub fn docker_default() -> Self {
        Seccomp::DockerDefault
    }
}

/// A container to be: [`Container::builder`]. What is not said is as [`spec::default_spec`] has it, or [`spec::rootless_spec`] for an
/// ordinary user.
#[derive(Debug)]
pub struct Builder {
    rootfs: PathBuf,
    id: Option<String>,
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    user: Option<(u32, u32)>,
    hostname: Option<String>,
    read_only: bool,
    host_network: bool,
    memory: Option<u64>,
    pids: Option<u64>,
    cpus: Option<f64>,
    seccomp: Seccomp,
    landlock: Option<Landlock>,
    mounts: Vec<Mount>,
    stdio: [Stdio; 3],
}

impl Container {
    /// A container with this root file system.
    ///
    /// ```no_run
    /// use longshore_runtime::{Container, Runtime, Seccomp, Stdio};
    ///
    /// # fn main() -> longshore_runtime::Result<()> {
    /// let runtime = Runtime::new("/run/example")?;
    /// let mut running = Container::builder("/srv/rootfs")
    ///     .args(["sh", "-c", "echo hello; exec sleep 60"])
    ///     .memory(64 << 20)
    ///     .pids(50)
    ///     .stdout(Stdio::Piped)
    ///     .seccomp(Seccomp::docker_default())
    ///     .spawn(&runtime)?;
    /// let output = running.take_stdout();
    /// let exec = running.exec(["ps"])?;
    /// if running.wait_timeout(std::time::Duration::from_secs(5))?.is_none() {
    ///     running.kill(9)?;
    /// }
    /// let exit = running.wait_to_end()?;
    /// println!("{} after {:?}, out of memory: {}", exit.code, exit.wall, exit.oom_killed);
    /// # drop((output, exec));
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(rootfs: impl Into<PathBuf>) -> Builder {
        Builder {
            rootfs: rootfs.into(),
            id: None,
            args: Vec::new(),
            env: vec![spec::DEFAULT_PATH.to_owned()],
            cwd: PathBuf::from("/"),
            user: None,
            hostname: None,
            read_only: false,
            host_network: false,
            memory: None,
            pids: None,
            cpus: None,
            seccomp: Seccomp::default(),
            landlock: None,
            mounts: Vec::new(),
            stdio: [Stdio::Null, Stdio::Inherit, Stdio::Inherit],
        }
    }
}

impl Builder {
    /// Its ID; without, a random one.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// One more argument; the first is the program, looked up in `PATH` inside.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// An environment variable. There is nothing but `PATH` otherwise.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|e| e.split_once('=').is_none_or(|(n, _)| n != name));
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Working directory inside, an absolute path; otherwise `/`.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = dir.into();
        self
    }

    /// User and group inside; otherwise root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Host name.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The root file system cannot be written to.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The caller's network in place of an empty one of its own.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Memory limit, bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Limit of processes and threads.
    #[must_use]
    pub fn pids(mut self, count: u64) -> Self {
        self.pids = Some(count);
        self
    }

    /// Limit of CPU time: 0.5 is half of one processor's.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Which system calls its processes may make.
    #[must_use]
    pub fn seccomp(mut self, seccomp: Seccomp) -> Self {
        self.seccomp = seccomp;
        self
    }

    /// Which files and TCP ports its processes may use, by Landlock; otherwise all that the rest leaves them.
    #[must_use]
    pub fn landlock(mut self, policy: Landlock) -> Self {
        self.landlock = Some(policy);
        self
    }

    /// Mounts a directory or file of the host; `options` as in the OCI spec (`rbind`, `ro`, `nosuid`...).
    #[must_use]
    pub fn bind(
        mut self,
        source: impl Into<PathBuf>,
        destination: impl Into<PathBuf>,
        options: &[&str],
    ) -> Self {
        let options = options.iter().map(ToString::to_string).chain(["rbind".to_owned()]).collect();
        self.mounts.push(mount("bind", source.into(), destination.into(), options));
        self
    }

    /// Mounts an empty file system in memory.
    #[must_use]
    pub fn tmpfs(mut self, destination: impl Into<PathBuf>) -> Self {
        let options = ["nosuid", "nodev"].map(str::to_owned).to_vec();
        self.mounts.push(mount("tmpfs", "tmpfs".into(), destination.into(), options));
        self
    }

    /// Standard input; otherwise the null device.
    #[must_use]
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Standard output; otherwise the caller's.
    #[must_use]
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Standard error; otherwise the caller's.
    #[must_use]
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// The OCI spec that it comes to, for what the builder has no word for; [`Runtime::create`] takes it.
    pub fn to_spec(&self) -> Result<Spec> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let args = self.args.iter().cloned();
        let mut spec = match uid.is_root() {
            true => spec::default_spec(args),
            false => spec::rootless_spec(args, uid.as_raw(), gid.as_raw()),
        };
        if self.host_network {
            spec::share_network(&mut spec);
        }
        spec.set_hostname(self.hostname.clone());
        if let Some(root) = spec.root_mut() {
            root.set_path(self.rootfs.clone()).set_readonly(Some(self.read_only));
        }
        if let Some(mounts) = spec.mounts_mut() {
            mounts.extend(self.mounts.iter().cloned());
        }
        if let Some(policy) = &self.landlock {
            policy.add_to(&mut spec);
        }
        let profile = spec.process().as_ref().map(spec::default_seccomp);
        if let Some(process) = spec.process_mut() {
            self.process(process);
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_resources(Some(self.resources()?)).set_seccomp(match &self.seccomp {
                Seccomp::DockerDefault => profile,
                Seccomp::Unconfined => None,
                Seccomp::Filter(filter) => Some(filter.as_ref().clone()),
            });
        }
        Ok(spec)
    }

    fn process(&self, process: &mut Process) {
        process.set_cwd(self.cwd.clone()).set_env(Some(self.env.clone()));
        if let Some((uid, gid)) = self.user {
            process.user_mut().set_uid(uid).set_gid(gid);
        }
    }

    fn resources(&self) -> Result<LinuxResources> {
        let field = |name: &str| Error::spec(format!("linux.resources.{name}"), "out of range");
        let mut resources = LinuxResources::default();
        if let Some(bytes) = self.memory {
            let bytes = i64::try_from(bytes).map_err(|_| field("memory"))?;
            // No swap beside it: the limit is what was asked for.
            let memory = LinuxMemoryBuilder::default().limit(bytes).swap(bytes).build();
            resources.set_memory(Some(memory.map_err(|_| field("memory"))?));
        }
        if let Some(count) = self.pids {
            let count = i64::try_from(count).map_err(|_| field("pids"))?;
            let pids = LinuxPidsBuilder::default().limit(count).build();
            resources.set_pids(Some(pids.map_err(|_| field("pids"))?));
        }
        if let Some(cpus) = self.cpus {
            let period = 100_000u64;
            let quota = (cpus * period as f64) as i64;
            // The kernel's least is a millisecond.
            if !cpus.is_finite() || quota < 1000 {
                return Err(field("cpu"));
            }
            let cpu = LinuxCpuBuilder::default().quota(quota).period(period).build();
            resources.set_cpu(Some(cpu.map_err(|_| field("cpu"))?));
        }
        Ok(resources)
    }

    /// Starts it; its program runs when this returns.
    pub fn spawn(self, runtime: &Runtime) -> Result<Running> {
        let spec = self.to_spec()?;
        let id = self.id.map_or_else(random_id, Ok)?;
        let options = CreateOptions { stdio: self.stdio, ..CreateOptions::default() };
        runtime.create(&id, &spec, options)?.start()
    }
}

fn random_id() -> Result<String> {
    let file = "/proc/sys/kernel/random/uuid";
    let id = fs::read_to_string(file).map_err(|source| Error::State { path: file.into(), source })?;
    Ok(id.trim().to_owned())
}

fn mount(kind: &str, source: PathBuf, destination: PathBuf, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount.set_typ(Some(kind.to_owned())).set_source(Some(source)).set_destination(destination);
    mount.set_options(Some(options));
    mount
}
