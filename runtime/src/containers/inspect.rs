//! `inspect` in Docker's shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Config, HostConfig, PortBinding};

/// All about a container, as `docker inspect` writes it.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    /// 64 hex digits.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    /// Program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// State.
    pub state: ContainerState,
    /// Image ID.
    pub image: String,
    /// Host path of the container's `/etc/resolv.conf`.
    pub resolv_conf_path: String,
    /// Host path of the container's `/etc/hostname`.
    pub hostname_path: String,
    /// Host path of the container's `/etc/hosts`.
    pub hosts_path: String,
    /// Host path of the log.
    pub log_path: String,
    /// Name with a slash before it.
    pub name: String,
    /// Restarts by the policy since it was started.
    pub restart_count: u32,
    /// Storage.
    pub driver: String,
    /// `linux`.
    pub platform: String,
    /// Always empty.
    pub mount_label: String,
    /// Always empty.
    pub process_label: String,
    /// Always empty.
    pub app_armor_profile: String,
    /// Not kept: always `null`.
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// Host side of its configuration.
    pub host_config: HostConfig,
    /// The writable layer's storage.
    pub graph_driver: GraphDriver,
    /// Bytes of the writable layer, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<u64>,
    /// Mounts.
    pub mounts: Vec<MountPoint>,
    /// Configuration.
    pub config: Config,
    /// Network.
    pub network_settings: NetworkSettings,
}

/// The storage behind a container's root file system; where it is, is the image store's own affair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriver {
    /// Always `null`.
    pub data: Option<BTreeMap<String, String>>,
    /// As in [`Inspect::driver`].
    pub name: String,
}

/// A container's state, as it is kept and as `inspect` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    /// `created`, `running`, `paused`, `restarting`, `exited`, `dead`.
    pub status: String,
    /// Its process lives.
    pub running: bool,
    /// It is frozen.
    pub paused: bool,
    /// It ended, and its restart policy will start it again.
    pub restarting: bool,
    /// The kernel killed it for memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// It could not be removed in full.
    pub dead: bool,
    /// Process ID of its init; 0 when there is none.
    pub pid: u32,
    /// How its process ended last.
    pub exit_code: i32,
    /// Why it could not be started last, or what befell its supervisor.
    pub error: String,
    /// RFC 3339; Docker's zero time before the first start.
    pub started_at: String,
    /// RFC 3339; Docker's zero time before the first end.
    pub finished_at: String,
    /// Health, if it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Health as seen by the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// `starting`, `healthy`, `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five results.
    pub log: Vec<HealthResult>,
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthResult {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// 0 is healthy; -1: took too long.
    pub exit_code: i32,
    /// The first 4 KiB of what it wrote.
    pub output: String,
}

/// A mount, as it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Volume name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Host path.
    pub source: String,
    /// Container path.
    pub destination: String,
    /// `local` for volumes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Options as they were given.
    pub mode: String,
    /// Writable.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// Mount propagation.
    pub propagation: String,
}

/// Network side of `inspect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// Exposed and published ports; `null` for one that is not published.
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// Endpoint on the default network (the container's ID).
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Whose network namespace it is (the container's ID).
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Gateway of the default network.
    pub gateway: String,
    /// Address on the default network.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Its prefix length.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// MAC address on the default network.
    pub mac_address: String,
    /// Path of the network namespace.
    pub sandbox_key: String,
    /// By network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A container on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    /// The address that was asked for, as `IPv4Address`.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<BTreeMap<String, String>>,
    /// Other names there.
    pub aliases: Option<Vec<String>>,
    /// Network ID (its name).
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Endpoint ID (the container's).
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Gateway.
    pub gateway: String,
    /// Address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Prefix length.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// MAC address.
    pub mac_address: String,
}
