//! PAX extended headers (POSIX.1-2017 pax, "Extended Header"), GNU's and SCHILY's keys.

use super::header::Fault;

/// What the records of one extended header say about the entry that follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds, nanoseconds.
    pub(crate) mtime: Option<(i64, u32)>,
    /// Name without `SCHILY.xattr.`, value.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<PaxSparse>,
}

/// GNU's three ways of telling a sparse file through PAX.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    /// 1.0: the map lies before the data.
    pub(crate) map_in_data: bool,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    /// 0.0 and 0.1: the map lies in the records.
    pub(crate) map: Vec<(u64, u64)>,
    pub(crate) count: Option<u64>,
    offset: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
}

/// Splits `LENGTH KEY=VALUE\n` records; anything that does not add up is refused.
fn records(mut data: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Fault>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let Some((key, value, rest)) = record(data) else {
            data = &[];
            return Some(Err("malformed PAX record".to_owned()));
        };
        data = rest;
        Some(Ok((key, value)))
    })
}

fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if length > data.len() || length < space + 3 {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.iter().any(|b| !b.is_ascii_digit()) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Pax {
    /// Parses the records of a local extended header.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, Fault> {
        let mut pax = Self::default();
        for record in records(data) {
            let (key, value) = record?;
            pax.take(key, value)?;
        }
        Ok(pax)
    }

    /// A global extended header may comment, but not rename, resize or otherwise change every entry that follows:
    /// readers differ in whether they apply that, so an archive would mean different things to different readers.
    pub(crate) fn check_global(data: &[u8]) -> Result<(), Fault> {
        let mut probe = Self::default();
        for record in records(data) {
            let (key, value) = record?;
            probe.take(key, value)?;
        }
        if probe == Self::default() {
            Ok(())
        } else {
            Err("a global PAX header changes all entries that follow".to_owned())
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let number = || decimal(value).ok_or_else(|| format!("PAX {} is not a number", show(key)));
        match key {
            b"path" => set(&mut self.path, text(key, value)?, key),
            b"linkpath" => set(&mut self.link, text(key, value)?, key),
            b"size" => set(&mut self.size, number()?, key),
            b"uid" => set(&mut self.uid, number()?, key),
            b"gid" => set(&mut self.gid, number()?, key),
            b"mtime" => set(&mut self.mtime, time(value).ok_or("PAX mtime is not a time")?, key),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    return self.xattr(name, value);
                }
                match key.strip_prefix(b"GNU.sparse.") {
                    Some(name) => self.sparse.get_or_insert_default().take(name, value),
                    None => Ok(()),
                }
            }
        }
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if name.is_empty() || name.len() > 255 {
            return Err("extended attribute with an impossible name".to_owned());
        }
        if self.xattrs.iter().any(|(n, _)| n == name) {
            return Err(format!("extended attribute {} twice", show(name)));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl PaxSparse {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        let number = || decimal(value).ok_or_else(|| format!("GNU.sparse.{} is not a number", show(name)));
        match name {
            b"name" => set(&mut self.name, text(name, value)?, name),
            b"realsize" | b"size" => set(&mut self.real_size, number()?, name),
            b"numblocks" => set(&mut self.count, number()?, name),
            b"major" => set(&mut self.major, number()?, name),
            b"minor" => {
                set(&mut self.minor, number()?, name)?;
                Ok(())
            }
            b"offset" => set(&mut self.offset, number()?, name),
            b"numbytes" => {
                let offset = self.offset.take().ok_or("GNU.sparse.numbytes without an offset")?;
                self.map.push((offset, number()?));
                Ok(())
            }
            b"map" => {
                let numbers: Option<Vec<u64>> = if value.is_empty() {
                    Some(Vec::new())
                } else {
                    value.split(|b| *b == b',').map(decimal).collect()
                };
                let numbers = numbers.filter(|n| n.len() % 2 == 0).ok_or("malformed GNU.sparse.map")?;
                if !self.map.is_empty() {
                    return Err("two sparse maps".to_owned());
                }
                self.map = numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect();
                Ok(())
            }
            _ => Err(format!("unknown record GNU.sparse.{}", show(name))),
        }?;
        self.map_in_data = self.major.is_some();
        match (self.major, self.minor) {
            (None | Some(1), None | Some(0)) => Ok(()),
            // Old archives may say 0.x in numbers as well.
            (Some(0), _) => {
                self.map_in_data = false;
                Ok(())
            }
            _ => Err("unknown version of GNU's sparse format".to_owned()),
        }
    }
}

/// An empty value takes the record back, as POSIX says: the header's own field counts.
fn set<T: Value>(slot: &mut Option<T>, value: T, key: &[u8]) -> Result<(), Fault> {
    if slot.is_some() {
        return Err(format!("PAX record {} twice", show(key)));
    }
    if !value.is_unset() {
        *slot = Some(value);
    }
    Ok(())
}

trait Value {
    fn is_unset(&self) -> bool {
        false
    }
}
impl Value for u64 {}
impl Value for (i64, u32) {}
impl Value for Vec<u8> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

fn text(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Fault> {
    if value.contains(&0) { Err(format!("NUL in PAX {}", show(key))) } else { Ok(value.to_vec()) }
}

/// `[-]SECONDS[.FRACTION]`, rounded down to the nanosecond.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0_u32;
    let mut more = false;
    if let Some(fraction) = parts.next() {
        if fraction.iter().any(|b| !b.is_ascii_digit()) {
            return None;
        }
        for i in 0..9 {
            nanos = nanos * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0'));
        }
        more = fraction.iter().skip(9).any(|b| *b != b'0');
    }
    if !negative {
        return Some((seconds, nanos));
    }
    let nanos = nanos + u32::from(more);
    if nanos == 0 { Some((-seconds, 0)) } else { Some(((-seconds).checked_sub(1)?, 1_000_000_000 - nanos)) }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"-1.0000000001"), Some((-2, 999_999_999)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"1e5"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x path=a\n"[..],
            b"9 path=a\n1",
            b"99 path=a\n",
            b"11 path=a\n",
            b"5 =a\n",
            b"8 path=a",
            b"0 \n",
            b"12 size=0x10\n",
            b"10 path=\0\n",
            b"9 path=a\n9 path=b\n",
            b"18446744073709551616 path=a\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        let fine = Pax::parse(b"9 path=a\n21 mtime=1.000000001\n").unwrap();
        assert_eq!(fine.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(fine.mtime, Some((1, 1)));
        assert!(Pax::check_global(b"17 comment=12345\n").is_ok());
        assert!(Pax::check_global(b"9 path=a\n").is_err());
    }
}
