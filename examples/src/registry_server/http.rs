//! As much of HTTP/1.1 as registry clients speak.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

/// The longest request line or header line, in bytes.
const LINE: u64 = 16 << 10;
/// The largest body, in bytes.
const BODY: u64 = 1 << 30;

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

pub(super) struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Arc<Vec<u8>>,
    range: std::ops::Range<usize>,
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Arc::default(), range: 0..0 }
    }

    /// An error in the distribution-spec's JSON.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Self::json(status, &body)
    }

    pub(super) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status)
            .header("Content-Type", "application/json")
            .body(Arc::new(body.to_string().into_bytes()))
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(self, body: Arc<Vec<u8>>) -> Self {
        let range = 0..body.len();
        Self { body, range, ..self }
    }

    /// Only these bytes of the body: an answer to `Range`.
    pub(super) fn range(self, range: std::ops::Range<usize>) -> Self {
        let content_range =
            format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), self.body.len());
        Self { range, ..self }.header("Content-Range", content_range)
    }
}

/// The next request, or `None` when the client has closed the connection.
pub(super) fn read_request(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
) -> io::Result<Option<Request>> {
    let line = read_line(reader)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return if line.is_empty() { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: unescape(path),
        query: query
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(n, v)| (unescape(n), unescape(v)))
            .collect(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if request.header("Expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue")) {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    request.body = read_body(reader, &request)?;
    Ok(Some(request))
}

fn read_body(reader: &mut impl BufRead, request: &Request) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if request.header("Transfer-Encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(reader)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            read_exactly(reader, size, &mut body)?;
            read_line(reader)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let size =
        request.header("Content-Length").map_or(Ok(0), str::parse).map_err(|_| io::ErrorKind::InvalidData)?;
    read_exactly(reader, size, &mut body)?;
    Ok(body)
}

fn read_exactly(reader: &mut impl BufRead, size: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if size > BODY.saturating_sub(body.len() as u64) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if reader.by_ref().take(size).read_to_end(body)? as u64 != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.by_ref().take(LINE).read_until(b'\n', &mut line)?;
    let line = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn write_response(writer: &mut impl Write, response: &Response, head: bool) -> io::Result<()> {
    let reason = match response.status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        404 => "Not Found",
        _ => "Error",
    };
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if response.status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", response.range.len()));
    }
    text.push_str("\r\n");
    writer.write_all(text.as_bytes())?;
    if !head {
        writer.write_all(&response.body[response.range.clone()])?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_of_both_body_kinds() {
        let input = b"PUT /v2/a%2Fb/x?digest=sha256%3Aff HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc\
            PATCH /y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n";
        let (mut reader, mut writer) = (&input[..], Vec::new());
        let put = read_request(&mut reader, &mut writer).unwrap().unwrap();
        assert_eq!((put.method.as_str(), put.path.as_str()), ("PUT", "/v2/a/b/x"));
        assert_eq!((put.query("digest"), put.body.as_slice()), (Some("sha256:ff"), &b"abc"[..]));
        assert!(writer.starts_with(b"HTTP/1.1 100 "));
        let patch = read_request(&mut reader, &mut writer).unwrap().unwrap();
        assert_eq!((patch.method.as_str(), patch.body.as_slice()), ("PATCH", &b"def"[..]));
        assert!(read_request(&mut reader, &mut writer).unwrap().is_none());
    }

    #[test]
    fn refuses_a_body_that_is_too_large_or_cut_short() {
        let huge = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", BODY + 1);
        assert!(read_request(&mut huge.as_bytes(), &mut Vec::new()).is_err());
        let short = b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc";
        assert!(read_request(&mut &short[..], &mut Vec::new()).is_err());
    }
}
