//! The filters: which tokens may be drawn, and with what weight.
//!
//! Min-p and top-k are both a *floor under the logits*, so they need no probabilities and no sort: min-p keeps
//! `p ≥ min_p · p_max`, and since `p ∝ exp(l / T)` that is `l ≥ l_max + T · ln(min_p)`; top-k keeps what is at least
//! the k-th largest logit. Being floors they commute. Top-p is different: it counts mass, so it sees the
//! survivors and their order matters.

use super::SamplingParams;

/// A token that may be drawn, and its share of the probability before division by the sum of all shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub token: u32,
    /// `exp((l − l_max) / T)`: 1 for the most probable token, above 0 for all. f64, so that the last bit of a
    /// platform's `exp` does not decide a draw.
    pub weight: f64,
}

/// Heavier first; equal weights by id. No two candidates are equal, so any sorting algorithm gives one order.
pub(super) fn heavier_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// Temperature, min-p and top-k: fills `out` with the survivors in order of their ids.
///
/// `max` is the largest of `logits` \[vocab\] and finite; `keys` is scratch. Cost: O(vocab), with one `exp` a survivor.
pub(super) fn survivors(
    params: &SamplingParams,
    logits: &[f32],
    max: f32,
    keys: &mut Vec<f32>,
    out: &mut Vec<Candidate>,
) {
    let (max, temperature) = (f64::from(max), f64::from(params.temperature));
    // ln(0) is -inf: a floor that all are above.
    let mut floor = max + temperature * f64::from(params.min_p).ln();
    if (1..logits.len()).contains(&params.top_k) {
        floor = floor.max(f64::from(kth_largest(logits, params.top_k, keys)));
    }
    out.clear();
    for (token, &logit) in logits.iter().enumerate() {
        let logit = f64::from(logit);
        if logit >= floor {
            // The maximum is subtracted first: the exponent is at most 0, so nothing overflows.
            let weight = ((logit - max) / temperature).exp();
            if weight > 0.0 {
                out.push(Candidate { token: token as u32, weight });
            }
        }
    }
}

