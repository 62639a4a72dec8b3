//! `stop`, `kill`, `rm`, `restart`, `pause`, `unpause`, `rename`, `update`, `container prune`.

use clap::Args;
use longshore_runtime::containers::{self, RemoveOptions, RestartPolicy, StopOptions, Update, parse};

use crate::app::App;
use crate::failure::{Failure, Result, each, report};
use crate::{output, ps, system};

/// `stop`, `restart`
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        allow_negative_numbers = true,
        value_name = "int"
    )]
    timeout: Option<i64>,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// `kill`
#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// `rm`
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// `rename`
#[derive(Args, Debug)]
pub(crate) struct RenameArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// `update`
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "uint16")]
    blkio_weight: Option<u16>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int")]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int")]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = parse::cpus)]
    cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = parse::bytes)]
    memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = parse::bytes)]
    memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = parse::memory_swap, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    restart: Option<RestartPolicy>,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// `container prune`
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

impl StopArgs {
    fn options(&self) -> Result<StopOptions> {
        crate::run::check_signal(self.signal.as_deref())?;
        let mut options = StopOptions::default();
        options.signal.clone_from(&self.signal);
        options.timeout = self.timeout;
        Ok(options)
    }
}

pub(crate) fn stop(app: &App, args: &StopArgs) -> Result<()> {
    let options = args.options()?;
    let containers = app.containers()?;
    parallel(&args.containers, |name| containers.stop(name, &options).map(|()| true))
}

pub(crate) fn restart(app: &App, args: &StopArgs) -> Result<()> {
    let options = args.options()?;
    let containers = app.containers()?;
    parallel(&args.containers, |name| containers.restart(name, &options).map(|()| true))
}

pub(crate) fn kill(app: &App, args: &KillArgs) -> Result<()> {
    crate::run::check_signal(Some(&args.signal))?;
    let containers = app.containers()?;
    printed(&args.containers, |name| containers.kill(name, &args.signal))
}

pub(crate) fn rm(app: &App, args: &RmArgs) -> Result<()> {
    let containers = app.containers()?;
    let options = RemoveOptions::new(args.force, args.volumes);
    parallel(&args.containers, |name| match containers.remove(name.trim_start_matches('/'), &options) {
        // `rm -f` of what is not there is said, but no failure.
        Err(error) if args.force && error.is_not_found() => {
            output::note(&format!("longshore: {error}"));
            Ok(false)
        }
        result => result.map(|()| true),
    })
}

pub(crate) fn pause(app: &App, names: &[String]) -> Result<()> {
    let containers = app.containers()?;
    printed(names, |name| containers.pause(name))
}

pub(crate) fn unpause(app: &App, names: &[String]) -> Result<()> {
    let containers = app.containers()?;
    printed(names, |name| containers.unpause(name))
}

pub(crate) fn rename(app: &App, args: &RenameArgs) -> Result<()> {
    Ok(app.containers()?.rename(&args.container, &args.name)?)
}

pub(crate) fn update(app: &App, args: &UpdateArgs) -> Result<()> {
    let mut update = Update::default();
    update.restart_policy.clone_from(&args.restart);
    update.memory = args.memory;
    update.memory_swap = args.memory_swap;
    update.memory_reservation = args.memory_reservation;
    update.nano_cpus = args.cpus;
    update.cpu_period = args.cpu_period;
    update.cpu_quota = args.cpu_quota;
    update.cpu_shares = args.cpu_shares;
    update.cpuset_cpus.clone_from(&args.cpuset_cpus);
    update.cpuset_mems.clone_from(&args.cpuset_mems);
    update.pids_limit = args.pids_limit;
    update.blkio_weight = args.blkio_weight;
    let containers = app.containers()?;
    printed(&args.containers, |name| {
        for warning in containers.update(name, &update)? {
            output::note(&format!("WARNING: {warning}"));
        }
        Ok(())
    })
}

pub(crate) fn prune(app: &App, args: &PruneArgs) -> Result<()> {
    if !args.force && !system::confirmed("WARNING! This will remove all stopped containers.")? {
        return Ok(());
    }
    let pruned = app.containers()?.prune(&ps::filters(&args.filter)?)?;
    if !pruned.removed.is_empty() {
        output::line("Deleted Containers:");
        pruned.removed.iter().for_each(|id| output::line(id));
        output::line("");
    }
    output::line(&format!("Total reclaimed space: {}", output::size(pruned.bytes)));
    Ok(())
}

/// One after the other; each name is printed when it is done.
fn printed(names: &[String], work: impl Fn(&str) -> containers::Result<()>) -> Result<()> {
    each(names, |name| {
        work(name)?;
        output::line(name);
        Ok(())
    })
}

/// All at once, so that the slowest one bounds the time; the names for which the work says true are printed in their order.
fn parallel(names: &[String], work: impl Fn(&str) -> containers::Result<bool> + Sync) -> Result<()> {
    const STACK: usize = 256 << 10;
    // Each holds a few descriptors, most of them for a moment.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = most.map_or(usize::MAX, |most| (most / 4).max(16) as usize);
    let work = &work;
    let mut failed = Ok(());
    for names in names.chunks(most) {
        std::thread::scope(|scope| {
            let begin = |name| {
                let thread = std::thread::Builder::new().stack_size(STACK);
                thread.spawn_scoped(scope, move || work(name))
            };
            let threads: Vec<_> = names.iter().map(|name| begin(name)).collect();
            let mut threads = threads.into_iter();
            let result = each(names, |name| {
                let done = match threads.next().expect("one per name") {
                    Ok(thread) => {
                        thread.join().map_err(|_| Failure::new(format!("{name}: internal error")))?
                    }
                    // There are no more threads to be had.
                    Err(_) => work(name),
                };
                if done? {
                    output::line(name);
                }
                Ok(())
            });
            if let (Err(earlier), Err(_)) = (&failed, &result) {
                report(earlier);
            }
            if result.is_err() {
                failed = result;
            }
        });
    }
    failed
}
