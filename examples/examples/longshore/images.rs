//! `images`, `tag`, `rmi`, `history`, `image inspect|prune|tree|verify`.

use std::collections::{BTreeSet, HashMap};

use clap::Args;
use longshore_examples::find_image;
use longshore_image::{Ctx, Image, ImageRecord, Store, VerifyOptions};
use longshore_registry_client::Reference;
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::{Failure, Result, each};
use crate::filters::{PruneFilters, bad_filter, has_label};
use crate::{output, registry};

/// `images`
#[derive(Args, Debug)]
pub(crate) struct ImagesArgs {
    /// Show all images (default hides dangling images that others stand on)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Only images of this repository, or this one image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// `rmi`
#[derive(Args, Debug)]
pub(crate) struct RmiArgs {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// `tag`
#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// `history`
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `image prune`
#[derive(Args, Debug)]
pub(crate) struct ImagePruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// `image verify`
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Take away what is damaged, so that a pull fetches it again
    #[arg(long)]
    repair: bool,
}

pub(crate) fn images(app: &App, args: &ImagesArgs) -> Result<()> {
    let store = app.host()?.store();
    let filters = args.filter.iter().map(|f| Filter::parse(f, store)).collect::<Result<Vec<_>>>()?;
    // Of several patterns one is enough.
    let references: Vec<&str> = args.filter.iter().filter_map(|f| f.strip_prefix("reference=")).collect();
    let mut rows = Vec::new();
    for record in store.images()? {
        if !filters.iter().all(|filter| filter.matches(&record)) {
            continue;
        }
        let digests = args.digests || args.format.as_ref().is_some_and(|f| f.contains(".Digest"));
        for (repository, tag, digest) in names(&record, digests) {
            let matches = |wanted: &str| name_matches(wanted, &repository, &tag);
            if args.name.as_deref().is_none_or(matches)
                && (references.is_empty() || references.iter().any(|r| matches(r)))
            {
                rows.push(row(args, &record, &repository, &tag, &digest));
            }
        }
    }
    let format = args.format.as_deref();
    if args.quiet && format.is_none() {
        // As docker does, once for each name.
        rows.iter().for_each(|row| output::line(row["ID"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let digest = if args.digests { "{{.Digest}}\t" } else { "" };
    let table = format!(
        "table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{{{{.CreatedSince}}}}\t{{{{.Size}}}}"
    );
    let titles = [
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
    ];
    output::rows(&titles, &table, format, &rows)
}

fn row(args: &ImagesArgs, record: &ImageRecord, repository: &str, tag: &str, digest: &str) -> Value {
    let id = record.image.id().to_string();
    let created = created(&record.image);
    json!({
        "Repository": repository, "Tag": tag, "Digest": digest,
        "ID": if args.no_trunc { id } else { output::short_id(&id) },
        "CreatedSince": when(created, output::ago), "CreatedAt": when(created, output::date),
        "Size": output::size(record.size), "VirtualSize": output::size(record.size), "Containers": "N/A",
    })
}

/// `REPOSITORY@DIGEST` for each repository that a registry is known to have the image in, sorted: it was pulled or pushed by a name in
/// there, or has a name by digest. Repositories may have it by different manifests.
fn digests(store: &Store, image: &Image) -> Result<Vec<String>> {
    let records = store.images()?;
    let same = records.iter().filter(|record| record.image.id() == image.id());
    let known: BTreeSet<String> = same.flat_map(digests_of).collect();
    Ok(known.into_iter().collect())
}

/// Those that one manifest is known by.
fn digests_of(record: &ImageRecord) -> BTreeSet<String> {
    let target = record.image.target().digest();
    let known = record.names.iter().filter_map(|name| {
        let reference: Reference = name.parse().ok()?;
        let digest = reference.digest().or(record.published.contains(name).then_some(target))?;
        Some(format!("{}@{digest}", repository(&reference)))
    });
    known.collect()
}

/// Repository, tag and digest of each line that docker shows for an image: one for each tag; for a repository that the image
/// has only a digest of, one without a tag, or with `digests` one for each.
fn names(record: &ImageRecord, digests: bool) -> Vec<(String, String, String)> {
    let none = || "<none>".to_owned();
    let known = digests_of(record);
    let mut rows: Vec<(String, String, String)> = Vec::new();
    let mut untagged = Vec::new();
    for name in &record.names {
        match name.parse::<Reference>() {
            Ok(reference) => {
                let repository = repository(&reference);
                let published = known
                    .iter()
                    .find_map(|k| Some(k.strip_prefix(&repository)?.strip_prefix('@')?.to_owned()));
                let digest = reference.digest().map(ToString::to_string).or(published).unwrap_or_else(none);
                // By tag and digest means by digest.
                match reference.tag().filter(|_| reference.digest().is_none()) {
                    Some(tag) => rows.push((repository, tag.to_owned(), digest)),
                    None => untagged.push((repository, none(), digest)),
                }
            }
            Err(_) => untagged.push((name.clone(), none(), none())),
        }
    }
    for row in untagged {
        if !rows.iter().any(|(repository, tag, digest)| {
            *repository == row.0 && (*tag != row.1 || !digests || *digest == row.2)
        }) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        rows.push((none(), none(), none()));
    }
    rows
}

/// `debian`, `127.0.0.1:5000/web`: the name as docker shows it, without tag and digest.
fn repository(reference: &Reference) -> String {
    let name = reference.familiar();
    let name = name.split('@').next().unwrap_or_default();
    match reference.tag().and_then(|tag| name.strip_suffix(tag)?.strip_suffix(':')) {
        Some(name) => name.to_owned(),
        None => name.to_owned(),
    }
}

/// `images debian`, `images debian:bookworm`, `images 'deb*'`
fn name_matches(wanted: &str, repository: &str, tag: &str) -> bool {
    let last = wanted.rsplit('/').next().unwrap_or(wanted);
    match last.rsplit_once(':') {
        Some((_, wanted_tag)) => {
            glob(&wanted[..wanted.len() - wanted_tag.len() - 1], repository) && glob(wanted_tag, tag)
        }
        None => glob(wanted, repository),
    }
}

/// `*` and `?`, neither of which matches a slash.
fn glob(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let next = text.chars().next();
    match first {
        '*' => glob(rest, text) || next.is_some_and(|c| c != '/' && glob(pattern, &text[c.len_utf8()..])),
        '?' => next.is_some_and(|c| c != '/' && glob(rest, &text[c.len_utf8()..])),
        _ => next == Some(first) && glob(rest, &text[first.len_utf8()..]),
    }
}

enum Filter {
    Dangling(bool),
    Label(String),
    Reference,
    Before(i64),
    Since(i64),
}

impl Filter {
    fn parse(text: &str, store: &Store) -> Result<Self> {
        let (key, value) = text.split_once('=').ok_or_else(|| bad_filter(text, "-f, --filter"))?;
        let time = || Ok::<_, Failure>(created(&image(store, value)?).unwrap_or(0));
        Ok(match key {
            "dangling" => match value {
                "true" | "1" => Self::Dangling(true),
                "false" | "0" => Self::Dangling(false),
                _ => return Err(Failure::new(format!("Invalid filter 'dangling=[{value}]'"))),
            },
            "label" => Self::Label(value.to_owned()),
            "reference" => Self::Reference,
            "before" => Self::Before(time()?),
            "since" => Self::Since(time()?),
            _ => return Err(Failure::new(format!("invalid filter '{key}'"))),
        })
    }

    fn matches(&self, record: &ImageRecord) -> bool {
        match self {
            // As docker does: an image that was pulled by digest alone is on both lists.
            Self::Dangling(true) => {
                !record.names.iter().any(|n| n.parse::<Reference>().is_ok_and(|r| r.tag().is_some()))
            }
            Self::Dangling(false) => !record.names.is_empty(),
            Self::Before(time) => created(&record.image).unwrap_or(0) < *time,
            Self::Since(time) => created(&record.image).unwrap_or(0) > *time,
            // Picks names, not images.
            Self::Reference => true,
            Self::Label(wanted) => has_label(&|name| label(&record.image, name), wanted),
        }
    }
}

fn label(image: &Image, name: &str) -> Option<String> {
    image.config().oci.config().as_ref()?.labels().as_ref()?.get(name).cloned()
}

/// Whether an image may go.
pub(crate) fn goes(filters: &PruneFilters, image: &Image) -> bool {
    filters.matches(created(image).unwrap_or(0), &|name| label(image, name))
}

/// Seconds since 1970, if the image says when it was made.
fn created(image: &Image) -> Option<i64> {
    image.config().oci.created().as_deref().map(output::seconds)
}

fn when(created: Option<i64>, show: fn(i64) -> String) -> String {
    created.map_or_else(|| "N/A".to_owned(), show)
}

pub(crate) fn tag(app: &App, args: &TagArgs) -> Result<()> {
    let target = registry::parse_reference(&args.target)?;
    if target.digest().is_some() {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    let store = app.host()?.store();
    Ok(store.tag(&image(store, &args.source)?, &target.to_string())?)
}

pub(crate) fn rmi(app: &App, args: &RmiArgs) -> Result<()> {
    each(&args.images, |name| remove(app, name, args.force))
}

fn remove(app: &App, name: &str, force: bool) -> Result<()> {
    let store = app.host()?.store();
    let full = name.parse::<Reference>().map(|r| r.to_string()).ok();
    let known = full.filter(|full| !matches!(store.image(full), Err(e) if e.is_not_found()));
    let found = image(store, name)?;
    let before = store.names_of(&found)?;
    let digests = digests(store, &found)?;
    let mut names = vec![known.clone().unwrap_or_else(|| name.to_owned())];
    if let Some(known) = &known {
        names.extend(left_without_tag(known, &before));
        if before.len() == names.len() && !force {
            let by = store.users(found.id())?;
            if !by.is_empty() {
                return Err(refused(&longshore_image::Error::InUse { id: found.id().clone(), by }, name));
            }
        }
    }
    let mut left = before;
    let mut told = BTreeSet::new();
    for one in names {
        let removed = store.remove(&one, force).map_err(|e| refused(&e, name))?;
        let familiar = |n: &String| n.parse::<Reference>().map_or_else(|_| n.clone(), |r| r.familiar());
        left.retain(|name| !removed.untagged.contains(name));
        let gone = removed.untagged.iter().filter(|name| !has_sibling(name, &left));
        let gone: Vec<String> = gone.filter_map(|name| Some(repository(&name.parse().ok()?))).collect();
        let in_gone =
            |digest: &&String| digest.split_once('@').is_some_and(|(r, _)| gone.iter().any(|g| g == r));
        let untagged = removed.untagged.iter().map(familiar);
        for name in untagged.chain(digests.iter().filter(in_gone).cloned()) {
            if told.insert(name.clone()) {
                output::line(&format!("Untagged: {name}"));
            }
        }
        if !removed.deleted.is_empty() {
            // Other dangling images are for `image prune`.
            store.collect_where(&|_| false, Ctx::none())?;
        }
        removed.deleted.iter().for_each(|id| output::line(&format!("Deleted: {id}")));
    }
    Ok(())
}

/// Whether one of the names is a tag in this one's repository.
fn has_sibling(name: &str, names: &[String]) -> bool {
    let Ok(own) = name.parse::<Reference>() else { return false };
    let other =
        |name: &String| name.parse::<Reference>().is_ok_and(|r| r.tag().is_some() && r.name() == own.name());
    names.iter().any(other)
}

/// Names by digest in a tag's repository, when the image has no other tag there: docker takes them away with the last tag.
fn left_without_tag(tag: &str, all: &[String]) -> Vec<String> {
    let Ok(tag) = tag.parse::<Reference>() else { return Vec::new() };
    if tag.tag().is_none() {
        return Vec::new();
    }
    let here = |name: &&String| {
        name.parse::<Reference>()
            .is_ok_and(|r| repository(&r) == repository(&tag) && r.to_string() != tag.to_string())
    };
    let others: Vec<String> = all.iter().filter(here).cloned().collect();
    let tagged = |name: &String| name.parse::<Reference>().is_ok_and(|r| r.tag().is_some());
    if others.iter().any(tagged) { Vec::new() } else { others }
}

fn refused(error: &longshore_image::Error, name: &str) -> Failure {
    use longshore_image::Error;
    let short = |id: &dyn ToString| output::short_id(&id.to_string());
    match error {
        Error::InUse { id, by } => {
            let by: Vec<_> = by.iter().map(|id| output::short_id(id)).collect();
            Failure::new(format!(
                "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {}",
                by.join(", "),
                short(id)
            ))
        }
        Error::SeveralNames { id, .. } => Failure::new(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            short(id)
        )),
        other => Failure::from(other),
    }
}

/// Finds an image, with docker's word for one that is not there.
pub(crate) fn image(store: &Store, name: &str) -> Result<Image> {
    find_image(store, name).map_err(|error| {
        if error.is_not_found() {
            Failure::new(format!("No such image: {name}"))
        } else {
            Failure::from(error)
        }
    })
}

pub(crate) fn history(app: &App, args: &HistoryArgs) -> Result<()> {
    let store = app.host()?.store();
    let image = image(store, &args.image)?;
    let mut sizes = store.layers(&image)?.into_iter().map(|layer| layer.content);
    let cut = |text: &str, width| if args.no_trunc { text.to_owned() } else { output::ellipsis(text, width) };
    let mut rows = Vec::new();
    for step in image.config().oci.history().iter().flatten() {
        let size = if step.empty_layer() == Some(true) { 0 } else { sizes.next().unwrap_or_default() };
        let created = step.created().as_deref().map(output::seconds);
        rows.push(json!({
            "ID": "<missing>", "CreatedSince": when(created, output::ago), "CreatedAt": when(created, output::date),
            "CreatedBy": cut(step.created_by().as_deref().unwrap_or_default(), 45),
            "Size": if args.human { output::size(size) } else { size.to_string() },
            "Comment": step.comment().as_deref().unwrap_or_default(),
        }));
    }
    rows.reverse();
    let id = image.id().to_string();
    if let Some(newest) = rows.first_mut() {
        newest["ID"] = if args.no_trunc { id } else { output::short_id(&id) }.into();
    }
    if args.quiet {
        rows.iter().for_each(|row| output::line(row["ID"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let titles = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    let table = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
    output::rows(&titles, table, args.format.as_deref(), &rows)
}

/// `image inspect` in docker's shape.
pub(crate) fn inspect(app: &App, name: &str) -> Result<Value> {
    let store = app.host()?.store();
    let image = image(store, name)?;
    let mut raw = Vec::new();
    std::io::Read::read_to_end(&mut store.open_blob(image.id())?, &mut raw)?;
    let config: Value = serde_json::from_slice(&raw)?;
    let names: Vec<String> =
        store.names()?.into_iter().filter(|(_, id)| id == image.id()).map(|(name, _)| name).collect();
    let references: Vec<Reference> = names.iter().filter_map(|n| n.parse().ok()).collect();
    let tags: Vec<String> =
        references.iter().filter(|r| r.tag().is_some()).map(Reference::familiar).collect();
    let digests = digests(store, &image)?;
    let size: u64 = store.layers(&image)?.iter().map(|layer| layer.content).sum();
    Ok(json!({
        "Id": image.id().to_string(), "RepoTags": tags, "RepoDigests": digests, "Parent": "",
        "Comment": config["comment"].as_str().unwrap_or_default(), "Created": config["created"].as_str().unwrap_or("0001-01-01T00:00:00Z"),
        "DockerVersion": config["docker_version"].as_str().unwrap_or_default(),
        "Author": config["author"].as_str().unwrap_or_default(), "Config": config["config"],
        "Architecture": config["architecture"], "Variant": config["variant"].as_str().unwrap_or_default(),
        "Os": config["os"], "Size": size, "VirtualSize": size,
        "RootFS": {"Type": "layers", "Layers": config["rootfs"]["diff_ids"]},
        "Descriptor": image.target(), "Metadata": {},
    }))
}

pub(crate) fn prune(app: &App, args: &ImagePruneArgs) -> Result<()> {
    let filters = PruneFilters::parse(&args.filter)?;
    let what = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    if !args.force && !crate::system::confirmed(&format!("WARNING! This will remove {what}."))? {
        return Ok(());
    }
    let (untagged, collected) = app.host()?.store().prune(
        args.all,
        &|image| goes(&filters, image),
        Ctx { progress: &|_| {}, cancel: app.cancel() },
    )?;
    if !untagged.is_empty() || !collected.images.is_empty() {
        output::line("Deleted Images:");
    }
    for name in &untagged {
        let familiar = name.parse::<Reference>().map_or_else(|_| name.clone(), |r| r.familiar());
        output::line(&format!("untagged: {familiar}"));
    }
    for id in &collected.images {
        output::line(&format!("deleted: {id}"));
    }
    output::line(&format!("\nTotal reclaimed space: {}", output::size(collected.bytes)));
    Ok(())
}

/// `image tree`: each layer with its size, what it adds (`+`), changes (`~`) and removes (`-`), which of the bytes below it makes
/// useless, and what made it; layers that several images stand on are marked.
pub(crate) fn tree(app: &App, name: &str) -> Result<()> {
    let store = app.host()?.store();
    let image = image(store, name)?;
    let layers = store.layers(&image)?;
    let changes = store.layer_changes(&image, Ctx { progress: &|_| {}, cancel: app.cancel() })?;
    let size: u64 = layers.iter().map(|layer| layer.content).sum();
    let wasted: u64 = changes.iter().map(|changes| changes.wasted).sum();
    let (id, total) = (output::short_id(image.id().as_ref()), output::size(size));
    output::line(&format!("{name} {id} {total}, of which {} are wasted", output::size(wasted)));
    let made = image.config().oci.history().iter().flatten().filter(|step| step.empty_layer() != Some(true));
    let mut made = made.map(|step| step.created_by().clone().unwrap_or_default());
    for (i, (layer, changes)) in layers.iter().zip(&changes).enumerate() {
        let usage = store.layer_usage(&layer.descriptor, &layer.diff_id)?;
        let mut notes = String::new();
        if changes.wasted > 0 {
            notes += &format!("  wastes {}", output::size(changes.wasted));
        }
        if usage.images > 1 {
            notes += &format!("  shared by {} images", usage.images);
        }
        output::line(&format!(
            "{}── {}  {:>7}  {:>7} compressed  {:>7} {:>5} {:>5}{notes}  {}",
            if i + 1 == layers.len() { "└" } else { "├" },
            output::short_id(layer.diff_id.as_ref()),
            output::size(layer.content),
            output::size(usage.compressed),
            format!("+{}", changes.added),
            format!("~{}", changes.changed),
            format!("-{}", changes.removed),
            output::ellipsis(&made.next().unwrap_or_default(), 60),
        ));
    }
    Ok(())
}

/// The images' part of `system df -v`: what each shares with others, and what would go with it alone.
pub(crate) fn usage(store: &Store, containers: &dyn Fn(&str) -> usize) -> Result<()> {
    let records = store.images()?;
    let mut users: HashMap<String, (u64, usize)> = HashMap::new();
    for record in &records {
        for layer in store.layers(&record.image)? {
            users.entry(layer.diff_id.to_string()).or_insert((layer.content, 0)).1 += 1;
        }
    }
    let mut rows = Vec::new();
    for record in &records {
        let layers = record.image.diff_ids().iter().filter_map(|id| users.get(id.as_ref()));
        let shared: u64 = layers.filter(|(_, users)| *users > 1).map(|(size, _)| size).sum();
        let id = record.image.id().to_string();
        for (repository, tag, _) in names(record, false) {
            rows.push(json!({
                "Repository": repository, "Tag": tag, "ID": output::short_id(&id),
                "CreatedSince": when(created(&record.image), output::ago), "Size": output::fine_size(record.size),
                "SharedSize": output::fine_size(shared), "UniqueSize": output::fine_size(record.size.saturating_sub(shared)),
                "Containers": containers(&id).to_string(),
            }));
        }
    }
    let titles = [
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ];
    let table = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
    output::rows(&titles, table, None, &rows)
}

/// `image verify`: reads everything again and compares the digests.
pub(crate) fn verify(app: &App, args: &VerifyArgs) -> Result<()> {
    let mut options = VerifyOptions::default();
    options.repair = args.repair;
    let outcome = app.host()?.store().verify(&options, Ctx { progress: &|_| {}, cancel: app.cancel() })?;
    for problem in &outcome.problems {
        output::line(&problem.to_string());
    }
    output::line(&format!(
        "{} images, {} blobs, {} layers, {}: {}",
        outcome.images,
        outcome.blobs,
        outcome.layers,
        output::size(outcome.bytes),
        match outcome.problems.len() {
            0 => "all as it should be".to_owned(),
            n => format!("{n} problems"),
        }
    ));
    if outcome.problems.is_empty() || args.repair { Ok(()) } else { Err(Failure::silent(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_docker_matches_them() {
        assert!(name_matches("debian", "debian", "bookworm"));
        assert!(name_matches("debian:book*", "debian", "bookworm"));
        assert!(name_matches("127.0.0.1:5000/debian", "127.0.0.1:5000/debian", "x"));
        assert!(!name_matches("debian", "127.0.0.1:5000/debian", "x"));
        assert!(!name_matches("debian:sid", "debian", "bookworm"));
        assert!(name_matches("*/debian", "a/debian", "x") && !name_matches("*", "a/debian", "x"));
    }
}
