//! DNS over TCP (RFC 7766): a thread per connection, few at a time, each for a short while.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::forward::Upstreams;
use super::message::{self, Step};
use super::names::Names;

/// Connections at once; another is closed at once.
const MOST: usize = 16;
/// How long a client may take to say something.
const IDLE: Duration = Duration::from_secs(5);

/// The connections of a server; dropping it ends them.
pub(super) struct Connections(Arc<Mutex<Vec<Arc<TcpStream>>>>);

impl Connections {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn serve(&self, stream: TcpStream, names: &Arc<[Arc<dyn Names>]>, upstreams: &Arc<Upstreams>) {
        let stream = Arc::new(stream);
        {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= MOST {
                return;
            }
            open.push(Arc::clone(&stream));
        }
        let (open, names, upstreams) = (Arc::clone(&self.0), Arc::clone(names), Arc::clone(upstreams));
        let ours = Arc::clone(&stream);
        let answer = move || {
            // How it ended is the client's affair.
            let _ = converse(&stream, &names, &upstreams);
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|other| !Arc::ptr_eq(other, &stream));
        };
        if std::thread::Builder::new().name("longshore-dns-tcp".into()).spawn(answer).is_err() {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|other| !Arc::ptr_eq(other, &ours));
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in &*open {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn converse(stream: &TcpStream, names: &[Arc<dyn Names>], upstreams: &Upstreams) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut turn = 0;
    loop {
        let query = read(stream)?;
        turn += 1;
        let servers = upstreams.list();
        let answer = match message::step(&query, names, !servers.is_empty(), turn) {
            Step::Answer(answer) => answer,
            Step::Forward => {
                let ask = |server: &SocketAddr| forward(&query, *server, upstreams).ok();
                let answers = || servers.iter().filter_map(ask);
                let settled = answers().find(|answer| message::settles(&query, answer) == Some(true));
                settled.unwrap_or_else(|| message::failure(&query))
            }
            Step::Ignore => return Ok(()),
        };
        write(stream, &answer)?;
    }
}

fn forward(query: &[u8], server: SocketAddr, upstreams: &Upstreams) -> io::Result<Vec<u8>> {
    let timeout = upstreams.timeout();
    let stream = upstreams.reach(server, || TcpStream::connect_timeout(&server, timeout))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write(&stream, query)?;
    let answer = read(&stream)?;
    if answer[..2] == query[..2] { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn read(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    if message.len() < 12 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(message) }
}

fn write(mut stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}
