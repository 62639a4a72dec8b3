//! `run` and `create`: docker's flags, and what they ask for.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use longshore_runtime::containers::{
    Config, CreateRequest, DeviceMapping, HealthConfig, HostConfig, LogConfig, Mount, RestartPolicy,
    ThrottleDevice, Ulimit, parse,
};

use crate::failure::{Failure, Result};
use crate::idle::{ContentTrust, Isolation, KernelMemory};

/// Flags of `run` and `create`.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Print usage
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Assign a name to the container
    #[arg(long)]
    name: Option<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "list")]
    pub(crate) attach: Vec<String>,
    /// Automatically remove the container and its anonymous volumes when it exits
    #[arg(long)]
    rm: bool,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    init: bool,
    /// Write the container ID to the file
    #[arg(long, value_name = "file", default_value = "")]
    cidfile: String,
    /// Pull image before running ("always", "missing", "never")
    #[arg(long, default_value = "missing")]
    pub(crate) pull: String,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Suppress the pull output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    trust: ContentTrust,
    #[command(flatten)]
    isolation: Isolation,
    #[command(flatten)]
    kernel_memory: KernelMemory,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    life: LifeArgs,
    /// Image, then the command and its arguments
    #[arg(value_name = "IMAGE [COMMAND] [ARG...]", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    image_and_command: Vec<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Process")]
struct ProcessArgs {
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<PathBuf>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    user: Option<String>,
    /// Add additional groups to join
    #[arg(long, value_name = "list")]
    group_add: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    entrypoint: Option<String>,
    /// Set meta data on a container
    #[arg(short, long, value_name = "list")]
    label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "list")]
    label_file: Vec<PathBuf>,
    /// Add an annotation to the container, as a label
    #[arg(long, value_name = "map", hide = true)]
    annotation: Vec<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// Container host name
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// Container NIS domain name
    #[arg(long)]
    domainname: Option<String>,
    /// Connect a container to a network: bridge, host, none, container:ID or a network's name
    #[arg(long, visible_alias = "net")]
    network: Option<String>,
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "list")]
    network_alias: Vec<String>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long)]
    ip: Option<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long)]
    mac_address: Option<String>,
    /// Publish a container's port(s) to the host
    #[arg(short, long, value_name = "list")]
    publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "list")]
    expose: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "list")]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long, value_name = "list", visible_alias = "dns-opt")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "list")]
    dns_search: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list")]
    add_host: Vec<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Storage")]
struct StorageArgs {
    /// Bind mount a volume
    #[arg(short, long, value_name = "list")]
    volume: Vec<String>,
    /// Attach a filesystem mount to the container
    #[arg(long)]
    mount: Vec<Mount>,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "list")]
    volumes_from: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long, default_value = "")]
    volume_driver: String,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "list")]
    tmpfs: Vec<String>,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_parser = parse::bytes, value_name = "bytes")]
    shm_size: Option<i64>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Security and namespaces")]
struct SecurityArgs {
    /// Give extended privileges to this container
    #[arg(long)]
    privileged: bool,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    cap_drop: Vec<String>,
    /// Security Options
    #[arg(long, value_name = "list")]
    security_opt: Vec<String>,
    /// Add a host device to the container
    #[arg(long, value_name = "list")]
    device: Vec<DeviceMapping>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "list")]
    device_cgroup_rule: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "map")]
    sysctl: Vec<String>,
    /// PID namespace to use
    #[arg(long, default_value = "")]
    pid: String,
    /// IPC mode to use
    #[arg(long, default_value = "")]
    ipc: String,
    /// UTS namespace to use
    #[arg(long, default_value = "")]
    uts: String,
    /// User namespace to use
    #[arg(long, default_value = "")]
    userns: String,
    /// Cgroup namespace to use (host|private)
    #[arg(long, default_value = "")]
    cgroupns: String,
    /// Optional parent cgroup for the container
    #[arg(long, default_value = "")]
    cgroup_parent: String,
    /// Runtime to use for this container
    #[arg(long, default_value = "", hide = true)]
    runtime: String,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Memory limit
    #[arg(short, long, value_parser = parse::bytes, value_name = "bytes")]
    memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_parser = parse::bytes, value_name = "bytes")]
    memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_parser = parse::memory_swap, value_name = "bytes", allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    memory_swappiness: Option<i64>,
    /// Disable OOM Killer
    #[arg(long)]
    oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "int")]
    oom_score_adj: i64,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = parse::cpus)]
    cpus: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, default_value_t = 0, value_name = "int")]
    cpu_shares: i64,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, default_value_t = 0, value_name = "int")]
    cpu_period: i64,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "int")]
    cpu_quota: i64,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "")]
    cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "")]
    cpuset_mems: String,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, allow_negative_numbers = true, value_name = "int")]
    pids_limit: Option<i64>,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, default_value_t = 0, value_name = "uint16")]
    blkio_weight: u16,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "list", value_parser = parse::device_bytes)]
    device_read_bps: Vec<ThrottleDevice>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "list", value_parser = parse::device_bytes)]
    device_write_bps: Vec<ThrottleDevice>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "list", value_parser = parse::device_operations)]
    device_read_iops: Vec<ThrottleDevice>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "list", value_parser = parse::device_operations)]
    device_write_iops: Vec<ThrottleDevice>,
    /// Ulimit options
    #[arg(long)]
    ulimit: Vec<Ulimit>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Life cycle")]
