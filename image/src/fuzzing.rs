//! Parsers of foreign bytes, for the fuzz targets.

use std::path::Path;

use oci_spec::image::{Descriptor, MediaType};

use crate::{Ctx, Durability, Error, ImageConfig, LoadOptions, Store, StoreOptions, model};

/// A manifest, index or config. What was believed once must have one canonical text, which is believed again.
pub fn document(bytes: &[u8]) {
    for media_type in [
        MediaType::ImageManifest,
        MediaType::ImageIndex,
        "application/vnd.docker.distribution.manifest.v2+json".into(),
        "application/vnd.docker.distribution.manifest.list.v2+json".into(),
    ] {
        let descriptor = Descriptor::new(media_type, bytes.len() as u64, crate::digest::sha256(bytes));
        if let Ok(model::Document::Index(index)) = model::parse(&descriptor, bytes) {
            let _ = model::pick(index.manifests(), &crate::host_platform());
        }
    }
    if let Ok(config) = ImageConfig::from_json(bytes) {
        let _ = config.diff_ids();
        let once = config.to_json();
        let again = ImageConfig::from_json(&once).expect("what we write we read");
        assert_eq!(again.to_json(), once, "a config has two texts");
    }
}

/// A store in `dir` that takes in archives; made once, since that is slow.
pub fn store(dir: &Path) -> Result<Store, Error> {
    Store::open_with(
        dir,
        &StoreOptions { durability: Durability::None, directories: true, ..StoreOptions::default() },
    )
}

/// An archive as `docker load` gets it; and the same bytes as `manifest.json` of one that holds a config.
pub fn archive(store: &Store, bytes: &[u8]) {
    let _ = store.load(&mut &*bytes, &LoadOptions::default(), Ctx::none());
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [("c.json", &config[..]), ("manifest.json", bytes), ("index.json", bytes)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if path == "index.json" && bytes.first() != Some(&b'{') {
            continue;
        }
        tar.append_data(&mut header, path, content).expect("memory takes all");
    }
    let whole = tar.into_inner().expect("memory takes all");
    let _ = store.load(&mut &whole[..], &LoadOptions::default(), Ctx::none());
    let names = store.names().expect("the store reads its own names");
    for (name, _) in &names {
        store.image(name).expect("what is named is whole");
    }
}

pub use crate::layer::fuzzing::{Place, apply, place_in, tar};
