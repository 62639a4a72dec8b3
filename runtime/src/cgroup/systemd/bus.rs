//! As much of D-Bus as calling systemd takes (D-Bus Specification, "Message Protocol" and "Authentication Protocol"): method calls, one at
//! a time, over a Unix socket, and the signals that come meanwhile.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::message::{Message, Reader, Writer, kind};
use crate::error::{Error, Result};

/// So long systemd may think about one thing; runc waits as long.
const PATIENCE: Duration = Duration::from_secs(30);
/// No answer of systemd's comes near this.
const LONGEST: usize = 1 << 20;

/// Where a method is.
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// A refusal: a D-Bus error name, and a text.
pub(super) struct Refusal {
    pub(super) name: String,
    pub(super) text: String,
}

/// A connection to a message bus.
pub(super) struct Bus {
    socket: UnixStream,
    serial: u32,
    /// Signals that came before the answer that was waited for.
    signals: Vec<Message>,
}

impl Bus {
    /// Connects as the user that this process is to the kernel.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let error = Error::os(format!("connect to systemd by the bus at {}", path.display()));
        let connect = || {
            let mut socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            authenticate(&mut socket)?;
            Ok(socket)
        };
        let mut bus = Self { socket: connect().map_err(error)?, serial: 0, signals: Vec::new() };
        bus.call_bus("Hello", |_| {}, "")?;
        Ok(bus)
    }

    /// Asks for signals that match a rule.
    pub(super) fn subscribe(&mut self, rule: &str) -> Result<()> {
        self.call_bus("AddMatch", |body| body.string(rule), "s")
    }

    fn call_bus(&mut self, member: &str, body: impl FnOnce(&mut Writer), signature: &str) -> Result<()> {
        let method = Method {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
        };
        match self.call(&method, signature, body)? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.error(member)),
        }
    }

    /// Calls a method with the arguments that `body` writes, of this signature, and waits for the answer.
    pub(super) fn call(
        &mut self,
        method: &Method<'_>,
        signature: &str,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Result<Message, Refusal>> {
        let mut arguments = Writer::default();
        body(&mut arguments);
        self.serial += 1;
        let serial = self.serial;
        let bytes = Message::call(method, serial, signature, &arguments.0);
        let error = || Error::os(format!("ask systemd for {}", method.member));
        self.socket.write_all(&bytes).map_err(error())?;
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(until).map_err(error())?;
            match message.kind {
                kind::SIGNAL => self.signals.push(message),
                kind::RETURN if message.reply_to == Some(serial) => return Ok(Ok(message)),
                kind::ERROR if message.reply_to == Some(serial) => {
                    let text = Reader::new(&message.body).string().unwrap_or_default().to_owned();
                    let name = message.error.unwrap_or_default();
                    return Ok(Err(Refusal { name, text }));
                }
                _ => {}
            }
        }
    }

    /// Waits for the signal that `pick` makes something of.
    pub(super) fn signal<T>(&mut self, what: &str, pick: impl Fn(&Message) -> Option<T>) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        let came = std::mem::take(&mut self.signals);
        if let Some(found) = came.iter().find_map(&pick) {
            return Ok(found);
        }
        loop {
            let message = self.receive(until).map_err(Error::os(format!("wait for {what} of systemd's")))?;
            if message.kind == kind::SIGNAL
                && let Some(found) = pick(&message)
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, until: Instant) -> io::Result<Message> {
        if Instant::now() > until {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut bytes = vec![0; Message::HEAD];
        self.socket.read_exact(&mut bytes)?;
        let length = Message::length(&bytes).filter(|length| (bytes.len()..=LONGEST).contains(length));
        let length = length.ok_or(ErrorKind::InvalidData)?;
        let head = bytes.len();
        bytes.resize(length, 0);
        self.socket.read_exact(bytes.get_mut(head..).unwrap_or_default())?;
        Message::parse(&bytes).ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

impl Refusal {
    /// There is no such unit.
    pub(super) fn is_no_unit(&self) -> bool {
        self.name == "org.freedesktop.systemd1.NoSuchUnit"
    }

    /// A unit of that name is loaded.
    pub(super) fn is_unit_exists(&self) -> bool {
        self.name == "org.freedesktop.systemd1.UnitExists"
    }

    pub(super) fn error(self, action: &str) -> Error {
        Error::Systemd { action: action.to_owned(), reason: format!("{} ({})", self.text, self.name) }
    }
}

/// EXTERNAL without naming a user: the bus asks the kernel who is there, which holds in a user namespace, too.
fn authenticate(socket: &mut UnixStream) -> io::Result<()> {
    socket.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
    let mut said = Vec::new();
    // `DATA`, then `OK` with the bus's ID, or a refusal; a bus says nothing more before it is asked.
    while said.iter().filter(|byte| **byte == b'\n').count() < 2 {
        let mut part = [0; 256];
        let n = socket.read(&mut part)?;
        said.extend(part.iter().take(n));
        if n == 0 || said.len() > 1024 || said.starts_with(b"REJECTED") {
            return Err(ErrorKind::PermissionDenied.into());
        }
    }
    let second = said.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    if second.starts_with(b"OK") { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
}
