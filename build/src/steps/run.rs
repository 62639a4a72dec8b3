//! `RUN`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use longshore_image::Layer;
use oci_spec::image::Digest;
use rustix::fs::{FlockOperation, Mode};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::layers::Scratch;
use super::{Message, StageRun, stubs};
use crate::changes::Changes;
use crate::copy::{Target, place};
use crate::mounts::{self, Kind, MountSpec, Sharing};
use crate::passwd::{Accounts, User};
use crate::pattern::{Ignore, clean};
use crate::plan::{Reference, is_proxy};
use crate::seams::{Command, Mount, MountKind};
use crate::state::with_home;
use crate::syntax::{CommandForm, RunOp};
use crate::tree::{Found, Tree, join, resolve};
use crate::{Error, Executor, Result, select};

/// Where the script of a here-document with a `#!` line is while it runs.
const SCRIPT: &str = "/dev/.longshore-heredoc";

/// A command with what it needs, before the cache was asked.
struct Job {
    args: Vec<String>,
    /// As it stands in history.
    shown: Vec<String>,
    script: Option<Vec<u8>>,
    mounts: Vec<MountSpec>,
    /// Layers under each bind mount that has some.
    inputs: Vec<Option<Vec<Digest>>>,
    network: String,
}

impl StageRun<'_, '_> {
    pub(super) fn run(&mut self, op: &RunOp) -> Result<()> {
        let executor = self.shared.executor.ok_or(Error::NoExecutor { line: self.line })?;
        if op.security.as_deref().is_some_and(|s| s != "sandbox") {
            return Err(Error::Unsupported {
                line: self.line,
                feature: "RUN --security=insecure".to_owned(),
            });
        }
        if !op.devices.is_empty() {
            return Err(Error::Unsupported { line: self.line, feature: "RUN --device".to_owned() });
        }
        let options = self.shared.options;
        let consent = options.allow_host_network || options.network.as_deref() == Some("host");
        if op.network.as_deref() == Some("host") && !consent {
            return Err(Error::NotAllowed { line: self.line, entitlement: "network.host" });
        }
        let job = self.run_job(op)?;
        let env = self.state.run_env();
        let key = self.key("run", &self.run_key(&job, &env));
        let history = self.state.run_text(&job.shown);
        self.layer_step(&key, history, |run| run.execute(executor, &job, env))
    }

    fn run_job(&self, op: &RunOp) -> Result<Job> {
        let (args, script) = self.run_args(op)?;
        let expand = |text: &str| {
            let lookup = |name: &str| self.state.lookup(name);
            crate::Expander::new(self.shared.plan.escape, &lookup).word(text).map(|e| e.text)
        };
        let mut mounts = Vec::new();
        for text in &op.mounts {
            let mount = mounts::parse(text, &expand).or_else(|m| self.fail(m))?;
            if mount.target.as_ref().is_some_and(|t| join(self.state.workdir(), t) == "/") {
                return self.fail("invalid mount target \"/\"");
            }
            mounts.push(mount);
        }
        let inputs = mounts.iter().map(|m| self.mount_input(m)).collect::<Result<_>>()?;
        let network = op
            .network
            .clone()
            .or_else(|| self.shared.options.network.clone())
            .unwrap_or_else(|| "default".to_owned());
        let shown = if script.is_some() { vec![format!("{SCRIPT} (heredoc)")] } else { args.clone() };
        Ok(Job { args, shown, script, mounts, inputs, network })
    }

    /// Program and arguments, and the script if a here-document is one.
    fn run_args(&self, op: &RunOp) -> Result<(Vec<String>, Option<Vec<u8>>)> {
        let (CommandForm::Shell(line), Some(first)) = (&op.command, op.heredocs.first()) else {
            return Ok((self.command(&op.command), None));
        };
        let only = op.heredocs.len() == 1
            && line.split_whitespace().count() == 1
            && line.trim_start().starts_with("<<");
        if only {
            let text = first.text();
            if text.starts_with("#!") {
                return Ok((vec![SCRIPT.to_owned()], Some(text.into_bytes())));
            }
            return Ok((self.command(&CommandForm::Shell(text)), None));
        }
        // The shell understands here-documents itself.
        let mut whole = line.clone();
        for doc in &op.heredocs {
            whole.push('\n');
            whole.push_str(&doc.content);
            whole.push_str(&doc.name);
        }
        Ok((self.command(&CommandForm::Shell(whole)), None))
    }

