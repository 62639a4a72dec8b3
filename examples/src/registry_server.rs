//! A small registry in memory, for the quickstart and for tests: the pull and push half of the OCI
//! [distribution-spec], on a loopback port, gone when it is dropped. Not a product: no storage, no users, no TLS.
//!
//! [distribution-spec]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md

mod http;
mod state;

use std::io::{self, BufReader};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use http::{Request, Response};
use state::State;

/// A registry that listens on a free loopback port until it is dropped.
#[derive(Debug)]
pub struct RegistryServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl RegistryServer {
    /// Starts it.
    ///
    /// # Errors
    /// When no loopback port can be had.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens: `127.0.0.1:PORT`, the registry part of image names.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // The acceptor sits in accept(2): one more connection wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        if let Ok(clone) = connection.try_clone() {
            lock(&shared.connections).push(clone);
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(connection, &shared));
    }
}

/// Answers one connection's requests until either side closes it.
fn serve(connection: TcpStream, shared: &Shared) {
    let _ = connection.set_nodelay(true);
    let Ok(mut writer) = connection.try_clone() else { return };
    let mut reader = BufReader::new(connection);
    while let Ok(Some(request)) = http::read_request(&mut reader, &mut writer) {
        let head = request.method == "HEAD";
        let response = answer(&request, &shared.state);
        if http::write_response(&mut writer, &response, head).is_err() {
            return;
        }
    }
    let _ = writer.shutdown(Shutdown::Both);
}

/// Routes by the end of the path: names have any number of slashes.
fn answer(request: &Request, state: &Mutex<State>) -> Response {
    let Some(path) = request.path.strip_prefix("/v2/") else {
        return Response::new(404);
    };
    let mut state = lock(state);
    if path.is_empty() {
        return Response::new(200).header("Docker-Distribution-Api-Version", "registry/2.0");
    }
    if path == "_catalog" {
        return state.catalog();
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        return state.tags(name);
    }
    if let Some((name, id)) = path.split_once("/blobs/uploads/") {
        return state.upload(name, id, request);
    }
    if let Some((name, digest)) = path.rsplit_once("/blobs/") {
        return state.blob(name, digest, request);
    }
    if let Some((name, reference)) = path.rsplit_once("/manifests/") {
        return state.manifest(name, reference, request);
    }
    Response::new(404)
}

/// A poisoned lock means that another connection's thread panicked; the map itself is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
