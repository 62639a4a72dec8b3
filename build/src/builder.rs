use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, SystemTime};

use longshore_image::{Ctx, Image, ImageSpec, Store, host_platform};

use crate::digests::DigestCache;
use crate::plan::{Base, Plan};
use crate::state::State;
use crate::steps::{Message, Shared, resolve, run_stage};
use crate::syntax::{self, Dockerfile};
use crate::{
    BuildCache, BuildEvent, BuildOptions, Built, Context, Error, Executor, Fetcher, Resolver, Result, lint,
};

/// How long it takes at most until a raised cancel flag is seen.
const TICK: Duration = Duration::from_millis(20);

/// Messages on their way at most: a command that writes faster than they are told waits.
const QUEUE: usize = 64;

/// Stack of a stage's thread in bytes: directories are walked by recursion, as deep as a path can be long.
const STACK: usize = 16 << 20;

/// Builds images.
#[derive(Clone, Copy)]
pub struct Builder<'a> {
    store: &'a Store,
    resolver: &'a dyn Resolver,
    executor: Option<&'a dyn Executor>,
    cache: Option<&'a dyn BuildCache>,
    fetcher: Option<&'a dyn Fetcher>,
}

type Events<'e> = &'e mut dyn FnMut(BuildEvent<'_>);

impl<'a> Builder<'a> {
    /// Over this store; base images come from the resolver.
    pub fn new(store: &'a Store, resolver: &'a dyn Resolver) -> Self {
        Self { store, resolver, executor: None, cache: None, fetcher: None }
    }

    /// Needed for `RUN`.
    #[must_use]
    pub fn executor(self, executor: &'a dyn Executor) -> Self {
        Self { executor: Some(executor), ..self }
    }

    /// Where steps are remembered.
    #[must_use]
    pub fn cache(self, cache: &'a dyn BuildCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// Needed for `ADD` of a URL.
    #[must_use]
    pub fn fetcher(self, fetcher: &'a dyn Fetcher) -> Self {
        Self { fetcher: Some(fetcher), ..self }
    }

    /// Builds; `events` gets every step's start, output and end.
    ///
    /// Stages that do not need each other run at the same time. Whatever happens, no snapshot is left behind.
    ///
    /// # Errors
    /// [`Error::Parse`] and [`Error::Instruction`] before anything runs, [`Error::Run`] for a command that fails, and the others of
    /// [`Error`]; the first one that occurs, when stages fail together.
    pub fn build(
        &self,
        dockerfile: &str,
        context: &Context,
        options: &BuildOptions,
        events: Events<'_>,
        ctx: Ctx<'_>,
    ) -> Result<Built> {
        let file = syntax::parse(dockerfile);
        for warning in lint::lint(&file) {
            events(BuildEvent::Warning { line: warning.line, message: &warning.to_string() });
        }
        let host = host_platform();
        let mut plan = Plan::new(&file, options, &host)?;
        for name in &plan.unused_args {
            events(BuildEvent::Warning { line: 1, message: &format!("build-arg {name} was not consumed") });
        }
        // A killed build's snapshots; whose they were must not keep this one from going on.
        let _ = self.store.sweep_snapshots();
        let bases = self.bases(&file, &mut plan, options, events, ctx)?;
        let cache_name = context.cache_name().filter(|_| self.cache.is_some());
        let shared = Shared {
            store: self.store,
            resolver: self.resolver,
            executor: self.executor,
            cache: self.cache,
            fetcher: self.fetcher,
            options,
            context: context.source().clone(),
            digests: DigestCache::load(self.cache, cache_name.as_deref().unwrap_or_default()),
            plan: &plan,
            platform: options.platform.clone().unwrap_or(host),
            bases,
            done: Mutex::default(),
            images: Mutex::default(),
            executed: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            now: options.source_date_epoch.unwrap_or_else(now),
        };
        let result = run_stages(&shared, events, ctx);
        if let Some(name) = cache_name {
            shared.digests.save(self.cache, &name);
        }
        result?;
        self.image(&shared, options)
    }

    /// Looks up the images that required stages stand on, and puts their triggers into the plan.
    fn bases(
        &self,
        file: &Dockerfile,
        plan: &mut Plan,
        options: &BuildOptions,
        events: Events<'_>,
        ctx: Ctx<'_>,
    ) -> Result<HashMap<usize, Image>> {
        let mut bases: HashMap<usize, Image> = HashMap::new();
        // Triggers may need more stages.
        while let Some(stage) =
            plan.required.iter().copied().find(|s| needs_image(plan, *s) && !bases.contains_key(s))
        {
            ctx.check()?;
            let Base::Image(name) = plan.stages[stage].base.clone() else { break };
            events(BuildEvent::Resolving { name: &name });
            let platform = plan.stages[stage].platform.as_ref().or(options.platform.as_ref());
            let image = resolve(self.resolver, &name, platform, ctx)?;
            let line = plan.stages[stage].from.line;
            let mut triggers = Vec::new();
            for text in image.config().docker.on_build.iter().flatten() {
                let mut trigger = syntax::parse_trigger(text, file.escape)
                    .map_err(|m| Error::instruction(line, format!("trigger \"{text}\" of {name}: {m}")))?;
                trigger.line = line;
                triggers.push(trigger);
            }
            bases.insert(stage, image);
            if !triggers.is_empty() {
                plan.add_triggers(stage, triggers)?;
            }
        }
        Ok(bases)
    }

    fn image(&self, shared: &Shared<'_>, options: &BuildOptions) -> Result<Built> {
        let done = shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&done[&shared.plan.target]);
        for (name, value) in &options.labels {
            state.add_label(name, value);
        }
        let (config, layers) = state.finish();
        let mut spec = ImageSpec::default();
        spec.config = config;
        spec.layers = layers;
        spec.names.clone_from(&options.tags);
        let image = self.store.create_image(&spec)?;
        let (executed, cached) =
            (shared.executed.load(Ordering::Relaxed), shared.cached.load(Ordering::Relaxed));
        Ok(Built { image, executed, cached })
    }
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("store", &self.store).finish_non_exhaustive()
    }
}

