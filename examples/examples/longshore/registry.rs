//! `pull`, `push`, `search`, `manifest inspect`, `image copy`.

use clap::Args;
use longshore_build::local_name;
use longshore_examples::Progress;
use longshore_image::{Store, parse_platform};
use longshore_registry_client::{Event, Reference};
use oci_spec::image::{Digest, Platform};
use serde_json::json;

use crate::app::App;
use crate::failure::{Failure, Result, chain};
use crate::idle::ContentTrust;
use crate::output;
use crate::progress::Blobs;

/// `pull`
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    trust: ContentTrust,
    /// Name, and tag or digest
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// `push`
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    trust: ContentTrust,
    /// Name and tag
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

pub(crate) fn pull(app: &App, args: &PullArgs) -> Result<()> {
    let reference = parse_reference(&args.name)?;
    if args.all_tags {
        return pull_all(app, args, &reference);
    }
    if !args.quiet && !args.name.contains('@') && !has_tag(&args.name) {
        output::line("Using default tag: latest");
    }
    let platform = platform(args.platform.as_deref())?;
    pull_image(app, &reference, platform.as_ref(), &Blobs::new(args.quiet))?;
    output::line(&reference.to_string());
    Ok(())
}

fn pull_all(app: &App, args: &PullArgs, reference: &Reference) -> Result<()> {
    if has_tag(&args.name) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let client = app.registry()?;
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let tags = client.tags(reference).map_err(|e| match e.is_not_found() {
        true => Failure::new(format!("repository {repository} not found: {}", answer(&e))),
        false => refused(app, &e, reference),
    })?;
    let platform = platform(args.platform.as_deref())?;
    for tag in tags {
        pull_image(app, &reference.with_tag(&tag)?, platform.as_ref(), &Blobs::new(args.quiet))?;
    }
    output::line(&repository);
    Ok(())
}

/// Docker's words for what a registry does not have or does not give.
fn refused(app: &App, error: &longshore_registry_client::Error, reference: &Reference) -> Failure {
    let name = reference.familiar();
    // A blob that is missing is not for want of the manifest.
    if matches!(error, longshore_registry_client::Error::Status { status: 404, url, .. } if url.contains("/manifests/"))
    {
        return Failure::new(format!("manifest for {name} not found: {}", answer(error)));
    }
    if error.is_auth() {
        // Where a login was withheld, the registry may have refused what it lets nobody do: it is asked about the login alone.
        let cure = trust_realm(error).or_else(|| {
            let answer = app.registry().ok()?.ping(reference.registry());
            trust_realm(&answer.err()?)
        });
        let may = cure.unwrap_or_else(|| "may require 'longshore login'".to_owned());
        return Failure::new(format!("access denied for {name}, {may}: {}", chain(error)));
    }
    Failure::from(error)
}

/// What lets a login reach the token server that it was withheld from.
pub(crate) fn trust_realm(error: &longshore_registry_client::Error) -> Option<String> {
    let longshore_registry_client::Error::Auth { registry, reason, .. } = error else { return None };
    let (_, server) = reason.split_once("the login was withheld from the token server ")?;
    let (_, host) = server.split(',').next()?.split_once("://")?;
    Some(format!(
        "which takes --trust-realm {registry}={host} if that server may see the login (with each command that needs it)"
    ))
}

/// What a registry answered, without the words for a 404 that stand before it already.
fn answer(error: &longshore_registry_client::Error) -> String {
    let longshore_registry_client::Error::Status { method, url, status, codes, .. } = error else {
        return chain(error);
    };
    let codes = codes.iter().map(|e| format!(": {} ({})", e.code, e.message)).collect::<String>();
    format!("{method} {url}: {status}{codes}")
}

fn failed(app: &App, error: &longshore_examples::BoxError, reference: &Reference) -> Failure {
    match error.downcast_ref::<longshore_registry_client::Error>() {
        Some(error) => refused(app, error, reference),
        None => Failure::from(&**error),
    }
}

/// What `--platform` says, or else docker's variable; nothing stands for this machine's.
pub(crate) fn platform(said: Option<&str>) -> Result<Option<Platform>> {
    let said = said.map(str::to_owned).or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok());
    Ok(said.filter(|text| !text.is_empty()).map(|text| parse_platform(&text)).transpose()?)
}

