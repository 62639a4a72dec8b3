use std::path::Path;
use std::sync::Arc;

use crate::pattern::Ignore;
use crate::select::Source;
use crate::tree::Tree;
use crate::{Error, Result};

/// Largest `.dockerignore` or Dockerfile that is read, in bytes.
const MAX_TEXT: u64 = 4 << 20;

/// The build context: the files that `COPY` and `ADD` may take. Nothing outside of it is ever read; links that point out of it end inside.
#[derive(Clone, Debug)]
pub struct Context {
    source: Source,
}

impl Context {
    /// A directory, with its `.dockerignore`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::Pattern`] if its `.dockerignore` is malformed.
    pub fn dir(path: impl AsRef<Path>) -> Result<Self> {
        let tree = Tree::open(path.as_ref())?;
        let ignore = tree.read(Path::new(".dockerignore"), MAX_TEXT)?;
        Self::with(tree, ignore.as_deref())
    }

    /// A directory with the ignore rules in `ignore` instead of those of its `.dockerignore`; `Dockerfile.dockerignore` is used so.
    ///
    /// # Errors
    /// As [`Context::dir`].
    pub fn dir_with_ignore(path: impl AsRef<Path>, ignore: &str) -> Result<Self> {
        Self::with(Tree::open(path.as_ref())?, Some(ignore.as_bytes()))
    }

    fn with(tree: Tree, ignore: Option<&[u8]>) -> Result<Self> {
        let rules = Ignore::parse(&String::from_utf8_lossy(ignore.unwrap_or_default()))?;
        Ok(Self { source: Source { tree: Arc::new(tree), ignore: Arc::new(rules), owners: false } })
    }

    /// No files.
    pub fn empty() -> Self {
        Self { source: Source { tree: Arc::new(Tree::empty()), ignore: Arc::default(), owners: false } }
    }

    /// Reads a Dockerfile of the context, whether or not it is ignored.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there, [`Error::TooLarge`], [`Error::Io`]; bytes that are not UTF-8 are replaced.
    pub fn read_dockerfile(&self, path: &str) -> Result<String> {
        match self.source.tree.read(Path::new(path), MAX_TEXT)? {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => Err(Error::NotFound { line: 0, path: path.to_owned() }),
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// A name for what is remembered of its files: the directory's identity on this machine.
    pub(crate) fn cache_name(&self) -> Option<String> {
        let stat = self.source.tree.entry(Path::new("")).ok()??.stat;
        Some(format!("stat2-{:x}-{:x}", stat.st_dev, stat.st_ino))
    }
}
