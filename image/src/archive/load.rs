use std::collections::HashMap;
use std::io::{self, Cursor, Read};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageManifest, Platform};

use super::{DockerManifest, FULL_NAME, REF_NAME};
use crate::model::{Document, MAX_DEPTH, MAX_DOCUMENT};
use crate::{
    Ctx, Error, Image, ImageConfig, ImageSpec, ImportOptions, Layer, LayerOptions, Result, Store,
    host_platform, model,
};

/// Most files of an archive.
const MAX_ENTRIES: usize = 100_000;
/// Most bytes of small files that are kept in memory.
const MAX_KEPT: u64 = 64 << 20;

/// How an archive is taken in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Which image of an index; `None` is this machine's.
    pub platform: Option<Platform>,
    /// What a name in the archive becomes in the store, e.g. `docker.io/library/debian:12` for `debian:12`; with `None` it is left out.
    /// Without this, names are taken as they are.
    pub rename: Option<fn(&str) -> Option<String>>,
}

/// An image that was in an archive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The names that it was given; none for one that the archive does not name.
    pub names: Vec<String>,
    /// The image.
    pub image: Image,
}

/// What is known of an archive's files once all have passed by.
struct Contents<'a> {
    store: &'a Store,
    ctx: Ctx<'a>,
    /// Small files.
    files: HashMap<String, Bytes>,
    kept: u64,
    /// Files that were taken in as layers while they passed by; or why that failed.
    layers: HashMap<String, Result<Layer>>,
    /// Links of one file to another.
    links: HashMap<String, String>,
}

impl Store {
    /// Takes in all images of an archive: `docker save`'s, an OCI layout's, or both in one; compressed (gzip, zstd) or not.
    ///
    /// Layers are unpacked while they stream by; nothing is named before everything is there.
    pub fn load(
        &self,
        archive: &mut (dyn Read + Send),
        options: &LoadOptions,
        ctx: Ctx<'_>,
    ) -> Result<Vec<Loaded>> {
        let (_, plain) = crate::compress::decoder(archive)?;
        let mut contents = Contents {
            store: self,
            ctx,
            files: HashMap::new(),
            kept: 0,
            layers: HashMap::new(),
            links: HashMap::new(),
        };
        contents.read(plain)?;
        let mut images = contents.images(options)?;
        for loaded in &mut images {
            if let Some(rename) = options.rename {
                loaded.names = loaded.names.iter().filter_map(|name| rename(name)).collect();
            }
            loaded.names.sort();
            loaded.names.dedup();
            for name in &loaded.names {
                self.tag(&loaded.image, name)?;
            }
        }
        Ok(images)
    }
}

