//! One start of the container: root file system, spec, namespaces, network, program.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::pipe::{PipeFlags, pipe_with};

use super::ipc;
use super::network::{Attaching, attach};
use crate::containers::compile::{self, Facts};
use crate::containers::files;
use crate::containers::passwd::Identity;
use crate::containers::record::{Record, State};
use crate::containers::rootview::RootView;
use crate::containers::warnings;
use crate::containers::{Attached, Containers, Error, Result, RootfsSource};
use crate::{CreateOptions, Created, Rootfs, Running, Stdio};

/// A running container with our ends of its streams.
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) pid: u32,
    /// Where its standard input is written; with a terminal, the terminal.
    pub(super) stdin: Option<OwnedFd>,
    /// Its standard output and error; with a terminal, the terminal alone.
    pub(super) outputs: [Option<OwnedFd>; 2],
    pub(super) networks: Vec<Attached>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn start(all: &Containers, record: &Record, state: &mut State) -> Result<Started> {
    let inner = &all.0;
    let dir = inner.dir.path(&record.id);
    // From here on there is something to clean up should this process be killed.
    state.dirty = true;
    inner.dir.write_state(&record.id, state, false)?;
    // In this process the descriptors are paths, too: nobody can put another namespace in their place.
    let mut others = joined(all, record)?;
    let (made, networks) = std::thread::scope(|scope| {
        let attaching = Attaching::begin(scope, all, record)?;
        let made = make(all, record, &dir, &mut others, attaching.as_ref());
        let networks = attaching.map_or(Ok(None), Attaching::end);
        // Why the container could not be made is what is to be told.
        let made = made?;
        let networks = match networks? {
            Some(networks) => networks,
            None if record.networks().is_empty() => Vec::new(),
            // An ordinary user may not even look at the network namespace of a container that shares the host's.
            None => attach(all, record, made.created.netns()?.as_fd())?,
        };
        Ok::<_, Error>((made, networks))
    })?;
    drop(others);
    let Made { record, mut created, streams: (mut stdin, mut outputs) } = made;
    if !networks.is_empty() {
        // The files are bound already: their content changes, not their inode.
        files::write_all(&dir, &record, &networks, &inner.options)?;
    }
    if record.config.tty {
        let console =
            created.take_console().ok_or_else(|| Error::Shim("the container has no terminal".into()))?;
        stdin = Some(console.try_clone().map_err(Error::io("duplicate", "the terminal"))?);
        outputs = [Some(console), None];
    }
    let pid = created.pid();
    let warnings = warnings::of(&inner.runtime, &record, created.warnings());
    let running = created.start().map_err(|e| start_error(&e, &record.path))?;
    for fd in outputs.iter().chain([&stdin]).flatten() {
        rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::io("set up", "a stream")(e.into()))?;
    }
    Ok(Started { running, pid, stdin, outputs, networks, warnings })
}

/// A container whose program has not begun.
struct Made {
    /// As it was, with the volumes' places filled in.
    record: Record,
    created: Created,
    streams: Ours,
}

/// Root file system, spec, namespaces.
fn make(
    all: &Containers,
    record: &Record,
    dir: &Path,
    others: &mut Joined,
    attaching: Option<&Attaching<'_>>,
) -> Result<Made> {
    let inner = &all.0;
    let source = inner
        .images
        .rootfs(&record.id, &record.image_id)
        .map_err(|source| Error::Images { doing: "make the root file system", source })?;
    let view = RootView::new(&source)?;
    let identity = all.identity(&view, &record.config.user, record)?;
    let mut record = record.clone();
    all.prepare_volumes(&mut record, &view)?;
    if !record.config.working_dir.is_empty() {
        let io = Error::io("create the working directory", &record.config.working_dir);
        view.make_dirs(&record.config.working_dir).map_err(io)?;
    }
    mend_targets(&view, &record)?;
    let netns = attaching.map_or(Ok(None), Attaching::netns)?;
    let namespaces = others.namespaces.iter().map(|(kind, fd)| (*kind, fd.as_fd()));
    let join: Vec<(String, String)> = namespaces
        .chain(netns.iter().map(|netns| ("network", netns.as_fd())))
        .map(|(kind, fd)| (kind.to_owned(), format!("/proc/self/fd/{}", fd.as_raw_fd())))
        .collect();
    let spec = compile::spec(
        &record,
        &Facts {
            identity: &identity,
            dir,
            init: &inner.dir.init_program(compile::wants_init(&record.host))?,
            own: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            id_maps: inner.options.id_maps.as_ref(),
            join: &join,
        },
    )?;
    files::write_all(dir, &record, &[], &inner.options)?;
    let (theirs, streams) = streams(&record, &identity)?;
    let created = create(all, &record, &spec, &source, theirs, others.shared_memory.take())?;
    Ok(Made { record, created, streams })
}

