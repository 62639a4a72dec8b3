//! `version`, `info`, `system df|prune`, `volume`, `network`.

use std::io::{BufRead, Write};

use clap::{Args, Subcommand};
use longshore_image::Ctx;
use longshore_runtime::containers::{Filters, Volume, parse};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, Result, each};
use crate::filters::PruneFilters;
use crate::{images, network, output, ps};

/// `volume`
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create a volume
    Create(VolumeCreateArgs),
    /// Display detailed information on one or more volumes
    Inspect(VolumeInspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLsArgs),
    /// Remove unused local volumes
    Prune(VolumePruneArgs),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(VolumeRmArgs),
}

/// `volume create`
#[derive(Args, Debug)]
pub(crate) struct VolumeCreateArgs {
    /// Specify volume driver name
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Its name; without one it is anonymous
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

/// `volume inspect`
#[derive(Args, Debug)]
pub(crate) struct VolumeInspectArgs {
    /// Format output using a custom template
    #[arg(short, long)]
    format: Option<String>,
    /// Volumes
    #[arg(value_name = "VOLUME", required = true)]
    names: Vec<String>,
}

/// `volume ls`
#[derive(Args, Debug)]
pub(crate) struct VolumeLsArgs {
    /// Provide filter values (e.g. "dangling=true")
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
}

/// `volume prune`
#[derive(Args, Debug)]
pub(crate) struct VolumePruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "label=<label>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// `volume rm`
#[derive(Args, Debug)]
pub(crate) struct VolumeRmArgs {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    force: bool,
    /// Volumes
    #[arg(value_name = "VOLUME", required = true)]
    names: Vec<String>,
}

pub(crate) fn volume(app: &App, command: &VolumeCommand) -> Result<()> {
    let volumes = app.containers()?.volumes();
    match command {
        VolumeCommand::Create(args) => {
            if args.driver != "local" {
                return Err(Failure::new(format!(
                    "create {}: error looking up volume plugin {1}: plugin \"{1}\" not found",
                    args.name.as_deref().unwrap_or_default(),
                    args.driver
                )));
            }
            let labels = parse::labels(&args.label)?;
            output::line(&volumes.create(args.name.as_deref().unwrap_or_default(), &labels)?.name);
            Ok(())
        }
        VolumeCommand::Inspect(args) => {
            let mut found = Vec::new();
            let result = each(&args.names, |name| {
                found.push(serde_json::to_value(volumes.inspect(name)?)?);
                Ok(())
            });
            output::inspected(&found, args.format.as_deref())?;
            result
        }
        VolumeCommand::Ls(args) => {
            let found = volumes.list(&ps::filters(&args.filter)?)?;
            if args.quiet && args.format.is_none() {
                found.iter().for_each(|volume| output::line(&volume.name));
                return Ok(());
            }
            let rows: Vec<Value> = found.iter().map(volume_row).collect();
            let titles = [
                ("Driver", "DRIVER"),
                ("Name", "VOLUME NAME"),
                ("Mountpoint", "MOUNTPOINT"),
                ("Labels", "LABELS"),
                ("Scope", "SCOPE"),
            ];
            output::rows(&titles, "table {{.Driver}}\t{{.Name}}", args.format.as_deref(), &rows)
        }
        VolumeCommand::Prune(args) => {
            let what = if args.all { "all local volumes" } else { "anonymous local volumes" };
            if !args.force
                && !confirmed(&format!(
                    "WARNING! This will remove {what} not used by at least one container."
                ))?
            {
                return Ok(());
            }
            let pruned = volumes.prune(args.all, &ps::filters(&args.filter)?)?;
            if !pruned.removed.is_empty() {
                output::line("Deleted Volumes:");
                pruned.removed.iter().for_each(|name| output::line(name));
                output::line("");
            }
            output::line(&format!("Total reclaimed space: {}", output::size(pruned.bytes)));
            Ok(())
        }
        VolumeCommand::Rm(args) => each(&args.names, |name| {
            volumes.remove(name, args.force)?;
            output::line(name);
            Ok(())
        }),
    }
}

fn volume_row(volume: &Volume) -> Value {
    let labels: Vec<String> = volume.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({"Driver": volume.driver, "Name": volume.name, "Mountpoint": volume.mountpoint, "Labels": labels.join(","), "Scope": volume.scope})
}

/// `system prune`
#[derive(Args, Debug)]
pub(crate) struct SystemPruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Provide filter values (e.g. "label=<key>=<value>"): label, label!, until
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

pub(crate) fn prune(app: &App, args: &SystemPruneArgs) -> Result<()> {
    let filters = PruneFilters::parse(&args.filter)?;
    if args.volumes && filters.has_until() {
        return Err(Failure::new("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    if !args.force && !confirmed(&warning(args))? {
        return Ok(());
    }
    let containers = app.containers()?;
    let gone = containers.prune(&ps::filters(&args.filter)?)?;
    let mut bytes = gone.bytes;
    list("Deleted Containers:", &gone.removed);
    if args.volumes {
        let gone = containers.volumes().prune(false, &ps::filters(&args.filter)?)?;
        bytes += gone.bytes;
        list("Deleted Volumes:", &gone.removed);
    }
    let host = app.host()?;
    host.sweep_builds().map_err(|e| Failure::from(&*e))?;
    list("Deleted Networks:", &network::unused(app, &filters)?);
    let ctx = Ctx { progress: &|_| {}, cancel: app.cancel() };
    let (untagged, collected) = host.store().prune(args.all, &|image| images::goes(&filters, image), ctx)?;
    let ids = collected.images.iter().map(|id| format!("deleted: {id}"));
    list(
        "Deleted Images:",
        &untagged.iter().map(|name| format!("untagged: {name}")).chain(ids).collect::<Vec<_>>(),
    );
    output::line(&format!("Total reclaimed space: {}", output::size(bytes + collected.bytes)));
    Ok(())
}

fn warning(args: &SystemPruneArgs) -> String {
    let mut lines = vec!["WARNING! This will remove:", "  - all stopped containers"];
    lines.push("  - all networks not used by at least one container");
    if args.volumes {
        lines.push("  - all anonymous volumes not used by at least one container");
    }
    lines.push(match args.all {
        true => "  - all images without at least one container associated to them\n",
        false => "  - all dangling images\n",
    });
    let mut text = lines.join("\n");
    if !args.filter.is_empty() {
        text += "\n  Items to be pruned will be filtered with:\n";
        text.extend(args.filter.iter().map(|filter| format!("  - {filter}\n")));
    }
    text
}

pub(crate) fn list(title: &str, lines: &[String]) {
    if !lines.is_empty() {
        output::line(title);
        lines.iter().for_each(|line| output::line(line));
        output::line("");
    }
}

/// `system df`
#[derive(Args, Debug)]
pub(crate) struct DfArgs {
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

/// `system df -v`: what each image, container and volume takes.
fn df_verbose(app: &App) -> Result<()> {
    let store = app.host()?.store();
    let containers = app.containers()?;
    let all = containers.list(true, &Filters::new(), true)?;
    output::line("Images space usage:\n");
    images::usage(store, &|id| all.iter().filter(|c| c.image_id == id).count())?;
    output::line("\nContainers space usage:\n");
    let rows: Vec<Value> = all
        .iter()
        .map(|c| {
            json!({
                "ID": output::short_id(&c.id), "Image": c.image, "Command": output::quoted(&output::ellipsis(&c.command, 20)),
                "LocalVolumes": c.local_volumes.to_string(), "Size": output::size(c.size.unwrap_or_default()),
                "CreatedSince": output::ago(c.created), "Status": c.status, "Names": c.name,
            })
        })
        .collect();
    let titles = [
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ];
    let table = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.CreatedSince}}\t{{.Status}}\t{{.Names}}";
    output::rows(&titles, table, None, &rows)?;
    output::line("\nLocal Volumes space usage:\n");
    let volumes = containers.volumes();
    let mut rows = Vec::new();
    for volume in volumes.list(&Filters::new())? {
        let size = output::fine_size(volumes.size(&volume.name).unwrap_or_default());
        rows.push(
            json!({"Name": volume.name, "Links": volumes.users(&volume.name)?.to_string(), "Size": size}),
        );
    }
    let titles = [("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];
    output::rows(&titles, "table {{.Name}}\t{{.Links}}\t{{.Size}}", None, &rows)
}

pub(crate) fn df(app: &App, args: &DfArgs) -> Result<()> {
    if args.verbose {
        if args.format.is_some() {
            return Err(Failure::new("the verbose and the format flag conflict"));
        }
        return df_verbose(app);
    }
    let usage = app.host()?.store().disk_usage()?;
    let containers = app.containers()?;
    let all = containers.list(true, &Filters::new(), true)?;
    let running = all.iter().filter(|c| c.state == "running").count();
    let writable = |summary: &longshore_runtime::containers::Summary| summary.size.unwrap_or_default();
    let idle: u64 = all.iter().filter(|c| c.state != "running").map(writable).sum();
    let volumes = containers.volumes();
    let measure = |filters: &Filters| -> Result<(usize, u64)> {
        let found = volumes.list(filters)?;
        // One that has gone meanwhile takes nothing.
        Ok((found.len(), found.iter().map(|volume| volumes.size(&volume.name).unwrap_or_default()).sum()))
    };
    let (volumes, volume_bytes) = measure(&Filters::new())?;
    let (idle_volumes, idle_bytes) = measure(&Filters::new().with("dangling", "true"))?;
    let row = |kind: &str, total: usize, active: usize, size: u64, free: u64| {
        // As docker does: with its part of the whole, where there is any.
        let part = (free * 100).checked_div(size).map(|part| format!(" ({part}%)")).unwrap_or_default();
        json!({
            "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(), "Size": output::fine_size(size),
            "Reclaimable": output::fine_size(free) + &part,
        })
    };
    let rows = [
        row("Images", usage.images, usage.active, usage.blobs + usage.layers, usage.reclaimable),
        row("Containers", all.len(), running, all.iter().map(writable).sum(), idle),
        row("Local Volumes", volumes, volumes - idle_volumes.min(volumes), volume_bytes, idle_bytes),
    ];
    let titles = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    let table = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    output::rows(&titles, table, args.format.as_deref(), &rows)
}

/// Asks on the terminal; anything but `y` is no.
pub(crate) fn confirmed(warning: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// `version`
pub(crate) fn version(format: Option<&str>) -> Result<()> {
    let uname = rustix::system::uname();
    let machine = longshore_image::host_platform();
    // There is no API, and no Go: the keys are there for those who read them all.
    let client = json!({
        "Platform": {"Name": "longshore"}, "Version": env!("CARGO_PKG_VERSION"), "Os": machine.os().to_string(),
        "Arch": machine.architecture().to_string(), "ApiVersion": "", "GitCommit": "", "GoVersion": "", "BuildTime": "",
        "Experimental": false,
    });
    let mut server = client.clone();
    server["KernelVersion"] = uname.release().to_string_lossy().into();
    server["MinAPIVersion"] = "".into();
    server["Components"] = json!([]);
    if let Some(format) = format {
        return output::one(format, json!({"Client": client, "Server": server}));
    }
    let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
    output::line(&format!("longshore version {}", text("Version")));
    output::line(&format!(
        " OS/Arch:  {}/{}\n Kernel:   {}",
        text("Os"),
        text("Arch"),
        text("KernelVersion")
    ));
    Ok(())
}

/// `info`
#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// Format the output using the given Go template
    #[arg(short, long)]
    format: Option<String>,
}

/// `info`: docker's keys, as far as there is something behind them.
pub(crate) fn info(app: &App, args: &InfoArgs) -> Result<()> {
    let all = app.containers()?.list(true, &Filters::new(), false)?;
    let in_state = |state: &str| all.iter().filter(|c| c.state == state).count();
    let images = app.host()?.store().images().map_err(Failure::from)?.len();
    let uname = rustix::system::uname();
    let memory = rustix::system::sysinfo();
    let value = json!({
        "Containers": all.len(), "ContainersRunning": in_state("running"), "ContainersPaused": in_state("paused"),
        "ContainersStopped": in_state("exited") + in_state("created") + in_state("dead"), "Images": images,
        "Driver": "overlay2", "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": cgroup_version(),
        "KernelVersion": uname.release().to_string_lossy(), "OperatingSystem": operating_system(), "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(), "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory.totalram * u64::from(memory.mem_unit), "Name": uname.nodename().to_string_lossy(),
        "DockerRootDir": app.host()?.layout().root().display().to_string(), "DefaultRuntime": "longshore",
        "ServerVersion": env!("CARGO_PKG_VERSION"), "Rootless": crate::app::rootless(),
    });
    if let Some(format) = &args.format {
        return output::one(format, value);
    }
    for (title, key) in INFO {
        let text = value[key].as_str().map_or_else(|| value[key].to_string(), str::to_owned);
        output::line(&format!("{title}: {text}"));
    }
    Ok(())
}

/// What `info` shows, and under which title.
const INFO: [(&str, &str); 18] = [
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Name", "Name"),
    ("Root Dir", "DockerRootDir"),
    ("Rootless", "Rootless"),
];

fn cgroup_version() -> &'static str {
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" }
}

/// As `/etc/os-release` calls it.
fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
