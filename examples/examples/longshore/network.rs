//! `network`.

use clap::{Args, Subcommand};
use ipnet::Ipv4Net;
use longshore_network::{Bridge, BridgeOptions};
use longshore_runtime::containers::{Filters, Inspect};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, Result, each};
use crate::{output, system};

/// `network`
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Create a network
    Create(NetworkCreateArgs),
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
    subnet: Option<Ipv4Net>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
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
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
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
        NetworkCommand::Create(args) => create(app, args),
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
    if let Some(subnet) = args.subnet {
        options = options.subnet(subnet);
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

/// `host` and `none` always are; bridges when they were made.
fn ls(app: &App, args: &NetworkLsArgs) -> Result<()> {
    let bridges = app.host()?.networks().list().map_err(|e| Failure::from(&*e))?;
    let row =
        |name: &str, driver: &str| json!({"ID": name, "Name": name, "Driver": driver, "Scope": "local"});
    let mut rows: Vec<Value> = bridges.iter().map(|name| row(name, "bridge")).collect();
    rows.extend([row("host", "host"), row("none", "null")]);
    if args.quiet && args.format.is_none() {
        rows.iter().for_each(|row| output::line(row["Name"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let titles = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")];
    output::rows(&titles, "table {{.Name}}\t{{.Driver}}\t{{.Scope}}", args.format.as_deref(), &rows)
}

fn find(app: &App, name: &str) -> Result<Bridge> {
    app.host()?.networks().find(name).map_err(|e| Failure::from(&*e))
}

fn inspect(app: &App, name: &str) -> Result<Value> {
    if ["host", "none"].contains(&name) {
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
