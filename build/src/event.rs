use std::time::Duration;

use longshore_image::Image;

/// What the builder tells while it works. Stages run in parallel, so the events of several steps may alternate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BuildEvent<'a> {
    /// An image is being looked up, and pulled if need be.
    Resolving {
        /// Its name, variables replaced.
        name: &'a str,
    },
    /// A step begins.
    Started {
        /// Step number, from 1.
        step: usize,
        /// Steps in all.
        total: usize,
        /// The instruction as written.
        instruction: &'a str,
    },
    /// The step's result came from the cache.
    Cached {
        /// Step number.
        step: usize,
    },
    /// Output of a `RUN`.
    Output {
        /// Step number.
        step: usize,
        /// Raw bytes.
        bytes: &'a [u8],
    },
    /// A step ended.
    Finished {
        /// Step number.
        step: usize,
        /// How long it took.
        elapsed: Duration,
    },
    /// A lint or compatibility warning.
    Warning {
        /// 1-based line in the Dockerfile.
        line: usize,
        /// What is odd.
        message: &'a str,
    },
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Steps executed: those that make or may make a layer.
    pub executed: usize,
    /// Steps answered from the cache.
    pub cached: usize,
}
