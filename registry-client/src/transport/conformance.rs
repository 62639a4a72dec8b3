//! What every [`Transport`] must do, as checks that any implementation can run in its tests.
//!
//! Each check starts a small server on loopback, and says in its error which rule was broken.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{AddressClasses, Body, Headers, Method, Request, Response, Transport, TransportErrorKind};
use crate::{CancelToken, Url};

/// A broken rule, in words.
pub type Outcome = Result<(), String>;

/// Runs all checks. The transport's stall and response timeouts must be set to at most two seconds, or this takes long.
pub fn all(transport: &dyn Transport) -> Outcome {
    statuses_are_replies(transport)?;
    bodies_are_sent_with_their_length(transport)?;
    nothing_is_added_or_decoded(transport)?;
    short_bodies_are_errors(transport)?;
    addresses_are_heeded(transport)?;
    silence_times_out(transport)?;
    cancellation_ends_the_wait(transport)
}

/// Redirects and errors come back as they are.
pub fn statuses_are_replies(transport: &dyn Transport) -> Outcome {
    for status in ["301 X", "307 X", "401 X", "404 X", "503 X"] {
        let server = Server::start(vec![Act::Reply(format!(
            "HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:1/\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\nhi"
        ))])?;
        let mut reply = get(transport, &server.url, &CancelToken::new())?;
        let mut body = String::new();
        reply
            .body
            .read_to_string(&mut body)
            .map_err(|e| format!("the body of a {status} cannot be read: {e}"))?;
        if !status.starts_with(&reply.status.to_string())
            || body != "hi"
            || reply.headers.get("retry-after") != Some("1")
        {
            return Err(format!("a {status} did not come back as it is"));
        }
    }
    Ok(())
}

/// A body has its length, and is empty where there is none.
pub fn bodies_are_sent_with_their_length(transport: &dyn Transport) -> Outcome {
    let mut long = io::Cursor::new(vec![7; 200_000]);
    let bodies: [(Body<'_>, usize); 3] = [
        (Body::Empty, 0),
        (Body::Bytes(bytes::Bytes::from_static(b"abc")), 3),
        (Body::Reader { reader: &mut long, size: 150_000 }, 150_000),
    ];
    for (body, size) in bodies {
        let server = Server::start(vec![Act::Reply(OK.into())])?;
        let (headers, cancel) = (Headers::new(), CancelToken::new());
        let request = Request::new(Method::Post, &server.url, &headers, &cancel);
        transport.send(&request, body).map_err(|e| format!("a POST of {size} bytes failed: {e}"))?;
        let seen = server.seen()?;
        if !seen.head.contains(&format!("content-length: {size}\n")) || seen.body != size {
            return Err(format!("a POST of {size} bytes came as {} with {} bytes", seen.head, seen.body));
        }
    }
    Ok(())
}

/// No credential, no encoding beside what was asked for; an encoded body is not decoded.
pub fn nothing_is_added_or_decoded(transport: &dyn Transport) -> Outcome {
    let server = Server::start(vec![Act::Reply(
        "HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\u{1f}abc".into(),
    )])?;
    let mut reply = get(transport, &server.url, &CancelToken::new())?;
    let mut body = Vec::new();
    let read = reply.body.read_to_end(&mut body);
    let head = server.seen()?.head;
    match (read, head.contains("authorization:") || head.contains("cookie:")) {
        (_, true) => Err(format!("a credential was added: {head}")),
        (Ok(_), _) if body == b"\x1fabc" => Ok(()),
        (read, _) => Err(format!("an encoded body did not come as it is: {read:?} {body:?}")),
    }
}

/// A body that ends before its length or its last chunk is an error.
pub fn short_bodies_are_errors(transport: &dyn Transport) -> Outcome {
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let server =
            Server::start(vec![Act::Reply(format!("HTTP/1.1 200 X\r\n{head}\r\n\r\n5\r\nab")), Act::Close])?;
        let mut reply = get(transport, &server.url, &CancelToken::new())?;
        if reply.body.read_to_end(&mut Vec::new()).is_ok() {
            return Err(format!("a body cut short ({head}) ended as if it were whole"));
        }
    }
    Ok(())
}

