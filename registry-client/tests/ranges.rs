//! A blob in parts, several at a time: the same bytes, whatever becomes of the parts.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::fault::{Conn, Seen, Server};
use common::{OCI_LAYER, descriptor, noise, quick, read_all};
use longshore_registry_client::{Client, Error, Limits, Source, Timeouts};
use oci_spec::image::Descriptor;

const SIZE: usize = 9_500_000;

fn client() -> Client {
    let mut limits = Limits::default();
    limits.ranges = 4;
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_millis(500);
    quick().limits(limits).timeouts(timeouts).build().unwrap()
}

/// First and last byte asked for.
fn range(seen: &Seen) -> Option<(usize, usize)> {
    let (first, last) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().unwrap(), last.parse().unwrap_or(SIZE - 1)))
}

/// Serves one blob by ranges; `turn` sees each request first, with its number, and says whether it has answered.
fn server(
    turn: impl Fn(&Seen, &mut Conn<'_>, &[u8], usize) -> bool + Send + Sync + 'static,
) -> (Server, Source, Descriptor, Vec<u8>) {
    let bytes = noise(70, SIZE);
    let blob = descriptor(OCI_LAYER, &bytes);
    let (content, count) = (bytes.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen, conn| {
        if turn(seen, conn, &content, count.fetch_add(1, Ordering::Relaxed)) {
            return;
        }
        match range(seen) {
            Some((first, last)) => part(conn, &content, first, last, last + 1),
            None => conn.reply(200, &[("etag", "\"v1\"")], &content),
        }
    });
    let source = client().source(&server.reference("r")).unwrap();
    (server, source, blob, bytes)
}

/// A 206 for these bytes, of which those from `until` on never come.
fn part(conn: &mut Conn<'_>, content: &[u8], first: usize, last: usize, until: usize) {
    let told = format!("bytes {first}-{last}/{}", content.len());
    conn.head(206, &[("etag", "\"v1\""), ("content-range", &told)], Some(last - first + 1));
    let _ = conn.stream.write_all(&content[first..until.min(last + 1)]);
    conn.keep = until > last;
}

#[test]
fn parts_arrive_side_by_side_and_once() {
    let busy = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let count = Arc::clone(&busy);
    let (server, source, blob, bytes) = server(move |_, _, _, _| {
        let now = count.0.fetch_add(1, Ordering::Relaxed) + 1;
        count.1.fetch_max(now, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
        count.0.fetch_sub(1, Ordering::Relaxed);
        false
    });
    assert!(read_all(&source, &blob).unwrap() == bytes);
    let mut asked: Vec<_> = server.seen().iter().map(|s| range(s).unwrap()).collect();
    asked.sort_unstable();
    let starts = asked.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0);
    assert!(asked.len() == 10 && asked[0].0 == 0 && asked[9].1 == SIZE - 1 && starts, "{asked:?}");
    assert!(busy.1.load(Ordering::Relaxed) >= 3, "{busy:?}");
}

#[test]
fn as_many_blobs_as_there_are_places_do_not_lock_each_other_out() {
    let (server, _, blob, bytes) = server(|_, _, _, _| false);
    let client = client().with_deadline(Instant::now() + Duration::from_secs(20));
    let source = client.source(&server.reference("r")).unwrap();
    let mut readers: Vec<_> = (0..8).map(|_| source.open(&blob, 0).unwrap()).collect();
    std::thread::scope(|scope| {
        for reader in &mut readers {
            let bytes = &bytes;
            scope.spawn(move || {
                let mut got = Vec::new();
                reader.read_to_end(&mut got).unwrap();
                assert!(got == *bytes);
            });
        }
    });
}

#[test]
fn a_server_without_ranges_sends_one_stream() {
    let (server, source, blob, bytes) = server(|_, conn, content, _| {
        conn.reply(200, &[], content);
        true
    });
    assert!(read_all(&source, &blob).unwrap() == bytes);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn parts_that_break_are_taken_up() {
    let (server, source, blob, bytes) = server(|seen, conn, content, n| {
        let (first, last) = range(seen).unwrap();
        match n {
            // The start too; silence counts as well.
            0 | 2 | 5 => part(conn, content, first, last, first + 300_000),
            3 => {
                part(conn, content, first, last, first + 200_000);
                std::thread::sleep(Duration::from_secs(1));
            }
            4 => conn.reply(503, &[], b""),
            _ => return false,
        }
        true
    });
    assert!(read_all(&source, &blob).unwrap() == bytes);
    assert!(server.seen().iter().all(|s| range(s).unwrap().0 == 0 || s.header("if-range") == Some("\"v1\"")));
}

#[test]
fn parts_of_something_else_end_in_one_stream() {
    // A whole reply, another place, another size: for every part but the first.
    for kind in 0..3 {
        let (_server, source, blob, bytes) = server(move |seen, conn, content, _| {
            let (first, last) = range(seen).unwrap();
            if first == 0 || last == SIZE - 1 {
                return false;
            }
            match kind {
                0 => conn.reply(200, &[], content),
                1 => part(conn, content, first + 1, last, last + 1),
                _ => part(conn, &content[..SIZE - 1], first, last, last + 1),
            }
            true
        });
        assert!(read_all(&source, &blob).unwrap() == bytes, "{kind}");
    }
}

#[test]
fn parts_are_verified_as_a_whole() {
    let (_server, source, blob, _) = server(|seen, conn, content, _| {
        let (first, last) = range(seen).unwrap();
        let mut content = content.to_vec();
        content[5_000_000] ^= 1;
        part(conn, &content, first, last, last + 1);
        true
    });
    assert!(read_all(&source, &blob).unwrap_err().contains("content has digest"));
}

#[test]
fn a_deadline_ends_all_parts() {
    let (server, ..) = server(|_, _, _, n| {
        std::thread::sleep(Duration::from_secs(if n > 0 { 30 } else { 0 }));
        false
    });
    let blob = descriptor(OCI_LAYER, &noise(70, SIZE));
    let late = client().with_deadline(Instant::now() + Duration::from_millis(300));
    let mut reader = late.source(&server.reference("r")).unwrap().open(&blob, 0).unwrap();
    let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
    assert!(matches!(Error::in_io(&error), Some(Error::Deadline)), "{error:?}");
}
