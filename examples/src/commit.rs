use std::io::BufWriter;

use longshore_build::Expander;
use longshore_build::syntax::{CommandForm, Op, parse};
use longshore_image::{Ctx, Healthcheck, Image, ImageConfig, Layer, LayerOptions, Store};
use longshore_registry_client::Reference;
use longshore_runtime::containers::{Config, Containers};
use oci_spec::image::History;

use crate::Result;

/// How [`commit`] makes an image.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Name of the image.
    pub name: Option<Reference>,
    /// Author.
    pub author: Option<String>,
    /// Comment in the history.
    pub message: String,
    /// Dockerfile instructions for the config: `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`, `STOPSIGNAL`, `USER`,
    /// `VOLUME`, `WORKDIR`.
    pub changes: Vec<String>,
    /// Whether a running container is frozen meanwhile.
    pub pause: Pause,
}

/// Whether [`commit`] freezes a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// If that is possible: an ordinary user may have no cgroup for it.
    #[default]
    Try,
    /// Or there is no image.
    Must,
    /// It runs on.
    No,
}

/// Makes an image of a container's changes: one layer on top of its own image's, and its config.
///
/// # Errors
/// When there is no such container, an instruction is none of those that change the config, or the store fails.
pub fn commit(
    store: &Store,
    containers: &Containers,
    container: &str,
    options: &CommitOptions,
    ctx: Ctx<'_>,
) -> Result<Image> {
    let inspect = containers.inspect(container)?;
    let mut spec = store.spec(&store.image(&inspect.image)?)?;
    take_config(&mut spec.config, &inspect.config);
    for change in &options.changes {
        change_config(&mut spec.config, change)?;
    }
    let frozen = match options.pause {
        pause if !inspect.state.running || pause == Pause::No => None,
        pause => match containers.freeze(&inspect.id) {
            // It has ended just now, or it cannot be.
            Err(error) if error.is_conflict() || pause == Pause::Try => None,
            frozen => Some(frozen?),
        },
    };
    let layer = changes(store, containers, &inspect.id, ctx);
    drop(frozen);
    // As Docker: what has changed nothing adds no layer.
    let layer = Some(layer?).filter(|layer| layer.entries > 0);
    let now = jiff::Timestamp::now().to_string();
    let mut history = History::default();
    history.set_created(Some(now.clone()));
    history.set_created_by(Some([&[inspect.path], inspect.args.as_slice()].concat().join(" ")));
    history.set_comment(Some(options.message.clone()).filter(|m| !m.is_empty()));
    history.set_author(options.author.clone());
    history.set_empty_layer(layer.is_none().then_some(true));
    spec.layers.extend(layer);
    let mut all = spec.config.oci.history().clone().unwrap_or_default();
    all.push(history);
    spec.config.oci.set_history(Some(all)).set_created(Some(now)).set_author(options.author.clone());
    spec.names = options.name.iter().map(ToString::to_string).collect();
    Ok(store.create_image(&spec)?)
}

/// The container's changes as a layer.
fn changes(store: &Store, containers: &Containers, id: &str, ctx: Ctx<'_>) -> Result<Layer> {
    let (mut reader, writer) = std::io::pipe()?;
    std::thread::scope(|scope| {
        let writing =
            scope.spawn(move || containers.diff_tar(id, &mut BufWriter::with_capacity(1 << 20, writer)));
        let layer = store.add_layer(&mut reader, &LayerOptions::default(), ctx);
        drop(reader);
        match writing.join().map_err(|_| "reading the changes failed")? {
            // It broke because the store gave up, which says why.
            Err(error) if !error.is_broken_pipe() => Err(error.into()),
            _ => Ok(layer?),
        }
    })
}

