//! The TokenizerManager: takes a client's request, checks it, makes it token ids, sends it to the Scheduler, and follows it to its end.
//!
//! What costs time (templates, tokenizing) runs on threads of its own, a few at a time, so that answering others goes on.

use super::{
    detokenizer::{OutputText, TextRules},
    error::ApiError,
    io_struct::{
        AbortReq, Address, FlushCacheReqOutput, GenerateReqInput, GroupId, InternalState, PaceReq, Piece,
        PromptInput, SampleEnd, SchedulerInput, TokenizedGenerateReqInput, TokenizedSample,
    },
    outbox::{MAX_WAITING_BYTES, Outbox, Overflow},
    prepare::{Prepared, PreparedPrompt},
    status::{Phase, Status},
};
use crate::{
    engine::{NewRequest, SharesWith},
    request::Checkpoint,
};
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, oneshot};

/// Bytes of a text that takes some milliseconds to be tokenized.
const LONG: usize = 64 << 10;

/// What a request may ask for.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The longest sequence in tokens, prompt and output.
    pub max_model_len: usize,
    /// Samples that may wait.
    pub max_queued: usize,
    /// Samples that run at a time.
    pub max_running: usize,
    /// How long a request may take.
    pub timeout: Option<Duration>,
}

/// See the module's page.
pub struct TokenizerManager {
    pub checkpoint: Checkpoint,
    pub limits: RequestLimits,
    pub status: Arc<Status>,
    /// The program and the model, in some hexadecimal digits.
    build: String,
    /// Bytes of the vocabulary's longest token: what a prompt of so many bytes must have at least.
    pub(super) longest_token: usize,
    to_scheduler: Sender<SchedulerInput>,
    tokenizing: Semaphore,
    /// For long texts, one at a time.
    tokenizing_long: Semaphore,
    next_group: AtomicU64,
    /// Requests whose answers are not complete.
    open: Arc<AtomicUsize>,
}

impl TokenizerManager {
    /// A manager in front of a scheduler.
    pub fn new(
        checkpoint: Checkpoint,
        limits: RequestLimits,
        status: Arc<Status>,
        to_scheduler: Sender<SchedulerInput>,
    ) -> TokenizerManager {
        let longest = |vocab: u32| {
            let tokenizer = checkpoint.tokenizer().ok()?;
            (0..vocab).filter_map(|id| tokenizer.bytes(id)).map(|bytes| bytes.len()).max()
        };
        let longest_token = longest(checkpoint.config.vocab_size as u32).unwrap_or(1);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
        TokenizerManager {
            build: build(&checkpoint),
            checkpoint,
            limits,
            status,
            longest_token,
            to_scheduler,
            tokenizing: Semaphore::new(threads),
            tokenizing_long: Semaphore::new(1),
            next_group: AtomicU64::new(0),
            open: Arc::default(),
        }
    }

    /// Requests whose answers are not complete.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Changes with whatever may change an answer: the program, the model's configuration, its weights.
    pub fn fingerprint(&self) -> String {
        let version = self.status.weight_version.load(Relaxed);
        format!("fp_{}_{version}", self.build)
    }

    /// Whether requests are taken.
    ///
    /// # Errors
    /// 503 before and after, with the reason.
    pub fn check_serving(&self) -> Result<(), ApiError> {
        match self.status.phase() {
            Phase::Serving => Ok(()),
            Phase::Loading => Err(ApiError::unavailable("the model is being loaded")),
            Phase::Draining => Err(ApiError::unavailable("the server is shutting down")),
            Phase::Dead => Err(ApiError::unavailable("the engine has failed, and the server is ending")),
        }
    }

