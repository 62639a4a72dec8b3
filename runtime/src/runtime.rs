//! The runtime, and how it makes a container.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Linux, Process, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::caps;
use crate::cgroup::{Groups, Layout};
use crate::children::Children;
use crate::container::Container;
use crate::created::Created;
use crate::error::{Context, Error, Result};
use crate::hooks;
use crate::idmap::{self, Maps};
use crate::landlock::Ruleset;
use crate::launch::{Launch, Launched, answer, launch, status_socket};
use crate::namespaces::Namespaces;
use crate::netdev::Devices;
use crate::plan::{Input, Mode, Plan, RootSource, compile};
use crate::process;
use crate::seccomp::Filters;
use crate::sources::{Given, Sources};
use crate::state::{Dir, Record, State, Status, boot_id, now};
use crate::stdio::{Stdio, Streams, at_least};
use crate::sys;

/// The runtime: where state is kept, how cgroups are driven. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) helper: OwnedFd,
    pub(crate) layout: Layout,
    pub(crate) filters: Filters,
    pub(crate) children: Children,
}

/// What `create` takes besides the spec.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CreateOptions<'a> {
    /// The root file system, where it is not simply `root.path`.
    pub rootfs: Rootfs<'a>,
    /// Standard input, output, error of the container's process.
    pub stdio: [Stdio; 3],
    /// Directory that relative paths of the spec start from (the bundle).
    pub bundle: Option<PathBuf>,
    /// Descriptors that the process gets as 3, 4, 5...
    pub preserve_fds: Vec<OwnedFd>,
    /// Bind mounts, by destination, of a path inside their source only: links there are resolved as if the source were `/`, in the moment
    /// of the mount, so whoever writes to the source cannot lead out of it.
    pub mount_subpaths: Vec<(PathBuf, PathBuf)>,
    /// Bind mounts, by destination, whose source is this open file or directory (`O_PATH` will do), whatever the spec's `source` says and
    /// whoever may have renamed things on the way there since. Without privileges its path must still lead to it.
    pub mount_sources: Vec<(PathBuf, OwnedFd)>,
    /// Bind mounts, by destination, that are there already, detached (`open_tree(2)`, `fsmount(2)`): they are moved into the container as they
    /// are, with the options of the spec, and die with it.
    pub mount_trees: Vec<(PathBuf, OwnedFd)>,
    /// Move the root with `mount --move` and `chroot` instead of `pivot_root` (an initramfs host). Less safe: avoid it.
    pub no_pivot: bool,
}

/// Where the container's root file system comes from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Rootfs<'a> {
    /// The spec's `root.path`.
    #[default]
    Spec,
    /// A detached mount (`fsmount(2)`, `open_tree(2)`); it is moved into the container's mount namespace and dies with it.
    Detached(BorrowedFd<'a>),
    /// An overlay that the container's own user and mount namespace mounts (rootless).
    Overlay {
        /// Read-only layers, top first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// Work directory.
        work: PathBuf,
    },
}

