//! The files that a container gets for itself: `hostname`, `hosts`, `resolv.conf`.

use std::fmt::Write;
use std::path::Path;

use super::record::Record;
use super::{Attached, Error, OpenOptions, Result};

/// Their names in the container's directory, and where they are mounted.
pub(super) const NAMES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// Writes them in place, for they may be bound into a namespace already.
pub(super) fn write_all(
    dir: &Path,
    record: &Record,
    attached: &[Attached],
    options: &OpenOptions,
) -> Result<()> {
    let file = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    };
    file("hostname", format!("{}\n", record.config.hostname))?;
    file("hosts", hosts(record, attached))?;
    file("resolv.conf", resolv_conf(record, attached, &options.resolv_conf))
}

fn hosts(record: &Record, attached: &[Attached]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for line in &record.host.extra_hosts {
        // `name:address`, where the address may be IPv6; `host-gateway` is the host as seen from the container.
        let Some((name, address)) = line.split_once([':', '=']) else { continue };
        let gateway = attached.iter().map(|a| a.gateway.as_str()).find(|g| !g.is_empty());
        let address = if address == "host-gateway" { gateway.unwrap_or("127.0.0.1") } else { address };
        let _ = writeln!(text, "{}\t{name}", address.trim_start_matches('[').trim_end_matches(']'));
    }
    let own = attached.iter().map(|a| a.address.split('/').next().unwrap_or("")).filter(|a| !a.is_empty());
    let mut own: Vec<&str> = own.collect();
    if own.is_empty() {
        // Without a network its own name must resolve all the same.
        own.push("127.0.1.1");
    }
    let (host, domain) = (&record.config.hostname, &record.config.domainname);
    if record.network.mode != "host" && !host.is_empty() {
        let full = if domain.is_empty() { String::new() } else { format!("{host}.{domain} ") };
        for address in own {
            let _ = writeln!(text, "{address}\t{full}{host}");
        }
    }
    text
}

fn resolv_conf(record: &Record, attached: &[Attached], of_host: &str) -> String {
    let (host, mut text) = (&record.host, String::new());
    let shares = record.network.mode == "host" || record.network.mode.starts_with("container:");
    let lines =
        |key: &'static str| of_host.lines().filter(move |l| l.split_ascii_whitespace().next() == Some(key));
    let network =
        attached.iter().map(|a| a.nameservers.as_slice()).find(|n| !n.is_empty()).unwrap_or_default();
    let mut servers: Vec<String> = if host.dns.is_empty() { network.to_vec() } else { host.dns.clone() };
    if servers.is_empty() {
        let given = lines("nameserver").filter_map(|l| l.split_ascii_whitespace().nth(1));
        // A server on the host's loopback does not listen on the container's.
        servers =
            given.filter(|s| shares || !(s.starts_with("127.") || *s == "::1")).map(String::from).collect();
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if host.dns_search.is_empty() {
        lines("search").chain(lines("domain")).for_each(|l| text.extend([l, "\n"]));
    } else if host.dns_search != ["."] {
        let _ = writeln!(text, "search {}", host.dns_search.join(" "));
    }
    if host.dns_options.is_empty() {
        lines("options").for_each(|l| text.extend([l, "\n"]));
    } else {
        let _ = writeln!(text, "options {}", host.dns_options.join(" "));
    }
    text
}