    // ANCHOR: generate
    /// Takes a request into the engine's queue. Its answer is read from what this gives; whoever drops that takes the request back.
    ///
    /// # Errors
    /// Whatever is wrong with the request (400), a queue that is full or a server that is ending (503).
    pub async fn generate(self: &Arc<Self>, input: GenerateReqInput) -> Result<Generation, ApiError> {
        self.check_serving()?;
        self.check_size(&input)?;
        let rid = input.rid.clone();
        let bytes = input.prompts.iter().map(PromptInput::bytes).sum();
        let prepared = self.blocking(bytes, move |manager| manager.prepare(input)).await??;
        let samples = prepared.prompts.len() * prepared.n;
        let RequestLimits { max_queued, max_running, .. } = self.limits;
        if !self.status.enter_channel(samples, max_queued + max_running) {
            return Err(ApiError::overloaded("the queue is full; try again later"));
        }
        let group = GroupId(self.next_group.fetch_add(1, Relaxed));
        let outbox = Arc::new(Outbox::default());
        let samples = self.samples(&prepared, group, &outbox);
        let generation = Generation::new(self, group, rid.clone(), outbox, prepared);
        let (admitted, answer) = oneshot::channel();
        let request = TokenizedGenerateReqInput { group, rid, samples, admitted };
        self.send(SchedulerInput::Generate(Box::new(request)))?;
        answer.await.map_err(|_| ApiError::unavailable("the engine has stopped"))??;
        Ok(generation)
    }
    // ANCHOR_END: generate

    /// Runs something long on a thread where it holds up nobody: long texts (`bytes`) wait for each other, and short ones don't wait for
    /// them. A panic there is an error of this request alone.
    ///
    /// # Errors
    /// 500 for a panic.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce(&TokenizerManager) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let failed = || ApiError::server_error("the request made the server panic; this is a bug");
        let lane = if bytes > LONG { &self.tokenizing_long } else { &self.tokenizing };
        let _permit = lane.acquire().await.map_err(|_| failed())?;
        let manager = self.clone();
        tokio::task::spawn_blocking(move || work(&manager)).await.map_err(|_| failed())
    }

    /// What the scheduler is to run: n samples of each prompt. The samples of a prompt share its K and V.
    fn samples(&self, prepared: &Prepared, group: GroupId, outbox: &Arc<Outbox>) -> Vec<TokenizedSample> {
        let deadline = self.limits.timeout.map(|timeout| Instant::now() + timeout);
        let mut samples = Vec::new();
        for prompt in &prepared.prompts {
            let first = samples.len();
            for sample in 0..prepared.n {
                let address = Address { outbox: outbox.clone(), index: samples.len(), group };
                samples.push(self.sample(prepared, prompt, sample, address, deadline, first));
            }
        }
        samples
    }

    fn sample(
        &self,
        prepared: &Prepared,
        PreparedPrompt { request, .. }: &PreparedPrompt,
        sample: usize,
        address: Address,
        deadline: Option<Instant>,
        first: usize,
    ) -> TokenizedSample {
        let rules = TextRules {
            tokenizer: self.checkpoint.tokenizer().ok(),
            after: request.text_after(),
            stop: &request.stop,
            skip_special_tokens: prepared.options.skip_special_tokens,
            include_stop: prepared.options.include_stop,
            min_tokens: prepared.options.min_tokens,
            only_prompt: request.params.max_tokens == 0,
        };
        let output = OutputText::new(address, request.prompt.len(), &rules);
        let mut params = request.params.sample(sample);
        // A pass over a prompt gives a token, wanted or not.
        params.max_tokens = params.max_tokens.max(1);
        let request = NewRequest {
            stop: self.checkpoint.stop_matcher(request),
            sharing: SharesWith { salt: request.salt.as_deref().map(Into::into), like: None },
            prompt_logprobs: request.params.sampling.logprobs.filter(|_| request.echo.is_some()),
            deadline,
            may_shorten: request.may_shorten,
            ..NewRequest::new(request.prompt.clone(), params)
        };
        TokenizedSample { request, like: (sample > 0).then_some(first), output }
    }

    /// Ends the requests of a name, or all; says how many there were.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub async fn abort(&self, rid: Option<String>) -> Result<usize, ApiError> {
        self.ask(|count| {
            SchedulerInput::Abort(match rid {
                Some(rid) => AbortReq::Rid(rid, count),
                None => AbortReq::All { why: "the request was aborted", count },
            })
        })
        .await
    }

    /// Ends all requests, which hear that the server is ending.
    pub async fn end_all(&self) {
        let end = |count| SchedulerInput::Abort(AbortReq::All { why: "the server is shutting down", count });
        _ = self.ask(end).await;
    }

    /// Empties the prefix cache, if nothing runs.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub async fn flush_cache(&self) -> Result<FlushCacheReqOutput, ApiError> {
        self.ask(SchedulerInput::FlushCache).await
    }

    /// What the engine has done.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub async fn internal_state(&self) -> Result<InternalState, ApiError> {
        self.ask(SchedulerInput::InternalState).await
    }

    /// Ends the scheduler.
    pub fn shut_down(&self) {
        _ = self.to_scheduler.send(SchedulerInput::Shutdown);
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> SchedulerInput,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply))?;
        answer.await.map_err(|_| ApiError::unavailable("the engine has stopped"))
    }

    fn send(&self, message: SchedulerInput) -> Result<(), ApiError> {
        self.to_scheduler.send(message).map_err(|_| ApiError::unavailable("the engine has stopped"))
    }
}

