//! A link of 20 ms and 1 Gbit/s, made of threads. It runs in a process of its own: its buffers must not be in the figures of others.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_benches::BoxError;

/// Bytes per second, and one way's delay.
const RATE: f64 = 125e6;
const DELAY: Duration = Duration::from_millis(10);

/// The link's process, ended when dropped.
pub(crate) struct Link {
    child: Child,
    pub(crate) address: String,
}

impl Link {
    pub(crate) fn start(to: &str) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .env("LONGSHORE_BENCH_JOB", "link")
            .env("LONGSHORE_BENCH_REFERENCE", to)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut address)?;
        }
        Ok(Self { child, address: address.trim().to_owned() })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does: all that comes goes on, late and not too fast, over all connections.
#[expect(clippy::print_stdout, reason = "says where it listens")]
pub(crate) fn run(to: &str) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (up, down) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
    for near in listener.incoming().flatten() {
        let Ok(far) = TcpStream::connect(to) else { continue };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let pairs = [
            (near.try_clone(), far.try_clone(), &up, DELAY * 2),
            (far.try_clone(), near.try_clone(), &down, Duration::ZERO),
        ];
        for (from, to, lane, handshake) in pairs {
            let (Ok(from), Ok(to), lane) = (from, to, Arc::clone(lane)) else { continue };
            std::thread::spawn(move || lane.carry(from, to, handshake));
        }
    }
    Ok(())
}

/// One direction of the link.
#[derive(Default)]
struct Lane {
    free: Mutex<Option<Instant>>,
}

impl Lane {
    fn carry(&self, mut from: TcpStream, to: TcpStream, handshake: Duration) {
        // As much as is on its way at that rate and delay.
        let (send, receive) = sync_channel::<(Instant, Vec<u8>)>(64);
        let writer = std::thread::spawn(move || deliver(&receive, to));
        // The handshake of a real link costs a round trip before the first byte.
        let earliest = Instant::now() + handshake;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || send.send((self.slot(n, earliest) + DELAY, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
        drop(send);
        let _ = writer.join();
        let _ = from.shutdown(Shutdown::Read);
    }

    /// When the last of these bytes has left.
    fn slot(&self, bytes: usize, earliest: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(earliest, |f| f.max(earliest)).max(Instant::now());
        let end = begin + Duration::from_secs_f64(bytes as f64 / RATE);
        *free = Some(end);
        end
    }
}

fn deliver(receive: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, bytes) in receive {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