    /// The layers that a bind mount shows. Of the context, what the mount can see becomes a layer of its own.
    fn mount_input(&self, m: &MountSpec) -> Result<Option<Vec<Digest>>> {
        match (m.kind, &m.from) {
            (Kind::Ssh, _) if m.required => {
                Err(Error::Unsupported { line: self.line, feature: "RUN --mount=type=ssh".to_owned() })
            }
            (Kind::Cache, Some(_)) => {
                Err(Error::Unsupported { line: self.line, feature: "from of a cache mount".to_owned() })
            }
            (Kind::Bind, Some(from)) => Ok(Some(match self.reference(from)? {
                Reference::Stage(stage) => self.shared.state(stage).diff_ids(),
                Reference::Scratch => Vec::new(),
                Reference::Image(image) => self.shared.image(&image, self.ctx)?.diff_ids().to_vec(),
            })),
            (Kind::Bind, None) => self.context_layer(&m.source).map(Some),
            _ => Ok(None),
        }
    }

    fn context_layer(&self, path: &str) -> Result<Vec<Digest>> {
        let context = &self.shared.context;
        let word = vec![clean(path)];
        let check = || Ok(self.ctx.check()?);
        let matches = select::select(context, &word, &Ignore::default(), false, self.line, &check)?;
        let digest = select::digest(context, &matches, &self.shared.digests, &check)?;
        let key = self.key_on("context", &[], &json!([word, digest]));
        let asked = self.ask(&[&|| Ok(key.clone())])?;
        let (layer, created) = match asked.hit {
            Some(hit) => hit,
            None => {
                let base = Tree::empty();
                let mut changes = Changes::new(&base, self.shared.now);
                for m in &matches {
                    // Below its own name, so that a single file is found again.
                    let target = Target { dest: format!("/{}", word[0]), owner: None, mode: None };
                    place(&mut changes, context, m, &target)?;
                }
                self.made(self.store_changes(changes)?)
            }
        };
        self.remember(&asked.tried, layer.as_ref(), &created)?;
        Ok(layer.into_iter().map(|l| l.diff_id).collect())
    }

    /// What decides the result. Proxies that nothing declares, and the content of secrets and caches, do not.
    fn run_key(&self, job: &Job, env: &[String]) -> Value {
        let mounts = job.mounts.iter().zip(&job.inputs).map(|(m, input)| {
            let layers = input.as_ref().map(|l| l.iter().map(ToString::to_string).collect::<Vec<_>>());
            json!([
                format!("{:?}", m.kind),
                m.target,
                m.source,
                m.read_only,
                m.size,
                m.mode,
                m.uid,
                m.gid,
                m.env,
                m.id,
                m.required,
                layers
            ])
        });
        let script = job.script.as_ref().map(|s| crate::keys::hex(&sha2::Sha256::digest(s)));
        json!([
            job.args,
            script,
            env,
            self.state.workdir(),
            self.state.user(),
            job.network,
            mounts.collect::<Vec<_>>()
        ])
    }

