//! The Detokenizer: ids to text, for each output by itself. It holds back half a character, and what may become a stop string.
//!
//! It is a thread of its own, so that the engine computes the next step while the texts of this one are made.

use super::{
    io_struct::{AbortReq, Address, BatchTokenIdOutput, PaceReq, Piece, SampleEnd, SchedulerInput},
    metrics::Metrics,
    outbox::{Outbox, Pace},
};
use crate::{
    engine::{Finished, RequestId, Update},
    generate::FinishReason,
    sampling::Sampled,
    tokenizer::{Detokenizer, Emit, StopStrings, Tokenizer},
};
use std::{
    collections::HashMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::Instant,
};

/// The text of one output, on its way.
pub struct OutputText {
    address: Address,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// `None` without a tokenizer: then there are ids and no text.
    detokenizer: Option<Detokenizer>,
    stop: StopStrings,
    include_stop: bool,
    /// Tokens before which no stop string counts.
    min_tokens: usize,
    /// The prompt alone is wanted: no token after it.
    only_prompt: bool,
    /// Tokens whose text is held back.
    held: Vec<Sampled>,
    matched_stop: Option<String>,
    last_token: Option<Instant>,
}

/// How an output's text is made.
pub struct TextRules<'a> {
    pub tokenizer: Option<&'a Tokenizer>,
    /// The prompt that the text continues; nothing for an answer in a chat.
    pub after: &'a [u32],
    pub stop: &'a [String],
    pub skip_special_tokens: bool,
    pub include_stop: bool,
    pub min_tokens: usize,
    pub only_prompt: bool,
}

impl OutputText {
    /// An output without a token so far.
    pub fn new(address: Address, prompt_tokens: usize, rules: &TextRules) -> OutputText {
        let detokenizer = |tokenizer| match rules.after {
            [] => Detokenizer::new(tokenizer, rules.skip_special_tokens),
            prompt => Detokenizer::after_prompt(tokenizer, prompt, rules.skip_special_tokens),
        };
        OutputText {
            address,
            prompt_tokens,
            detokenizer: rules.tokenizer.map(detokenizer),
            stop: StopStrings::new(rules.stop),
            include_stop: rules.include_stop,
            min_tokens: rules.min_tokens,
            only_prompt: rules.only_prompt,
            held: Vec::new(),
            matched_stop: None,
            last_token: None,
        }
    }

    /// Takes a token; gives the text that is final now.
    fn push(&mut self, token: u32) -> String {
        let Some(detokenizer) = &mut self.detokenizer else { return String::new() };
        if self.min_tokens > 0 {
            self.min_tokens -= 1;
            return detokenizer.push(token);
        }
        match self.stop.push_token(detokenizer, token) {
            Emit::Text(text) => text,
            Emit::Stopped { text, stop } => self.stopped(text, stop),
        }
    }

    /// The text that was held back, now that nothing follows.
    fn finish(&mut self) -> String {
        let rest = self.detokenizer.as_mut().map(Detokenizer::finish).unwrap_or_default();
        match self.stop.push(&rest) {
            Emit::Text(text) => text + &self.stop.finish(),
            Emit::Stopped { text, stop } => self.stopped(text, stop),
        }
    }

    fn stopped(&mut self, text: String, stop: String) -> String {
        let shown = if self.include_stop { text + &stop } else { text };
        self.matched_stop = Some(stop);
        shown
    }

    // ANCHOR: take
    /// What an update of the engine gives to the client; `None` if that is nothing so far.
    fn take(&mut self, update: Update) -> Option<Piece> {
        let mut piece = Piece { index: self.address.index, ..Piece::default() };
        piece.prompt_logprobs = update.prompt_logprobs;
        if let Some(sampled) = update.token.filter(|_| !self.only_prompt) {
            piece.text = self.push(sampled.token);
            self.held.push(sampled);
        }
        if let Some(finished) = update.finished {
            piece.text += &self.finish();
            piece.end = Some(self.end(finished));
        }
        // Without a tokenizer, the tokens are all that there is.
        let is_news = !piece.text.is_empty() || piece.is_last() || self.detokenizer.is_none();
        if is_news {
            piece.tokens = mem::take(&mut self.held);
        }
        (is_news || !piece.prompt_logprobs.is_empty()).then_some(piece)
    }
    // ANCHOR_END: take

