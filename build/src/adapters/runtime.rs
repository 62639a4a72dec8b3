use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore_image::{Ctx, Snapshot};
use longshore_runtime::spec::{default_spec, rootless_spec, share_network};
use longshore_runtime::{CreateOptions, Rootfs, Runtime, Stdio};
use oci_spec::runtime::{LinuxIdMapping, Mount as SpecMount, Root, Spec, User};

use crate::BoxError;
use crate::seams::{Command, Executor, Mount, MountKind};

/// How long it takes at most until a raised cancel flag is seen.
const TICK: Duration = Duration::from_millis(50);
/// In memory on every Linux: where secrets are while a command runs.
const MEMORY: &str = "/dev/shm";

/// What IDs of containers and endpoints, and directories in the scratch directory, begin with.
const PREFIX: &str = "build-";

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Runs commands in containers of `longshore-runtime`: Docker's default capabilities, masks and namespaces, a network of its own or
/// the host's.
#[derive(Clone, Debug)]
pub struct RuntimeExecutor {
    runtime: Runtime,
    scratch: PathBuf,
    secrets: PathBuf,
    resolv_conf: Option<Vec<u8>>,
    hosts: Option<Vec<u8>>,
    rootless: Option<(u32, u32)>,
    id_maps: Option<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
    host_network: bool,
    #[cfg(feature = "network")]
    bridge: Option<longshore_network::Bridge>,
    mounted: Vec<&'static str>,
}

impl RuntimeExecutor {
    /// `scratch` holds small files while a command runs; it is made if it is not there.
    ///
    /// Without a bridge and without [`host_network`](Self::host_network), `--network=default` is `none`: only loopback.
    pub fn new(runtime: &Runtime, scratch: impl Into<PathBuf>) -> Self {
        Self {
            runtime: runtime.clone(),
            scratch: scratch.into(),
            secrets: PathBuf::from(MEMORY),
            resolv_conf: None,
            hosts: None,
            rootless: None,
            id_maps: None,
            host_network: false,
            #[cfg(feature = "network")]
            bridge: None,
            mounted: Vec::new(),
        }
    }

    /// What commands see as `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.resolv_conf = Some(content.into());
        self.mounted.push("/etc/resolv.conf");
        self
    }

    /// What commands see as `/etc/hosts`.
    #[must_use]
    pub fn hosts(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.hosts = Some(content.into());
        self.mounted.push("/etc/hosts");
        self
    }

    /// For a caller without privileges: user namespaces in which this user and group are root.
    #[must_use]
    pub fn rootless(mut self, uid: u32, gid: u32) -> Self {
        self.rootless = Some((uid, gid));
        self
    }

    /// With [`rootless`](Self::rootless), user namespaces have these users and groups instead of the one: what `/etc/subuid` grants, or what
    /// the user namespace has that the caller is root of.
    #[must_use]
    pub fn id_maps(mut self, uid: Vec<LinuxIdMapping>, gid: Vec<LinuxIdMapping>) -> Self {
        self.id_maps = Some((uid, gid));
        self
    }

    /// `--network=default` is the host's network where there is no bridge, for everything that a Dockerfile runs: abstract sockets and
    /// what listens on the host's loopback are within its reach.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Where secrets lie while a command runs, instead of `/dev/shm`; it should be in memory.
    #[must_use]
    pub fn secrets_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.secrets = dir.into();
        self
    }

    /// `--network=default` is a network namespace on this bridge.
    #[cfg(feature = "network")]
    #[must_use]
    pub fn bridge(mut self, bridge: &longshore_network::Bridge) -> Self {
        self.bridge = Some(bridge.clone());
        self
    }

    /// Ends commands whose builder was killed, and removes what they had: container, endpoint on the bridge, files. Each
    /// [`execute`](Executor::execute) does that first. Their snapshots are the builder's, which removes them.
    pub fn sweep(&self) -> Result<(), BoxError> {
        let entries = match std::fs::read_dir(&self.scratch) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            let path = self.scratch.join(&id);
            // Whoever uses it holds the lock.
            let Some(_lock) = id.starts_with(PREFIX).then(|| lock(&path).ok()).flatten() else { continue };
            match self.runtime.open(&id).and_then(|container| container.delete(true)) {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
            #[cfg(feature = "network")]
            if let Some(bridge) = &self.bridge {
                bridge.detach(&id)?;
            }
            let _ = std::fs::remove_dir_all(self.secrets.join(format!("longshore-{id}")));
            std::fs::remove_dir_all(&path)?;
        }
        Ok(())
    }

    #[cfg(feature = "network")]
    fn has_bridge(&self) -> bool {
        self.bridge.is_some()
    }

    #[cfg(not(feature = "network"))]
    fn has_bridge(&self) -> bool {
        false
    }
}

