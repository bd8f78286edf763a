//! Tokens that the device draws are those that the host would draw.

use crate::common::{Reference, fixture};
use crate::device::{device, device_in};
use crate::serving::run;
use stairwell::{
    attention::KvOptions,
    backend::{
        Backend,
        cuda::{Cuda, Schedule},
    },
    checkpoint::Directory,
    engine::{Continuous, Engine, Limits, LocalWorker},
    generate::GenerateParams,
    runner::{LoadOptions, ModelRunner},
    sampling::{Draw, Sampler, SamplingParams},
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() * n as f64) as usize
    }
}

/// A row of one of several kinds: spread, peaked, with many ties, with tokens that are out of the question.
fn row(random: &mut Random, kind: usize, vocab: usize) -> Vec<f32> {
    (0..vocab)
        .map(|t| match kind {
            0 => (random.next() * 20.0 - 10.0) as f32,
            1 => (random.next().powi(20) * 30.0) as f32,
            2 => random.below(4) as f32,
            _ if t > 0 && random.next() < 0.5 => f32::NEG_INFINITY,
            _ => (random.next() * 4.0 - 2.0) as f32,
        })
        .collect()
}

fn params(random: &mut Random, vocab: usize, seed: u64) -> SamplingParams {
    let mut pick = |values: &[f32]| values[random.below(values.len())];
    SamplingParams {
        temperature: pick(&[0.0, 0.3, 1.0, 1.7]),
        top_p: pick(&[1.0, 0.95, 0.5, 0.01]),
        min_p: pick(&[0.0, 0.0, 0.05, 0.9]),
        top_k: [0, 0, 1, 5, vocab][random.below(5)],
        seed: Some(seed),
        ..SamplingParams::default()
    }
}

/// One batch of rows, each with knobs of its own, against the host's samplers; the same tokens under every schedule.
fn compare(vocab: usize, rows: usize, seed: u64, schedules: &[Schedule]) {
    let random = &mut Random(seed);
    let logits: Vec<Vec<f32>> = (0..rows).map(|r| row(random, r % 4, vocab)).collect();
    let mut samplers: Vec<Sampler> = (0..rows)
        .map(|r| Sampler::new(params(random, vocab, seed * 1000 + r as u64), &[], vocab).unwrap())
        .collect();
    let draws: Vec<Draw> = samplers.iter_mut().map(|s| s.draw().unwrap()).collect();
    let wanted: Vec<u32> =
        samplers.iter_mut().zip(&logits).map(|(s, row)| s.sample(&mut row.clone()).unwrap().token).collect();
    for schedule in schedules {
        let cuda = Cuda::new(device_in(*schedule));
        let on_device = cuda.upload(&logits.concat(), rows, vocab).unwrap();
        let drawn = cuda.draw(&on_device, &draws).unwrap().unwrap();
        for (r, (drawn, wanted)) in drawn.into_iter().zip(&wanted).enumerate() {
            assert_eq!(drawn.unwrap(), *wanted, "vocabulary {vocab}, row {r}, {schedule:?}: {:?}", draws[r]);
        }
    }
}

#[test]
fn the_device_draws_what_the_host_draws() {
    let all = [Schedule::Forward, Schedule::Reverse, Schedule::Random(3)];
    for (seed, vocab) in [1, 2, 3, 31, 255, 256, 257, 1000].into_iter().enumerate() {
        compare(vocab, 24, seed as u64 + 1, &all);
    }
    compare(5000, 60, 77, &all[..1]);
}

#[test]
fn a_large_vocabulary_is_no_other_case() {
    compare(151_936, 2, 5, &[Schedule::Forward]);
}

#[test]
fn logits_that_no_token_can_be_drawn_from_are_named_as_on_the_host() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows =
        [[1.0, nan, 2.0, nan], [1.0, 0.0, inf, 2.0], [-inf; 4], [inf, 0.0, 1.0, nan], [0.0, 3.0, 1.0, 2.0]];
    for temperature in [0.0, 0.7] {
        let params = SamplingParams { temperature, top_k: 1, seed: Some(1), ..SamplingParams::default() };
        let mut samplers: Vec<_> =
            rows.iter().map(|_| Sampler::new(params.clone(), &[], 4).unwrap()).collect();
        let draws: Vec<Draw> = samplers.iter_mut().map(|s| s.draw().unwrap()).collect();
        let cuda = Cuda::new(device());
        let logits = cuda.upload(&rows.concat(), rows.len(), 4).unwrap();
        let drawn = cuda.draw(&logits, &draws).unwrap().unwrap();
        for ((sampler, row), drawn) in samplers.iter_mut().zip(&rows).zip(drawn) {
            assert_eq!(drawn, sampler.sample(&mut row.clone()).map(|s| s.token), "{row:?}");
        }
    }
}

#[test]
fn a_number_that_was_asked_for_is_used_once() {
    let params = SamplingParams { seed: Some(9), ..SamplingParams::default() };
    let mut a = Sampler::new(params.clone(), &[], 4).unwrap();
    let mut b = Sampler::new(params, &[], 4).unwrap();
    let logits = [0.0, 0.1, 0.2, 0.3];
    // Asked for twice, as when a step failed in between; then drawn here after all.
    assert_eq!(a.draw(), a.draw());
    for _ in 0..5 {
        assert_eq!(a.sample(&mut logits.clone()).unwrap(), b.sample(&mut logits.clone()).unwrap());
    }
    let (first, second) = (a.draw().unwrap(), {
        a.drawn(1);
        a.draw().unwrap()
    });
    assert_ne!(first.u, second.u, "a token was taken, and the next number is another");
}

/// Requests with seeds, whose tokens the device draws, and again with log-probabilities, for which logits come to the host.
#[test]
fn an_engine_on_the_device_draws_the_same_there_and_on_the_host() {
    let reference = Reference::of("qwen3");
    let run = |logprobs: Option<usize>| {
        let kv = KvOptions { max_num_seqs: Some(3), ..KvOptions::default() };
        let options = LoadOptions { kv, ..LoadOptions::default() };
        let cuda = Cuda::new(device());
        let runner = ModelRunner::load_on(cuda, &Directory::Disk(fixture("qwen3")), options).unwrap();
        let limits = Limits { max_num_seqs: 3, max_batched_tokens: 16 };
        let mut engine = Engine::new(LocalWorker::new(runner).unwrap(), Box::new(Continuous), limits);
        for seed in 0..3 {
            let sampling =
                SamplingParams { top_p: 0.9, seed: Some(seed), logprobs, ..SamplingParams::default() };
            let params = GenerateParams { max_tokens: 12, sampling, eos_token_id: Vec::new() };
            engine.add(reference.prompt.clone(), params).unwrap();
        }
        let outputs: Vec<Vec<u32>> = run(&mut engine).into_values().map(|f| f.output).collect();
        (outputs, engine.stats().drawn_by_worker)
    };
    let (device, host) = (run(None), run(Some(1)));
    assert_eq!(device.0, host.0);
    assert_eq!((device.1, host.1), (36, 0));
}
