//! The contract of step 8 that needs the three components: a request that is taken back when its client leaves.

use stairwell::{
    attention::{KvBudget, KvOptions},
    backend::cpu::Cpu,
    batch::Batch,
    config::ModelConfig,
    demo,
    engine::{Continuous, Engine, Limits, LocalWorker, NewRequest, Output, Worker, WorkerReport},
    error::Result,
    generate::GenerateParams,
    model::KvMemory,
    request::{Checkpoint, Fields},
    runner::{LoadOptions, ModelRunner},
    sampling::Draw,
    server::{
        detokenizer::{self, OutputText, TextRules},
        io_struct::{
            AbortReq, Address, GenerateReqInput, GroupId, Piece, PromptInput, SampleEnd, SchedulerInput,
            TokenizedGenerateReqInput, TokenizedSample,
        },
        metrics::Metrics,
        outbox::Outbox,
        scheduler::Scheduler,
        status::{Phase, Status},
        tokenizer_manager::{RequestLimits, TokenizerManager},
    },
    tensor::HostTensor,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::oneshot};

// The components --------------------------------------------------------------------------------------------------------

/// The demo model behind the three components. Its forward passes wait for leave while the gate is shut.
pub(super) struct Rig {
    pub manager: Arc<TokenizerManager>,
    pub to_scheduler: Sender<SchedulerInput>,
    pub gate: Arc<Gate>,
    /// What the scheduler says. The manager has one of its own, which counts what goes through it: we go round it.
    pub gauges: Arc<Status>,
    runtime: Runtime,
}

