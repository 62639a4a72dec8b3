use oci_spec::image::{Arch, Descriptor, Os, Platform};

use crate::{Error, Result};

/// The platform of the machine that this was compiled for, in the image-spec's words.
pub fn host_platform() -> Platform {
    let (arch, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "x86" => ("386", None),
        "aarch64" => ("arm64", None),
        "arm" => ("arm", Some("v7")),
        "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
        "powerpc64" => ("ppc64", None),
        "loongarch64" => ("loong64", None),
        other => (other, None),
    };
    let mut platform = Platform::default();
    platform.set_architecture(Arch::from(arch)).set_os(Os::Linux).set_variant(variant.map(str::to_owned));
    platform
}

/// `os/arch[/variant]`.
pub(crate) fn describe(platform: &Platform) -> String {
    let variant = platform.variant().as_deref().map(|v| format!("/{v}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os(), platform.architecture())
}

/// The entry of an index that suits the platform best; the first of equals.
pub(crate) fn pick<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor> {
    let suits = runnable(wanted);
    let rank = |d: &Descriptor| match d.platform() {
        Some(platform) if platform.os() == wanted.os() => suits.iter().position(|s| *s == arch_of(platform)),
        Some(_) => None,
        // An entry that does not say is taken when nothing else fits.
        None => Some(suits.len()),
    };
    manifests
        .iter()
        .filter_map(|d| rank(d).map(|r| (r, d)))
        .min_by_key(|(r, _)| *r)
        .map(|(_, d)| d)
        .ok_or_else(|| Error::NoPlatform {
            wanted: describe(wanted),
            offered: manifests.iter().filter_map(|d| d.platform().as_ref()).map(describe).collect(),
        })
}

/// Whether an image for `offered` runs where `wanted` does.
pub(crate) fn satisfies(offered: &Platform, wanted: &Platform) -> bool {
    offered.os() == wanted.os() && runnable(wanted).contains(&arch_of(offered))
}

/// Architecture and variant, with the variants that mean "the first" left out.
fn arch_of(platform: &Platform) -> (String, String) {
    let arch = platform.architecture().to_string();
    let variant = platform.variant().clone().unwrap_or_default();
    match (arch.as_str(), variant.as_str()) {
        ("arm64", "v8" | "8") | ("amd64", "v1") => (arch, String::new()),
        ("arm", "") => (arch, "v7".to_owned()),
        ("arm", "5" | "6" | "7" | "8") => (arch, format!("v{variant}")),
        _ => (arch, variant),
    }
}

/// What a machine of this platform can run, best first.
fn runnable(wanted: &Platform) -> Vec<(String, String)> {
    let (arch, variant) = arch_of(wanted);
    let mut list = vec![(arch.clone(), variant.clone())];
    let mut also = |arch: &str, variants: &[&str]| {
        list.extend(variants.iter().map(|v| (arch.to_owned(), (*v).to_owned())));
    };
    match (arch.as_str(), variant.as_str()) {
        ("amd64", v) => {
            let lower: &[&str] = match v {
                "v4" => &["v3", "v2", ""],
                "v3" => &["v2", ""],
                "v2" => &[""],
                _ => &[],
            };
            also("amd64", lower);
            also("386", &[""]);
        }
        ("arm64", v) => {
            if !v.is_empty() {
                also("arm64", &[""]);
            }
            also("arm", &["v8", "v7", "v6", "v5"]);
        }
        ("arm", "v8") => also("arm", &["v7", "v6", "v5"]),
        ("arm", "v7") => also("arm", &["v6", "v5"]),
        ("arm", "v6") => also("arm", &["v5"]),
        _ => {}
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/');
        let mut p = Platform::default();
        p.set_os(parts.next().unwrap().into()).set_architecture(parts.next().unwrap().into());
        p.set_variant(parts.next().map(str::to_owned));
        p
    }

    fn picked(offered: &[&str], wanted: &str) -> Option<usize> {
        let manifests: Vec<Descriptor> = offered
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let mut d = Descriptor::new("x".into(), i as u64, crate::digest::sha256(&[i as u8]));
                d.set_platform((!text.is_empty()).then(|| platform(text)));
                d
            })
            .collect();
        pick(&manifests, &platform(wanted)).ok().map(|d| d.size() as usize)
    }

    #[test]
    fn variants_fall_back_in_order() {
        assert_eq!(picked(&["linux/arm64", "linux/amd64"], "linux/amd64"), Some(1));
        assert_eq!(picked(&["linux/arm64/v8", "linux/arm/v7"], "linux/arm64"), Some(0));
        assert_eq!(picked(&["linux/arm64", "linux/arm/v7"], "linux/arm64/v8"), Some(0));
        assert_eq!(picked(&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7"), Some(1));
        assert_eq!(picked(&["linux/arm/v7", "linux/arm/v8"], "linux/arm/v6"), None);
        assert_eq!(picked(&["linux/amd64/v3", "linux/amd64"], "linux/amd64"), Some(1));
        assert_eq!(picked(&["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3"), Some(1));
        assert_eq!(picked(&["linux/amd64/v3"], "linux/amd64"), None);
        assert_eq!(picked(&["linux/386"], "linux/amd64"), Some(0));
        assert_eq!(picked(&["windows/amd64", "unknown/unknown", "linux/amd64"], "linux/amd64"), Some(2));
        assert_eq!(picked(&["", "linux/amd64"], "linux/amd64"), Some(1));
        assert_eq!(picked(&["windows/amd64", ""], "linux/amd64"), Some(1));
        assert_eq!(picked(&[], "linux/amd64"), None);
    }

    #[test]
    fn the_host_is_known() {
        assert_eq!(host_platform().os(), &Os::Linux);
        assert!(satisfies(&host_platform(), &host_platform()));
    }
}
