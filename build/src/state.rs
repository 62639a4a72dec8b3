//! What a stage has become so far: layers, config, variables, history.

use longshore_image::{Image, ImageConfig, Layer};
use oci_spec::image::{Config, Digest, History, HistoryBuilder, Platform};

use crate::passwd::User;

/// What every shell form starts with unless `SHELL` says otherwise.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// In each history entry, as BuildKit has its own there.
const COMMENT: &str = "longshore.dockerfile.v0";

/// An `ARG` with its value, if it has one.
#[derive(Clone, Debug)]
struct Arg {
    name: String,
    value: Option<String>,
    /// An `ENV` of the same name came later: of the two the later one counts.
    shadowed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) layers: Vec<Layer>,
    config: ImageConfig,
    /// `config.config`, which the config only hands out as a whole.
    pub(crate) run: Config,
    pub(crate) env: Vec<(String, String)>,
    /// Declared arguments, in order.
    args: Vec<Arg>,
    history: Vec<History>,
    /// When the newest layer was made, RFC 3339.
    pub(crate) created: String,
    cmd_set: bool,
    pub(crate) platform: Platform,
}

impl State {
    pub(crate) fn scratch(platform: &Platform, now: &str) -> Self {
        let mut config = ImageConfig::default();
        config.oci.set_os(platform.os().clone());
        config.oci.set_architecture(platform.architecture().clone());
        config.oci.set_variant(platform.variant().clone().filter(|v| !v.is_empty()));
        let mut run = Config::default();
        run.set_working_dir(Some("/".to_owned()));
        Self {
            layers: Vec::new(),
            config,
            run,
            env: Vec::new(),
            args: Vec::new(),
            history: Vec::new(),
            created: now.to_owned(),
            cmd_set: false,
            platform: platform.clone(),
        }
        .with_path()
    }

    pub(crate) fn image(image: &Image, layers: Vec<Layer>, platform: &Platform, now: &str) -> Self {
        let config = image.config().clone();
        let run = config.oci.config().clone().unwrap_or_default();
        let env = run.env().clone().unwrap_or_default();
        Self {
            layers,
            env: env
                .iter()
                .map(|e| {
                    e.split_once('=')
                        .map_or((e.clone(), String::new()), |(n, v)| (n.to_owned(), v.to_owned()))
                })
                .collect(),
            args: Vec::new(),
            history: config.oci.history().clone().unwrap_or_default(),
            created: config.oci.created().clone().unwrap_or_else(|| now.to_owned()),
            cmd_set: false,
            platform: platform.clone(),
            run,
            config,
        }
        .with_path()
    }

    /// BuildKit gives each image a search path.
    fn with_path(mut self) -> Self {
        if !self.env.iter().any(|(n, _)| n == "PATH") {
            self.set_env("PATH", DEFAULT_PATH);
        }
        self
    }

    /// A stage that goes on from this one.
    pub(crate) fn child(&self) -> Self {
        Self { cmd_set: false, ..self.clone() }
    }

