//! The runtime, and how it makes a container.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxResources, Process, Spec};

use crate::caps;
#[cfg(feature = "systemd")]
use crate::cgroup::systemd::{Systemd, Unit};
use crate::cgroup::{Class, Groups, Layout, Place};
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
use crate::parking::{self, Parking};
use crate::plan::{Input, Mode, Plan, RootSource, compile};
use crate::process;
use crate::seccomp::Filters;
use crate::sources::{Given, Sources};
use crate::state::{Record, State, Status, boot_id, now};
use crate::stdio::{Stdio, Streams, at_least};
use crate::store::{Claim, Disk, StateStore, check_id};
use crate::sys;
use crate::waiting::Waiting;

/// The runtime: where state is kept, how cgroups are driven. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
    #[cfg(feature = "systemd")]
    systemd: Option<Systemd>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Box<dyn StateStore>,
    pub(crate) parking: Parking,
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
        Self::with_store(Disk::new(dir)?)
    }

    /// State in a store.
    pub fn with_store(store: impl StateStore + 'static) -> Result<Self> {
        let helper = sys::helper().map_err(Error::os("make the start-up helper's memory"))?;
        let inner = Inner {
            store: Box::new(store),
            parking: Parking::default(),
            helper,
            layout: Layout::detect()?,
            filters: Filters::default(),
            children: Children::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            #[cfg(feature = "systemd")]
            systemd: None,
        })
    }

    /// The same with systemd as the maker of the control groups of containers that are created from now on, and of no others. Without
    /// this they are made directly.
    #[cfg(feature = "systemd")]
    pub fn with_systemd(mut self, systemd: Systemd) -> Self {
        self.systemd = Some(systemd);
        self
    }

    /// Makes the container: namespaces exist, its process is parked before `execve`.
    ///
    /// The process is in a sealed helper program of its own: however long it waits, it shares no memory with the caller.
    pub fn create(&self, id: &str, spec: &Spec, options: CreateOptions<'_>) -> Result<Created> {
        hooks::check(spec)?;
        refuse_unsupported(spec)?;
        check_id(id)?;
        let store = &*self.inner.store;
        let claim = match store.claim(id) {
            // Its creator was killed: its ID is free.
            Err(Error::Exists { .. }) if self.collect(id)? => store.claim(id)?,
            made => made?,
        };
        let mut making = Making { store, claim, id, groups: Groups::default(), done: false };
        let bundle = options.bundle.clone().unwrap_or_default();
        let result = self.make(&mut making, spec, options);
        making.done = result.is_ok();
        drop(making);
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
        let id = making.id;
        let least = 3 + options.preserve_fds.len() as RawFd;
        let preserve =
            options.preserve_fds.into_iter().map(|fd| at_least(fd, least)).collect::<Result<Vec<_>>>()?;
        let bundle = options.bundle.clone().unwrap_or_default();
        let streams = Streams::new(options.stdio, least)?;
        let (status, theirs) = status_socket(least)?;
        let place = self.inner.store.directory(id);
        let listener = place.map(|dir| at_least(parking::listen_in(&dir)?, least)).transpose()?;
        let mut namespaces = Namespaces::new(spec)?;
        let all_namespaces = namespaces.all();
        let new_user = namespaces.take(libc::CLONE_NEWUSER);
        let new_time = namespaces.take(libc::CLONE_NEWTIME);
        let cgroup_namespace = namespaces.take(libc::CLONE_NEWCGROUP);
        let linux = spec.linux().as_ref();
        let maps = new_user.then(|| id_maps(linux));
        maps.iter().try_for_each(|maps| maps.check(process.user()))?;
        let in_user_namespace = new_user || namespaces.has(libc::CLONE_NEWUSER);
        let may_set_groups =
            maps.as_ref().map_or_else(|| in_user_namespace || idmap::may_set_groups(), Maps::may_set_groups);
        let without_devices = in_user_namespace || idmap::is_inside();
        let mut warnings: Vec<String> = namespaces.warning.map(str::to_owned).into_iter().collect();
        let (path, keeper) = self.groups(making, spec, without_devices, &mut warnings)?;
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
            preserve.iter().chain([&theirs]).chain(&listener).map(AsRawFd::as_raw_fd).collect();
        keep.extend(streams.numbers().into_iter().flatten().chain(rootfs_fd));
        keep.extend(joins.iter().map(|(fd, _)| *fd));
        keep.extend(sources.fds.iter().map(AsRawFd::as_raw_fd));
        let preserve_numbers: Vec<RawFd> = preserve.iter().map(AsRawFd::as_raw_fd).collect();
        let input = Input {
            mode: Mode::Init,
            id,
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
            sync_hooks: !devices.is_empty() || hooks::any_before_start(spec),
            listener: listener.as_ref().map(AsRawFd::as_raw_fd),
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
                instead: &|| None,
                keep: &keep,
                maps: maps.as_ref(),
                to_move: false,
                on_namespaces: &mut |pid| {
                    devices.move_to(pid)?;
                    hooks::with_namespaces(&self.inner.helper, spec, id, pid, &bundle)
                },
            },
            &status,
            theirs,
        )?;
        let published = settle(&making.groups, keeper, linux, &mut warnings)
            .and_then(|()| record(spec, &launched, &plan, making, options.bundle, all_namespaces, &input))
            .and_then(|record| self.publish(making, record, status, &launched))
            .inspect_err(|_| launched.abort())?;
        let container = Container { runtime: self.clone(), id: id.to_owned() };
        Ok(Created::new(container, launched, streams.parent, published, warnings))
    }

    /// Publishes the record, and tells the parked process.
    fn publish(
        &self,
        making: &Making<'_>,
        record: Record,
        status: OwnedFd,
        launched: &Launched,
    ) -> Result<(Record, Vec<u8>)> {
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::os("write the record")(e.into()))?;
        making.claim.publish(&bytes)?;
        // From here on others can find it, so it may outlive us.
        answer(&status, launched.pid)?;
        if making.store.directory(making.id).is_none() {
            self.inner.parking.keep(making.id, status);
        }
        Ok((record, bytes))
    }

    /// Makes the container's groups, and sets their limits: their path.
    fn groups(
        &self,
        making: &mut Making<'_>,
        spec: &Spec,
        in_user_namespace: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(PathBuf, Option<Waiting>)> {
        let linux = spec.linux().as_ref();
        let Place { path, groups, keeper } = self.place(spec, making.id)?;
        making.groups = groups;
        let rdt = linux.and_then(|l| l.intel_rdt().as_ref());
        let class =
            rdt.map(|rdt| Class::of(rdt, self.inner.layout.resctrl.as_deref(), making.id)).transpose()?;
        // For whoever has to remove them if the record is never published.
        making.claim.note(&note(&path, class.as_ref()))?;
        making.groups.create(&self.inner.layout, &path, true, warnings)?;
        making.groups.class = class;
        if let Some((class, rdt)) = making.groups.class.as_ref().zip(rdt) {
            class.create(rdt)?;
        }
        let resources = linux.and_then(|l| l.resources().as_ref());
        if let Some(resources) = resources {
            let mut now = Cow::Borrowed(resources);
            if keeper.is_some() {
                now.to_mut().set_pids(None);
            }
            making.groups.apply(&now, lenient().then_some(warnings))?;
        }
        if !in_user_namespace {
            // In a user namespace no device node can be made, and none of the file system's is honoured.
            making.groups.apply_devices(resources)?;
        }
        Ok((path, keeper))
    }

    fn place(&self, spec: &Spec, id: &str) -> Result<Place> {
        #[cfg(feature = "systemd")]
        if let Some(systemd) = &self.systemd {
            return Unit::begin(systemd, &self.inner.helper, spec, id, self.inner.layout.v1.is_empty());
        }
        let path = cgroup_path(spec.linux().as_ref(), id)?;
        Ok(Place { path, groups: Groups::default(), keeper: None })
    }

    /// Opens a container by ID from its state in the store.
    pub fn open(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let container = Container { runtime: self.clone(), id: id.to_owned() };
        container.record()?;
        Ok(container)
    }

    /// All containers' states.
    pub fn list(&self) -> Result<Vec<State>> {
        let mut states = Vec::new();
        for name in self.inner.store.ids()? {
            match self.open(&name).and_then(|c| c.state()) {
                Ok(state) => states.push(state),
                // Being made, abandoned, just removed, or not ours.
                Err(Error::NotFound { .. }) => {
                    // What cannot be removed now is tried again the next time.
                    let _ = self.collect(&name);
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
        let mut collected = Vec::new();
        for name in self.inner.store.ids()? {
            if check_id(&name).is_ok() && self.collect(&name)? {
                collected.push(name);
            }
        }
        Ok(collected)
    }

    /// Removes it if it is abandoned.
    fn collect(&self, id: &str) -> Result<bool> {
        let Some(claim) = self.inner.store.abandoned(id)? else { return Ok(false) };
        // Without a note no group was made yet.
        if let Some(note) = claim.noted()?.filter(|note| !note.is_empty()) {
            let mut noted = note.split(|byte| *byte == 0).map(|path| Path::new(OsStr::from_bytes(path)));
            let path = noted.next().unwrap_or(Path::new("/"));
            #[cfg_attr(not(feature = "systemd"), expect(unused_mut, reason = "a unit makes it so"))]
            let mut groups = Groups::existing(&self.inner.layout, path);
            #[cfg(feature = "systemd")]
            if let Some(systemd) = self.systemd.as_ref().filter(|_| !groups.is_empty()) {
                groups.unit = Unit::of_group(systemd, path);
            }
            // Its parked process ends by itself. A hook may hang, but other programs may live in a group that the spec named.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let own = name == id || name == format!("{}-{id}", crate::cgroup::PREFIX);
            // systemd has one unit of a name.
            let own_unit =
                name.strip_suffix(".scope").is_some_and(|n| n == id || n.ends_with(&format!("-{id}")));
            if !groups.is_empty() && (own || own_unit) {
                groups.kill()?;
            }
            groups.remove()?;
            for class in noted {
                match fs::remove_dir(class) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::os("remove a class")(e)),
                    _ => {}
                }
            }
        }
        self.inner.store.remove(id)?;
        Ok(true)
    }
}

/// The path of the groups, then that of each directory of a class that is made, each after a zero.
fn note(path: &Path, class: Option<&Class>) -> Vec<u8> {
    let made = class.into_iter().flat_map(Class::made);
    let paths: Vec<&[u8]> =
        std::iter::once(path).chain(made).map(|path| path.as_os_str().as_bytes()).collect();
    paths.join(&0)
}

/// A container in the making: unmade when it fails.
struct Making<'a> {
    store: &'a dyn StateStore,
    claim: Box<dyn Claim>,
    id: &'a str,
    groups: Groups,
    done: bool,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if !self.done {
            // The error that led here is the one to tell.
            let _ = self.groups.remove();
            let _ = self.store.remove(self.id);
        }
    }
}

