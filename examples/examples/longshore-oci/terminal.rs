//! A container's terminal in the foreground: bytes both ways, the size, raw mode while it lasts.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use longshore_runtime::console;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::SIGWINCH;

/// Raw mode of our own terminal, and back.
pub(crate) struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Self {
        let before = io::stdin().is_terminal().then(|| tcgetattr(io::stdin()).ok()).flatten();
        if let Some(mut termios) = before.clone() {
            termios.make_raw();
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &termios);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Connects our standard streams with the terminal; the guard ends raw mode.
pub(crate) fn attach(console: OwnedFd) -> io::Result<(Raw, std::thread::JoinHandle<()>)> {
    let (mut output, size) = (File::from(console.try_clone()?), console.try_clone()?);
    let mut input = File::from(console);
    resize(&size);
    on_signal(SIGWINCH, move || resize(&size))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = io::stdin().read(&mut buffer) {
            if input.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
                break;
            }
        }
    });
    let copy = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // EIO is how a terminal says that its other side is closed.
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            let mut stdout = io::stdout().lock();
            if stdout.write_all(buffer.get(..n).unwrap_or_default()).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
    });
    Ok((Raw::new(), copy))
}

fn resize(console: &impl AsFd) {
    if let Ok(size) = tcgetwinsize(io::stdin()) {
        let _ = console::resize(console, size.ws_row, size.ws_col);
    }
}

/// Calls back for every arrival of a signal, on a thread of its own.
pub(crate) fn on_signal(signal: i32, mut call: impl FnMut() + Send + 'static) -> io::Result<()> {
    let (mut read, write) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal, write)?;
    std::thread::spawn(move || {
        while let Ok(1) = read.read(&mut [0]) {
            call();
        }
    });
    Ok(())
}