fn needs_image(plan: &Plan, stage: usize) -> bool {
    matches!(plan.stages[stage].base, Base::Image(_))
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
}

/// Runs all required stages, each when those that it needs are done. This thread tells the events.
fn run_stages(shared: &Shared<'_>, events: Events<'_>, ctx: Ctx<'_>) -> Result<()> {
    let abort = AtomicBool::new(false);
    let (sender, receiver) = sync_channel(QUEUE);
    let (user, ctx) = (ctx, Ctx { progress: ctx.progress, cancel: &abort });
    std::thread::scope(|scope| {
        // Should `events` panic, these go first: the scope waits for the stages, which must not wait for a listener.
        let receiver = receiver;
        let _abort = Abort(&abort);
        let mut schedule = Schedule {
            shared,
            scope,
            ctx,
            sender,
            waiting: shared.plan.required.clone(),
            running: 0,
            jobs: shared.options.jobs.unwrap_or_else(processors).max(1),
            failed: None,
        };
        schedule.start();
        schedule.listen(&receiver, events, user);
        schedule.failed.map_or(Ok(()), Err)
    })
}

/// Tells the stages to stop when it is dropped.
struct Abort<'a>(&'a AtomicBool);

impl Drop for Abort<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

struct Schedule<'scope, 'env, 'a> {
    shared: &'env Shared<'a>,
    scope: &'scope Scope<'scope, 'env>,
    ctx: Ctx<'env>,
    sender: SyncSender<Message>,
    waiting: BTreeSet<usize>,
    running: usize,
    jobs: usize,
    failed: Option<Error>,
}

impl<'scope, 'env, 'a> Schedule<'scope, 'env, 'a> {
    /// Starts what can start.
    fn start(&mut self) {
        let ready: Vec<usize> = {
            let done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
            let stages = &self.shared.plan.stages;
            self.waiting
                .iter()
                .copied()
                .filter(|s| stages[*s].deps.iter().all(|d| done.contains_key(d)))
                .collect()
        };
        for stage in ready.into_iter().take(self.jobs.saturating_sub(self.running)) {
            self.waiting.remove(&stage);
            let (shared, ctx, sender) = (self.shared, self.ctx, self.sender.clone());
            let thread = std::thread::Builder::new().stack_size(STACK);
            let spawned = thread.spawn_scoped(self.scope, move || {
                // Whatever happens in there, the listener must be told: it waits for this.
                let ran = catch_unwind(AssertUnwindSafe(|| run_stage(shared, stage, ctx, &sender)));
                let result = Box::new(ran.unwrap_or_else(|panic| Err(panicked(&*panic))));
                let _ = sender.send(Message::Done { stage, result });
            });
            match spawned {
                Ok(_) => self.running += 1,
                Err(e) => self.fail(Error::io("thread of a stage", e)),
            }
        }
    }

    fn listen(&mut self, receiver: &Receiver<Message>, events: Events<'_>, user: Ctx<'_>) {
        while self.running > 0 {
            if user.check().is_err() {
                self.fail(Error::Cancelled);
            }
            match receiver.recv_timeout(TICK) {
                Ok(Message::Done { stage, result }) => self.ended(stage, *result),
                // What is still on its way in a build that has failed would only keep it from ending.
                Ok(_) if self.failed.is_some() => {}
                Ok(message) => tell(message, self.shared.plan.total, events),
                Err(RecvTimeoutError::Timeout) => {}
                // The schedule itself holds a sender.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    fn ended(&mut self, stage: usize, result: Result<State>) {
        self.running -= 1;
        match result {
            Ok(state) => {
                self.shared
                    .done
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(stage, Arc::new(state));
                if self.failed.is_none() {
                    self.start();
                }
            }
            Err(e) => self.fail(e),
        }
    }

    /// Ends the build. Later errors are mostly the others' being told to stop.
    fn fail(&mut self, error: Error) {
        self.failed.get_or_insert(error);
        self.waiting.clear();
        self.ctx.cancel.store(true, Ordering::Relaxed);
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Panicked { message: message.unwrap_or_else(|| "no message".to_owned()) }
}

fn tell(message: Message, total: usize, events: Events<'_>) {
    match message {
        Message::Started { step, instruction } => {
            events(BuildEvent::Started { step, total, instruction: &instruction });
        }
        Message::Cached { step } => events(BuildEvent::Cached { step }),
        Message::Output { step, bytes } => events(BuildEvent::Output { step, bytes: &bytes }),
        Message::Finished { step, elapsed } => events(BuildEvent::Finished { step, elapsed }),
        Message::Warning { line, message } => events(BuildEvent::Warning { line, message: &message }),
        Message::Done { .. } => {}
    }
}
