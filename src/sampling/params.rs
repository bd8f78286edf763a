//! The knobs, their ranges, and what can be wrong with them.
//!
//! The ranges are vLLM's (`SamplingParams._verify_args` in `vllm/sampling_params.py`, at commit 00388f65). Where vLLM bends a value
//! silently, this module refuses it or needs no bending: a logit bias beyond ±100 is refused (vLLM
//! clamps it), and a temperature below 0.01 is used as given (vLLM raises it to 0.01 to keep its logits
//! finite; here the maximum is subtracted before the division, so nothing can overflow).

use crate::words::{Words, field};

/// How to turn logits into a token. The module's page says what each knob does and in what order.
///
/// The default changes nothing: temperature 1, every filter and penalty off, a fresh seed.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy. In [0, 2].
    pub temperature: f32,
    /// Keep the `top_k` largest logits, and those equal to the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities reach `top_p`. In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as probable as the most probable one. In [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Weakens (above 1) or favours (below 1) tokens of the prompt and of the output. Above 0; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens that occur in the output. In [-2, 2]; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from a token for each time it occurs in the output. In [-2, 2]; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, before the penalties. Each in [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that the output has before one of `ends` is drawn.
    pub min_tokens: usize,
    pub ends: Vec<u32>,
    /// The seed of the random numbers; `None` draws one, which [`Sampler::seed`](super::Sampler::seed) reports.
    pub seed: Option<u64>,
    /// `Some(n)`: report the log-probability of the token and of the `n` most probable ones.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            min_tokens: 0,
            ends: Vec::new(),
            seed: None,
            logprobs: None,
        }
    }
}

/// What stops a token from being sampled. Each message is one line and names the field or the token. A `vocab_size` is the number of tokens in
/// the vocabulary; a `token` is the first that is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.words())]
pub enum SamplingError {
    /// A field of [`SamplingParams`] is outside its range (or is NaN); `limit` is the range in words.
    OutOfRange { field: &'static str, value: String, limit: String },
    /// A logit bias names a token that does not exist.
    BiasToken { token: u32, vocab_size: usize },
    /// Two biases for one token.
    BiasTwice { token: u32 },
    /// A prompt id that the model has no row for; `position` counts from 0.
    PromptToken { position: usize, token: u32, vocab_size: usize },
    /// A sampler for no tokens at all.
    EmptyVocabulary,
    /// The row of logits is not one per token.
    LogitCount { found: usize, vocab_size: usize },
    /// The forward pass gave NaN.
    NanLogit { token: usize },
    /// The forward pass gave +infinity.
    InfiniteLogit { token: usize },
    /// Every logit is -infinity.
    NothingLeft,
    /// Bias and this repetition penalty turned a finite logit into +infinity.
    PenaltyOverflow { penalty: f32, token: usize },
    /// The operating system has no random numbers to give, and says why.
    NoEntropy { reason: String },
    /// Sampling panicked.
    Panicked,
}

impl SamplingError {
    /// The message, with the fields that it names.
    pub fn words(&self) -> Words {
        use SamplingError::*;
        let text = match self {
            OutOfRange { field: name, value, limit } => {
                format!("{} is {value}; it must be {limit}", field(name))
            }
            BiasToken { token, vocab_size } => {
                let (bias, last) = (field("logit_bias"), vocab_size - 1);
                format!("{bias} names token {token}; the vocabulary has the tokens 0 to {last}")
            }
            BiasTwice { token } => {
                format!("{} names token {token} twice; give it one bias", field("logit_bias"))
            }
            PenaltyOverflow { penalty, token } => {
                let name = field("repetition_penalty");
                format!("{name} {penalty} overflows the logit of token {token}; use a value nearer to 1")
            }
            InfiniteLogit { token } => format!(
                "the logits contain +infinity (first at token {token}): the arithmetic overflowed; try {} f32, and \
                 `stairwell verify` names the first module that differs",
                field("dtype")
            ),
            NoEntropy { reason } => {
                let seed = field("seed");
                format!("the operating system gave no random seed ({reason}); choose one with {seed}")
            }
            PromptToken { position, token, vocab_size } => {
                let last = vocab_size - 1;
                format!("prompt token {position} is id {token}; the vocabulary has the tokens 0 to {last}")
            }
            EmptyVocabulary => "the vocabulary is empty: there is no token to sample".into(),
            LogitCount { found, vocab_size } => {
                format!("{found} logits for a vocabulary of {vocab_size} tokens")
            }
            NanLogit { token } => format!(
                "the logits contain NaN (first at token {token}): the weights or the arithmetic are broken; \
                 `stairwell verify` names the first module that differs"
            ),
            Panicked => {
                "sampling this request's token panicked, which is a bug; the other requests go on".into()
            }
            NothingLeft => "every logit is -infinity: no token is left to sample".into(),
        };
        text.into()
    }
}

impl SamplingParams {
    /// Whether tokens are chosen by argmax, without random numbers.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every knob against its range and against the vocabulary.
    ///
    /// # Errors
    /// The first knob that is wrong, as [`SamplingError`].
    pub fn validate(&self, vocab_size: usize) -> Result<(), SamplingError> {
        if vocab_size == 0 {
            return Err(SamplingError::EmptyVocabulary);
        }
        self.check_ranges()?;
        if let Some(n) = self.logprobs.filter(|&n| n > vocab_size) {
            let limit = format!("between 0 and {vocab_size}, the size of the vocabulary");
            return Err(out_of_range("logprobs", n, &limit));
        }
        self.check_bias(vocab_size)
    }

