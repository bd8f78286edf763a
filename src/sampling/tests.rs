//! The sampler against a slow f64 reference, and the promises of the module's page.

use super::rng::SeededRng;
use super::*;

impl Sampler {
    /// The distribution that [`sample`](Self::sample) would draw from: (token, probability), by id, without the
    /// tokens that the filters removed. Draws nothing and counts nothing; `logits` is overwritten as there.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution(&self, logits: &mut [f32]) -> Result<Vec<(u32, f64)>, SamplingError> {
        let peak = self.adjust(logits, self.check(logits)?)?;
        if self.params.is_greedy() {
            return Ok(vec![(peak.token as u32, 1.0)]);
        }
        let mut scratch = Scratch::default();
        keep(&self.params, logits, peak, &mut scratch);
        scratch.candidates.sort_unstable_by_key(|c| c.token);
        let sum: f64 = scratch.candidates.iter().map(|c| c.weight).sum();
        Ok(scratch.candidates.iter().map(|c| (c.token, c.weight / sum)).collect())
    }
}

const VOCAB: usize = 48;

/// The page's table, written as plainly as it can be: every step on all tokens, probabilities by softmax, f64.
/// Gives (token, probability) by id, without the tokens removed.
fn reference(params: &SamplingParams, prompt: &[u32], output: &[u32], raw: &[f32]) -> Vec<(u32, f64)> {
    let mut l: Vec<f64> = raw.iter().map(|&x| f64::from(x)).collect();
    for &(token, bias) in &params.logit_bias {
        l[token as usize] += f64::from(bias);
    }
    for token in 0..l.len() as u32 {
        let logit = &mut l[token as usize];
        let n = output.iter().filter(|&&t| t == token).count();
        if n > 0 || prompt.contains(&token) {
            let r = f64::from(params.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / r } else { *logit * r };
        }
        *logit -= f64::from(params.frequency_penalty) * n as f64;
        *logit -= if n > 0 { f64::from(params.presence_penalty) } else { 0.0 };
    }
    if params.temperature == 0.0 {
        let max = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        return vec![(l.iter().position(|&x| x == max).unwrap() as u32, 1.0)];
    }
    l.iter_mut().for_each(|x| *x /= f64::from(params.temperature));

    let p = softmax(&l);
    let p_max = p.iter().copied().fold(0.0, f64::max);
    mask(&mut l, |i| p[i] >= f64::from(params.min_p) * p_max);
    if params.top_k > 0 {
        let mut sorted = l.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let kth = sorted[params.top_k.min(sorted.len()) - 1];
        let before = l.clone();
        mask(&mut l, |i| before[i] >= kth);
    }
    if params.top_p < 1.0 {
        let p = softmax(&l);
        let mut order: Vec<usize> = (0..l.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a])); // stable: ties by id
        let mut before = 0.0;
        for i in order {
            if before >= f64::from(params.top_p) {
                l[i] = f64::NEG_INFINITY;
            }
            before += p[i];
        }
    }
    let p = softmax(&l);
    (0..).zip(p).filter(|&(_, p)| p > 0.0).collect()
}

