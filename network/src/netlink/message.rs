//! Netlink messages and attributes as bytes (`linux/netlink.h`): a writer that cannot fail and a reader that trusts nothing.

use std::io;

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 16;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// A request under construction.
#[derive(Clone, Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// `header` is the family's own fixed header (`ifinfomsg`, `nfgenmsg`, ...).
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    pub(crate) fn bytes(mut self, kind: u16, data: &[u8]) -> Self {
        self.put(kind, data);
        self
    }

    /// A NUL-terminated string.
    pub(crate) fn str(self, kind: u16, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.bytes(kind, &data)
    }

    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// In host order, as rtnetlink wants it.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network order, as nfnetlink wants it.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.put(kind | NLA_F_NESTED, &[]);
        let mut filled = fill(self);
        let length = (filled.0.len() - start) as u16;
        filled.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    /// Raw bytes inside a nest, where the kernel wants a header before its attributes.
    pub(crate) fn raw(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self
    }

    pub(crate) fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = self.0.len() as u32;
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }

    fn put(&mut self, kind: u16, data: &[u8]) {
        self.0.extend_from_slice(&(4 + data.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Reply<'_> {
    /// The result, if this message ends a request or a dump.
    pub(crate) fn ack(&self) -> Option<io::Result<()>> {
        match self.kind {
            NLMSG_DONE | NLMSG_ERROR => {
                let errno = self.payload.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                Some(if errno == 0 { Ok(()) } else { Err(self.error(errno.saturating_neg())) })
            }
            _ => None,
        }
    }

    fn error(&self, errno: i32) -> io::Error {
        let error = io::Error::from_raw_os_error(errno);
        match self.explanation() {
            Some(text) if self.kind == NLMSG_ERROR => Explained { error, text }.into(),
            _ => error,
        }
    }

    /// `NLMSGERR_ATTR_MSG`, which follows the copy of the request's header (all of the request if the reply is not capped).
    fn explanation(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let echoed = match self.flags & NLM_F_CAPPED {
            0 => u32::from_ne_bytes(*self.payload.get(4..)?.first_chunk()?) as usize,
            _ => HEADER,
        };
        let attributes = self.payload.get(4usize.checked_add(echoed.next_multiple_of(4))?..)?;
        Attrs(attributes).str(1).map(str::to_owned)
    }
}

/// An errno with the kernel's own words.
#[derive(Debug)]
struct Explained {
    error: io::Error,
    text: String,
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.error, self.text)
    }
}

impl std::error::Error for Explained {}

impl From<Explained> for io::Error {
    fn from(explained: Explained) -> Self {
        Self::new(explained.error.kind(), explained)
    }
}

/// The errno of an error that came from a socket of this module.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Explained>());
    error.raw_os_error().or_else(|| inner?.error.raw_os_error())
}

/// Splits a datagram into messages; stops at the first that does not fit.
pub(crate) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let message = datagram.get(..length).filter(|m| m.len() >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Reply {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: u32::from_ne_bytes(*message[8..].first_chunk()?),
            payload: &message[HEADER..],
        })
    })
}

/// A run of attributes. Lookups find the first of a kind, and nothing in what is malformed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    /// Those after a fixed header.
    pub(crate) fn after(payload: &'a [u8], header: usize) -> Self {
        Self(payload.get(header..).unwrap_or_default())
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
            let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
            let data = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind & NLA_TYPE_MASK, data))
        })
    }

    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, data)| data)
    }

    pub(crate) fn nest(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    pub(crate) fn str(self, kind: u16) -> Option<&'a str> {
        let data = self.get(kind)?;
        let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
        std::str::from_utf8(&data[..end]).ok()
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().map(|c| u32::from_ne_bytes(*c))
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().map(|c| u32::from_be_bytes(*c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Message::new(7, 0, &[1, 2, 3, 4])
            .str(1, "name")
            .nest(2, |m| m.u32(3, 5).be32(4, 6))
            .u8(5, 9)
            .finish(42, NLM_F_ACK);
        let reply = replies(&bytes).next().unwrap();
        assert_eq!((reply.kind, reply.sequence, reply.flags), (7, 42, NLM_F_ACK | NLM_F_REQUEST));
        let attributes = Attrs::after(reply.payload, 4);
        assert_eq!(attributes.str(1), Some("name"));
        assert_eq!((attributes.nest(2).u32(3), attributes.nest(2).be32(4)), (Some(5), Some(6)));
        assert_eq!((attributes.get(5), attributes.get(6)), (Some(&[9][..]), None));
    }

    #[test]
    fn errors_have_the_kernels_words() {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        let mut bytes = Message::new(NLMSG_ERROR, 0, &payload).str(1, "Device exists").finish(1, flags);
        let error = replies(&bytes).next().unwrap().ack().unwrap().unwrap_err();
        assert_eq!(errno(&error), Some(17));
        assert!(error.to_string().ends_with("(Device exists)"), "{error}");
        bytes.truncate(20);
        bytes[0] = 20;
        assert_eq!(errno(&replies(&bytes).next().unwrap().ack().unwrap().unwrap_err()), Some(17));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            crate::fuzzing::netlink(&bytes);
            let mut framed = Message::new(2, 0, &bytes).finish(1, NLM_F_ACK_TLVS);
            crate::fuzzing::netlink(&framed);
            framed[4..6].copy_from_slice(&16u16.to_ne_bytes());
            crate::fuzzing::netlink(&framed);
        }
    }
}