/// Images are made whose `/etc/resolv.conf` or `/var/lib/x` is a link to where nothing is yet: Docker makes it, inside.
fn mend_targets(view: &RootView, record: &Record) -> Result<()> {
    let files = files::NAMES.iter().map(|(_, target)| (*target, true));
    let mounts = record.mounts.iter().map(|m| {
        let file = m.shown.kind == "bind" && std::fs::metadata(&m.shown.source).is_ok_and(|s| !s.is_dir());
        (m.shown.destination.as_str(), file)
    });
    let init = compile::wants_init(&record.host).then_some((compile::INIT_TARGET, true));
    for (target, file) in files.chain(mounts).chain(init) {
        view.mend_links(target, file).map_err(Error::io("make the mount's target", target))?;
    }
    Ok(())
}

fn create(
    all: &Containers,
    record: &Record,
    spec: &oci_spec::runtime::Spec,
    source: &RootfsSource,
    stdio: [Stdio; 3],
    shared_memory: Option<OwnedFd>,
) -> Result<Created> {
    let mut spec = std::borrow::Cow::Borrowed(spec);
    let rootfs = match source {
        RootfsSource::Path(path) => {
            if let Some(root) = spec.to_mut().root_mut() {
                root.set_path(path.clone());
            }
            Rootfs::Spec
        }
        RootfsSource::Detached(fd) => Rootfs::Detached(fd.as_fd()),
        RootfsSource::Overlay { lower, upper, work } => {
            Rootfs::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() }
        }
    };
    let options = CreateOptions {
        rootfs,
        stdio,
        bundle: Some(all.0.dir.path(&record.id)),
        mount_subpaths: record
            .mounts
            .iter()
            .filter_map(|m| Some((m.shown.destination.clone().into(), compile::inside_source(m)?.into())))
            .collect(),
        // A mount of the user's own at that place wins.
        mount_trees: shared_memory
            .filter(|_| !record.mounts.iter().any(|m| m.shown.destination == compile::SHM))
            .map(|tree| (compile::SHM.into(), tree))
            .into_iter()
            .collect(),
        ..CreateOptions::default()
    };
    all.0.runtime.create(&record.id, &spec, options).map_err(|e| start_error(&e, &record.path))
}

/// Docker's exit codes for what went wrong.
pub(in crate::containers) fn start_error(e: &crate::Error, program: &str) -> Error {
    if e.is_program_not_found() {
        let why = if program.contains('/') {
            format!("stat {program}: no such file or directory")
        } else {
            "executable file not found in $PATH".into()
        };
        return Error::Start { message: format!("exec: \"{program}\": {why}"), code: 127 };
    }
    let message = crate::containers::error::chain(e);
    if e.is_program_not_executable() {
        let why = message.rsplit(": ").next().unwrap_or_default();
        let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
        return Error::Start { message: format!("exec: \"{program}\": {why}"), code: 126 };
    }
    Error::Start { message, code: 125 }
}

