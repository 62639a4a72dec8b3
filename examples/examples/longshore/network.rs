//! `network`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use longshore_network::{Bridge, BridgeOptions};
use longshore_runtime::containers::{Filters, Inspect, NetworkRequest};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, Result, each};
use crate::{output, system};

/// Networks that nobody makes.
const ALWAYS: [&str; 2] = ["host", "none"];

/// `network`
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Connect a container to a network
    Connect(NetworkConnectArgs),
    /// Create a network
    Create(NetworkCreateArgs),
    /// Disconnect a container from a network
    Disconnect(NetworkDisconnectArgs),
    /// Display detailed information on one or more networks
    Inspect(NetworkInspectArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkLsArgs),
    /// Remove all unused networks; the default bridge comes back when it is needed
    Prune(NetworkPruneArgs),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRmArgs),
}

/// `network create`
#[derive(Args, Debug)]
pub(crate) struct NetworkCreateArgs {
    /// Driver to manage the network
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Set driver specific options: com.docker.network.driver.mtu
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long)]
    subnet: Vec<IpNet>,
    /// Enable IPv6 networking: with an IPv6 --subnet
    #[arg(long)]
    ipv6: bool,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// `network connect`
#[derive(Args, Debug)]
pub(crate) struct NetworkConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings")]
    alias: Vec<String>,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long)]
    ip: Option<String>,
    /// Network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `network disconnect`
#[derive(Args, Debug)]
pub(crate) struct NetworkDisconnectArgs {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    force: bool,
    /// Network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `network inspect`
#[derive(Args, Debug)]
pub(crate) struct NetworkInspectArgs {
    /// Format output using a custom template
    #[arg(short, long)]
    format: Option<String>,
    /// Networks
    #[arg(value_name = "NETWORK", required = true)]
    names: Vec<String>,
}

/// `network ls`
#[derive(Args, Debug)]
pub(crate) struct NetworkLsArgs {
    /// Provide filter values (e.g. "driver=bridge"): dangling, driver, id, name, scope, type
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Do not truncate the output: a network's ID is its name
    #[arg(long)]
    no_trunc: bool,
    /// Only display network names
    #[arg(short, long)]
    quiet: bool,
}

/// `network prune`
#[derive(Args, Debug)]
pub(crate) struct NetworkPruneArgs {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// `network rm`
#[derive(Args, Debug)]
pub(crate) struct NetworkRmArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    force: bool,
    /// Networks
    #[arg(value_name = "NETWORK", required = true)]
    names: Vec<String>,
}

pub(crate) fn network(app: &App, command: &NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Connect(args) => connect(app, args),
        NetworkCommand::Create(args) => create(app, args),
        NetworkCommand::Disconnect(args) => disconnect(app, args),
        NetworkCommand::Inspect(args) => {
            let mut found = Vec::new();
            let result = each(&args.names, |name| {
                found.push(inspect(app, name)?);
                Ok(())
            });
            output::inspected(&found, args.format.as_deref())?;
            result
        }
        NetworkCommand::Ls(args) => ls(app, args),
        NetworkCommand::Prune(args) => prune(app, args),
        NetworkCommand::Rm(args) => each(&args.names, |name| {
            // A killed build's endpoint would keep the network.
            app.host()?.sweep_builds().map_err(|e| Failure::from(&*e))?;
            let known =
                app.host()?.networks().list().map_err(|e| Failure::from(&*e))?.iter().any(|n| n == name);
            match find(app, name) {
                Err(_) if args.force && !known => return Ok(()),
                found => found?.remove()?,
            }
            output::line(name);
            Ok(())
        }),
    }
}

fn create(app: &App, args: &NetworkCreateArgs) -> Result<()> {
    if args.driver != "bridge" {
        return Err(Failure::new(format!(
            "could not find plugin {} in v1 plugin registry: only bridge is there",
            args.driver
        )));
    }
    let mut options = BridgeOptions::new().internal(args.internal);
    for subnet in &args.subnet {
        options = match subnet {
            IpNet::V4(subnet) => options.subnet(*subnet),
            IpNet::V6(subnet) => options.subnet6(*subnet),
        };
    }
    if args.ipv6 && !args.subnet.iter().any(|s| s.addr().is_ipv6()) {
        return Err(Failure::new("--ipv6 needs a --subnet of IPv6: none is chosen by itself"));
    }
    for option in &args.opt {
        match option.split_once('=').map(|(name, value)| (name, value.parse())) {
            Some(("com.docker.network.driver.mtu", Ok(mtu))) => options = options.mtu(mtu),
            _ => return Err(Failure::new(format!("invalid option: {option}"))),
        }
    }
    let bridge = app.host()?.networks().create(&args.name, &options).map_err(|e| Failure::from(&*e))?;
    output::line(bridge.name());
    Ok(())
}

fn connect(app: &App, args: &NetworkConnectArgs) -> Result<()> {
    if !ALWAYS.contains(&args.network.as_str()) {
        find(app, &args.network)?;
    }
    if args.network == "bridge" && !args.alias.is_empty() {
        let why = "network-scoped alias is supported only for containers in user defined networks";
        return Err(Failure::new(why));
    }
    if args.network == "bridge" && args.ip.is_some() {
        return Err(Failure::new("user specified IP address is supported on user defined networks only"));
    }
    if let Some(ip) = args.ip.as_ref().filter(|ip| ip.parse::<Ipv4Addr>().is_err()) {
        return Err(Failure::new(format!("invalid IPv4 address: {ip}")));
    }
    let mut wanted = NetworkRequest::default();
    wanted.mode.clone_from(&args.network);
    wanted.aliases.clone_from(&args.alias);
    wanted.ip.clone_from(&args.ip);
    Ok(app.containers()?.connect(&args.container, &wanted)?)
}

