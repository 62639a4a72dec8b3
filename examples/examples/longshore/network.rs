//! `network`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::UNIX_EPOCH;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use longshore_network::{Bridge, BridgeOptions};
use longshore_runtime::containers::{Filters, Inspect, NetworkRequest};
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, Result, each};
use crate::filters::{PruneFilters, bad_filter, has_label};
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
    /// Auxiliary IPv4 or IPv6 addresses used by the network's other hosts: no container gets them
    #[arg(long, value_name = "map")]
    aux_address: Vec<String>,
    /// IPv4 or IPv6 gateway for the subnet
    #[arg(long, value_name = "strings")]
    gateway: Vec<String>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings")]
    ip_range: Vec<String>,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
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
    /// Provide filter values (e.g. "driver=bridge"): dangling, driver, id, label, name, scope, type
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
    /// Provide filter values (e.g. "until=<timestamp>"): label, label!, until
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
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
    let mut options = addresses(args)?.internal(args.internal);
    for label in &args.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        if name.is_empty() {
            let why = format!(
                "invalid argument \"{label}\" for \"--label\" flag: invalid label '{label}': empty name"
            );
            return Err(Failure::new(why).code(125));
        }
        options = options.label(name, value);
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

/// The options with all that is about addresses; what does not fit together is refused in docker's words.
fn addresses(args: &NetworkCreateArgs) -> Result<BridgeOptions> {
    let subnets = &args.subnet;
    if subnets.len() < args.ip_range.len() || subnets.len() < args.gateway.len() {
        return Err(Failure::new("every ip-range or gateway must have a corresponding subnet"));
    }
    let mut options = BridgeOptions::new();
    for (i, subnet) in subnets.iter().enumerate() {
        if subnets[..i]
            .iter()
            .any(|other| other.contains(&subnet.network()) || subnet.contains(&other.network()))
        {
            return Err(Failure::new("multiple overlapping subnet configuration is not supported"));
        }
        options = match subnet {
            IpNet::V4(_) if options.subnet.is_some() => {
                return Err(Failure::new("bridge driver doesn't support multiple subnets"));
            }
            IpNet::V4(subnet) => options.subnet(*subnet),
            IpNet::V6(subnet) => options.subnet6(*subnet),
        };
    }
    let outside = |what: &str, text: &str| Failure::new(format!("no matching subnet for {what} {text}"));
    let inside = |what: &str, text: &str| {
        let address: Option<IpAddr> = text.parse().ok();
        address.filter(|ip| subnets.iter().any(|s| s.contains(ip))).ok_or_else(|| outside(what, text))
    };
    for gateway in &args.gateway {
        options = options.gateway(inside("gateway", gateway)?);
    }
    for range in &args.ip_range {
        let parsed: Option<IpNet> = range.parse().ok();
        let fits = parsed.filter(|net| subnets.iter().any(|subnet| subnet.contains(&net.trunc())));
        options = options.range(fits.ok_or_else(|| outside("range", range))?);
    }
    for pair in &args.aux_address {
        let (name, address) = pair.split_once('=').unwrap_or((pair, ""));
        options = options.reserve(name, inside("aux-address", address)?);
    }
    Ok(options)
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
    let mut rows = Vec::new();
    for name in app.host()?.networks().list().map_err(|e| Failure::from(&*e))? {
        // Another may have removed it just now.
        if let Ok(bridge) = find(app, &name) {
            rows.push(Row { name, driver: "bridge", bridge: Some(bridge) });
        }
    }
    rows.extend([("host", "host"), ("none", "null")].map(|(name, driver)| Row {
        name: name.to_owned(),
        driver,
        bridge: None,
    }));
    for filter in &args.filter {
        let (key, value) = filter.split_once('=').ok_or_else(|| bad_filter(filter, "-f, --filter"))?;
        let test = filtering(app, key, value)?;
        rows.retain(|row| test(row));
    }
    if args.quiet && args.format.is_none() {
        rows.iter().for_each(|row| output::line(&row.name));
        return Ok(());
    }
    let titles = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")];
    let more =
        [("Labels", "LABELS"), ("Internal", "INTERNAL"), ("IPv6", "IPV6"), ("CreatedAt", "CREATED AT")];
    let rows: Vec<Value> = rows.iter().map(Row::value).collect();
    let titles = [&titles[..], &more].concat();
    output::rows(&titles, "table {{.Name}}\t{{.Driver}}\t{{.Scope}}", args.format.as_deref(), &rows)
}

/// A network in a list.
struct Row {
    name: String,
    driver: &'static str,
    bridge: Option<Bridge>,
}

