//! `create`: a request and an image become a record.

use std::collections::BTreeMap;

use super::merge::merge;
use super::record::{Record, StoredMount, VERSION, now};
use super::{
    Config, Containers, CreateOutcome, CreateRequest, Error, HostConfig, MountPoint, Result, check, compile,
    dir, names, parse,
};

impl Containers {
    /// Makes a container; nothing runs yet.
    pub fn create(&self, request: &CreateRequest) -> Result<CreateOutcome> {
        let inner = &self.0;
        check::request(request)?;
        let image = inner
            .images
            .config(&request.image)
            .map_err(|source| Error::Images { doing: "read the image", source })?
            .ok_or_else(|| Error::NoSuchImage(request.image.clone()))?;
        let id = dir::new_id()?;
        let mut config = merge(request, &image)?;
        if config.hostname.is_empty() {
            config.hostname = self.default_hostname(&request.host, &id);
        }
        let (path, args) = command(&config)?;
        let mut host = request.host.clone();
        self.pin_references(&mut host)?;
        if !config.stop_signal.is_empty() {
            parse::signal(&config.stop_signal)?;
        }
        let ports = parse::requested(&host.port_bindings, &config.exposed_ports, host.publish_all_ports)?;
        config.exposed_ports.extend(host.port_bindings.keys().map(|k| (k.clone(), super::Empty {})));
        let mut network = request.network(&config, ports);
        network.mode.clone_from(&host.network_mode);
        // Nobody removes a volume between here and the record that names it.
        let kept = inner.keep_volumes()?;
        let mounts = self.mounts(&config, &host)?;
        let mut record = Record {
            version: VERSION,
            id,
            name: String::new(),
            created: now(),
            image_id: image.id,
            path,
            args,
            config,
            host,
            mounts,
            network,
            more: Vec::new(),
            left: false,
            warnings: Vec::new(),
        };
        warn(&mut record);
        self.publish(&mut record, request.name.as_deref())?;
        drop(kept);
        // From now on the image stays, also before the first start.
        if let Err(source) = inner.images.keep(&record.id, &record.image_id) {
            // The first error is the one to tell.
            let _ = inner.remove_now(&record, true);
            return Err(Error::Images { doing: "make the root file system", source });
        }
        inner.emit("create", &record, &[]);
        Ok(CreateOutcome { id: record.id, name: record.name, warnings: record.warnings })
    }

    fn publish(&self, record: &mut Record, name: Option<&str>) -> Result<()> {
        let result = match name.filter(|n| !n.is_empty()) {
            Some(name) => {
                names::check(name)?.clone_into(&mut record.name);
                self.publish_as(record)
            }
            None => self.publish_anyhow(record),
        };
        if result.is_err() {
            for mount in record.mounts.iter().filter(|m| m.anonymous) {
                self.0.unmake_volume(&mount.shown.name);
            }
        }
        result
    }

    /// Under generated names until one is free.
    fn publish_anyhow(&self, record: &mut Record) -> Result<()> {
        for attempt in 0.. {
            record.name = names::generate(u64::from_ne_bytes(dir::random()?), attempt);
            match self.publish_as(record) {
                Err(Error::NameInUse { .. }) if attempt < 50 => {}
                other => return other,
            }
        }
        Ok(())
    }

    fn publish_as(&self, record: &mut Record) -> Result<()> {
        record.network.name.clone_from(&record.name);
        record.network.hostname.clone_from(&record.config.hostname);
        self.0.dir.publish(record)
    }

    fn default_hostname(&self, host: &HostConfig, id: &str) -> String {
        let shares = host.uts_mode == "host" || host.network_mode == "host";
        let of_host = &self.0.options.host_name;
        if shares && !of_host.is_empty() { of_host.clone() } else { id[..12].to_owned() }
    }

