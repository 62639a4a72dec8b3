//! D-Bus messages (D-Bus Specification, "Message Format" and "Marshaling"), little-endian: calls are written, answers and signals read.

use super::bus::Method;

/// Kinds of messages.
pub(super) mod kind {
    pub(in super::super) const CALL: u8 = 1;
    pub(in super::super) const RETURN: u8 = 2;
    pub(in super::super) const ERROR: u8 = 3;
    pub(in super::super) const SIGNAL: u8 = 4;
}

/// Fields of a header.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// A received message, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: Option<u32>,
    pub(super) error: Option<String>,
    pub(super) member: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// So many bytes tell how long a message is.
    pub(super) const HEAD: usize = 16;

    /// The bytes of a method call.
    pub(super) fn call(method: &Method<'_>, serial: u32, signature: &str, body: &[u8]) -> Vec<u8> {
        let mut w = Writer::default();
        w.0.extend([b'l', kind::CALL, 0, 1]);
        w.u32(body.len() as u32);
        w.u32(serial);
        w.array(8, |w| {
            let texts = [
                (field::PATH, "o", method.path),
                (field::DESTINATION, "s", method.destination),
                (field::INTERFACE, "s", method.interface),
                (field::MEMBER, "s", method.member),
            ];
            for (code, kind, text) in texts {
                w.align(8);
                w.0.push(code);
                w.signature(kind);
                w.string(text);
            }
            if !signature.is_empty() {
                w.align(8);
                w.0.push(field::SIGNATURE);
                w.signature("g");
                w.signature(signature);
            }
        });
        w.align(8);
        w.0.extend_from_slice(body);
        w.0
    }

    /// How long a message is, by its first [`HEAD`](Self::HEAD) bytes.
    pub(super) fn length(head: &[u8]) -> Option<usize> {
        if *head.first()? != b'l' {
            return None;
        }
        let mut reader = Reader { bytes: head, at: 4 };
        let body = reader.u32()? as usize;
        reader.u32()?;
        let fields = reader.u32()? as usize;
        fields.checked_add(Self::HEAD)?.checked_next_multiple_of(8)?.checked_add(body)
    }

    /// A whole message; `None`: it is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if Self::length(bytes)? != bytes.len() {
            return None;
        }
        let mut message = Self { kind: *bytes.get(1)?, ..Self::default() };
        let mut reader = Reader { bytes, at: 12 };
        let end = (reader.u32()? as usize).checked_add(Self::HEAD)?;
        while reader.at < end {
            reader.align(8)?;
            let code = reader.u8()?;
            let text = match reader.signature()? {
                "s" | "o" => reader.string()?,
                "g" => reader.signature()?,
                "u" => {
                    let number = reader.u32()?;
                    if code == field::REPLY_SERIAL {
                        message.reply_to = Some(number);
                    }
                    continue;
                }
                _ => return None,
            };
            match code {
                field::MEMBER => message.member = Some(text.to_owned()),
                field::ERROR_NAME => message.error = Some(text.to_owned()),
                _ => {}
            }
        }
        reader.align(8)?;
        message.body = bytes.get(reader.at..)?.to_vec();
        Some(message)
    }
}

/// Writes values.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.number(4, u64::from(value));
    }

    /// The low bytes of a number, aligned to its width.
    pub(super) fn number(&mut self, width: usize, value: u64) {
        self.align(width);
        self.0.extend(value.to_le_bytes().iter().take(width));
    }

    /// A string or an object path.
    pub(super) fn string(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    pub(super) fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// An array of elements of this alignment.
    pub(super) fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        elements(self);
        let bytes = ((self.0.len() - begin) as u32).to_le_bytes();
        if let Some(place) = self.0.get_mut(length..length + 4) {
            place.copy_from_slice(&bytes);
        }
    }
}

/// Reads values; `None`: there is none.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { bytes: body, at: 0 }
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.u8()? == 0).then_some(text)
    }

    /// A string or an object path.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    pub(super) fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        self.text(length)
    }
}

/// For the fuzz target: any bytes.
pub fn parse(bytes: &[u8]) {
    if let Some(message) = Message::parse(bytes) {
        let mut body = Reader::new(&message.body);
        let _ = (body.u32(), body.string(), body.signature(), body.string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libdbus writes it, byte for byte.
    #[test]
    fn a_call() {
        let method = Method {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
        };
        let bytes = Message::call(&method, 1, "", &[]);
        let expected = b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x6e\0\0\0\
            \x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0\
            \x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
            \x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
            \x03\x01s\0\x05\0\0\0Hello\0\0\0";
        assert_eq!(bytes, expected);
        assert_eq!(Message::parse(&bytes).unwrap().member.as_deref(), Some("Hello"));
    }

    #[test]
    fn arrays_are_padded_and_the_padding_is_not_counted() {
        let mut w = Writer::default();
        w.array(8, |w| w.number(8, 7));
        assert_eq!(w.0, [8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_cut_off_or_changed_is_no_panic() {
        let method = Method { destination: "a.b", path: "/", interface: "a.b", member: "C" };
        let whole = Message::call(&method, 7, "s", b"\x01\0\0\0x\0");
        assert_eq!(Message::parse(&whole).unwrap().body, b"\x01\0\0\0x\0");
        for n in 0..whole.len() {
            assert!(Message::parse(&whole[..n]).is_none());
            for byte in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[n] = byte;
                parse(&changed);
            }
        }
    }
}
