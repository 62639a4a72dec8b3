//! `run`, `create`, `start`, `attach`, `exec`, `wait`.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::thread;

use clap::Args;
use longshore_examples::find_image;
use longshore_image::Image;
use longshore_runtime::containers::{
    AttachOptions, Containers, DetachKeys, Ended, Error, ExecRequest, StartOptions, Stream, Terminal,
    WaitFor, parse,
};
use longshore_runtime::{ExecProcess, Stdio};
use oci_spec::image::Platform;

use crate::app::App;
use crate::create::CreateArgs;
use crate::failure::{Failure, Result, chain, each};
use crate::progress::Blobs;
use crate::{output, registry};

/// `run`
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    detach_keys: Option<DetachKeys>,
    /// Proxy received signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: bool,
    #[command(flatten)]
    create: CreateArgs,
}

/// `start`
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    detach_keys: Option<DetachKeys>,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// `attach`
#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long)]
    detach_keys: Option<DetachKeys>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: bool,
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `exec`
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    detach_keys: Option<DetachKeys>,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<std::path::PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Container, then the command and its arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG...]", required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true)]
    container_and_command: Vec<String>,
}

impl RunArgs {
    #[cfg(test)]
    pub(crate) fn command(&self) -> &[String] {
        self.create.command()
    }
}

pub(crate) fn run(app: &App, args: &RunArgs) -> Result<u8> {
    if args.detach && !args.create.attach.is_empty() {
        return Err(Failure::new("conflicting options: cannot specify both --attach and --detach").code(125));
    }
    check_terminal(args.create.tty && args.create.interactive && !args.detach)?;
    let id = create_container(app, &args.create, args.detach).map_err(run_failed)?;
    let containers = app.containers()?;
    if args.detach {
        start_warned(containers, &id, &StartOptions::default()).map_err(start_failed)?;
        output::line(&id);
        return Ok(0);
    }
    let wants = |stream: &str| {
        args.create.attach.is_empty() || args.create.attach.iter().any(|a| a.eq_ignore_ascii_case(stream))
    };
    let mut attach = AttachOptions::new(args.create.interactive);
    (attach.stdout, attach.stderr) = (wants("stdout"), wants("stderr"));
    let stream = start_warned(containers, &id, &StartOptions::attach(attach)).map_err(start_failed)?;
    let session = Session {
        stdin: args.create.interactive,
        tty: args.create.tty,
        keys: args.detach_keys.clone(),
        signals: args.sig_proxy && !args.create.tty,
    };
    session.attach(containers, &id, stream)
}

/// `create`: pulls the image if need be, and prints the new ID.
pub(crate) fn create(app: &App, args: &CreateArgs) -> Result<()> {
    let id = create_container(app, args, false)?;
    output::line(&id);
    Ok(())
}

fn create_container(app: &App, args: &CreateArgs, detached: bool) -> Result<String> {
    // As a flag that is none.
    let asked = || -> Result<_> {
        args.check()?;
        args.request(args.image(), detached)
    };
    let request = asked().map_err(|failure| failure.code(125))?;
    let mut id_file = args.id_file()?;
    let written = args.image();
    let platform = registry::platform(args.platform.as_deref())?;
    // Why the image is not here.
    let missing = || -> Result<Option<String>> {
        let image = match find_image(app.host()?.store(), written) {
            Err(error) if error.is_not_found() => return Ok(Some(format!("No such image: {written}"))),
            found => found?,
        };
        Ok(platform
            .as_ref()
            .filter(|wanted| !image.suits(wanted))
            .map(|wanted| other_platform(&image, written, wanted)))
    };
    match args.pull.as_str() {
        "never" => missing()?.map_or(Ok(()), |why| Err(Failure::new(why)))?,
        "missing" if missing()?.is_none() => {}
        "missing" | "always" => {
            let reference = registry::parse_reference(written)?;
            if args.pull == "missing" {
                output::note(&format!("Unable to find image '{}' locally", reference.familiar()));
            }
            let blobs = Blobs::aside(args.quiet);
            registry::pull_image(app, &reference, platform.as_ref(), &blobs)?;
        }
        other => {
            return Err(Failure::new(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )));
        }
    }
    let created = app.containers()?.create(&request)?;
    warn(&created.warnings);
    if let Some(file) = &mut id_file {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

/// Docker's words.
fn other_platform(image: &Image, written: &str, wanted: &Platform) -> String {
    let words = |platform: &Platform| {
        let variant = platform.variant().as_deref().map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", platform.os(), platform.architecture())
    };
    format!(
        "image with reference {written} was found but does not match the specified platform: wanted {}, actual: {}",
        words(wanted),
        words(&image.platform())
    )
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        output::note(&format!("WARNING: {warning}"));
    }
}

