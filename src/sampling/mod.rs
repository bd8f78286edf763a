//! From logits to a token.
//!
//! The model gives one number a token of the vocabulary, its *logit* `l`. Softmax turns them into
//! probabilities, `p_i = exp(l_i) / Σ exp(l_j)`, and one token is drawn. Each knob changes that in one way;
//! they are applied in this order, which is vLLM's (`vllm/v1/sample/sampler.py`, class `Sampler`, at commit
//! 3e342658):
//!
//! | | step | formula | why here |
//! |---|---|---|---|
//! | 1 | log-probabilities | `l_i − ln Σ exp(l_j)` | of the raw logits: what the *model* believes, whatever the knobs |
//! | 2 | logit bias | `l_i + b_i` | from here on, greedy is affected too |
//! | 3 | repetition penalty | `l_i / r` if `l_i > 0`, else `l_i · r` | for tokens of the prompt and the output |
//! | 4 | frequency and presence penalties | `l_i − f · n_i − q · [n_i > 0]` | `n_i`: occurrences in the output alone |
//! | 5 | greedy | argmax, lowest id first | if the temperature is 0: done, no random number used |
//! | 6 | temperature | `l_i / T` | below 1 sharpens, above 1 flattens; before the filters, so they see its effect |
//! | 7 | min-p | keep `p_i ≥ min_p · p_max` | a bar that moves with the model's confidence |
//! | 8 | top-k | keep `l_i ≥` the k-th largest | a fixed number, however sure the model is; ties stay |
//! | 9 | top-p, the nucleus | keep the largest until their sum reaches `top_p` | of the mass that 7 and 8 left; the crossing token stays |
//! | 10 | draw | the first `i` with `p_0 + … + p_i > u` | `u` from the seeded stream |
//!
//! Steps 2 to 4 are in `penalties.rs`, 6 to 10 in `filter.rs`, `u` in `rng.rs`, the ranges in `params.rs`.
//! Steps 7 and 8 commute: both are a floor under the logits. Step 9 does not: a nucleus of what top-k left is
//! never larger than the nucleus of everything. transformers applies top-k, top-p, min-p (`generation/utils.py`,
//! `_get_logits_processor`), so with min-p *and* top-p set its nucleus can be larger than vLLM's and ours. Nucleus
//! sampling is Holtzman et al. 2020, top-k Fan et al. 2018, min-p Nguyen et al. 2024.
//!
//! **Drawing.** vLLM draws `argmax_i p_i / q_i` with `q_i` from Exp(1), the "exponential race": one random number a
//! *token of the vocabulary*, which suits a GPU (`vllm/v1/sample/ops/topk_topp_sampler.py`, `random_sample`). Here one
//! number a *sampled token* walks the cumulative sum. The distribution is the same, the tokens for a seed are
//! not.
//!
//! **Same seed, same tokens.** The random numbers are the same on every machine (ChaCha20, see `rng.rs`), and each
//! request has its own stream, so its neighbours in a batch do not matter. Equal logits then give equal tokens, but for
//! the last bit of a platform's `exp`: weights are f64, so it decides only where `u` is within about 1e-16 of the
//! edge between two tokens. Logits that differ in their own last bits (another instruction set, another dtype) can
//! move a draw that falls that much nearer to an edge.
//!
//! **Cost** of a token, `V` the vocabulary: greedy is one pass, O(V); temperature adds one `exp` a token that is left after
//! min-p and top-k; top-k is a quickselect, O(V); top-p sorts the head of the survivors only, O(V) for a peaked
//! distribution; penalties cost the distinct tokens seen. Buffers are reused: they grow only when a row leaves more
//! survivors than any before it. The list of [`Sampled::top_logprobs`], where asked for, is new each time.
//!
//! ```
//! use stairwell::sampling::{Sampler, SamplingParams};
//!
//! let params = SamplingParams { temperature: 0.8, top_k: 2, seed: Some(7), ..SamplingParams::default() };
//! let mut sampler = Sampler::new(params, &[1, 2], 4)?;
//! let sampled = sampler.sample(&mut [0.5, -1.0, 3.0, 2.5])?;
//! assert!([2, 3].contains(&sampled.token));
//! # Ok::<(), stairwell::sampling::SamplingError>(())
//! ```

#[cfg(feature = "step3")]
mod believed;
mod filter;
mod params;
mod penalties;
mod rng;
#[cfg(test)]
mod tests;