/// No connection to an address outside of [`Request::addresses`].
pub fn addresses_are_heeded(transport: &dyn Transport) -> Outcome {
    let server = Server::start(vec![Act::Reply(OK.into())])?;
    let named = format!("http://localhost:{}/", server.url.origin().port);
    let named = Url::parse(&named).map_err(|e| e.to_string())?;
    for url in [&server.url, &named] {
        let (headers, cancel) = (Headers::new(), CancelToken::new());
        let mut request = Request::new(Method::Get, url, &headers, &cancel);
        request.addresses = AddressClasses::GLOBAL;
        match transport.send(&request, Body::Empty) {
            Err(e) if matches!(e.kind, TransportErrorKind::Forbidden | TransportErrorKind::Lookup) => {}
            other => return Err(format!("{url} was reached, or failed for another reason: {other:?}")),
        }
    }
    Ok(())
}

/// A server that says nothing, or stops in the middle, ends in a timeout.
pub fn silence_times_out(transport: &dyn Transport) -> Outcome {
    let server = Server::start(vec![Act::Wait])?;
    match transport
        .send(&Request::new(Method::Get, &server.url, &Headers::new(), &CancelToken::new()), Body::Empty)
    {
        Err(e) if e.kind == TransportErrorKind::Timeout => {}
        other => return Err(format!("silence before the reply: {other:?}")),
    }
    let server =
        Server::start(vec![Act::Reply("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nab".into()), Act::Wait])?;
    let mut reply = get(transport, &server.url, &CancelToken::new())?;
    match reply.body.read_to_end(&mut Vec::new()) {
        Err(e) if super::classify_io(&e) == TransportErrorKind::Timeout => Ok(()),
        other => Err(format!("silence in the body: {other:?}")),
    }
}

/// Raising [`Request::cancel`] ends both waits soon.
pub fn cancellation_ends_the_wait(transport: &dyn Transport) -> Outcome {
    let begun = Instant::now();
    for acts in [
        vec![Act::Wait],
        vec![Act::Reply("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nab".into()), Act::Wait],
    ] {
        let server = Server::start(acts)?;
        let cancel = CancelToken::new();
        let raise = cancel.clone();
        let raiser = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            raise.cancel();
        });
        let ended = match get(transport, &server.url, &cancel) {
            Ok(mut reply) => reply.body.read_to_end(&mut Vec::new()).is_err(),
            Err(_) => true,
        };
        let _ = raiser.join();
        if !ended || begun.elapsed() > Duration::from_secs(5) {
            return Err("a cancelled exchange went on".into());
        }
    }
    let cancel = CancelToken::new();
    cancel.cancel();
    let server = Server::start(vec![Act::Reply(OK.into())])?;
    match get(transport, &server.url, &cancel) {
        Err(_) => Ok(()),
        Ok(_) => Err("an exchange that was cancelled before it began was made".into()),
    }
}

const OK: &str = "HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n";

fn get(transport: &dyn Transport, url: &Url, cancel: &CancelToken) -> Result<Response, String> {
    let headers = Headers::new();
    let request = Request::new(Method::Get, url, &headers, cancel);
    transport.send(&request, Body::Empty).map_err(|e| format!("GET {url} failed: {e} ({:?})", e.source))
}

enum Act {
    Reply(String),
    Wait,
    Close,
}

struct Seen {
    /// Lower case, one header a line.
    head: String,
    body: usize,
}

/// Serves one connection.
struct Server {
    url: Url,
    seen: Receiver<Seen>,
}

impl Server {
    fn start(acts: Vec<Act>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("the check's own server: {e}");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let url = Url::parse(&format!("http://{address}/")).map_err(|e| e.to_string())?;
        let (tell, seen) = channel();
        std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            if let Ok(request) = read(&stream) {
                let _ = tell.send(request);
            }
            for act in acts {
                match act {
                    Act::Reply(text) => drop(stream.write_all(text.as_bytes())),
                    Act::Close => drop(stream.shutdown(std::net::Shutdown::Both)),
                    // Until the other side gives up.
                    Act::Wait => drop(stream.read(&mut [0])),
                }
            }
            // What was sent must arrive before the end does.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        Ok(Self { url, seen })
    }

    fn seen(&self) -> Result<Seen, String> {
        self.seen.recv_timeout(Duration::from_secs(5)).map_err(|_| "no request arrived".into())
    }
}

fn read(stream: &TcpStream) -> io::Result<Seen> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        head += &line;
        head.push('\n');
    }
    let body = io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(Seen { head, body: usize::try_from(body).unwrap_or(usize::MAX) })
}
