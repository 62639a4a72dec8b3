//! One start of the container: root file system, spec, namespaces, network, program.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::containers::compile::{self, Facts};
use crate::containers::files;
use crate::containers::handle::wants_network;
use crate::containers::passwd::{self, Identity};
use crate::containers::record::{Record, State};
use crate::containers::rootview::RootView;
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
    pub(super) attached: Option<Attached>,
}

pub(super) fn start(all: &Containers, record: &Record, state: &mut State) -> Result<Started> {
    let inner = &all.0;
    let dir = inner.dir.path(&record.id);
    // From here on there is something to clean up should this process be killed.
    state.dirty = true;
    inner.dir.write_state(&record.id, state, false)?;
    let source = inner
        .images
        .rootfs(&record.id, &record.image_id)
        .map_err(|source| Error::Images { doing: "make the root file system", source })?;
    let view = RootView::new(&source)?;
    let identity = passwd::resolve(&view, &record.config.user, &record.host.group_add)?;
    let record = &mut record.clone();
    all.prepare_volumes(record, &view)?;
    if !record.config.working_dir.is_empty() {
        let io = Error::io("create the working directory", &record.config.working_dir);
        view.make_dirs(&record.config.working_dir).map_err(io)?;
    }
    mend_targets(&view, record)?;
    let others = joined(all, record)?;
    // In this process the descriptors are paths, too: nobody can put another namespace in their place.
    let join: Vec<(String, String)> = others
        .iter()
        .map(|(kind, fd)| ((*kind).to_owned(), format!("/proc/self/fd/{}", fd.as_raw_fd())))
        .collect();
    let spec = compile::spec(
        record,
        &Facts {
            identity: &identity,
            dir: &dir,
            init: &inner.dir.init_program(compile::wants_init(&record.host))?,
            own: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            join: &join,
        },
    )?;
    files::write_all(&dir, record, None, &inner.options)?;
    let (streams, ours) = streams(record, &identity)?;
    let mut created = create(all, record, &spec, &source, streams)?;
    drop((view, source, spec, others));
    let attached = attach(all, record, &created, &dir)?;
    let (mut stdin, mut outputs) = ours;
    if record.config.tty {
        let console =
            created.take_console().ok_or_else(|| Error::Shim("the container has no terminal".into()))?;
        stdin = Some(console.try_clone().map_err(Error::io("duplicate", "the terminal"))?);
        outputs = [Some(console), None];
    }
    let pid = created.pid();
    let running = created.start().map_err(|e| start_error(&e, &record.path))?;
    for fd in outputs.iter().chain([&stdin]).flatten() {
        rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::io("set up", "a stream")(e.into()))?;
    }
    Ok(Started { running, pid, stdin, outputs, attached })
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

fn attach(all: &Containers, record: &Record, created: &Created, dir: &Path) -> Result<Option<Attached>> {
    if !wants_network(record) {
        return Ok(None);
    }
    let netns = created.netns()?;
    let attached = all
        .0
        .networks
        .attach(&record.id, netns.as_fd(), &record.network)
        .map_err(|source| Error::Networks { doing: "set up", source })?;
    // The files are bound already: their content changes, not their inode.
    files::write_all(dir, record, Some(&attached), &all.0.options)?;
    Ok(Some(attached))
}

/// Namespaces of other containers: kind (as in the OCI spec) and descriptor.
fn joined(all: &Containers, record: &Record) -> Result<Vec<(&'static str, File)>> {
    let modes = [
        ("network", "network", "net", record.network.mode.as_str()),
        ("pid", "PID", "pid", record.host.pid_mode.as_str()),
        ("ipc", "IPC", "ipc", record.host.ipc_mode.as_str()),
    ];
    let mut namespaces = Vec::new();
    for (kind, word, file, mode) in modes {
        let Some(other) = mode.strip_prefix("container:") else { continue };
        let id = all.id(other)?;
        let refused = || Error::Conflict(format!("cannot join {word} of a non running container: {id}"));
        // Loading mends what a killed shim left; the runtime's own record tells its process from a later one with its number.
        let (_, state) = all.load(&id)?;
        let container = all.0.runtime.open(&id).ok().filter(|_| state.shown.running).ok_or_else(refused)?;
        let init = container.state()?;
        if !matches!(init.status, crate::Status::Running | crate::Status::Paused) {
            return Err(refused());
        }
        let path = format!("/proc/{}/ns/{file}", init.pid.ok_or_else(refused)?);
        let opened = File::open(&path);
        // Alive after it was opened: the number was no other's meanwhile.
        if container.state()?.pid != init.pid {
            return Err(refused());
        }
        namespaces.push((kind, opened.map_err(Error::io("open", &path))?));
    }
    Ok(namespaces)
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
