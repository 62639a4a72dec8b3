//! SOCKS5 (RFC 1928) with user names and passwords (RFC 1929).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::addresses::Addresses;
use crate::ctx::CANCEL_POLL;

/// A proxy to connect through.
pub(super) struct Socks {
    host: String,
    port: u16,
    login: Option<(String, String)>,
    /// The proxy looks names up (`socks5h`).
    pub(super) resolves: bool,
}

/// Where to: an address, or a name for the proxy to look up.
pub(super) enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

impl Socks {
    /// `socks5[h]://[user:password@]host[:port]`; `None` for another kind of proxy.
    pub(super) fn parse(url: &str) -> Option<Result<Self, &'static str>> {
        let (scheme, rest) = url.split_once("://")?;
        let resolves = match scheme.to_ascii_lowercase().as_str() {
            "socks5" | "socks" => false,
            "socks5h" => true,
            _ => return None,
        };
        Some(Self::after_scheme(rest.trim_end_matches('/'), resolves))
    }

    fn after_scheme(rest: &str, resolves: bool) -> Result<Self, &'static str> {
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login.split_once(':').unwrap_or((login, ""))), place),
            None => (None, rest),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| "the proxy's port is not a number")?)
            }
            _ => (place, 1080),
        };
        let host = host.trim_matches(['[', ']']);
        if host.is_empty() {
            return Err("the proxy has no host");
        }
        let login = match login {
            Some((user, password)) => {
                let (user, password) = (decoded(user), decoded(password));
                if user.is_empty() || user.len() > 255 || password.len() > 255 {
                    return Err("the proxy's login is empty or too long");
                }
                Some((user, password))
            }
            None => None,
        };
        Ok(Self { host: host.to_owned(), port, login, resolves })
    }

    /// A connection through the proxy.
    pub(super) fn connect(
        &self,
        addresses: &Addresses,
        target: &Target,
        patience: Duration,
    ) -> io::Result<TcpStream> {
        let until = Instant::now() + patience;
        let found = addresses.get(&self.host, self.port)?;
        let address = found.first().ok_or(io::ErrorKind::HostUnreachable)?;
        let stream = TcpStream::connect_timeout(address, patience)
            .inspect_err(|_| addresses.forget(&self.host, self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CANCEL_POLL))?;
        stream.set_write_timeout(Some(patience))?;
        let mut talk = Talk { stream, until };
        self.log_in(&mut talk)?;
        talk.say(&request(target)?)?;
        let [_, status, _, kind] = talk.hear()?;
        match status {
            0 => {}
            2 => return Err(refused("the proxy does not allow it")),
            3..=6 => return Err(io::Error::new(io::ErrorKind::HostUnreachable, "the proxy cannot reach it")),
            _ => return Err(refused("the proxy refuses")),
        }
        // The address that it uses itself, of no interest.
        let left = match kind {
            1 => 4,
            3 => usize::from(talk.hear::<1>()?[0]),
            4 => 16,
            _ => return Err(refused("the proxy does not speak SOCKS 5")),
        };
        for _ in 0..left + 2 {
            talk.hear::<1>()?;
        }
        Ok(talk.stream)
    }

    fn log_in(&self, talk: &mut Talk) -> io::Result<()> {
        const NONE: u8 = 0;
        const PASSWORD: u8 = 2;
        let offer = if self.login.is_some() { PASSWORD } else { NONE };
        talk.say(&[5, 1, offer])?;
        let [version, chosen] = talk.hear()?;
        match (version, &self.login) {
            (5, None) if chosen == NONE => Ok(()),
            (5, Some((user, password))) if chosen == PASSWORD => {
                let mut login = vec![1, byte(user.len())];
                login.extend_from_slice(user.as_bytes());
                login.push(byte(password.len()));
                login.extend_from_slice(password.as_bytes());
                talk.say(&login)?;
                let [_, status] = talk.hear()?;
                if status == 0 { Ok(()) } else { Err(refused("the proxy does not take the login")) }
            }
            (5, _) => Err(refused("the proxy wants another kind of login")),
            _ => Err(refused("the proxy does not speak SOCKS 5")),
        }
    }
}

fn request(target: &Target) -> io::Result<Vec<u8>> {
    let mut bytes = vec![5, 1, 0];
    let port = match target {
        Target::Address(SocketAddr::V4(v4)) => {
            bytes.push(1);
            bytes.extend_from_slice(&v4.ip().octets());
            v4.port()
        }
        Target::Address(SocketAddr::V6(v6)) => {
            bytes.push(4);
            bytes.extend_from_slice(&v6.ip().octets());
            v6.port()
        }
        Target::Name(name, port) => {
            let length = u8::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            bytes.extend_from_slice(&[3, length]);
            bytes.extend_from_slice(name.as_bytes());
            *port
        }
    };
    bytes.extend_from_slice(&port.to_be_bytes());
    Ok(bytes)
}

struct Talk {
    stream: TcpStream,
    until: Instant,
}

impl Talk {
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn hear<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (mut bytes, mut have) = ([0; N], 0);
        while have < N {
            match self.stream.read(&mut bytes[have..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= self.until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(bytes)
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, why)
}

fn byte(length: usize) -> u8 {
    u8::try_from(length).expect("checked where it was parsed")
}

/// Percent-decoded, as in a URL's user part.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|_| *first == b'%').and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_proxies() {
        let parse = |url: &str| Socks::parse(url).map(|p| p.map(|s| (s.host, s.port, s.login, s.resolves)));
        assert_eq!(parse("socks5://h"), Some(Ok(("h".into(), 1080, None, false))));
        let login = Some(("u".into(), "p:@%".into()));
        assert_eq!(parse("SOCKS5h://u:p%3a@%25@[::1]:9/"), Some(Ok(("::1".into(), 9, login, true))));
        assert!(parse("http://h:1").is_none());
        for bad in ["socks5://", "socks5://h:x", "socks5://:p@h", "socks5://h:99999"] {
            assert!(parse(bad).is_some_and(|p| p.is_err()), "{bad}");
        }
    }
}