    pub(crate) fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|l| l.diff_id.clone()).collect()
    }

    /// The triggers, which are gone from what is built on the image.
    pub(crate) fn take_triggers(&mut self) -> Vec<String> {
        self.config.docker.on_build.take().unwrap_or_default()
    }

    /// A variable.
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        let env = || self.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        self.args.iter().find(|a| a.name == name && !a.shadowed).and_then(|a| a.value.clone()).or_else(env)
    }

    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.args.iter_mut().filter(|a| a.name == name).for_each(|a| a.shadowed = true);
        match self.env.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => value.clone_into(v),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }

    pub(crate) fn set_arg(&mut self, name: &str, value: Option<String>) {
        match self.args.iter_mut().find(|a| a.name == name) {
            Some(arg) => {
                arg.shadowed &= value.is_none();
                arg.value = value;
            }
            None => self.args.push(Arg { name: name.to_owned(), value, shadowed: false }),
        }
    }

    /// The value that an earlier `ARG` gave, in this stage or one that it stands on.
    pub(crate) fn arg(&self, name: &str) -> Option<String> {
        self.args.iter().find(|a| a.name == name).and_then(|a| a.value.clone())
    }

    /// The environment of a `RUN`, `NAME=value`.
    pub(crate) fn run_env(&self) -> Vec<String> {
        let args = self.args.iter().filter(|a| !self.env.iter().any(|(e, _)| *e == a.name)).map(|a| &a.name);
        let names = self.env.iter().map(|(n, _)| n).chain(args);
        names.filter_map(|n| Some(format!("{n}={}", self.lookup(n)?))).collect()
    }

    /// `RUN` in history: BuildKit puts the arguments that it saw in front.
    pub(crate) fn run_text(&self, args: &[String]) -> String {
        let seen = self.args.iter().filter(|a| a.value.is_some() && !crate::plan::is_proxy(&a.name));
        let seen: Vec<_> =
            seen.map(|a| format!("{}={}", a.name, self.lookup(&a.name).unwrap_or_default())).collect();
        let prefix =
            if seen.is_empty() { String::new() } else { format!("|{} {} ", seen.len(), seen.join(" ")) };
        format!("RUN {prefix}{} # buildkit", args.join(" "))
    }

    pub(crate) fn workdir(&self) -> &str {
        self.run.working_dir().as_deref().filter(|d| !d.is_empty()).unwrap_or("/")
    }

    pub(crate) fn user(&self) -> &str {
        self.run.user().as_deref().unwrap_or_default()
    }

    pub(crate) fn shell(&self) -> Vec<String> {
        self.config
            .docker
            .shell
            .clone()
            .unwrap_or_else(|| DEFAULT_SHELL.iter().map(|s| (*s).to_owned()).collect())
    }

    pub(crate) fn set_shell(&mut self, shell: Vec<String>) {
        self.config.docker.shell = Some(shell);
    }

    pub(crate) fn set_cmd(&mut self, cmd: Vec<String>) {
        self.run.set_cmd(Some(cmd));
        self.cmd_set = true;
    }

    /// An inherited `CMD` belongs to the entry point that is replaced.
    pub(crate) fn set_entrypoint(&mut self, entrypoint: Vec<String>) {
        self.run.set_entrypoint(Some(entrypoint));
        if !self.cmd_set {
            self.run.set_cmd(None);
        }
    }

    pub(crate) fn set_healthcheck(&mut self, check: longshore_image::Healthcheck) {
        self.config.docker.healthcheck = Some(check);
    }

    pub(crate) fn add_trigger(&mut self, trigger: &str) {
        self.config.docker.on_build.get_or_insert_default().push(trigger.to_owned());
    }

    pub(crate) fn set_author(&mut self, author: &str) {
        self.config.oci.set_author(Some(author.to_owned()));
    }

    pub(crate) fn add_exposed(&mut self, ports: &[String]) {
        self.run.set_exposed_ports(Some(merged(self.run.exposed_ports().as_deref(), ports)));
    }

    pub(crate) fn add_volumes(&mut self, volumes: &[String]) {
        self.run.set_volumes(Some(merged(self.run.volumes().as_deref(), volumes)));
    }

    pub(crate) fn add_label(&mut self, name: &str, value: &str) {
        let mut labels = self.run.labels().clone().unwrap_or_default();
        labels.insert(name.to_owned(), value.to_owned());
        self.run.set_labels(Some(labels));
    }

    /// A step's line in `docker history`.
    pub(crate) fn record(&mut self, created_by: String, has_layer: bool) {
        let mut entry =
            HistoryBuilder::default().created(self.created.clone()).created_by(created_by).comment(COMMENT);
        if !has_layer {
            entry = entry.empty_layer(true);
        }
        self.history.push(entry.build().expect("every field has a default"));
    }

    /// The image's config.
    pub(crate) fn finish(mut self) -> (ImageConfig, Vec<Layer>) {
        self.run.set_env(Some(self.env.iter().map(|(n, v)| format!("{n}={v}")).collect()));
        self.config.oci.set_config(Some(self.run));
        self.config.oci.set_history(Some(self.history));
        self.config.oci.set_created(Some(self.created));
        (self.config, self.layers)
    }
}

fn merged(old: Option<&[String]>, new: &[String]) -> Vec<String> {
    let mut all: Vec<String> = old.unwrap_or_default().iter().chain(new).cloned().collect();
    all.sort();
    all.dedup();
    all
}

/// Seconds since the epoch as RFC 3339 in UTC.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Howard Hinnant's `civil_from_days`.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// `HOME`, which programs expect, where neither image nor Dockerfile sets it.
pub(crate) fn with_home(mut env: Vec<String>, user: &User) -> Vec<String> {
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        let home = user.home.as_deref().unwrap_or(if user.uid == 0 { "/root" } else { "/" });
        env.push(format!("HOME={home}"));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(1_795_268_353), "2026-11-21T13:39:13Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn entrypoint_resets_inherited_cmd_only() {
        let mut s = State::scratch(&longshore_image::host_platform(), "t");
        s.set_cmd(vec!["a".into()]);
        let mut child = s.child();
        child.set_entrypoint(vec!["e".into()]);
        assert_eq!(child.run.cmd(), &None);
        s.set_entrypoint(vec!["e".into()]);
        assert_eq!(s.run.cmd(), &Some(vec!["a".into()]));
    }

    #[test]
    fn the_later_of_env_and_arg_counts() {
        let mut s = State::scratch(&longshore_image::host_platform(), "t");
        s.set_env("A", "first");
        s.set_arg("A", Some("arg".into()));
        s.set_arg("B", Some("b".into()));
        assert_eq!(s.lookup("A").as_deref(), Some("arg"));
        s.set_env("A", "env");
        assert_eq!(s.lookup("A").as_deref(), Some("env"));
        assert_eq!(s.run_env()[1..], ["A=env", "B=b"]);
        assert_eq!(s.run_text(&["x".into()]), "RUN |2 A=env B=b x # buildkit");
    }
}
