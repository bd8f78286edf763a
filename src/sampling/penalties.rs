//! Bias and penalties: the adjustments that can change which token is the largest, so greedy obeys them too.
//!
//! With `n` the number of times a token occurs in the output so far, its logit `l` becomes
//!
//! ```text
//! l ← l + bias                                   --logit-bias
//! l ← l / r if l > 0, l · r otherwise            --repetition-penalty r, tokens of prompt and output
//! l ← l − frequency · n                          --frequency-penalty
//! l ← l − presence if n > 0                      --presence-penalty
//! ```
//!
//! The repetition penalty is CTRL's (Keskar et al. 2019, section 4.1), in the form that transformers
//! (`RepetitionPenaltyLogitsProcessor`) and vLLM use: dividing a negative logit would raise it, so that one
//! is multiplied. The other two are OpenAI's and vLLM's (`vllm/model_executor/layers/utils.py`,
//! `apply_penalties`): the prompt does not count for them.

use super::SamplingParams;

/// The distinct tokens of one sequence and how often each occurs in its output.
///
/// Sorted by id: eight bytes a distinct token, where a count for every token of the vocabulary would take
/// 600 KB a request at Qwen3's 151,936. Recording one is a binary search and a short move.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    token: u32,
    /// Occurrences in the output; 0 for a token of the prompt alone.
    count: u32,
}

impl History {
    /// The history before the first token, or `None` where no penalty asks for one.
    pub(super) fn new(params: &SamplingParams, prompt_ids: &[u32]) -> Option<Self> {
        let repetition = params.repetition_penalty != 1.0;
        if !repetition && params.presence_penalty == 0.0 && params.frequency_penalty == 0.0 {
            return None;
        }
        let mut tokens = if repetition { prompt_ids.to_vec() } else { Vec::new() };
        tokens.sort_unstable();
        tokens.dedup();
        let seen = tokens.into_iter().map(|token| Seen { token, count: 0 });
        Some(Self { seen: seen.collect() })
    }

    /// Counts one token of the output.
    pub(super) fn record(&mut self, token: u32) {
        match self.seen.binary_search_by_key(&token, |seen| seen.token) {
            Ok(at) => self.seen[at].count = self.seen[at].count.saturating_add(1),
            Err(at) => self.seen.insert(at, Seen { token, count: 1 }),
        }
    }

    /// Applies the three penalties to `logits`, \[vocab\], in place. Cost: the distinct tokens, not the vocabulary.
    pub(super) fn apply(&self, params: &SamplingParams, logits: &mut [f32]) {
        let repetition = params.repetition_penalty;
        for seen in &self.seen {
            let logit = &mut logits[seen.token as usize];
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            *logit -= params.frequency_penalty * seen.count as f32;
            if seen.count > 0 {
                *logit -= params.presence_penalty;
            }
        }
    }
}

/// Adds each bias to its logit.
pub(super) fn add_bias(bias: &[(u32, f32)], logits: &mut [f32]) {
    for &(token, bias) in bias {
        logits[token as usize] += bias;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalized(params: &SamplingParams, prompt: &[u32], output: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut history = History::new(params, prompt).expect("a penalty is on");
        output.iter().for_each(|&token| history.record(token));
        let mut logits = logits.to_vec();
        history.apply(params, &mut logits);
        logits
    }

    /// `RepetitionPenaltyLogitsProcessor(r)(ids, logits)` of transformers 5.23.0, torch 2.15.0.
    #[test]
    fn repetition_equals_transformers_and_counts_the_prompt() {
        let logits = [2.5, -1.0, 0.75, 3.25, -0.5, 1.5, 0.0, -2.25, 3.0, 1.5, -4.0, 0.25];
        let goldens = [
            (1.3, [2.5, -1.3, 0.75, 2.5, -0.5, 1.5, 0.0, -2.25, 2.307_692, 1.5, -4.0, 0.25]),
            (0.8, [2.5, -0.8, 0.75, 4.0625, -0.5, 1.5, 0.0, -2.25, 3.75, 1.5, -4.0, 0.25]),
        ];
        for (repetition_penalty, golden) in goldens {
            let params = SamplingParams { repetition_penalty, ..SamplingParams::default() };
            // ids 3, 1, 6, 3, 8, wherever the prompt ends; a repeated id is penalized once.
            for cut in 0..=5 {
                let (prompt, output) = [3, 1, 6, 3, 8].split_at(cut);
                let found = penalized(&params, prompt, output, &logits);
                for (found, golden) in found.iter().zip(golden) {
                    assert!((found - golden).abs() < 1e-6, "{found} {golden}");
                }
            }
        }
    }

    #[test]
    fn presence_and_frequency_count_the_output_alone() {
        let params =
            SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.25, ..SamplingParams::default() };
        let found = penalized(&params, &[0, 1, 1], &[1, 2, 2, 2], &[1.0; 4]);
        assert_eq!(found, [1.0, 1.0 - 0.25 - 0.5, 1.0 - 0.75 - 0.5, 1.0]);
    }

    #[test]
    fn repetition_comes_before_the_subtractions() {
        let params =
            SamplingParams { repetition_penalty: 2.0, presence_penalty: 1.0, ..SamplingParams::default() };
        assert_eq!(penalized(&params, &[], &[0], &[1.0]), [-0.5]); // 1 / 2 − 1, not (1 − 1) / 2
    }

    #[test]
    fn without_penalties_no_history_is_kept() {
        assert!(History::new(&SamplingParams::default(), &[1, 2]).is_none());
    }
}
