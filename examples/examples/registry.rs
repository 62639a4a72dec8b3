//! Looks into registries and moves images between them: tags, manifests, blobs, referrers, copies, further tags, deletion.
//! Thin on purpose: all that it can is `longshore-registry-client`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longshore_examples::plain;
use longshore_image::parse_platform;
use longshore_registry_client::{
    Client, Ctx, DockerConfigFile, Event, HostsDir, Platforms, Proxies, Reference,
};
use oci_spec::image::Digest;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser, Debug)]
#[command(name = "registry", version, about)]
struct Args {
    /// Logins, as `docker login` writes them [default: config.json of $DOCKER_CONFIG or ~/.docker]
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Registries to talk unverified TLS to, or plain HTTP where that fails (loopback needs no mention)
    #[arg(long, global = true, value_name = "HOST[:PORT]|NETWORK")]
    insecure: Vec<String>,
    /// Token servers that may see a registry's login although they look like strangers
    #[arg(long, global = true, value_name = "REGISTRY=HOST")]
    trust_realm: Vec<String>,
    /// Directories of hosts.toml files or certificates
    #[arg(long, global = true, value_name = "DIR", default_values = ["/etc/containerd/certs.d", "/etc/docker/certs.d"])]
    hosts_dir: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List a repository's tags
    Tags {
        /// The repository
        name: String,
    },
    /// List a registry's repositories
    Catalog {
        /// The registry's host
        registry: String,
    },
    /// Print a manifest or index as it is
    Manifest {
        /// The image
        name: Reference,
        /// Of an index, the manifest for this platform (arm64, linux/arm/v7, ...)
        #[arg(long)]
        platform: Option<String>,
        /// Print media type, size and digest instead
        #[arg(long)]
        descriptor: bool,
    },
    /// Write a blob to standard output, verified
    Blob {
        /// The repository and the blob's digest, NAME@DIGEST
        name: Reference,
    },
    /// List what is attached to an image
    Referrers {
        /// The image
        name: Reference,
        /// Only this type
        #[arg(long)]
        artifact_type: Option<String>,
    },
    /// Copy an image with all its platforms
    Copy {
        /// From here
        from: Reference,
        /// To here
        to: Reference,
    },
    /// Let further tags of the same repository point to an image
    Tag {
        /// The image
        name: Reference,
        /// The tags
        #[arg(required = true)]
        tags: Vec<String>,
    },
    /// Delete a tag, or a manifest by digest
    Delete {
        /// NAME:TAG or NAME@DIGEST
        name: String,
        /// The digest is a blob's
        #[arg(long)]
        blob: bool,
    },
    /// Pull an image into an OCI layout directory
    Pull {
        /// The image
        name: Reference,
        /// The directory
        layout: PathBuf,
        /// All platforms of an index
        #[arg(long)]
        all_platforms: bool,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut next = error.source();
            while let Some(cause) = next {
                text += &format!(": {cause}");
                next = cause.source();
            }
            note(&format!("registry: {}", plain(&text)));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let client = client(&args)?;
    match args.command {
        Command::Tags { name } => {
            for tag in client.tags(&Reference::parse_untagged(&name)?)? {
                line(&tag);
            }
        }
        Command::Catalog { registry } => {
            for repository in client.catalog(&registry)? {
                line(&repository);
            }
        }
        Command::Manifest { name, platform, descriptor } => {
            manifest(&client, &name, platform.as_deref(), descriptor)?;
        }
        Command::Blob { name } => {
            let digest = digest(&name)?;
            let source = client.source(&name)?;
            let mut reader = source.open(&source.stat(digest)?, 0)?;
            io::copy(&mut reader, &mut io::stdout().lock())?;
        }
        Command::Referrers { name, artifact_type } => {
            // What is attached to a digest may be there before what it names.
            let subject = match name.digest() {
                Some(digest) => digest.clone(),
                None => client.resolve(&name)?.digest().clone(),
            };
            for found in client.referrers(&name, &subject, artifact_type.as_deref())? {
                let kind = found.artifact_type().as_ref().map_or("-", AsRef::as_ref);
                line(&format!("{}  {}  {}", found.digest(), found.size(), plain(kind)));
            }
        }
        Command::Copy { from, to } => {
            let pushed = client.copy(&from, &to, Ctx { progress: &report, ..Ctx::none() })?;
            line(&format!(
                "{}  {} blobs sent, {} reused",
                pushed.descriptor.digest(),
                pushed.sent,
                pushed.reused
            ));
        }
        Command::Tag { name, tags } => {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            line(client.tag(&name, &tags)?.digest().as_ref());
        }
        Command::Delete { name, blob } => delete(&client, &name, blob)?,
        Command::Pull { name, layout, all_platforms } => {
            let layout = longshore_registry_client::Layout::open(layout)?;
            let platforms = if all_platforms { Platforms::All } else { Platforms::Host };
            let pulled = client.pull(&name, &platforms, &layout, Ctx { progress: &report, ..Ctx::none() })?;
            layout.set(name.tag().unwrap_or("latest"), &pulled.root)?;
            line(&format!(
                "{}  {} blobs fetched, {} reused",
                pulled.root.digest(),
                pulled.fetched,
                pulled.reused
            ));
        }
    }
    Ok(())
}

/// To standard output. A closed pipe (`registry tags NAME | head -1`) ends the program quietly.
fn line(text: &str) {
    if writeln!(io::stdout(), "{text}").is_err() {
        std::process::exit(141);
    }
}

/// A word beside the output.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn client(args: &Args) -> Result<Client, Error> {
    let config = args.config.clone().or_else(|| {
        let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let directory =
            directory.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
        Some(directory.join("config.json"))
    });
    let mut builder = Client::builder()
        .hosts(HostsDir::new(&args.hosts_dir))
        .proxies(Proxies::from_vars(|name| std::env::var(name).ok()))
        .warnings(|registry, text| note(&format!("registry: {registry} warns: {}", plain(text))));
    let system = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if system.is_file() {
        builder = builder.roots_file(system)?;
    }
    if let Some(config) = config {
        builder = builder.credentials(DockerConfigFile::open(config)?);
    }
    for host in &args.insecure {
        builder = builder.insecure(host);
    }
    for pair in &args.trust_realm {
        let (registry, host) = pair.split_once('=').ok_or("--trust-realm wants REGISTRY=HOST")?;
        builder = builder.trust_realm(registry, host);
    }
    Ok(builder.build()?)
}

