//! The least of a web server and client, for machines without busybox: this program does their work in the container.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use longshore_examples::Result;

/// When the program was called by one of the names that stand for busybox's applets, does their work.
#[expect(clippy::print_stdout, reason = "the applets' output")]
pub(crate) fn main() -> Option<ExitCode> {
    let mut args = std::env::args();
    let name = args.next()?;
    let last = args.next_back().unwrap_or_default();
    let done = match Path::new(&name).file_name()?.to_str()? {
        // httpd -f -p 80 -h /www
        "httpd" => serve(Path::new(&last)),
        // wget -q -O - http://127.0.0.1:80/
        "wget" => get(last.trim_start_matches("http://").trim_end_matches('/')).map(|page| print!("{page}")),
        "id" => {
            println!("{}", rustix::process::getuid().as_raw());
            Ok(())
        }
        "hostname" => {
            println!("{}", rustix::system::uname().nodename().to_string_lossy());
            Ok(())
        }
        _ => return None,
    };
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fetches `/` from `address`.
pub(crate) fn get(address: &str) -> Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(connection, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.contains(" 200 ") {
        Ok(body.to_owned())
    } else {
        Err(head.lines().next().unwrap_or_default().into())
    }
}

fn serve(directory: &Path) -> Result<()> {
    for connection in TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))?.incoming() {
        let mut connection = connection?;
        let lines = BufReader::new(connection.try_clone()?).lines();
        if lines.map_while(std::result::Result::ok).any(|line| line.is_empty()) {
            let page = std::fs::read(directory.join("index.html"))?;
            write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len())?;
            connection.write_all(&page)?;
        }
    }
    Ok(())
}
