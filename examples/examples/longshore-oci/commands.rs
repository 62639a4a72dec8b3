//! The commands.

use std::error::Error as _;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use longshore_runtime::{
    Container, CreateOptions, Error, ExecOptions, Exit, Runtime, State, Status, Stdio, Systemd, console,
    send_pidfd,
};
use oci_spec::runtime::{LinuxResources, Process};
use rustix::fs::FileType;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getegid, geteuid, getpid, pidfd_getfd, pidfd_open};
use serde_json::json;
use signal_hook::consts::SIGWINCH;

use crate::args::{Args, Command, Create, Exec, Update};
use crate::signals::Signals;
use crate::terminal::Attached;
use crate::{config, template, terminal};

/// What ends a command: one line, with the causes.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // Engines tell 127 and 126 by runc's words.
        if let Error::Exec { program, source, .. } = &error {
            return Self(match (error.is_program_not_found(), program.contains('/')) {
                (true, false) => format!("exec: {program:?}: executable file not found in $PATH"),
                (true, true) => format!("exec: {program:?}: stat {program}: no such file or directory"),
                (false, _) if source.kind() == io::ErrorKind::PermissionDenied => {
                    format!("exec: {program:?}: permission denied")
                }
                (false, _) => format!("exec: {program:?}: {source}"),
            });
        }
        if let Some(words) = words_of_runc(&error) {
            return Self(words.to_owned());
        }
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self(text)
    }
}

/// What callers of runc look for.
fn words_of_runc(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::NotFound { .. } => "container does not exist",
        Error::Exists { .. } => "container with given ID already exists",
        Error::InvalidId { .. } => "invalid container ID format",
        Error::WrongStatus { action, status } => match (*action, *status) {
            ("start", "stopped") => "cannot start a container that has stopped",
            ("start", "paused") => "cannot start a container in the paused state",
            ("start", _) => "cannot start an already running container",
            ("exec in", _) => "cannot exec in a stopped container",
            ("resume", _) => "container not paused",
            _ => "container not running",
        },
        _ => return None,
    })
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("JSON: {error}"))
    }
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

pub(crate) fn failed<T>(message: impl Into<String>) -> Result<T> {
    Err(Failure(message.into()))
}

/// Runs the command: the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    match &args.command {
        Command::Spec { bundle, rootless } => return write_spec(bundle.as_deref(), *rootless),
        Command::Features => return features(),
        _ => {}
    }
    let runtime_root = root(args);
    let mut runtime = Runtime::new(&runtime_root)?;
    if args.systemd_cgroup {
        runtime = runtime.with_systemd(systemd());
    }
    let open = |id: &str| runtime.open(id);
    match &args.command {
        Command::Create(create) => return make(args, &runtime, create, false),
        Command::Run(create) => return make(args, &runtime, create, true),
        Command::Start { id } => open(id)?.start()?,
        Command::State { id } => {
            let container = open(id)?;
            let state = state(&runtime_root, &container, &container.state()?);
            println!("{}", serde_json::to_string_pretty(&state)?);
        }
        Command::List { format, quiet } => list(&runtime_root, &runtime, format, *quiet)?,
        Command::Kill { id, signal, all } => {
            open(id)?.kill(number(signal)?, *all)?;
        }
        Command::Delete { id, force } => match open(id).and_then(|c| c.delete(*force)) {
            Err(error) if *force && error.is_not_found() => {}
            Err(Error::WrongStatus { status, .. }) => {
                return failed(format!("cannot delete container {id} that is not stopped: {status}"));
            }
            // runtime.md, "Lifecycle": a failed poststop hook is warned of, and all goes on.
            Err(error @ Error::Hook { .. }) => crate::log(args, "warning", &Failure::from(error).0),
            result => result?,
        },
        Command::Exec(exec) => return execute(&open(&exec.id)?, exec),
        Command::Ps { id, format, options } => ps(&open(id)?, format, options)?,
        Command::Pause { id } => open(id)?.pause()?,
        Command::Resume { id } => open(id)?.resume()?,
        Command::Update(arguments) => update(&open(&arguments.id)?, arguments)?,
        Command::Events { id, stats, interval } => crate::events::events(&open(id)?, *stats, interval)?,
        Command::Spec { .. } | Command::Features => {}
    }
    Ok(0)
}

