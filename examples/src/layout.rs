use std::path::{Path, PathBuf};

/// Where everything is below one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`, which should be absolute: shims are started with it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// The directory itself. Containers and volumes make their own directories in it.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The image store.
    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }
    /// The runtime's state.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }
    /// The networks' state.
    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }
    /// The build cache.
    pub fn build(&self) -> PathBuf {
        self.root.join("build")
    }
}
