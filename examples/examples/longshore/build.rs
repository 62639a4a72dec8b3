//! `build`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use longshore_build::{BuildEvent, BuildOptions, Context, Secret};
use longshore_image::Ctx;

use crate::app::App;
use crate::failure::{Failure, Result};
use crate::idle::{ContentTrust, Isolation};
use crate::{output, registry};

/// `build`
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Allow extra privileged entitlement: network.host
    #[arg(long, value_name = "list", value_parser = ["network.host"])]
    allow: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "list")]
    build_arg: Vec<String>,
    /// Name of the Dockerfile (Default is "PATH/Dockerfile")
    #[arg(short, long)]
    file: Option<String>,
    /// Write the image ID to the file
    #[arg(long, value_name = "file")]
    iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set the networking mode for the RUN instructions during build: default, none, host
    #[arg(long)]
    network: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pull: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")
    #[arg(long)]
    secret: Vec<String>,
    /// Name and optionally a tag in the "name:tag" format
    #[arg(short, long, value_name = "list")]
    tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    trust: ContentTrust,
    #[command(flatten)]
    isolation: Isolation,
    /// The build context; "-" reads a Dockerfile from standard input
    #[arg(value_name = "PATH | -")]
    context: String,
}

/// Bytes of a Dockerfile at most, as in the builder.
const MAX_TEXT: u64 = 4 << 20;
/// Bytes of output without a line's end that are shown as one.
const MAX_LINE: usize = 64 << 10;

