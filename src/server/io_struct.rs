//! The messages that the three components send each other, with the names of SGLang's `managers/io_struct.py`.
//!
//! ```text
//! HTTP ── GenerateReqInput ──▶ TokenizerManager ── TokenizedGenerateReqInput ──▶ Scheduler
//!                                     ▲                                              │
//!                                     └── BatchStrOutput ── Detokenizer ◀── BatchTokenIdOutput
//! ```
//! SGLang's components are processes, since Python's lock lets only one thread of a process compute; its messages are pickled. Here they
//! are threads, and a message is moved, not copied.

use super::{detokenizer::OutputText, outbox::Outbox};
use crate::{
    engine::{EngineStats, NewRequest, RequestId, Update},
    error::Result,
    request::Fields,
    sampling::Sampled,
};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A client's request, as it is written: from HTTP to the TokenizerManager.
#[derive(Clone, Debug, Default)]
pub struct GenerateReqInput {
    /// Its name, which the client may have chosen.
    pub rid: String,
    /// What it continues. Choice `p · n + i` of the answer is sample i of prompt p.
    pub prompts: Vec<PromptInput>,
    /// All else, the same for every prompt.
    pub fields: Fields,
    pub options: RequestOptions,
    /// Whose K and V it may share, besides the `cache_salt` of the fields.
    pub tenant: Option<Arc<str>>,
}

/// What a request continues.
#[derive(Clone, Debug)]
pub enum PromptInput {
    Text(String),
    Ids(Vec<u32>),
    /// Messages; those of a chat's `messages`.
    Chat(Vec<Value>),
}

/// What OpenAI's API does not have, and vLLM's and SGLang's do.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// Whether the tokenizer puts BOS and the like around a text.
    pub add_special_tokens: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Whether the text keeps the stop string that ended it.
    pub include_stop: bool,
    /// More tokens that end an output.
    pub stop_token_ids: Vec<u32>,
    /// Tokens of an output before which nothing ends it.
    pub min_tokens: usize,
    /// Whether the last message is one of the assistant's that goes on.
    pub continue_final_message: bool,
    /// Whether a chat's text ends with the beginning of an answer.
    pub add_generation_prompt: bool,
}

impl Default for RequestOptions {
    fn default() -> RequestOptions {
        RequestOptions {
            add_special_tokens: true,
            skip_special_tokens: true,
            include_stop: false,
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            continue_final_message: false,
            add_generation_prompt: true,
        }
    }
}

/// Number of a client's request in this process: names may stand twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

/// A request that was checked and is token ids now: from the TokenizerManager to the Scheduler.
pub struct TokenizedGenerateReqInput {
    pub group: GroupId,
    pub rid: String,
    /// All of them run, or none.
    pub samples: Vec<TokenizedSample>,
    /// Hears whether they were admitted to the queue.
    pub admitted: oneshot::Sender<Result<()>>,
}

/// One output that is to be computed.
pub struct TokenizedSample {
    pub request: NewRequest,
    /// The place in `samples` of an earlier one with the same prompt.
    pub like: Option<usize>,
    /// Where its text goes.
    pub output: OutputText,
}

/// What the Scheduler is asked for.
pub enum SchedulerInput {
    Generate(Box<TokenizedGenerateReqInput>),
    Abort(AbortReq),
    Pace(PaceReq),
    FlushCache(oneshot::Sender<FlushCacheReqOutput>),
    InternalState(oneshot::Sender<InternalState>),
    /// The end: nothing is asked for after it.
    Shutdown,
}

/// Which requests are to end. Their clients hear why, if they still listen.
pub enum AbortReq {
    /// One, whose client has left.
    Group(GroupId),
    /// Those of this name; hears how many there were.
    Rid(String, oneshot::Sender<usize>),
    /// All.
    All { why: &'static str, count: oneshot::Sender<usize> },
}

/// A client has fallen behind, or has caught up. Which of the two, the outbox says when the message is read: two messages from two threads
/// may come in either order.
pub struct PaceReq {
    pub group: GroupId,
    pub outbox: Arc<Outbox>,
}

/// Whether the prefix cache is empty now. It can't be emptied while requests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushCacheReqOutput {
    pub success: bool,
}

/// What the engine has done.
#[derive(Clone, Copy, Debug)]
pub struct InternalState {
    pub stats: EngineStats,
    pub max_running: usize,
    pub max_batched_tokens: usize,
}

/// What one step of the engine did: from the Scheduler to the Detokenizer.
#[derive(Default)]
pub struct BatchTokenIdOutput {
    /// Outputs that begin.
    pub new: Vec<(RequestId, OutputText)>,
    pub updates: Vec<Update>,
    /// Why requests ended that the engine was told to end.
    pub aborted: Option<&'static str>,
    /// Why all outputs end now: the engine can't go on.
    pub dead: Option<String>,
}

/// Text of one sample: from the Detokenizer to the task that answers the client, through an [`Outbox`].
pub type BatchStrOutput = Piece;

// ANCHOR: piece
/// The next piece of a sample's text.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Which choice of the answer.
    pub index: usize,
    /// Final: it is never taken back.
    pub text: String,
    /// The tokens whose text it has. What a stop string or half a character holds back comes with a later piece.
    pub tokens: Vec<Sampled>,
    /// What the model thought of the prompt's tokens from the second on, with the first piece, if that was asked for.
    pub prompt_logprobs: Vec<Sampled>,
    /// The end of the sample, if this is its last piece.
    pub end: Option<SampleEnd>,
}
// ANCHOR_END: piece

/// How a sample ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleEnd {
    /// "stop" or "length"; also "abort" and "error", and then `error` says why.
    pub reason: &'static str,
    pub error: Option<String>,
    /// The stop string that ended it.
    pub matched_stop: Option<String>,
    /// Tokens of the output, the end-of-sequence token included.
    pub completion_tokens: usize,
    /// Tokens of the prompt that were there already.
    pub cached_tokens: usize,
    /// How often the weights had been updated.
    pub weight_version: u64,
}

/// Where a sample's pieces go.
#[derive(Clone)]
pub struct Address {
    pub outbox: Arc<Outbox>,
    pub index: usize,
    pub group: GroupId,
}