fn root(args: &Args) -> PathBuf {
    if let Some(root) = &args.root {
        return root.clone();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !is_host_root() => Path::new(&dir).join("longshore-oci"),
        _ => PathBuf::from("/run/longshore-oci"),
    }
}

/// The machine's, or the user's own.
fn systemd() -> Systemd {
    if is_host_root() {
        return Systemd::system();
    }
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let given = address.split(';').find_map(|a| a.split(',').next()?.strip_prefix("unix:path="));
    match (given, std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(path), _) => Systemd::user(path),
        (None, Some(dir)) => Systemd::user(Path::new(&dir).join("bus")),
        (None, None) => Systemd::user(format!("/run/user/{}/bus", geteuid().as_raw())),
    }
}

/// Root, and not only of a user namespace such as rootless podman's.
fn is_host_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// `create` and `run`.
fn make(args: &Args, runtime: &Runtime, arguments: &Create, run: bool) -> Result<u8> {
    let bundle = arguments
        .bundle
        .canonicalize()
        .map_err(|e| Failure(format!("bundle {}: {e}", arguments.bundle.display())))?;
    let (mut spec, mut warnings) = config::read(&bundle)?;
    let terminal = spec.process().as_ref().and_then(Process::terminal) == Some(true);
    let foreground = run && !arguments.detach;
    if terminal && !foreground && arguments.console_socket.is_none() {
        return failed("cannot allocate tty if runc will detach without setting console socket");
    }
    if !terminal && arguments.console_socket.is_some() {
        return failed("cannot use console socket if runc will not detach or allocate tty");
    }
    let root = spec.root().as_ref().map(|r| bundle.join(r.path())).unwrap_or_default();
    let mut options = CreateOptions::default();
    options.bundle = Some(bundle);
    options.no_pivot = arguments.no_pivot;
    let listen = config::listen_fds();
    options.preserve_fds = inherited(listen + arguments.preserve_fds)?;
    if !terminal {
        options.stdio = streams()?;
    }
    if let Some(process) = spec.process_mut() {
        surroundings(process, &root, listen);
    }
    // What comes before the container is there waits for it.
    let signals = foreground.then(Signals::new).transpose()?;
    let mut created = runtime.create(&arguments.id, &spec, options)?;
    warnings.extend_from_slice(created.warnings());
    for warning in &warnings {
        crate::log(args, "warning", warning);
    }
    let console = created.take_console();
    if let (Some(socket), Some(console)) = (&arguments.console_socket, &console) {
        console::send(socket, console)?;
    }
    if let Some(socket) = &arguments.pidfd_socket {
        send_pidfd(socket, &created)?;
    }
    write_pid(arguments.pid_file.as_deref(), created.pid())?;
    if !run {
        created.detach();
        return Ok(0);
    }
    let mut running = created.start()?;
    let Some(signals) = signals else {
        running.detach();
        return Ok(0);
    };
    let console = console.filter(|_| arguments.console_socket.is_none());
    attend(signals, &running, console, |signal| running.kill(signal))?;
    let exit = code(running.wait(None)?);
    if arguments.keep {
        running.detach();
    }
    Ok(exit)
}

/// In the foreground until its end: its terminal is ours, and what our own process is told, it is.
fn attend(
    mut signals: Signals,
    process: &impl AsFd,
    console: Option<OwnedFd>,
    kill: impl Fn(i32) -> longshore_runtime::Result<()>,
) -> Result<()> {
    let attached = console.map(terminal::attach).transpose()?;
    signals.until_end(process, |signal| {
        if signal == SIGWINCH {
            attached.iter().for_each(Attached::resize);
        } else {
            // It may have ended just now; then there is nobody to tell.
            let _ = kill(signal);
        }
    })?;
    attached.into_iter().for_each(Attached::finish);
    Ok(())
}