/// What this container has of others.
#[derive(Default)]
struct Joined {
    /// Kind (as in the OCI spec) and descriptor.
    namespaces: Vec<(&'static str, File)>,
    /// With the IPC namespace comes `/dev/shm`, as a detached mount.
    shared_memory: Option<OwnedFd>,
}

fn joined(all: &Containers, record: &Record) -> Result<Joined> {
    let modes = [
        ("network", "net", record.network.mode.as_str()),
        ("pid", "pid", record.host.pid_mode.as_str()),
        ("ipc", "ipc", record.host.ipc_mode.as_str()),
    ];
    let mut joined = Joined::default();
    for (kind, file, mode) in modes {
        let Some(other) = mode.strip_prefix("container:") else { continue };
        let id = all.id(other)?;
        let donor = Donor::new(all, kind, &id)?;
        joined.namespaces.push((kind, donor.open(file)?));
        if kind == "ipc" {
            let (mounts, owner) = (donor.open("mnt")?, donor.owner()?);
            let memory = ipc::shared_memory(mounts.as_fd(), owner.as_ref().map(File::as_fd));
            joined.shared_memory = Some(memory.map_err(Error::io("share the memory of container", &id))?);
        }
    }
    Ok(joined)
}

/// A running container that others join.
struct Donor<'a> {
    kind: &'a str,
    id: &'a str,
    container: crate::Container,
    pid: u32,
}

impl<'a> Donor<'a> {
    fn new(all: &Containers, kind: &'a str, id: &'a str) -> Result<Self> {
        // Loading mends what a killed shim left; the runtime's own record tells its process from a later one with its number.
        let (record, state) = all.load(id)?;
        let gone = || not_running(kind, id);
        if state.shown.restarting {
            return Err(refused(kind, id, &format!("container {id} is restarting")));
        }
        let container = all.0.runtime.open(id).ok().filter(|_| state.shown.running).ok_or_else(gone)?;
        if kind == "ipc" && matches!(record.host.ipc_mode.as_str(), "private" | "none") {
            let hint = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)";
            return Err(refused(kind, id, hint));
        }
        let init = container.state()?;
        let lives = matches!(init.status, crate::Status::Running | crate::Status::Paused);
        let pid = init.pid.filter(|_| lives).ok_or_else(gone)?;
        Ok(Self { kind, id, container, pid })
    }

    /// One of its namespaces.
    fn open(&self, kind: &str) -> Result<File> {
        let path = format!("/proc/{}/ns/{kind}", self.pid);
        let opened = File::open(&path);
        // Alive after it was opened: the number was no other's meanwhile.
        if self.container.state()?.pid != Some(self.pid) {
            return Err(not_running(self.kind, self.id));
        }
        opened.map_err(Error::io("open", &path))
    }

    /// The user namespace that an ordinary user's container has.
    fn owner(&self) -> Result<Option<File>> {
        if rustix::process::geteuid().is_root() { Ok(None) } else { self.open("user").map(Some) }
    }
}

fn not_running(kind: &str, id: &str) -> Error {
    match kind {
        "network" => Error::Conflict(format!("cannot join network of a non running container: {id}")),
        _ => refused(kind, id, &format!("container {id} is not running")),
    }
}

/// In Docker's words, which are others for each kind.
fn refused(kind: &str, id: &str, why: &str) -> Error {
    Error::Conflict(if kind == "ipc" {
        format!("can't join IPC of container {id}: {why}")
    } else {
        why.to_owned()
    })
}

type Ours = (Option<OwnedFd>, [Option<OwnedFd>; 2]);

/// Its side of the streams, and ours. The pipes belong to the container's user, so that it can open `/dev/stdout`.
fn streams(record: &Record, identity: &Identity) -> Result<([Stdio; 3], Ours)> {
    if record.config.tty {
        return Ok(([Stdio::Null, Stdio::Null, Stdio::Null], (None, [None, None])));
    }
    let pipe = || {
        let (read, write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("make", "a pipe")(e.into()))?;
        let _ =
            rustix::fs::fchown(&read, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid)));
        Ok::<_, Error>((read, write))
    };
    let (stdin, ours_in) = if record.config.open_stdin {
        let (read, write) = pipe()?;
        (Stdio::Fd(read), Some(write))
    } else {
        (Stdio::Null, None)
    };
    let ((out, theirs_out), (err, theirs_err)) = (pipe()?, pipe()?);
    // A larger pipe lets a noisy container write on while its lines are on their way to the log; not everybody may have one.
    let _ = rustix::pipe::fcntl_setpipe_size(&out, 256 << 10);
    Ok(([stdin, Stdio::Fd(theirs_out), Stdio::Fd(theirs_err)], (ours_in, [Some(out), Some(err)])))
}
