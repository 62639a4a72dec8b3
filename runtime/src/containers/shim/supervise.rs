use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clients::{Client, Role, Said};
use super::health::Monitor;
use super::io::{self, CHUNK, Input};
use super::launch;
use super::policy::Restarts;
use crate::Running;
use crate::containers::proto::{self, Request};
use crate::containers::record::{Record, State};
use crate::containers::{Containers, Error, LogStream, RestartPolicy, Result, log, parse, socket, sys};

/// How long clients wait that could not be taken.
const CROWDED: Duration = Duration::from_millis(200);

/// Supervises a container from its start to its last end. An error before the first start has succeeded is the starter's to hear.
pub(super) fn run(all: &Containers, id: &str, starter: &mut UnixStream) -> Result<()> {
    let inner = &all.0;
    let attach = super::first_request(starter)?;
    let _alive = inner.dir.alive_lock(id)?;
    let record = inner.dir.record(id)?;
    let dir = inner.dir.path(id);
    inner.dir.reserve(id)?;
    let listener = socket::listen(&dir).map_err(Error::io("listen in", &dir))?;
    let log = log::Writer::open(&inner.dir.file(id, &log::file_name(id)), &record.host.log_config)?;
    let log = log.map(|log| log.with_attributes(&log::attributes(&record.config, &record.host.log_config)));
    let mut state = inner.state(id)?;
    if state.dirty {
        // The shim before this one was killed after its starter had looked.
        inner.clean_up(&record, None)?;
    }
    (state.restart_count, state.stopped_by_hand) = (0, false);
    let policy = record.host.restart_policy.clone();
    let mut shim = Shim {
        all,
        record,
        state,
        listener,
        log,
        clients: Vec::new(),
        restarts: Restarts::default(),
        policy,
        stop: None,
        by_hand: false,
        held: false,
        crowded: false,
        buffer: Vec::new(),
    };
    let socket = starter.try_clone().map_err(Error::io("duplicate", "the starter's connection"))?;
    let first = Client::new(socket, attach.map_or(Role::Leaving, Role::attached))
        .map_err(Error::io("set up", "the connection"))?;
    let result = shim.lives(first);
    socket::remove(&dir);
    result
}

pub(super) struct Shim<'a> {
    pub(super) all: &'a Containers,
    pub(super) record: Record,
    pub(super) state: State,
    listener: UnixListener,
    log: Option<log::Writer>,
    clients: Vec<Client>,
    restarts: Restarts,
    policy: RestartPolicy,
    stop: Option<Stop>,
    /// Someone ended it on purpose: the policy does not start it again.
    by_hand: bool,
    /// It is frozen for clients that asked for it, and thaws with the last of them.
    held: bool,
    /// The last client could not be taken.
    crowded: bool,
    buffer: Vec<u8>,
}

/// A stop in progress.
struct Stop {
    /// When patience ends; `None` is never.
    kill_at: Option<Instant>,
}

/// One life of the container.
struct Life {
    running: Running,
    input: Input,
    outputs: [Option<OwnedFd>; 2],
    /// The terminal, for its size.
    terminal: bool,
    since: Instant,
    health: Option<Monitor>,
    warnings: Vec<String>,
}

impl Life {
    /// Closes the streams.
    fn into_running(self) -> Running {
        self.running
    }
}

/// What a descriptor in the poll set is.
#[derive(Clone, Copy)]
enum Token {
    Init,
    Output(usize),
    Input,
    Listener,
    Client(usize),
    Health,
}