    fn execute(&self, executor: &dyn Executor, job: &Job, env: Vec<String>) -> Result<Option<Layer>> {
        let rootfs = Scratch::new(self.shared.store, &self.state.diff_ids(), false)?;
        let mut held = Held::default();
        let (user, new_paths, mounts) = {
            let tree = Tree::of_snapshot(&rootfs.snapshot)?;
            let user = Accounts::read(&tree)?.user(self.state.user()).or_else(|m| self.fail(m))?;
            held.open(self, job)?;
            let mut mounts = self.mounts(job, &held)?;
            for mount in &mut mounts {
                // Links to where nothing is yet would stop the mount.
                let (real, _) = resolve(&tree, Path::new(&mount.target), true)?;
                mount.target = format!("/{}", real.display());
            }
            let targets =
                executor.mounted_files().iter().copied().chain(mounts.iter().map(|m| m.target.as_str()));
            (user, stubs::missing(&tree, targets)?, mounts)
        };
        let env = self.command_env(job, env, &user)?;
        let command = Command {
            rootfs: &rootfs.snapshot,
            args: &job.args,
            env: &env,
            cwd: self.state.workdir(),
            user: self.state.user(),
            uid: user.uid,
            gid: user.gid,
            groups: &user.groups,
            network: &job.network,
            hostname: "buildkitsandbox",
            mounts: &mounts,
        };
        let mut output = Output { step: self.step, events: self.events.clone() };
        let shown = job.args.join(" ");
        match executor.execute(&command, &mut output, self.ctx) {
            _ if self.ctx.check().is_err() => return Err(Error::Cancelled),
            Err(source) => return Err(Error::Execute { line: self.line, command: shown, source }),
            Ok(0) => {}
            Ok(code) => return Err(Error::Run { step: self.step, line: self.line, command: shown, code }),
        }
        let layer = if new_paths.is_empty() && self.shared.options.source_date_epoch.is_none() {
            self.shared.store.commit_layer(&rootfs.snapshot, &self.layer_options(), self.ctx)?
        } else {
            stubs::commit(self.shared.store, &rootfs.snapshot, new_paths, &self.layer_options(), self.ctx)?
        };
        Ok(Some(layer))
    }

    fn command_env(&self, job: &Job, env: Vec<String>, user: &User) -> Result<Vec<String>> {
        let mut env = with_home(env, user);
        for (name, value) in self.shared.options.build_args.iter().filter(|(n, _)| is_proxy(n)) {
            if !env.iter().any(|e| e.split('=').next() == Some(name)) {
                env.push(format!("{name}={value}"));
            }
        }
        for m in job.mounts.iter().filter(|m| m.kind == Kind::Secret) {
            if let (Some(name), Some(value)) = (&m.env, self.secret(m)?) {
                env.push(format!("{name}={}", String::from_utf8_lossy(value)));
            }
        }
        Ok(env)
    }

    fn secret(&self, m: &MountSpec) -> Result<Option<&[u8]>> {
        let id = secret_id(m);
        let found = self.shared.options.secrets.iter().find(|s| s.id() == id);
        match found {
            None if m.required => self.fail(format!("secret {id}: not found")),
            found => Ok(found.map(crate::Secret::value)),
        }
    }

    fn mounts<'h>(&'h self, job: &'h Job, held: &'h Held<'_>) -> Result<Vec<Mount<'h>>> {
        let mut mounts = Vec::new();
        let (mut snapshots, mut dirs) = (held.snapshots.iter(), held.dirs.iter());
        for m in &job.mounts {
            let target = m.target.as_ref().map(|t| join(self.state.workdir(), t));
            let kind = match m.kind {
                Kind::Bind => {
                    let (scratch, path) = snapshots.next().expect("opened above");
                    MountKind::Snapshot { snapshot: &scratch.snapshot, path: path.clone() }
                }
                Kind::Cache => match &dirs.next().expect("opened above").path {
                    Some(path) => MountKind::Dir(path),
                    None => MountKind::Tmpfs { size: None },
                },
                Kind::Tmpfs => MountKind::Tmpfs { size: m.size },
                Kind::Secret if m.env.is_some() && m.target.is_none() => continue,
                Kind::Secret => match self.secret(m)? {
                    Some(content) => {
                        let (mode, uid, gid) =
                            (m.mode.unwrap_or(0o400), m.uid.unwrap_or(0), m.gid.unwrap_or(0));
                        MountKind::File { content, mode, uid, gid, secret: true }
                    }
                    None => continue,
                },
                Kind::Ssh => continue,
            };
            let target = target.unwrap_or_else(|| format!("/run/secrets/{}", secret_id(m)));
            mounts.push(Mount { target, read_only: m.read_only, kind });
        }
        if let Some(script) = &job.script {
            let kind = MountKind::File { content: script, mode: 0o755, uid: 0, gid: 0, secret: false };
            mounts.push(Mount { target: SCRIPT.to_owned(), read_only: true, kind });
        }
        Ok(mounts)
    }
}

