//! The plan: a spec compiled to the system calls that make the container, all memory laid out beforehand.
//!
//! [`Builder`] lays out steps and data for the helper's address space; [`compile`] decides which steps a spec needs, in which order.

mod attributes;
mod compile;
mod devices;
mod hooks;
mod landlock;
mod mounts;
mod options;
mod process;

pub(crate) use compile::{Input, Mode, RootSource, compile};
pub(crate) use hooks::hook;
pub(crate) use mounts::{OpenSource, SourceKind, binds_tree, idmap_option, inside};

use std::borrow::Cow;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::wire::{self, Header, Step};

/// A compiled plan.
#[derive(Debug)]
pub(crate) struct Plan {
    /// As the helper maps it.
    pub(crate) bytes: Vec<u8>,
    /// What a failed step was about.
    pub(crate) faults: Faults,
}

/// Turns the number of a failed step into an error. Kept with a parked container, for whoever starts it.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Faults {
    /// Number of the first step in `steps`.
    first: u32,
    labels: Vec<String>,
    /// Label and system call name of each step.
    steps: Vec<(u32, Cow<'static, str>)>,
    /// The steps that look for the container's program, and execute it.
    exec_steps: Vec<u32>,
    program: String,
    /// Which steps run a hook: kind and path.
    hooks: Vec<(u32, Cow<'static, str>, PathBuf)>,
}

impl Faults {
    /// The error of step `step`.
    pub(crate) fn error(&self, step: u32, errno: i32, detail: i32) -> Error {
        let source = std::io::Error::from_raw_os_error(errno);
        if self.exec_steps.contains(&step) {
            return Error::Exec { program: self.program.clone(), source };
        }
        if let Some((_, kind, path)) = self.hooks.iter().find(|h| h.0 == step) {
            let reason = match detail {
                0 => source.to_string(),
                status => format!("exit status {status}"),
            };
            return Error::Hook { kind: kind.to_string(), path: path.clone(), reason };
        }
        let at = step.checked_sub(self.first).and_then(|i| self.steps.get(i as usize));
        let (label, call) = at.map_or((u32::MAX, "?"), |(label, call)| (*label, call.as_ref()));
        let label = self.labels.get(label as usize).map_or("set-up", String::as_str);
        Error::Child { step: format!("{label}: {call}"), source }
    }

    /// Only the steps from where a created container waits.
    pub(crate) fn after_park(&self) -> Self {
        let park = self.steps.iter().position(|(_, name)| name == PARK).unwrap_or(0);
        let steps = self.steps.get(park..).unwrap_or_default().to_vec();
        let used = steps.first().map_or(0, |s| s.0);
        let labels = self.labels.get(used as usize..).unwrap_or_default().to_vec();
        let steps = steps.into_iter().map(|(label, call)| (label - used, call)).collect();
        Self { first: self.first + park as u32, labels, steps, ..self.clone() }
    }
}

/// Name of the step at which a created container waits.
pub(crate) const PARK: &str = "wait for the start";

/// Slots with a fixed meaning.
pub(crate) mod slot {
    pub(crate) const ROOT: u8 = 0;
    pub(crate) const NULL: u8 = 1;
    pub(crate) const EMPTY: u8 = 2;
    pub(crate) const CONSOLE: u8 = 3;
    pub(crate) const TTY: u8 = 4;
    pub(crate) const PROC: u8 = 5;
    pub(crate) const TMPFS: u8 = 6;
    pub(crate) const DIR: u8 = 7;
    pub(crate) const A: u8 = 8;
    pub(crate) const B: u8 = 9;
    pub(crate) const C: u8 = 10;
}

/// An argument of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Value(u64),
    Slot(u8),
}
impl From<u64> for Arg {
    fn from(v: u64) -> Self {
        Arg::Value(v)
    }
}
impl From<i32> for Arg {
    fn from(v: i32) -> Self {
        Arg::Value(v as i64 as u64)
    }
}
impl From<u32> for Arg {
    fn from(v: u32) -> Self {
        Arg::Value(u64::from(v))
    }
}
impl From<usize> for Arg {
    fn from(v: usize) -> Self {
        Arg::Value(v as u64)
    }
}

/// Lays out a plan.
#[derive(Debug)]
pub(crate) struct Builder {
    data: Vec<u8>,
    steps: Vec<Step>,
    names: Vec<(u32, &'static str)>,
    labels: Vec<String>,
    exec_steps: Vec<u32>,
    program: String,
    hooks: Vec<(u32, Cow<'static, str>, PathBuf)>,
    empty: u64,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut builder = Self {
            data: vec![0; size_of::<Header>()],
            steps: Vec::with_capacity(256),
            names: Vec::with_capacity(256),
            labels: vec!["set-up".to_owned()],
            exec_steps: Vec::new(),
            program: String::new(),
            hooks: Vec::new(),
            empty: 0,
        };
        builder.empty = builder.bytes(b"\0");
        builder
    }

    /// What the following steps are about; it names them in errors.
    pub(crate) fn label(&mut self, label: impl Into<String>) {
        self.labels.push(label.into());
    }

    pub(crate) fn last_label(&self) -> String {
        self.labels.last().cloned().unwrap_or_default()
    }

    /// Puts bytes into the plan: their address in the helper.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.data.len().next_multiple_of(8);
        self.data.resize(at, 0);
        self.data.extend_from_slice(bytes);
        wire::BASE + at as u64
    }

