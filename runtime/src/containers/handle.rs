use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{
    AttachOptions, CreateOutcome, CreateRequest, EventLine, EventsOptions, ExecRequest, Filters, Images,
    Inspect, LogLine, LogOptions, Networks, OpenOptions, PruneOutcome, RemoveOptions, Result, StartOptions,
    Stats, StopOptions, Stream, Summary, Top, Update, Volumes, WaitFor,
};
use crate::{ExecProcess, Runtime, Stdio};

/// All supervised containers under one directory. Cheap to clone; many processes may share the directory.
///
/// Where a method takes a `key`, it is an ID, a unique beginning of one, or a name.
#[derive(Clone)]
pub struct Containers(pub(super) Arc<Inner>);

pub(super) struct Inner {}

impl std::fmt::Debug for Containers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers").finish_non_exhaustive()
    }
}

impl Containers {
    /// Opens (and makes) `dir`/containers and `dir`/volumes.
    pub fn open(
        dir: &Path,
        runtime: Runtime,
        images: Arc<dyn Images>,
        networks: Arc<dyn Networks>,
        options: OpenOptions,
    ) -> Result<Self> {
        let _ = (dir, runtime, images, networks, options);
        todo!()
    }
    /// Makes a container; nothing runs yet.
    pub fn create(&self, request: &CreateRequest) -> Result<CreateOutcome> {
        let _ = request;
        todo!()
    }
    /// Starts it and returns when its program has been executed. With [`StartOptions::attach`], the stream that carries its standard streams
    /// from the first byte. Starting a running one without attach is no error.
    pub fn start(&self, key: &str, options: &StartOptions) -> Result<Option<Stream>> {
        let _ = (key, options);
        todo!()
    }
    /// Attaches to a running one.
    pub fn attach(&self, key: &str, options: &AttachOptions) -> Result<Stream> {
        let _ = (key, options);
        todo!()
    }
    /// Signals it, waits, kills it. One that does not run is no error.
    pub fn stop(&self, key: &str, options: &StopOptions) -> Result<()> {
        let _ = (key, options);
        todo!()
    }
    /// Sends a signal by name or number (`KILL`, `SIGHUP`, `15`).
    pub fn kill(&self, key: &str, signal: &str) -> Result<()> {
        let _ = (key, signal);
        todo!()
    }
    /// Stops it if it runs, and starts it.
    pub fn restart(&self, key: &str, options: &StopOptions) -> Result<()> {
        let _ = (key, options);
        todo!()
    }
    /// Freezes all its processes.
    pub fn pause(&self, key: &str) -> Result<()> {
        let _ = key;
        todo!()
    }
    /// Thaws them.
    pub fn unpause(&self, key: &str) -> Result<()> {
        let _ = key;
        todo!()
    }
    /// Waits, and returns the exit code.
    pub fn wait(&self, key: &str, condition: WaitFor) -> Result<i32> {
        let _ = (key, condition);
        todo!()
    }
    /// Removes it: record, log, writable layer.
    pub fn remove(&self, key: &str, options: &RemoveOptions) -> Result<()> {
        let _ = (key, options);
        todo!()
    }
    /// Gives it another name.
    pub fn rename(&self, key: &str, name: &str) -> Result<()> {
        let _ = (key, name);
        todo!()
    }
    /// Those that match, newest first; stopped ones only with `all` or a filter that speaks of state. `size` asks for [`Summary::size`].
    pub fn list(&self, all: bool, filters: &Filters, size: bool) -> Result<Vec<Summary>> {
        let _ = (all, filters, size);
        todo!()
    }
    /// All about one.
    pub fn inspect(&self, key: &str) -> Result<Inspect> {
        let _ = key;
        todo!()
    }
    /// Changes limits and restart policy, of a running one too.
    pub fn update(&self, key: &str, update: &Update) -> Result<Vec<String>> {
        let _ = (key, update);
        todo!()
    }
    /// Runs one more program in a running container. The process is the caller's child; dropped, it runs on. See [`super::Terminal::exec`].
    pub fn exec(&self, key: &str, request: &ExecRequest, stdio: [Stdio; 3]) -> Result<ExecProcess> {
        let _ = (key, request, stdio);
        todo!()
    }
    /// Reads its log, oldest line first, until `line` returns false.
    pub fn logs(&self, key: &str, options: &LogOptions, line: &mut dyn FnMut(LogLine) -> bool) -> Result<()> {
        let _ = (key, options, line);
        todo!()
    }
    /// Its processes as the host's `ps -ef` would show them.
    pub fn top(&self, key: &str) -> Result<Top> {
        let _ = key;
        todo!()
    }
    /// Reads its counters.
    pub fn stats(&self, key: &str) -> Result<Stats> {
        let _ = key;
        todo!()
    }
    /// What happens to containers and volumes, until `event` returns false or `until` has come.
    pub fn events(&self, options: &EventsOptions, event: &mut dyn FnMut(EventLine) -> bool) -> Result<()> {
        let _ = (options, event);
        todo!()
    }
    /// Writes its root file system, without its volumes, as a tar.
    pub fn export(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        let _ = (key, out);
        todo!()
    }
    /// Writes `path` of the container as a tar (`docker cp web:/path -`): entries are named from the path's last component on.
    /// Links are followed inside the container's root only.
    pub fn copy_out(&self, key: &str, path: &str, out: &mut dyn Write) -> Result<()> {
        let _ = (key, path, out);
        todo!()
    }
    /// Unpacks a tar into the directory `path` of the container (`docker cp - web:/path`).
    pub fn copy_in(&self, key: &str, path: &str, tar: &mut dyn std::io::Read) -> Result<()> {
        let _ = (key, path, tar);
        todo!()
    }
    /// Removes those that do not run and match (`label`, `until`).
    pub fn prune(&self, filters: &Filters) -> Result<PruneOutcome> {
        let _ = filters;
        todo!()
    }
    /// Starts those whose restart policy says so and which do not run: after a boot. Returns their IDs.
    pub fn restore(&self) -> Result<Vec<String>> {
        todo!()
    }
    /// IDs of the images that containers stand on, with the containers: who asks before removing an image wants to know.
    pub fn images_in_use(&self) -> Result<Vec<(String, String)>> {
        todo!()
    }
    /// The volumes.
    pub fn volumes(&self) -> Volumes {
        todo!()
    }
}
