//! An attached client's connection to a container's shim.

use super::Result;

/// A connection that carries a container's standard streams. Dropped: detached, the container runs on.
#[derive(Debug)]
pub struct Stream {}

/// What comes over a [`Stream`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Bytes of standard output (all bytes of a terminal).
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The process ended with this code; nothing more comes.
    Exited(i32),
}

impl Stream {
    /// Waits for the next; `None`: the connection is gone, and with it the shim.
    pub fn recv(&mut self) -> Result<Option<Output>> {
        todo!()
    }
    /// Writes to its standard input.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        todo!()
    }
    /// Ends its standard input.
    pub fn close_stdin(&mut self) -> Result<()> {
        todo!()
    }
    /// Tells the size of the client's terminal.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let _ = (columns, rows);
        todo!()
    }
    /// Sends a signal to its process.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        let _ = signal;
        todo!()
    }
}
