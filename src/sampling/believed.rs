//! The log-probability of a token that was given and not drawn: one of a prompt's. (Step 3.)

use super::{Sampled, SamplingError, finite_peak, log_sum_exp, logprob, top_logprobs};

/// What the model thought of `token` in the place of a row of raw logits, \[vocab\], and the `top` most probable tokens there.
///
/// # Errors
/// NaN, +infinity, or nothing but -infinity.
pub fn believed(logits: &[f32], token: u32, top: usize) -> Result<Sampled, SamplingError> {
    let log_sum = log_sum_exp(logits, finite_peak(logits)?.logit);
    let top_logprobs = top_logprobs(logits, log_sum, top, &mut Vec::new());
    Ok(Sampled { token, logprob: Some(logprob(logits[token as usize], log_sum)), top_logprobs })
}