impl Executor for RuntimeExecutor {
    fn execute(
        &self,
        command: &Command<'_>,
        output: &mut (dyn Write + Send),
        ctx: Ctx<'_>,
    ) -> Result<i32, BoxError> {
        // What cannot be swept must not keep new commands from running; a caller of `sweep` hears of it.
        let _ = self.sweep();
        let id = format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let mut files = Files { on_disk: Dir::new(&self.scratch, &id)?, in_memory: None, held: Vec::new() };
        let mut spec = self.spec(command, &id, &mut files)?;
        let (mut reader, writer) = std::io::pipe()?;
        let mut options = CreateOptions::default();
        options.stdio =
            [Stdio::Null, Stdio::Fd(OwnedFd::from(writer.try_clone()?)), Stdio::Fd(writer.into())];
        let mounted;
        options.rootfs = if let Some(copy) = command.rootfs.root().filter(|_| self.rootless.is_some()) {
            let mut root = Root::default();
            root.set_path(copy).set_readonly(Some(false));
            spec.set_root(Some(root));
            Rootfs::Spec
        } else if self.rootless.is_some() {
            let dirs = command.rootfs.overlay().ok_or("the image's layers can only be mounted by root")?;
            let (upper, work) = dirs.upper.zip(dirs.work).ok_or("the snapshot is read-only")?;
            Rootfs::Overlay { lower: dirs.lower, upper, work }
        } else {
            mounted = command.rootfs.mount()?;
            Rootfs::Detached(mounted.as_fd())
        };
        let created = self.runtime.create(&id, &spec, options)?;
        let wants_bridge = command.network == "default" && self.has_bridge();
        #[cfg(feature = "network")]
        let _lease = match self.bridge.as_ref().filter(|_| wants_bridge) {
            Some(bridge) => {
                Some(bridge.attach(created.netns()?.as_fd(), &longshore_network::Endpoint::new().id(&*id))?)
            }
            None => None,
        };
        let _ = wants_bridge;
        let mut running = created.start()?;
        std::thread::scope(|scope| {
            let copying = scope.spawn(move || copy(&mut reader, output));
            let code = loop {
                if let Err(e) = ctx.check() {
                    // Killed with all its processes, so the pipe ends, too.
                    drop(running);
                    break Err(BoxError::from(e));
                }
                match running.wait(Some(TICK)) {
                    Ok(Some(exit)) => {
                        drop(running);
                        break Ok(exit.code);
                    }
                    Ok(None) => {}
                    Err(e) => break Err(e.into()),
                }
            };
            let copied = copying.join().map_err(|_| "the output's receiver panicked")?;
            let code = code?;
            copied?;
            Ok(code)
        })
    }

    fn mounted_files(&self) -> &[&str] {
        &self.mounted
    }
}

fn copy(reader: &mut impl Read, output: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        output.write_all(&buffer[..n])?;
    }
}