fn secret_id(m: &MountSpec) -> String {
    let named = m.id.clone().or_else(|| (!m.source.is_empty()).then(|| m.source.clone()));
    named.unwrap_or_else(|| {
        m.target.as_deref().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned()
    })
}

/// What mounts stand on while a command runs.
#[derive(Default)]
struct Held<'a> {
    snapshots: Vec<(Scratch<'a>, String)>,
    dirs: Vec<CacheDir>,
}

/// The directory of a cache mount, locked if it is not shared.
struct CacheDir {
    path: Option<PathBuf>,
    _lock: Option<std::fs::File>,
}

impl<'a> Held<'a> {
    fn open(&mut self, run: &StageRun<'_, 'a>, job: &Job) -> Result<()> {
        for (m, layers) in job.mounts.iter().zip(&job.inputs) {
            match (m.kind, layers) {
                (Kind::Bind, Some(layers)) => {
                    // Writes go to a layer of the mount's own, and with it.
                    let scratch = Scratch::new(run.shared.store, layers, m.read_only)?;
                    let path = source_path(&scratch, &m.source, run.line)?;
                    self.snapshots.push((scratch, path));
                }
                (Kind::Cache, _) => self.dirs.push(cache_dir(run, m)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The source inside its root: a link in there cannot lead out.
fn source_path(scratch: &Scratch<'_>, source: &str, line: usize) -> Result<String> {
    let tree = Tree::of_snapshot(&scratch.snapshot)?;
    let (real, found) = resolve(&tree, Path::new(&clean(source)), true)?;
    match found {
        Some(Found::Dir | Found::File) => Ok(real.to_string_lossy().into_owned()),
        _ => Err(Error::NotFound { line, path: source.to_owned() }),
    }
}

fn cache_dir(run: &StageRun<'_, '_>, m: &MountSpec) -> Result<CacheDir> {
    let Some(base) = &run.shared.options.cache_dir else { return Ok(CacheDir { path: None, _lock: None }) };
    if !m.source.is_empty() {
        return Err(Error::Unsupported { line: run.line, feature: "source of a cache mount".to_owned() });
    }
    let id = m.id.clone().unwrap_or_else(|| m.target.clone().unwrap_or_default());
    // Digested: whatever is in the name, the path is below the base.
    let name = crate::keys::hex(&sha2::Sha256::digest(id.as_bytes()));
    for copy in 0.. {
        let dir = base.join(if copy == 0 { name.clone() } else { format!("{name}-{copy}") });
        let lock_path = dir.with_extension("lock");
        std::fs::create_dir_all(base).map_err(|e| Error::io(base, e))?;
        let lock = std::fs::File::create(&lock_path).map_err(|e| Error::io(&lock_path, e))?;
        if !take(run, &lock, m.sharing).map_err(|e| Error::io(&lock_path, e))? {
            run.ctx.check()?;
            continue;
        }
        make_cache_dir(&dir, m)?;
        return Ok(CacheDir { path: Some(dir), _lock: Some(lock) });
    }
    unreachable!("the loop has no end")
}

/// Shared caches are locked as such; a locked one waits; a private one takes the next copy instead.
fn take(run: &StageRun<'_, '_>, lock: &std::fs::File, sharing: Sharing) -> io::Result<bool> {
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(lock, operation) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if sharing == Sharing::Private || run.ctx.check().is_err() => {
                return Ok(false);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(20)),
            Err(e) => return Err(e.into()),
        }
    }
}

fn make_cache_dir(dir: &Path, m: &MountSpec) -> Result<()> {
    let mode = Mode::from_raw_mode(m.mode.unwrap_or(0o755));
    let fail = |e: rustix::io::Errno| Error::io(dir, e);
    match rustix::fs::mkdir(dir, mode) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(e) => return Err(fail(e)),
    }
    // The umask does not count.
    rustix::fs::chmod(dir, mode).map_err(fail)?;
    if m.uid.is_some() || m.gid.is_some() {
        std::os::unix::fs::chown(dir, m.uid, m.gid).map_err(|e| Error::io(dir, e))?;
    }
    Ok(())
}

/// Sends what a command writes to whoever listens.
struct Output {
    step: usize,
    events: SyncSender<Message>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.events.send(Message::Output { step: self.step, bytes: bytes.to_vec() });
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