/// Pulls with docker's words up to `Status:`.
pub(crate) fn pull_image(
    app: &App,
    reference: &Reference,
    platform: Option<&Platform>,
    blobs: &Blobs,
) -> Result<()> {
    let tag =
        reference.tag().map_or_else(|| reference.digest().map(ToString::to_string), |t| Some(t.to_owned()));
    blobs.line(&format!("{}: Pulling from {}", tag.unwrap_or_default(), reference.repository()));
    let image = |event: longshore_image::Event<'_>| match event {
        longshore_image::Event::Fetched { digest, done, size } => {
            blobs.moved(digest, "Pulling fs layer", "Downloading", done, size);
        }
        longshore_image::Event::Stored { digest } => blobs.ended(digest, "Download complete"),
        _ => {}
    };
    let progress = Progress { image: &image, registry: &|_| {}, cancel: app.cancel() };
    let before = before(app.host()?.store(), reference)?;
    let pulled = app.host()?.pull(reference, platform, progress).map_err(|e| failed(app, &e, reference))?;
    for layer in pulled.image.manifest().layers() {
        let word = if blobs.knows(layer.digest()) { "Pull complete" } else { "Already exists" };
        blobs.ended(layer.digest(), word);
        if !blobs.knows(layer.digest()) {
            blobs.told(layer.digest(), word);
        }
    }
    blobs.line(&format!("Digest: {}", pulled.image.target().digest()));
    // What the name stood for decides: all blobs of another image may be here already.
    let same = before.contains(pulled.image.descriptor().digest());
    let status = if same { "Image is up to date for" } else { "Downloaded newer image for" };
    blobs.line(&format!("Status: {status} {}", reference.familiar()));
    Ok(())
}

/// The manifests that the name stands for here. For a digest that is what it names of this repository, under any tag.
fn before(store: &Store, reference: &Reference) -> Result<Vec<Digest>> {
    let mut names = vec![local_name(reference)];
    if reference.digest().is_some() {
        names.extend(store.names()?.into_iter().map(|(name, _)| name).filter(|name| same(name, reference)));
    }
    let known = names.iter().filter_map(|name| store.image(name).ok());
    let meant =
        known.filter(|image| reference.digest().is_none_or(|wanted| image.target().digest() == wanted));
    Ok(meant.map(|image| image.descriptor().digest().clone()).collect())
}

/// Whether a name is of the reference's repository.
fn same(name: &str, reference: &Reference) -> bool {
    let of = |r: &Reference| (r.registry().to_owned(), r.repository().to_owned());
    name.parse::<Reference>().is_ok_and(|named| of(&named) == of(reference))
}

pub(crate) fn push(app: &App, args: &PushArgs) -> Result<()> {
    if args.name.contains('@') {
        return Err(Failure::new("cannot push a digest reference"));
    }
    let reference = parse_reference(&args.name)?;
    if !args.all_tags {
        if !args.quiet && !has_tag(&args.name) {
            output::line("Using default tag: latest");
        }
        push_image(app, &reference, args.quiet, true)?;
        if args.quiet {
            output::line(&reference.to_string());
        }
        return Ok(());
    }
    if has_tag(&args.name) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let mut pushed = 0;
    for (name, _) in app.host()?.store().names()? {
        if same(&name, &reference) {
            push_image(app, &parse_reference(&name)?, args.quiet, pushed == 0)?;
            pushed += 1;
        }
    }
    if pushed == 0 {
        return Err(Failure::new(format!("An image does not exist locally with the tag: {}", args.name)));
    }
    if args.quiet {
        output::line(&format!("{}/{}", reference.registry(), reference.repository()));
    }
    Ok(())
}

/// `first`: of its repository, which is then said.
fn push_image(app: &App, reference: &Reference, quiet: bool, first: bool) -> Result<()> {
    let blobs = Blobs::new(quiet);
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let image = match app.host()?.store().image(&reference.to_string()) {
        Err(error) if error.is_not_found() => {
            let name = reference.familiar();
            return Err(Failure::new(format!("An image does not exist locally with the tag: {name}")));
        }
        found => found?,
    };
    if first {
        blobs.line(&format!("The push refers to repository [{repository}]"));
    }
    let layers: Vec<String> = image.manifest().layers().iter().map(|l| l.digest().to_string()).collect();
    let registry = |event: Event<'_>| {
        if digest_of(&event).is_some_and(|digest| layers.contains(&digest.to_string())) {
            show(&blobs, &event, "Pushing", "Pushed");
        }
    };
    let progress = Progress { image: &|_| {}, registry: &registry, cancel: app.cancel() };
    let pushed = app.host()?.push(reference, progress).map_err(|e| failed(app, &e, reference))?;
    let (tag, pushed) = (reference.tag().unwrap_or("latest"), &pushed.descriptor);
    blobs.line(&format!("{tag}: digest: {} size: {}", pushed.digest(), pushed.size()));
    Ok(())
}

