//! `save`, `load`, `import`, `export`, `cp`.

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use longshore_examples::{CommitOptions, Pause};
use longshore_image::{ArchiveFormat, Ctx, ImageConfig, ImageSpec, LayerOptions, LoadOptions};
use longshore_registry_client::Reference;
use longshore_runtime::containers::{ChangeKind, CopyOptions};

use crate::app::App;
use crate::failure::{Failure, Result};
use crate::{images, output, registry};

/// `save`
#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Kind of archive
    #[arg(long, value_enum, default_value_t = Format::Docker)]
    format: Format,
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Kinds of archive.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// What `docker load` and everybody else reads
    Docker,
    /// An OCI image layout alone
    Oci,
}

/// `load`
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

/// `import`
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long)]
    message: Option<String>,
    /// A tar, plain or compressed; "-" is standard input
    #[arg(value_name = "FILE | -")]
    file: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// `export`
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) fn save(app: &App, args: &SaveArgs) -> Result<()> {
    let store = app.host()?.store();
    let mut names = Vec::new();
    for name in &args.images {
        images::image(store, name)?;
        // By its full name if it has it, else by ID.
        let full = name.parse::<Reference>().map(|r| r.to_string()).ok();
        names.push(full.filter(|full| store.image(full).is_ok()).unwrap_or_else(|| name.clone()));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let format = match args.format {
        Format::Docker => ArchiveFormat::Docker,
        Format::Oci => ArchiveFormat::Oci,
    };
    to(args.output.as_deref(), |out| {
        Ok(store.save(&names, format, out, Ctx { progress: &|_| {}, cancel: app.cancel() })?)
    })
}

pub(crate) fn load(app: &App, args: &LoadArgs) -> Result<()> {
    let mut options = LoadOptions::default();
    options.rename = Some(|name| name.parse::<Reference>().map(|r| r.to_string()).ok());
    let mut from: Box<dyn Read + Send> = match &args.input {
        Some(file) => Box::new(open(file)?),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::new("requested load from stdin, but stdin is empty"));
        }
        None => Box::new(BufReader::new(std::io::stdin())),
    };
    let ctx = Ctx { progress: &|_| {}, cancel: app.cancel() };
    for loaded in app.host()?.store().load(&mut *from, &options, ctx)? {
        for name in &loaded.names {
            let familiar = name.parse::<Reference>().map_or_else(|_| name.clone(), |r| r.familiar());
            output::line(&format!("Loaded image: {familiar}"));
        }
        if loaded.names.is_empty() {
            output::line(&format!("Loaded image ID: {}", loaded.image.id()));
        }
    }
    Ok(())
}

/// `import`: a root file system becomes an image of one layer.
pub(crate) fn import(app: &App, args: &ImportArgs) -> Result<()> {
    let store = app.host()?.store();
    let names = args
        .name
        .iter()
        .map(|n| Ok(registry::parse_reference(n)?.to_string()))
        .collect::<Result<Vec<_>>>()?;
    let mut from: Box<dyn Read + Send> = match args.file.as_str() {
        "-" => Box::new(std::io::stdin()),
        file => Box::new(open(Path::new(file))?),
    };
    let ctx = Ctx { progress: &|_| {}, cancel: app.cancel() };
    let layer = store.add_layer(&mut *from, &LayerOptions::default(), ctx)?;
    let mut config = ImageConfig::default();
    let now = jiff::Timestamp::now().to_string();
    let mut history = oci_spec::image::History::default();
    history.set_created(Some(now.clone()));
    history.set_comment(Some(args.message.clone().unwrap_or_else(|| format!("Imported from {}", args.file))));
    config.oci.set_created(Some(now));
    config.oci.set_history(Some(vec![history]));
    for change in &args.change {
        longshore_examples::change_config(&mut config, change).map_err(|e| Failure::from(&*e))?;
    }
    let mut spec = ImageSpec::default();
    (spec.config, spec.layers, spec.names) = (config, vec![layer], names);
    output::line(store.create_image(&spec)?.id().as_ref());
    Ok(())
}

