//! A registry that misbehaves on purpose: HTTP/1.1 over std's TCP, one thread per connection.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Memory, OCI_MANIFEST};

#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With the query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.target.split_once('?')?.1.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What a handler does with its request; headers of the body's length are its own affair.
pub struct Conn<'a> {
    pub stream: &'a mut TcpStream,
    pub body: Vec<u8>,
    pub keep: bool,
}

impl Conn<'_> {
    pub fn reply(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        self.head(status, headers, Some(body.len()));
        let _ = self.stream.write_all(body);
    }

    pub fn head(&mut self, status: u16, headers: &[(&str, &str)], length: Option<usize>) {
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(length) = length {
            head += &format!("content-length: {length}\r\n");
        }
        let _ = self.stream.write_all((head + "\r\n").as_bytes());
    }

    /// Ends the connection with a reset.
    pub fn reset(&mut self) {
        rustix::net::sockopt::set_socket_linger(&*self.stream, Some(Duration::ZERO)).unwrap();
        self.keep = false;
    }
}

type Handler = dyn Fn(&Seen, &mut Conn<'_>) + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen, &mut Conn<'_>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, over) = (Arc::clone(&seen), Arc::clone(&stop));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &*handler, &log));
            }
        });
        Self { address, seen, connections, stop }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|s| s.method == method && s.target.contains(part)).count()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn reference(&self, name: &str) -> longshore_registry_client::Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    /// No request with any kind of secret came here.
    #[track_caller]
    pub fn saw_no_secret(&self) {
        for seen in self.seen() {
            let leaked = seen.header("authorization").is_some()
                || seen.header("cookie").is_some()
                || seen.header("x-secret").is_some();
            assert!(!leaked && !seen.target.contains("s3cret"), "{seen:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Seen>>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let Some(mut seen) = read_head(&mut reader) else { return };
        let length = seen.header("content-length").and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
        let mut conn = Conn { stream: &mut stream, body: Vec::new(), keep: true };
        if seen.header("expect").is_some() && !seen.target.contains("no-continue") {
            let _ = conn.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        // Held back where the handler wants the body to break.
        if length > 0 && !seen.target.contains("no-continue") && !seen.target.contains("break-body") {
            conn.body = vec![0; length];
            if reader.read_exact(&mut conn.body).is_err() {
                return;
            }
            seen.body = length;
        }
        if seen.target.contains("break-body") {
            let mut some = vec![0; length / 2];
            let _ = reader.read_exact(&mut some);
            conn.body = some;
            seen.body = conn.body.len();
        }
        log.lock().unwrap().push(seen.clone());
        handler(&seen, &mut conn);
        if !conn.keep || seen.target.contains("break-body") {
            return;
        }
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Some(Seen { method, target, headers, body: 0 }),
        }
    }
}

/// A well-behaved registry in memory. Handlers of tests fall back on it.
#[derive(Default)]
pub struct Tame {
    pub memory: Memory,
    pub tags: Mutex<HashMap<String, Vec<u8>>>,
    pub uploads: Mutex<HashMap<String, Vec<u8>>>,
}

impl Tame {
    pub fn answer(&self, seen: &Seen, conn: &mut Conn<'_>) {
        let path = seen.path().to_owned();
        let last = path.rsplit('/').next().unwrap_or("").to_owned();
        match (seen.method.as_str(), path.as_str()) {
            (_, "/v2/") => conn.reply(200, &[], b"{}"),
            ("GET" | "HEAD", p) if p.contains("/manifests/") => self.manifest(seen, conn, &last),
            ("PUT", p) if p.contains("/manifests/") => {
                let digest = super::sha256(&conn.body);
                self.memory.0.lock().unwrap().insert(digest.clone(), conn.body.clone());
                self.tags.lock().unwrap().insert(last, conn.body.clone());
                conn.reply(201, &[("docker-content-digest", digest.as_ref())], b"");
            }
            ("GET" | "HEAD", p) if p.contains("/blobs/sha") => self.blob(seen, conn, &last),
            ("POST", p) if p.ends_with("/blobs/uploads/") => self.start(seen, conn),
            ("PUT" | "PATCH", p) if p.contains("/uploads/") => self.upload(seen, conn, &last),
            ("GET", p) if p.contains("/uploads/") => {
                let done = self.uploads.lock().unwrap().get(&last).map_or(0, Vec::len);
                conn.reply(
                    204,
                    &[("range", &format!("0-{}", done.saturating_sub(1))), ("location", &path)],
                    b"",
                );
            }
            ("DELETE", _) => conn.reply(202, &[], b""),
            ("GET", p) if p.ends_with("/tags/list") => {
                conn.reply(200, &[], br#"{"name":"x","tags":["a","b"]}"#);
            }
            _ => conn.reply(404, &[], br#"{"errors":[{"code":"NOT_FOUND","message":"nothing here"}]}"#),
        }
    }

    fn manifest(&self, seen: &Seen, conn: &mut Conn<'_>, name: &str) {
        let by_digest = name.parse().ok().and_then(|d| self.memory.get(&d));
        let Some(bytes) = by_digest.or_else(|| self.tags.lock().unwrap().get(name).cloned()) else {
            return missing(
                seen,
                conn,
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such manifest"}]}"#,
            );
        };
        let media_type = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|v| v["mediaType"].as_str().map(str::to_owned))
            .unwrap_or(OCI_MANIFEST.into());
        let digest = super::sha256(&bytes);
        conn.head(
            200,
            &[("content-type", &media_type), ("docker-content-digest", digest.as_ref())],
            Some(bytes.len()),
        );
        if seen.method == "GET" {
            let _ = conn.stream.write_all(&bytes);
        }
    }

    fn blob(&self, seen: &Seen, conn: &mut Conn<'_>, name: &str) {
        let Some(bytes) = name.parse().ok().and_then(|d| self.memory.get(&d)) else {
            return missing(seen, conn, br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no such blob"}]}"#);
        };
        let (status, start) = match range_start(seen) {
            Some(start) => (206, start),
            None => (200, 0),
        };
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        conn.head(
            status,
            &[("etag", "\"v1\""), ("content-range", &range)][..if start > 0 { 2 } else { 1 }],
            Some(bytes.len() - start),
        );
        if seen.method == "GET" {
            let _ = conn.stream.write_all(&bytes[start..]);
        }
    }

    fn start(&self, seen: &Seen, conn: &mut Conn<'_>) {
        let there =
            seen.query("mount").and_then(|d| d.parse().ok()).is_some_and(|d| self.memory.get(&d).is_some());
        if there {
            return conn.reply(201, &[], b"");
        }
        let mut uploads = self.uploads.lock().unwrap();
        let id = format!("u{}", uploads.len());
        uploads.insert(id.clone(), Vec::new());
        conn.reply(202, &[("location", &format!("{}{id}?state=s3cret", seen.path()))], b"");
    }

    fn upload(&self, seen: &Seen, conn: &mut Conn<'_>, id: &str) {
        let mut uploads = self.uploads.lock().unwrap();
        let Some(upload) = uploads.get_mut(id) else { return conn.reply(404, &[], b"") };
        if let Some(range) = seen.header("content-range") {
            let start: usize = range.split('-').next().unwrap().parse().unwrap();
            if start != upload.len() {
                return conn.reply(416, &[("range", &format!("0-{}", upload.len().saturating_sub(1)))], b"");
            }
        }
        upload.extend_from_slice(&conn.body);
        if seen.method == "PATCH" {
            let range = format!("0-{}", upload.len() - 1);
            return conn.reply(202, &[("location", &seen.target), ("range", &range)], b"");
        }
        let digest = super::sha256(upload);
        if seen.query("digest") != Some(digest.as_ref()) {
            return conn.reply(400, &[], br#"{"errors":[{"code":"DIGEST_INVALID","message":"not that"}]}"#);
        }
        let bytes = uploads.remove(id).unwrap();
        self.memory.0.lock().unwrap().insert(digest, bytes);
        conn.reply(201, &[], b"");
    }
}

/// A body after HEAD would spoil the connection, and with it the count of requests.
fn missing(seen: &Seen, conn: &mut Conn<'_>, why: &[u8]) {
    conn.reply(404, &[], if seen.method == "HEAD" { b"" } else { why });
}

pub fn range_start(seen: &Seen) -> Option<usize> {
    seen.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