/// The exit code: nothing that has ended is without one.
fn code(exit: Option<Exit>) -> u8 {
    exit.map_or(255, |exit| exit.code.clamp(0, 255) as u8)
}

/// What runc adds to a process's environment.
fn surroundings(process: &mut Process, root: &Path, listen: u32) {
    let uid = process.user().uid();
    let mut env = process.env().clone();
    config::with_home(&mut env, root, uid);
    if listen > 0 {
        env.get_or_insert_default().extend([format!("LISTEN_FDS={listen}"), "LISTEN_PID=1".to_owned()]);
    }
    process.set_env(env);
}

/// Our own descriptor `number`, again.
fn own(number: i32) -> Result<OwnedFd> {
    // Opened by /proc/self/fd, a socket cannot be, and a file would begin anew.
    let dup = || pidfd_getfd(pidfd_open(getpid(), PidfdFlags::empty())?, number, PidfdGetfdFlags::empty());
    dup().map_err(|e| Failure(format!("descriptor {number}: {e}")))
}

/// Descriptors 3 and up that our caller left open for the container.
fn inherited(count: u32) -> Result<Vec<OwnedFd>> {
    (3..3 + count as i32).map(own).collect()
}

/// Our standard streams. Pipes and sockets are given, and so become the container's user's, who may want to open /dev/stdout; files and
/// terminals stay as they are.
fn streams() -> Result<[Stdio; 3]> {
    let mut streams = <[Stdio; 3]>::default();
    for (number, stream) in streams.iter_mut().enumerate() {
        let Ok(fd) = own(number as i32) else { continue };
        let kind = rustix::fs::fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode));
        if matches!(kind, Ok(FileType::Fifo | FileType::Socket)) {
            *stream = Stdio::Fd(fd);
        }
    }
    Ok(streams)
}

fn write_pid(file: Option<&Path>, pid: u32) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    // Whole or not at all: an engine may be watching for it.
    let new = file.with_file_name(format!(".{}", file.file_name().unwrap_or_default().to_string_lossy()));
    fs::write(&new, pid.to_string())?;
    Ok(fs::rename(new, file)?)
}

fn execute(container: &Container, arguments: &Exec) -> Result<u8> {
    let mut process = process(container, arguments)?;
    let terminal = process.terminal() == Some(true);
    let state = container.state()?;
    if let Some(pid) = state.pid {
        surroundings(&mut process, Path::new(&format!("/proc/{pid}/root")), 0);
    }
    if state.status == Status::Paused && !arguments.ignore_paused {
        return failed("cannot exec in a paused container (use --ignore-paused to override)");
    }
    if terminal && arguments.detach && arguments.console_socket.is_none() {
        return failed("cannot allocate tty if runc will detach without setting console socket");
    }
    let mut options = ExecOptions::default();
    options.preserve_fds = inherited(arguments.preserve_fds)?;
    options.subgroups = arguments.cgroup.iter().map(|text| subgroup(text)).collect();
    if !terminal {
        options.stdio = streams()?;
    }
    let signals = (!arguments.detach).then(Signals::new).transpose()?;
    let mut running = container.exec(&process, options)?;
    let console = running.take_console();
    if let (Some(socket), Some(console)) = (&arguments.console_socket, &console) {
        console::send(socket, console)?;
    }
    if let Some(socket) = &arguments.pidfd_socket {
        send_pidfd(socket, &running)?;
    }
    write_pid(arguments.pid_file.as_deref(), running.pid())?;
    let Some(signals) = signals else { return Ok(0) };
    let console = console.filter(|_| arguments.console_socket.is_none());
    attend(signals, &running, console, |signal| running.kill(signal))?;
    Ok(code(running.wait(None)?))
}

/// `cpu,memory:/a/b`, `/a/b`.
fn subgroup(text: &str) -> (Vec<String>, PathBuf) {
    match text.split_once(':') {
        Some((controllers, path)) => (controllers.split(',').map(str::to_owned).collect(), path.into()),
        None => (Vec::new(), text.into()),
    }
}

