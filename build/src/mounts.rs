//! `RUN --mount=...`.

use crate::syntax::nearest;

/// A `--mount`, read and checked, variables replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub(crate) kind: Kind,
    pub(crate) from: Option<String>,
    pub(crate) source: String,
    pub(crate) target: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) id: Option<String>,
    pub(crate) sharing: Sharing,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "size",
    "required",
    "env",
];

/// `from=`, which takes no variables: it has to be known before anything runs.
pub(crate) fn from_of(text: &str) -> Result<Option<String>, String> {
    let from = fields(text)?.into_iter().find(|(k, _)| k == "from").and_then(|(_, v)| v);
    match from {
        Some(f) if f.contains('$') => {
            Err("'from' doesn't support variable expansion, define alias stage instead".to_owned())
        }
        other => Ok(other),
    }
}

/// Reads a mount. `expand` replaces variables in values.
pub(crate) fn parse(
    text: &str,
    expand: &dyn Fn(&str) -> Result<String, String>,
) -> Result<MountSpec, String> {
    let mut spec = MountSpec { read_only: true, ..MountSpec::default() };
    let mut written_mode = None;
    for (key, value) in fields(text)? {
        let value = value.map(|v| expand(&v)).transpose()?;
        let need = || value.clone().ok_or_else(|| format!("field '{key}' of --mount needs a value"));
        let flag = || match value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(v) => Err(format!("invalid value for {key}: {v}")),
        };
        match key.as_str() {
            "type" => spec.kind = kind(&need()?)?,
            "from" => spec.from = Some(need()?).filter(|f| !f.is_empty()),
            "source" | "src" => spec.source = need()?,
            "target" | "dst" | "destination" => spec.target = Some(need()?),
            "readonly" | "ro" => written_mode = Some(flag()?),
            "readwrite" | "rw" => written_mode = Some(!flag()?),
            "id" => spec.id = Some(need()?),
            "sharing" => spec.sharing = sharing(&need()?)?,
            "mode" => spec.mode = Some(number(&key, &need()?, 8)?),
            "uid" => spec.uid = Some(number(&key, &need()?, 10)?),
            "gid" => spec.gid = Some(number(&key, &need()?, 10)?),
            "size" => spec.size = Some(size(&need()?)?),
            "required" => spec.required = flag()?,
            "env" => spec.env = Some(need()?),
            _ => {
                let near = nearest(&key, KEYS).map(|k| format!(" (did you mean {k}?)")).unwrap_or_default();
                return Err(format!("unexpected key '{key}' in '{key}={}'{near}", value.unwrap_or_default()));
            }
        }
    }
    spec.read_only = written_mode.unwrap_or(matches!(spec.kind, Kind::Bind));
    check(spec)
}

fn check(spec: MountSpec) -> Result<MountSpec, String> {
    let named = matches!(spec.kind, Kind::Secret | Kind::Ssh);
    if spec.target.as_deref().unwrap_or_default().is_empty() && !named {
        return Err("a mount needs a target".to_owned());
    }
    if spec.mode.is_some_and(|m| m > 0o7777) {
        return Err("invalid mode of a mount".to_owned());
    }
    if spec.kind == Kind::Secret && spec.id.is_none() && spec.source.is_empty() && spec.target.is_none() {
        return Err("a secret mount needs an id or a target".to_owned());
    }
    if spec.kind == Kind::Tmpfs && (spec.from.is_some() || !spec.source.is_empty()) {
        return Err("tmpfs doesn't support source".to_owned());
    }
    if spec.env.is_some() && spec.kind != Kind::Secret {
        return Err("only secrets can be put into the environment".to_owned());
    }
    Ok(spec)
}

/// Comma-separated fields; one in double quotes may hold commas, as in CSV.
fn fields(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(format!("unterminated quote in --mount={text}"));
    }
    out.push(field);
    Ok(out
        .into_iter()
        .map(|f| {
            f.split_once('=')
                .map_or((f.to_lowercase(), None), |(k, v)| (k.to_lowercase(), Some(v.to_owned())))
        })
        .collect())
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "bind" => Ok(Kind::Bind),
        "cache" => Ok(Kind::Cache),
        "tmpfs" => Ok(Kind::Tmpfs),
        "secret" => Ok(Kind::Secret),
        "ssh" => Ok(Kind::Ssh),
        other => {
            let near = nearest(other, ["bind", "cache", "tmpfs", "secret", "ssh"])
                .map(|k| format!(" (did you mean {k}?)"));
            Err(format!("unsupported mount type \"{other}\"{}", near.unwrap_or_default()))
        }
    }
}

fn sharing(text: &str) -> Result<Sharing, String> {
    match text {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        other => Err(format!("unsupported sharing value \"{other}\"")),
    }
}

fn number(key: &str, text: &str, radix: u32) -> Result<u32, String> {
    u32::from_str_radix(text, radix).map_err(|_| format!("invalid value {text} for {key}"))
}

/// Bytes, with `k`, `m` or `g` behind.
fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_lowercase();
    let body = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, unit) = match body.as_bytes().last() {
        Some(b'k') => (&body[..body.len() - 1], 10),
        Some(b'm') => (&body[..body.len() - 1], 20),
        Some(b'g') => (&body[..body.len() - 1], 30),
        _ => (body, 0),
    };
    let bad = || format!("invalid size {text}");
    digits.parse::<u64>().map_err(|_| bad())?.checked_mul(1 << unit).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<MountSpec, String> {
        parse(text, &|v| Ok(v.replace("$X", "x")))
    }

    #[test]
    fn mounts() {
        let m = parsed("type=cache,target=/$X,sharing=locked,mode=0700,uid=3").unwrap();
        assert_eq!(
            (m.kind, m.target.as_deref(), m.sharing, m.mode, m.uid),
            (Kind::Cache, Some("/x"), Sharing::Locked, Some(0o700), Some(3))
        );
        assert!(
            !m.read_only
                && parsed("target=/a").unwrap().read_only
                && !parsed("target=/a,rw").unwrap().read_only
        );
        assert_eq!(parsed("type=tmpfs,target=/t,size=2m").unwrap().size, Some(2 << 20));
        assert_eq!(parsed("target=/a,\"source=a,b\"").unwrap().source, "a,b");
        assert!(
            parsed("type=bind,target=/a,bind-propagation=shared").unwrap_err().contains("unexpected key")
        );
        assert!(parsed("type=cache,tagret=/a").unwrap_err().contains("did you mean target?"));
        for bad in [
            "type=bind",
            "type=x,target=/a",
            "target=/a,\"x",
            "type=tmpfs,target=/a,source=b",
            "target=/a,mode=9",
            "from=$Y,target=/a",
        ] {
            assert!(parsed(bad).and_then(|_| from_of(bad)).is_err(), "{bad}");
        }
    }
}