/// An ordinary user has what is delegated to it, which often is nothing.
fn lenient() -> bool {
    !caps::has(caps::SYS_ADMIN)
}

/// Ends what kept the groups' place; only from then on the limit of processes is the container's alone.
fn settle(
    groups: &Groups,
    keeper: Option<Waiting>,
    linux: Option<&Linux>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let Some(keeper) = keeper else { return Ok(()) };
    drop(keeper);
    let pids = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.pids().as_ref());
    let Some(pids) = pids else { return Ok(()) };
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_pids(Some(*pids));
    groups.update(&resources, lenient().then_some(warnings))
}

fn record(
    spec: &Spec,
    launched: &Launched,
    plan: &Plan,
    making: &Making<'_>,
    bundle: Option<PathBuf>,
    namespaces: u64,
    input: &Input<'_>,
) -> Result<Record> {
    Ok(Record {
        id: making.id.to_owned(),
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

/// What cannot be done here, and must not seem to be.
fn refuse_unsupported(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    if label && !Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(Error::Unsupported { what: "linux.mountLabel: SELinux is not enabled".to_owned() });
    }
    Ok(())
}

fn cgroup_path(linux: Option<&Linux>, id: &str) -> Result<PathBuf> {
    let given = linux.and_then(|l| l.cgroups_path().as_deref()).filter(|p| !p.as_os_str().is_empty());
    Ok(match given {
        // Never out of the hierarchy, whatever the spec says; and never all of it: the group is killed with the container.
        Some(path) => match crate::plan::inside(path)?.as_str() {
            "." => {
                return Err(Error::spec("linux.cgroupsPath", format!("{path:?} is the root of all groups")));
            }
            inside => Path::new("/").join(inside),
        },
        // One level: a parent would have to be made in every hierarchy, and removed again after the last container.
        None => Path::new("/").join(format!("{}-{id}", crate::cgroup::PREFIX)),
    })
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
    let may = wanted >= own || caps::has(caps::SYS_RESOURCE);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_container_has_the_root_of_all_groups() {
        let path = |text: &str| {
            let mut linux = Linux::default();
            linux.set_cgroups_path(Some(text.into()));
            cgroup_path(Some(&linux), "id")
        };
        for root in ["/", ".", "/..", "/../..", "a/..", "//"] {
            assert!(matches!(path(root), Err(Error::Spec { .. })), "{root}");
        }
        assert_eq!(path("../../a/b").unwrap_or_default(), Path::new("/a/b"));
        assert_eq!(path("").unwrap_or_default(), Path::new("/longshore-id"));
    }
}