fn process(container: &Container, arguments: &Exec) -> Result<Process> {
    if let Some(file) = &arguments.process {
        let mut process: Process = serde_json::from_slice(&fs::read(file)?)?;
        if arguments.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    let spec = container.spec()?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(arguments.command.clone())).set_terminal(Some(arguments.tty));
    process.set_exec_cpu_affinity(None);
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(env) = process.env_mut() {
        env.extend(arguments.env.iter().cloned());
    }
    // None is what runc makes of an empty one.
    if let Some(user) = arguments.user.as_ref().filter(|user| !user.is_empty()) {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(u, g)| (u, Some(g)));
        let id = |text: &str| {
            config::digits(text)
                .ok_or_else(|| Failure(format!("user {user:?}: UID[:GID] in digits is wanted")))
        };
        process.user_mut().set_uid(id(uid)?);
        if let Some(gid) = gid {
            process.user_mut().set_gid(id(gid)?);
        }
    }
    if !arguments.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(arguments.additional_gids.clone()));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(mut capabilities) = process.capabilities().clone().filter(|_| !arguments.cap.is_empty()) {
        let more = |set: &Option<std::collections::HashSet<_>>| -> Result<_> {
            let mut set = set.clone().unwrap_or_default();
            for name in &arguments.cap {
                set.insert(serde_json::from_value(json!(name))?);
            }
            Ok(Some(set))
        };
        capabilities.set_bounding(more(capabilities.bounding())?);
        capabilities.set_effective(more(capabilities.effective())?);
        capabilities.set_permitted(more(capabilities.permitted())?);
        process.set_capabilities(Some(capabilities));
    }
    if arguments.apparmor.is_some() {
        process.set_apparmor_profile(arguments.apparmor.clone());
    }
    if arguments.process_label.is_some() {
        process.set_selinux_label(arguments.process_label.clone());
    }
    Ok(process)
}

fn state(root: &Path, container: &Container, state: &State) -> serde_json::Value {
    let spec = container.spec().ok();
    let bundle = state.bundle.clone().unwrap_or_default();
    let rootfs = spec.as_ref().and_then(|s| s.root().as_ref()).map(|r| bundle.join(r.path()));
    json!({
        "ociVersion": spec.map_or_else(|| "1.0.0".to_owned(), |s| s.version().clone()),
        "id": state.id,
        "pid": state.pid.unwrap_or(0),
        "status": state.status.as_str(),
        "bundle": bundle,
        "rootfs": rootfs,
        "created": created(state),
        "annotations": state.annotations,
        "owner": owner(root, &state.id),
    })
}

/// The name of the user who made the container.
fn owner(root: &Path, id: &str) -> String {
    let uid = fs::metadata(root.join(id)).map_or(0, |m| m.uid()).to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_uid = |line: &&str| line.split(':').nth(2) == Some(&uid);
    let name = users.lines().find(of_uid).and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("#{uid}"), str::to_owned)
}

fn created(state: &State) -> String {
    jiff::Timestamp::from_second(state.created as i64).unwrap_or_default().to_string()
}

fn list(root: &Path, runtime: &Runtime, format: &str, quiet: bool) -> Result<()> {
    let states = runtime.list()?;
    if quiet {
        states.iter().for_each(|s| println!("{}", s.id));
    } else if format == "json" {
        let all: Vec<_> =
            states.iter().filter_map(|s| Some(state(root, &runtime.open(&s.id).ok()?, s))).collect();
        println!("{}", serde_json::to_string(&all)?);
    } else {
        println!("{:<30} {:<10} {:<10} {:<40} {:<30} OWNER", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
        for s in states {
            let bundle = s.bundle.clone().unwrap_or_default();
            println!(
                "{:<30} {:<10} {:<10} {:<40} {:<30} {}",
                s.id,
                s.pid.unwrap_or(0),
                s.status,
                bundle.display(),
                created(&s),
                owner(root, &s.id)
            );
        }
    }
    Ok(())
}

fn ps(container: &Container, format: &str, options: &[String]) -> Result<()> {
    let pids = container.processes()?;
    if format == "json" {
        println!("{}", serde_json::to_string(&pids)?);
        return Ok(());
    }
    let options = if options.is_empty() { vec!["-ef".to_owned()] } else { options.to_vec() };
    let output = std::process::Command::new("ps").args(options).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|c| c == "PID") else {
        return failed("ps shows no PID");
    };
    println!("{head}");
    let pid = |line: &str| line.split_whitespace().nth(column)?.parse::<u32>().ok();
    lines.filter(|line| pid(line).is_some_and(|pid| pids.contains(&pid))).for_each(|line| println!("{line}"));
    Ok(())
}