    /// Checks the ranges that need no model: all but `logprobs` and `logit_bias`.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] for the first knob outside its range.
    pub fn check_ranges(&self) -> Result<(), SamplingError> {
        const ABOVE_0: f32 = f32::from_bits(1);
        // No range contains NaN.
        let checks = [
            ("temperature", self.temperature, 0.0..=2.0, "between 0 (greedy) and 2"),
            ("top_p", self.top_p, ABOVE_0..=1.0, "above 0 and at most 1 (off)"),
            ("min_p", self.min_p, 0.0..=1.0, "between 0 (off) and 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                ABOVE_0..=f32::MAX,
                "above 0 and finite (1 is off)",
            ),
            ("presence_penalty", self.presence_penalty, -2.0..=2.0, "between -2 and 2 (0 is off)"),
            ("frequency_penalty", self.frequency_penalty, -2.0..=2.0, "between -2 and 2 (0 is off)"),
        ];
        match checks.iter().find(|(_, value, range, _)| !range.contains(value)) {
            Some((field, value, _, limit)) => Err(out_of_range(field, value, limit)),
            None => Ok(()),
        }
    }

    fn check_bias(&self, vocab_size: usize) -> Result<(), SamplingError> {
        let mut tokens: Vec<u32> = self.logit_bias.iter().map(|&(token, _)| token).collect();
        tokens.sort_unstable();
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SamplingError::BiasTwice { token: pair[0] });
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                return Err(SamplingError::BiasToken { token, vocab_size });
            }
            if !(-100.0..=100.0).contains(&bias) {
                let value = format!("{bias} for token {token}");
                return Err(out_of_range("logit_bias", value, "between -100 and 100"));
            }
        }
        Ok(())
    }
}

fn out_of_range(field: &'static str, value: impl ToString, limit: &str) -> SamplingError {
    SamplingError::OutOfRange { field, value: value.to_string(), limit: limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl Fn(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate(32).expect_err("out of range").to_string()
    }

    #[test]
    fn each_wrong_value_names_its_field_the_value_and_the_range() {
        type Set = fn(&mut SamplingParams, f32);
        let knobs: [(&str, Set, &[f32]); 6] = [
            ("temperature", |p, x| p.temperature = x, &[-0.1, 2.1]),
            ("top_p", |p, x| p.top_p = x, &[0.0, -0.5, 1.01]),
            ("min_p", |p, x| p.min_p = x, &[-0.5, 1.01]),
            ("repetition_penalty", |p, x| p.repetition_penalty = x, &[0.0, -1.3]),
            ("presence_penalty", |p, x| p.presence_penalty = x, &[-2.1, 2.1]),
            ("frequency_penalty", |p, x| p.frequency_penalty = x, &[-2.1, 2.1]),
        ];
        for (field, set, wrong) in knobs {
            for &value in wrong.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
                let text = message(|p| set(p, value));
                assert!(text.starts_with(&format!("{field} is {value}; it must be ")), "{text}");
                assert!(!text.contains('\n'), "{text}");
            }
        }
        assert_eq!(
            message(|p| p.temperature = -1.0),
            "temperature is -1; it must be between 0 (greedy) and 2"
        );
    }

    #[test]
    fn the_ends_of_each_range_are_allowed() {
        let low = SamplingParams {
            temperature: 0.0,
            top_p: f32::MIN_POSITIVE,
            min_p: 0.0,
            repetition_penalty: 1e-3,
            presence_penalty: -2.0,
            frequency_penalty: -2.0,
            logit_bias: vec![(0, -100.0), (31, 100.0)],
            logprobs: Some(0),
            ..SamplingParams::default()
        };
        let high = SamplingParams {
            temperature: 2.0,
            top_k: usize::MAX,
            min_p: 1.0,
            repetition_penalty: 1e3,
            presence_penalty: 2.0,
            frequency_penalty: 2.0,
            logprobs: Some(32),
            ..SamplingParams::default()
        };
        for params in [SamplingParams::default(), low, high] {
            assert_eq!(params.validate(32), Ok(()));
        }
    }

    #[test]
    fn biases_and_logprobs_are_checked_against_the_vocabulary() {
        let bias = |pairs: &'static [(u32, f32)]| message(move |p| p.logit_bias = pairs.to_vec());
        assert_eq!(bias(&[(32, 1.0)]), "logit_bias names token 32; the vocabulary has the tokens 0 to 31");
        assert_eq!(bias(&[(5, f32::NAN)]), "logit_bias is NaN for token 5; it must be between -100 and 100");
        assert_eq!(bias(&[(5, -100.5)]), "logit_bias is -100.5 for token 5; it must be between -100 and 100");
        assert_eq!(bias(&[(5, 1.0), (6, 1.0), (5, 2.0)]), "logit_bias names token 5 twice; give it one bias");
        assert_eq!(
            message(|p| p.logprobs = Some(33)),
            "logprobs is 33; it must be between 0 and 32, the size of the vocabulary"
        );
        assert_eq!(SamplingParams::default().validate(0), Err(SamplingError::EmptyVocabulary));
    }
}