fn manifest(
    client: &Client,
    name: &Reference,
    platform: Option<&str>,
    descriptor: bool,
) -> Result<(), Error> {
    let (mut found, mut bytes) = client.manifest(name)?;
    if let Some(platform) = platform {
        let child = client.select(&bytes, Some(&parse_platform(platform)?))?;
        (found, bytes) = client.manifest(&name.with_digest(child.digest().clone()))?;
    }
    if descriptor {
        line(&format!("{}  {}  {}", found.media_type(), found.size(), found.digest()));
    } else if io::stdout().is_terminal() {
        line(&plain(&String::from_utf8_lossy(&bytes)));
    } else {
        io::stdout().lock().write_all(&bytes)?;
    }
    Ok(())
}

/// Nothing is deleted by default, `latest` neither.
fn delete(client: &Client, name: &str, blob: bool) -> Result<(), Error> {
    let name = Reference::parse_untagged(name)?;
    if blob {
        client.delete_blob(&name, digest(&name)?)?;
    } else if name.tag().is_none() && name.digest().is_none() {
        return Err("a tag or digest is needed: NAME:TAG or NAME@DIGEST".into());
    } else {
        client.delete(&name)?;
    }
    line(&format!("Deleted: {name}"));
    Ok(())
}

fn digest(name: &Reference) -> Result<&Digest, Error> {
    name.digest().ok_or_else(|| "a digest is needed: NAME@DIGEST".into())
}

fn report(event: Event<'_>) {
    match event {
        Event::Resumed { digest, offset } => {
            note(&format!("{digest}: connection broke, going on at {offset}"));
        }
        Event::Exists { digest } => note(&format!("{digest}: is there")),
        Event::Mounted { digest, from } => note(&format!("{digest}: mounted from {from}")),
        Event::Skipped { digest } => note(&format!("{digest}: left out, foreign")),
        Event::Done { digest } => note(&format!("{digest}: done")),
        _ => {}
    }
}
