use std::path::Path;
use std::str::FromStr;

use crate::containers::{BindOptions, Empty, Error, Mount, Result, Set, TmpfsOptions, VolumeOptions};

/// `--tmpfs`: path and options.
pub fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.into(), options.into())
}

/// `-v` arguments: those with a source go to `HostConfig::binds`, bare container paths to `Config::volumes`. A relative source (`./x`, `../x`,
/// `.`) starts at `cwd`.
pub fn volumes(args: &[String], cwd: &Path) -> Result<(Vec<String>, Set)> {
    let (mut binds, mut anonymous) = (Vec::new(), Set::new());
    for arg in args {
        if !arg.contains(':') {
            absolute(arg, arg)?;
            anonymous.insert(arg.clone(), Empty {});
            continue;
        }
        let (source, rest) = arg.split_once(':').unwrap_or((arg, ""));
        let relative =
            source == "." || source == ".." || source.starts_with("./") || source.starts_with("../");
        let bind = if relative { format!("{}:{rest}", clean(&cwd.join(source))) } else { arg.clone() };
        parse_bind(&bind)?;
        // Said twice it is one, as with docker.
        if !binds.contains(&bind) {
            binds.push(bind);
        }
    }
    Ok((binds, anonymous))
}

fn absolute(path: &str, whole: &str) -> Result<()> {
    if path.starts_with('/') && !path.contains('\0') {
        return if clean(Path::new(path)) == "/" {
            Err(Error::invalid(format!(
                "invalid volume specification: '{whole}': invalid mount config for type \"bind\": \
                 invalid specification: destination can't be '/'"
            )))
        } else {
            Ok(())
        };
    }
    Err(Error::invalid(format!(
        "invalid volume specification: '{whole}': invalid mount config for type \"volume\": invalid mount path: '{path}' mount path must be absolute"
    )))
}

/// The path without `.`, `..` and double slashes, by its text alone.
pub(in crate::containers) fn clean(path: &Path) -> String {
    let mut out: Vec<&str> = Vec::new();
    let text = path.to_string_lossy();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    format!("/{}", out.join("/"))
}

/// One `source:target[:options]`, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::containers) struct Bind {
    /// Host path (it begins with a slash) or volume name.
    pub(in crate::containers) source: String,
    pub(in crate::containers) target: String,
    pub(in crate::containers) read_only: bool,
    pub(in crate::containers) no_copy: bool,
    pub(in crate::containers) propagation: String,
    pub(in crate::containers) mode: String,
}

pub(in crate::containers) fn parse_bind(text: &str) -> Result<Bind> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(Error::invalid(format!("invalid volume specification: '{text}'"))),
    };
    if source.is_empty() || target.is_empty() {
        return Err(Error::invalid(format!("invalid spec: {text}: empty section between colons")));
    }
    absolute(target, text)?;
    if !source.starts_with('/') {
        volume_name(source)?;
    }
    let mut bind = Bind {
        source: source.into(),
        target: clean(Path::new(target)),
        mode: mode.into(),
        ..Bind::default()
    };
    let bad = || Error::invalid(format!("invalid mode: {mode}"));
    for option in mode.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => bind.read_only = true,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => bind.no_copy = true,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                bind.propagation = option.into();
            }
            _ => return Err(bad()),
        }
    }
    Ok(bind)
}

/// Docker's rule for volume names, which also keeps them to one path component.
pub(in crate::containers) fn volume_name(name: &str) -> Result<()> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    match name.as_bytes() {
        [first, rest @ ..]
            if first.is_ascii_alphanumeric()
                && !rest.is_empty()
                && rest.iter().all(|b| inner(*b))
                && name.len() <= 255 =>
        {
            Ok(())
        }
        _ => Err(Error::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))),
    }
}

impl FromStr for Mount {
    type Err = Error;
    /// `type=bind,source=/x,target=/y,readonly,...`.
    fn from_str(text: &str) -> Result<Self> {
        let mut mount = Self { kind: "volume".into(), ..Self::default() };
        for field in text.split(',') {
            let (key, value) = field.split_once('=').map_or((field, None), |(k, v)| (k, Some(v)));
            set_field(&mut mount, &key.to_ascii_lowercase(), value, field)?;
        }
        check(&mount)?;
        mount.target = clean(Path::new(&mount.target));
        Ok(mount)
    }
}

