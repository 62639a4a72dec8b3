//! The tar reader and both drivers on foreign bytes.

use std::path::{Path, PathBuf};

use super::erofs;
use super::header::number;
use super::source::{BLOCK, Hash, Source};
use super::tar::TarReader;
use super::tree::Tree;
use super::{Layers, Limits, create, place};
use crate::dir::StoreDir;
use crate::{Ctx, Durability, Result, StoreOptions};

fn limits() -> Limits {
    Limits { entries: 1000, bytes: 1 << 20, ..Limits::default() }
}

/// Reads the bytes as a tar, as they are and with each header's checksum set right.
pub fn tar(bytes: &[u8]) {
    let _ = read(bytes, &mut |_| {});
    let _ = read(&seal(bytes), &mut |_| {});
}

fn read(bytes: &[u8], done: &mut dyn FnMut(&Tree)) -> Result<()> {
    let limits = limits();
    let mut from = bytes;
    let mut source = Source::new(&mut from, Hash::like(None)?, None, &limits, Ctx::none());
    let mut reader = TarReader::new(&mut source, &limits);
    let mut tree = Tree::new(&limits);
    while let Some(entry) = reader.next()? {
        assert!(
            entry.path.split(|b| *b == b'/').all(|part| !matches!(part, b"." | b"..")),
            "a path that walks"
        );
        assert!(!entry.path.contains(&0) && !entry.path.starts_with(b"/"), "a path that is none");
        place(&mut tree, entry)?;
    }
    done(&tree);
    Ok(())
}

/// Sets the checksum of every block where a header is expected.
fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while at < bytes.len() {
        let block = &mut bytes[at..at + BLOCK];
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let size = number(&block[124..136], "size").unwrap_or(0).min(1 << 20) as usize;
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    bytes
}

/// Where [`apply`] unpacks.
#[derive(Debug)]
pub struct Place {
    layers: Layers,
    dir: PathBuf,
}

/// Makes a place below `dir`, whatever was there.
pub fn place_in(dir: &Path) -> Result<Place> {
    let options = StoreOptions { durability: Durability::None, directories: true, ..StoreOptions::default() };
    let store = StoreDir::new(dir.to_owned(), options);
    for name in ["tmp", "locks"] {
        store.create_dir_all(&dir.join(name))?;
    }
    Ok(Place { layers: Layers::open(&store)?, dir: dir.to_owned() })
}

/// Unpacks the bytes as a layer into a directory and as an EROFS file; a layer that one driver refuses, the other refuses.
pub fn apply(place: &Place, bytes: &[u8]) {
    let bytes = seal(bytes);
    let unpacked = place.layers.ingest(&mut &bytes[..], &limits(), Ctx::none());
    let file = place.dir.join("index.erofs");
    let _ = std::fs::remove_file(&file);
    let mut indexed = None;
    let parsed = read(&bytes, &mut |tree| {
        let out = create(&file).expect("the place can be written");
        let id = "sha256:".to_owned() + &"0".repeat(64);
        let id = id.parse().expect("a digest");
        indexed = Some(erofs::finish(&out, &file, tree, 0, &id, 1 << 30).is_ok());
    });
    match unpacked {
        Ok((id, _)) => {
            assert!(parsed.is_ok(), "the directory driver took what the reader refuses");
            assert!(place.layers.remove(&id).expect("what is there can go"), "it was there");
        }
        Err(e) if e.is_bad_content() => {
            assert!(parsed.is_err() || indexed == Some(false), "only one refuses: {e}");
        }
        // The kernel would not have a name or a link that is a name by the rules of tar: none is known.
        Err(e) => panic!("{e:?}"),
    }
}
