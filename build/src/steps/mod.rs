//! Carrying out a stage, step by step.

mod files;
mod layers;
mod meta;
mod run;
mod stubs;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use longshore_image::{Ctx, Image, Store};

use crate::digests::DigestCache;
use crate::expand::Expander;
use crate::plan::{Base, Plan, Reference};
use crate::select::Source;
use crate::state::State;
use crate::syntax::{Instruction, Op};
use crate::{BuildCache, BuildOptions, Error, Executor, Fetcher, Resolver, Result};

/// What all stages of a build share.
pub(crate) struct Shared<'a> {
    pub(crate) store: &'a Store,
    pub(crate) resolver: &'a dyn Resolver,
    pub(crate) executor: Option<&'a dyn Executor>,
    pub(crate) cache: Option<&'a dyn BuildCache>,
    pub(crate) fetcher: Option<&'a dyn Fetcher>,
    pub(crate) options: &'a BuildOptions,
    pub(crate) context: Source,
    pub(crate) digests: DigestCache,
    pub(crate) plan: &'a Plan,
    pub(crate) platform: oci_spec::image::Platform,
    /// Base images, by stage.
    pub(crate) bases: HashMap<usize, Image>,
    pub(crate) done: Mutex<HashMap<usize, Arc<State>>>,
    pub(crate) images: Mutex<HashMap<String, Image>>,
    pub(crate) executed: AtomicUsize,
    pub(crate) cached: AtomicUsize,
    /// Seconds since the epoch when the build began, or `SOURCE_DATE_EPOCH`.
    pub(crate) now: i64,
}

/// What a stage's thread tells.
pub(crate) enum Message {
    Started { step: usize, instruction: String },
    Cached { step: usize },
    Output { step: usize, bytes: Vec<u8> },
    Finished { step: usize, elapsed: Duration },
    Warning { line: usize, message: String },
    Done { stage: usize, result: Box<Result<State>> },
}

/// One stage on its way.
pub(crate) struct StageRun<'s, 'a> {
    shared: &'s Shared<'a>,
    ctx: Ctx<'s>,
    events: SyncSender<Message>,
    stage: usize,
    state: State,
    /// The step that runs: its number among all, its line.
    step: usize,
    line: usize,
}

/// Carries out all steps of a stage whose dependencies are done.
pub(crate) fn run_stage(
    shared: &Shared<'_>,
    stage: usize,
    ctx: Ctx<'_>,
    events: &SyncSender<Message>,
) -> Result<State> {
    let plan = &shared.plan.stages[stage];
    let platform = plan.platform.clone().unwrap_or_else(|| shared.platform.clone());
    let now = crate::state::rfc3339(shared.now);
    let begun = Instant::now();
    let tell = |message| drop(events.send(message));
    tell(Message::Started { step: plan.number, instruction: plan.from.text.clone() });
    let mut state = match &plan.base {
        Base::Scratch => State::scratch(&platform, &now),
        Base::Stage(base) => shared.state(*base).child(),
        Base::Image(_) => {
            let image = &shared.bases[&stage];
            State::image(image, shared.store.layers(image)?, &platform, &now)
        }
    };
    state.take_triggers();
    tell(Message::Finished { step: plan.number, elapsed: begun.elapsed() });
    let mut run = StageRun {
        shared,
        ctx,
        events: events.clone(),
        stage,
        state,
        step: plan.number,
        line: plan.from.line,
    };
    for instruction in &plan.steps {
        ctx.check()?;
        run.step += 1;
        run.line = instruction.line;
        let begun = Instant::now();
        tell(Message::Started { step: run.step, instruction: instruction.text.clone() });
        run.instruction(instruction)?;
        tell(Message::Finished { step: run.step, elapsed: begun.elapsed() });
    }
    Ok(run.state)
}

impl Shared<'_> {
    fn state(&self, stage: usize) -> Arc<State> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(done.get(&stage).expect("a stage starts when those that it needs are done"))
    }

    /// An image that a step names; asked for once.
    fn image(&self, name: &str, ctx: Ctx<'_>) -> Result<Image> {
        let known = |images: &HashMap<String, Image>| images.get(name).cloned();
        if let Some(image) = known(&self.images.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(image);
        }
        let image = resolve(self.resolver, name, Some(&self.platform), ctx)?;
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), image.clone());
        Ok(image)
    }
}

pub(crate) fn resolve(
    resolver: &dyn Resolver,
    name: &str,
    platform: Option<&oci_spec::image::Platform>,
    ctx: Ctx<'_>,
) -> Result<Image> {
    resolver.resolve(name, platform, ctx).map_err(|source| match ctx.check() {
        Err(_) => Error::Cancelled,
        Ok(()) => Error::Resolve { name: name.to_owned(), source },
    })
}

impl StageRun<'_, '_> {
    fn instruction(&mut self, i: &Instruction) -> Result<()> {
        match i.op.as_ref().expect("the file was checked") {
            Op::From { .. } => Ok(()),
            Op::Run(run) => self.run(run),
            Op::Copy(copy) => self.copy(copy),
            Op::Workdir(dir) => self.workdir(dir),
            other => self.metadata(other),
        }
    }

    fn tell(&self, message: Message) {
        // Nobody listens any more only when the build has failed elsewhere.
        let _ = self.events.send(message);
    }

    fn warn(&self, message: impl Into<String>) {
        self.tell(Message::Warning { line: self.line, message: message.into() });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::instruction(self.line, message))
    }

    /// Replaces variables in a word.
    fn expand(&self, text: &str) -> Result<String> {
        let lookup = |name: &str| self.state.lookup(name);
        let expanded =
            Expander::new(self.shared.plan.escape, &lookup).word(text).or_else(|m| self.fail(m))?;
        for name in expanded.undefined {
            self.warn(format!("UndefinedVar: usage of undefined variable '${name}'"));
        }
        Ok(expanded.text)
    }

    /// The same, cut into words at spaces that came out of variables.
    fn expand_words(&self, text: &str) -> Result<Vec<String>> {
        let lookup = |name: &str| self.state.lookup(name);
        Expander::new(self.shared.plan.escape, &lookup).words(text).or_else(|m| self.fail(m))
    }

    fn reference(&self, name: &str) -> Result<Reference> {
        self.shared.plan.reference(self.stage, name, self.line)
    }

    /// Seconds since the epoch for what the builder dates itself.
    fn now(&self) -> i64 {
        self.shared.options.source_date_epoch.unwrap_or_else(|| {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
        })
    }

    fn count(&self, cached: bool) {
        let counter = if cached { &self.shared.cached } else { &self.shared.executed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