    /// A NUL-terminated string; `field` names it when it holds a NUL itself.
    pub(crate) fn text(&mut self, field: &str, text: impl AsRef<[u8]>) -> Result<u64> {
        let text = text.as_ref();
        if text.contains(&0) {
            return Err(Error::spec(field, "contains a NUL byte"));
        }
        let at = self.data.len();
        self.data.extend_from_slice(text);
        self.data.push(0);
        Ok(wire::BASE + at as u64)
    }

    pub(crate) fn c(&mut self, text: &CStr) -> u64 {
        self.bytes(text.to_bytes_with_nul())
    }

    /// The empty string.
    pub(crate) fn empty(&self) -> u64 {
        self.empty
    }

    /// A null-terminated array of pointers.
    pub(crate) fn pointers(&mut self, pointers: &[u64]) -> u64 {
        let bytes: Vec<u8> = pointers.iter().chain(&[0]).flat_map(|p| p.to_ne_bytes()).collect();
        self.bytes(&bytes)
    }

    /// A null-terminated array of strings.
    pub(crate) fn texts<S: AsRef<str>>(&mut self, field: &str, texts: &[S]) -> Result<u64> {
        let pointers = texts.iter().map(|t| self.text(field, t.as_ref())).collect::<Result<Vec<_>>>()?;
        Ok(self.pointers(&pointers))
    }

    /// Adds a system call.
    pub(crate) fn call<const N: usize>(&mut self, name: &'static str, nr: i64, args: [Arg; N]) -> &mut Step {
        self.push(name, nr as u32, wire::SYSCALL, &args)
    }

    /// Adds an operation.
    pub(crate) fn op<const N: usize>(&mut self, name: &'static str, op: u32, args: [Arg; N]) -> &mut Step {
        self.push(name, op, wire::OP, &args)
    }

    fn push(&mut self, name: &'static str, nr: u32, kind: u8, args: &[Arg]) -> &mut Step {
        let mut step = Step {
            nr,
            kind,
            slots: 0,
            out: wire::NO_SLOT,
            pad: 0,
            forgive: [0; 2],
            skip_ok: 0,
            skip_err: 0,
            args: [0; 6],
        };
        for (i, (to, arg)) in step.args.iter_mut().zip(args).enumerate() {
            *to = match *arg {
                Arg::Value(v) => v,
                Arg::Slot(s) => {
                    step.slots |= 1 << i;
                    u64::from(s)
                }
            };
        }
        self.names.push((self.labels.len() as u32 - 1, name));
        self.steps.push(step);
        self.steps.last_mut().expect("just pushed")
    }

    /// Index of the next step.
    pub(crate) fn next(&self) -> u32 {
        self.steps.len() as u32
    }

    /// After its compilation, sets how many steps the step `index` leaves out after a forgiven error: up to here.
    pub(crate) fn skip_err_to_here(&mut self, index: u32) {
        let here = self.steps.len();
        if let Some(step) = self.steps.get_mut(index as usize) {
            step.skip_err = (here - 1 - index as usize) as u16;
        }
    }

    /// The next step looks for the container's program, or executes it.
    pub(crate) fn set_exec(&mut self, program: &str) {
        let step = self.next();
        self.exec_steps.push(step);
        program.clone_into(&mut self.program);
    }

    /// The next step runs a hook.
    pub(crate) fn set_hook(&mut self, kind: &'static str, path: &Path) {
        self.hooks.push((self.next(), Cow::Borrowed(kind), path.to_owned()));
    }

    pub(crate) fn close(&mut self, slot: u8) {
        self.call("close", libc::SYS_close, [Arg::Slot(slot)]);
    }

    pub(crate) fn finish(mut self, status: RawFd) -> Plan {
        let steps: Vec<u8> = self.steps.iter().flat_map(|s| crate::sys::bytes_of(s).to_vec()).collect();
        let header = Header { steps: self.bytes(&steps), count: self.steps.len() as u32, status };
        if let Some(head) = self.data.get_mut(..size_of::<Header>()) {
            head.copy_from_slice(crate::sys::bytes_of(&header));
        }
        let steps = self.names.into_iter().map(|(label, name)| (label, Cow::Borrowed(name))).collect();
        let Self { labels, exec_steps, program, hooks, .. } = self;
        Plan { bytes: self.data, faults: Faults { first: 0, labels, steps, exec_steps, program, hooks } }
    }
}

/// A plan of no steps: its process ends at once.
pub(crate) fn nothing() -> Vec<u8> {
    Builder::new().finish(-1).bytes
}

/// A plan that waits for one answer on the socket.
pub(crate) fn waiting(status: RawFd) -> Vec<u8> {
    let mut b = Builder::new();
    b.op("wait", wire::op::SYNC, [wire::msg::MAPS.into(), 0.into()]);
    b.finish(status).bytes
}

/// Comfort on a step just added.
pub(crate) trait StepExt {
    fn out(&mut self, slot: u8) -> &mut Self;
    fn forgive(&mut self, errno: i32) -> &mut Self;
}
impl StepExt for Step {
    fn out(&mut self, slot: u8) -> &mut Self {
        self.out = slot;
        self
    }
    fn forgive(&mut self, errno: i32) -> &mut Self {
        let free = usize::from(self.forgive[0] != 0);
        self.forgive[free] = errno as u16;
        self
    }
}
