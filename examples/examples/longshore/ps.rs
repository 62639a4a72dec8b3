//! `ps`, `logs`, `top`, `port`, `inspect`, `stats`, `events`.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use longshore_runtime::containers::{
    EventLine, EventsOptions, Filters, Inspect, LogOptions, LogStream, PortBinding, Stats, Summary, format,
    parse,
};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, Result, each};
use crate::{images, output};

/// `ps`
#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int", allow_negative_numbers = true)]
    last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

/// `logs`
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long)]
    since: Option<String>,
    /// Show logs before a timestamp or relative
    #[arg(long)]
    until: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all", allow_negative_numbers = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `inspect`
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Format output using a custom template
    #[arg(short, long)]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type: container, image, volume
    #[arg(long = "type", value_name = "type")]
    kind: Option<String>,
    /// Names or IDs
    #[arg(value_name = "NAME|ID", required = true)]
    names: Vec<String>,
}

/// `port`
#[derive(Args, Debug)]
pub(crate) struct PortArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Only this port
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

/// `events`
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long)]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long)]
    until: Option<String>,
}

impl InspectArgs {
    /// `container inspect`, `image inspect`: only that kind.
    pub(crate) fn of(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }
}

pub(crate) fn ps(app: &App, args: &PsArgs) -> Result<()> {
    let filters = filters(&args.filter)?;
    let last = if args.latest { Some(1) } else { args.last.and_then(|n| usize::try_from(n).ok()) };
    let size = args.size || args.format.as_ref().is_some_and(|format| format.contains(".Size"));
    let mut found = app.containers()?.list(args.all || last.is_some(), &filters, size)?;
    found.truncate(last.unwrap_or(usize::MAX));
    let mut images = HashMap::new();
    let rows: Vec<Value> = found
        .iter()
        .map(|summary| {
            let mut row = row(summary, args.no_trunc);
            if let Some(own) = summary.size {
                row["Size"] = size_in_words(own, image_size(app, &summary.image_id, &mut images)).into();
            }
            row
        })
        .collect();
    if args.quiet && args.format.is_none() {
        rows.iter().for_each(|row| output::line(row["ID"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let mut table =
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
            .to_owned();
    if args.size {
        table.push_str("\t{{.Size}}");
    }
    let titles = [
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Names", "NAMES"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
    ];
    if rows.is_empty() {
        // A wrong format is refused all the same.
        let blank = titles.iter().map(|(field, _)| ((*field).to_owned(), "".into())).collect();
        format::list(args.format.as_deref(), &table, &titles, &[Value::Object(blank)])?;
    }
    output::rows(&titles, &table, args.format.as_deref(), &rows)
}

fn row(summary: &Summary, no_trunc: bool) -> Value {
    let cut = |text: &str, width| if no_trunc { text.to_owned() } else { output::ellipsis(text, width) };
    let labels: Vec<String> = summary.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "ID": if no_trunc { summary.id.clone() } else { output::short_id(&summary.id) },
        "Image": summary.image, "Command": output::quoted(&cut(&summary.command, 20)),
        "CreatedAt": output::date(summary.created), "RunningFor": output::ago(summary.created),
        "Ports": summary.ports, "State": summary.state, "Status": summary.status,
        "Size": "0B", "Names": summary.name, "Labels": labels.join(","),
        "Mounts": summary.mounts.iter().map(|mount| cut(mount, 15)).collect::<Vec<_>>().join(","),
        "LocalVolumes": summary.local_volumes.to_string(), "Networks": summary.networks.join(","),
    })
}

/// What the container's own files take, and all of its root file system.
fn size_in_words(own: u64, image: u64) -> String {
    match own + image {
        0 => output::size(0),
        all => format!("{} (virtual {})", output::size(own), output::size(all)),
    }
}

/// 0 where the image has gone.
fn image_size(app: &App, id: &str, known: &mut HashMap<String, u64>) -> u64 {
    let measure =
        || images::inspect(app, id).ok().and_then(|image| image["Size"].as_u64()).unwrap_or_default();
    *known.entry(id.to_owned()).or_insert_with(measure)
}

pub(crate) fn filters(arguments: &[String]) -> Result<Filters> {
    let mut filters = Filters::new();
    // A flag that cannot be, as any other.
    let parsed = arguments.iter().try_for_each(|argument| filters.parse(argument));
    parsed.map_err(|error| Failure::from(error).code(125))?;
    Ok(filters)
}

pub(crate) fn logs(app: &App, args: &LogsArgs) -> Result<()> {
    let containers = app.containers()?;
    let config = containers.inspect(&args.container)?.config;
    let mut options = LogOptions::default();
    options.follow = args.follow;
    options.tail = match args.tail.as_str() {
        "all" | "" | "-1" => None,
        count => {
            Some(count.parse().map_err(|_| Failure::new(format!("invalid number of lines: {count:?}")))?)
        }
    };
    options.since = time(args.since.as_deref())?;
    options.until = time(args.until.as_deref())?;
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut failed = None;
    containers.logs(&args.container, &options, &mut |line| {
        let to: &mut dyn Write =
            if line.stream == LogStream::Stderr && !config.tty { &mut err } else { &mut out };
        let stamp = if args.timestamps { format!("{} ", line.time) } else { String::new() };
        let details = if args.details { details(&line.attributes) } else { String::new() };
        failed = to.write_all((stamp + &details).as_bytes()).and_then(|()| to.write_all(&line.log)).err();
        failed.is_none() && !app.cancelled()
    })?;
    match failed {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(out.flush()?),
    }
}

/// As docker writes them: `name=value,name=value `, each escaped as in a query.
fn details(attributes: &BTreeMap<String, String>) -> String {
    let escaped = |text: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
        let one = |b: u8| match b {
            b' ' => "+".to_owned(),
            b if plain(b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        };
        text.bytes().map(one).collect()
    };
    let words: Vec<String> =
        attributes.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    words.join(",") + " "
}

fn time(text: Option<&str>) -> Result<Option<SystemTime>> {
    Ok(text.map(|text| parse::time(text, SystemTime::now())).transpose()?)
}

pub(crate) fn inspect(app: &App, args: &InspectArgs) -> Result<()> {
    let mut found = Vec::new();
    let result = each(&args.names, |name| {
        found.push(inspect_any(app, name, args)?);
        Ok(())
    });
    output::inspected(&found, args.format.as_deref())?;
    result
}

/// The container of this name, else the image, else the volume.
fn inspect_any(app: &App, name: &str, args: &InspectArgs) -> Result<Value> {
    let kind = args.kind.as_deref();
    let wanted = |k: &str| kind.is_none_or(|kind| kind == k);
    if !["container", "image", "volume"].iter().any(|k| wanted(k)) {
        return Err(Failure::new(format!(
            "\"{}\" is not a valid value for --type",
            kind.unwrap_or_default()
        )));
    }
    if wanted("container") {
        match app.containers()?.inspect(name) {
            Ok(inspect) => return with_sizes(app, inspect, args.size),
            Err(error) if error.is_not_found() && kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if wanted("image") {
        match images::inspect(app, name) {
            Err(failure) if kind.is_none() && failure.message.starts_with("No such image") => {}
            found => return found,
        }
    }
    if wanted("volume") {
        match app.containers()?.volumes().inspect(name) {
            Ok(volume) => return Ok(serde_json::to_value(volume)?),
            Err(error) if error.is_not_found() && kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format!("No such object: {name}")))
}

/// Docker's keys of what there is not here, with the values that stand for nothing: templates name them.
fn with_the_rest(inspect: Inspect) -> Result<Value> {
    let mut shown = serde_json::to_value(inspect)?;
    let host = json!({
        "BlkioWeightDevice": [], "Cgroup": "", "ConsoleSize": [0, 0], "CpuCount": 0, "CpuPercent": 0, "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0, "DeviceRequests": null, "IOMaximumBandwidth": 0, "IOMaximumIOps": 0, "Isolation": "",
        "KernelMemory": 0, "KernelMemoryTCP": 0, "Links": null,
    });
    let network = json!({
        "Bridge": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "HairpinMode": false, "IPv6Gateway": "",
        "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
    });
    let endpoint = json!({
        "DriverOpts": null, "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPv6Gateway": "", "Links": null,
    });
    add(&mut shown["HostConfig"], &host);
    add(&mut shown["NetworkSettings"], &network);
    if let Some(networks) = shown["NetworkSettings"]["Networks"].as_object_mut() {
        networks.values_mut().for_each(|one| add(one, &endpoint));
    }
    Ok(shown)
}

/// What is said already stays.
fn add(to: &mut Value, more: &Value) {
    let (Some(to), Some(more)) = (to.as_object_mut(), more.as_object()) else { return };
    for (key, value) in more {
        to.entry(key).or_insert_with(|| value.clone());
    }
}

/// With the bytes of the writable layer and of the whole root file system, if they are asked for.
fn with_sizes(app: &App, mut inspect: Inspect, size: bool) -> Result<Value> {
    if !size {
        return with_the_rest(inspect);
    }
    let filters = Filters::new().with("id", &inspect.id);
    let own = app.containers()?.list(true, &filters, true)?.into_iter().find_map(|s| s.size);
    inspect.size_rw = own;
    let image = images::inspect(app, &inspect.image).ok();
    let below = image.and_then(|image| image["Size"].as_u64());
    let mut shown = with_the_rest(inspect)?;
    if let (Some(own), Some(below)) = (own, below) {
        shown["SizeRootFs"] = (own + below).into();
    }
    Ok(shown)
}

/// `port`
pub(crate) fn port(app: &App, args: &PortArgs) -> Result<()> {
    let ports = app.containers()?.inspect(&args.container)?.network_settings.ports;
    let wanted = args.port.as_ref().map(|p| if p.contains('/') { p.clone() } else { format!("{p}/tcp") });
    let host = |b: &PortBinding| {
        let ip = if b.host_ip.is_empty() { "0.0.0.0" } else { &b.host_ip };
        if ip.contains(':') { format!("[{ip}]:{}", b.host_port) } else { format!("{ip}:{}", b.host_port) }
    };
    if let Some(wanted) = wanted {
        let bindings = ports.get(&wanted).cloned().flatten().unwrap_or_default();
        if bindings.is_empty() {
            return Err(Failure::new(format!("no public port '{wanted}' published for {}", args.container)));
        }
        bindings.iter().for_each(|b| output::line(&host(b)));
        return Ok(());
    }
    for (port, bindings) in &ports {
        bindings.iter().flatten().for_each(|b| output::line(&format!("{port} -> {}", host(b))));
    }
    Ok(())
}

/// `stats`
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Containers; all that run if there are none
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// A table every second; on a terminal each over the last one.
pub(crate) fn stats(app: &App, args: &StatsArgs) -> Result<()> {
    let containers = app.containers()?;
    let read = |name: &str| containers.stats(name).ok();
    let chosen = || -> Result<Vec<String>> {
        if !args.containers.is_empty() {
            args.containers.iter().try_for_each(|name| containers.inspect(name).map(drop))?;
            return Ok(args.containers.clone());
        }
        Ok(containers.list(args.all, &Filters::new(), false)?.into_iter().map(|summary| summary.id).collect())
    };
    let read_all = || -> Result<Vec<(String, Stats)>> {
        Ok(chosen()?.into_iter().filter_map(|name| read(&name).map(|stats| (name, stats))).collect())
    };
    let mut before: HashMap<String, Stats> = read_all()?.into_iter().collect();
    let table = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
    let titles = [
        ("ID", "CONTAINER ID"),
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ];
    let clear = !args.no_stream && std::io::stdout().is_terminal();
    while !app.cancelled() {
        std::thread::sleep(Duration::from_secs(1));
        let now = read_all()?;
        let rows: Vec<Value> =
            now.iter().map(|(name, stats)| stats_row(before.get(name), name, stats, args)).collect();
        if clear {
            output::bytes(b"\x1b[H\x1b[J");
        }
        output::rows(&titles, table, args.format.as_deref(), &rows)?;
        if args.no_stream {
            break;
        }
        before = now.into_iter().collect();
    }
    Ok(())
}

/// `name` is what the container was asked for by.
fn stats_row(before: Option<&Stats>, name: &str, now: &Stats, args: &StatsArgs) -> Value {
    let passed = before.map_or(0, |b| now.read_at.saturating_sub(b.read_at));
    let used = before.map_or(0, |b| now.cpu_nanos.saturating_sub(b.cpu_nanos));
    let percent = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    let id = if args.no_trunc { now.id.clone() } else { output::short_id(&now.id) };
    // Without names docker looks for IDs.
    let asked = if args.containers.is_empty() { &id } else { name };
    json!({
        "ID": id, "Container": asked, "Name": now.name, "CPUPerc": format!("{:.2}%", percent(used, passed)),
        "MemUsage": format!("{} / {}", output::binary_size(now.memory), output::binary_size(now.memory_limit)),
        "MemPerc": format!("{:.2}%", percent(now.memory, now.memory_limit)),
        "NetIO": format!("{} / {}", output::size(now.net_rx), output::size(now.net_tx)),
        "BlockIO": format!("{} / {}", output::size(now.block_read), output::size(now.block_write)),
        "PIDs": now.pids.to_string(),
    })
}

/// `events`
pub(crate) fn events(app: &App, args: &EventsArgs) -> Result<()> {
    let mut options = EventsOptions::default();
    options.filters = filters(&args.filter)?;
    options.since = time(args.since.as_deref())?;
    options.until = time(args.until.as_deref())?;
    args.format.as_deref().map(output::parsed).transpose()?;
    let mut failed = Ok(());
    app.containers()?.events(&options, &mut |event| {
        failed = match args.format.as_deref() {
            Some("json" | "{{json .}}") => output::rows(&[], "json", Some("json"), &[event_as_json(&event)]),
            Some(format) => output::rows(&[], format, Some(format), &[event_as_go(&event)]),
            None => {
                let attributes: Vec<String> =
                    event.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let time = jiff::Timestamp::from_nanosecond(event.time_nano.into()).unwrap_or_default();
                output::line(&format!(
                    "{time} {} {} {} ({})",
                    event.kind,
                    event.action,
                    event.id,
                    attributes.join(", ")
                ));
                Ok(())
            }
        };
        failed.is_ok() && !app.cancelled()
    })?;
    failed
}

/// As docker's API gives it; its first four fields are older than `Actor`, and containers' and images' alone.
fn event_as_json(event: &EventLine) -> Value {
    let mut value = json!({
        "Type": event.kind, "Action": event.action, "Actor": actor(event), "scope": "local", "time": event.time,
        "timeNano": event.time_nano,
    });
    if event.kind == "container" {
        value["status"] = event.action.clone().into();
        value["id"] = event.id.clone().into();
        value["from"] = event.attributes.get("image").cloned().unwrap_or_default().into();
    }
    value
}

/// With the names that a template knows.
fn event_as_go(event: &EventLine) -> Value {
    let container = event.kind == "container";
    let old = |text: &str| if container { text.to_owned() } else { String::new() };
    let image = event.attributes.get("image").map(String::as_str).unwrap_or_default();
    json!({
        "Type": event.kind, "Action": event.action, "Actor": actor(event), "Scope": "local", "Time": event.time,
        "TimeNano": event.time_nano, "Status": old(&event.action), "ID": old(&event.id), "From": old(image),
    })
}

fn actor(event: &EventLine) -> Value {
    json!({"ID": event.id, "Attributes": event.attributes})
}