fn digest_of<'a>(event: &Event<'a>) -> Option<&'a Digest> {
    match event {
        Event::Started { digest, .. }
        | Event::Bytes { digest, .. }
        | Event::Resumed { digest, .. }
        | Event::Exists { digest }
        | Event::Mounted { digest, .. }
        | Event::Done { digest } => Some(digest),
        _ => None,
    }
}

/// Shows one event of a push or copy.
fn show(blobs: &Blobs, event: &Event<'_>, doing: &str, done: &str) {
    match event {
        Event::Started { digest, size } => blobs.moved(digest, doing, doing, 0, *size),
        Event::Bytes { digest, done: bytes, size } => blobs.moved(digest, doing, doing, *bytes, *size),
        Event::Exists { digest } => blobs.told(digest, "Layer already exists"),
        Event::Mounted { digest, from } => blobs.told(digest, &format!("Mounted from {from}")),
        Event::Done { digest } => blobs.ended(digest, done),
        _ => {}
    }
}

/// `image copy`
#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Name, and tag or digest
    #[arg(value_name = "SOURCE_IMAGE")]
    from: String,
    /// Name and tag
    #[arg(value_name = "TARGET_IMAGE")]
    to: String,
}

/// Copies from registry to registry; nothing is stored here.
pub(crate) fn copy(app: &App, args: &CopyArgs) -> Result<()> {
    let (from, to) = (parse_reference(&args.from)?, parse_reference(&args.to)?);
    let blobs = Blobs::new(args.quiet);
    let progress = |event: Event<'_>| show(&blobs, &event, "Copying", "Copied");
    let client = app.registry()?;
    let ctx = longshore_registry_client::Ctx { progress: &progress, cancel: app.cancel() };
    let copied = client.copy(&from, &to, ctx).map_err(|e| refused(app, &e, of_whom(&e, &from, &to)))?;
    output::line(&format!("{to}: digest: {} size: {}", copied.descriptor.digest(), copied.descriptor.size()));
    Ok(())
}

/// Which side of a copy did not do its part.
fn of_whom<'a>(
    error: &longshore_registry_client::Error,
    from: &'a Reference,
    to: &'a Reference,
) -> &'a Reference {
    use longshore_registry_client::Error;
    let target = match error {
        Error::Status { url, .. } => url.contains(&format!("{}/v2/{}/", to.registry(), to.repository())),
        Error::Auth { registry, .. } => registry == to.registry() && registry != from.registry(),
        _ => false,
    };
    if target { to } else { from }
}

/// `manifest inspect`: the manifest or index as the registry has it, indented.
pub(crate) fn manifest(app: &App, name: &str) -> Result<()> {
    let reference = parse_reference(name)?;
    let client = app.registry()?;
    let (descriptor, bytes) = client.manifest(&reference).map_err(|e| refused(app, &e, &reference))?;
    // As docker does.
    let indent = if descriptor.media_type().as_ref().contains("manifest.v") { "\t" } else { "   " };
    output::indented(&String::from_utf8_lossy(&bytes), indent);
    Ok(())
}

/// `search`
#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Max number of search results
    #[arg(long, default_value_t = 25)]
    limit: usize,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Term, with a registry before a slash if it is not Docker Hub
    #[arg(value_name = "TERM")]
    term: String,
}

pub(crate) fn search(app: &App, args: &SearchArgs) -> Result<()> {
    let (registry, term) = match args.term.split_once('/') {
        Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => (host, term),
        _ => ("docker.io", args.term.as_str()),
    };
    let client = app.registry()?;
    let cut = |text: &str| if args.no_trunc { text.to_owned() } else { output::ellipsis(text, 45) };
    let rows = client.search(registry, term)?.into_iter().take(args.limit).map(|found| {
        json!({
            "Name": found.name, "Description": cut(&found.description.replace(['\n', '\r'], " ")),
            "StarCount": found.stars.to_string(), "IsOfficial": if found.official { "[OK]" } else { "" },
        })
    });
    let titles = [
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
    ];
    let table = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
    output::rows(&titles, table, args.format.as_deref(), &rows.collect::<Vec<_>>())
}

/// Parses a name, with docker's word for one that is not.
pub(crate) fn parse_reference(name: &str) -> Result<Reference> {
    name.parse::<Reference>().map_err(Failure::from)
}

/// Whether the name, as written, has a tag or a digest.
fn has_tag(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains(':') || last.contains('@')
}
