use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::containers::{Empty, Error, Port, PortBinding, Result, Set};

/// `-p` and `--expose` arguments: exposed ports, and published ones.
pub fn ports(publish: &[String], expose: &[String]) -> Result<(Set, BTreeMap<String, Vec<PortBinding>>)> {
    let mut exposed = Set::new();
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for text in publish {
        for (port, binding) in published(text)? {
            exposed.insert(port.clone(), Empty {});
            bindings.entry(port).or_default().push(binding);
        }
    }
    for text in expose {
        let (range, protocol) = protocol(text)?;
        let bad = || Error::invalid(format!("invalid range format for --expose: {text}"));
        let (first, last) = self::range(range).filter(|r| r.0 > 0).ok_or_else(bad)?;
        exposed.extend((first..=last).map(|p| (format!("{p}/{protocol}"), Empty {})));
    }
    Ok((exposed, bindings))
}

/// A MAC address: `02:42:ac:11:00:02`.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let digits = |part: &str| {
        (part.len() == 2)
            .then(|| u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+')))
            .flatten()
    };
    let bytes: Vec<u8> = text.split([':', '-']).map(digits).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn protocol(text: &str) -> Result<(&str, String)> {
    let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Error::invalid(format!("invalid proto: {protocol}")));
    }
    Ok((ports, protocol))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// `[[ip:][host]:]container[/proto]`, each port also a range.
fn published(text: &str) -> Result<Vec<(String, PortBinding)>> {
    let (spec, protocol) = protocol(text)?;
    let (front, container) = spec.rsplit_once(':').unwrap_or(("", spec));
    let (ip, host) = match front.rsplit_once(':') {
        Some((ip, host)) => (ip.strip_prefix('[').and_then(|i| i.strip_suffix(']')).unwrap_or(ip), host),
        None => ("", front),
    };
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(Error::invalid(format!("invalid IP address: {ip}")));
    }
    if container.is_empty() {
        return Err(Error::invalid(format!("no port specified: {text}<empty>")));
    }
    let inside = range(container)
        .filter(|r| r.0 > 0)
        .ok_or_else(|| Error::invalid(format!("invalid containerPort: {container}")))?;
    let binding = |port: u16, host_port: String| {
        (format!("{port}/{protocol}"), PortBinding { host_ip: ip.into(), host_port })
    };
    if host.is_empty() {
        return Ok((inside.0..=inside.1).map(|p| binding(p, String::new())).collect());
    }
    let outside = range(host).ok_or_else(|| Error::invalid(format!("invalid hostPort: {host}")))?;
    if outside.1 - outside.0 == inside.1 - inside.0 {
        return Ok((inside.0..=inside.1).zip(outside.0..).map(|(p, h)| binding(p, h.to_string())).collect());
    }
    // One container port and a range of host ports: the network picks a free one; here that is the first.
    if inside.0 == inside.1 {
        return Ok(vec![binding(inside.0, outside.0.to_string())]);
    }
    Err(Error::invalid(format!(
        "invalid ranges specified for container and host Ports: {container} and {host}"
    )))
}

/// What the network is asked for: the bindings, and with `all` every exposed port on a free host port.
pub(in crate::containers) fn requested(
    bindings: &BTreeMap<String, Vec<PortBinding>>,
    exposed: &Set,
    all: bool,
) -> Result<Vec<Port>> {
    let mut out = Vec::new();
    for (key, list) in bindings {
        for binding in list {
            let host_port =
                if binding.host_port.is_empty() { Some(0) } else { binding.host_port.parse().ok() };
            let host_port = host_port.ok_or_else(|| {
                Error::invalid(format!("invalid port specification: \"{}\"", binding.host_port))
            })?;
            out.push(port(key, &binding.host_ip, host_port)?);
        }
    }
    if all {
        for key in exposed.keys().filter(|k| !bindings.contains_key(*k)) {
            out.push(port(key, "", 0)?);
        }
    }
    Ok(out)
}

fn port(key: &str, host_ip: &str, host_port: u16) -> Result<Port> {
    let (number, protocol) = protocol(key)?;
    let container_port =
        number.parse().map_err(|_| Error::invalid(format!("invalid port specification: \"{key}\"")))?;
    Ok(Port { host_ip: host_ip.into(), host_port, container_port, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Vec<(String, String, String)> {
        published(text).unwrap().into_iter().map(|(p, b)| (p, b.host_ip, b.host_port)).collect()
    }

    #[test]
    fn all_forms() {
        let s = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
        assert_eq!(one("8080:80"), [s("80/tcp", "", "8080")]);
        assert_eq!(one("80"), [s("80/tcp", "", "")]);
        assert_eq!(one("127.0.0.1::80/udp"), [s("80/udp", "127.0.0.1", "")]);
        assert_eq!(one("[::1]:1:2"), [s("2/tcp", "::1", "1")]);
        assert_eq!(one("7000-7001:80-81"), [s("80/tcp", "", "7000"), s("81/tcp", "", "7001")]);
        for bad in ["", "x", "80:", "1:2:3", "0:0", "70000:80", "1-3:1-2", "80/foo", "a:80", "-:80"] {
            assert!(published(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(mac("02:42:ac:11:00:0F"), Some([2, 0x42, 0xac, 0x11, 0, 15]));
        for bad in
            ["", "zz", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02", "02:42:ac:11:00:+2"]
        {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn exposed_and_published_meet() {
        let (exposed, bindings) = ports(&["8080:80".into()], &["90-91".into(), "53/udp".into()]).unwrap();
        assert_eq!(exposed.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "90/tcp", "91/tcp"]);
        let asked = requested(&bindings, &exposed, true).unwrap();
        assert_eq!(asked.len(), 4);
        assert_eq!(
            asked[0],
            Port { host_ip: String::new(), host_port: 8080, container_port: 80, protocol: "tcp".into() }
        );
    }
}