fn disconnect(app: &App, args: &NetworkDisconnectArgs) -> Result<()> {
    if !ALWAYS.contains(&args.network.as_str()) {
        find(app, &args.network)?;
    }
    match app.containers()?.disconnect(&args.container, &args.network) {
        // What a container that is gone has left, by its whole ID.
        Err(error) if args.force && error.is_not_found() => {
            Ok(find(app, &args.network)?.detach(&args.container)?)
        }
        result => Ok(result?),
    }
}

/// `host` and `none` always are; bridges when they were made.
fn ls(app: &App, args: &NetworkLsArgs) -> Result<()> {
    let bridges = app.host()?.networks().list().map_err(|e| Failure::from(&*e))?;
    let row =
        |name: &str, driver: &str| json!({"ID": name, "Name": name, "Driver": driver, "Scope": "local"});
    let mut rows: Vec<Value> = bridges.iter().map(|name| row(name, "bridge")).collect();
    rows.extend([row("host", "host"), row("none", "null")]);
    for filter in &args.filter {
        let (key, value) = filter
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("bad format of filter (expected name=value): {filter}")))?;
        let test = filtering(app, key, value)?;
        rows.retain(|row| {
            test(row["Name"].as_str().unwrap_or_default(), row["Driver"].as_str().unwrap_or_default())
        });
    }
    if args.quiet && args.format.is_none() {
        rows.iter().for_each(|row| output::line(row["Name"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let titles = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")];
    output::rows(&titles, "table {{.Name}}\t{{.Driver}}\t{{.Scope}}", args.format.as_deref(), &rows)
}

/// By name and driver.
type Test<'a> = Box<dyn Fn(&str, &str) -> bool + 'a>;

fn filtering<'a>(app: &App, key: &str, value: &'a str) -> Result<Test<'a>> {
    let own = |name: &str| name != "bridge" && !ALWAYS.contains(&name);
    Ok(match (key, value) {
        ("name" | "id", _) => Box::new(move |name, _| name.contains(value)),
        ("driver", _) => Box::new(move |_, driver| driver == value),
        ("scope", _) => Box::new(move |_, _| value == "local"),
        ("type", "custom") => Box::new(move |name, _| own(name)),
        ("type", "builtin") => Box::new(move |name, _| !own(name)),
        ("dangling", "true" | "1" | "false" | "0") => {
            let wanted = matches!(value, "true" | "1");
            let used: Vec<String> = app
                .containers()?
                .list(false, &Filters::new(), false)?
                .into_iter()
                .flat_map(|summary| summary.networks)
                .collect();
            Box::new(move |name, _| (own(name) && !used.iter().any(|n| n == name)) == wanted)
        }
        _ => return Err(Failure::new(format!("invalid filter '{key}={value}'"))),
    })
}

fn find(app: &App, name: &str) -> Result<Bridge> {
    app.host()?.networks().find(name).map_err(|e| Failure::from(&*e))
}

fn inspect(app: &App, name: &str) -> Result<Value> {
    if ALWAYS.contains(&name) {
        let driver = if name == "host" { "host" } else { "null" };
        return Ok(json!({"Name": name, "Id": name, "Scope": "local", "Driver": driver, "Containers": {}}));
    }
    let bridge = find(app, name)?;
    let endpoints = bridge.endpoints()?;
    let containers = app.containers()?;
    let mut attached = serde_json::Map::new();
    for summary in
        containers.list(false, &Filters::new(), false)?.iter().filter(|c| endpoints.contains(&c.id))
    {
        let inspect: Inspect = containers.inspect(&summary.id)?;
        let network = inspect.network_settings.networks.get(name).cloned().unwrap_or_default();
        let address = format!("{}/{}", network.ip_address, network.ip_prefix_len);
        attached.insert(
            summary.id.clone(),
            json!({"Name": summary.name, "MacAddress": network.mac_address, "IPv4Address": address}),
        );
    }
    let gateway = bridge.gateway().map(|g| g.to_string()).unwrap_or_default();
    let config: Vec<Value> = bridge
        .subnets()
        .iter()
        .map(|subnet| json!({"Subnet": subnet.to_string(), "Gateway": gateway}))
        .collect();
    Ok(json!({
        "Name": name, "Id": name, "Scope": "local", "Driver": "bridge",
        "IPAM": {"Driver": "default", "Config": config}, "Internal": gateway.is_empty(),
        "Containers": attached, "Options": {"com.docker.network.bridge.name": bridge.link()},
    }))
}

fn prune(app: &App, args: &NetworkPruneArgs) -> Result<()> {
    if !args.force
        && !system::confirmed("WARNING! This will remove all networks not used by at least one container.")?
    {
        return Ok(());
    }
    app.host()?.sweep_builds().map_err(|e| Failure::from(&*e))?;
    let removed = app.host()?.networks().prune().map_err(|e| Failure::from(&*e))?;
    system::list("Deleted Networks:", &removed);
    Ok(())
}