impl Row {
    fn label(&self, name: &str) -> Option<String> {
        self.bridge.as_ref()?.labels().get(name).cloned()
    }

    fn value(&self) -> Value {
        let bridge = self.bridge.as_ref();
        let labels =
            bridge.into_iter().flat_map(Bridge::labels).map(|(name, value)| format!("{name}={value}"));
        json!({
            "ID": self.name, "Name": self.name, "Driver": self.driver, "Scope": "local",
            "Labels": labels.collect::<Vec<_>>().join(","),
            "Internal": bridge.is_some_and(Bridge::is_internal).to_string(),
            "IPv6": bridge.is_some_and(has_ipv6).to_string(),
            "CreatedAt": bridge.map(|b| output::date(created(b))).unwrap_or_default(),
        })
    }
}

fn has_ipv6(bridge: &Bridge) -> bool {
    bridge.subnets().iter().any(|subnet| subnet.addr().is_ipv6())
}

/// In seconds since 1970.
fn created(bridge: &Bridge) -> i64 {
    bridge.created().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed()
}

type Test<'a> = Box<dyn Fn(&Row) -> bool + 'a>;

fn filtering<'a>(app: &App, key: &str, value: &'a str) -> Result<Test<'a>> {
    let own = |name: &str| name != "bridge" && !ALWAYS.contains(&name);
    Ok(match (key, value) {
        ("name" | "id", _) => Box::new(move |row| row.name.contains(value)),
        ("driver", _) => Box::new(move |row| row.driver == value),
        ("label", _) => Box::new(move |row| has_label(&|name| row.label(name), value)),
        ("scope", _) => Box::new(move |_| value == "local"),
        ("type", "custom") => Box::new(move |row| own(&row.name)),
        ("type", "builtin") => Box::new(move |row| !own(&row.name)),
        ("dangling", "true" | "1" | "false" | "0") => {
            let wanted = matches!(value, "true" | "1");
            let used: Vec<String> = app
                .containers()?
                .list(false, &Filters::new(), false)?
                .into_iter()
                .flat_map(|summary| summary.networks)
                .collect();
            Box::new(move |row| (own(&row.name) && !used.contains(&row.name)) == wanted)
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
    Ok(json!({
        "Name": name, "Id": name, "Created": output::timestamp(created(&bridge)), "Scope": "local", "Driver": "bridge",
        "EnableIPv6": has_ipv6(&bridge), "IPAM": {"Driver": "default", "Options": {}, "Config": ipam(&bridge)},
        "Internal": bridge.is_internal(), "Attachable": false, "Ingress": false,
        "ConfigFrom": {"Network": ""}, "ConfigOnly": false, "Containers": attached,
        "Options": {"com.docker.network.bridge.name": bridge.link()}, "Labels": bridge.labels(),
    }))
}

/// Subnet, range, gateway, and the addresses of others, as docker shows them.
fn ipam(bridge: &Bridge) -> Vec<Value> {
    let config = |(subnet, gateway): (&IpNet, IpAddr)| {
        let mut config = json!({"Subnet": subnet.to_string()});
        if let Some(range) = bridge.ranges().iter().find(|range| subnet.contains(*range)) {
            config["IPRange"] = range.to_string().into();
        }
        config["Gateway"] = gateway.to_string().into();
        let others: serde_json::Map<String, Value> = bridge
            .reserved()
            .iter()
            .filter(|(_, address)| subnet.contains(*address))
            .map(|(name, address)| (name.clone(), address.to_string().into()))
            .collect();
        if !others.is_empty() {
            config["AuxiliaryAddresses"] = others.into();
        }
        config
    };
    bridge.subnets().iter().zip(bridge.gateways()).map(config).collect()
}

/// Removes what nothing uses and the filters let go.
pub(crate) fn unused(app: &App, filters: &PruneFilters) -> Result<Vec<String>> {
    let goes = |bridge: &Bridge| filters.matches(created(bridge), &|name| bridge.labels().get(name).cloned());
    app.host()?.networks().prune(goes).map_err(|e| Failure::from(&*e))
}

fn prune(app: &App, args: &NetworkPruneArgs) -> Result<()> {
    let filters = PruneFilters::parse(&args.filter)?;
    if !args.force
        && !system::confirmed("WARNING! This will remove all networks not used by at least one container.")?
    {
        return Ok(());
    }
    app.host()?.sweep_builds().map_err(|e| Failure::from(&*e))?;
    system::list("Deleted Networks:", &unused(app, &filters)?);
    Ok(())
}
