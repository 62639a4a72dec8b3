//! Compression of layers: told by the first bytes when reading, deterministic and parallel when writing.

use std::collections::VecDeque;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use oci_spec::image::MediaType;

use crate::pipe::PIECE;
use crate::{Error, Result};

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// The tar as it is.
    None,
    /// What every registry and runtime reads. Members of 1 MiB of tar each, compressed in parallel: the same tar gives the same bytes,
    /// however many processors there are.
    #[default]
    Gzip,
    /// Smaller and three times faster; Docker before 23.0 cannot read it.
    Zstd,
}

impl Compression {
    /// The media type of a layer blob compressed so.
    pub fn media_type(self) -> MediaType {
        match self {
            Self::None => MediaType::ImageLayer,
            Self::Gzip => MediaType::ImageLayerGzip,
            Self::Zstd => MediaType::ImageLayerZstd,
        }
    }

    /// Told by a stream's first bytes (4 suffice); what is neither gzip nor zstd counts as plain.
    pub(crate) fn sniff(head: &[u8]) -> Result<Self> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A zstd frame, or a skippable one, which zstd:chunked may begin with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', ..] => Err(unsupported("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(unsupported("bzip2")),
            _ => Ok(Self::None),
        }
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported { what: "layer compression", reason: what.to_owned() }
}

/// Inflates whatever the stream turns out to be.
pub(crate) fn decoder<'a>(input: impl Read + Send + 'a) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut input = input;
    let mut head = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut head).map_err(Error::from_io)?;
    let kind = Compression::sniff(&head)?;
    let whole = BufReader::with_capacity(64 << 10, Cursor::new(head).chain(input));
    let reader: Box<dyn Read + Send + 'a> = match kind {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(whole).map_err(Error::from_io)?)
        }
    };
    Ok((kind, reader))
}

/// Bytes of tar that make one gzip member.
const BLOCK: usize = 1 << 20;
/// Between the sizes of level 6 and its time: see the crate's README for the figures.
const GZIP_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// Compresses `input` into `out`, with helper threads in `scope` for gzip. Returns when all is written.
pub(crate) fn compress<'s>(
    scope: &'s Scope<'s, '_>,
    kind: Compression,
    input: &mut dyn Read,
    out: &mut dyn Write,
    threads: usize,
) -> io::Result<()> {
    match kind {
        Compression::None => io::copy(input, out).map(|_| ()),
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            let mut buf = vec![0; PIECE];
            loop {
                match input.read(&mut buf)? {
                    0 => return encoder.finish().map(|_| ()),
                    n => encoder.write_all(&buf[..n])?,
                }
            }
        }
        Compression::Gzip => gzip(scope, input, out, threads.max(1)),
    }
}

type Job = (Vec<u8>, SyncSender<io::Result<Bytes>>);

/// One member per block, made by as many threads, written in order.
fn gzip<'s>(
    scope: &'s Scope<'s, '_>,
    input: &mut dyn Read,
    out: &mut dyn Write,
    threads: usize,
) -> io::Result<()> {
    let (jobs, queue) = sync_channel::<Job>(threads);
    let queue = std::sync::Arc::new(Mutex::new(queue));
    let mut started = 0;
    let mut waiting: VecDeque<Receiver<io::Result<Bytes>>> = VecDeque::new();
    let mut first = true;
    loop {
        let block = read_block(input)?;
        // Even an empty stream is one member, else it would not be gzip.
        if block.is_empty() && !first {
            break;
        }
        first = false;
        if started < threads {
            let queue = std::sync::Arc::clone(&queue);
            scope.spawn(move || work(&queue));
            started += 1;
        }
        let (done, result) = sync_channel(1);
        jobs.send((block, done)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        waiting.push_back(result);
        if waiting.len() > 2 * threads {
            write_next(&mut waiting, out)?;
        }
    }
    drop(jobs);
    while !waiting.is_empty() {
        write_next(&mut waiting, out)?;
    }
    Ok(())
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((block, done)) = job else { return };
        let mut encoder = GzEncoder::new(Vec::with_capacity(block.len() / 2), Level::new(GZIP_LEVEL));
        let member = encoder.write_all(&block).and_then(|()| encoder.finish()).map(Bytes::from);
        // A failed writer has stopped listening.
        let _ = done.send(member);
    }
}

fn write_next(waiting: &mut VecDeque<Receiver<io::Result<Bytes>>>, out: &mut dyn Write) -> io::Result<()> {
    let Some(result) = waiting.pop_front() else { return Ok(()) };
    let member = result.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
    out.write_all(&member)
}

fn read_block(input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    input.take(BLOCK as u64).read_to_end(&mut block)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(kind: Compression, bytes: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        std::thread::scope(|scope| compress(scope, kind, &mut &bytes[..], &mut out, threads)).unwrap();
        out
    }

    #[test]
    fn round_trips_whatever_the_number_of_threads() {
        let bytes: Vec<u8> = (0..700_000_u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        for kind in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for len in [0, 1, BLOCK, BLOCK + 1, bytes.len()] {
                let one = packed(kind, &bytes[..len], 1);
                assert_eq!(one, packed(kind, &bytes[..len], 3), "{kind:?} {len}");
                let (seen, mut reader) = decoder(&one[..]).unwrap();
                assert_eq!(seen, kind);
                let mut back = Vec::new();
                reader.read_to_end(&mut back).unwrap();
                assert!(back == bytes[..len], "{kind:?} {len}");
            }
        }
    }

    #[test]
    fn broken_streams_are_errors() {
        for kind in [Compression::Gzip, Compression::Zstd] {
            let whole = packed(kind, &[9; 3 << 20], 1);
            let mut garbage = whole.clone();
            garbage.extend(b"garbage");
            for bytes in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &garbage[..]] {
                let mut reader = decoder(bytes).unwrap().1;
                assert!(io::copy(&mut reader, &mut io::sink()).is_err(), "{kind:?} of {}", bytes.len());
            }
        }
        assert!(decoder(&b"\xfd7zXZ\0"[..]).is_err());
        assert!(decoder(&b"BZh91AY"[..]).is_err());
    }
}
