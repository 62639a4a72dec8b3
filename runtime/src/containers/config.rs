//! What a container is asked to be: Docker's `Config` and `HostConfig`, field for field as the Engine API and `docker inspect` write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::NetworkRequest;

/// Docker writes `null` where a list or map is empty; both read as empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The empty object that Docker uses as the value of its sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A set as Docker writes it: `{"80/tcp": {}}`.
pub type Set = BTreeMap<String, Empty>;

/// The part of a container that does not depend on the host (Docker's `Config`). In a [`CreateRequest`] an empty field means "as the image says".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// Host name; empty takes the first 12 digits of the ID.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// `user[:group]`, each a name or a number.
    pub user: String,
    /// The client means to attach standard input.
    pub attach_stdin: bool,
    /// The client means to attach standard output.
    pub attach_stdout: bool,
    /// The client means to attach standard error.
    pub attach_stderr: bool,
    /// Ports that the image says it serves, as `80/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub exposed_ports: Set,
    /// The process gets a terminal.
    pub tty: bool,
    /// Standard input stays open when nothing is attached.
    pub open_stdin: bool,
    /// Standard input closes when the first attached client goes.
    pub stdin_once: bool,
    /// `NAME=value` lines; a bare `NAME` in a request removes the image's.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Arguments after the entry point.
    pub cmd: Option<Vec<String>>,
    /// How health is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// The image as it was named in the request.
    pub image: String,
    /// Anonymous volumes: container paths.
    #[serde(deserialize_with = "or_default")]
    pub volumes: Set,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// Entry point; `Some` of an empty list or of one empty string clears the image's.
    pub entrypoint: Option<Vec<String>>,
    /// A fixed MAC address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// Build triggers of the image.
    #[serde(deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that `stop` sends, by name or number; empty is SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds that `stop` waits before SIGKILL; `None` is 10, -1 is for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell of the image's shell forms.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub shell: Vec<String>,
}

/// A health check; durations in nanoseconds, 0 means Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `[]` inherits, `["NONE"]` switches off, `["CMD", arg...]`, `["CMD-SHELL", command]`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Time between checks (30 s).
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time that a check may take (30 s).
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time after the start in which failures do not count (0 s).
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks in the start period (5 s).
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy (3).
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The part of a container that depends on the host (Docker's `HostConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `-v` arguments: `source:target[:options]`.
    #[serde(deserialize_with = "or_default")]
    pub binds: Vec<String>,
    /// File that the ID was written to.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Logging.
    pub log_config: LogConfig,
    /// `bridge`, `host`, `none`, `container:ID` or a network's name; empty is `default`.
    pub network_mode: String,
    /// Published ports, by `80/tcp`.
    #[serde(deserialize_with = "or_default")]
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    /// What to do when the process ends.
    pub restart_policy: RestartPolicy,
    /// Remove the container when its process ends.
    pub auto_remove: bool,
    /// Driver of volumes made on the way; only `local`.
    pub volume_driver: String,
    /// Containers whose mounts are taken over: `name[:ro|rw]`.
    #[serde(deserialize_with = "or_default")]
    pub volumes_from: Vec<String>,
    /// Capabilities beside Docker's default set, or `ALL`.
    #[serde(deserialize_with = "or_default")]
    pub cap_add: Vec<String>,
    /// Capabilities taken away, or `ALL`.
    #[serde(deserialize_with = "or_default")]
    pub cap_drop: Vec<String>,
    /// `private` or `host`.
    pub cgroupns_mode: String,
    /// Name servers.
    #[serde(deserialize_with = "or_default")]
    pub dns: Vec<String>,
    /// Resolver options.
    #[serde(deserialize_with = "or_default")]
    pub dns_options: Vec<String>,
    /// Search domains.
    #[serde(deserialize_with = "or_default")]
    pub dns_search: Vec<String>,
    /// Lines of `/etc/hosts`, as `name:address`.
    #[serde(deserialize_with = "or_default")]
    pub extra_hosts: Vec<String>,
    /// Groups beside the user's own.
    #[serde(deserialize_with = "or_default")]
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `host`, `none` or `container:ID`.
    pub ipc_mode: String,
    /// The kernel's preference for killing it, -1000 to 1000.
    pub oom_score_adj: i64,
    /// Empty, `host` or `container:ID`.
    pub pid_mode: String,
    /// All capabilities and devices, nothing masked.
    pub privileged: bool,
    /// Publish every exposed port on a free host port.
    pub publish_all_ports: bool,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=unconfined|PROFILE`, `landlock=POLICY` ([`crate::Landlock`] as JSON), `label=...`, `apparmor=...`, `systempaths=unconfined`.
    #[serde(deserialize_with = "or_default")]
    pub security_opt: Vec<String>,
    /// tmpfs mounts: container path to options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub tmpfs: BTreeMap<String, String>,
    /// Empty or `host`.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// Empty or `host`.
    pub userns_mode: String,
    /// Bytes of `/dev/shm`; 0 is 64 MiB.
    pub shm_size: i64,
    /// Kernel parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub sysctls: BTreeMap<String, String>,
    /// Runtime name, as Docker writes it.
    pub runtime: String,
    /// Relative CPU weight.
    pub cpu_shares: i64,
    /// Memory limit in bytes; 0 is none.
    pub memory: i64,
    /// CPUs in units of 1e-9.
    pub nano_cpus: i64,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Block IO weight, 10 to 1000; 0 is none.
    pub blkio_weight: u16,
    /// Bytes per second that may be read from a device.
    #[serde(deserialize_with = "or_default")]
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    /// Bytes per second that may be written to a device.
    #[serde(deserialize_with = "or_default")]
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    /// Reads per second from a device.
    #[serde(rename = "BlkioDeviceReadIOps", deserialize_with = "or_default")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    /// Writes per second to a device.
    #[serde(rename = "BlkioDeviceWriteIOps", deserialize_with = "or_default")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    /// Microseconds of a CFS period.
    pub cpu_period: i64,
    /// Microseconds of CPU time per period.
    pub cpu_quota: i64,
    /// CPUs as `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes as `0,1`.
    pub cpuset_mems: String,
    /// Devices made inside.
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<DeviceMapping>,
    /// Rules as `c 1:3 mr`.
    #[serde(deserialize_with = "or_default")]
    pub device_cgroup_rules: Vec<String>,
    /// Soft memory limit in bytes.
    pub memory_reservation: i64,
    /// Memory and swap together in bytes; -1 is no limit, 0 twice the memory.
    pub memory_swap: i64,
    /// 0 to 100; `None` is the kernel's.
    pub memory_swappiness: Option<i64>,
    /// Never kill for memory.
    pub oom_kill_disable: Option<bool>,
    /// Number of tasks; 0 and -1 are no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    #[serde(deserialize_with = "or_default")]
    pub ulimits: Vec<Ulimit>,
    /// `--mount` arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub mounts: Vec<Mount>,
    /// A small init as process 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Paths hidden; `None` is Docker's list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only; `None` is Docker's list.
    pub readonly_paths: Option<Vec<String>>,
}

