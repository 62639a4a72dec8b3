//! Starting, stopping, signalling, waiting, removing: what a client asks of a container and its shim.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::proto::{self, Request};
use super::record::{Record, State};
use super::{
    AttachOptions, Containers, Error, Output, RemoveOptions, Result, StartOptions, StopOptions, Stream,
    WaitFor, parse, socket,
};

/// First argument of a program that is started as a shim.
pub(super) const SHIM_ARGUMENT: &str = "--longshore-shim-of-container";

/// A container that is frozen as long as this is there: see [`Containers::freeze`].
#[derive(Debug)]
pub struct Frozen(Stream);

impl Drop for Frozen {
    /// Returns when it runs again.
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Containers {
    /// Starts it and returns when its program has been executed. With [`StartOptions::attach`], the stream that carries its standard streams
    /// from the first byte. Starting a running one without attach is no error.
    pub fn start(&self, key: &str, options: &StartOptions) -> Result<Option<Stream>> {
        self.start_warned(key, options).map(|(stream, _)| stream)
    }

    /// [`Containers::start`], with what the container does not get though it was asked for: limits for which an ordinary user has no
    /// cgroups, capabilities that this process lacks. Each is a sentence, in Docker's words where it has some.
    pub fn start_warned(&self, key: &str, options: &StartOptions) -> Result<(Option<Stream>, Vec<String>)> {
        let id = self.id(key)?;
        let _op = self.0.dir.op_lock(&id)?;
        // Loading mends only where nobody holds the lock that we have just taken, so that comes first.
        let (record, state) = self.load_settled(&id)?;
        if state.shown.paused {
            return Err(Error::Conflict("cannot start a paused container, try unpause instead".into()));
        }
        if state.is_live() {
            return match options.attach {
                Some(attach) if state.shown.running => {
                    Ok((Some(self.attach_to(&record, attach)?), Vec::new()))
                }
                _ => Ok((None, Vec::new())),
            };
        }
        self.spawn(&record, options)
    }

    fn spawn(&self, record: &Record, options: &StartOptions) -> Result<(Option<Stream>, Vec<String>)> {
        if options.attach.is_some() {
            self.0.emit("attach", record, &[]);
        }
        let shim = &self.0.options.shim;
        let fail = |e: std::io::Error| Error::io("start the supervisor", shim)(e);
        let (ours, theirs) = UnixStream::pair().map_err(fail)?;
        (&ours).write_all(&proto::json_frame(proto::REQUEST, &options.attach)).map_err(fail)?;
        let status = Command::new(shim)
            .arg(SHIM_ARGUMENT)
            .arg(&record.id)
            .arg(&self.0.options.shim_context)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(fail)?;
        if !status.success() {
            return Err(Error::Shim(format!("{} ended at once: {status}", shim.display())));
        }
        let mut stream = Stream::new(ours);
        match stream.answer() {
            Ok(warnings) => Ok((options.attach.map(|_| stream), warnings)),
            Err(error) => {
                // It ends after a start that has failed.
                stream.wait_for_shim();
                Err(error)
            }
        }
    }

    /// [`Containers::load`] for who holds the container's lock.
    pub(super) fn load_locked(&self, id: &str) -> Result<(Record, State)> {
        let inner = &self.0;
        let (record, mut state) = (inner.dir.record(id)?, inner.state(id)?);
        if (state.is_live() || state.dirty)
            && let Some(_alive) = inner.dir.try_alive(id)?
        {
            state = self.mend(&record)?;
            if record.host.auto_remove {
                return Err(Error::NotFound(id.into()));
            }
        }
        Ok((record, state))
    }

    /// [`Containers::load_locked`] when its shim, if there is one, is through with what it was made for, or has ended: its creator may have
    /// been killed while it starts the container.
    fn load_settled(&self, id: &str) -> Result<(Record, State)> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let (record, state) = self.load_locked(id)?;
            if state.is_live() || self.0.dir.try_alive(id)?.is_some() || Instant::now() > end {
                return Ok((record, state));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Attaches to a running one.
    pub fn attach(&self, key: &str, options: &AttachOptions) -> Result<Stream> {
        let id = self.id(key)?;
        let (record, state) = self.load(&id)?;
        match state.shown.status.as_str() {
            "running" => self.attach_to(&record, *options),
            "paused" => {
                Err(Error::Conflict("You cannot attach to a paused container, unpause it first".into()))
            }
            "restarting" => Err(Error::Conflict(
                "You cannot attach to a restarting container, wait until it is running".into(),
            )),
            _ => Err(Error::Conflict("You cannot attach to a stopped container, start it first".into())),
        }
    }

    fn attach_to(&self, record: &Record, options: AttachOptions) -> Result<Stream> {
        let mut stream = self.shim_of(&record.id)?.ok_or_else(|| Error::NotRunning(record.id.clone()))?;
        stream.ask(&Request::Attach(options))?;
        self.0.emit("attach", record, &[]);
        Ok(stream)
    }

    /// A connection to its shim; `None` when it has none.
    fn shim_of(&self, id: &str) -> Result<Option<Stream>> {
        match socket::connect(&self.0.dir.path(id)) {
            Ok(socket) => Ok(Some(Stream::connected(socket))),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(Error::io("connect to the supervisor of", self.0.dir.path(id))(e)),
        }
    }

    /// Asks the shim of one that must be live.
    pub(super) fn ask(&self, id: &str, request: &Request) -> Result<()> {
        match self.shim_of(id)? {
            Some(mut stream) => {
                stream.ask(request)?;
                if matches!(request, Request::Stop { .. }) {
                    stream.wait_for_shim();
                }
                Ok(())
            }
            None => Err(Error::NotRunning(id.into())),
        }
    }

    /// Signals it, waits, kills it. One that does not run is no error.
    pub fn stop(&self, key: &str, options: &StopOptions) -> Result<()> {
        let id = self.id(key)?;
        let (record, state) = self.load(&id)?;
        if !state.is_live() {
            return Ok(());
        }
        let signal =
            options.signal.as_deref().filter(|s| !s.is_empty()).unwrap_or(&record.config.stop_signal);
        let signal = if signal.is_empty() { 15 } else { parse::signal(signal)? };
        let timeout = options.timeout.or(record.config.stop_timeout).unwrap_or(10);
        match self.ask(&id, &Request::Stop { signal, timeout }) {
            Err(Error::NotRunning(_)) => Ok(()),
            // The shim went away before it answered: what counts is whether the container did too.
            Err(Error::Shim(_)) if self.load(&id).map_or(true, |(_, state)| !state.is_live()) => Ok(()),
            other => other,
        }
    }

    /// Sends a signal by name or number (`KILL`, `SIGHUP`, `15`). After SIGKILL it waits, 10 seconds at most, for the end to be recorded.
    pub fn kill(&self, key: &str, signal: &str) -> Result<()> {
        let signal = parse::signal(signal)?;
        let id = self.id(key)?;
        let (_, state) = self.load(&id)?;
        if !state.is_live() {
            return Err(Error::Conflict(format!(
                "Cannot kill container: {key}: Container {id} is not running"
            )));
        }
        match self.ask(&id, &Request::Kill { signal }) {
            // The shim went away before it answered: another has ended the container just now.
            Err(Error::Shim(_)) if self.load(&id).map_or(true, |(_, state)| !state.is_live()) => {}
            other => other?,
        }
        let end = Instant::now() + Duration::from_secs(10);
        // A policy may have started it again, which is another life than the one that was killed.
        while signal == 9
            && Instant::now() < end
            && self.load(&id).is_ok_and(|(_, now)| {
                now.is_live() && now.shown.started_at == state.shown.started_at && !now.shown.restarting
            })
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops it if it runs, and starts it.
    pub fn restart(&self, key: &str, options: &StopOptions) -> Result<()> {
        let id = self.id(key)?;
        self.stop(&id, options)?;
        self.start(&id, &StartOptions::default())?;
        self.0.emit("restart", &self.load(&id)?.0, &[]);
        Ok(())
    }

    /// Freezes all its processes.
    pub fn pause(&self, key: &str) -> Result<()> {
        let id = self.id(key)?;
        self.load(&id)?;
        self.ask(&id, &Request::Pause)
    }
    /// Thaws them.
    pub fn unpause(&self, key: &str) -> Result<()> {
        let id = self.id(key)?;
        let (_, state) = self.load(&id)?;
        if !state.shown.paused {
            return Err(Error::Conflict(format!("Container {id} is not paused")));
        }
        self.ask(&id, &Request::Unpause)
    }

    /// Freezes all its processes until what this returns is dropped, or its holder ends in whatever way: nobody finds it paused for ever.
    /// One that is paused already stays so.
    pub fn freeze(&self, key: &str) -> Result<Frozen> {
        let id = self.id(key)?;
        self.load(&id)?;
        let mut stream = self.shim_of(&id)?.ok_or(Error::NotRunning(id))?;
        stream.ask(&Request::Freeze)?;
        Ok(Frozen(stream))
    }

    /// Waits, and returns the exit code.
    pub fn wait(&self, key: &str, condition: WaitFor) -> Result<i32> {
        let id = self.id(key)?;
        // Opened while it has a name: the shim holds it locked to its last moment.
        let alive = std::fs::File::open(self.0.dir.file(&id, "alive"));
        loop {
            let (_, state) = match self.load(&id) {
                Err(e) if e.is_not_found() && condition == WaitFor::Removed => {
                    let _ = alive.and_then(|file| file.lock_shared());
                    return Ok(0);
                }
                other => other?,
            };
            if !state.is_live() && condition == WaitFor::NotRunning {
                return Ok(state.shown.exit_code);
            }
            let Some(mut stream) = self.shim_of(&id)? else {
                // Not yet started, or just ended: look again soon.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            if stream.ask(&Request::Wait).is_err() {
                continue;
            }
            while let Some(output) = stream.recv()? {
                if let Output::Exited(code) = output {
                    if condition == WaitFor::Removed && self.0.dir.path(&id).exists() {
                        break;
                    }
                    return Ok(code);
                }
            }
        }
    }

    /// Removes it: record, log, writable layer.
    pub fn remove(&self, key: &str, options: &RemoveOptions) -> Result<()> {
        let id = self.id(key)?;
        let refused = |state: &State| {
            let paused = state.shown.paused;
            let hint = if paused { "Unpause and then stop the container" } else { "Stop the container" };
            Err(Error::Conflict(format!(
                "You cannot remove a {} container {id}. {hint} before attempting removal or force remove",
                state.shown.status
            )))
        };
        let (_, state) = self.load(&id)?;
        if state.is_live() {
            if !options.force {
                return refused(&state);
            }
            match self.ask(&id, &Request::Stop { signal: 9, timeout: 10 }) {
                Ok(()) | Err(Error::NotRunning(_) | Error::Shim(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let result = self.0.dir.op_lock(&id).and_then(|_op| {
            let (_, state) = self.load_settled(&id)?;
            if state.is_live() && !options.force {
                return refused(&state);
            }
            self.wait_for_shim(&id)?;
            let (record, state) = self.load_locked(&id)?;
            if state.is_live() {
                return Err(Error::Conflict(format!("container {id} was started again meanwhile")));
            }
            self.0.remove_now(&record, options.volumes)
        });
        match result {
            // `--rm` was faster.
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Until the shim, which has answered already, is gone.
    fn wait_for_shim(&self, id: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while self.0.dir.try_alive(id)?.is_none() {
            if Instant::now() > end {
                return Err(Error::Shim("it does not end".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Gives it another name.
    pub fn rename(&self, key: &str, name: &str) -> Result<()> {
        let id = self.id(key)?;
        let name = super::names::check(name)?;
        let _op = self.0.dir.op_lock(&id)?;
        let mut record = self.0.dir.record(&id)?;
        if record.name == name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let old = record.name.clone();
        self.0.dir.rename(&mut record, name)?;
        self.0.emit("rename", &record, &[("oldName", &format!("/{old}"))]);
        Ok(())
    }
}