struct LifeArgs {
    /// Restart policy to apply when a container exits
    #[arg(long, default_value = "no")]
    restart: RestartPolicy,
    /// Signal to stop the container
    #[arg(long, default_value = "")]
    stop_signal: String,
    /// Timeout (in seconds) to stop a container
    #[arg(long, allow_negative_numbers = true, value_name = "int")]
    stop_timeout: Option<i64>,
    /// Command to run to check health
    #[arg(long)]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse::duration)]
    health_interval: Option<i64>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse::duration)]
    health_timeout: Option<i64>,
    /// Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse::duration)]
    health_start_period: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse::duration)]
    health_start_interval: Option<i64>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int")]
    health_retries: Option<i64>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
    /// Logging driver for the container
    #[arg(long, default_value = "")]
    log_driver: String,
    /// Log driver options
    #[arg(long, value_name = "list")]
    log_opt: Vec<String>,
}

impl CreateArgs {
    /// The image as it was written.
    pub(crate) fn image(&self) -> &str {
        &self.image_and_command[0]
    }

    /// The command and its arguments; empty for the image's own.
    pub(crate) fn command(&self) -> &[String] {
        &self.image_and_command[1..]
    }

    /// Refuses before anything is made: a flag that is none, or flags that are against each other.
    pub(crate) fn check(&self) -> Result<()> {
        // What follows the image is not parsed, so an unknown flag before it arrives here as the image.
        if self.image().starts_with('-') {
            return Err(Failure::new(format!("unknown flag: {}, see 'longshore run --help'", self.image())));
        }
        self.security.check()?;
        self.life.check(self.rm)?;
        let stream = |s: &String| ["stdin", "stdout", "stderr"].contains(&s.to_ascii_lowercase().as_str());
        if !self.attach.iter().all(stream) {
            return Err(Failure::new("valid streams are STDIN, STDOUT and STDERR"));
        }
        let user_defined =
            !matches!(self.network.network.as_deref(), None | Some("default" | "bridge" | "host" | "none"));
        if !user_defined && !self.network.network_alias.is_empty() {
            return Err(Failure::new("network-scoped aliases are only supported for user-defined networks"));
        }
        Ok(())
    }

    /// What `--cidfile` names; made before the container is.
    pub(crate) fn id_file(&self) -> Result<Option<IdFile>> {
        match self.cidfile.as_str() {
            "" => Ok(None),
            path => IdFile::create(path).map(Some),
        }
    }

    /// The request for an image whose name in the store is `image`; `detached` is `run -d`.
    pub(crate) fn request(&self, image: &str, detached: bool) -> Result<CreateRequest> {
        let mut request = CreateRequest::new(image);
        request.name.clone_from(&self.name);
        request.config = self.config(detached)?;
        request.host = self.host()?;
        request.network_aliases.clone_from(&self.network.network_alias);
        request.ip.clone_from(&self.network.ip);
        request.health = self.life.health();
        Ok(request)
    }

    fn config(&self, detached: bool) -> Result<Config> {
        let (process, network) = (&self.process, &self.network);
        let streams = |name: &str| {
            !detached && (self.attach.is_empty() || self.attach.iter().any(|a| a.eq_ignore_ascii_case(name)))
        };
        let (exposed_ports, _) = parse::ports(&network.publish, &network.expose)?;
        let (_, volumes) = parse::volumes(&self.storage.volume, &here()?)?;
        Ok(Config {
            hostname: network.hostname.clone().unwrap_or_default(),
            domainname: network.domainname.clone().unwrap_or_default(),
            user: process.user.clone().unwrap_or_default(),
            attach_stdin: self.interactive && streams("stdin"),
            attach_stdout: streams("stdout"),
            attach_stderr: streams("stderr"),
            exposed_ports,
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: self.interactive && !detached,
            env: environment(&process.env_file, &process.env)?,
            cmd: (!self.command().is_empty()).then(|| self.command().to_vec()),
            image: self.image().to_owned(),
            volumes,
            working_dir: process.workdir.clone().unwrap_or_default(),
            entrypoint: process.entrypoint.clone().map(|e| vec![e]),
            mac_address: network.mac_address.clone().unwrap_or_default(),
            labels: parse::labels(&with_lines(&process.label_file, &process.label)?)?,
            stop_signal: self.life.stop_signal.clone(),
            stop_timeout: self.life.stop_timeout,
            ..Config::default()
        })
    }

