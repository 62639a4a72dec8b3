//! What a newcomer runs first: it needs no server, no internet and no configuration, and leaves nothing behind.
//!
//! A base image from files of this machine, a registry in this process, a Dockerfile built on it, pushed, pulled into a
//! second empty store, and run: as root with a bridge network and a published port, else in a user namespace.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```

mod base;
mod report;
mod web;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use longshore_build::{BuildEvent, BuildOptions, Context};
use longshore_examples::registry_server::RegistryServer;
use longshore_examples::{BoxError, Host, HostOptions, Layout, Progress, Result};
use longshore_image::{Ctx, ImageSpec, LayerOptions};
use longshore_registry_client::Reference;
use longshore_runtime::Stdio;
use longshore_runtime::containers::{
    CreateRequest, ExecRequest, Filters, RemoveOptions, StartOptions, format, parse, shim_main,
};

use oci_spec::image::History;

use report::Report;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const DOCKERFILE: &str = r#"FROM REGISTRY/base
ENV GREETING="Welcome to my web site"
WORKDIR /www
COPY about.txt .
RUN echo "$GREETING" > index.html
RUN echo "built by $(id -u) on $(hostname)" >> about.txt
EXPOSE 80
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
"#;
/// What the page must say.
const GREETING: &str = "Welcome to my web site";
const USAGE: &str = "Usage: quickstart

Builds, pushes, pulls and runs a web server, as root with a network, and cleans up every trace.
It takes no arguments.
";

/// Raised by the first SIGINT, SIGTERM or SIGHUP: every step looks at it.
static CANCEL: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

fn main() -> ExitCode {
    if let Some(code) = web::main() {
        return code;
    }
    // A running container's supervisor is this program, started once more.
    let shim = shim_main(std::env::args_os(), |root| open(Path::new(root))?.containers());
    if let Some(code) = shim {
        return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX));
    }
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("-h" | "--help") => {
            report::print(USAGE);
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            report::failure(&*BoxError::from(format!("unknown argument: {other}\n\n{}", USAGE.trim_end())));
            return ExitCode::from(2);
        }
    }
    let signal = Arc::new(AtomicUsize::new(0));
    match watch_signals(&signal).and_then(|()| run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&*error);
            match u8::try_from(signal.load(Ordering::Relaxed)) {
                Ok(signal @ 1..) => ExitCode::from(128 + signal),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The first signal ends the tour, which then cleans up; a second one ends the program at once.
fn watch_signals(seen: &Arc<AtomicUsize>) -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&CANCEL))?;
        signal_hook::flag::register_usize(signal, Arc::clone(seen), usize::try_from(signal)?)?;
        signal_hook::flag::register(signal, Arc::clone(&CANCEL))?;
    }
    Ok(())
}

fn check_cancel() -> Result<()> {
    if CANCEL.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

fn run() -> Result<()> {
    let mut report = Report::start();
    let mut traces = Traces::new()?;
    let registry = RegistryServer::start()?;
    let author = traces.host("author")?;
    let user = traces.host("user")?;
    let name: Reference = format!("{}/web:v1", registry.address()).parse()?;

    let result = tour(&mut report, &registry, &author, &user, &name);
    let cleaned = traces.clean();
    result.and(cleaned)?;
    report.end();
    Ok(())
}

fn tour(
    report: &mut Report,
    registry: &RegistryServer,
    author: &Host,
    user: &Host,
    name: &Reference,
) -> Result<()> {
    report.step("base image from files of this machine", || base_image(author, registry))?;
    report.step("build", || build(author, registry, name))?;
    report.step("build again", || build(author, registry, name))?;
    report.step("push to the registry in this process", || {
        let pushed = author.push(name, progress())?;
        Ok(format!("{} blobs sent", pushed.sent))
    })?;
    report.step("pull into a second, empty store", || {
        let pulled = user.pull(name, None, progress())?;
        Ok(format!("{} blobs, {} bytes", pulled.fetched, pulled.bytes))
    })?;
    let mut id = String::new();
    report.step(
        if root() { "run, with a bridge and a published port" } else { "run in a user namespace" },
        || {
            id = start(user, name)?;
            Ok(format!("container {}", &id[..12]))
        },
    )?;
    let mut page = String::new();
    report.step("fetch the page", || {
        let (from, got) = if root() { fetch_published(user, &id)? } else { fetch_inside(user, &id)? };
        page = got;
        Ok(from)
    })?;
    if page.trim() != GREETING {
        return Err(format!("the page says {page:?}").into());
    }
    report.text(&page);
    report.text(&processes(user)?);
    report.text(&layers(user, name)?);
    report.step("stop and remove", || {
        user.containers()?.remove(&id, &RemoveOptions::new(true, true))?;
        Ok(String::new())
    })?;
    if !root() {
        report.text("As an ordinary user this left out: the bridge network and the published port (run it as root to see them).");
    }
    Ok(())
}

fn progress() -> Progress<'static> {
    Progress { cancel: &CANCEL, ..Progress::none() }
}

fn ctx() -> Ctx<'static> {
    Ctx { progress: &|_| {}, cancel: &CANCEL }
}