fn set_field(mount: &mut Mount, key: &str, value: Option<&str>, field: &str) -> Result<()> {
    let flag = || match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(v) => Err(Error::invalid(format!("invalid value for {key}: {v}"))),
    };
    match key {
        "readonly" | "ro" => return flag().map(|f| mount.read_only = f),
        "volume-nocopy" => return flag().map(|f| volume(mount).no_copy = f),
        "bind-nonrecursive" => return flag().map(|f| bind(mount).non_recursive = f),
        "bind-create-src" => return flag().map(|f| bind(mount).create_mountpoint = f),
        _ => {}
    }
    let value =
        value.ok_or_else(|| Error::invalid(format!("invalid field '{field}' must be a key=value pair")))?;
    match key {
        "type" => mount.kind = value.to_ascii_lowercase(),
        "source" | "src" => mount.source = value.into(),
        "target" | "dst" | "destination" => mount.target = value.into(),
        "consistency" => {}
        "bind-propagation" => bind(mount).propagation = value.to_ascii_lowercase(),
        "volume-subpath" => volume(mount).subpath = value.into(),
        "volume-driver" if value == "local" => {}
        "volume-label" => {
            let (k, v) = value.split_once('=').unwrap_or((value, ""));
            volume(mount).labels.insert(k.into(), v.into());
        }
        "tmpfs-size" => tmpfs_options(mount).size_bytes = super::bytes(value)?,
        "tmpfs-mode" => {
            tmpfs_options(mount).mode = u32::from_str_radix(value, 8)
                .map_err(|_| Error::invalid(format!("invalid value for tmpfs-mode: {value}")))?;
        }
        _ => return Err(Error::invalid(format!("unexpected key '{key}' in '{field}'"))),
    }
    Ok(())
}

fn bind(mount: &mut Mount) -> &mut BindOptions {
    mount.bind_options.get_or_insert_default()
}
fn volume(mount: &mut Mount) -> &mut VolumeOptions {
    mount.volume_options.get_or_insert_default()
}
fn tmpfs_options(mount: &mut Mount) -> &mut TmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

/// What cannot be said of a mount of its type.
pub(in crate::containers) fn check(mount: &Mount) -> Result<()> {
    let no =
        |what: &str| Err(Error::invalid(format!("invalid mount config for type \"{}\": {what}", mount.kind)));
    if mount.target.is_empty() {
        return Err(Error::invalid("target is required"));
    }
    absolute(&mount.target, &mount.target)?;
    let mixed = |kind: &str| {
        Err(Error::invalid(format!("cannot mix '{kind}-*' options with mount type '{}'", mount.kind)))
    };
    if mount.kind != "bind" && mount.bind_options.is_some() {
        return mixed("bind");
    }
    if mount.kind != "volume" && mount.volume_options.is_some() {
        return mixed("volume");
    }
    if mount.kind != "tmpfs" && mount.tmpfs_options.is_some() {
        return mixed("tmpfs");
    }
    match mount.kind.as_str() {
        "bind" if mount.source.is_empty() => no("field Source must not be empty"),
        "bind" if !mount.source.starts_with('/') => {
            no(&format!("invalid mount path: '{}' mount path must be absolute", mount.source))
        }
        "tmpfs" if !mount.source.is_empty() => no("field Source must not be specified"),
        "volume" if !mount.source.is_empty() => volume_name(&mount.source),
        "bind" | "tmpfs" | "volume" => Ok(()),
        kind => Err(Error::invalid(format!("invalid mount config for type \"{kind}\": mount type unknown"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_and_volumes() {
        let bind = parse_bind("/a:/b/../c:ro,rslave").unwrap();
        assert_eq!((bind.source.as_str(), bind.target.as_str(), bind.read_only), ("/a", "/c", true));
        assert_eq!(bind.propagation, "rslave");
        for bad in [":/x", "a:b", "/a:/b:wx", "a:/b:c:d", "x:/", "/a:/b/..", "..:/x", "a/b:/x", "a:"] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
        let (binds, set) =
            volumes(&["./x:/y".into(), "/data".into(), "..:/z".into()], Path::new("/home/me")).unwrap();
        assert_eq!(binds, ["/home/me/x:/y", "/home:/z"]);
        assert!(set.contains_key("/data"));
        assert!(volumes(&["data".into()], Path::new("/")).is_err());
    }

    #[test]
    fn mount_arguments() {
        let mount: Mount = "type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared".parse().unwrap();
        assert!(mount.read_only && mount.bind_options.unwrap().propagation == "rshared");
        let mount: Mount = "type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770".parse().unwrap();
        assert_eq!(mount.tmpfs_options.unwrap(), TmpfsOptions { size_bytes: 64 << 20, mode: 0o1770 });
        let mount: Mount = "source=vol,target=/t,volume-label=a=b,volume-subpath=x".parse().unwrap();
        assert_eq!((mount.kind.as_str(), mount.volume_options.unwrap().subpath.as_str()), ("volume", "x"));
        for bad in [
            "",
            "type=bind,target=/x",
            "target=x",
            "foo=1,target=/x",
            "type=nfs,target=/x",
            "type=tmpfs,src=/a,target=/x",
            "type=bind,src=/a,target=/b,tmpfs-size=1",
            "readonly=maybe,target=/x",
        ] {
            assert!(bad.parse::<Mount>().is_err(), "{bad}");
        }
    }
}
