//! `pull`, `push`.

use clap::Args;
use longshore_examples::Progress;
use longshore_registry_client::Reference;
use oci_spec::image::Platform;

use crate::app::App;
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Blobs;

/// `pull`
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
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
    /// Name and tag
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

pub(crate) fn pull(app: &App, args: &PullArgs) -> Result<()> {
    let reference = parse_reference(&args.name)?;
    if !args.quiet && !args.name.contains('@') && !has_tag(&args.name) {
        output::line("Using default tag: latest");
    }
    pull_image(app, &reference, args.platform.as_deref(), args.quiet)?;
    output::line(&reference.to_string());
    Ok(())
}

/// Pulls with docker's words up to `Status:`.
pub(crate) fn pull_image(
    app: &App,
    reference: &Reference,
    platform: Option<&str>,
    quiet: bool,
) -> Result<()> {
    let platform = platform.map(parse_platform).transpose()?;
    let blobs = Blobs::new(quiet);
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
    let pulled = app.host()?.pull(reference, platform.as_ref(), progress).map_err(|e| Failure::from(&*e))?;
    for layer in pulled.image.manifest().layers() {
        let word = if blobs.knows(layer.digest()) { "Pull complete" } else { "Already exists" };
        blobs.ended(layer.digest(), word);
        if !blobs.knows(layer.digest()) {
            blobs.told(layer.digest(), word);
        }
    }
    blobs.line(&format!("Digest: {}", pulled.image.target().digest()));
    let status = if pulled.fetched > 0 { "Downloaded newer image for" } else { "Image is up to date for" };
    blobs.line(&format!("Status: {status} {}", reference.familiar()));
    Ok(())
}

pub(crate) fn push(app: &App, args: &PushArgs) -> Result<()> {
    let reference = parse_reference(&args.name)?;
    if !args.all_tags {
        if !args.quiet && !has_tag(&args.name) {
            output::line("Using default tag: latest");
        }
        return push_image(app, &reference, args.quiet);
    }
    if has_tag(&args.name) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let mut pushed = 0;
    for (name, _) in app.host()?.store().names()? {
        let Ok(local) = name.parse::<Reference>() else { continue };
        if (local.registry(), local.repository()) == (reference.registry(), reference.repository()) {
            push_image(app, &local, args.quiet)?;
            pushed += 1;
        }
    }
    if pushed == 0 {
        return Err(Failure::new(format!("An image does not exist locally with the tag: {}", args.name)));
    }
    Ok(())
}

fn push_image(app: &App, reference: &Reference, quiet: bool) -> Result<()> {
    let blobs = Blobs::new(quiet);
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let image = match app.host()?.store().image(&reference.to_string()) {
        Err(error) if error.is_not_found() => {
            let name = reference.familiar();
            return Err(Failure::new(format!("An image does not exist locally with the tag: {name}")));
        }
        found => found?,
    };
    blobs.line(&format!("The push refers to repository [{repository}]"));
    let layers: Vec<String> = image.manifest().layers().iter().map(|l| l.digest().to_string()).collect();
    let is_layer = |digest: &dyn ToString| layers.contains(&digest.to_string());
    let registry = |event: longshore_registry_client::Event<'_>| {
        use longshore_registry_client::Event;
        match event {
            Event::Started { digest, size } if is_layer(digest) => {
                blobs.moved(digest, "Pushing", "Pushing", 0, size)
            }
            Event::Bytes { digest, done, size } if is_layer(digest) => {
                blobs.moved(digest, "Pushing", "Pushing", done, size);
            }
            Event::Exists { digest } if is_layer(digest) => blobs.told(digest, "Layer already exists"),
            Event::Mounted { digest } if is_layer(digest) => {
                blobs.told(digest, "Mounted from another repository")
            }
            Event::Done { digest } if is_layer(digest) => blobs.ended(digest, "Pushed"),
            _ => {}
        }
    };
    let progress = Progress { image: &|_| {}, registry: &registry, cancel: app.cancel() };
    let pushed = app.host()?.push(reference, progress).map_err(|e| Failure::from(&*e))?;
    if quiet {
        output::line(&reference.to_string());
    } else {
        let tag = reference.tag().unwrap_or("latest");
        blobs.line(&format!(
            "{tag}: digest: {} size: {}",
            pushed.descriptor.digest(),
            pushed.descriptor.size()
        ));
    }
    Ok(())
}

/// Parses a name, with docker's word for one that is not.
pub(crate) fn parse_reference(name: &str) -> Result<Reference> {
    name.parse::<Reference>().map_err(Failure::from)
}

/// `linux/arm64/v8`
pub(crate) fn parse_platform(text: &str) -> Result<Platform> {
    let mut parts = text.split('/');
    let (Some(os), Some(architecture)) = (parts.next(), parts.next()) else {
        return Err(Failure::new(format!(
            "\"{text}\" is an invalid platform: expected os/architecture[/variant]"
        )));
    };
    let mut platform = Platform::default();
    platform.set_os(os.into());
    platform.set_architecture(architecture.into());
    platform.set_variant(parts.next().map(str::to_owned));
    Ok(platform)
}

/// Whether the name, as written, has a tag or a digest.
fn has_tag(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains(':') || last.contains('@')
}
