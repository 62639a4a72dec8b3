//! Terminals: passing one to another process, and its size.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Context, Result};

/// Sets the size of a terminal, in characters. Its processes get `SIGWINCH`.
pub fn resize(console: &impl AsFd, rows: u16, columns: u16) -> Result<()> {
    tcsetwinsize(console, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
        .context("set the terminal's size")
}

/// Passes a terminal's controlling side to whoever listens on the socket: runc's `--console-socket`.
pub fn send(socket: &Path, console: &OwnedFd) -> Result<()> {
    pass(socket, b"/dev/ptmx", console, "pass the terminal to the console socket")
}

/// One message with one descriptor to a stream socket.
pub(crate) fn pass(path: &Path, message: &[u8], fd: &impl AsFd, what: &str) -> Result<()> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).context(what)?;
    connect(&socket, &SocketAddrUnix::new(path).context(what)?).context(what)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let fds = [fd.as_fd()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(&socket, &[std::io::IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)
        .context(what)?;
    let rest = message.get(sent..).unwrap_or_default();
    std::io::Write::write_all(&mut std::fs::File::from(socket), rest).context(what)
}