/// Starts it, and tells what it does not get.
fn start_warned(
    containers: &Containers,
    name: &str,
    options: &StartOptions,
) -> std::result::Result<Option<Stream>, Error> {
    let (stream, warnings) = containers.start_warned(name, options)?;
    warn(&warnings);
    Ok(stream)
}

pub(crate) fn start(app: &App, args: &StartArgs) -> Result<u8> {
    let containers = app.containers()?;
    if !args.attach && !args.interactive {
        each(&args.containers, |name| {
            start_warned(containers, name, &StartOptions::default())?;
            output::line(name);
            Ok(())
        })?;
        return Ok(0);
    }
    let [name] = args.containers.as_slice() else {
        return Err(Failure::new("you cannot start and attach multiple containers at once"));
    };
    let config = containers.inspect(name)?.config;
    let stdin = args.interactive && config.open_stdin;
    check_terminal(config.tty && stdin)?;
    let stream = start_warned(containers, name, &StartOptions::attach(AttachOptions::new(stdin)))?;
    let session = Session { stdin, tty: config.tty, keys: args.detach_keys.clone(), signals: !config.tty };
    session.attach(containers, name, stream)
}

/// `system restore`: what docker's daemon does when it starts. One that does not start holds up no other.
pub(crate) fn restore(app: &App) -> Result<()> {
    let containers = app.containers()?;
    each(&containers.to_restore()?, |id| {
        let named = |error: Error| Failure::new(format!("{}: {}", output::short_id(id), chain(&error)));
        start_warned(containers, id, &StartOptions::default()).map_err(named)?;
        output::line(id);
        Ok(())
    })
}

pub(crate) fn attach(app: &App, args: &AttachArgs) -> Result<u8> {
    let containers = app.containers()?;
    let inspect = containers.inspect(&args.container)?;
    if !inspect.state.running {
        return Err(Failure::new("You cannot attach to a stopped container, start it first"));
    }
    if inspect.state.paused {
        return Err(Failure::new("You cannot attach to a paused container, unpause it first"));
    }
    let config = inspect.config;
    let stdin = config.open_stdin && !args.no_stdin;
    check_terminal(config.tty && stdin)?;
    let stream = containers.attach(&args.container, &AttachOptions::new(stdin))?;
    let session = Session {
        stdin,
        tty: config.tty,
        keys: args.detach_keys.clone(),
        signals: args.sig_proxy && !config.tty,
    };
    match session.join(containers, &args.container, Some(stream))? {
        Ended::Exited(code) => Ok(exit_code(code)),
        // Of docker's, `attach` and `exec` alone end so.
        Ended::Detached => Ok(detached(1)),
    }
}

pub(crate) fn exec(app: &App, args: &ExecArgs) -> Result<u8> {
    let (container, command) = args.container_and_command.split_first().expect("clap asks for two");
    // What follows the container is not parsed, so an unknown flag before it arrives here as the container.
    if container.starts_with('-') {
        return Err(Failure::new(format!("unknown flag: {container}, see 'longshore exec --help'")).code(125));
    }
    let containers = app.containers()?;
    check_terminal(args.tty && args.interactive && !args.detach)?;
    let mut request = ExecRequest::new(command).with_id()?;
    request.env = crate::create::environment(&args.env_file, &args.env)?;
    request.user.clone_from(&args.user);
    request.working_dir.clone_from(&args.workdir);
    request.tty = args.tty;
    request.privileged = args.privileged;
    if args.detach {
        containers.exec(container, &request, [Stdio::Null, Stdio::Null, Stdio::Null])?;
        return Ok(0);
    }
    // Never the caller's own descriptors: the container could write to the file behind standard input.
    let stdin = if args.interactive { Stdio::Piped } else { Stdio::Null };
    let mut process =
        containers.exec(container, &request, [stdin, Stdio::Piped, Stdio::Piped]).map_err(exec_failed)?;
    // The container may have gone with it.
    let ended = |code: i32| {
        let _ = containers.exec_ended(container, request.id.as_deref().unwrap_or_default(), code);
        exit_code(code)
    };
    if !args.tty {
        return Ok(piped(&mut process)?.map_or(1, ended));
    }
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut terminal = Terminal::new(stdout.as_fd(), stderr.as_fd());
    terminal.stdin = args.interactive.then(|| stdin.as_fd());
    terminal.tty = args.tty;
    terminal.detach_keys = args.detach_keys.clone().unwrap_or_default();
    match terminal.exec(process)? {
        Ended::Exited(code) => Ok(ended(code)),
        Ended::Detached => Ok(detached(1)),
    }
}