impl Shim<'_> {
    /// One life after the other, as the policy wants it.
    fn lives(&mut self, first: Client) -> Result<()> {
        let mut starter = Some(first);
        loop {
            let mut life = match self.begin() {
                Ok(life) => life,
                Err(e) => return self.failed(e, starter.is_some()),
            };
            if let Some(mut client) = starter.take() {
                client.started(std::mem::take(&mut life.warnings));
                self.clients.push(client);
            }
            sys::trim_memory();
            self.live(&mut life)?;
            match self.end(life)? {
                Some(pause) if self.sleep(pause)? => self.read_again(),
                Some(_) => return self.give_up(),
                None => return Ok(()),
            }
        }
    }

    /// Limits and names may have changed since the last start. Its networks are as we were told.
    fn read_again(&mut self) {
        if let Ok(now) = self.all.0.dir.record(&self.record.id) {
            let old = std::mem::replace(&mut self.record, now);
            let name = std::mem::take(&mut self.record.network.name);
            (self.record.network, self.record.more, self.record.left) = (old.network, old.more, old.left);
            self.record.network.name = name;
        }
    }

    fn begin(&mut self) -> Result<Life> {
        let started = launch::start(self.all, &self.record, &mut self.state)?;
        self.state.set_running(started.pid);
        self.state.networks = started.networks;
        self.state.restart_count = self.restarts.count;
        self.held = false;
        let health = Monitor::new(&self.record);
        self.state.shown.health = health.as_ref().map(Monitor::starting);
        self.save(false)?;
        self.all.0.emit("start", &self.record, &[]);
        Ok(Life {
            running: started.running,
            input: Input::new(started.stdin),
            outputs: started.outputs,
            terminal: self.record.config.tty,
            since: Instant::now(),
            health,
            warnings: started.warnings,
        })
    }

    /// The container could not be started.
    fn failed(&mut self, error: Error, first: bool) -> Result<()> {
        // As in `end`; why it did not start is what is to be told.
        self.state.dirty = self.all.0.clean_up(&self.record, None).is_err();
        let text = crate::containers::error::chain(&error);
        let status = if first && self.state.shown.status == "created" { "created" } else { "exited" };
        let never = self.state.shown.finished_at.clone();
        self.state.set_ended(status, error.exit_code(), false, text);
        if status == "created" {
            self.state.shown.finished_at = never;
        }
        self.save_end();
        // Docker leaves one that never started for the user to look at, unless it was to be removed anyhow.
        if self.record.host.auto_remove && !self.state.dirty {
            self.all.0.remove_now(&self.record, true)?;
        }
        self.tell_end(error.exit_code(), true);
        if first { Err(error) } else { Ok(()) }
    }

    pub(super) fn save(&self, durable: bool) -> Result<()> {
        self.all.0.dir.write_state(&self.record.id, &self.state, durable && !self.record.host.auto_remove)
    }

    /// Saves how it ended, also where the disk is full: no reason to lose the exit code.
    fn save_end(&self) {
        let durable = !self.record.host.auto_remove;
        let _ = self.all.0.dir.write_last_state(&self.record.id, &self.state, durable);
    }

    /// Serves everybody until the container's process has ended and its streams are empty.
    fn live(&mut self, life: &mut Life) -> Result<()> {
        loop {
            let timeout = self.next_timer(life);
            let ready = self.poll(Some(life), timeout)?;
            for (token, flags) in &ready {
                match token {
                    Token::Output(n) => drop(self.pump(life, *n)),
                    Token::Input => life.input.flush(),
                    Token::Listener => self.accept(),
                    Token::Client(n) => self.serve(*n, *flags, Some(life)),
                    Token::Health | Token::Init => {}
                }
            }
            self.thaw_unheld(life);
            self.clients.retain(|c| !c.is_done());
            self.close_unattended_input(life);
            self.timers(life);
            if ready.iter().any(|(t, _)| matches!(t, Token::Init)) {
                return self.drain(life);
            }
        }
    }

    fn poll(&mut self, life: Option<&Life>, timeout: Option<Duration>) -> Result<Vec<(Token, PollFlags)>> {
        let held_up = self.clients.iter().any(Client::holds_up);
        let crowded = std::mem::take(&mut self.crowded);
        let timeout = if crowded { Some(timeout.map_or(CROWDED, |t| t.min(CROWDED))) } else { timeout };
        let mut set: Vec<(Token, PollFd<'_>)> = Vec::with_capacity(6 + self.clients.len());
        if !crowded {
            set.push((Token::Listener, PollFd::new(&self.listener, PollFlags::IN)));
        }
        if let Some(life) = life {
            set.push((Token::Init, PollFd::from_borrowed_fd(life.running.as_fd(), PollFlags::IN)));
            for (n, fd) in life.outputs.iter().enumerate().filter(|_| !held_up) {
                set.extend(fd.as_ref().map(|fd| (Token::Output(n), PollFd::new(fd, PollFlags::IN))));
            }
            if let Some(fd) = life.input.fd().filter(|_| life.input.waits_to_write()) {
                set.push((Token::Input, PollFd::new(fd, PollFlags::OUT)));
            }
            if let Some(health) = &life.health {
                health.poll_fds(&mut |fd| {
                    set.push((Token::Health, PollFd::from_borrowed_fd(fd, PollFlags::IN)));
                });
            }
        }
        let full = life.is_some_and(|l| l.input.is_full());
        for (n, client) in self.clients.iter().enumerate() {
            let mut flags = if full && matches!(client.role, Role::Attached { .. }) {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            if client.wants_write() {
                flags |= PollFlags::OUT;
            }
            set.push((Token::Client(n), PollFd::new(&client.socket, flags)));
        }
        let (tokens, mut fds): (Vec<Token>, Vec<PollFd<'_>>) = set.into_iter().unzip();
        let timeout =
            timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("poll", "descriptors")(e.into())),
        }
        Ok(tokens.into_iter().zip(fds.iter().map(PollFd::revents)).filter(|(_, f)| !f.is_empty()).collect())
    }

    /// One read of a stream, to the log and the attached. How many bytes it gave.
    fn pump(&mut self, life: &mut Life, n: usize) -> usize {
        let Some(fd) = &life.outputs[n] else { return 0 };
        self.buffer.resize(CHUNK, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let stream = if n == 0 { LogStream::Stdout } else { LogStream::Stderr };
        let got = match io::read(fd, &mut buffer) {
            io::Read::Bytes(got) => {
                self.output(stream, &buffer[..got]);
                // A quiet container's shim should not sit on memory that it needed once.
                if got < CHUNK / 8 {
                    buffer = Vec::new();
                }
                got
            }
            io::Read::Later => 0,
            io::Read::End => {
                life.outputs[n] = None;
                if let Some(log) = &mut self.log {
                    let _ = log.finish(stream);
                }
                0
            }
        };
        self.buffer = buffer;
        got
    }

    fn output(&mut self, stream: LogStream, bytes: &[u8]) {
        // A full disk loses lines of the log, never the container.
        if let Some(log) = &mut self.log {
            let _ = log.write(stream, bytes);
        }
        for client in &mut self.clients {
            let Role::Attached { stdout, stderr, .. } = client.role else { continue };
            match stream {
                LogStream::Stdout if stdout => client.send(proto::STDOUT, bytes),
                LogStream::Stderr if stderr => client.send(proto::STDERR, bytes),
                _ => {}
            }
        }
    }

    /// What was written before the end is still in the pipes. Where others can see its processes they may still be there, writing: no
    /// more is read than a pipe can hold.
    fn drain(&mut self, life: &mut Life) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        for n in 0..2 {
            let mut left = life.outputs[n].as_ref().map_or(0, io::capacity);
            while left > 0 {
                match self.pump(life, n) {
                    0 => break,
                    got => left = left.saturating_sub(got),
                }
                // A client that does not read must not lose the end of the output, nor keep the container for ever.
                while self.clients.iter().any(Client::holds_up) && Instant::now() < end {
                    for (token, flags) in self.poll(None, Some(Duration::from_millis(100)))? {
                        if let Token::Client(n) = token {
                            self.serve(n, flags, None);
                        }
                    }
                    self.clients.retain(|c| !c.is_done());
                }
            }
        }
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            if let Some(log) = &mut self.log {
                let _ = log.finish(stream);
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => self.clients.extend(Client::new(socket, Role::New)),
                Err(error) => {
                    // Out of descriptors: whoever waits is still there, and would be told of at once.
                    self.crowded = error.kind() != ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    fn serve(&mut self, n: usize, flags: PollFlags, life: Option<&mut Life>) {
        let client = &mut self.clients[n];
        if flags.contains(PollFlags::OUT) {
            client.flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let mut said = Vec::new();
        client.read(&mut said);
        let mut life = life;
        for what in said {
            self.heard(n, what, life.as_deref_mut());
        }
    }

    fn heard(&mut self, n: usize, what: Said, life: Option<&mut Life>) {
        let takes_input = matches!(self.clients[n].role, Role::Attached { stdin: true, .. });
        match (what, life) {
            (Said::Request(request), life) => self.request(n, request, life),
            (Said::Stdin(bytes), Some(life)) if takes_input => life.input.push(&bytes),
            (Said::StdinEnd, Some(life)) if takes_input => {
                if self.record.config.stdin_once && !life.terminal {
                    life.input.end();
                }
                if let Role::Attached { stdin, .. } = &mut self.clients[n].role {
                    *stdin = false;
                }
            }
            (Said::Resize(columns, rows), Some(life)) => resize(life, columns, rows),
            (Said::Signal(signal), Some(life)) => {
                let _ = self.signal(signal, life);
            }
            _ => {}
        }
    }

    fn request(&mut self, n: usize, request: Request, life: Option<&mut Life>) {
        let not_running = || Error::NotRunning(self.record.id.clone());
        let (role, result) = match (request, life) {
            (Request::Attach(options), Some(_)) => (Role::attached(options), Ok(())),
            (Request::Wait, _) => (Role::Waiting, Ok(())),
            (Request::Stop { signal, timeout }, life) => {
                self.begin_stop(signal, timeout, life);
                self.clients[n].role = Role::Stopping;
                return;
            }
            (Request::Kill { signal }, Some(life)) => (Role::Leaving, self.signal(signal, life)),
            // Between two lives there is nobody to kill, but the next life.
            (Request::Kill { signal }, None) if self.ends(signal) => {
                (self.by_hand, self.state.stopped_by_hand) = (true, true);
                (Role::Leaving, Ok(()))
            }
            (Request::Pause, Some(life)) => (Role::Leaving, self.pause(life)),
            (Request::Unpause, Some(life)) => (Role::Leaving, self.unpause(life)),
            (Request::Freeze, Some(life)) => (Role::Freezing, self.freeze(life)),
            (Request::Policy(policy), _) => {
                self.record.host.restart_policy = policy.clone();
                self.policy = policy;
                (Role::Leaving, Ok(()))
            }
            (Request::Connect(wanted), life) => (Role::Leaving, self.connect(wanted, life.is_some())),
            (Request::Disconnect(network), life) => {
                (Role::Leaving, self.disconnect(&network, life.is_some()))
            }
            (
                Request::Attach(_)
                | Request::Kill { .. }
                | Request::Pause
                | Request::Unpause
                | Request::Freeze,
                None,
            ) => (Role::Leaving, Err(not_running())),
        };
        self.clients[n].role = if result.is_ok() { role } else { Role::Leaving };
        self.clients[n].answer(result.as_ref().copied());
    }

    fn begin_stop(&mut self, signal: i32, timeout: i64, life: Option<&mut Life>) {
        self.by_hand = true;
        self.state.stopped_by_hand = true;
        let patience = if signal == 9 { None } else { u64::try_from(timeout).ok() };
        // Longer than the clock can tell is for ever.
        let kill_at = patience.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        self.stop = Some(Stop { kill_at });
        if let Some(life) = life {
            let _ = self.signal(signal, life);
        }
    }

    /// As Docker: the stop signal, or any that ends most programs where the image names none, is meant to end it for good.
    fn ends(&self, signal: i32) -> bool {
        match self.record.config.stop_signal.as_str() {
            "" => matches!(signal, 1 | 2 | 3 | 9 | 15),
            own => signal == 9 || parse::signal(own).is_ok_and(|s| s == signal),
        }
    }

    /// Sends a signal. A frozen container gets it when it thaws; SIGKILL thaws it.
    fn signal(&mut self, signal: i32, life: &mut Life) -> Result<()> {
        if self.ends(signal) {
            self.by_hand = true;
            self.state.stopped_by_hand = true;
        }
        life.running.container().kill(signal, false)?;
        if self.state.shown.paused && (signal == 9 || self.stop.is_some()) {
            self.unpause(life)?;
        }
        self.all.0.emit("kill", &self.record, &[("signal", &signal.to_string())]);
        Ok(())
    }

    fn pause(&mut self, life: &Life) -> Result<()> {
        if self.state.shown.paused {
            return Err(Error::Conflict(format!("Container {} is already paused", self.record.id)));
        }
        life.running.container().pause()?;
        (self.state.shown.paused, self.state.shown.status) = (true, "paused".into());
        self.all.0.emit("pause", &self.record, &[]);
        self.save(false)
    }

    fn unpause(&mut self, life: &Life) -> Result<()> {
        if !self.state.shown.paused {
            return Err(Error::Conflict(format!("Container {} is not paused", self.record.id)));
        }
        life.running.container().resume()?;
        self.held = false;
        (self.state.shown.paused, self.state.shown.status) = (false, "running".into());
        self.all.0.emit("unpause", &self.record, &[]);
        self.save(false)
    }

    /// What the user has paused stays so for a client that wants it frozen, too.
    fn freeze(&mut self, life: &Life) -> Result<()> {
        if self.state.shown.paused {
            return Ok(());
        }
        self.pause(life)?;
        self.held = true;
        Ok(())
    }

    fn thaw_unheld(&mut self, life: &Life) {
        let holds = |c: &Client| c.role == Role::Freezing && !c.gone;
        if self.held && !self.clients.iter().any(holds) {
            // Frozen for nobody: if this fails, the next turn tries again.
            let _ = self.unpause(life);
        }
    }

    /// `-i` without `-t`: when the client that fed it has gone, its input ends.
    fn close_unattended_input(&mut self, life: &mut Life) {
        let fed = self.clients.iter().any(|c| matches!(c.role, Role::Attached { stdin: true, .. }));
        if self.record.config.stdin_once && !life.terminal && !fed && life.since.elapsed() > Duration::ZERO {
            life.input.end();
        }
    }

    fn next_timer(&self, life: &Life) -> Option<Duration> {
        let stop = self.stop.as_ref().and_then(|s| s.kill_at);
        let health = life.health.as_ref().filter(|_| !self.state.shown.paused).map(Monitor::due);
        stop.into_iter().chain(health).min().map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn timers(&mut self, life: &mut Life) {
        if self.stop.as_ref().and_then(|s| s.kill_at).is_some_and(|at| at <= Instant::now()) {
            self.stop = Some(Stop { kill_at: None });
            let _ = self.signal(9, life);
        }
        if self.state.shown.paused {
            return;
        }
        let Some(monitor) = &mut life.health else { return };
        if let Some(health) =
            monitor.tick(self.all, &self.record, life.running.container(), self.state.shown.health.as_ref())
        {
            let changed = self.state.shown.health.as_ref().map(|h| &h.status) != Some(&health.status);
            let status = format!("health_status: {}", health.status);
            self.state.shown.health = Some(health);
            let _ = self.save(false);
            if changed {
                self.all.0.emit(&status, &self.record, &[]);
            }
        }
    }

    /// The end of a life: recorded first, then cleaned up after, then told. `Some`: start again after so long.
    fn end(&mut self, mut life: Life) -> Result<Option<Duration>> {
        let ran = life.since.elapsed();
        let exit = life
            .running
            .wait(Some(Duration::from_secs(30)))?
            .ok_or_else(|| Error::Shim("its process does not end".into()))?;
        let again = if self.by_hand { None } else { self.restarts.next(&self.policy, exit.code, ran) };
        let stopped_by = self.stop.take();
        drop(life.health.take());
        self.state.set_ended(
            if again.is_some() { "restarting" } else { "exited" },
            exit.code,
            exit.oom_killed,
            String::new(),
        );
        self.save_end();
        if exit.oom_killed {
            self.all.0.emit("oom", &self.record, &[]);
        }
        self.all.0.emit("die", &self.record, &[("exitCode", &exit.code.to_string())]);
        // What cannot be removed stays marked, and its container there, for the next who looks; the clients hear of the end all the same.
        self.state.dirty = self.all.0.clean_up(&self.record, Some(life.into_running())).is_err();
        if stopped_by.is_some() {
            self.all.0.emit("stop", &self.record, &[]);
        }
        if again.is_none() && self.record.host.auto_remove && !self.state.dirty {
            let removed = self.all.0.remove_now(&self.record, true);
            self.tell_end(exit.code, true);
            removed?;
        } else {
            self.save_end();
            self.tell_end(exit.code, again.is_none());
        }
        Ok(again)
    }

    /// Everybody who waits for the end hears of it; bytes that a client has not taken yet get a last chance.
    fn tell_end(&mut self, code: i32, last: bool) {
        let kind = if last { proto::LAST_EXIT } else { proto::EXIT };
        for client in &mut self.clients {
            match client.role {
                Role::Attached { .. } | Role::Waiting => client.send(kind, &code.to_le_bytes()),
                Role::Stopping => client.answer(Ok(())),
                Role::New | Role::Leaving => continue,
                Role::Freezing => {}
            }
            client.role = Role::Leaving;
        }
        let end = Instant::now() + Duration::from_secs(10);
        while self.clients.iter().any(Client::wants_write) && Instant::now() < end {
            let Ok(ready) = self.poll(None, Some(Duration::from_millis(200))) else { return };
            for (token, flags) in ready {
                if let Token::Client(n) = token {
                    self.serve(n, flags, None);
                }
            }
            self.clients.retain(|c| !c.is_done());
        }
        self.clients.retain(|c| !c.is_done());
    }

    /// Between two lives. False: someone does not want the next one.
    fn sleep(&mut self, pause: Duration) -> Result<bool> {
        let end = Instant::now() + pause;
        while !self.by_hand {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            for (token, flags) in self.poll(None, Some(left))? {
                match token {
                    Token::Listener => self.accept(),
                    Token::Client(n) => self.serve(n, flags, None),
                    _ => {}
                }
            }
            self.clients.retain(|c| !c.is_done());
        }
        Ok(false)
    }

    /// Stopped between two lives.
    fn give_up(&mut self) -> Result<()> {
        let s = &mut self.state.shown;
        (s.status, s.running, s.restarting) = ("exited".into(), false, false);
        self.save_end();
        let code = self.state.shown.exit_code;
        if self.record.host.auto_remove {
            self.all.0.remove_now(&self.record, true)?;
        }
        self.tell_end(code, true);
        Ok(())
    }
}

fn resize(life: &Life, columns: u16, rows: u16) {
    if let Some(fd) = life.input.fd().filter(|_| life.terminal) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = rustix::termios::tcsetwinsize(fd, size);
    }
}
