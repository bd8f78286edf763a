//! Attention with one scale for all K and one for all V of a layer, against sums of f64 over the numbers that such a cache keeps.

use stairwell::{
    attention::{KvDtype, KvOptions, KvScales},
    backend::{Backend, PartShape, Rope, Slice},
    batch::Batch,
    model::{Attention, AttentionShape, KvScalesFrom},
    tensor::HostTensor,
};

/// Of K and V of two layers: some numbers are above 448 times the scale, and some below the smallest.
const SCALES: [[f32; 2]; 2] = [[0.004, 0.03], [0.001, 0.5]];
const TOKENS: usize = 21;
const HEADS: [usize; 2] = [4, 2];
const WIDTH: usize = 16;

/// The number of e4m3 that is nearest to x · 1/scale, times the scale: 3 bits behind the first, below 2^-6 multiples of 2^-9, 448 at most.
fn kept(x: f32, scale: f32) -> f64 {
    let x = f64::from(x / scale);
    let exponent = if x == 0.0 { -6.0 } else { x.abs().log2().floor().max(-6.0) };
    let unit = (exponent - 3.0).exp2();
    ((x / unit).round_ties_even() * unit).clamp(-448.0, 448.0) * f64::from(scale)
}

/// Numbers in [-2, 2).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 4_194_304.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// softmax(q kᵀ · scale) v of each row over the rows up to it.
fn expected(q: &[f32], k: &[f32], v: &[f32], [k_scale, v_scale]: [f32; 2]) -> Vec<f64> {
    let [heads, kv_heads] = HEADS;
    let at = |row: usize, head: usize, of: usize| (row * of + head) * WIDTH;
    let mut out = Vec::new();
    for row in 0..TOKENS {
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let weight = |t: usize| {
                let dot = |d: usize| {
                    f64::from(q[at(row, head, heads) + d]) * kept(k[at(t, kv_head, kv_heads) + d], k_scale)
                };
                ((0..WIDTH).map(dot).sum::<f64>() * 0.25).exp()
            };
            let weights: Vec<f64> = (0..=row).map(weight).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..WIDTH {
                let value = |t: usize| weights[t] * kept(v[at(t, kv_head, kv_heads) + d], v_scale);
                out.push((0..=row).map(value).sum::<f64>() / total);
            }
        }
    }
    out
}

/// Checks an attention for the shape and options that it is given: alone, and with the rotation (by no angle) before it.
pub fn check<B: Backend>(backend: &B, build: impl Fn(AttentionShape, KvOptions) -> Box<dyn Attention<B>>) {
    let [heads, kv_heads] = HEADS;
    let shape = AttentionShape {
        layers: 1..3,
        heads,
        kv_heads,
        head_dim: WIDTH,
        scale: 0.25,
        windows: vec![None; 3],
        context: 64,
    };
    let scales = KvScales { from: KvScalesFrom::Checkpoint, first: 1, layers: SCALES.to_vec() };
    let kv = KvOptions { dtype: KvDtype::Fp8, scales: Some(scales), ..KvOptions::default() };
    let mut attention = build(shape, kv);
    assert_eq!(attention.memory().scales, Some(KvScalesFrom::Checkpoint));
    let mut inv_freq = backend.weight(&[PartShape { outputs: WIDTH / 2, inputs: 1 }]).unwrap();
    let tensor = HostTensor::from_f32(&[WIDTH / 2], &[0.0; WIDTH / 2]);
    let slice = Slice { tensor, rows: 0..WIDTH / 2, cols: 0..1, transposed: false };
    backend.load(&mut inv_freq, 0, &slice.into()).unwrap();
    let rope = Rope { inv_freq, head_dim: WIDTH, scaling: 1.0 };
    let mut ids = backend.ids(TOKENS).unwrap();
    let positions: Vec<u32> = (0..TOKENS as u32).collect();
    backend.write(&mut ids, &positions).unwrap();

    for (at, scales) in SCALES.into_iter().enumerate() {
        for rotated in [false, true] {
            let seed = 3 * at as u32 + 1;
            let [q, k, v] = [(heads, seed), (kv_heads, seed + 1), (kv_heads, seed + 2)]
                .map(|(heads, seed)| numbers(TOKENS * heads * WIDTH, seed));
            let upload = |x: &[f32]| backend.upload(x, TOKENS, x.len() / TOKENS).unwrap();
            attention.begin(backend, &Batch::of(&positions)).unwrap();
            let y = match rotated {
                true => attention
                    .rotate_and_attend(backend, at + 1, &rope, &ids, upload(&q), upload(&k), &upload(&v))
                    .unwrap(),
                false => attention.attend(backend, at + 1, [&upload(&q), &upload(&k), &upload(&v)]).unwrap(),
            };
            let want = expected(&q, &k, &v, scales);
            for (i, (got, want)) in backend.download(&y).unwrap().iter().zip(want).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 1e-4, "layer {at}, rotated {rotated} [{i}]: {got} for {want}");
            }
        }
    }
}