fn open(root: &Path) -> Result<Host> {
    let options = HostOptions {
        rootless: !crate::root(),
        resolv_conf: "/etc/resolv.conf".into(),
        host_name: "quickstart".into(),
        shim: std::env::current_exe()?,
        ..HostOptions::default()
    };
    Host::open(Layout::new(root), options)
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn base_image(author: &Host, registry: &RegistryServer) -> Result<String> {
    let base = base::make()?;
    let store = author.store();
    let layer = store.add_layer(&mut base.tar.as_slice(), &LayerOptions::default(), ctx())?;
    let mut spec = ImageSpec::default();
    spec.layers = vec![layer];
    let mut history = History::default();
    history.set_created_by(Some(format!("files of this machine: {}", base.made_of)));
    spec.config.oci.set_history(Some(vec![history]));
    let name: Reference = format!("{}/base", registry.address()).parse()?;
    spec.names = vec![name.to_string()];
    store.create_image(&spec)?;
    Ok(format!("{}, {} bytes", base.made_of, base.tar.len()))
}

fn build(author: &Host, registry: &RegistryServer, name: &Reference) -> Result<String> {
    let context = author.layout().root().join("context");
    std::fs::create_dir_all(&context)?;
    std::fs::write(context.join("about.txt"), "This page was made by longshore's quickstart.\n")?;
    let mut options = BuildOptions::default();
    options.tags = vec![name.to_string()];
    let dockerfile = DOCKERFILE.replace("REGISTRY", &registry.address());
    let mut output = Vec::new();
    let mut events = |event: BuildEvent<'_>| {
        if let BuildEvent::Output { bytes, .. } = event {
            output.extend_from_slice(bytes);
        }
    };
    let built = author.build(&dockerfile, &Context::dir(&context)?, &options, false, &mut events, ctx());
    let built =
        built.map_err(|e| format!("{}: {}", report::chain(&*e), String::from_utf8_lossy(&output).trim()))?;
    Ok(format!("{} steps executed, {} CACHED", built.executed, built.cached))
}

/// Starts the pulled image: published on a free port, or without a network where there is no root.
fn start(user: &Host, name: &Reference) -> Result<String> {
    let containers = user.containers()?;
    let mut request = CreateRequest::new(name.to_string());
    request.name = Some("web".into());
    if root() {
        (request.config.exposed_ports, request.host.port_bindings) = parse::ports(&["0:80".into()], &[])?;
    } else {
        request.host.network_mode = "none".into();
    }
    let id = containers.create(&request)?.id;
    containers.start(&id, &StartOptions::default())?;
    Ok(id)
}

fn fetch_published(user: &Host, id: &str) -> Result<(String, String)> {
    let ports = user.containers()?.inspect(id)?.network_settings.ports;
    let port = ports.get("80/tcp").cloned().flatten().and_then(|b| b.first()?.host_port.parse::<u16>().ok());
    let address = format!("127.0.0.1:{}", port.ok_or("port 80 is not published")?);
    let page = patiently(|| web::get(&address))?;
    Ok((format!("http://{address}/"), page))
}

fn fetch_inside(user: &Host, id: &str) -> Result<(String, String)> {
    let containers = user.containers()?;
    let request = ExecRequest::new(["wget", "-q", "-O", "-", "http://127.0.0.1:80/"]);
    let page = patiently(|| {
        let mut process = containers.exec(id, &request, [Stdio::Null, Stdio::Piped, Stdio::Null])?;
        let mut page = String::new();
        let stdout = process.take_stdio(1).ok_or("no pipe")?;
        std::fs::File::from(stdout).read_to_string(&mut page)?;
        match process.wait(None)? {
            Some(exit) if exit.code == 0 => Ok(page),
            _ => Err("wget in the container failed".into()),
        }
    })?;
    Ok(("from inside, by exec".into(), page))
}

/// The web server in the container needs a moment to listen.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = attempt();
    for _ in 0..100 {
        if last.is_ok() {
            break;
        }
        check_cancel()?;
        std::thread::sleep(Duration::from_millis(20));
        last = attempt();
    }
    last
}

fn processes(user: &Host) -> Result<String> {
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    let all = user.containers()?.list(true, &Filters::new(), false)?;
    let rows: Vec<_> = all.iter().map(|summary| format::PsRow::new(summary, false, now)).collect();
    Ok(format::ps(None, &rows, false)?)
}

fn layers(user: &Host, name: &Reference) -> Result<String> {
    let image = user.store().image(&name.to_string())?;
    let made = image.config().oci.history().clone().unwrap_or_default();
    let mut made = made.iter().filter(|step| step.empty_layer() != Some(true));
    let mut text = String::from("LAYER          SIZE      MADE BY\n");
    for layer in user.store().layers(&image)? {
        let by = made.next().and_then(|step| step.created_by().clone()).unwrap_or_default();
        text += &format!("{:.12}   {:<7}   {by}\n", layer.diff_id.digest(), layer.size);
    }
    Ok(text)
}

/// All that this run leaves on the machine; taken away also when it panics or is interrupted.
struct Traces {
    dir: PathBuf,
    hosts: Vec<Host>,
    cleaned: bool,
}

impl Traces {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("longshore-quickstart-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        Ok(Self { dir, hosts: Vec::new(), cleaned: false })
    }

    fn host(&mut self, name: &str) -> Result<Host> {
        let host = open(&self.dir.join(name))?;
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// Containers and bridges, which a directory cannot hold, go before the directory does.
    fn clean(&mut self) -> Result<()> {
        self.cleaned = true;
        let mut result = Ok(());
        for host in &self.hosts {
            result = result.and(remove_containers(host));
            result = result.and(host.networks().prune(|_| true).map(drop));
        }
        let removed = std::fs::remove_dir_all(&self.dir);
        result.and(removed.map_err(|e| format!("cannot remove {}: {e}", self.dir.display()).into()))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if !self.cleaned
            && let Err(error) = self.clean()
        {
            report::failure(&*error);
        }
    }
}

fn remove_containers(host: &Host) -> Result<()> {
    let containers = host.containers()?;
    let mut result = Ok(());
    for left in containers.list(true, &Filters::new(), false)? {
        result = result.and(containers.remove(&left.id, &RemoveOptions::new(true, true)).map(drop));
    }
    Ok(result?)
}