/// The `k`-th largest logit, 1 ≤ k ≤ vocab. A quickselect over a copy: O(vocab) on average, not O(vocab · log vocab).
fn kth_largest(logits: &[f32], k: usize, keys: &mut Vec<f32>) -> f32 {
    keys.clear();
    keys.extend_from_slice(logits);
    *keys.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Top-p: cuts `candidates` down to the nucleus, heaviest first. Each kept token had less than `top_p` of the mass
/// before it, so the token that crosses `top_p` is in.
///
/// Only the head is sorted: the heaviest 64 are selected and sorted, then four times as many, until the mass is
/// reached. A peaked distribution costs O(candidates); a flat one, at worst, a full sort.
pub(super) fn nucleus(top_p: f32, candidates: &mut Vec<Candidate>) {
    if top_p >= 1.0 {
        return;
    }
    let target = f64::from(top_p) * candidates.iter().map(|c| c.weight).sum::<f64>();
    let (mut start, mut width, mut mass) = (0, 64, 0.0);
    while start < candidates.len() {
        let end = candidates.len().min(start + width);
        if end < candidates.len() {
            candidates[start..].select_nth_unstable_by(end - start - 1, heavier_first);
        }
        candidates[start..end].sort_unstable_by(heavier_first);
        for at in start..end {
            mass += candidates[at].weight;
            if mass >= target {
                candidates.truncate(at + 1);
                return;
            }
        }
        (start, width) = (end, width * 4);
    }
}

/// The candidate at fraction `u` in [0, 1) of the mass (inverse transform sampling). `candidates` is not empty.
pub(super) fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let target = u * candidates.iter().map(|c| c.weight).sum::<f64>();
    let mut mass = 0.0;
    for candidate in candidates {
        mass += candidate.weight;
        if mass > target {
            return candidate.token;
        }
    }
    // Not reached: u < 1, and the same sum in the same order ends above u times itself.
    candidates[candidates.len() - 1].token
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 12] = [2.5, -1.0, 0.75, 3.25, -0.5, 1.5, 0.0, -2.25, 3.0, 1.5, -4.0, 0.25];

    fn filtered(params: &SamplingParams, logits: &[f32]) -> Vec<Candidate> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut found = Vec::new();
        survivors(params, logits, max, &mut Vec::new(), &mut found);
        nucleus(params.top_p, &mut found);
        found
    }

    /// `TemperatureLogitsWarper`, `MinPLogitsWarper`, `TopKLogitsWarper`, `TopPLogitsWarper` in that order, then
    /// softmax in f64: transformers 5.23.0, torch 2.15.0. Tokens not listed have probability 0.
    #[test]
    #[rustfmt::skip]
    fn filters_equal_transformers() {
        let base = SamplingParams::default();
        let goldens: [(SamplingParams, &[(u32, f64)]); 8] = [
            (SamplingParams { top_k: 3, ..base.clone() },
             &[(0, 0.209831826), (3, 0.444213979), (8, 0.345954195)]),
            // Tokens 5 and 9 tie for the fourth place: both stay.
            (SamplingParams { top_k: 4, ..base.clone() },
             &[(0, 0.181769264), (3, 0.384805534), (5, 0.066869175), (8, 0.299686852), (9, 0.066869175)]),
            // 0.356 + 0.277 + 0.168 is the first sum that reaches 0.8.
            (SamplingParams { top_p: 0.8, ..base.clone() },
             &[(0, 0.209831826), (3, 0.444213979), (8, 0.345954195)]),
            (SamplingParams { top_p: 0.3, ..base.clone() }, &[(3, 1.0)]),
            (SamplingParams { min_p: 0.1, ..base.clone() },
             &[(0, 0.181769264), (3, 0.384805534), (5, 0.066869175), (8, 0.299686852), (9, 0.066869175)]),
            (SamplingParams { min_p: 1.0, ..base.clone() }, &[(3, 1.0)]),
            (SamplingParams { temperature: 0.7, min_p: 0.05, top_k: 6, top_p: 0.85, ..base.clone() },
             &[(0, 0.16772124), (3, 0.489670078), (8, 0.342608682)]),
            (SamplingParams { top_k: 12, ..base },
             &[(0, 0.167985975), (1, 0.005072737), (2, 0.029191585), (3, 0.355626311), (4, 0.008363529), (5, 0.061798586),
               (6, 0.013789129), (7, 0.001453363), (8, 0.27696205), (9, 0.061798586), (10, 0.000252557), (11, 0.017705591)]),
        ];
        for (params, golden) in goldens {
            let mut found = filtered(&params, &LOGITS);
            found.sort_by_key(|c| c.token);
            let sum: f64 = found.iter().map(|c| c.weight).sum();
            assert_eq!(found.len(), golden.len(), "{params:?}");
            for (found, &(token, p)) in found.iter().zip(golden) {
                assert_eq!(found.token, token, "{params:?}");
                assert!((found.weight / sum - p).abs() < 1e-6, "{params:?} {found:?} {p}");
            }
        }
    }

    #[test]
    fn nucleus_equals_a_full_sort_whatever_the_shape() {
        for spread in [0.0, 1e-3, 0.02, 3.0] {
            // 1,009 is prime, so token · 617 visits every residue: unsorted, without ties unless the spread is 0.
            let logits: Vec<f32> = (0..1009u32).map(|t| (t * 617 % 1009) as f32 * spread).collect();
            for top_p in [1e-6, 0.05, 0.5, 0.9, 0.9999999] {
                let found = filtered(&SamplingParams { top_p, ..SamplingParams::default() }, &logits);
                let mut sorted = filtered(&SamplingParams::default(), &logits);
                sorted.sort_by(heavier_first);
                let target = f64::from(top_p) * sorted.iter().map(|c| c.weight).sum::<f64>();
                let mut before = 0.0;
                let kept = sorted.iter().take_while(|c| {
                    let keep = before < target;
                    before += c.weight;
                    keep
                });
                assert_eq!(found, kept.copied().collect::<Vec<_>>(), "spread {spread}, top_p {top_p}");
            }
        }
    }

    #[test]
    fn draw_walks_the_mass() {
        let candidates = [(4, 1.0), (7, 0.5), (9, 0.5)].map(|(token, weight)| Candidate { token, weight });
        let almost_one = 1.0 - f64::EPSILON / 2.0;
        let drawn = [0.0, 0.49, 0.5, 0.74, 0.75, almost_one].map(|u| draw(&candidates, u));
        assert_eq!(drawn, [4, 4, 7, 7, 9, 9]);
    }

    #[test]
    fn a_tiny_temperature_does_not_overflow() {
        let params = SamplingParams { temperature: f32::from_bits(1), ..SamplingParams::default() };
        let found = filtered(&params, &[f32::MIN, 3.0, f32::MAX, f32::NEG_INFINITY]);
        assert_eq!(found, [Candidate { token: 2, weight: 1.0 }]);
    }
}
