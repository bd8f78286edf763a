//! The three components, wired to each other. `serve` puts HTTP in front of them and `chat` a terminal; neither knows how they are joined.

use super::{
    detokenizer,
    metrics::Metrics,
    scheduler::Scheduler,
    status::{Phase, Status},
    tokenizer_manager::{RequestLimits, TokenizerManager},
};
use crate::{
    engine::{Engine, Worker},
    error::{Error, Result},
    generate::GenerateParams,
    request::Checkpoint,
};
use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Steps that the detokenizer may be behind.
const STEPS_BEHIND: usize = 64;

/// How long requests may wait, and how many of them.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Samples that may wait for their turn.
    pub max_queued_requests: usize,
    /// How long a request may take, its time in the queue included.
    pub request_timeout: Option<Duration>,
}

/// A TokenizerManager that takes requests, a Scheduler that is about to run, and a Detokenizer on a thread of its own.
pub struct Components<W: Worker> {
    pub manager: Arc<TokenizerManager>,
    scheduler: Scheduler<W>,
    detokenizer: JoinHandle<()>,
    status: Arc<Status>,
}

impl<W: Worker> Components<W> {
    /// Wires the components around an engine that has computed nothing yet. `status` stays as it is: the caller enters
    /// [`Phase::Serving`] when requests may come.
    ///
    /// # Errors
    /// An engine that can't compute its first token, and a system that has no thread left.
    pub fn start(
        checkpoint: Checkpoint,
        mut engine: Engine<W>,
        queue: QueueOptions,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
    ) -> Result<Components<W>> {
        warm_up(&mut engine)?;
        let kv = engine.kv_usage();
        let limits = RequestLimits {
            max_model_len: engine.worker.max_model_len().min(kv.total.max(1)),
            max_queued: queue.max_queued_requests,
            max_running: engine.limits().max_running(),
            timeout: queue.request_timeout,
        };
        engine.queue_limits.requests = limits.max_queued;
        let (to_scheduler, from_manager) = mpsc::channel();
        let (to_detokenizer, from_scheduler) = mpsc::sync_channel(STEPS_BEHIND);
        let scheduler = Scheduler::new(engine, from_manager, to_detokenizer, status.clone());
        let aborts = to_scheduler.clone();
        let texts = thread::Builder::new().name("detokenizer".into());
        let texts = texts.spawn(move || detokenizer::run(from_scheduler, aborts, metrics));
        let detokenizer =
            texts.map_err(|error| Error::Device(format!("no thread for the detokenizer: {error}")))?;
        let manager = Arc::new(TokenizerManager::new(checkpoint, limits, status.clone(), to_scheduler));
        Ok(Components { manager, scheduler, detokenizer, status })
    }

    /// Runs the engine on this thread until [`TokenizerManager::shut_down`] ends it. All clients have been told by then.
    ///
    /// # Errors
    /// Why the engine can't go on.
    pub fn run(self) -> Result<()> {
        let served = self.scheduler.run();
        if served.is_err() {
            self.status.enter(Phase::Dead);
        }
        // It ends once the scheduler is gone, after the last text.
        _ = self.detokenizer.join();
        served
    }
}

/// One token, so that the first request finds everything in its place.
fn warm_up<W: Worker>(engine: &mut Engine<W>) -> Result<()> {
    engine.add(vec![0], GenerateParams { max_tokens: 1, ..GenerateParams::default() })?;
    let ended = engine.run()?;
    engine.flush_cache();
    match ended.into_iter().find_map(|finished| finished.error) {
        Some(error) => Err(Error::Dead(format!("the first token can't be computed: {error}"))),
        None => Ok(()),
    }
}