    /// Other containers are remembered by ID, for names move.
    fn pin_references(&self, host: &mut HostConfig) -> Result<()> {
        if matches!(host.network_mode.as_str(), "" | "default") {
            host.network_mode.clone_from(&self.0.options.default_network);
        }
        if host.log_config.driver.is_empty() {
            host.log_config.driver = "json-file".into();
        }
        if host.restart_policy.name.is_empty() {
            host.restart_policy.name = "no".into();
        }
        fill_in(host);
        for mode in [&mut host.network_mode, &mut host.pid_mode, &mut host.ipc_mode] {
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.id(other)?);
            }
        }
        Ok(())
    }

    /// Where each mount comes from; volumes that are not there are made.
    fn mounts(&self, config: &Config, host: &HostConfig) -> Result<Vec<StoredMount>> {
        let mut all: BTreeMap<String, StoredMount> = BTreeMap::new();
        for from in &host.volumes_from {
            for mount in self.mounts_of(from)? {
                all.insert(mount.shown.destination.clone(), mount);
            }
        }
        let mut given = Vec::new();
        for bind in &host.binds {
            given.push(self.bind(&parse::parse_bind(bind)?)?);
        }
        for mount in &host.mounts {
            parse::check_mount(mount)?;
            given.push(self.mount(mount)?);
        }
        for (path, options) in &host.tmpfs {
            let shown = MountPoint {
                kind: "tmpfs".into(),
                destination: parse::clean(path.as_ref()),
                rw: true,
                ..MountPoint::default()
            };
            given.push(StoredMount { shown, data: options.clone(), ..StoredMount::default() });
        }
        let mut seen = std::collections::BTreeSet::new();
        for mount in given {
            let target = mount.shown.destination.clone();
            if !seen.insert(target.clone()) {
                return Err(Error::invalid(format!("Duplicate mount point: {target}")));
            }
            all.insert(target, mount);
        }
        for path in config.volumes.keys() {
            let target = parse::clean(path.as_ref());
            if !all.contains_key(&target) {
                all.insert(target.clone(), self.anonymous(&target, true)?);
            }
        }
        Ok(all.into_values().collect())
    }

    fn mounts_of(&self, from: &str) -> Result<Vec<StoredMount>> {
        let (name, mode) = from.split_once(':').unwrap_or((from, ""));
        if !matches!(mode, "" | "ro" | "rw" | "z" | "Z") {
            return Err(Error::invalid(format!("invalid mode: {mode}")));
        }
        let record = self.0.dir.record(&self.id(name)?)?;
        let mut mounts: Vec<_> = record.mounts.into_iter().filter(|m| m.shown.kind != "tmpfs").collect();
        for mount in &mut mounts {
            // It stays with the container that it was made for.
            mount.anonymous = false;
            mount.shown.rw &= mode != "ro";
        }
        Ok(mounts)
    }
}

/// What a container gets that nobody asked for, so that `inspect` shows it.
fn fill_in(host: &mut HostConfig) {
    for (mode, usual) in [
        (&mut host.ipc_mode, "private"),
        (&mut host.cgroupns_mode, "private"),
        (&mut host.runtime, "longshore"),
    ] {
        if mode.is_empty() {
            *mode = usual.into();
        }
    }
    if host.shm_size == 0 {
        host.shm_size = compile::SHM_SIZE;
    }
    if !host.privileged {
        host.masked_paths = host.masked_paths.take().or_else(|| Some(compile::masked(host)));
        host.readonly_paths = host.readonly_paths.take().or_else(|| Some(compile::readonly(host)));
    }
}

fn command(config: &Config) -> Result<(String, Vec<String>)> {
    let mut all = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned();
    match all.next() {
        Some(path) if !path.is_empty() => Ok((path, all.collect())),
        _ => Err(Error::invalid("No command specified")),
    }
}

fn warn(record: &mut Record) {
    if record.network.mode == "host" && !record.network.ports.is_empty() {
        record.warnings.push("Published ports are discarded when using host network mode".into());
    }
}