/// As docker says it.
fn detached(code: u8) -> u8 {
    output::note("read escape sequence");
    code
}

/// Copies between this program's streams and the process's pipes until it has ended and all was read.
fn piped(process: &mut ExecProcess) -> Result<Option<i32>> {
    if let Some(to) = process.take_stdio(0).map(File::from) {
        // It may wait for input that never comes, and ends with the program.
        thread::spawn(move || pump(std::io::stdin(), to));
    }
    let (out, err) = (process.take_stdio(1).map(File::from), process.take_stdio(2).map(File::from));
    let out = out.map(|from| thread::spawn(move || pump(from, std::io::stdout())));
    let err = err.map(|from| thread::spawn(move || pump(from, std::io::stderr())));
    let exit = process.wait(None)?;
    for thread in [out, err].into_iter().flatten() {
        let _ = thread.join();
    }
    Ok(exit.map(|exit| exit.code))
}

/// Ends with either side; what cannot be written is dropped together with the pipe.
fn pump(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) if n > 0 => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            _ => return,
        };
        if to.write_all(&buffer[..n]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// How standard streams are joined to a container's.
struct Session {
    stdin: bool,
    tty: bool,
    keys: Option<DetachKeys>,
    signals: bool,
}

impl Session {
    /// Runs the session; its end is the container's, or the user's detach keys.
    fn attach(&self, containers: &Containers, name: &str, stream: Option<Stream>) -> Result<u8> {
        match self.join(containers, name, stream)? {
            Ended::Exited(code) => Ok(exit_code(code)),
            Ended::Detached => Ok(detached(0)),
        }
    }

    fn join(&self, containers: &Containers, name: &str, stream: Option<Stream>) -> Result<Ended> {
        let Some(stream) = stream else {
            return Ok(Ended::Exited(containers.wait(name, WaitFor::NotRunning)?));
        };
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let mut terminal = Terminal::new(stdout.as_fd(), stderr.as_fd());
        terminal.stdin = self.stdin.then(|| stdin.as_fd());
        terminal.tty = self.tty;
        terminal.proxy_signals = self.signals;
        terminal.detach_keys = self.keys.clone().unwrap_or_default();
        Ok(terminal.attach(stream)?)
    }
}

/// Docker refuses `-it` without a terminal.
fn check_terminal(wanted: bool) -> Result<()> {
    if wanted && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    Ok(())
}

fn start_failed(error: Error) -> Failure {
    match exit_code(error.exit_code()) {
        125 => run_failed(error.into()),
        code => Failure::from(error).code(code),
    }
}

/// As docker's client, which looks for these words, whoever says them. What has a code keeps it.
fn run_failed(failure: Failure) -> Failure {
    if failure.code != 1 {
        return failure;
    }
    let said = failure.message.to_lowercase();
    let missing = ["executable file not found", "no such file or directory"];
    let code = match () {
        () if missing.iter().any(|words| said.contains(words)) => 127,
        () if said.contains("permission denied") => 126,
        () => 125,
    };
    failure.code(code)
}

/// 126, also for a program that is missing; 1 where the container is the problem.
fn exec_failed(error: Error) -> Failure {
    let code = if error.is_not_found() || error.is_conflict() { 1 } else { 126 };
    Failure::from(error).code(code)
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

/// `wait`
pub(crate) fn wait(app: &App, names: &[String]) -> Result<()> {
    each(names, |name| {
        let code = app.containers()?.wait(name, WaitFor::NotRunning)?;
        output::line(&code.to_string());
        Ok(())
    })
}

/// `-t SECONDS` and `-s SIGNAL` of `stop` and `restart`.
pub(crate) fn check_signal(signal: Option<&str>) -> Result<()> {
    signal.map_or(Ok(()), |s| parse::signal(s).map(drop).map_err(Failure::from))
}
