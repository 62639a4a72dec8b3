//! A container's terminal in the foreground: bytes both ways, the size, raw mode while it lasts.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use longshore_runtime::console;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode of our own terminal, and back.
struct Raw(Option<Termios>);

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

/// Our standard streams, connected with a container's terminal.
pub(crate) struct Attached {
    /// Ends raw mode.
    _raw: Raw,
    output: std::thread::JoinHandle<()>,
    size: OwnedFd,
}

impl Attached {
    /// Our own terminal has changed its size.
    pub(crate) fn resize(&self) {
        resize(&self.size);
    }

    /// Waits until the last of the output has been copied.
    pub(crate) fn finish(self) {
        // It does not panic; and there would be nothing to do about it.
        let _ = self.output.join();
    }
}

/// Connects our standard streams with the terminal.
pub(crate) fn attach(console: OwnedFd) -> io::Result<Attached> {
    let (mut output, size) = (File::from(console.try_clone()?), console.try_clone()?);
    let mut input = File::from(console);
    resize(&size);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = io::stdin().read(&mut buffer) {
            if input.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
                break;
            }
        }
    });
    let output = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // EIO is how a terminal says that its other side is closed.
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            let mut stdout = io::stdout().lock();
            if stdout.write_all(buffer.get(..n).unwrap_or_default()).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
    });
    Ok(Attached { _raw: Raw::new(), output, size })
}

fn resize(console: &impl AsFd) {
    if let Ok(size) = tcgetwinsize(io::stdin()) {
        let _ = console::resize(console, size.ws_row, size.ws_col);
    }
}