    fn host(&self) -> Result<HostConfig> {
        let mut host = HostConfig {
            container_id_file: self.cidfile.clone(),
            auto_remove: self.rm,
            init: self.init.then_some(true),
            group_add: self.process.group_add.clone(),
            restart_policy: self.life.restart.clone(),
            log_config: LogConfig {
                driver: self.life.log_driver.clone(),
                options: parse::pairs(&self.life.log_opt, "log-opt")?,
            },
            ..HostConfig::default()
        };
        self.network.apply(&mut host)?;
        self.storage.apply(&mut host)?;
        self.security.apply(&mut host)?;
        self.limits.apply(&mut host);
        Ok(host)
    }
}

/// The working directory, where `-v ./data:/data` starts.
fn here() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| Failure::new(format!("no working directory: {e}")))
}

/// Lines of the files, then the arguments; a bare `NAME` takes the caller's own value.
pub(crate) fn environment(files: &[PathBuf], arguments: &[String]) -> Result<Vec<String>> {
    let own = |name: &str| std::env::var(name).ok();
    let mut env = Vec::new();
    for file in files {
        env.extend(parse::env_file(&read(file)?, &own)?);
    }
    env.extend(parse::env(arguments, &own)?);
    Ok(env)
}

/// Lines of the files without comments and blank ones, then the arguments.
fn with_lines(files: &[PathBuf], arguments: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        let text = read(file)?;
        let lines = text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#'));
        all.extend(lines.map(str::to_owned));
    }
    all.extend_from_slice(arguments);
    Ok(all)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| Failure::new(format!("open {}: {}", file.display(), words(&e))))
}

/// `seccomp=FILE` and `landlock=FILE` hand on the file's content, as docker's client does with the former.
fn security_option(text: &str) -> Result<String> {
    let Some((kind @ ("seccomp" | "landlock"), file)) = text.split_once(['=', ':']) else {
        return Ok(text.to_owned());
    };
    if kind == "seccomp" && ["unconfined", "builtin", "default"].contains(&file) {
        return Ok(text.to_owned());
    }
    let failed =
        |why: &dyn std::fmt::Display| Failure::new(format!("opening {kind} profile ({file}) failed: {why}"));
    let text = read(Path::new(file)).map_err(|failure| failed(&failure.message))?;
    let profile: serde_json::Value = serde_json::from_str(&text).map_err(|e| failed(&e))?;
    Ok(format!("{kind}={profile}"))
}

/// A file for a container's ID, which goes again where there is none.
pub(crate) struct IdFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl IdFile {
    fn create(path: &str) -> Result<Self> {
        let found = "container ID file found, make sure the other container isn't running or delete";
        match File::create_new(path) {
            Ok(file) => Ok(Self { path: path.into(), file, written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Failure::new(format!("{found} {path}")))
            }
            Err(error) => Err(Failure::new(format!(
                "failed to create the container ID file: open {path}: {}",
                words(&error)
            ))),
        }
    }

