//! The image's config and the request's, put together as Docker does it.

use oci_spec::image::Config as ImageConfig;

use super::{Config, CreateRequest, Empty, Error, HealthConfig, ImageInfo, Result};

/// The config that the container gets.
pub(super) fn merge(request: &CreateRequest, image: &ImageInfo) -> Result<Config> {
    let mut config = request.config.clone();
    config.image.clone_from(&request.image);
    if let Some(from) = image.config.config() {
        fill(&mut config, from);
    }
    config.env.retain(|e| e.contains('='));
    if config.entrypoint.as_ref().is_some_and(|e| e.is_empty() || e.iter().all(String::is_empty)) {
        config.entrypoint = None;
    }
    config.healthcheck =
        health(request.health.as_ref().or(request.config.healthcheck.as_ref()), image.healthcheck.as_ref())?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    Ok(config)
}

fn fill(config: &mut Config, from: &ImageConfig) {
    let text = |own: &mut String, image: &Option<String>| {
        if own.is_empty() {
            *own = image.clone().unwrap_or_default();
        }
    };
    text(&mut config.user, from.user());
    text(&mut config.working_dir, from.working_dir());
    text(&mut config.stop_signal, from.stop_signal());
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(from.cmd());
        }
        config.entrypoint.clone_from(from.entrypoint());
    }
    let name = |e: &str| e.split('=').next().unwrap_or(e).to_owned();
    let own: Vec<String> = config.env.iter().map(|e| name(e)).collect();
    config.env.extend(from.env().iter().flatten().filter(|e| !own.contains(&name(e))).cloned());
    for (key, value) in from.labels().iter().flatten() {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let port = |p: &String| if p.contains('/') { p.clone() } else { format!("{p}/tcp") };
    config.exposed_ports.extend(from.exposed_ports().iter().flatten().map(|p| (port(p), Empty {})));
    config.volumes.extend(from.volumes().iter().flatten().map(|v| (v.clone(), Empty {})));
}

fn health(own: Option<&HealthConfig>, image: Option<&HealthConfig>) -> Result<Option<HealthConfig>> {
    let merged = match (own, image) {
        (None, image) => image.cloned(),
        (Some(own), None) => Some(own.clone()),
        (Some(own), Some(image)) => {
            let pick = |a: i64, b: i64| if a != 0 { a } else { b };
            Some(HealthConfig {
                test: if own.test.is_empty() { image.test.clone() } else { own.test.clone() },
                interval: pick(own.interval, image.interval),
                timeout: pick(own.timeout, image.timeout),
                start_period: pick(own.start_period, image.start_period),
                start_interval: pick(own.start_interval, image.start_interval),
                retries: pick(own.retries, image.retries),
            })
        }
    };
    let Some(h) = merged else { return Ok(None) };
    for (what, nanos) in
        [("Interval", h.interval), ("Timeout", h.timeout), ("StartInterval", h.start_interval)]
    {
        if nanos != 0 && nanos < 1_000_000 {
            return Err(Error::invalid(format!("{what} in Healthcheck cannot be less than 1ms")));
        }
    }
    for (what, n) in [("Retries", h.retries), ("StartPeriod", h.start_period)] {
        if n < 0 {
            return Err(Error::invalid(format!("{what} in Healthcheck cannot be negative")));
        }
    }
    Ok(Some(h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{ConfigBuilder, ImageConfiguration};

    fn image() -> ImageInfo {
        let config = ConfigBuilder::default()
            .entrypoint(vec!["/entry".into()])
            .cmd(vec!["serve".into()])
            .env(vec!["PATH=/bin".into(), "A=image".into()])
            .user("web")
            .working_dir("/srv")
            .exposed_ports(vec!["80".into(), "53/udp".into()])
            .build()
            .unwrap();
        let mut whole = ImageConfiguration::default();
        whole.set_config(Some(config));
        let healthcheck = Some(HealthConfig {
            test: vec!["CMD".into(), "x".into()],
            interval: 5_000_000_000,
            ..HealthConfig::default()
        });
        ImageInfo { id: "sha256:00".into(), config: whole, healthcheck }
    }

    fn with(change: impl FnOnce(&mut CreateRequest)) -> Config {
        let mut request = CreateRequest::new("img");
        change(&mut request);
        merge(&request, &image()).unwrap()
    }
    fn words(list: &Option<Vec<String>>) -> Vec<&str> {
        list.iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn entry_point_and_command() {
        let c = with(|_| {});
        assert_eq!((words(&c.entrypoint), words(&c.cmd)), (vec!["/entry"], vec!["serve"]));
        let c = with(|r| r.config.cmd = Some(vec!["other".into()]));
        assert_eq!((words(&c.entrypoint), words(&c.cmd)), (vec!["/entry"], vec!["other"]));
        // A new entry point drops the image's command.
        let c = with(|r| r.config.entrypoint = Some(vec!["sh".into()]));
        assert_eq!((words(&c.entrypoint), words(&c.cmd)), (vec!["sh"], vec![]));
        let c = with(|r| {
            r.config.entrypoint = Some(vec![String::new()]);
            r.config.cmd = Some(vec!["ls".into()]);
        });
        assert_eq!((words(&c.entrypoint), words(&c.cmd)), (vec![], vec!["ls"]));
    }

    #[test]
    fn the_rest() {
        let c = with(|r| {
            r.config.env = vec!["A=own".into(), "B=1".into()];
            r.config.user = "5".into();
            r.health = Some(HealthConfig { retries: 7, ..HealthConfig::default() });
        });
        assert_eq!(c.env, ["A=own", "B=1", "PATH=/bin"]);
        assert_eq!((c.user.as_str(), c.working_dir.as_str()), ("5", "/srv"));
        assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        let h = c.healthcheck.unwrap();
        assert_eq!((h.retries, h.interval, h.test.len()), (7, 5_000_000_000, 2));
        let c = with(|r| r.config.env = vec!["PATH".into()]);
        assert_eq!(c.env, ["A=image"]);
    }
}
