use longshore_image::{Ctx, Image, ImportOptions, Store, from_fn};
use longshore_registry_client::{Client, Reference};
use oci_spec::image::{Arch, Platform};

use crate::{BoxError, Resolver};

/// Takes what the store has under the normalised name or a whole image ID, if it runs on the platform that is asked for; else pulls it.
#[derive(Clone, Debug)]
pub struct RegistryResolver {
    store: Store,
    client: Client,
    always: bool,
}

impl RegistryResolver {
    /// Pulls with the client into the store.
    pub fn new(store: &Store, client: &Client) -> Self {
        Self { store: store.clone(), client: client.clone(), always: false }
    }

    /// `--pull`: asks the registry even for what the store has.
    #[must_use]
    pub fn always(self, always: bool) -> Self {
        Self { always, ..self }
    }

    /// What the store has that a pull would give.
    fn known(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Option<Image>, longshore_image::Error> {
        let full = name.parse::<Reference>().ok().map(|r| local_name(&r));
        // The store takes the beginning of an ID for the ID: `FROM ada` would be whatever image begins so.
        for name in full.as_deref().into_iter().chain(is_id(name).then_some(name)) {
            match self.store.image(name) {
                Ok(image) => return Ok(Some(image).filter(|i| platform.is_none_or(|p| fits(i, p)))),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        ctx: Ctx<'_>,
    ) -> Result<Image, BoxError> {
        let root = self.client.resolve(reference)?;
        let source = self.client.source(reference)?;
        let source = from_fn(move |descriptor, offset| source.open(descriptor, offset));
        let mut options = ImportOptions::default();
        options.platform = platform.cloned();
        options.names = vec![local_name(reference)];
        options.published = true;
        Ok(self.store.import(&source, &root, &options, ctx)?.image)
    }
}

impl Resolver for RegistryResolver {
    fn resolve(&self, name: &str, platform: Option<&Platform>, ctx: Ctx<'_>) -> Result<Image, BoxError> {
        if !self.always
            && let Some(image) = self.known(name, platform)?
        {
            return Ok(image);
        }
        self.pull(&name.parse()?, platform, ctx)
    }
}

/// The name by which a store has what this refers to: as with Docker, a tag beside a digest means nothing.
pub fn local_name(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.to_string(),
    }
}

/// A whole image ID.
fn is_id(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the image runs on the platform: variants are levels, of which a higher one runs the lower ones.
fn fits(image: &Image, platform: &Platform) -> bool {
    let config = &image.config().oci;
    let arch = config.architecture();
    let (has, wanted) = (config.variant().as_deref(), platform.variant().as_deref());
    let runs = match (level(arch, has), level(arch, wanted)) {
        (Some(has), Some(wanted)) => has <= wanted,
        _ => has == wanted,
    };
    config.os() == platform.os() && arch == platform.architecture() && runs
}

/// The number of a variant; without one, what the architecture's images are taken for.
fn level(arch: &Arch, variant: Option<&str>) -> Option<u32> {
    match variant.filter(|v| !v.is_empty()) {
        Some(v) => v.strip_prefix('v').unwrap_or(v).parse().ok(),
        None => Some(match arch {
            Arch::ARM => 7,
            Arch::ARM64 => 8,
            _ => 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_image::ImageSpec;

    fn resolver(dir: &std::path::Path) -> RegistryResolver {
        let store = Store::open(dir).unwrap();
        RegistryResolver::new(&store, &Client::builder().build().unwrap())
    }

    fn image(store: &Store, name: &str, arch: &str, variant: Option<&str>) -> Image {
        let mut spec = ImageSpec::default();
        spec.config.oci.set_architecture(Arch::from(arch));
        spec.config.oci.set_variant(variant.map(str::to_owned));
        spec.names = vec![name.to_owned()];
        store.create_image(&spec).unwrap()
    }

    #[test]
    fn only_whole_ids_are_ids() {
        let dir = tempfile::tempdir().unwrap();
        let resolver = resolver(dir.path());
        let image = image(&resolver.store, "docker.io/library/named:latest", "amd64", None);
        let id = image.id().as_ref();
        let hex = id.strip_prefix("sha256:").unwrap();
        let known = |name: &str| resolver.known(name, None).unwrap().map(|i| i.id().clone());
        for name in [id, hex, "named", "docker.io/library/named"] {
            assert_eq!(known(name).as_ref(), Some(image.id()), "{name}");
        }
        for name in [&hex[..6], &hex[..3], &hex[..63], &id[..20], "other"] {
            assert_eq!(known(name), None, "{name}");
        }
    }

    #[test]
    fn variants_count() {
        let dir = tempfile::tempdir().unwrap();
        let resolver = resolver(dir.path());
        for (arch, has, wanted, fits) in [
            ("arm", Some("v7"), Some("v6"), false),
            ("arm", Some("v6"), Some("v7"), true),
            ("arm", None, Some("v7"), true),
            ("arm", None, Some("v6"), false),
            ("arm64", None, Some("v8"), true),
            ("arm64", Some("v8"), None, true),
            ("amd64", Some("v3"), None, false),
            ("amd64", None, None, true),
            ("amd64", Some("odd"), None, false),
        ] {
            image(&resolver.store, "docker.io/library/named:latest", arch, has);
            let mut platform = Platform::default();
            platform.set_architecture(Arch::from(arch)).set_variant(wanted.map(str::to_owned));
            platform.set_os(oci_spec::image::Os::Linux);
            let found = resolver.known("named", Some(&platform)).unwrap().is_some();
            assert_eq!(found, fits, "{arch} {has:?} for {wanted:?}");
        }
    }
}