#[cfg(feature = "step3")]
pub use believed::believed;
use filter::{Candidate, draw, heavier_first, nucleus, survivors};
pub use params::{SamplingError, SamplingParams};
use penalties::{History, add_bias};
use rng::SeededRng;

/// One token, and what the model thought of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token's id.
    pub token: u32,
    /// Its natural log-probability under the raw logits, if [`SamplingParams::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// The most probable tokens under the raw logits, best first, equal ones by id; at most as many as asked for, since
    /// tokens of probability 0 are left out. `token` need not be among them.
    pub top_logprobs: Vec<(u32, f32)>,
}

/// What it takes to draw a token from a row of logits elsewhere than in a [`Sampler`]: on the device that has the row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// 0: the largest logit.
    pub temperature: f32,
    /// 0: all.
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    /// The random number, in [0, 1).
    pub u: f64,
}

/// Working memory for one row of logits. A batch may share one between its samplers ([`Sampler::sample_with`]): at
/// Qwen3's vocabulary of 151,936 it grows to 3.6 MB.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    raw: Vec<f32>,
    keys: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// Draws the tokens of one request: its knobs, its stream of random numbers, and what it has said so far.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    vocab_size: usize,
    /// `None` if greedy.
    rng: Option<SeededRng>,
    /// The next random number, if somebody has asked for it and not drawn with it yet.
    next: Option<f64>,
    /// `None` if no penalty is on.
    history: Option<History>,
    /// Tokens so far.
    count: usize,
    scratch: Scratch,
}

impl Sampler {
    /// A sampler for a request with this prompt. `vocab_size` is the length of the rows of logits.
    ///
    /// # Errors
    /// A knob out of range, a prompt id outside the vocabulary, or no seed given and none to be had.
    pub fn new(params: SamplingParams, prompt_ids: &[u32], vocab_size: usize) -> Result<Self, SamplingError> {
        params.validate(vocab_size)?;
        if let Some(position) = prompt_ids.iter().position(|&id| id as usize >= vocab_size) {
            let token = prompt_ids[position];
            return Err(SamplingError::PromptToken { position, token, vocab_size });
        }
        let rng = match params.seed {
            _ if params.is_greedy() => None,
            Some(seed) => Some(SeededRng::new(seed)),
            None => Some(SeededRng::from_system()?),
        };
        let history = History::new(&params, prompt_ids);
        let scratch = Scratch::default();
        Ok(Self { params, vocab_size, rng, next: None, history, count: 0, scratch })
    }

    /// The seed in use, given or drawn: a run with `--seed` and this number repeats the tokens. `None` if greedy.
    pub fn seed(&self) -> Option<u64> {
        self.rng.as_ref().map(SeededRng::seed)
    }