impl Contents<'_> {
    fn read(&mut self, archive: impl Read + Send) -> Result<()> {
        let mut archive = tar::Archive::new(archive);
        for (n, entry) in archive.entries().map_err(broken)?.enumerate() {
            self.ctx.check()?;
            if n >= MAX_ENTRIES {
                return Err(Error::Limit {
                    what: "files of an archive".to_owned(),
                    limit: MAX_ENTRIES as u64,
                });
            }
            let mut entry = entry.map_err(broken)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = normal(&path);
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let size = entry.size();
                self.file(path, size, &mut entry)?;
            } else if let Some(target) = entry.link_name_bytes() {
                let target = String::from_utf8_lossy(&target).into_owned();
                // A symbolic link is told from where it stands, a hard link from the top.
                let from =
                    if kind.is_symlink() { path.rsplit_once('/').map_or("", |(dir, _)| dir) } else { "" };
                self.links.insert(path.clone(), normal(&format!("{from}/{target}")));
            }
        }
        Ok(())
    }

    /// A file that may be a layer is taken in at once; any other is kept.
    fn file(&mut self, path: String, size: u64, entry: &mut (impl Read + ?Sized)) -> Result<()> {
        let mut head = Vec::new();
        entry.take(512).read_to_end(&mut head).map_err(broken)?;
        let maybe_layer = size > MAX_DOCUMENT || is_layer(&head);
        if !maybe_layer {
            self.kept += size;
            if self.kept > MAX_KEPT {
                return Err(Error::Limit {
                    what: "bytes of an archive's small files".to_owned(),
                    limit: MAX_KEPT,
                });
            }
            entry.read_to_end(&mut head).map_err(broken)?;
            self.files.insert(path, head.into());
            return Ok(());
        }
        let layer = self.layer(&path, Cursor::new(head).chain(entry));
        match layer {
            // Whether it was meant to be a layer shows only when all has been read.
            Err(e) if e.is_bad_content() || matches!(e, Error::Unsupported { .. }) => {
                self.layers.insert(path, Err(e))
            }
            Err(e) => return Err(e),
            Ok(layer) => self.layers.insert(path, Ok(layer)),
        };
        Ok(())
    }

    fn layer(&self, path: &str, tar: impl Read) -> Result<Layer> {
        // Only this thread may read the archive, so nothing that is not `Send` reaches another.
        let named = digest_of(path);
        let layer = self.store.take_layer(tar, named.is_some(), &LayerOptions::default(), self.ctx)?;
        match named {
            Some(expected) if *layer.descriptor.digest() != expected => {
                Err(Error::DigestMismatch { expected, found: layer.descriptor.digest().clone() })
            }
            _ => Ok(layer),
        }
    }

    fn images(&mut self, options: &LoadOptions) -> Result<Vec<Loaded>> {
        let docker: Option<Vec<DockerManifest>> = self.json("manifest.json")?;
        let index: Option<ImageIndex> = self.json("index.json")?;
        let mut images = match &index {
            Some(index) => self.layout(index, options)?,
            None => Vec::new(),
        };
        for manifest in docker.iter().flatten() {
            self.docker_image(manifest, &mut images)?;
        }
        if index.is_none() && docker.is_none() {
            return Err(Error::invalid("archive", &"it has neither manifest.json nor index.json"));
        }
        Ok(images)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(bytes) = self.files.get(path) else { return Ok(None) };
        serde_json::from_slice(bytes).map(Some).map_err(|e| Error::invalid(path, &e))
    }

    /// The images of an OCI layout; what an index offers for other platforms is left out.
    fn layout(&mut self, index: &ImageIndex, options: &LoadOptions) -> Result<Vec<Loaded>> {
        let mut images: Vec<Loaded> = Vec::new();
        for root in index.manifests() {
            let Some((descriptor, manifest)) = self.resolve(root, options)? else { continue };
            let image = self.layout_image(root, &descriptor, &manifest)?;
            let name = name_of(root);
            match images.iter_mut().find(|known| known.image == image) {
                Some(known) => known.names.extend(name),
                None => images.push(Loaded { names: name.into_iter().collect(), image }),
            }
        }
        Ok(images)
    }

    fn resolve(
        &self,
        root: &Descriptor,
        options: &LoadOptions,
    ) -> Result<Option<(Descriptor, ImageManifest)>> {
        let wanted = options.platform.clone().unwrap_or_else(host_platform);
        let mut at = root.clone();
        for _ in 0..MAX_DEPTH {
            let bytes = self.blob(&at)?;
            match model::parse(&at, &bytes)? {
                Document::Manifest(manifest) => return Ok(Some((at, *manifest))),
                Document::Index(index) => match model::pick(index.manifests(), &wanted) {
                    Ok(picked) => at = picked.clone(),
                    Err(Error::NoPlatform { .. }) if options.platform.is_none() => return Ok(None),
                    Err(e) => return Err(e),
                },
            }
        }
        Err(Error::Limit { what: "depth of nested indexes".to_owned(), limit: MAX_DEPTH as u64 })
    }

    /// Everything is at hand now, so this is an import whose source is the archive's small files.
    fn layout_image(
        &mut self,
        root: &Descriptor,
        descriptor: &Descriptor,
        manifest: &ImageManifest,
    ) -> Result<Image> {
        for layer in manifest.layers() {
            self.claim(&format!("blobs/{}/{}", layer.digest().algorithm(), layer.digest().digest()))?;
        }
        let options = ImportOptions { platform: descriptor.platform().clone(), ..ImportOptions::default() };
        let files = &self.files;
        let source = crate::from_fn(|d: &Descriptor, offset: u64| {
            let path = format!("blobs/{}/{}", d.digest().algorithm(), d.digest().digest());
            let bytes = files.get(&path).ok_or_else(|| format!("the archive has no {path}"))?.clone();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Ok::<_, String>(Cursor::new(bytes.slice(start..)))
        });
        Ok(self.store.import(&source, root, &options, self.ctx)?.image)
    }

    /// An image of `manifest.json`. If the layout had it too, this only tells its names.
    fn docker_image(&mut self, manifest: &DockerManifest, images: &mut Vec<Loaded>) -> Result<()> {
        let config = self.find(&manifest.config).ok_or_else(|| {
            Error::invalid(
                "manifest.json",
                &format!("it names the config {:?}, which is not there", manifest.config),
            )
        })?;
        let id = crate::digest::sha256(&config);
        if let Some(known) = images.iter_mut().find(|known| *known.image.id() == id) {
            known.names.extend(
                manifest.repo_tags.iter().filter(|t| !known.names.contains(t)).cloned().collect::<Vec<_>>(),
            );
            return Ok(());
        }
        let diff_ids = ImageConfig::from_json(&config)?.diff_ids()?;
        if diff_ids.len() != manifest.layers.len() {
            let reason = format!("{} layers for {} diff IDs", manifest.layers.len(), diff_ids.len());
            return Err(Error::invalid("manifest.json", &reason));
        }
        let mut layers = Vec::new();
        for (path, expected) in manifest.layers.iter().zip(diff_ids) {
            let layer = self.claim(path)?;
            if layer.diff_id != expected {
                return Err(Error::DigestMismatch { expected, found: layer.diff_id.clone() });
            }
            layers.push(layer);
        }
        let spec = ImageSpec { layers, ..ImageSpec::default() };
        let image = self.store.create_image_with(&spec, &config)?;
        images.push(Loaded { names: manifest.repo_tags.clone(), image });
        Ok(())
    }

    /// The layer in that file, now that it is known to be one.
    fn claim(&mut self, path: &str) -> Result<Layer> {
        let path = self.follow(path);
        if !self.layers.contains_key(&path) {
            // Small enough to have been kept: an empty tar, for example.
            let bytes = self.files.get(&path).cloned().ok_or_else(|| missing(&path))?;
            let layer = self.layer(&path, Cursor::new(bytes))?;
            self.layers.insert(path.clone(), Ok(layer));
        }
        match self.layers.get_mut(&path) {
            Some(Ok(layer)) => Ok(layer.clone()),
            Some(failed) => std::mem::replace(failed, Err(missing(&path))),
            None => Err(missing(&path)),
        }
    }

    fn find(&self, path: &str) -> Option<Bytes> {
        self.files.get(&self.follow(path)).cloned()
    }

    /// Follows links between the archive's own files.
    fn follow(&self, path: &str) -> String {
        let mut path = normal(path);
        for _ in 0..8 {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        path
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Bytes> {
        model::check_document_size(descriptor)?;
        let digest = descriptor.digest();
        let path = format!("blobs/{}/{}", digest.algorithm(), digest.digest());
        let bytes = self.find(&path).ok_or_else(|| Error::NoSuchBlob { digest: digest.clone() })?;
        let found = crate::digest::sha256(&bytes);
        if found != *digest {
            return Err(Error::DigestMismatch { expected: digest.clone(), found });
        }
        Ok(bytes)
    }
}

fn missing(path: &str) -> Error {
    Error::invalid("archive", &format!("it names the layer {path:?}, which is not there"))
}

fn broken(error: io::Error) -> Error {
    Error::from_io(error)
}

/// Whether a file begins like a layer: gzip, zstd, or a tar's first header.
fn is_layer(head: &[u8]) -> bool {
    use crate::Compression as C;
    !matches!(C::sniff(head), Ok(C::None)) || head.get(257..262) == Some(b"ustar")
}

/// `a/../b//./c` without the detours; it is only ever a key in a table.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The digest that a path below `blobs/` promises.
fn digest_of(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn name_of(root: &Descriptor) -> Option<String> {
    let annotations = root.annotations().as_ref()?;
    annotations.get(FULL_NAME).or_else(|| annotations.get(REF_NAME)).cloned()
}
