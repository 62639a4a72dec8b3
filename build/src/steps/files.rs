//! `COPY` and `ADD`.

use std::path::Path;
use std::sync::Arc;

use longshore_image::Layer;
use oci_spec::image::Digest;
use serde_json::json;
use sha2::Digest as _;

use super::StageRun;
use super::layers::View;
use crate::archive::{self, Archive, Spool};
use crate::changes::{Changes, Content};
use crate::copy::{ModeChange, Target, place};
use crate::passwd::Accounts;
use crate::pattern::Ignore;
use crate::plan::Reference;
use crate::select::{self, Match, Source};
use crate::syntax::{CopyOp, CopySource, Heredoc};
use crate::tree::{Tree, join};
use crate::{Error, Result};

/// Largest download of `ADD`, in bytes.
const MAX_DOWNLOAD: u64 = 16 << 30;

/// A source with its variables replaced.
enum Given {
    Path(String),
    Url(String),
    Text { name: String, bytes: Vec<u8> },
}

/// A `COPY` or `ADD` with all variables replaced.
struct Job<'o> {
    op: &'o CopyOp,
    sources: Vec<Given>,
    /// The destination as it stands in the Dockerfile.
    written: String,
    dest: String,
    chown: Option<String>,
    /// `--chown`, looked up, where the layers below do not say what it means: with `--link`.
    owner: Option<(u32, u32)>,
    chmod: Option<String>,
    mode: Option<ModeChange>,
    exclude: Ignore,
    exclude_words: Vec<String>,
    checksum: Option<String>,
}

impl Job<'_> {
    fn paths(&self) -> Vec<String> {
        self.sources
            .iter()
            .filter_map(|s| if let Given::Path(p) = s { Some(p.clone()) } else { None })
            .collect()
    }

    /// What it does, but for the content of the files.
    fn definition(&self, from: &serde_json::Value) -> serde_json::Value {
        let sources: Vec<_> = self
            .sources
            .iter()
            .map(|s| match s {
                Given::Path(p) => json!(["path", p]),
                Given::Url(u) => json!(["url", u]),
                Given::Text { name, bytes } => {
                    json!(["text", name, crate::keys::hex(&sha2::Sha256::digest(bytes))])
                }
            })
            .collect();
        let op = self.op;
        json!([
            op.add,
            sources,
            self.dest,
            self.chown,
            self.owner,
            self.chmod,
            op.link,
            op.parents,
            self.exclude_words,
            self.checksum,
            op.unpack,
            from
        ])
    }
}

/// Where `--from` points.
struct From<'a> {
    source: Source,
    _view: Option<View<'a>>,
}