    /// Samples one token and counts it as output. `logits`, shape \[vocab\], is overwritten: bias and penalties
    /// are applied in place.
    ///
    /// # Errors
    /// Logits that are not one a token, NaN or +infinity among them, or nothing but -infinity.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, SamplingError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let sampled = self.sample_with(logits, &mut scratch);
        self.scratch = scratch;
        sampled
    }

    /// [`sample`](Self::sample) with working memory that several samplers share.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_with(
        &mut self,
        logits: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<Sampled, SamplingError> {
        let raw_peak = self.check(logits)?;
        let mut believed = None;
        if let Some(n) = self.params.logprobs {
            scratch.raw.clear();
            scratch.raw.extend_from_slice(logits);
            let log_sum = log_sum_exp(logits, raw_peak.logit);
            believed = Some((log_sum, top_logprobs(logits, log_sum, n, &mut scratch.candidates)));
        }

        let peak = self.adjust(logits, raw_peak)?;
        let token = match &mut self.rng {
            None => peak.token as u32,
            Some(rng) => {
                keep(&self.params, logits, peak, scratch);
                let u = self.next.take().unwrap_or_else(|| rng.uniform());
                draw(&scratch.candidates, u)
            }
        };
        if let Some(history) = &mut self.history {
            history.record(token);
        }
        self.count += 1;

        let logprob = believed.as_ref().map(|&(log_sum, _)| logprob(scratch.raw[token as usize], log_sum));
        let top_logprobs = believed.map_or_else(Vec::new, |(_, top)| top);
        Ok(Sampled { token, logprob, top_logprobs })
    }

    /// How to draw the next token elsewhere; `None` if its logits are wanted here, for log-probabilities, bias or penalties. Whoever has
    /// drawn says so by [`drawn`](Self::drawn).
    pub fn draw(&mut self) -> Option<Draw> {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        if self.params.logprobs.is_some() || self.changes_logits() {
            return None;
        }
        let u = match &mut self.rng {
            None => 0.0,
            Some(rng) => *self.next.get_or_insert_with(|| rng.uniform()),
        };
        let temperature = if self.params.is_greedy() { 0.0 } else { temperature };
        Some(Draw { temperature, top_k, top_p, min_p, u })
    }

    /// Takes the token that was drawn elsewhere.
    pub fn drawn(&mut self, token: u32) -> Sampled {
        self.next = None;
        self.count += 1;
        Sampled { token, logprob: None, top_logprobs: Vec::new() }
    }

    /// Whether the next token is drawn from other logits than the model's.
    fn changes_logits(&self) -> bool {
        !self.params.logit_bias.is_empty() || self.history.is_some() || self.count < self.params.min_tokens
    }

    /// Refuses logits that no token can be drawn from.
    fn check(&self, logits: &[f32]) -> Result<Peak, SamplingError> {
        if logits.len() != self.vocab_size {
            let (found, vocab_size) = (logits.len(), self.vocab_size);
            return Err(SamplingError::LogitCount { found, vocab_size });
        }
        finite_peak(logits)
    }

    /// Bias and penalties, in place; gives the new maximum.
    fn adjust(&self, logits: &mut [f32], peak: Peak) -> Result<Peak, SamplingError> {
        if !self.changes_logits() {
            return Ok(peak);
        }
        add_bias(&self.params.logit_bias, logits);
        if let Some(history) = &self.history {
            history.apply(&self.params, logits);
        }
        if self.count < self.params.min_tokens {
            for end in &self.params.ends {
                if let Some(logit) = logits.get_mut(*end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let peak = argmax(logits)?;
        if peak.logit == f32::INFINITY {
            let (penalty, token) = (self.params.repetition_penalty, peak.token);
            return Err(SamplingError::PenaltyOverflow { penalty, token });
        }
        Ok(peak)
    }
}

/// The largest logit and the first token that has it.
#[derive(Clone, Copy, Debug)]
struct Peak {
    token: usize,
    logit: f32,
}

/// The first of the largest logits, as `torch.argmax` is documented to choose.
fn argmax(logits: &[f32]) -> Result<Peak, SamplingError> {
    let mut peak = Peak { token: 0, logit: f32::NEG_INFINITY };
    for (token, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(SamplingError::NanLogit { token });
        }
        if logit > peak.logit {
            peak = Peak { token, logit };
        }
    }
    if peak.logit == f32::NEG_INFINITY {
        return Err(SamplingError::NothingLeft);
    }
    Ok(peak)
}

/// The same where infinity is refused.
fn finite_peak(logits: &[f32]) -> Result<Peak, SamplingError> {
    match argmax(logits)? {
        Peak { token, logit: f32::INFINITY } => Err(SamplingError::InfiniteLogit { token }),
        peak => Ok(peak),
    }
}

/// Temperature and filters: leaves in `scratch.candidates` what may be drawn, at least the peak.
fn keep(params: &SamplingParams, logits: &[f32], peak: Peak, scratch: &mut Scratch) {
    survivors(params, logits, peak.logit, &mut scratch.keys, &mut scratch.candidates);
    nucleus(params.top_p, &mut scratch.candidates);
}

/// `ln Σ exp(l)`, with the maximum taken out so that nothing overflows.
fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    max + sum.ln()
}

fn logprob(logit: f32, log_sum: f64) -> f32 {
    (f64::from(logit) - log_sum) as f32
}

/// The `n` most probable tokens, best first. A selection, then a sort of `n`. Logits stand in for weights: the
/// order is the same.
fn top_logprobs(logits: &[f32], log_sum: f64, n: usize, ranked: &mut Vec<Candidate>) -> Vec<(u32, f32)> {
    if n == 0 {
        return Vec::new();
    }
    ranked.clear();
    let finite = logits.iter().enumerate().filter(|(_, l)| l.is_finite());
    // + 0.0 makes -0.0 equal to 0.0, which the total order tells apart.
    ranked.extend(finite.map(|(token, &l)| Candidate { token: token as u32, weight: f64::from(l) + 0.0 }));
    if n < ranked.len() {
        ranked.select_nth_unstable_by(n - 1, heavier_first);
        ranked.truncate(n);
    }
    ranked.sort_unstable_by(heavier_first);
    ranked.iter().map(|c| (c.token, logprob(c.weight as f32, log_sum))).collect()
}
