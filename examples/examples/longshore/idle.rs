//! Docker's flags that do nothing here: taken where they ask for what is so anyway.

use clap::{ArgAction, Args};
use longshore_runtime::containers::parse;

/// Where images come and go.
#[derive(Args, Debug)]
pub(crate) struct ContentTrust {
    /// Skip image verification
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = ["true"])]
    disable_content_trust: Option<String>,
}

/// Where containers are made.
#[derive(Args, Debug)]
pub(crate) struct Isolation {
    /// Container isolation technology
    #[arg(long, hide = true, value_parser = ["default"])]
    isolation: Option<String>,
}

/// What the kernel has given up.
#[derive(Args, Debug)]
pub(crate) struct KernelMemory {
    /// Kernel memory limit
    #[arg(long, hide = true, value_name = "bytes", value_parser = parse::bytes)]
    kernel_memory: Option<i64>,
}