impl<'a> StageRun<'_, 'a> {
    pub(super) fn copy(&mut self, op: &CopyOp) -> Result<()> {
        let mut job = self.job(op)?;
        if op.link && job.chown.is_some() {
            // The layer does not stand on the root that it ends on, and yet its owners' names are looked up there.
            job.owner = self.owner(&job, &self.view()?.tree)?;
        }
        let parent_layers = if op.link { Vec::new() } else { self.state.diff_ids() };
        let from_layers = self.layers_of(op.from.as_deref())?;
        let history = history(op, &job);
        let has_url = job.sources.iter().any(|s| matches!(s, Given::Url(_)));
        // An address says nothing about its content: without checksum the file is fetched, and its digest decides.
        let by_definition = from_layers.is_some() && !has_url;
        let definition = from_layers.as_ref().map(|l| l.iter().map(ToString::to_string).collect::<Vec<_>>());
        let definition_key = self.key_on("copy", &parent_layers, &job.definition(&json!(definition)));
        let prepared = std::cell::OnceCell::new();
        let ctx = self.ctx;
        let this: &Self = self;
        let content_key = || {
            let value = this.prepare(&job, from_layers.as_deref())?;
            let found = prepared.get_or_init(|| value);
            let check = || Ok(ctx.check()?);
            let digest = select::digest(&found.from.source, &found.matches, &this.shared.digests, &check)?;
            let fetched: Vec<_> = found.fetched.iter().map(|f| &f.digest).collect();
            Ok(this.key_on("copy content", &parent_layers, &job.definition(&json!([digest, fetched]))))
        };
        let definition = || Ok(definition_key.clone());
        let keys: Vec<&dyn Fn() -> Result<String>> =
            if by_definition { vec![&definition, &content_key] } else { vec![&content_key] };
        // The keys borrow the step's state while the layer is made from it: ask first, then add.
        let asked = this.ask(&keys)?;
        let cached = asked.hit.is_some();
        let result = match asked.hit {
            Some(hit) => hit,
            None => {
                let prepared =
                    prepared.into_inner().map_or_else(|| this.prepare(&job, from_layers.as_deref()), Ok)?;
                this.made(this.make_copy(&job, &prepared)?)
            }
        };
        self.add_layer(&asked.tried, cached, result, history)
    }

    fn job<'o>(&self, op: &'o CopyOp) -> Result<Job<'o>> {
        let mut sources = Vec::new();
        for source in &op.sources {
            sources.push(match source {
                CopySource::Heredoc(doc) => {
                    Given::Text { name: doc.name.clone(), bytes: self.heredoc(doc)?.into_bytes() }
                }
                CopySource::Path(p) => self.given(op, &self.expand(p)?)?,
            });
        }
        let written = self.expand(&op.dest)?;
        let mut dest = join(self.state.workdir(), &written);
        if (written.is_empty() || written == "." || written.ends_with('/') || written.ends_with("/."))
            && !dest.ends_with('/')
        {
            dest.push('/');
        }
        let exclude_words = op.exclude.iter().map(|e| self.expand(e)).collect::<Result<Vec<_>>>()?;
        let chmod = op.chmod.as_deref().map(|m| self.expand(m)).transpose()?;
        Ok(Job {
            op,
            sources,
            written,
            dest,
            chown: op.chown.as_deref().map(|c| self.expand(c)).transpose()?,
            owner: None,
            mode: chmod.as_deref().map(|m| ModeChange::parse(m).or_else(|e| self.fail(e))).transpose()?,
            chmod,
            exclude: Ignore::new(exclude_words.iter().map(String::as_str))?,
            exclude_words,
            checksum: op.checksum.as_deref().map(|c| self.expand(c)).transpose()?,
        })
    }

    /// Whose the files become, by the names of a root.
    fn owner(&self, job: &Job<'_>, root: &Tree) -> Result<Option<(u32, u32)>> {
        let Some(spec) = &job.chown else { return Ok(None) };
        Accounts::read(root)?.owner(spec).map(Some).or_else(|m| self.fail(m))
    }

    fn given(&self, op: &CopyOp, text: &str) -> Result<Given> {
        let is_url = text.starts_with("http://") || text.starts_with("https://");
        let is_git = text.starts_with("git@") || text.starts_with("git://") || text.starts_with("ssh://");
        let git_over_http = is_url && text.split(['#', '?']).next().is_some_and(|p| p.ends_with(".git"));
        if op.add && (is_git || git_over_http) {
            return Err(Error::Unsupported {
                line: self.line,
                feature: "ADD of a git repository".to_owned(),
            });
        }
        if is_url && op.add {
            return Ok(Given::Url(text.to_owned()));
        }
        if is_url {
            return self.fail("source can't be a URL for COPY");
        }
        if text.is_empty() {
            return self.fail("a source can not be empty");
        }
        Ok(Given::Path(text.to_owned()))
    }

    fn heredoc(&self, doc: &Heredoc) -> Result<String> {
        if !doc.expand {
            return Ok(doc.text());
        }
        let lookup = |name: &str| self.state.lookup(name);
        let expander = crate::Expander::new(self.shared.plan.escape, &lookup).heredoc();
        expander.word(&doc.text()).map(|e| e.text).or_else(|m| self.fail(m))
    }

    fn layers_of(&self, from: Option<&str>) -> Result<Option<Vec<Digest>>> {
        let Some(name) = from else { return Ok(None) };
        Ok(Some(match self.reference(name)? {
            Reference::Stage(stage) => self.shared.state(stage).diff_ids(),
            Reference::Scratch => Vec::new(),
            Reference::Image(image) => self.shared.image(&image, self.ctx)?.diff_ids().to_vec(),
        }))
    }

    fn source(&self, from: Option<&[Digest]>) -> Result<From<'a>> {
        let Some(layers) = from else { return Ok(From { source: self.shared.context.clone(), _view: None }) };
        let view = View::new(self.shared.store, layers)?;
        let source = Source { tree: view.tree.clone(), ignore: Arc::default(), owners: true };
        Ok(From { source, _view: Some(view) })
    }

    /// Finds the files and fetches what has an address.
    fn prepare(&self, job: &Job<'_>, from: Option<&[Digest]>) -> Result<Prepared<'a>> {
        let from = self.source(from)?;
        let check = || Ok(self.ctx.check()?);
        let (paths, parents) = (job.paths(), job.op.parents);
        let matches = select::select(&from.source, &paths, &job.exclude, parents, self.line, &check)?;
        let mut fetched = Vec::new();
        for given in &job.sources {
            if let Given::Url(url) = given {
                fetched.push(self.fetch(url, job)?);
            }
        }
        Ok(Prepared { from, matches, fetched })
    }

    fn make_copy(&self, job: &Job<'_>, found: &Prepared<'a>) -> Result<Option<Layer>> {
        let view = if job.op.link { View::new(self.shared.store, &[])? } else { self.view()? };
        let owner = if job.op.link { job.owner } else { self.owner(job, &view.tree)? };
        let target = Target { dest: job.dest.clone(), owner, mode: job.mode.clone() };
        let mut changes = Changes::new(&view.tree, self.now());
        let mut fetched = found.fetched.iter();
        for m in &found.matches {
            if !(job.op.add && self.unpack(job, &found.from, m, &target, &mut changes)?) {
                place(&mut changes, &found.from.source, m, &target)?;
            }
        }
        for given in &job.sources {
            match given {
                Given::Path(_) => {}
                Given::Text { name, bytes } => {
                    let now = changes.now();
                    let content = Content::Bytes(bytes.as_slice().into());
                    archive::place_file(
                        &mut changes,
                        &target,
                        name,
                        content,
                        bytes.len() as u64,
                        0o644,
                        now,
                    )?;
                }
                Given::Url(_) => {
                    self.place_fetched(job, fetched.next().expect("fetched above"), &target, &mut changes)?;
                }
            }
        }
        self.store_changes(changes)
    }

    /// `ADD` of a file that is an archive: its members instead of itself. False if it is none.
    fn unpack(
        &self,
        job: &Job<'_>,
        from: &From<'_>,
        m: &Match,
        target: &Target,
        changes: &mut Changes<'_>,
    ) -> Result<bool> {
        if m.is_dir || job.op.unpack == Some(false) {
            return Ok(false);
        }
        let Some(item) = m.items.first().filter(|i| i.entry.kind == rustix::fs::FileType::RegularFile) else {
            return Ok(false);
        };
        let file = from.source.tree.open_file(&item.path)?;
        let Some(archive) = Archive::open(file, &item.path, self.line, &self.spool())? else {
            return Ok(false);
        };
        archive::extract(archive, changes, target, &|| Ok(self.ctx.check()?))?;
        Ok(true)
    }

    fn spool(&self) -> Spool<'_> {
        Spool { dir: Some(self.shared.store.path().join("tmp")), ctx: self.ctx }
    }

    fn fetch(&self, url: &str, job: &Job<'_>) -> Result<Download> {
        let line = self.line;
        let shown = without_user(url);
        let fail = |source| Error::Fetch { line, url: shown.clone(), source };
        let Some(fetcher) = self.shared.fetcher else {
            return Err(Error::Unsupported { line, feature: "ADD of a URL without a fetcher".to_owned() });
        };
        let answer = fetcher.fetch(url, self.ctx).map_err(fail)?;
        let (file, digest) = self.spool().take(answer.body, MAX_DOWNLOAD).map_err(|e| match e {
            Error::Cancelled | Error::TooLarge { .. } => e,
            other => fail(other.into()),
        })?;
        if let Some(expected) = &job.checksum
            && *expected != format!("sha256:{digest}")
        {
            return Err(Error::Checksum {
                line,
                url: shown,
                expected: expected.clone(),
                actual: format!("sha256:{digest}"),
            });
        }
        let path = url.split_once("://").map_or(url, |(_, r)| r).split(['?', '#']).next().unwrap_or_default();
        let name =
            path.split_once('/').map_or("", |(_, p)| p).rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Download { file, digest, name, modified: answer.modified.unwrap_or(0) })
    }

    fn place_fetched(
        &self,
        job: &Job<'_>,
        d: &Download,
        target: &Target,
        changes: &mut Changes<'_>,
    ) -> Result<()> {
        let clone = || d.file.try_clone().map_err(|e| Error::io(&d.name, e));
        if job.op.unpack == Some(true)
            && let Some(archive) = Archive::open(clone()?, Path::new(&d.name), self.line, &self.spool())?
        {
            return archive::extract(archive, changes, target, &|| Ok(self.ctx.check()?));
        }
        if d.name.is_empty() && target.dest.ends_with('/') {
            return self.fail("cannot determine filename for source");
        }
        let size = d.file.metadata().map_err(|e| Error::io(&d.name, e))?.len();
        let content = Content::Part { file: Arc::new(clone()?), offset: 0 };
        archive::place_file(changes, target, &d.name, content, size, 0o600, d.modified)
    }
}

/// What a copy found before it knew whether the cache has it.
struct Prepared<'a> {
    from: From<'a>,
    matches: Vec<Match>,
    fetched: Vec<Download>,
}

struct Download {
    file: std::fs::File,
    digest: String,
    name: String,
    modified: i64,
}

fn history(op: &CopyOp, job: &Job<'_>) -> String {
    let mut text = String::from(if op.add { "ADD" } else { "COPY" });
    for (flag, value) in [("chown", &job.chown), ("chmod", &job.chmod)] {
        if let Some(v) = value {
            text.push_str(&format!(" --{flag}={v}"));
        }
    }
    if op.link {
        text.push_str(" --link");
    }
    for source in &job.sources {
        text.push(' ');
        match source {
            Given::Path(p) => text.push_str(p),
            Given::Url(u) => text.push_str(&without_user(u)),
            Given::Text { name, .. } => text.push_str(&format!("<<{name}")),
        }
    }
    format!("{text} {} # buildkit", job.written)
}

/// An address without user name and password: those must not get into history or messages.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[end..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(super::without_user("https://u:p@h/x@y"), "https://h/x@y");
        assert_eq!(super::without_user("http://h?a@b"), "http://h?a@b");
    }
}