impl Runtime {
    /// State under `dir` (like runc's `--root`), which is made where it is missing, for this user alone.
    pub fn new(dir: impl Into<PathBuf>) -> Result<Self> {
        let root = dir.into();
        let fail = |source| Error::State { path: root.clone(), source };
        fs::create_dir_all(&root).map_err(fail)?;
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(fail)?;
        let root = root.canonicalize().map_err(fail)?;
        let helper = sys::helper().map_err(Error::os("make the start-up helper's memory"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                helper,
                layout: Layout::detect()?,
                filters: Filters::default(),
                children: Children::default(),
            }),
        })
    }

    /// Makes the container: namespaces exist, its process is parked before `execve`.
    ///
    /// The process is in a sealed helper program of its own: however long it waits, it shares no memory with the caller.
    pub fn create(&self, id: &str, spec: &Spec, options: CreateOptions<'_>) -> Result<Created> {
        hooks::check(spec)?;
        refuse_unknown(spec)?;
        let dir = Dir::new(&self.inner.root, id)?;
        let lock = match dir.create() {
            // Its creator was killed: its ID is free.
            Err(Error::Exists { .. }) if self.collect(&dir)? => dir.create()?,
            made => made?,
        };
        let mut making = Making { dir: &dir, groups: Groups::default(), done: false };
        let bundle = options.bundle.clone().unwrap_or_default();
        let result = self.make(&mut making, spec, options);
        making.done = result.is_ok();
        drop(making);
        drop(lock);
        if matches!(result, Err(Error::Hook { .. })) {
            // runtime.md, "Lifecycle": a failed hook ends in destruction, and that in the poststop hooks; the first error is the one to tell.
            let _ = hooks::run_all(
                &self.inner.helper,
                spec,
                "poststop",
                &hooks::document(spec, id, Status::Stopped, None, &bundle),
            );
        }
        result
    }

    fn make(&self, making: &mut Making<'_>, spec: &Spec, options: CreateOptions<'_>) -> Result<Created> {
        let process = spec.process().as_ref().ok_or_else(|| Error::spec("process", "missing"))?;
        let dir = making.dir;
        let least = 3 + options.preserve_fds.len() as RawFd;
        let preserve =
            options.preserve_fds.into_iter().map(|fd| at_least(fd, least)).collect::<Result<Vec<_>>>()?;
        let bundle = options.bundle.clone().unwrap_or_default();
        let streams = Streams::new(options.stdio, least)?;
        let (status, theirs) = status_socket(least)?;
        let listener = at_least(listen_at(dir)?, least)?;
        let mut namespaces = Namespaces::new(spec)?;
        let all_namespaces = namespaces.all();
        let new_user = namespaces.take(libc::CLONE_NEWUSER);
        let new_time = namespaces.take(libc::CLONE_NEWTIME);
        let cgroup_namespace = namespaces.take(libc::CLONE_NEWCGROUP);
        let linux = spec.linux().as_ref();
        let maps = new_user.then(|| id_maps(linux));
        if let Some(maps) = &maps {
            maps.check(process.user())?;
        }
        let in_user_namespace = new_user || namespaces.has(libc::CLONE_NEWUSER);
        let may_set_groups =
            maps.as_ref().map_or_else(|| in_user_namespace || idmap::may_set_groups(), Maps::may_set_groups);
        let without_devices = in_user_namespace || idmap::is_inside();
        let mut warnings: Vec<String> = namespaces.warning.map(str::to_owned).into_iter().collect();
        let path = self.groups(making, linux, without_devices, &mut warnings)?;
        let available = if in_user_namespace { caps::all() } else { caps::own() };
        let sets = grantable(process, available, &mut warnings);
        let oom_score_adj = process.oom_score_adj().filter(|wanted| may_adjust_oom(*wanted, &mut warnings));
        let filter =
            linux.and_then(|l| l.seccomp().as_ref()).map(|s| self.inner.filters.get(s)).transpose()?;
        let devices = Devices::of(spec)?;
        let landlock = Ruleset::of(spec, &mut warnings)?;
        let given = Given { files: options.mount_sources, trees: options.mount_trees };
        let sources = Sources::new(spec, given, &bundle, &self.inner.helper, least)?;
        let rootfs = root_source(&options.rootfs, spec, &bundle, least)?;
        let rootfs_fd = rootfs.1.as_ref().map(AsRawFd::as_raw_fd);
        let joins = namespaces.joins();
        let mut keep: Vec<RawFd> =
            preserve.iter().chain([&theirs, &listener]).map(AsRawFd::as_raw_fd).collect();
        keep.extend(streams.numbers().into_iter().flatten().chain(rootfs_fd));
        keep.extend(joins.iter().map(|(fd, _)| *fd));
        keep.extend(sources.fds.iter().map(AsRawFd::as_raw_fd));
        let preserve_numbers: Vec<RawFd> = preserve.iter().map(AsRawFd::as_raw_fd).collect();
        let input = Input {
            mode: Mode::Init,
            id: &dir.id,
            spec,
            process,
            bundle: &bundle,
            root: rootfs.0,
            stdio: streams.numbers(),
            preserve: &preserve_numbers,
            layout: &self.inner.layout,
            cgroup_path: &path,
            cgroup_namespace,
            new_namespaces: namespaces.new,
            new_user,
            time_offsets: new_time.then(|| time_offsets(linux)),
            joins: &joins,
            in_user_namespace: without_devices,
            may_set_groups,
            oom_score_adj,
            caps: Some(sets),
            available_caps: available,
            filter: filter.as_deref(),
            landlock: landlock.as_ref(),
            sync_hooks: !devices.is_empty()
                || ["prestart", "createRuntime", "createContainer"]
                    .iter()
                    .any(|kind| !hooks::of(spec, kind).is_empty()),
            listener: Some(listener.as_raw_fd()),
            status: theirs.as_raw_fd(),
            keep: &keep,
            mount_subpaths: &options.mount_subpaths,
            mount_sources: &sources.list,
            no_pivot: options.no_pivot,
            extra_env: &[],
        };
        let plan = compile(&input)?;
        let launched = launch(
            Launch {
                helper: &self.inner.helper,
                plan: &plan,
                namespaces: if input.has_outer() { 0 } else { namespaces.new },
                groups: &making.groups,
                keep: &keep,
                maps: maps.as_ref(),
                on_namespaces: &mut |pid| {
                    devices.move_to(pid)?;
                    hooks::with_namespaces(&self.inner.helper, spec, &dir.id, pid, &bundle)
                },
            },
            &status,
            theirs,
        )?;
        let record = record(dir, spec, &launched, &plan, making, options.bundle, all_namespaces, &input)
            .and_then(|record| publish(dir, record, &status, &launched))
            .inspect_err(|_| launched.abort())?;
        let container = Container { runtime: self.clone(), dir: dir.clone() };
        Ok(Created::new(container, launched, streams.parent, record, warnings))
    }

    /// Makes the container's groups, and sets their limits: their path.
    fn groups(
        &self,
        making: &mut Making<'_>,
        linux: Option<&Linux>,
        in_user_namespace: bool,
        warnings: &mut Vec<String>,
    ) -> Result<PathBuf> {
        let path = making.dir.write_cgroup(cgroup_path(linux, &making.dir.id))?;
        making.groups = Groups::create(&self.inner.layout, &path, true, warnings)?;
        let resources = linux.and_then(|l| l.resources().as_ref());
        if let Some(resources) = resources {
            // An ordinary user has what is delegated to it, which often is nothing.
            let lenient = caps::own() & 1 << caps::SYS_ADMIN == 0;
            making.groups.apply(resources, lenient.then_some(warnings))?;
        }
        if !in_user_namespace {
            // In a user namespace no device node can be made, and none of the file system's is honoured.
            making.groups.apply_devices(resources)?;
        }
        Ok(path)
    }

    /// Opens a container by ID from its state on disk.
    pub fn open(&self, id: &str) -> Result<Container> {
        let dir = Dir::new(&self.inner.root, id)?;
        dir.read()?;
        Ok(Container { runtime: self.clone(), dir })
    }

    /// All containers' states.
    pub fn list(&self) -> Result<Vec<State>> {
        let fail = |source| Error::State { path: self.inner.root.clone(), source };
        let mut states = Vec::new();
        for entry in fs::read_dir(&self.inner.root).map_err(fail)? {
            let Ok(name) = entry.map_err(fail)?.file_name().into_string() else { continue };
            match self.open(&name).and_then(|c| c.state()) {
                Ok(state) => states.push(state),
                // Being made, abandoned, just removed, or not ours.
                Err(Error::NotFound { .. }) => {
                    // What cannot be removed now is tried again the next time.
                    let _ = Dir::new(&self.inner.root, &name).and_then(|dir| self.collect(&dir));
                }
                Err(Error::InvalidId { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }
}

/// What killed creators left.
impl Runtime {
    /// Removes what creators left that were killed before they had written the container's state: directories, cgroups, what runs in them.
    /// Returns the IDs. Containers in the making are not touched.
    pub fn gc(&self) -> Result<Vec<String>> {
        let fail = |source| Error::State { path: self.inner.root.clone(), source };
        let mut collected = Vec::new();
        for entry in fs::read_dir(&self.inner.root).map_err(fail)? {
            let Ok(name) = entry.map_err(fail)?.file_name().into_string() else { continue };
            let Ok(dir) = Dir::new(&self.inner.root, &name) else { continue };
            if self.collect(&dir)? {
                collected.push(name);
            }
        }
        Ok(collected)
    }

    /// Removes it if it is abandoned.
    pub(crate) fn collect(&self, dir: &Dir) -> Result<bool> {
        let Some(_lock) = dir.abandoned()? else { return Ok(false) };
        if let Some(path) = dir.cgroup() {
            let groups = Groups::existing(&self.inner.layout, &path);
            // Its parked process ends by itself. A hook may hang, but other programs may live in a group that the spec named.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !groups.is_empty()
                && (name == dir.id || name == format!("{}-{}", crate::cgroup::PREFIX, dir.id))
            {
                groups.kill()?;
            }
            groups.remove()?;
        }
        dir.remove()?;
        Ok(true)
    }
}

/// A container in the making: unmade when it fails.
struct Making<'a> {
    dir: &'a Dir,
    groups: Groups,
    done: bool,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if !self.done {
            // The error that led here is the one to tell.
            let _ = self.groups.remove();
            let _ = self.dir.remove();
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one call; a struct would only repeat the record")]
fn record(
    dir: &Dir,
    spec: &Spec,
    launched: &Launched,
    plan: &Plan,
    making: &Making<'_>,
    bundle: Option<PathBuf>,
    namespaces: u64,
    input: &Input<'_>,
) -> Result<Record> {
    Ok(Record {
        id: dir.id.clone(),
        pid: launched.pid,
        start_time: process::start_time(launched.pid).ok_or(Error::Died)?,
        boot_id: boot_id().to_owned(),
        created: now(),
        bundle,
        groups: making.groups.clone(),
        namespaces,
        may_set_groups: input.may_set_groups,
        new_user: input.new_user,
        faults: plan.faults.after_park(),
        spec: spec.clone(),
    })
}

/// Writes the state, and tells the parked process.
fn publish(dir: &Dir, record: Record, status: &OwnedFd, launched: &Launched) -> Result<Record> {
    dir.write(&record)?;
    // From here on others can find it, so it may outlive us.
    answer(status, launched.pid)?;
    Ok(record)
}

/// The socket where the parked process waits, made through the directory's descriptor: a socket's path is at most 107 bytes.
fn listen_at(dir: &Dir) -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("make the start socket")?;
    through_proc(dir, |address| bind(&socket, address))?.context("bind the start socket")?;
    listen(&socket, 8).context("listen on the start socket")?;
    Ok(socket)
}

/// Calls with the address of the container's start socket.
pub(crate) fn through_proc<T>(dir: &Dir, call: impl FnOnce(&SocketAddrUnix) -> T) -> Result<T> {
    let handle = fs::File::open(&dir.path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { id: dir.id.clone() },
        _ => Error::State { path: dir.path.clone(), source },
    })?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/start", handle.as_raw_fd()))
        .context("name the start socket")?;
    Ok(call(&address))
}

fn root_source<'a>(
    rootfs: &'a Rootfs<'_>,
    spec: &Spec,
    bundle: &Path,
    least: RawFd,
) -> Result<(RootSource<'a>, Option<OwnedFd>)> {
    Ok(match rootfs {
        Rootfs::Spec => {
            let root = spec.root().as_ref().ok_or_else(|| Error::spec("root", "missing"))?;
            let path = bundle.join(root.path());
            let path = path
                .canonicalize()
                .map_err(|source| Error::Os { what: format!("root.path {}", path.display()), source })?;
            (RootSource::Path(path), None)
        }
        Rootfs::Detached(fd) => {
            let fd = rustix::io::fcntl_dupfd_cloexec(fd, least).context("duplicate a descriptor")?;
            (RootSource::Fd(fd.as_raw_fd()), Some(fd))
        }
        Rootfs::Overlay { lower, upper, work } => (RootSource::Overlay { lower, upper, work }, None),
    })
}

/// What this version cannot do, and must not seem to.
fn refuse_unknown(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    for (field, given) in [("linux.intelRdt", linux.intel_rdt().is_some()), ("linux.mountLabel", label)] {
        if given {
            return Err(Error::Unsupported { what: format!("{field}: this version cannot apply it") });
        }
    }
    Ok(())
}

fn cgroup_path(linux: Option<&Linux>, id: &str) -> PathBuf {
    let given = linux.and_then(|l| l.cgroups_path().as_deref()).filter(|p| !p.as_os_str().is_empty());
    match given {
        // Never out of the hierarchy, whatever the spec says.
        Some(path) => Path::new("/").join(crate::plan::inside(path).unwrap_or_default()),
        // One level: a parent would have to be made in every hierarchy, and removed again after the last container.
        None => Path::new("/").join(format!("{}-{id}", crate::cgroup::PREFIX)),
    }
}

pub(crate) fn id_maps(linux: Option<&Linux>) -> Maps {
    let uid = linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default();
    let gid = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
    Maps::new(uid, gid)
}

fn time_offsets(linux: Option<&Linux>) -> String {
    let offsets = linux.and_then(|l| l.time_offsets().as_ref());
    let mut lines: Vec<String> = offsets
        .iter()
        .flat_map(|o| o.iter())
        .map(|(clock, o)| format!("{clock} {} {}\n", o.secs().unwrap_or(0), o.nanosecs().unwrap_or(0)))
        .collect();
    lines.sort();
    lines.concat()
}

/// The capabilities that it gets, of those that it is to get.
fn grantable(process: &Process, available: u64, warnings: &mut Vec<String>) -> caps::Sets {
    let (sets, missing) =
        caps::sets(&process.capabilities().clone().unwrap_or_else(no_capabilities), available);
    warnings.extend(missing.into_iter().map(|name| format!("{name} cannot be granted, and is dropped")));
    sets
}

/// Lowering the score below its present value is for `CAP_SYS_RESOURCE`.
fn may_adjust_oom(wanted: i32, warnings: &mut Vec<String>) -> bool {
    let own = fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|s| s.trim().parse::<i32>().ok())
        .unwrap_or(0);
    let may = wanted >= own || caps::own() & 1 << caps::SYS_RESOURCE != 0;
    if !may {
        warnings.push(format!(
            "process.oomScoreAdj {wanted} is below {own}, and CAP_SYS_RESOURCE is missing: left as it is"
        ));
    }
    may
}

/// A spec without capabilities grants none.
pub(crate) fn no_capabilities() -> oci_spec::runtime::LinuxCapabilities {
    let mut none = oci_spec::runtime::LinuxCapabilities::default();
    none.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
    none
}
