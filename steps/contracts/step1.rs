//! The contracts of step 1, for the exercises of chapter 1.

pub use super::hub::{resumer, resumer_tells_the_story, snapshot_finder, snapshot_finder_tells_the_story};
pub use super::loading::{
    name_mapper, name_mapper_tells_the_story, tensor_reader, tensor_reader_tells_the_story,
};
use super::{
    check_values,
    story::{check_story, runner_on},
};
use stairwell::backend::cpu::{Cpu, Kernels};

/// `rms_norm` is out = x / √(mean(x²) + ε) · weight, and out's old contents don't matter.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn rms_norm(kernels: &impl Kernels) {
    // Large values, where ε is nothing; small ones, where it is most of the root; zeros, which must stay zeros.
    for (n, size, eps) in [(5, 4.0, 1e-6), (160, 1.0, 1e-6), (32, 1e-3, 1e-5), (8, 0.0, 1e-5)] {
        let x: Vec<f32> = (0..n).map(|i| size * wave(i)).collect();
        let weight: Vec<f32> = (0..n).map(|i| 0.75 + 0.5 * wave(i + 3)).collect();
        let mut out = vec![f32::NAN; n];
        kernels.rms_norm(&mut out, &x, &weight, eps);

        let eps64 = f64::from(eps);
        let mean = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum::<f64>() / n as f64;
        let (center, square) = (mean(&|x| x), mean(&|x| x * x));
        let variance = square - center * center;
        let each = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            x.iter().zip(&weight).map(|(&x, &w)| f(f64::from(x), f64::from(w))).collect()
        };
        let root = (square + eps64).sqrt();
        let suspects = [
            ("leave out ε", each(&|x, w| x / square.sqrt() * w)),
            (
                "add ε outside the root, √(mean(x²)) + ε instead of √(mean(x²) + ε)",
                each(&|x, w| x / (square.sqrt() + eps64) * w),
            ),
            (
                "subtract the mean, as LayerNorm does",
                each(&|x, w| (x - center) / (variance + eps64).sqrt() * w),
            ),
            ("subtract the mean", each(&|x, w| (x - center) / root * w)),
            ("forget the weight", each(&|x, _| x / root)),
            ("forget the root", each(&|x, w| x / (square + eps64) * w)),
            (
                "take the sum of the squares instead of their mean",
                each(&|x, w| x / (square * n as f64 + eps64).sqrt() * w),
            ),
        ];
        let what = format!("the normed row [{n}] (x up to {size}, ε = {eps})");
        check_values(&what, &out, &each(&|x, w| x / root * w), &suspects);
    }
}

/// `rotate_half` turns the pair (x`[i]`, x[i + d/2]) by the angle i: (a, b) → (a cos − b sin, b cos + a sin).
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn rotate_half(kernels: &impl Kernels) {
    for (d, position) in [(8, 1.0), (8, 0.0), (6, 5.0), (32, 300.0), (2, 2.0)] {
        let half = d / 2;
        let head: Vec<f32> = (0..d).map(wave).collect();
        let angle = |i: usize| position * 10_000f64.powf(-2.0 * i as f64 / d as f64);
        let cos: Vec<f32> = (0..half).map(|i| angle(i).cos() as f32).collect();
        let sin: Vec<f32> = (0..half).map(|i| angle(i).sin() as f32).collect();
        let mut got = head.clone();
        kernels.rotate_half(&mut got, &cos, &sin);

        // The elements of pair i, and the sign of the angle.
        let turned = |pair: &dyn Fn(usize) -> (usize, usize), sign: f64| {
            let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
            for i in 0..half {
                let (first, second) = pair(i);
                let (a, b) = (out[first], out[second]);
                let (cos, sin) = (f64::from(cos[i]), sign * f64::from(sin[i]));
                (out[first], out[second]) = (a * cos - b * sin, b * cos + a * sin);
            }
            out
        };
        let halves = |i| (i, i + half);
        let want = turned(&halves, 1.0);
        let mut overwritten = want.clone();
        for i in 0..half {
            overwritten[i + half] =
                f64::from(head[i + half]) * f64::from(cos[i]) + want[i] * f64::from(sin[i]);
        }
        let suspects = [
            ("pair neighbours (2i, 2i + 1) instead of (i, i + d/2)", turned(&|i| (2 * i, 2 * i + 1), 1.0)),
            ("turn the wrong way, with the signs of sin exchanged", turned(&halves, -1.0)),
            ("overwrite x[i] before x[i + d/2] was computed from it", overwritten),
            (
                "leave the head as it was",
                turned(&halves, 0.0).iter().zip(&head).map(|(_, &x)| f64::from(x)).collect(),
            ),
        ];
        check_values(&format!("the rotated head [{d}] at position {position}"), &got, &want, &suspects);
    }
}

/// `kv_head` gives neighbouring query heads the same head of K and V, `heads / kv_heads` of them.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn kv_head(kernels: &impl Kernels) {
    for (heads, kv_heads) in [(4, 2), (16, 8), (14, 2), (8, 8), (6, 1)] {
        let group = heads / kv_heads;
        let want: Vec<usize> = (0..kv_heads).flat_map(|kv| vec![kv; group]).collect();
        let got: Vec<usize> = (0..heads).map(|h| kernels.kv_head(h, heads, kv_heads)).collect();
        let Some(at) = (0..heads).find(|&h| got[h] != want[h]) else { continue };
        let is = |f: &dyn Fn(usize) -> usize| (0..heads).all(|h| got[h] == f(h));
        let hint = if is(&|h| h % kv_heads) {
            ": did you take head % kv_heads? The heads of a group are neighbours"
        } else if is(&|h| h) {
            ": did you give every query head a KV head of its own?"
        } else if is(&|h| h / kv_heads) {
            ": did you divide by kv_heads? The group's size is heads / kv_heads"
        } else {
            ""
        };
        panic!(
            "query head {at} reads KV head {}, expected {}{hint}\n  {heads} query heads, {kv_heads} KV heads\n  yours:    {got:?}\n  expected: {want:?}",
            got[at], want[at]
        );
    }
}

/// The demo model with these operations writes the story that it writes with the standard ones.
///
/// # Panics
/// If it does not, with both stories.
#[track_caller]
pub fn tells_the_demo_story(kernels: impl Kernels + 'static) {
    check_story(runner_on(Cpu::with_kernels(Box::new(kernels))));
}

/// Values in −1..1 without a pattern that a mistake could share.
fn wave(i: usize) -> f32 {
    (1.7 * i as f32 + 0.3).sin()
}