impl Rig {
    /// With K and V for so many blocks of 4 tokens.
    pub fn start(blocks: usize) -> Rig {
        let checkpoint = Checkpoint::open(demo::directory()).expect("the demo's files");
        let kv = KvOptions {
            budget: Some(KvBudget::Tokens(4 * blocks)),
            block_size: Some(4),
            ..KvOptions::default()
        };
        let runner = ModelRunner::load(&demo::directory(), LoadOptions { kv, ..LoadOptions::default() });
        let inner = LocalWorker::new(runner.expect("the demo loads")).expect("a worker");
        let gate = Arc::new(Gate::default());
        gate.open(usize::MAX);
        let limits = Limits { max_num_seqs: 4, max_batched_tokens: 32 };
        let engine = Engine::new(Gated { inner, gate: gate.clone() }, Box::new(Continuous), limits);
        let limits = RequestLimits {
            max_model_len: engine.worker.max_model_len().min(4 * blocks),
            max_queued: 1 << 20,
            max_running: limits.max_num_seqs,
            timeout: None,
        };
        let (to_scheduler, from_manager) = mpsc::channel();
        let (to_detokenizer, from_scheduler) = mpsc::sync_channel(64);
        let (gauges, status, aborts) =
            (Arc::new(Status::default()), Arc::new(Status::default()), to_scheduler.clone());
        let scheduler = Scheduler::new(engine, from_manager, to_detokenizer, gauges.clone());
        thread::spawn(move || scheduler.run());
        thread::spawn(move || detokenizer::run(from_scheduler, aborts, Arc::new(Metrics::new())));
        status.enter(Phase::Serving);
        let manager = Arc::new(TokenizerManager::new(checkpoint, limits, status, to_scheduler.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Rig { manager, to_scheduler, gate, gauges, runtime }
    }

    pub fn run<T>(&self, work: impl AsyncFnOnce(&Arc<TokenizerManager>) -> T) -> T {
        self.runtime.block_on(work(&self.manager))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.gate.open(usize::MAX);
        self.manager.shut_down();
    }
}

/// Forward passes that may be made.
#[derive(Default)]
pub(super) struct Gate {
    left: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// From now on so many passes, and no more.
    pub fn open(&self, passes: usize) {
        *self.left.lock().unwrap() = passes;
        self.changed.notify_all();
    }

    fn enter(&self) {
        let mut left = self.changed.wait_while(self.left.lock().unwrap(), |left| *left == 0).unwrap();
        *left -= usize::from(*left < usize::MAX);
        self.changed.notify_all();
    }

    /// Waits until all passes that may be made have begun.
    fn used_up(&self) {
        let left = self.left.lock().unwrap();
        let (_left, late) = self.changed.wait_timeout_while(left, PATIENCE, |left| *left > 0).unwrap();
        assert!(!late.timed_out(), "the engine makes no steps, and requests have come");
    }
}

/// A worker behind a gate.
struct Gated {
    inner: LocalWorker<Cpu>,
    gate: Arc<Gate>,
}

impl Worker for Gated {
    fn forward(&mut self, batch: &Batch, draws: &[Draw]) -> Result<Output> {
        self.gate.enter();
        self.inner.forward(batch, draws)
    }
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }
    fn max_model_len(&self) -> usize {
        self.inner.max_model_len()
    }
    fn memory(&self) -> KvMemory {
        self.inner.memory()
    }
    fn report(&mut self) -> Result<WorkerReport> {
        self.inner.report()
    }
    fn update_weights(&mut self, tensors: &mut dyn Iterator<Item = (String, HostTensor)>) -> Result<()> {
        self.inner.update_weights(tensors)
    }
}

/// The pieces of the demo story, greedy.
pub(super) async fn ask(manager: &Arc<TokenizerManager>, fields: Fields) -> Vec<Piece> {
    let fields = Fields { temperature: Some(0.0), max_tokens: Some(24), ..fields };
    let prompts = vec![PromptInput::Text("Once upon a time".into())];
    let input = GenerateReqInput { prompts, fields, ..GenerateReqInput::default() };
    let mut generation = manager.generate(input).await.expect("a request");
    let mut pieces = Vec::new();
    while let Some(more) = generation.next().await.expect("an answer") {
        pieces.extend(more);
    }
    pieces
}

pub(super) fn text_of(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

// The guard -------------------------------------------------------------------------------------------------------------

/// A request in the engine. When it is dropped before all its samples have ended, it is taken back.
pub trait Guard {
    /// A request that the scheduler was sent just now; `open` counts requests, and this one is not in it yet.
    fn new(
        group: GroupId,
        samples: usize,
        to_scheduler: Sender<SchedulerInput>,
        open: Arc<AtomicUsize>,
    ) -> Self;
    /// Sees the pieces that the client is given.
    fn saw(&mut self, pieces: &[Piece]);
}

fn last_piece(index: usize) -> Piece {
    Piece { index, end: Some(SampleEnd::default()), ..Piece::default() }
}

/// The aborts that have arrived.
fn aborts(from_guard: &Receiver<SchedulerInput>) -> Vec<GroupId> {
    let group = |message| match message {
        SchedulerInput::Abort(AbortReq::Group(group)) => group,
        _ => panic!("the guard sends nothing but AbortReq::Group: did you abort all?"),
    };
    from_guard.try_iter().map(group).collect()
}

/// A guard takes its request back once, if it has not ended, and hurts nobody.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn guard<G: Guard>() {
    let open = Arc::new(AtomicUsize::new(0));
    let (to_scheduler, from_guard) = mpsc::channel();
    let new = |number, samples| G::new(GroupId(number), samples, to_scheduler.clone(), open.clone());

    let first = new(7, 1);
    assert_eq!(open.load(Relaxed), 1, "open requests while one is: did you count it in `new`?");
    drop(first);
    let got = aborts(&from_guard);
    assert_eq!(
        got,
        [GroupId(7)],
        "aborts for a request whose client left before a token: did you write `Drop`?"
    );
    assert_eq!(open.load(Relaxed), 0, "open requests after it was dropped: did you count it out?");

    let mut done = new(8, 1);
    done.saw(&[Piece::default(), last_piece(0)]);
    drop(done);
    assert_eq!(
        aborts(&from_guard),
        [],
        "aborts for a request that has ended: did you look whether samples are left?"
    );

    let mut half = new(9, 2);
    half.saw(&[Piece::default(), last_piece(1)]);
    half.saw(&[Piece::default()]);
    drop(half);
    let got = aborts(&from_guard);
    assert_eq!(
        got,
        [GroupId(9)],
        "aborts for a request of which one of two samples runs: did you take the first end for the end of all?"
    );

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _held = new(10, 1);
        std::panic::resume_unwind(Box::new("a handler that panics"));
    }));
    assert!(
        panicked.is_err() && aborts(&from_guard) == [GroupId(10)],
        "a handler that panics drops its guard too"
    );

    drop(from_guard);
    let orphan = new(11, 1);
    let quiet = catch_unwind(AssertUnwindSafe(|| drop(orphan)));
    assert!(
        quiet.is_ok(),
        "the scheduler is gone, and your guard panics: did you unwrap the result of `send`? In mistral.rs #213 such a panic ended the engine"
    );
    assert_eq!(open.load(Relaxed), 0, "open requests at the end: did you count every one out?");
}