    pub(crate) fn write(&mut self, id: &str) -> Result<()> {
        self.file.write_all(id.as_bytes())?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// As docker writes it: without the number.
fn words(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl NetworkArgs {
    fn apply(&self, host: &mut HostConfig) -> Result<()> {
        host.network_mode = self.network.clone().unwrap_or_default();
        (_, host.port_bindings) = parse::ports(&self.publish, &self.expose)?;
        host.publish_all_ports = self.publish_all;
        host.dns.clone_from(&self.dns);
        host.dns_options.clone_from(&self.dns_option);
        host.dns_search.clone_from(&self.dns_search);
        host.extra_hosts.clone_from(&self.add_host);
        Ok(())
    }
}

impl StorageArgs {
    fn apply(&self, host: &mut HostConfig) -> Result<()> {
        (host.binds, _) = parse::volumes(&self.volume, &here()?)?;
        host.mounts.clone_from(&self.mount);
        host.volumes_from.clone_from(&self.volumes_from);
        host.volume_driver.clone_from(&self.volume_driver);
        host.tmpfs = self.tmpfs.iter().map(|t| parse::tmpfs(t)).collect();
        host.readonly_rootfs = self.read_only;
        host.shm_size = self.shm_size.unwrap_or_default();
        Ok(())
    }
}

impl SecurityArgs {
    /// As docker's own command line, which looks at these before its daemon does.
    fn check(&self) -> Result<()> {
        let joins = |mode: &str| mode.strip_prefix("container:").is_some_and(|other| !other.is_empty());
        let own = |mode: &str| matches!(mode, "" | "host");
        for (right, what) in [
            (own(&self.pid) || joins(&self.pid), "--pid: invalid PID mode"),
            (own(&self.uts), "--uts: invalid UTS mode"),
            (own(&self.userns), "--userns: invalid USER mode"),
            (own(&self.cgroupns) || self.cgroupns == "private", "--cgroupns: invalid CGROUP mode"),
        ] {
            if !right {
                return Err(Failure::new(what));
            }
        }
        match self.runtime.as_str() {
            "" | "longshore" | "runc" | "io.containerd.runc.v2" => Ok(()),
            other => Err(Failure::new(format!("Unknown runtime specified {other}"))),
        }
    }

    fn apply(&self, host: &mut HostConfig) -> Result<()> {
        host.privileged = self.privileged;
        host.cap_add.clone_from(&self.cap_add);
        host.cap_drop.clone_from(&self.cap_drop);
        host.security_opt = self.security_opt.iter().map(|o| security_option(o)).collect::<Result<_>>()?;
        host.devices.clone_from(&self.device);
        host.device_cgroup_rules.clone_from(&self.device_cgroup_rule);
        host.sysctls = parse::pairs(&self.sysctl, "sysctl")?;
        host.pid_mode.clone_from(&self.pid);
        host.ipc_mode.clone_from(&self.ipc);
        host.uts_mode.clone_from(&self.uts);
        host.userns_mode.clone_from(&self.userns);
        host.cgroupns_mode.clone_from(&self.cgroupns);
        host.cgroup_parent.clone_from(&self.cgroup_parent);
        Ok(())
    }
}

impl LimitArgs {
    fn apply(&self, host: &mut HostConfig) {
        host.memory = self.memory.unwrap_or_default();
        host.memory_reservation = self.memory_reservation.unwrap_or_default();
        host.memory_swap = self.memory_swap.unwrap_or_default();
        host.memory_swappiness = self.memory_swappiness.filter(|&s| s != -1);
        host.oom_kill_disable = self.oom_kill_disable.then_some(true);
        host.oom_score_adj = self.oom_score_adj;
        host.nano_cpus = self.cpus.unwrap_or_default();
        host.cpu_shares = self.cpu_shares;
        host.cpu_period = self.cpu_period;
        host.cpu_quota = self.cpu_quota;
        host.cpuset_cpus.clone_from(&self.cpuset_cpus);
        host.cpuset_mems.clone_from(&self.cpuset_mems);
        host.pids_limit = self.pids_limit;
        host.blkio_weight = self.blkio_weight;
        host.blkio_device_read_bps.clone_from(&self.device_read_bps);
        host.blkio_device_write_bps.clone_from(&self.device_write_bps);
        host.blkio_device_read_iops.clone_from(&self.device_read_iops);
        host.blkio_device_write_iops.clone_from(&self.device_write_iops);
        host.ulimits.clone_from(&self.ulimit);
    }
}

impl LifeArgs {
    fn check(&self, rm: bool) -> Result<()> {
        let health = self.health_cmd.is_some()
            || [self.health_interval, self.health_timeout, self.health_start_period, self.health_retries]
                .iter()
                .any(Option::is_some);
        let negative = |n: Option<i64>| n.is_some_and(|n| n < 0);
        for (wrong, what) in [
            (rm && self.restart.name != "no", "conflicting options: cannot specify both --restart and --rm"),
            (self.no_healthcheck && health, "--no-healthcheck conflicts with --health-* options"),
            (negative(self.health_interval), "--health-interval cannot be negative"),
            (negative(self.health_timeout), "--health-timeout cannot be negative"),
            (negative(self.health_retries), "--health-retries cannot be negative"),
            (negative(self.health_start_period), "--health-start-period cannot be negative"),
        ] {
            if wrong {
                return Err(Failure::new(what));
            }
        }
        Ok(())
    }

    fn health(&self) -> Option<HealthConfig> {
        if self.no_healthcheck {
            return Some(HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() });
        }
        let health = HealthConfig {
            test: self.health_cmd.as_ref().map_or(Vec::new(), |c| vec!["CMD-SHELL".into(), c.clone()]),
            interval: self.health_interval.unwrap_or_default(),
            timeout: self.health_timeout.unwrap_or_default(),
            start_period: self.health_start_period.unwrap_or_default(),
            start_interval: self.health_start_interval.unwrap_or_default(),
            retries: self.health_retries.unwrap_or_default(),
        };
        (health != HealthConfig::default()).then_some(health)
    }
}
