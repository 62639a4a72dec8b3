use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};

use oci_spec::image::{Descriptor, Digest};
use serde_json::{Value, json};

use super::{DockerManifest, FULL_NAME, REF_NAME};
use crate::compress::{self, Compression};
use crate::{Ctx, Error, Image, Result, Store, model};

/// The shape of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveFormat {
    /// What `docker load` and everybody else reads. Layers compressed with zstd are written plain, since older Dockers do not know it.
    #[default]
    Docker,
    /// An OCI image layout alone.
    Oci,
}

impl Store {
    /// Writes images, each found as [`Store::image`] finds it, with the names asked for (by ID: with none) as one tar stream.
    ///
    /// The same images give the same bytes.
    pub fn save(
        &self,
        names: &[&str],
        format: ArchiveFormat,
        out: &mut dyn Write,
        ctx: Ctx<'_>,
    ) -> Result<()> {
        let mut images: Vec<(Image, Vec<String>)> = Vec::new();
        for name in names {
            let image = self.image(name)?;
            let tag = self.has_name(name)?.then(|| (*name).to_owned());
            match images.iter_mut().find(|(known, _)| *known == image) {
                Some((_, tags)) => tags.extend(tag.filter(|t| !tags.contains(t))),
                None => images.push((image, tag.into_iter().collect())),
            }
        }
        let mut archive = Archive { store: self, out: tar::Builder::new(out), written: HashSet::new(), ctx };
        archive.directories()?;
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let (mut manifests, mut docker) = (Vec::new(), Vec::new());
        for (image, tags) in &images {
            archive.image(image, tags, format, &mut manifests, &mut docker)?;
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        archive.file("index.json", &model::canonical(&index))?;
        if format == ArchiveFormat::Docker {
            let text = serde_json::to_vec(&docker).map_err(|e| Error::invalid("manifest.json", &e))?;
            archive.file("manifest.json", &text)?;
        }
        archive.out.into_inner().and_then(Write::flush).map_err(Error::from_io)
    }
}

struct Archive<'a> {
    store: &'a Store,
    out: tar::Builder<&'a mut dyn Write>,
    written: HashSet<Digest>,
    ctx: Ctx<'a>,
}

impl Archive<'_> {
    fn image(
        &mut self,
        image: &Image,
        tags: &[String],
        format: ArchiveFormat,
        manifests: &mut Vec<Value>,
        docker: &mut Vec<DockerManifest>,
    ) -> Result<()> {
        self.blob(image.manifest().config())?;
        let mut paths = Vec::new();
        let mut as_stored = true;
        for (i, layer) in image.manifest().layers().iter().enumerate() {
            let plain =
                image.diff_ids().get(i).filter(|_| format == ArchiveFormat::Docker && self.is_zstd(layer));
            if let Some(diff_id) = plain {
                self.plain_layer(layer, diff_id)?;
                paths.push(blob_path(diff_id));
                as_stored = false;
            } else {
                self.blob(layer)?;
                paths.push(blob_path(layer.digest()));
            }
        }
        if as_stored {
            self.blob(image.descriptor())?;
            if tags.is_empty() {
                manifests.push(named(image.descriptor(), None)?);
            }
            for tag in tags {
                manifests.push(named(image.descriptor(), Some(tag))?);
            }
        }
        if !image.is_artifact() {
            let repo_tags = tags.iter().filter(|t| is_tag(t)).cloned().collect();
            docker.push(DockerManifest { config: blob_path(image.id()), repo_tags, layers: paths });
        }
        Ok(())
    }

    fn is_zstd(&self, layer: &Descriptor) -> bool {
        let mut head = Vec::new();
        let read = self.store.open_blob(layer.digest()).map(|blob| blob.take(4).read_to_end(&mut head));
        matches!((read, Compression::sniff(&head)), (Ok(Ok(_)), Ok(Compression::Zstd)))
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<()> {
        let digest = descriptor.digest();
        if self.written.insert(digest.clone()) {
            let size =
                self.store.blob_size(digest)?.ok_or_else(|| Error::NoSuchBlob { digest: digest.clone() })?;
            let blob = self.store.open_blob(digest)?;
            self.stream(&blob_path(digest), size, blob)?;
        }
        Ok(())
    }

    /// Inflates a layer into the archive.
    fn plain_layer(&mut self, layer: &Descriptor, diff_id: &Digest) -> Result<()> {
        if self.written.insert(diff_id.clone()) {
            let size = self.store.layer_size(layer, diff_id)?;
            let (_, tar) = compress::decoder(self.store.open_blob(layer.digest())?)?;
            self.stream(&blob_path(diff_id), size, tar)?;
        }
        Ok(())
    }

    fn directories(&mut self) -> Result<()> {
        for path in ["blobs/", "blobs/sha256/"] {
            let mut header = header(0, 0o755);
            header.set_entry_type(tar::EntryType::Directory);
            self.out.append_data(&mut header, path, io::empty()).map_err(Error::from_io)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.out.append_data(&mut header(bytes.len() as u64, 0o644), path, bytes).map_err(Error::from_io)
    }

    fn stream(&mut self, path: &str, size: u64, from: impl Read) -> Result<()> {
        self.ctx.check()?;
        let mut exact = Exact { inner: from, left: size, ctx: self.ctx };
        self.out.append_data(&mut header(size, 0o644), path, &mut exact).map_err(Error::from_io)
    }
}

/// A file's header, the same on every machine and day.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

/// A tar's header promises a size before the content is read: other content must not shift what follows.
struct Exact<'a, R> {
    inner: R,
    left: u64,
    ctx: Ctx<'a>,
}

impl<R: Read> Read for Exact<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ctx.check().map_err(io::Error::other)?;
        let n = self.inner.read(buf)?;
        let wrong = n as u64 > self.left || n == 0 && self.left > 0 && !buf.is_empty();
        if wrong {
            return Err(io::Error::other(Error::Stream {
                reason: "a blob is not as long as recorded".to_owned(),
            }));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

/// `index.json`'s entry for the image.
fn named(descriptor: &Descriptor, name: Option<&str>) -> Result<Value> {
    let mut descriptor = descriptor.clone();
    if let Some(name) = name {
        let mut annotations: BTreeMap<_, _> =
            descriptor.annotations().clone().unwrap_or_default().into_iter().collect();
        annotations.insert(REF_NAME.to_owned(), name.to_owned());
        annotations.insert(FULL_NAME.to_owned(), name.to_owned());
        descriptor.set_annotations(Some(annotations.into_iter().collect()));
    }
    serde_json::to_value(descriptor).map_err(|e| Error::invalid("index.json", &e))
}

/// Docker refuses an archive whose tags are not `name:tag`.
fn is_tag(name: &str) -> bool {
    !name.contains('@') && name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}