fn softmax(l: &[f64]) -> Vec<f64> {
    let max = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = l.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

fn mask(l: &mut [f64], keep: impl Fn(usize) -> bool) {
    l.iter_mut().enumerate().filter(|(i, _)| !keep(*i)).for_each(|(_, l)| *l = f64::NEG_INFINITY);
}

/// Logits of a given spread; every third row has ties and tokens that are masked out.
fn random_logits(rng: &mut SeededRng, row: usize) -> Vec<f32> {
    let spread = [1.0, 6.0, 20.0][row % 3];
    let mut logits: Vec<f32> = (0..VOCAB).map(|_| ((rng.uniform() - 0.5) * spread) as f32).collect();
    if row % 3 == 1 {
        logits.iter_mut().for_each(|l| *l = l.round());
        logits[5] = f32::NEG_INFINITY;
        logits[17] = f32::NEG_INFINITY;
    }
    logits
}

/// Every combination of a few values of every knob.
fn every_combination() -> Vec<SamplingParams> {
    let mut all = vec![SamplingParams { seed: Some(1), ..SamplingParams::default() }];
    let mut vary = |set: &dyn Fn(&mut SamplingParams, usize), values: usize| {
        let with = |params: &SamplingParams, value| {
            let mut params = params.clone();
            set(&mut params, value);
            params
        };
        all = all.iter().flat_map(|p| (0..values).map(move |v| with(p, v))).collect();
    };
    vary(&|p, v| p.temperature = [0.0, 0.3, 1.0, 1.7][v], 4);
    vary(&|p, v| p.top_k = [0, 1, 5, 100][v], 4);
    vary(&|p, v| p.top_p = [1.0, 0.9, 0.3][v], 3);
    vary(&|p, v| p.min_p = [0.0, 0.05, 0.5][v], 3);
    vary(&|p, v| p.repetition_penalty = [1.0, 1.3, 0.7][v], 3);
    vary(&|p, v| (p.presence_penalty, p.frequency_penalty) = [(0.0, 0.0), (0.6, -0.3), (0.0, 0.4)][v], 3);
    vary(&|p, v| p.logit_bias = [vec![], vec![(7, 4.5), (3, -100.0), (20, 1.25)]][v].clone(), 2);
    all
}

#[test]
fn distribution_equals_the_reference_for_every_combination_of_knobs() {
    let mut rng = SeededRng::new(2024);
    let (prompt, output) = ([1, 7, 7, 30, 5], [7, 2, 2, 2, 40]);
    let combinations = every_combination();
    assert_eq!(combinations.len(), 4 * 4 * 3 * 3 * 3 * 3 * 2);
    for (row, params) in combinations.into_iter().enumerate() {
        let raw = random_logits(&mut rng, row);
        let expected = reference(&params, &prompt, &output, &raw);
        let mut sampler = Sampler::new(params.clone(), &prompt, VOCAB).unwrap();
        if let Some(history) = &mut sampler.history {
            output.iter().for_each(|&token| history.record(token));
        }
        let found = sampler.distribution(&mut raw.clone()).unwrap();
        let tokens = |d: &[(u32, f64)]| d.iter().map(|x| x.0).collect::<Vec<_>>();
        assert_eq!(tokens(&found), tokens(&expected), "{params:?}\n{raw:?}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.1 - expected.1).abs() < 2e-6, "{found:?} {expected:?} {params:?}");
        }
    }
}

/// Repetition penalty 1.3 over ids 3 and 8, temperature 1.5, min-p 0.2, top-k 5, top-p 0.9: the processors of
/// transformers 5.23.0 applied in this order, torch 2.15.0.
#[test]
fn all_knobs_together_equal_transformers() {
    let params = SamplingParams {
        repetition_penalty: 1.3,
        temperature: 1.5,
        min_p: 0.2,
        top_k: 5,
        top_p: 0.9,
        ..SamplingParams::default()
    };
    let mut logits = [2.5, -1.0, 0.75, 3.25, -0.5, 1.5, 0.0, -2.25, 3.0, 1.5, -4.0, 0.25];
    let golden = [(0, 0.255983142), (3, 0.255983142), (5, 0.131426132), (8, 0.225181452), (9, 0.131426132)];
    let found = Sampler::new(params, &[3, 1, 6, 3, 8], 12).unwrap().distribution(&mut logits).unwrap();
    assert_eq!(found.len(), golden.len());
    for (found, golden) in found.iter().zip(golden) {
        assert!(found.0 == golden.0 && (found.1 - golden.1).abs() < 1e-6, "{found:?} {golden:?}");
    }
}

#[test]
fn draws_follow_the_distribution() {
    let filters = SamplingParams {
        temperature: 1.2,
        min_p: 0.01,
        top_k: 9,
        top_p: 0.97,
        seed: Some(5),
        ..SamplingParams::default()
    };
    let plain = SamplingParams { seed: Some(6), ..SamplingParams::default() };
    let logits: Vec<f32> = (0..12).map(|t| (t * 7 % 12) as f32 * 0.3).collect();
    for params in [plain, filters] {
        let mut sampler = Sampler::new(params, &[], 12).unwrap();
        let expected = sampler.distribution(&mut logits.clone()).unwrap();
        const DRAWS: usize = 40_000;
        let mut counts = [0usize; 12];
        for _ in 0..DRAWS {
            counts[sampler.sample(&mut logits.clone()).unwrap().token as usize] += 1;
        }
        let drawable: usize = expected.iter().map(|&(token, _)| counts[token as usize]).sum();
        assert_eq!(drawable, DRAWS, "a token outside the distribution was drawn");
        // Pearson's chi-square; 31.3 is the 99.9th percentile for 11 degrees of freedom, more than for fewer.
        let chi_square: f64 = expected
            .iter()
            .map(|&(token, p)| {
                let expected = p * DRAWS as f64;
                (counts[token as usize] as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 31.3, "chi-square {chi_square} over {} tokens", expected.len());
    }
}

fn run(params: SamplingParams, tokens: usize) -> (Option<u64>, Vec<Sampled>) {
    let mut rows = SeededRng::new(77);
    let mut sampler = Sampler::new(params, &[1, 2, 3], VOCAB).unwrap();
    let sampled = (0..tokens).map(|row| sampler.sample(&mut random_logits(&mut rows, row)).unwrap());
    let sampled = sampled.collect();
    (sampler.seed(), sampled)
}

#[test]
fn a_seed_repeats_the_tokens_and_an_unseeded_run_can_be_repeated() {
    let with =
        |seed| SamplingParams { seed, repetition_penalty: 1.1, top_p: 0.95, ..SamplingParams::default() };
    let (seed, first) = run(with(Some(42)), 60);
    assert_eq!(seed, Some(42));
    assert_eq!(first, run(with(Some(42)), 60).1);
    assert_ne!(first, run(with(Some(43)), 60).1);

    let (drawn, unseeded) = run(with(None), 60);
    assert_eq!(unseeded, run(with(drawn), 60).1);
    assert_ne!(unseeded, run(with(None), 60).1);
}

/// Pins the tokens of a seed: a change of the stream, of the order of the candidates or of the walk is a change that
/// users see.
#[test]
fn the_tokens_of_a_seed_are_pinned() {
    let params = SamplingParams { seed: Some(7), ..SamplingParams::default() };
    let mut sampler = Sampler::new(params, &[], 6).unwrap();
    let logits = [0.0, 1.0, 2.0, 1.5, 0.5, 0.25];
    let tokens: Vec<u32> = (0..16).map(|_| sampler.sample(&mut logits.clone()).unwrap().token).collect();
    // Computed apart from this code, by a ChaCha20 and a cumulative sum in Python.
    assert_eq!(tokens, [2, 0, 1, 1, 5, 2, 2, 5, 2, 4, 1, 1, 2, 2, 2, 2]);
}

#[test]
fn greedy_takes_the_lowest_of_the_largest_and_no_random_number() {
    let greedy = SamplingParams { temperature: 0.0, top_k: 3, top_p: 0.5, ..SamplingParams::default() };
    let mut sampler = Sampler::new(greedy, &[], 5).unwrap();
    assert_eq!(sampler.seed(), None);
    let mut logits = [1.0, 4.0, f32::NEG_INFINITY, 4.0, -3.0];
    assert_eq!(sampler.sample(&mut logits).unwrap().token, 1);
    assert_eq!(sampler.sample(&mut [-0.0, 0.0, -0.0, 0.0, -1.0]).unwrap().token, 0);
    assert_eq!(sampler.distribution(&mut logits).unwrap(), [(1, 1.0)]);
}

#[test]
fn greedy_obeys_bias_and_penalties_and_learns_from_its_output() {
    let params = SamplingParams {
        temperature: 0.0,
        frequency_penalty: 1.0,
        logit_bias: vec![(2, 3.5)],
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, &[2, 2, 2], 3).unwrap();
    let tokens: Vec<u32> = (0..5).map(|_| sampler.sample(&mut [2.0, 1.0, 0.0]).unwrap().token).collect();
    // Token 2 starts at 3.5 (the prompt does not count) and loses 1 each time; at 1.5 token 0 passes it.
    assert_eq!(tokens, [2, 2, 0, 2, 0]);
}

#[test]
fn an_end_waits_for_the_least_length() {
    let params = SamplingParams {
        temperature: 0.0,
        min_tokens: 2,
        ends: vec![3, 900],
        logprobs: Some(1),
        ..Default::default()
    };
    let mut sampler = Sampler::new(params, &[], 5).unwrap();
    let mut sample = || sampler.sample(&mut [0.0, 1.0, 0.0, 9.0, 0.0]).unwrap();
    let tokens: Vec<Sampled> = (0..3).map(|_| sample()).collect();
    assert_eq!(tokens.iter().map(|sampled| sampled.token).collect::<Vec<_>>(), [1, 1, 3]);
    assert_eq!(tokens[0].top_logprobs, tokens[2].top_logprobs, "log-probabilities are of the raw logits");
    let params = SamplingParams { min_tokens: 1, ends: vec![3], ..Default::default() };
    let mut sampler = Sampler::new(params, &[], 5).unwrap();
    assert!(sampler.draw().is_none());
    sampler.sample(&mut [0.0; 5]).unwrap();
    assert!(sampler.draw().is_some());
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    // log_softmax of torch 2.15.0.
    let raw = [2.5, -1.0, 0.75, 3.25, -0.5, 1.5, 0.0, -2.25, 3.0, 1.5, -4.0, 0.25];
    let params = SamplingParams {
        temperature: 0.5,
        repetition_penalty: 1.5,
        logit_bias: vec![(10, 100.0)],
        logprobs: Some(5),
        seed: Some(0),
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, &[3, 8], 12).unwrap();
    let sampled = sampler.sample(&mut raw.clone()).unwrap();
    assert_eq!(sampled.token, 10);
    assert!((sampled.logprob.unwrap() - -8.283_875).abs() < 1e-5);
    let expected = [(3, -1.033_875), (8, -1.283_875), (0, -1.783_875), (5, -2.783_875), (9, -2.783_875)];
    for (found, expected) in sampled.top_logprobs.iter().zip(expected) {
        assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-5, "{found:?} {expected:?}");
    }
    assert_eq!(sampled.top_logprobs.len(), 5);
}

#[test]
fn logprobs_are_as_many_as_asked_for_and_never_minus_infinity() {
    let with = |logprobs| {
        let params = SamplingParams { temperature: 0.0, logprobs, ..SamplingParams::default() };
        let sampled =
            Sampler::new(params, &[], 4).unwrap().sample(&mut [-0.0, f32::NEG_INFINITY, 1.0, 0.0]).unwrap();
        (sampled.logprob.is_some(), sampled.top_logprobs.iter().map(|x| x.0).collect::<Vec<_>>())
    };
    assert_eq!(with(None), (false, vec![]));
    assert_eq!(with(Some(0)), (true, vec![]));
    assert_eq!(with(Some(2)), (true, vec![2, 0]));
    assert_eq!(with(Some(4)), (true, vec![2, 0, 3]));
}

#[test]
fn broken_logits_are_errors_at_every_temperature() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cases = [
        ([1.0, nan, 2.0, nan], "the logits contain NaN (first at token 1)"),
        ([1.0, 0.0, inf, 2.0], "the logits contain +infinity (first at token 2)"),
        ([-inf; 4], "every logit is -infinity"),
    ];
    for (logits, text) in cases {
        for temperature in [0.0, 0.7] {
            let params = SamplingParams { temperature, logprobs: Some(2), ..SamplingParams::default() };
            let mut sampler = Sampler::new(params, &[], 4).unwrap();
            let message = sampler.sample(&mut logits.clone()).unwrap_err().to_string();
            assert!(message.starts_with(text) && !message.contains('\n'), "{message}");
        }
    }
}

#[test]
fn other_bad_input_is_refused_by_name() {
    let params = SamplingParams { repetition_penalty: 1e-38, ..SamplingParams::default() };
    let mut sampler = Sampler::new(params.clone(), &[1], 3).unwrap();
    assert_eq!(sampler.sample(&mut [1.0; 2]), Err(SamplingError::LogitCount { found: 2, vocab_size: 3 }));
    let overflow = SamplingError::PenaltyOverflow { penalty: 1e-38, token: 1 };
    assert_eq!(sampler.sample(&mut [1.0, 9.0, 1.0]), Err(overflow));
    let outside = Sampler::new(params, &[0, 3], 3).unwrap_err().to_string();
    assert_eq!(outside, "prompt token 1 is id 3; the vocabulary has the tokens 0 to 2");
    let hot = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
    assert!(Sampler::new(hot, &[], 3).is_err());
}

#[test]
fn buffers_are_reused_and_may_be_shared() {
    let with = |seed| SamplingParams {
        top_k: 5,
        top_p: 0.9,
        logprobs: Some(3),
        seed: Some(seed),
        ..SamplingParams::default()
    };
    let mut rows = SeededRng::new(3);
    let mut scratch = Scratch::default();
    let buffers = |s: &Scratch| (s.raw.as_ptr(), s.keys.as_ptr(), s.candidates.as_ptr());
    let mut first = None;
    let samplers = || [1, 2].map(|seed| Sampler::new(with(seed), &[], VOCAB).unwrap());
    let (mut shared, mut alone) = (samplers(), samplers());
    for row in 0..20 {
        let logits = random_logits(&mut rows, row);
        for (shared, alone) in shared.iter_mut().zip(&mut alone) {
            let sampled = shared.sample_with(&mut logits.clone(), &mut scratch).unwrap();
            assert_eq!(sampled, alone.sample(&mut logits.clone()).unwrap());
            assert_eq!(*first.get_or_insert(buffers(&scratch)), buffers(&scratch));
        }
    }
}