pub(crate) fn build(app: &App, args: &BuildArgs) -> Result<()> {
    let started = Instant::now();
    let options = args.options()?;
    let (context, dockerfile) = args.inputs()?;
    let mut view = View { quiet: args.quiet, started, steps: HashMap::new() };
    let ctx = Ctx { progress: &|_| {}, cancel: app.cancel() };
    let built = app.host()?.build(&dockerfile, &context, &options, args.pull, &mut |e| view.event(&e), ctx);
    let built = built.map_err(|e| Failure::from(&*e))?;
    let id = built.image.id().to_string();
    if let Some(file) = &args.iidfile {
        std::fs::write(file, &id)
            .map_err(|e| Failure::new(format!("cannot write {}: {e}", file.display())))?;
    }
    if args.quiet {
        output::line(&id);
        return Ok(());
    }
    output::note(&format!("writing image {id}"));
    for name in &options.tags {
        output::note(&format!("naming to {name}"));
    }
    let (executed, cached) = (built.executed, built.cached);
    output::note(&format!(
        "{cached} steps CACHED, {executed} executed, {:.1}s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

impl BuildArgs {
    fn options(&self) -> Result<BuildOptions> {
        let mut options = BuildOptions::default();
        for tag in &self.tag {
            options.tags.push(registry::parse_reference(tag)?.to_string());
        }
        for argument in &self.build_arg {
            // `--build-arg HTTP_PROXY` takes the caller's own value, if there is one.
            match argument.split_once('=') {
                Some((name, value)) => options.build_args.push((name.to_owned(), value.to_owned())),
                None => {
                    options.build_args.extend(std::env::var(argument).ok().map(|v| (argument.clone(), v)));
                }
            }
        }
        let labels = self.label.iter().map(|l| l.split_once('=').unwrap_or((l, "")));
        options.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        options.secrets = self.secret.iter().map(|s| secret(s)).collect::<Result<_>>()?;
        options.target.clone_from(&self.target);
        options.no_cache = self.no_cache;
        options.network.clone_from(&self.network);
        options.allow_host_network = !self.allow.is_empty();
        options.platform = registry::platform(self.platform.as_deref())?;
        options.source_date_epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|e| e.parse().ok());
        Ok(options)
    }

    /// The context and the Dockerfile's text.
    fn inputs(&self) -> Result<(Context, String)> {
        let stdin = || {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        };
        if self.context == "-" {
            return Ok((Context::empty(), stdin()?));
        }
        if self.context.contains("://") || self.context.starts_with("git@") {
            return Err(Failure::new("a build context from a URL is not supported: give a directory"));
        }
        let path = Path::new(&self.context);
        if !path.is_dir() {
            return Err(Failure::new(format!(
                "unable to prepare context: path \"{}\" not found",
                self.context
            )));
        }
        let (file, dockerfile) = match self.file.as_deref() {
            Some("-") => (None, stdin()?),
            Some(file) => (Some(PathBuf::from(file)), read_text(Path::new(file))?),
            None => {
                let names = ["Dockerfile", "dockerfile"].map(|name| path.join(name));
                let file = names.iter().find(|file| file.exists()).unwrap_or(&names[0]);
                (Some(file.clone()), read_text(file)?)
            }
        };
        // Its own ignore rules stand in for those of the context.
        let own = file.map(|file| {
            let mut name = file.into_os_string();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let context = match own.filter(|own| own.is_file()) {
            Some(own) => Context::dir_with_ignore(path, &read_text(&own)?)?,
            None => Context::dir(path)?,
        };
        Ok((context, dockerfile))
    }
}

/// A Dockerfile, or the ignore rules beside it.
fn read_text(file: &Path) -> Result<String> {
    let failed =
        |e: std::io::Error| Failure::new(format!("failed to read dockerfile: open {}: {e}", file.display()));
    let mut text = Vec::new();
    let file_in = std::fs::File::open(file).map_err(failed)?;
    file_in.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `id=token,src=FILE` or `id=token,env=NAME`
fn secret(text: &str) -> Result<Secret> {
    let field = |names: &[&str]| {
        text.split(',')
            .filter_map(|f| f.split_once('='))
            .find(|(name, _)| names.contains(name))
            .map(|(_, v)| v)
    };
    let id = field(&["id"]).ok_or_else(|| Failure::new(format!("invalid secret {text}: id is missing")))?;
    let value = match (field(&["src", "source"]), field(&["env"])) {
        (Some(file), _) => {
            std::fs::read(file).map_err(|e| Failure::new(format!("failed to read secret {file}: {e}")))?
        }
        (None, env) => {
            std::env::var_os(env.unwrap_or(id)).map(std::os::unix::ffi::OsStringExt::into_vec).ok_or_else(
                || Failure::new(format!("secret {id}: no source file and no such environment variable")),
            )?
        }
    };
    Ok(Secret::new(id, value))
}

/// Prints as BuildKit's plain progress does, on standard error.
struct View {
    quiet: bool,
    started: Instant,
    steps: HashMap<usize, Step>,
}

struct Step {
    started: Instant,
    /// Output without its line end yet.
    rest: Vec<u8>,
}

impl View {
    fn event(&mut self, event: &BuildEvent<'_>) {
        if self.quiet {
            return;
        }
        match event {
            BuildEvent::Started { step, total, instruction } => {
                self.steps.insert(*step, Step { started: Instant::now(), rest: Vec::new() });
                let instruction = instruction.replace("\\\n", " ");
                output::note(&format!(
                    "#{step} [{step}/{total}] {}",
                    instruction.lines().next().unwrap_or_default()
                ));
            }
            BuildEvent::Cached { step } => {
                self.steps.remove(step);
                output::note(&format!("#{step} CACHED\n"));
            }
            BuildEvent::Output { step, bytes } => self.output(*step, bytes),
            BuildEvent::Finished { step, elapsed } if self.steps.contains_key(step) => {
                self.flush(*step);
                output::note(&format!("#{step} DONE {:.1}s\n", elapsed.as_secs_f64()));
            }
            BuildEvent::Warning { line, message } => output::note(&format!("WARN: {message} (line {line})")),
            _ => {}
        }
    }

    /// Whole lines are printed, with the step's number and time before them.
    fn output(&mut self, number: usize, bytes: &[u8]) {
        let started = self.started;
        let step = self.steps.entry(number).or_insert_with(|| Step { started, rest: Vec::new() });
        for piece in bytes.split_inclusive(|b| *b == b'\n').flat_map(|line| line.chunks(MAX_LINE)) {
            step.rest.extend_from_slice(piece);
            if !piece.ends_with(b"\n") && step.rest.len() < MAX_LINE {
                continue;
            }
            let line = std::mem::take(&mut step.rest);
            let line = String::from_utf8_lossy(&line);
            let time = step.started.elapsed().as_secs_f64();
            // What a progress bar of the command overwrote is of no use here.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
            // The command's own words, with its colours.
            let _ = writeln!(std::io::stderr(), "#{number} {time:.3} {line}");
        }
    }

    fn flush(&mut self, number: usize) {
        if self.steps.get(&number).is_some_and(|step| !step.rest.is_empty()) {
            self.output(number, b"\n");
        }
    }
}
