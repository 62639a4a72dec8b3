//! Parsers of foreign bytes, for the fuzz targets.

use std::path::Path;

use oci_spec::image::{Descriptor, MediaType};

use crate::{
    Ctx, Durability, Error, ImageConfig, ImageSpec, LoadOptions, Store, StoreOptions, VerifyOptions, model,
};

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

/// `index.json` as another tool may have left it; `@` in it stands for the members of a descriptor whose image is here.
/// How many images were taken over.
pub fn index(store: &Store, bytes: &[u8]) -> usize {
    let image = store.create_image(&ImageSpec::default()).expect("the store takes images");
    let descriptor = serde_json::to_string(image.descriptor()).expect("a descriptor has only string keys");
    let members = descriptor.trim_matches(['{', '}']);
    let text = String::from_utf8_lossy(bytes).replace('@', members);
    std::fs::write(store.path().join("index.json"), text).expect("the store's directory can be written");

    let adopted = store.adopt(Ctx::none()).expect("only an image can be at fault");
    let names = store.names().expect("the store reads its own names");
    for (name, _) in adopted.images.iter().filter_map(|(name, image)| Some((name.as_ref()?, image))) {
        assert!(names.iter().any(|(known, _)| known == name), "{name:?} was taken over");
    }
    for (name, id) in &names {
        assert_eq!(store.image(name).expect("what is named is whole").id(), id);
    }
    let again = store.adopt(Ctx::none()).expect("only an image can be at fault");
    assert!(again.images.is_empty(), "what was taken over is known");
    let opened = store.verify(&VerifyOptions::default(), Ctx::none()).expect("it can be looked through");
    assert_eq!(opened.problems, [], "the store is sound");
    for (name, _) in &names {
        // The last of an image's names may have gone with another.
        let _ = store.remove(name, true);
    }
    adopted.images.len()
}

pub use crate::layer::fuzzing::{Place, apply, place_in, tar};
