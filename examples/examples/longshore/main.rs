//! Docker's command line over the longshore crates: it parses arguments and prints; the work is theirs.
//!
//! ```sh
//! cargo run --release --example longshore -- pull debian:bookworm
//! cargo run --release --example longshore -- run --rm debian:bookworm echo hello
//! ```

mod app;
mod archive;
mod build;
mod create;
mod failure;
mod filters;
mod flags;
mod idle;
mod images;
mod later;
mod lifecycle;
mod login;
mod network;
mod output;
mod progress;
mod ps;
mod registry;
mod run;
mod system;
mod top;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use longshore_examples::user_namespace::{self, IdMaps};
use longshore_runtime::containers::shim_main;

use app::{App, Registries, Storage};
use failure::{Failure, Result};
use later::Later;

/// Containers without a daemon, in docker's words
#[derive(Debug, Parser)]
#[command(name = "longshore", version, disable_version_flag = true, max_term_width = 100)]
struct Cli {
    /// Print version information and quit
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Store and state (default /var/lib/longshore; for an ordinary user $XDG_DATA_HOME/longshore)
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// How new layers and containers are kept on disk
    #[arg(long, global = true, value_name = "KIND", value_enum, default_value_t)]
    storage: Storage,
    #[command(flatten)]
    registries: Registries,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach local standard input, output, and error streams to a running container
    Attach(run::AttachArgs),
    /// Build an image from a Dockerfile
    Build(Later<build::BuildArgs>),
    /// Create a new image from a container's changes
    Commit(archive::CommitArgs),
    /// Generate the autocompletion script for the specified shell
    Completion {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Manage containers
    #[command(subcommand)]
    Container(Later<ContainerCommand>),
    /// Copy files/folders between a container and the local filesystem
    Cp(archive::CpArgs),
    /// Create a new container
    #[command(disable_help_flag = true)]
    Create(Later<create::CreateArgs>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(Name),
    /// Get real time events
    Events(ps::EventsArgs),
    /// Execute a command in a running container
    Exec(run::ExecArgs),
    /// Export a container's filesystem as a tar archive
    Export(archive::ExportArgs),
    /// Show the history of an image
    History(images::HistoryArgs),
    /// Manage images
    #[command(subcommand)]
    Image(Later<ImageCommand>),
    /// List images
    Images(images::ImagesArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(archive::ImportArgs),
    /// Display system-wide information
    Info(system::InfoArgs),
    /// Return low-level information on objects
    Inspect(ps::InspectArgs),
    /// Kill one or more running containers
    Kill(lifecycle::KillArgs),
    /// Load an image from a tar archive or STDIN
    Load(archive::LoadArgs),
    /// Authenticate to a registry
    Login(login::LoginArgs),
    /// Log out from a registry
    Logout(login::LogoutArgs),
    /// Fetch the logs of a container
    Logs(ps::LogsArgs),
    /// Show what a registry has under a name
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(Later<network::NetworkCommand>),
    /// Pause all processes within one or more containers
    Pause(Names),
    /// List port mappings or a specific mapping for the container
    Port(ps::PortArgs),
    /// List containers
    Ps(ps::PsArgs),
    /// Download an image from a registry
    Pull(registry::PullArgs),
    /// Upload an image to a registry
    Push(registry::PushArgs),
    /// Rename a container
    Rename(lifecycle::RenameArgs),
    /// Restart one or more containers
    Restart(lifecycle::StopArgs),
    /// Remove one or more containers
    Rm(lifecycle::RmArgs),
    /// Remove one or more images
    Rmi(images::RmiArgs),
    /// Create and run a new container from an image
    #[command(disable_help_flag = true)]
    Run(Later<run::RunArgs>),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(archive::SaveArgs),
    /// Search Docker Hub for images
    Search(registry::SearchArgs),
    /// Start one or more stopped containers
    Start(run::StartArgs),
    /// Display a live stream of container(s) resource usage statistics
    Stats(ps::StatsArgs),
    /// Stop one or more running containers
    Stop(lifecycle::StopArgs),
    /// Manage longshore
    #[command(subcommand)]
    System(SystemCommand),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(images::TagArgs),
    /// Display the running processes of a container
    Top(top::TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// Update configuration of one or more containers
    Update(Later<lifecycle::UpdateArgs>),
    /// Show the version information
    Version {
        /// Format output using a custom template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Manage volumes
    #[command(subcommand)]
    Volume(system::VolumeCommand),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Names),
}

#[derive(Debug, Subcommand)]
enum ContainerCommand {
    /// Attach local standard input, output, and error streams to a running container
    Attach(run::AttachArgs),
    /// Create a new image from a container's changes
    Commit(archive::CommitArgs),
    /// Copy files/folders between a container and the local filesystem
    Cp(archive::CpArgs),
    /// Create a new container
    #[command(disable_help_flag = true)]
    Create(create::CreateArgs),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(Name),
    /// Execute a command in a running container
    Exec(run::ExecArgs),
    /// Export a container's filesystem as a tar archive
    Export(archive::ExportArgs),
    /// Display detailed information on one or more containers
    Inspect(ps::InspectArgs),
    /// Kill one or more running containers
    Kill(lifecycle::KillArgs),
    /// Fetch the logs of a container
    Logs(ps::LogsArgs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::PsArgs),
    /// Pause all processes within one or more containers
    Pause(Names),
    /// List port mappings or a specific mapping for the container
    Port(ps::PortArgs),
    /// Remove all stopped containers
    Prune(lifecycle::PruneArgs),
    /// Rename a container
    Rename(lifecycle::RenameArgs),
    /// Restart one or more containers
    Restart(lifecycle::StopArgs),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(lifecycle::RmArgs),
    /// Create and run a new container from an image
    #[command(disable_help_flag = true)]
    Run(run::RunArgs),
    /// Start one or more stopped containers
    Start(run::StartArgs),
    /// Display a live stream of container(s) resource usage statistics
    Stats(ps::StatsArgs),
    /// Stop one or more running containers
    Stop(lifecycle::StopArgs),
    /// Display the running processes of a container
    Top(top::TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// Update configuration of one or more containers
    Update(lifecycle::UpdateArgs),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Names),
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Copy an image from registry to registry, without storing it
    Copy(registry::CopyArgs),
    /// Show the history of an image
    History(images::HistoryArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(archive::ImportArgs),
    /// Display detailed information on one or more images
    Inspect(ps::InspectArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::ImagesArgs),
    /// Load an image from a tar archive or STDIN
    Load(archive::LoadArgs),
    /// Remove unused images
    Prune(images::ImagePruneArgs),
    /// Download an image from a registry
    Pull(registry::PullArgs),
    /// Upload an image to a registry
    Push(registry::PushArgs),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(images::RmiArgs),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(archive::SaveArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(images::TagArgs),
    /// Show an image's layers: their sizes, and which ones other images share
    Tree {
        /// The image
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Read everything in the store again and compare it with its digests
    Verify(images::VerifyArgs),
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    /// Display an image manifest, or manifest list
    Inspect {
        /// Name, and tag or digest
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Show disk usage
    Df(system::DfArgs),
    /// Get real time events
    Events(ps::EventsArgs),
    /// Display system-wide information
    Info(system::InfoArgs),
    /// Remove unused data
    Prune(system::SystemPruneArgs),
    /// Start the containers whose restart policy says so, after a boot
    Restore,
}

/// A container.
#[derive(Args, Debug)]
struct Name {
    /// Container
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// Containers.
#[derive(Args, Debug)]
struct Names {
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
}

fn main() -> ExitCode {
    if let Some(code) = user_namespace::id_maps_main(std::env::args_os()) {
        return ExitCode::from(code);
    }
    let shim = shim_main(std::env::args_os(), |root| app::open_host(Path::new(root))?.containers());
    if let Some(code) = shim {
        return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX));
    }
    let cli = match Cli::try_parse_from(flags::written_out(&Cli::command(), std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Err(error) = enter_user_namespace(cli.root.as_ref(), &cli.command) {
        failure::report(&Failure::new(format!("cannot use the ids of /etc/subuid and /etc/subgid: {error}")));
        return ExitCode::from(125);
    }
    let done = App::new(cli.root, cli.registries, cli.storage, cleans_up(&cli.command)).and_then(|app| {
        let done = dispatch(&app, cli.command);
        app.settle();
        done
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure::report(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// An ordinary user who has a range of ids works in a user namespace with all of them. Before there is any thread.
fn enter_user_namespace(root: Option<&PathBuf>, command: &Command) -> longshore_examples::Result<()> {
    let Some(maps) = IdMaps::granted().filter(|_| app::rootless() && IdMaps::inherited().is_none()) else {
        return Ok(());
    };
    if joins(root, command) { Ok(()) } else { user_namespace::enter(&maps) }
}

/// Whether it enters a running container's namespaces: it has that right outside of them only, as their owner.
fn joins(root: Option<&PathBuf>, command: &Command) -> bool {
    match command {
        Command::Exec(_) | Command::Top(_) => true,
        Command::Container(Later(ContainerCommand::Exec(_) | ContainerCommand::Top(_))) => true,
        Command::Cp(args) | Command::Container(Later(ContainerCommand::Cp(args))) => {
            App::new(root.cloned(), Registries::default(), Storage::default(), false)
                .is_ok_and(|app| archive::is_running(&app, args))
        }
        _ => false,
    }
}

/// Whether a command has something to put in order when it is interrupted; the others only ask, wait and look, or leave nothing half done.
fn cleans_up(command: &Command) -> bool {
    // Standard input may never come.
    if let Command::Cp(args) | Command::Container(Later(ContainerCommand::Cp(args))) = command
        && args.reads_stdin()
    {
        return false;
    }
    !matches!(
        command,
        Command::Attach(_)
            | Command::Events(_)
            | Command::Exec(_)
            | Command::Logs(_)
            | Command::Image(Later(ImageCommand::Prune(_)))
            | Command::Network(Later(network::NetworkCommand::Prune(_)))
            | Command::Restart(_)
            | Command::Rm(_)
            | Command::Stats(_)
            | Command::Stop(_)
            | Command::System(SystemCommand::Events(_) | SystemCommand::Prune(_))
            | Command::Volume(system::VolumeCommand::Prune(_))
            | Command::Wait(_)
            | Command::Container(Later(
                ContainerCommand::Attach(_)
                    | ContainerCommand::Exec(_)
                    | ContainerCommand::Logs(_)
                    | ContainerCommand::Prune(_)
                    | ContainerCommand::Restart(_)
                    | ContainerCommand::Rm(_)
                    | ContainerCommand::Stats(_)
                    | ContainerCommand::Stop(_)
                    | ContainerCommand::Wait(_)
            ))
    )
}

/// One line, as every failure. A wrong flag is 125, as with docker: it must not look like the container's own code; a missing
/// argument, one too many or an unknown command is 1.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = no_boolean(error).unwrap_or(line);
    let code = match error.kind() {
        ErrorKind::UnknownArgument if !said(error, ContextKind::InvalidArg).starts_with('-') => 1,
        ErrorKind::UnknownArgument | ErrorKind::InvalidValue | ErrorKind::ValueValidation => 125,
        ErrorKind::ArgumentConflict | ErrorKind::TooManyValues | ErrorKind::NoEquals => 125,
        _ => 1,
    };
    let message = format!("{} (see 'longshore --help')", line.trim_start_matches("error: "));
    failure::report(&Failure { code, message });
    ExitCode::from(code)
}

fn said(error: &clap::Error, what: ContextKind) -> &str {
    match error.get(what) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}

/// `--rm=maybe`: a flag that is there or not, with a value that is neither.
fn no_boolean(error: &clap::Error) -> Option<String> {
    let chosen = matches!(error.get(ContextKind::ValidValue), Some(ContextValue::Strings(words)) if words == &["true", "false"]);
    let wrong =
        error.kind() == ErrorKind::TooManyValues || (error.kind() == ErrorKind::InvalidValue && chosen);
    let (flag, value) = (said(error, ContextKind::InvalidArg), said(error, ContextKind::InvalidValue));
    let flag = flag.split([' ', '[', '=']).next().unwrap_or(flag);
    wrong
        .then(|| format!("invalid argument {value:?} for \"{flag}\" flag: parsing {value:?}: invalid syntax"))
}

fn dispatch(app: &App, command: Command) -> Result<u8> {
    match command {
        Command::Attach(args) => return run::attach(app, &args),
        Command::Exec(args) => return run::exec(app, &args),
        Command::Run(Later(args)) => return run::run(app, &args),
        Command::Start(args) => return run::start(app, &args),
        Command::Container(Later(command)) => return container(app, command),
        Command::Build(Later(args)) => build::build(app, &args)?,
        Command::Commit(args) => archive::commit(app, &args)?,
        Command::Completion { shell } => completion(shell),
        Command::Cp(args) => archive::cp(app, &args)?,
        Command::Create(Later(args)) => run::create(app, &args)?,
        Command::Diff(args) => archive::diff(app, &args.name)?,
        Command::Events(args) | Command::System(SystemCommand::Events(args)) => ps::events(app, &args)?,
        Command::Export(args) => archive::export(app, &args)?,
        Command::History(args) => images::history(app, &args)?,
        Command::Image(Later(command)) => image(app, command)?,
        Command::Images(args) => images::images(app, &args)?,
        Command::Import(args) => archive::import(app, &args)?,
        Command::Info(args) | Command::System(SystemCommand::Info(args)) => system::info(app, &args)?,
        Command::Inspect(args) => ps::inspect(app, &args)?,
        Command::Kill(args) => lifecycle::kill(app, &args)?,
        Command::Load(args) => archive::load(app, &args)?,
        Command::Login(args) => login::login(app, &args)?,
        Command::Logout(args) => login::logout(&args)?,
        Command::Logs(args) => ps::logs(app, &args)?,
        Command::Manifest(ManifestCommand::Inspect { name }) => registry::manifest(app, &name)?,
        Command::Network(Later(command)) => network::network(app, &command)?,
        Command::Pause(args) => lifecycle::pause(app, &args.names)?,
        Command::Port(args) => ps::port(app, &args)?,
        Command::Ps(args) => ps::ps(app, &args)?,
        Command::Pull(args) => registry::pull(app, &args)?,
        Command::Push(args) => registry::push(app, &args)?,
        Command::Rename(args) => lifecycle::rename(app, &args)?,
        Command::Restart(args) => lifecycle::restart(app, &args)?,
        Command::Rm(args) => lifecycle::rm(app, &args)?,
        Command::Rmi(args) => images::rmi(app, &args)?,
        Command::Save(args) => archive::save(app, &args)?,
        Command::Search(args) => registry::search(app, &args)?,
        Command::Stats(args) => ps::stats(app, &args)?,
        Command::Stop(args) => lifecycle::stop(app, &args)?,
        Command::System(SystemCommand::Df(args)) => system::df(app, &args)?,
        Command::System(SystemCommand::Prune(args)) => system::prune(app, &args)?,
        Command::System(SystemCommand::Restore) => run::restore(app)?,
        Command::Tag(args) => images::tag(app, &args)?,
        Command::Top(args) => top::top(app, &args)?,
        Command::Unpause(args) => lifecycle::unpause(app, &args.names)?,
        Command::Update(Later(args)) => lifecycle::update(app, &args)?,
        Command::Version { format } => system::version(format.as_deref())?,
        Command::Volume(command) => system::volume(app, &command)?,
        Command::Wait(args) => run::wait(app, &args.names)?,
    }
    Ok(0)
}

/// The noun form is the verb form.
fn container(app: &App, command: ContainerCommand) -> Result<u8> {
    let command = match command {
        ContainerCommand::Attach(args) => Command::Attach(args),
        ContainerCommand::Commit(args) => Command::Commit(args),
        ContainerCommand::Diff(args) => Command::Diff(args),
        ContainerCommand::Cp(args) => Command::Cp(args),
        ContainerCommand::Create(args) => Command::Create(Later(args)),
        ContainerCommand::Exec(args) => Command::Exec(args),
        ContainerCommand::Export(args) => Command::Export(args),
        ContainerCommand::Inspect(args) => Command::Inspect(args.of("container")),
        ContainerCommand::Kill(args) => Command::Kill(args),
        ContainerCommand::Logs(args) => Command::Logs(args),
        ContainerCommand::Ls(args) => Command::Ps(args),
        ContainerCommand::Pause(args) => Command::Pause(args),
        ContainerCommand::Port(args) => Command::Port(args),
        ContainerCommand::Rename(args) => Command::Rename(args),
        ContainerCommand::Restart(args) => Command::Restart(args),
        ContainerCommand::Rm(args) => Command::Rm(args),
        ContainerCommand::Run(args) => Command::Run(Later(args)),
        ContainerCommand::Start(args) => Command::Start(args),
        ContainerCommand::Stats(args) => Command::Stats(args),
        ContainerCommand::Stop(args) => Command::Stop(args),
        ContainerCommand::Top(args) => Command::Top(args),
        ContainerCommand::Unpause(args) => Command::Unpause(args),
        ContainerCommand::Update(args) => Command::Update(Later(args)),
        ContainerCommand::Wait(args) => Command::Wait(args),
        ContainerCommand::Prune(args) => return lifecycle::prune(app, &args).map(|()| 0),
    };
    dispatch(app, command)
}

fn image(app: &App, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Build(args) => build::build(app, &args),
        ImageCommand::Copy(args) => registry::copy(app, &args),
        ImageCommand::History(args) => images::history(app, &args),
        ImageCommand::Import(args) => archive::import(app, &args),
        ImageCommand::Inspect(args) => ps::inspect(app, &args.of("image")),
        ImageCommand::Ls(args) => images::images(app, &args),
        ImageCommand::Load(args) => archive::load(app, &args),
        ImageCommand::Prune(args) => images::prune(app, &args),
        ImageCommand::Pull(args) => registry::pull(app, &args),
        ImageCommand::Push(args) => registry::push(app, &args),
        ImageCommand::Rm(args) => images::rmi(app, &args),
        ImageCommand::Save(args) => archive::save(app, &args),
        ImageCommand::Tag(args) => images::tag(app, &args),
        ImageCommand::Tree { image } => images::tree(app, &image),
        ImageCommand::Verify(args) => images::verify(app, &args),
    }
}

fn completion(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "longshore", &mut script);
    output::bytes(&script);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_image_is_the_containers_own() {
        let cli = Cli::try_parse_from([
            "longshore",
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "8080:80",
            "img",
            "sh",
            "-c",
            "x",
            "--rm",
        ]);
        assert!(
            matches!(cli.unwrap().command, Command::Run(Later(args)) if args.command() == ["sh", "-c", "x", "--rm"])
        );
        let cli = Cli::try_parse_from(["longshore", "run", "-h", "me", "img", "--help"]);
        assert!(matches!(cli.unwrap().command, Command::Run(Later(args)) if args.command() == ["--help"]));
    }

    #[test]
    fn minus_one_is_a_value() {
        for line in [
            "run --memory 10m --memory-swap -1 img",
            "update --memory-swap -1 box",
            "logs --tail -1 box",
            "logs -n -1 box",
            "run --pids-limit -1 --stop-timeout -1 --memory-swappiness -1 img",
        ] {
            let parsed = Cli::try_parse_from(["longshore"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
    }
}