impl RuntimeExecutor {
    fn spec(&self, command: &Command<'_>, id: &str, files: &mut Files) -> Result<Spec, BoxError> {
        let args = command.args.iter().cloned();
        let mut spec = match self.rootless {
            Some((uid, gid)) => rootless_spec(args, uid, gid),
            None => default_spec(args),
        };
        if let (Some((uid, gid)), Some(linux)) = (&self.id_maps, spec.linux_mut()) {
            linux.set_uid_mappings(Some(uid.clone())).set_gid_mappings(Some(gid.clone()));
        }
        spec.set_hostname(Some(command.hostname.to_owned()));
        let default_is_host = self.host_network && !self.has_bridge();
        if command.network == "host" || command.network == "default" && default_is_host {
            share_network(&mut spec);
        }
        if let Some(process) = spec.process_mut() {
            let mut user = User::default();
            user.set_uid(command.uid).set_gid(command.gid);
            if self.has_ids() {
                user.set_additional_gids(Some(command.groups.to_vec()));
            }
            process.set_env(Some(command.env.to_vec())).set_cwd(PathBuf::from(command.cwd)).set_user(user);
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for (target, content) in [("/etc/resolv.conf", &self.resolv_conf), ("/etc/hosts", &self.hosts)] {
            if let Some(content) = content {
                let source = files.on_disk.write(content, 0o644)?;
                mounts.push(bind(target, &source, true));
            }
        }
        for mount in command.mounts {
            mounts.push(self.mount(mount, id, files)?);
        }
        spec.set_mounts(Some(mounts));
        Ok(spec)
    }

    /// Whether there are more users than one.
    fn has_ids(&self) -> bool {
        self.rootless.is_none() || self.id_maps.is_some()
    }

    fn mount(&self, mount: &Mount<'_>, id: &str, files: &mut Files) -> Result<SpecMount, BoxError> {
        let source = match &mount.kind {
            MountKind::Snapshot { snapshot, path } => self.snapshot_path(snapshot, path, files)?,
            MountKind::Dir(path) => path.to_path_buf(),
            MountKind::Tmpfs { size } => return Ok(tmpfs(&mount.target, *size, mount.read_only)),
            MountKind::File { content, mode, uid, gid, secret } => {
                let path = if *secret {
                    let dir = match &mut files.in_memory {
                        Some(dir) => dir,
                        none => none.insert(Dir::new(&self.secrets, &format!("longshore-{id}"))?),
                    };
                    dir.write(content, *mode)?
                } else {
                    files.on_disk.write(content, *mode)?
                };
                if self.has_ids() {
                    std::os::unix::fs::chown(&path, Some(*uid), Some(*gid))?;
                }
                path
            }
        };
        Ok(bind(&mount.target, &source, mount.read_only))
    }

    /// A path that leads into the snapshot while the descriptor is held, and that no link can bend.
    fn snapshot_path(&self, snapshot: &Snapshot, path: &str, files: &mut Files) -> Result<PathBuf, BoxError> {
        if self.rootless.is_some() {
            return Err("a bind mount of a stage, image or context needs root so far".into());
        }
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        let copy = snapshot.root();
        let mounted = match &copy {
            Some(copy) => rustix::fs::open(copy, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
            None => snapshot.mount()?,
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { "." } else { path };
        let fd = rustix::fs::openat2(&mounted, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let source = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        if copy.is_some() {
            // A descriptor of the host's mounts is of no use in the container's namespace; this path is, and no link is left in it.
            return Ok(std::fs::read_link(source)?);
        }
        files.held.extend([mounted, fd]);
        Ok(source)
    }
}

fn bind(target: &str, source: &Path, read_only: bool) -> SpecMount {
    let options =
        if read_only { vec!["rbind", "ro", "nosuid", "nodev"] } else { vec!["rbind", "nosuid", "nodev"] };
    spec_mount(target, "bind", source, options.into_iter().map(str::to_owned).collect())
}

fn tmpfs(target: &str, size: Option<u64>, read_only: bool) -> SpecMount {
    let mut options: Vec<String> = ["nosuid", "nodev", "mode=1777"].map(str::to_owned).to_vec();
    options.extend(size.map(|s| format!("size={s}")));
    options.extend(read_only.then(|| "ro".to_owned()));
    spec_mount(target, "tmpfs", Path::new("tmpfs"), options)
}

fn spec_mount(target: &str, kind: &str, source: &Path, options: Vec<String>) -> SpecMount {
    let mut mount = SpecMount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_path_buf()))
        .set_options(Some(options));
    mount
}

/// What must be there while a command runs.
struct Files {
    on_disk: Dir,
    in_memory: Option<Dir>,
    held: Vec<OwnedFd>,
}

/// A directory that only this user can enter, gone when dropped.
struct Dir {
    path: PathBuf,
    _lock: OwnedFd,
    count: usize,
}

impl Dir {
    fn new(parent: &Path, name: &str) -> std::io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let path = parent.join(name);
        use std::io::ErrorKind;
        use std::os::unix::fs::MetadataExt;
        for _ in 0..1000 {
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            match lock(&path) {
                Ok(lock) => {
                    let same =
                        |m: std::fs::Metadata| rustix::fs::fstat(&lock).is_ok_and(|l| l.st_ino == m.ino());
                    if std::fs::metadata(&path).is_ok_and(same) {
                        // A process of the same number died and left files in it.
                        for entry in std::fs::read_dir(&path)? {
                            std::fs::remove_file(entry?.path())?;
                        }
                        return Ok(Self { path, _lock: lock, count: 0 });
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound) => {}
                Err(e) => return Err(e),
            }
            // A sweep saw it before it was locked, and removes it just now.
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(std::io::Error::new(ErrorKind::AlreadyExists, format!("{} is in use", path.display())))
    }

    fn write(&mut self, content: &[u8], mode: u32) -> std::io::Result<PathBuf> {
        self.count += 1;
        let path = self.path.join(self.count.to_string());
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(path)
    }
}

/// Locks a directory, until the descriptor is closed.
fn lock(path: &Path) -> std::io::Result<OwnedFd> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