/// `--log-driver` and `--log-opt`. Drivers: `json-file` (default) and `none`; options of the former: `max-size`,
/// `max-file`, `labels`, `env`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Driver.
    #[serde(rename = "Type")]
    pub driver: String,
    /// Options.
    #[serde(rename = "Config", deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// One host side of a published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Host address; empty is all.
    pub host_ip: String,
    /// Host port; empty or `0` picks a free one.
    pub host_port: String,
}

/// `--restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no` (or empty), `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// Highest number of restarts of `on-failure`; 0 is no limit.
    pub maximum_retry_count: u32,
}

/// `--device`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// The host's device file.
    pub path_on_host: String,
    /// Where it appears.
    pub path_in_container: String,
    /// Of `rwm`.
    pub cgroup_permissions: String,
}

/// A block device, and how much of it per second: `--device-read-bps` and its like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    /// The host's device file.
    pub path: String,
    /// Bytes, or operations.
    pub rate: u64,
}

/// `--ulimit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// Name as in `ulimit`: `nofile`, `nproc`, ...
    pub name: String,
    /// Hard limit; -1 is none.
    pub hard: i64,
    /// Soft limit; -1 is none.
    pub soft: i64,
}

/// `--mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Host path or volume name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Container path.
    pub target: String,
    /// Read-only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Options of a bind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Options of a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Options of a tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

/// Options of a bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    /// Leave out mounts below the source.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub non_recursive: bool,
    /// Make the source directory if it is missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub create_mountpoint: bool,
}

/// Options of a volume mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// Do not copy the image's content into a fresh volume.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_copy: bool,
    /// Labels of a volume that is made on the way.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Directory inside the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Options of a tmpfs mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Bytes; 0 is the kernel's default.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: i64,
    /// Mode bits; 0 is 1777.
    #[serde(skip_serializing_if = "is_zero32")]
    pub mode: u32,
}

fn is_zero32(n: &u32) -> bool {
    *n == 0
}

/// What [`super::Containers::create`] takes: `docker create`, parsed. The image's own config fills what is empty here.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// Name; `None` generates one.
    pub name: Option<String>,
    /// Image by name or ID, as [`super::Images::config`] knows it.
    pub image: String,
    /// What differs from the image's config.
    pub config: Config,
    /// Host side.
    pub host: HostConfig,
    /// Network names beside the container's own (`--network-alias`).
    pub network_aliases: Vec<String>,
    /// A fixed address (`--ip`).
    pub ip: Option<String>,
    /// The health check in full or in part (`--health-*`), which wins over the image's field by field; `["NONE"]` switches it off.
    pub health: Option<HealthConfig>,
}

impl CreateRequest {
    /// A request for `image` with nothing else said.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), ..Self::default() }
    }

    pub(super) fn network(&self, config: &Config, ports: Vec<super::Port>) -> NetworkRequest {
        NetworkRequest {
            mode: if self.host.network_mode.is_empty() {
                "default".into()
            } else {
                self.host.network_mode.clone()
            },
            ports,
            aliases: self.network_aliases.clone(),
            ip: self.ip.clone(),
            mac: Some(config.mac_address.clone()).filter(|m| !m.is_empty()),
            name: self.name.clone().unwrap_or_default(),
            hostname: config.hostname.clone(),
        }
    }
}