/// The container's configuration becomes the image's.
fn take_config(image: &mut ImageConfig, own: &Config) {
    let mut config = image.oci.config().clone().unwrap_or_default();
    let some = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let keys = |set: &longshore_runtime::containers::Set| {
        Some(set.keys().cloned().collect::<Vec<_>>()).filter(|k| !k.is_empty())
    };
    config.set_user(some(&own.user));
    config.set_env(Some(own.env.clone()));
    config.set_cmd(own.cmd.clone());
    config.set_entrypoint(own.entrypoint.clone());
    config.set_working_dir(some(&own.working_dir));
    config.set_stop_signal(some(&own.stop_signal));
    config.set_exposed_ports(keys(&own.exposed_ports));
    config.set_volumes(keys(&own.volumes));
    config.set_labels(
        Some(own.labels.clone().into_iter().collect())
            .filter(|l: &std::collections::HashMap<_, _>| !l.is_empty()),
    );
    image.oci.set_config(Some(config));
    image.docker.healthcheck = own.healthcheck.as_ref().map(|h| Healthcheck {
        test: h.test.clone(),
        interval: h.interval,
        timeout: h.timeout,
        start_period: h.start_period,
        start_interval: h.start_interval,
        retries: u32::try_from(h.retries).unwrap_or(0),
    });
}

/// Applies one of the instructions of [`CommitOptions::changes`] to an image's config.
///
/// # Errors
/// When it is none of them, or malformed.
pub fn change_config(image: &mut ImageConfig, change: &str) -> Result<()> {
    // The language wants a stage around an instruction.
    let file = parse(&format!("FROM scratch\n{change}\n"));
    if let Some(error) = file.errors.first() {
        return Err(error.message.clone().into());
    }
    let mut config = image.oci.config().clone().unwrap_or_default();
    for instruction in file.instructions().skip(1) {
        let env = config.env().clone().unwrap_or_default();
        let lookup = |name: &str| {
            env.iter().find_map(|e| e.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()))
        };
        let expander = Expander::new(file.escape, &lookup);
        let word = |text: &str| -> Result<String> { Ok(expander.word(text)?.text) };
        let words = |list: &[String]| list.iter().map(|w| word(w)).collect::<Result<Vec<_>>>();
        match &instruction.op {
            Some(Op::Cmd(form)) => drop(config.set_cmd(Some(command(form)))),
            Some(Op::Entrypoint(form)) => drop(config.set_entrypoint(Some(command(form)))),
            Some(Op::Env(pairs)) => {
                let mut all = env.clone();
                for (name, value) in pairs {
                    let name = word(name)?;
                    all.retain(|e| e.split('=').next() != Some(&name));
                    all.push(format!("{name}={}", word(value)?));
                }
                config.set_env(Some(all));
            }
            Some(Op::Label(pairs)) => {
                let mut all = config.labels().clone().unwrap_or_default();
                for (name, value) in pairs {
                    all.insert(word(name)?, word(value)?);
                }
                config.set_labels(Some(all));
            }
            Some(Op::User(user)) => drop(config.set_user(Some(word(user)?))),
            Some(Op::Stopsignal(signal)) => drop(config.set_stop_signal(Some(word(signal)?))),
            Some(Op::Workdir(path)) => {
                let base = config.working_dir().clone().unwrap_or_else(|| "/".into());
                let path = std::path::Path::new(&base).join(word(path)?);
                config.set_working_dir(Some(path.to_string_lossy().into_owned()));
            }
            Some(Op::Volume(paths)) => {
                let mut all = config.volumes().clone().unwrap_or_default();
                all.extend(words(paths)?);
                config.set_volumes(Some(all));
            }
            Some(Op::Expose(ports)) => {
                let mut all = config.exposed_ports().clone().unwrap_or_default();
                let full = |p: String| if p.contains('/') { p } else { format!("{p}/tcp") };
                all.extend(words(ports)?.into_iter().map(full));
                config.set_exposed_ports(Some(all));
            }
            Some(Op::Onbuild(trigger)) => image.docker.on_build.get_or_insert_default().push(trigger.clone()),
            Some(Op::Healthcheck(check)) => image.docker.healthcheck = Some(check.clone()),
            _ => return Err(format!("{} is not a valid change command", instruction.name).into()),
        }
    }
    image.oci.set_config(Some(config));
    Ok(())
}

fn command(form: &CommandForm) -> Vec<String> {
    match form {
        CommandForm::Exec(words) => words.clone(),
        CommandForm::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
    }
}