pub(crate) fn export(app: &App, args: &ExportArgs) -> Result<()> {
    let containers = app.containers()?;
    containers.inspect(&args.container)?;
    to(args.output.as_deref(), |out| Ok(containers.export(&args.container, out)?))
}

/// `commit`
#[derive(Args, Debug)]
pub(crate) struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long)]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pause: Option<bool>,
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub(crate) fn commit(app: &App, args: &CommitArgs) -> Result<()> {
    let options = CommitOptions {
        name: args.name.as_deref().map(registry::parse_reference).transpose()?,
        author: args.author.clone(),
        message: args.message.clone().unwrap_or_default(),
        changes: args.change.clone(),
        pause: args.pause.map_or(Pause::Try, |wanted| if wanted { Pause::Must } else { Pause::No }),
    };
    let ctx = Ctx { progress: &|_| {}, cancel: app.cancel() };
    let image =
        longshore_examples::commit(app.host()?.store(), app.containers()?, &args.container, &options, ctx)
            .map_err(|e| Failure::from(&*e))?;
    output::line(image.id().as_ref());
    Ok(())
}

/// `diff`
pub(crate) fn diff(app: &App, container: &str) -> Result<()> {
    for change in app.containers()?.diff(container)? {
        let letter = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        output::line(&format!("{letter} {}", change.path));
    }
    Ok(())
}

/// `cp`
#[derive(Args, Debug)]
pub(crate) struct CpArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path of this machine, or "-" for a tar on standard input
    #[arg(value_name = "CONTAINER:SRC_PATH | SRC_PATH | -")]
    from: String,
    /// CONTAINER:PATH, a path of this machine, or "-" for a tar on standard output
    #[arg(value_name = "CONTAINER:DEST_PATH | DEST_PATH | -")]
    to: String,
}

impl CpArgs {
    pub(crate) fn reads_stdin(&self) -> bool {
        self.from == "-"
    }
}

pub(crate) fn cp(app: &App, args: &CpArgs) -> Result<()> {
    let containers = app.containers()?;
    let options = CopyOptions::new(args.archive, args.follow_link);
    match (split(&args.from), split(&args.to)) {
        (Some(_), Some(_)) => Err(Failure::new("copying between containers is not supported")),
        (None, None) => Err(Failure::new("must specify at least one container source")),
        (Some((container, path)), None) if args.to == "-" => {
            to(None, |out| Ok(containers.copy_out(container, path, out)?))
        }
        (None, Some((container, path))) if args.from == "-" => {
            Ok(containers.copy_in(container, path, &mut std::io::stdin())?)
        }
        (Some((container, path)), None) => {
            Ok(containers.copy_to_host(container, path, Path::new(&args.to), &options)?)
        }
        (None, Some((container, path))) => {
            Ok(containers.copy_from_host(container, Path::new(&args.from), path, &options)?)
        }
    }
}

/// Whether the container that is copied from or to runs.
pub(crate) fn is_running(app: &App, args: &CpArgs) -> bool {
    let Some((container, _)) = split(&args.from).or(split(&args.to)) else { return false };
    let inspected = app.containers().ok().and_then(|all| all.inspect(container).ok());
    inspected.is_some_and(|container| container.state.running)
}

/// `web:/path`; a path of this machine has a slash before any colon.
fn split(text: &str) -> Option<(&str, &str)> {
    let (container, path) = text.split_once(':')?;
    (!container.is_empty() && !container.contains('/') && !container.starts_with('.'))
        .then_some((container, path))
}

fn open(file: &Path) -> Result<File> {
    File::open(file).map_err(|e| Failure::new(format!("open {}: {e}", file.display())))
}

/// Writes to the file, which appears only once it is whole, or to standard output, unless that is a terminal.
fn to(file: Option<&Path>, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let Some(file) = file else {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
        }
        let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
        write(&mut out)?;
        return Ok(out.flush()?);
    };
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", file.display()));
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&part).map_err(failed)?);
    let written = write(&mut out).and_then(|()| out.flush().map_err(failed));
    drop(out);
    match written {
        Ok(()) => std::fs::rename(&part, file).map_err(failed),
        Err(failure) => {
            let _ = std::fs::remove_file(&part);
            Err(failure)
        }
    }
}
