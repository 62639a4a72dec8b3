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

/// The operating systems and architectures that may be named alone, as in Go's list.
const SYSTEMS: [&str; 18] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// Reads a platform as a user writes it, in the image-spec's words: `linux/arm64`, `arm64`, `linux/aarch64`, `LINUX/AMD64`,
/// `linux/arm/v7`. What is left out is this machine's. The rules are those of containerd's platforms package, which Docker uses.
///
/// ```
/// let platform = longshore_image::parse_platform("linux/x86_64")?;
/// assert_eq!(platform.architecture().to_string(), "amd64");
/// # Ok::<_, longshore_image::Error>(())
/// ```
///
/// # Errors
/// [`Error::Platform`] where it is none, or a single word that is neither an operating system nor an architecture.
pub fn parse_platform(text: &str) -> Result<Platform> {
    let bad = |reason| Error::Platform { text: text.to_owned(), reason };
    let parts: Vec<String> = text.split('/').map(str::to_ascii_lowercase).collect();
    let is_word = |part: &String| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    if !parts.iter().all(is_word) {
        return Err(bad("a platform is os, architecture, os/architecture or os/architecture/variant"));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let system = |os: &str| Os::from(if os == "macos" { "darwin" } else { os });
    let (os, (architecture, variant)) = match parts[..] {
        [os] if SYSTEMS.contains(&os) || os == "macos" => {
            let mut host = host_platform();
            host.set_os(system(os));
            return Ok(host);
        }
        [architecture] => (host_platform().os().clone(), normal(architecture, "")),
        [os, architecture] => (system(os), normal(architecture, "")),
        // Said, it is kept.
        [os, "arm64" | "aarch64", "8" | "v8"] => (system(os), ("arm64", "v8".to_owned())),
        [os, architecture, variant] => (system(os), normal(architecture, variant)),
        _ => return Err(bad("cannot parse platform specifier")),
    };
    if parts.len() == 1 && !ARCHITECTURES.contains(&architecture) {
        return Err(bad("unknown operating system or architecture"));
    }
    let mut platform = Platform::default();
    // The default of an architecture is not said.
    let variant =
        if parts.len() < 3 && (architecture, variant.as_str()) == ("arm", "v7") { "" } else { &variant };
    platform.set_os(os).set_architecture(Arch::from(architecture));
    platform.set_variant(Some(variant.to_owned()).filter(|v| !v.is_empty()));
    Ok(platform)
}

/// One name for each architecture, and its variant.
fn normal<'a>(architecture: &'a str, variant: &str) -> (&'a str, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", if v == "v1" { "" } else { v }),
        ("aarch64" | "arm64", v) => ("arm64", if matches!(v, "8" | "v8") { "" } else { v }),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "") => ("arm", "v7"),
        ("arm", digit @ ("5" | "6" | "7" | "8")) => return ("arm", format!("v{digit}")),
        other => other,
    };
    (architecture, variant.to_owned())
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
    fn what_users_write_means_what_docker_takes_it_for() {
        let host = describe(&host_platform());
        let host_arch = host.split_once('/').unwrap().1;
        for (text, wanted) in [
            ("arm64", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux", host.as_str()),
            ("windows", &format!("windows/{host_arch}")),
            ("LINUX/AMD64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("x86-64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/aarch64/8", "linux/arm64/v8"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("armhf", "linux/arm"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/v5", "linux/arm/v5"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/own", "linux/own"),
        ] {
            assert_eq!(describe(&parse_platform(text).unwrap()), wanted, "{text}");
        }
        for (text, reason) in [
            ("own", "unknown operating system or architecture"),
            ("a/b/c/d", "cannot parse platform specifier"),
            ("", "a platform is"),
            ("linux/", "a platform is"),
            ("linux/*", "a platform is"),
            ("linux//v8", "a platform is"),
        ] {
            let said = parse_platform(text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{text:?}: {reason}")), "{said}");
        }
    }

    #[test]
    fn the_host_is_known() {
        assert_eq!(host_platform().os(), &Os::Linux);
        assert!(satisfies(&host_platform(), &host_platform()));
    }
}