fn build(checkpoint: &Checkpoint) -> String {
    let text = format!("{} {:?}", env!("CARGO_PKG_VERSION"), checkpoint.config);
    let hash = Sha256::digest(text);
    hash.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// A request in the engine. Dropped before its end, which is when its client leaves, it is taken back: this is the only place where a
/// disconnect becomes an abort.
pub struct Generation {
    pub rid: String,
    pub prepared: Prepared,
    group: GroupId,
    outbox: Arc<Outbox>,
    /// Samples without an end.
    left: usize,
    /// Why one of them failed, until the client has what came before.
    failed: Option<String>,
    to_scheduler: Sender<SchedulerInput>,
    open: Arc<AtomicUsize>,
}

impl Generation {
    fn new(
        manager: &TokenizerManager,
        group: GroupId,
        rid: String,
        outbox: Arc<Outbox>,
        prepared: Prepared,
    ) -> Generation {
        manager.open.fetch_add(1, Relaxed);
        let left = prepared.prompts.len() * prepared.n;
        let (to_scheduler, open) = (manager.to_scheduler.clone(), manager.open.clone());
        Generation { rid, prepared, group, outbox, left, failed: None, to_scheduler, open }
    }

    /// The pieces that have come, once there are some; nothing after the end.
    ///
    /// # Errors
    /// Why the request can't be answered to its end.
    pub async fn next(&mut self) -> Result<Option<Vec<Piece>>, ApiError> {
        if self.left == 0 {
            return Ok(None);
        }
        if let Some(why) = self.failed.take() {
            return Err(ApiError::server_error(why));
        }
        let mut pieces = self.outbox.take().await.map_err(|Overflow| {
            let most = MAX_WAITING_BYTES >> 20;
            ApiError::server_error(format!("the client reads too slowly: more than {most} MiB waited for it"))
        })?;
        if self.outbox.caught_up() {
            let (group, outbox) = (self.group, self.outbox.clone());
            _ = self.to_scheduler.send(SchedulerInput::Pace(PaceReq { group, outbox }));
        }
        let good =
            pieces.iter().take_while(|piece| piece.end.as_ref().is_none_or(SampleEnd::is_good)).count();
        // What came before an error is the client's.
        self.failed = pieces.get(good).and_then(|piece| piece.end.as_ref()?.error.clone());
        pieces.truncate(good);
        self.left -= pieces.iter().filter(|piece| piece.is_last()).count();
        match self.failed.take_if(|_| pieces.is_empty()) {
            Some(why) => Err(ApiError::server_error(why)),
            None => Ok(Some(pieces)),
        }
    }
}

// ANCHOR: disconnect
impl Drop for Generation {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        if self.left > 0 {
            _ = self.to_scheduler.send(SchedulerInput::Abort(AbortReq::Group(self.group)));
        }
    }
}
// ANCHOR_END: disconnect
