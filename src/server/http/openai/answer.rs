//! From pieces of text to an answer, whole or streamed: what chats and completions have in common.

use super::{super::sse, request::TextRequest};
use crate::{
    sampling::Sampled,
    server::{
        error::ApiError,
        io_struct::{Piece, SampleEnd},
        tokenizer_manager::{Generation, TokenizerManager},
    },
};
use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Serialize;
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, Sleep, sleep};
use utoipa::ToSchema;

/// A stream that has nothing to say says a comment, so that proxies keep it open.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Memory for an event or two of one token.
const EVENT_BYTES: usize = 512;
/// A log-probability of minus infinity, which JSON lacks; OpenAI's floor.
const FLOOR: f64 = -9999.0;

/// What all chunks of an answer share.
#[derive(Clone, Serialize, ToSchema)]
pub struct Head {
    pub id: String,
    pub object: &'static str,
    /// Unix time in seconds.
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
}

/// Tokens that were used. An output's end-of-sequence token counts.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
    /// Of a model that thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Those that it thought with.
    pub reasoning_tokens: usize,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those that were computed for an earlier request.
    pub cached_tokens: usize,
}

/// One choice, when it is complete.
#[derive(Default)]
pub struct Choice {
    pub text: String,
    pub tokens: Vec<Sampled>,
    pub prompt_logprobs: Vec<Sampled>,
    pub end: SampleEnd,
}

/// What turns pieces into the events of one kind of answer.
pub trait Events: Send + 'static {
    /// Writes the events of a piece.
    fn piece(&mut self, piece: Piece, usage: &mut Usage, out: &mut Vec<u8>);
    /// Writes what follows the last piece.
    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>);
}

impl Head {
    /// The head of an answer that begins now.
    pub fn new(
        prefix: &str,
        object: &'static str,
        request: &TextRequest,
        manager: &TokenizerManager,
    ) -> Head {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let system_fingerprint = manager.fingerprint();
        Head {
            id: format!("{prefix}-{}", request.input.rid),
            object,
            created,
            model: request.model.clone(),
            system_fingerprint,
        }
    }
}

impl Usage {
    /// Before the first piece.
    pub fn of(generation: &Generation) -> Usage {
        let prompt_tokens =
            generation.prepared.prompts.iter().map(|prompt| prompt.request.prompt.len()).sum();
        Usage { prompt_tokens, total_tokens: prompt_tokens, ..Usage::default() }
    }

    /// Counts tokens of a reasoning.
    pub fn reason(&mut self, tokens: usize) {
        self.completion_tokens_details.get_or_insert_default().reasoning_tokens += tokens;
    }

    /// Counts a piece; `n` samples share a prompt.
    pub fn count(&mut self, piece: &Piece, n: usize) {
        // The tokens of a piece may be held back; how many there were in all is known at the end.
        let Some(end) = &piece.end else { return };
        self.completion_tokens += end.completion_tokens;
        self.total_tokens += end.completion_tokens;
        if piece.index.is_multiple_of(n) {
            self.prompt_tokens_details.cached_tokens += end.cached_tokens;
        }
    }
}

/// Waits for all choices.
///
/// # Errors
/// Why one of them failed.
pub async fn whole(generation: &mut Generation) -> Result<(Vec<Choice>, Usage), ApiError> {
    let n = generation.prepared.n;
    let count = generation.prepared.prompts.len() * n;
    let mut choices: Vec<Choice> = (0..count).map(|_| Choice::default()).collect();
    let mut usage = Usage::of(generation);
    while let Some(pieces) = generation.next().await? {
        for piece in pieces {
            usage.count(&piece, n);
            let Piece { index, text, tokens, prompt_logprobs, end } = piece;
            let choice = &mut choices[index];
            choice.text += &text;
            choice.tokens.extend(tokens);
            choice.prompt_logprobs.extend(prompt_logprobs);
            choice.end = end.unwrap_or_default();
        }
    }
    Ok((choices, usage))
}

/// The state of a stream.
struct Streaming<E> {
    generation: Generation,
    events: E,
    usage: Usage,
    over: bool,
    /// When something was said last.
    last: Instant,
    /// Ends when it may be time for a ping. A timer of its own for each wait would be one for each token.
    silence: Pin<Box<Sleep>>,
}

// ANCHOR: stream
/// Streams the events as their tokens come. An error that comes now is an event, since the status has gone out.
pub fn streamed<E: Events>(generation: Generation, events: E) -> Response {
    let usage = Usage::of(&generation);
    let silence = Box::pin(sleep(PING_EVERY));
    let state = Box::new(Streaming { generation, events, usage, over: false, last: Instant::now(), silence });
    let stream = stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), state))
    });
    (sse::headers(), Body::from_stream(stream)).into_response()
}

impl<E: Events> Streaming<E> {
    /// The next bytes for the client; nothing after the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let pieces = tokio::select! {
            biased;
            pieces = self.generation.next() => pieces,
            () = silent(&mut self.silence, &mut self.last) => return Some(sse::PING),
        };
        self.last = Instant::now();
        let mut out = Vec::with_capacity(EVENT_BYTES);
        match pieces {
            Ok(Some(pieces)) => {
                for piece in pieces {
                    self.usage.count(&piece, self.generation.prepared.n);
                    self.events.piece(piece, &mut self.usage, &mut out);
                }
                return Some(out.into());
            }
            Ok(None) => self.events.end(&self.usage, &mut out),
            Err(error) => sse::event_into(&mut out, &error.body()),
        }
        self.over = true;
        out.extend_from_slice(&sse::DONE);
        Some(out.into())
    }
}
// ANCHOR_END: stream

/// Waits until nothing was said for so long that a ping is due.
async fn silent(timer: &mut Pin<Box<Sleep>>, last: &mut Instant) {
    loop {
        timer.as_mut().await;
        let now = Instant::now();
        let due = *last + PING_EVERY <= now;
        *last = if due { now } else { *last };
        timer.as_mut().reset(*last + PING_EVERY);
        if due {
            return;
        }
    }
}

/// A log-probability as JSON can have it.
pub fn finite(logprob: f32) -> f64 {
    f64::from(logprob).max(FLOOR)
}

/// How tokens are shown in log-probabilities.
#[derive(Clone)]
pub struct TokenNames {
    pub manager: Arc<TokenizerManager>,
    pub as_ids: bool,
}

impl TokenNames {
    /// A token's text; half a character is shown by its bytes.
    pub fn name(&self, token: u32) -> String {
        let piece = || self.manager.checkpoint.tokenizer().ok()?.piece(token);
        let as_id = || format!("token_id:{token}");
        if self.as_ids { as_id() } else { piece().unwrap_or_else(as_id) }
    }

    /// A token's bytes.
    pub fn bytes(&self, token: u32) -> Option<Vec<u8>> {
        self.manager.checkpoint.tokenizer().ok()?.bytes(token)
    }
}
