//! The contract of step 9's update: how GPTQ moves the error of a weight to the weights that are not rounded yet.

use super::check_values;
use half::f16;
use stairwell::{
    checkpoint::StateDict,
    demo,
    quant::quantize::{DAMP, Hessian, Method, Recipe},
};

/// Moves the error of a weight to the weights behind it. `left` [inputs] holds one output's weights as they are now, weight j not rounded yet; `u` [inputs] is row
/// j of U; `rounded` is the number that weight j becomes. Weights before j stay.
pub type Update = fn(left: &mut [f64], u: &[f64], j: usize, rounded: f64);

/// Inputs that are partly alike, [rows, n].
fn inputs(n: usize, rows: usize) -> Vec<f32> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..rows)
        .flat_map(|_| {
            let shared = next();
            (0..n).map(|_| 0.8 * shared + 0.6 * next()).collect::<Vec<_>>()
        })
        .collect()
}

/// H [n, n] of inputs, damped as the engine does.
fn damped(x: &[f32], n: usize) -> Vec<f64> {
    let mut h = vec![0.0; n * n];
    for x in x.chunks_exact(n) {
        (0..n * n).for_each(|at| h[at] += x[at / n] as f64 * x[at % n] as f64);
    }
    let mean = (0..n).map(|j| h[j * n + j]).sum::<f64>() / n as f64;
    (0..n).for_each(|j| h[j * n + j] += DAMP * mean);
    h
}

/// Solves A y = b by elimination. A is small, symmetric and positive definite.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        for row in i + 1..n {
            let factor = a[row * n + i] / a[i * n + i];
            (i..n).for_each(|column| a[row * n + column] -= factor * a[i * n + column]);
            b[row] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| a[i * n + k] * b[k]).sum();
        b[i] = (b[i] - known) / a[i * n + i];
    }
    b
}

/// The best change of the weights behind j, if weight j changes by `change`: it makes δᵀ H δ least, where δ is of weights j and on.
fn best(h: &[f64], n: usize, j: usize, change: f64) -> Vec<f64> {
    let rest: Vec<usize> = (j + 1..n).collect();
    let a = rest.iter().flat_map(|row| rest.iter().map(move |column| h[row * n + column])).collect();
    solve(a, rest.iter().map(|row| -h[row * n + j] * change).collect())
}

/// The update is the best one: no other change of the weights behind makes the error of the products smaller.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn update(update: Update) {
    for n in [2, 5] {
        let x = inputs(n, 64);
        let (mut hessian, h) = (Hessian::new(n), damped(&x, n));
        hessian.add(&x);
        let u = hessian.factor();
        let weights: Vec<f64> = (0..n).map(|k| 0.31 * k as f64 - 0.4).collect();
        for j in 0..n {
            let rounded = weights[j] + 0.15;
            let mut left = weights.clone();
            update(&mut left, &u[j * n..(j + 1) * n], j, rounded);
            assert!(left.len() == n, "the row has {n} weights, and {} after the update", left.len());
            if let Some(k) = (0..j).find(|k| left[*k] != weights[*k]) {
                panic!(
                    "weight {k} of {n} has changed with weight {j}: did you change what is rounded already?"
                );
            }
            let changes = best(&h, n, j, rounded - weights[j]);
            let with = |factor: &dyn Fn(usize) -> f64| -> Vec<f64> {
                changes
                    .iter()
                    .enumerate()
                    .map(|(at, change)| weights[j + 1 + at] + factor(j + 1 + at) * change)
                    .collect()
            };
            let of_j = u[j * n + j];
            let suspects = [
                ("leave the other weights as they were", with(&|_| 0.0)),
                ("move the error in the wrong direction", with(&|_| -1.0)),
                ("forget to divide by U[j, j]", with(&|_| of_j)),
                ("divide by U[j, j] twice", with(&|_| 1.0 / of_j)),
            ];
            let got: Vec<f32> = left[j + 1..].iter().map(|w| *w as f32).collect();
            check_values(&format!("the weights behind number {j} of {n}"), &got, &with(&|_| 1.0), &suspects);
        }
    }
}

/// A matrix of the demo, its outputs and inputs, and what it multiplies here: the embeddings of the vocabulary's first tokens.
fn demo_matrix() -> (Vec<f32>, [usize; 2], Hessian) {
    let state_dict = StateDict::open(&demo::directory()).expect("the demo's weights");
    let tensor = |name: &str| state_dict.tensors().find(|(n, _)| n == name).expect("a tensor of the demo").1;
    let (w, x) = (tensor("model.layers.0.self_attn.q_proj.weight"), tensor("model.embed_tokens.weight"));
    let mut hessian = Hessian::new(w.shape[1]);
    hessian.add(&x.to_f32()[..512 * w.shape[1]]);
    (w.to_f32(), [w.shape[0], w.shape[1]], hessian)
}

/// Weights behind a scale.
const GROUP: usize = 32;

/// The whole algorithm with the reader's update, on a matrix of the demo: its error is that of `stairwell quantize`, and smaller than that of rounding.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn quantizes_the_demo(update: Update) {
    update(&mut [0.0; 2], &[1.0, 0.0], 0, 0.0); // what is not written yet says so before anything is loaded
    let (w, shape, hessian) = demo_matrix();
    let recipe = Recipe { method: Method::Gptq, bits: 3, group_size: GROUP, symmetric: true, nearest: false };
    let want = recipe.quantize("q_proj", &w, shape, Some(&hessian)).expect("the demo's sizes").error;
    let error = |rows: &dyn Fn(&[f64]) -> Vec<f64>| {
        let (mut lost, mut whole) = (0.0, 0.0);
        for w in w.chunks_exact(shape[1]) {
            let w: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
            let off: Vec<f64> = rows(&w).iter().zip(&w).map(|(packed, w)| w - packed).collect();
            (lost, whole) = (lost + hessian.size(&off), whole + hessian.size(&w));
        }
        (lost / whole).sqrt()
    };
    let u = hessian.factor();
    let mine = error(&|w| {
        quantized(w, |left, j, rounded| update(left, &u[j * w.len()..(j + 1) * w.len()], j, rounded))
    });
    let nearest = error(&|w| quantized(w, |_, _, _| ()));
    assert!(
        (mine - want).abs() < 1e-3 * want,
        "with your update, the products of q_proj are off by {mine:.5}; by `stairwell quantize` {want:.5}, by rounding alone {nearest:.5}"
    );
    assert!(mine < nearest, "{mine:.5} with your update, and {nearest:.5} without");
}

/// The numbers of one output in 3 bits, rounded from left to right.
fn quantized(w: &[f64], update: impl Fn(&mut [f64], usize, f64)) -> Vec<f64> {
    let (mut left, mut scale, mut numbers) = (w.to_vec(), 0.0, Vec::new());
    for j in 0..w.len() {
        if j % GROUP == 0 {
            let largest =
                left[j..j + GROUP].iter().fold(0.0_f32, |largest, w| largest.max((*w as f32).abs()));
            scale = f16::from_f32(2.0 * largest / 7.0).to_f32();
        }
        let code = (left[j] as f32 / scale + 4.0).round().clamp(0.0, 7.0);
        numbers.push(f64::from((code - 4.0) * scale));
        update(&mut left, j, numbers[j]);
    }
    numbers
}