/// A request that goes round the TokenizerManager, so that the reader's guard is the only one. It may not be admitted yet.
fn send(rig: &Rig, group: GroupId, samples: usize) -> Arc<Outbox> {
    let outbox = Arc::new(Outbox::default());
    let fields = Fields {
        prompt: Some(LONG.into()),
        temperature: Some(0.0),
        max_tokens: Some(60),
        ..Fields::default()
    };
    let request = rig.manager.checkpoint.resolve(fields).expect("a request");
    let sample = |index: usize| {
        let rules = TextRules {
            tokenizer: rig.manager.checkpoint.tokenizer().ok(),
            after: request.text_after(),
            stop: &[],
            skip_special_tokens: true,
            include_stop: false,
            min_tokens: 0,
            only_prompt: false,
        };
        let address = Address { outbox: outbox.clone(), index, group };
        let output = OutputText::new(address, request.prompt.len(), &rules);
        let params = GenerateParams { eos_token_id: Vec::new(), ..request.params.clone() };
        let request = NewRequest::new(request.prompt.clone(), params);
        TokenizedSample { request, like: (index > 0).then_some(0), output }
    };
    let (samples, admitted) = ((0..samples).map(sample).collect(), oneshot::channel().0);
    let request = TokenizedGenerateReqInput { group, rid: String::new(), samples, admitted };
    rig.to_scheduler.send(SchedulerInput::Generate(Box::new(request))).expect("a scheduler");
    outbox
}

const LONG: &str = "Tell a short story for a small child. One day, Tom and his dog went to the park. They";
/// How long we wait for a thread. A contract that is kept never waits so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients leave before the first pass, during a prompt and while tokens come, with one sample and with three, and while others wait: after the pass that is under way,
/// all blocks are free. A client that comes then reads its story.
///
/// # Panics
/// If blocks are held, or the story differs.
#[track_caller]
pub fn guard_frees_blocks<G: Guard>() {
    let open = Arc::new(AtomicUsize::new(0));
    drop(G::new(GroupId(0), 0, mpsc::channel().0, open.clone())); // what is not written yet says so before anything is loaded
    let rig = Rig::start(96);
    let alone = rig.run(async |manager| ask(manager, Fields::default()).await);
    for (round, passes) in [0, 1, 2, 6, 12].into_iter().enumerate() {
        rig.gate.open(passes);
        let place = format!("clients leave after {passes} passes");
        // There are four seats, so the last one waits.
        let mut requests: Vec<(Arc<Outbox>, G)> = [1, 3, 1]
            .into_iter()
            .zip(10 * round as u64..)
            .map(|(samples, number)| {
                let group = GroupId(number);
                let outbox = send(&rig, group, samples);
                (outbox, G::new(group, samples, rig.to_scheduler.clone(), open.clone()))
            })
            .collect();
        rig.gate.used_up();
        if passes >= 6 {
            let (outbox, guard) = &mut requests[0];
            let pieces = rig.run(async |_| tokio::time::timeout(PATIENCE, outbox.take()).await);
            guard.saw(&pieces.expect("pieces of a request that has tokens").expect("nobody reads slowly"));
        }
        drop(requests);
        rig.gate.open(1); // for the pass that is under way
        let (start, used) = (Instant::now(), || rig.gauges.kv_used.load(Relaxed));
        while used() > 0 && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let hint = "did you take back every request that has no end yet?";
        assert_eq!(used(), 0, "{place}: places of K and V in use after the pass that was under way: {hint}");
        rig.gate.open(usize::MAX);
        let story = rig.run(async |manager| ask(manager, Fields::default()).await);
        assert_eq!(text_of(&story), text_of(&alone), "{place}: the story of the next client");
    }
    assert_eq!(open.load(Relaxed), 0, "open requests when every client has left");
}