fn update(container: &Container, arguments: &Update) -> Result<()> {
    let mut resources: LinuxResources = match &arguments.resources {
        Some(file) if file == Path::new("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            serde_json::from_str(&text)?
        }
        Some(file) => serde_json::from_slice(&fs::read(file)?)?,
        None => serde_json::from_value(json!({}))?,
    };
    let bytes = |text: &Option<String>| text.as_deref().map(bytes).transpose();
    let (memory, reservation, swap) =
        (bytes(&arguments.memory)?, bytes(&arguments.memory_reservation)?, bytes(&arguments.memory_swap)?);
    if memory.or(reservation).or(swap).is_some() {
        let given = json!({"limit": memory, "reservation": reservation, "swap": swap});
        resources.set_memory(Some(serde_json::from_value(given)?));
    }
    let cpu = json!({
        "shares": arguments.cpu_share, "quota": arguments.cpu_quota, "period": arguments.cpu_period, "burst": arguments.cpu_burst,
        "idle": arguments.cpu_idle, "cpus": arguments.cpuset_cpus, "mems": arguments.cpuset_mems,
        "realtimePeriod": arguments.cpu_rt_period, "realtimeRuntime": arguments.cpu_rt_runtime,
    });
    if cpu.as_object().is_some_and(|cpu| cpu.values().any(|v| !v.is_null())) {
        resources.set_cpu(Some(serde_json::from_value(cpu)?));
    }
    if let Some(limit) = arguments.pids_limit {
        resources.set_pids(Some(serde_json::from_value(json!({"limit": limit}))?));
    }
    if let Some(weight) = arguments.blkio_weight {
        resources.set_block_io(Some(serde_json::from_value(json!({"weight": weight}))?));
    }
    let class = json!({"l3CacheSchema": arguments.l3_cache_schema, "memBwSchema": arguments.mem_bw_schema});
    if class.as_object().is_some_and(|class| class.values().any(|v| !v.is_null())) {
        container.update_intel_rdt(&serde_json::from_value(class)?)?;
    }
    Ok(container.update(&resources)?)
}

/// `64m`, `1g`, `-1`, plain bytes.
fn bytes(text: &str) -> Result<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches('b').trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match lower.trim_end_matches('b').chars().last() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        _ => 0,
    };
    let value: i64 = digits.parse().map_err(|_| Failure(format!("{text:?} is no size")))?;
    value.checked_mul(1 << shift).ok_or_else(|| Failure(format!("{text:?} is too large")))
}

fn write_spec(bundle: Option<&Path>, rootless: bool) -> Result<u8> {
    let file = bundle.unwrap_or(Path::new(".")).join("config.json");
    if file.exists() {
        return failed(format!("file {} exists. Remove it first", file.display()));
    }
    let document = match rootless {
        true => template::rootless(geteuid().as_raw(), getegid().as_raw()),
        false => template::document(),
    };
    fs::write(file, serde_json::to_string_pretty(&document)?)?;
    Ok(0)
}

fn features() -> Result<u8> {
    println!("{}", serde_json::to_string_pretty(&longshore_runtime::features())?);
    Ok(0)
}

/// `SIGTERM`, `term`, `15`.
fn number(signal: &str) -> Result<i32> {
    if let Ok(number) = signal.parse::<i32>()
        && (0..=64).contains(&number)
    {
        return Ok(number);
    }
    let name = signal.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    SIGNALS
        .iter()
        .position(|s| *s == name)
        .map_or_else(|| failed(format!("unknown signal {signal:?}")), |n| Ok(n as i32 + 1))
}

/// signal(7), x86 and ARM, from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
