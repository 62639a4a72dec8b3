//! runc's command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// OCI runtime: a stand-in for runc.
#[derive(Debug, Parser)]
#[command(name = "longshore-oci", version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"))]
pub(crate) struct Args {
    /// Directory for the state of containers.
    #[arg(long, global = true)]
    pub(crate) root: Option<PathBuf>,
    /// File for errors.
    #[arg(long, global = true)]
    pub(crate) log: Option<PathBuf>,
    /// `text` or `json`.
    #[arg(long, global = true, default_value = "text")]
    pub(crate) log_format: String,
    /// More messages (accepted, there are none).
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// systemd makes the cgroups; `linux.cgroupsPath` is SLICE:PREFIX:NAME.
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
    /// `true`, `false` or `auto` (accepted: it is found out).
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) rootless: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A command. Their arguments are set up for the one that is asked for: for all of them that takes a tenth of a container's start.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Make a container, without starting its process.
    Create(Create),
    /// Start the process of a created container.
    Start {
        /// Container ID.
        id: String,
    },
    /// Create and start.
    Run(Create),
    /// Print a container's state as JSON.
    State {
        /// Container ID.
        id: String,
    },
    /// Print all containers.
    List {
        /// `table` or `json`.
        #[arg(short, long, default_value = "table")]
        format: String,
        /// IDs alone.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Send a signal.
    Kill {
        /// To all processes.
        #[arg(short, long)]
        all: bool,
        /// Container ID.
        id: String,
        /// Name or number.
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove a container.
    Delete {
        /// Kill it first; a missing one is no error.
        #[arg(short, long)]
        force: bool,
        /// Container ID.
        id: String,
    },
    /// Run one more process in a container.
    Exec(Exec),
    /// List a container's processes.
    Ps {
        /// `table` or `json`.
        #[arg(short, long, default_value = "table")]
        format: String,
        /// Container ID.
        id: String,
        /// Options of ps(1).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Freeze a container.
    Pause {
        /// Container ID.
        id: String,
    },
    /// Thaw a container.
    Resume {
        /// Container ID.
        id: String,
    },
    /// Change a container's limits.
    Update(Update),
    /// Print what a container uses.
    Events {
        /// Once.
        #[arg(long)]
        stats: bool,
        /// Seconds between.
        #[arg(long, default_value = "5s")]
        interval: String,
        /// Container ID.
        id: String,
    },
    /// Write a config.json to begin with.
    Spec {
        /// Where.
        #[arg(short, long)]
        bundle: Option<PathBuf>,
        /// For a user without privileges.
        #[arg(long = "rootless", id = "spec_rootless")]
        rootless: bool,
    },
    /// Print what this runtime can do, as JSON.
    Features,
}

// `create` and `run`. (A doc comment would become the command's description.)
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Directory with config.json.
    #[arg(short, long, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// File for the PID of the container's process.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Socket that takes the controlling side of the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// Socket that takes a pidfd of the process.
    #[arg(long)]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Do not use pivot_root(2).
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Do not make a session keyring (accepted: none is made).
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Pass so many descriptors from 3 up.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// `run`: do not wait.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// `run`: leave the container there after its end.
    #[arg(long)]
    pub(crate) keep: bool,
    /// `run`: adopt orphans (accepted: the kernel gives them to the container's init).
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// Container ID.
    pub(crate) id: String,
}

// `exec`. (A doc comment would become the command's description.)
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// File with the process as in config.json.
    #[arg(short, long)]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// File for the PID.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Socket that takes the controlling side of the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// Socket that takes a pidfd of the process.
    #[arg(long)]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// With a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// `UID[:GID]`.
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// More groups.
    #[arg(short = 'g', long)]
    pub(crate) additional_gids: Vec<u32>,
    /// Working directory.
    #[arg(long)]
    pub(crate) cwd: Option<PathBuf>,
    /// `NAME=VALUE`.
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// One more capability.
    #[arg(short, long)]
    pub(crate) cap: Vec<String>,
    /// No new privileges.
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// AppArmor profile.
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    /// SELinux label.
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    /// Pass so many descriptors from 3 up.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// In a frozen container too (accepted).
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// `[CONTROLLER,...:]PATH` of a group below the container's.
    #[arg(long)]
    pub(crate) cgroup: Vec<String>,
    /// Container ID.
    pub(crate) id: String,
    /// Program and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

// `update`. (A doc comment would become the command's description.)
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// File with `linux.resources` as JSON; `-`: standard input.
    #[arg(short, long)]
    pub(crate) resources: Option<PathBuf>,
    /// Bytes; `-1`: none.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Bytes.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Bytes of memory and swap; `-1`: none.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Microseconds.
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds in a period; `-1`: all.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds kept from period to period.
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// Weight.
    #[arg(long, alias = "cpu-shares")]
    pub(crate) cpu_share: Option<u64>,
    /// 1: run only when nothing else does.
    #[arg(long)]
    pub(crate) cpu_idle: Option<i64>,
    /// Microseconds of real-time scheduling.
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Microseconds in a period of real-time scheduling.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Lines of cache for `schemata` of resctrl.
    #[arg(long)]
    pub(crate) l3_cache_schema: Option<String>,
    /// The line of memory bandwidth for `schemata` of resctrl.
    #[arg(long)]
    pub(crate) mem_bw_schema: Option<String>,
    /// Bytes (accepted: the kernel has no such limit any more).
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Bytes (accepted: the kernel has no such limit any more).
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// Processors.
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes.
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Weight of block I/O.
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Processes; `-1`: no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Container ID.
    pub(crate) id: String,
}
