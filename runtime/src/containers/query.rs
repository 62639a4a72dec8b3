//! Looking: `list`, `inspect`, filters.

use std::collections::BTreeMap;

use super::record::{Record, State, seconds};
use super::volumes::has_label;
use super::{
    Attached, Containers, EndpointSettings, Error, Filters, GraphDriver, Inspect, NetworkRequest,
    NetworkSettings, Port, PortBinding, PruneOutcome, RemoveOptions, Result, Summary, format, log,
};

/// Filters that `ps` knows.
const KNOWN: [&str; 14] = [
    "id", "name", "status", "label", "ancestor", "exited", "health", "network", "volume", "before", "since",
    "publish", "expose", "is-task",
];

impl Containers {
    /// Those that match, newest first; stopped ones only with `all` or a filter that speaks of state. `size` asks for [`Summary::size`].
    pub fn list(&self, all: bool, filters: &Filters, size: bool) -> Result<Vec<Summary>> {
        filters.only(&KNOWN)?;
        let stateful = ["status", "exited"].iter().any(|k| filters.values(k).next().is_some());
        let ancestors: Vec<String> =
            filters.values("ancestor").map(|a| self.image_id(a)).collect::<Result<_>>()?;
        let bounds = (self.created_of(filters, "before")?, self.created_of(filters, "since")?);
        for status in filters.values("status") {
            if !["created", "restarting", "running", "removing", "paused", "exited", "dead"].contains(&status)
            {
                return Err(Error::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        values_make_sense(filters)?;
        let now = jiff::Timestamp::now().as_second();
        let mut found: Vec<(Record, State)> = self.records()?;
        found.retain(|(record, state)| {
            (all || stateful || state.is_live())
                && matches(record, state, filters)
                && (ancestors.is_empty() || ancestors.contains(&record.image_id))
                && bounds.0.as_ref().is_none_or(|b| record.created < *b)
                && bounds.1.as_ref().is_none_or(|s| record.created > *s)
        });
        found.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        found.iter().map(|(record, state)| self.summary(record, state, size, now)).collect()
    }

    /// An ancestor that is no image any more matches by what it is called.
    fn image_id(&self, name: &str) -> Result<String> {
        let image =
            self.0.images.config(name).map_err(|source| Error::Images { doing: "read the image", source })?;
        Ok(image.map_or_else(|| name.to_owned(), |i| i.id))
    }

    fn created_of(&self, filters: &Filters, key: &str) -> Result<Option<String>> {
        filters.values(key).next().map(|k| Ok(self.0.dir.record(&self.id(k)?)?.created)).transpose()
    }

    fn summary(&self, record: &Record, state: &State, size: bool, now: i64) -> Result<Summary> {
        let mut command = vec![record.path.clone()];
        // As Docker shows them: quoted where there is a space in it.
        let quoted = |arg: &String| if arg.contains(' ') { format!("'{arg}'") } else { arg.clone() };
        command.extend(record.args.iter().map(quoted));
        let ports = if state.is_live() { ports(record, state) } else { String::new() };
        let bytes = if size {
            self.0
                .images
                .usage(&record.id)
                .map_err(|source| Error::Images { doing: "measure the root file system", source })?
        } else {
            None
        };
        Ok(Summary {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.config.image.clone(),
            image_id: record.image_id.clone(),
            command: command.join(" "),
            created: seconds(&record.created).unwrap_or(0),
            state: state.shown.status.clone(),
            status: status(state, now),
            ports,
            labels: record.config.labels.clone(),
            mounts: record
                .mounts
                .iter()
                .map(|m| if m.shown.name.is_empty() { m.shown.source.clone() } else { m.shown.name.clone() })
                .collect(),
            local_volumes: record.mounts.iter().filter(|m| m.shown.kind == "volume").count(),
            networks: network_names(record),
            size: bytes,
        })
    }

    /// All about one.
    pub fn inspect(&self, key: &str) -> Result<Inspect> {
        let id = self.id(key)?;
        let (record, state) = self.load(&id)?;
        let file = |name: &str| self.0.dir.file(&id, name).to_string_lossy().into_owned();
        let network_settings = network_settings(&record, &state, &self.0.options.default_network);
        Ok(Inspect {
            created: record.created,
            path: record.path,
            args: record.args,
            restart_count: state.restart_count,
            state: state.shown,
            image: record.image_id,
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: if record.host.log_config.driver == "none" {
                String::new()
            } else {
                file(&log::file_name(&id))
            },
            name: format!("/{}", record.name),
            graph_driver: GraphDriver { name: self.0.options.driver.clone(), data: None },
            driver: self.0.options.driver.clone(),
            platform: "linux".into(),
            host_config: record.host,
            mounts: record.mounts.into_iter().map(|m| m.shown).collect(),
            config: record.config,
            network_settings,
            id,
            ..Inspect::default()
        })
    }

    /// Removes those that do not run and match (`label`, `label!`, `until`).
    pub fn prune(&self, filters: &Filters) -> Result<PruneOutcome> {
        filters.only(&["label", "label!", "until"])?;
        self.0.dir.sweep()?;
        let now = std::time::SystemTime::now();
        let until = filters.values("until").next().map(|u| super::parse::time(u, now)).transpose()?;
        let until = until.and_then(|t| jiff::Timestamp::try_from(t).ok()).map(super::record::stamp);
        let mut outcome = PruneOutcome::default();
        for (record, state) in self.records()? {
            let labels = &record.config.labels;
            let wanted = !state.is_live()
                && until.as_ref().is_none_or(|u| record.created < *u)
                && filters.values("label").all(|l| has_label(labels, l))
                && filters.values("label!").all(|l| !has_label(labels, l));
            if !wanted {
                continue;
            }
            let bytes = self.0.images.usage(&record.id).ok().flatten().unwrap_or(0);
            // Another prune, or a start, may be faster.
            if self.remove(&record.id, &RemoveOptions::default()).is_ok() {
                outcome.bytes += bytes;
                outcome.removed.push(record.id);
            }
        }
        Ok(outcome)
    }
}

/// Docker's words for those that do not.
fn values_make_sense(filters: &Filters) -> Result<()> {
    if let Some(code) = filters.values("exited").find(|code| code.parse::<i64>().is_err()) {
        return Err(Error::invalid(format!("strconv.Atoi: parsing \"{code}\": invalid syntax")));
    }
    let states = ["starting", "healthy", "unhealthy", "none"];
    if let Some(health) = filters.values("health").find(|health| !states.contains(health)) {
        return Err(Error::invalid(format!("Unrecognised filter value for health: {health}")));
    }
    filters.boolean("is-task").map(drop)
}

fn matches(record: &Record, state: &State, filters: &Filters) -> bool {
    let any = |key: &str, test: &dyn Fn(&str) -> bool| {
        filters.values(key).count() == 0 || filters.values(key).any(test)
    };
    let health = state.shown.health.as_ref().map_or("none", |h| h.status.as_str());
    // As Docker: only what is on a network has ports.
    let ports = match state.networks.is_empty() {
        true => BTreeMap::new(),
        false => port_map(record, state.networks.iter().flat_map(|a| &a.ports)),
    };
    let port = |p: &str| if p.contains('/') { p.to_owned() } else { format!("{p}/tcp") };
    any("id", &|i| record.id.starts_with(i))
        && any("name", &|n| name_matches(&record.name, n))
        && any("status", &|s| state.shown.status == s)
        && any("exited", &|c| {
            !state.is_live() && state.shown.status != "created" && c.parse() == Ok(state.shown.exit_code)
        })
        && any("health", &|h| h == health)
        && any("network", &|n| network_names(record).iter().any(|name| name == n))
        && any("volume", &|v| {
            record.mounts.iter().any(|m| m.shown.name == v || m.shown.destination == v || m.shown.source == v)
        })
        && any("publish", &|p| matches!(ports.get(&port(p)), Some(Some(_))))
        && any("expose", &|p| ports.contains_key(&port(p)))
        && any("is-task", &|t| matches!(t, "false" | "0"))
        && filters.values("label").all(|l| has_label(&record.config.labels, l))
}

/// Docker takes a regular expression; of it the anchors are what people use.
fn name_matches(name: &str, pattern: &str) -> bool {
    let pattern = pattern.strip_prefix("^/").map_or_else(|| pattern.to_owned(), |rest| format!("^{rest}"));
    let (start, rest) = pattern.strip_prefix('^').map_or((false, pattern.as_str()), |r| (true, r));
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let (end, text) = rest.strip_suffix('$').map_or((false, rest), |r| (true, r));
    match (start, end) {
        (true, true) => name == text,
        (true, false) => name.starts_with(text),
        (false, true) => name.ends_with(text),
        (false, false) => name.contains(text),
    }
}

/// Those that it is, or is to be, on; or the mode that stands for them.
fn network_names(record: &Record) -> Vec<String> {
    if !record.has_networks() {
        return vec![record.network.mode.clone()];
    }
    record.networks().into_iter().map(|request| request.mode).collect()
}

/// `Up 5 minutes (healthy)`, `Exited (0) 3 hours ago`.
fn status(state: &State, now: i64) -> String {
    let s = &state.shown;
    let ago = |time: &str| format::human_duration(now - seconds(time).unwrap_or(now));
    match s.status.as_str() {
        "created" => "Created".into(),
        "restarting" => format!("Restarting ({}) {} ago", s.exit_code, ago(&s.finished_at)),
        "paused" => format!("Up {} (Paused)", ago(&s.started_at)),
        "running" => match &s.health {
            Some(health) if health.status == "starting" => {
                format!("Up {} (health: starting)", ago(&s.started_at))
            }
            Some(health) => format!("Up {} ({})", ago(&s.started_at), health.status),
            None => format!("Up {}", ago(&s.started_at)),
        },
        "dead" => "Dead".into(),
        _ => format!("Exited ({}) {} ago", s.exit_code, ago(&s.finished_at)),
    }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`.
fn ports(record: &Record, state: &State) -> String {
    let published: Vec<&Port> = state.networks.iter().flat_map(|a| &a.ports).collect();
    let mut words: Vec<(u16, String)> = published
        .iter()
        .map(|p| {
            let ip = if p.host_ip.is_empty() { "0.0.0.0" } else { &p.host_ip };
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            (p.container_port, format!("{ip}:{}->{}/{}", p.host_port, p.container_port, p.protocol))
        })
        .collect();
    let is_published =
        |key: &str| published.iter().any(|p| key == format!("{}/{}", p.container_port, p.protocol));
    for key in record.config.exposed_ports.keys().filter(|k| record.has_networks() && !is_published(k)) {
        words.push((key.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0), key.clone()));
    }
    words.sort();
    words.into_iter().map(|(_, word)| word).collect::<Vec<_>>().join(", ")
}

fn network_settings(record: &Record, state: &State, default: &str) -> NetworkSettings {
    let mut settings = NetworkSettings::default();
    for request in record.networks() {
        let attached = state.networks.iter().find(|attached| attached.network == request.mode);
        let endpoint = endpoint(record, &request, attached, default);
        // As Docker: these are of the default network alone.
        if request.mode == default {
            settings.endpoint_id.clone_from(&endpoint.endpoint_id);
            settings.gateway.clone_from(&endpoint.gateway);
            settings.mac_address.clone_from(&endpoint.mac_address);
            settings.ip_address.clone_from(&endpoint.ip_address);
            settings.ip_prefix_len = endpoint.ip_prefix_len;
        }
        settings.networks.insert(request.mode, endpoint);
    }
    if matches!(record.network.mode.as_str(), "none" | "host") {
        settings.networks.insert(record.network.mode.clone(), EndpointSettings::default());
    }
    if !state.networks.is_empty() {
        settings.ports = port_map(record, state.networks.iter().flat_map(|a| &a.ports));
    }
    if state.shown.pid != 0 {
        settings.sandbox_id.clone_from(&record.id);
        settings.sandbox_key = format!("/proc/{}/ns/net", state.shown.pid);
    }
    settings
}

fn endpoint(
    record: &Record,
    request: &NetworkRequest,
    attached: Option<&Attached>,
    default: &str,
) -> EndpointSettings {
    let mut aliases = request.aliases.clone();
    if request.mode != default {
        // By which others find it, as by its name.
        aliases.push(record.id[..12].to_owned());
    }
    let mut endpoint = EndpointSettings {
        aliases: Some(aliases).filter(|a| !a.is_empty()),
        ipam_config: request.ip.as_ref().map(|ip| BTreeMap::from([("IPv4Address".to_owned(), ip.clone())])),
        ..EndpointSettings::default()
    };
    let Some(attached) = attached else { return endpoint };
    let (ip, prefix) = attached.address.split_once('/').unwrap_or((&attached.address, "0"));
    endpoint.network_id.clone_from(&attached.network);
    endpoint.endpoint_id.clone_from(&record.id);
    endpoint.gateway.clone_from(&attached.gateway);
    endpoint.mac_address.clone_from(&attached.mac);
    endpoint.ip_address = ip.to_owned();
    endpoint.ip_prefix_len = prefix.parse().unwrap_or(0);
    endpoint
}

fn port_map<'a>(
    record: &Record,
    ports: impl Iterator<Item = &'a Port>,
) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut map: BTreeMap<String, Option<Vec<PortBinding>>> =
        record.config.exposed_ports.keys().map(|k| (k.clone(), None)).collect();
    for p in ports {
        let host_ip = if p.host_ip.is_empty() { "0.0.0.0".into() } else { p.host_ip.clone() };
        let binding = PortBinding { host_ip, host_port: p.host_port.to_string() };
        map.entry(format!("{}/{}", p.container_port, p.protocol))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    map
}

impl Filters {
    /// Refuses what the command does not know, for a misspelt filter would match everything.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, _)) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// Of a key whose values are `true` (`1`) and `false` (`0`).
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let values: Vec<&str> = self.values(key).collect();
        match values.as_slice() {
            [] => Ok(None),
            ["1" | "true"] => Ok(Some(true)),
            ["0" | "false"] => Ok(Some(false)),
            values => Err(Error::invalid(format!("Invalid filter '{key}=[{}]'", values.join(" ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_with_docker() {
        for (pattern, want) in [
            ("web", true),
            ("^web$", false),
            ("^web", true),
            ("1$", true),
            ("^/web1$", true),
            ("^web1$", true),
            ("x", false),
        ] {
            assert_eq!(name_matches("web1", pattern), want, "{pattern}");
        }
        assert!(Filters::new().with("sttus", "x").only(&KNOWN).is_err());
    }

    #[test]
    fn status_in_words() {
        let mut state = State::created();
        assert_eq!(status(&state, 0), "Created");
        state.set_running(1);
        let now = jiff::Timestamp::now().as_second();
        assert_eq!(status(&state, now + 300), "Up 5 minutes");
        state.set_ended("exited", 3, false, String::new());
        assert_eq!(status(&state, now + 7300), "Exited (3) 2 hours ago");
    }
}