    /// Ends it with an error.
    fn fail(&self, why: &str) {
        let end =
            SampleEnd { reason: FinishReason::Error.name(), error: Some(why.into()), ..SampleEnd::default() };
        self.address.outbox.push(Piece { index: self.address.index, end: Some(end), ..Piece::default() });
        self.address.outbox.wake();
    }

    fn end(&mut self, finished: Finished) -> SampleEnd {
        let only_prompt = self.only_prompt && finished.error.is_none();
        let reason = if only_prompt { FinishReason::Length } else { finished.reason };
        let error = match reason {
            FinishReason::Abort | FinishReason::Error => {
                Some(finished.error.unwrap_or_else(|| "the request was aborted".into()))
            }
            _ => None,
        };
        SampleEnd {
            reason: reason.name(),
            error,
            matched_stop: self.matched_stop.take(),
            completion_tokens: if only_prompt { 0 } else { finished.output.len() },
            cached_tokens: finished.cached_tokens,
            weight_version: finished.weight_version,
        }
    }
}

/// Makes texts until the Scheduler is gone.
pub fn run(steps: Receiver<BatchTokenIdOutput>, to_scheduler: Sender<SchedulerInput>, metrics: Arc<Metrics>) {
    let mut open: HashMap<RequestId, OutputText> = HashMap::new();
    let mut woken: Vec<Arc<Outbox>> = Vec::new();
    for BatchTokenIdOutput { new, updates, aborted, dead } in steps {
        open.extend(new);
        for mut update in updates {
            let id = update.id;
            let Some(text) = open.get_mut(&id) else { continue };
            if let (Some(finished), Some(why)) = (&mut update.finished, aborted) {
                finished.error.get_or_insert_with(|| why.into());
            }
            count(&metrics, text, &update);
            let is_last = update.finished.is_some();
            let Some(pace) = deliver(text, update) else { continue };
            let Address { outbox, group, .. } = text.address.clone();
            woken.push(outbox.clone());
            match pace {
                Pace::KeepsUp => {}
                Pace::Behind => _ = to_scheduler.send(SchedulerInput::Pace(PaceReq { group, outbox })),
                // Its client can't be answered: the scheduler ends its samples, and the updates that say so find nobody.
                Pace::GivenUp => _ = to_scheduler.send(SchedulerInput::Abort(AbortReq::Group(group))),
            }
            if is_last || pace == Pace::GivenUp {
                open.remove(&id);
            }
        }
        // Clients are woken once a step, after all texts of it: a task that is woken at each text would take a processor from the next.
        woken.drain(..).for_each(|outbox| outbox.wake());
        if let Some(why) = dead {
            open.drain().for_each(|(_, text)| text.fail(&why));
        }
    }
}

/// Sends an update's text on its way; `None` if it has none, which only an update before the last may have. A panic ends this output and no
/// other.
fn deliver(text: &mut OutputText, update: Update) -> Option<Pace> {
    let made = catch_unwind(AssertUnwindSafe(|| text.take(update)));
    match made {
        Ok(piece) => piece.map(|piece| text.address.outbox.push(piece)),
        Err(_) => {
            text.fail("the text of this output can't be made; this is a bug");
            Some(Pace::GivenUp)
        }
    }
}

/// Counts what a step did for an output.
fn count(metrics: &Metrics, text: &mut OutputText, update: &Update) {
    if update.token.is_some() && !text.only_prompt {
        let now = Instant::now();
        if let Some(last) = text.last_token.replace(now) {
            metrics.next_token(now - last);
        }
    }
    let Some(finished) = &update.finished else { return };
    let Finished { reason, times, .. } = finished;
    let Some(admitted) = times.admitted else { return }; // it never ran
    metrics.left_queue(admitted);
    metrics.prompt_tokens.inc_by(text.prompt_tokens as u64);
    metrics.prefix_cache_queries.inc_by(text.prompt_tokens as u64);
    metrics.prefix_cache_hits.inc_by(finished.cached_tokens as u64);
    metrics.preemptions.inc_by(finished.preemptions.into());
    if !text.only_prompt {
        metrics.generation_tokens.inc_by(finished.output.len() as u64);
    }
    if let Some(first) = times.first_token {
        metrics.first_token(first);
    }
    if let (FinishReason::Stop | FinishReason::Length, Some(last)) = (reason, times.last_token) {
        metrics.finished(reason.name(), last);
    }
}
