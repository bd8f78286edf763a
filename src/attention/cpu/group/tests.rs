//! Every instruction set against f64, and rows together against rows alone.

use super::{super::vectors::Kept, *};
use crate::backend::cpu::Isa;
use half::{bf16, f16};

/// Values in −2..2 that bf16 and f16 hold exactly.
fn value(i: usize) -> f32 {
    ((i * 37 % 64) as f32 - 31.0) / 16.0
}

/// A prompt of n rows needs memory for the scores of one row, not for n · n: chapter 6 says so.
#[test]
fn scores_of_one_row_are_all_that_is_kept() {
    let (d, group, rows) = (8, 2, 500);
    let [q, k] = [group * d, rows * d].map(|n| (0..n).map(value).collect::<Vec<f32>>());
    let (mut scratch, mut out) = (Scratch::default(), vec![0.0; group * d]);
    for keys in 1..=rows {
        let segment = Segment { k: Kept::F32(&k), v: Kept::F32(&k), stride: 1, len: keys };
        let queries = Queries { q: &q, head_dim: d, rows: 1, keys, scale: 1.0 };
        let cpu = &Cpu::with_isa(Isa::Portable);
        attend_group(cpu, &queries, [segment].into_iter(), &mut scratch, &mut out);
    }
    assert_eq!((scratch.scores.len(), scratch.wide.len()), (group * rows, PIECE * d));
    assert!(scratch.scores.capacity() <= 2 * group * rows);
}

/// Two query heads over 7 keys of 19 numbers, those of another head between them, in one segment and in three.
#[test]
fn every_isa_dtype_and_cut_agrees_with_f64() {
    let (d, n, stride, scale) = (19, 7, 2, 0.25);
    let step = d * stride;
    let q: Vec<f32> = (0..2 * d).map(value).collect();
    let k: Vec<f32> = (0..n * step).map(|i| value(i + 5)).collect();
    let v: Vec<f32> = (0..n * step).map(|i| value(3 * i + 1)).collect();
    let bf16s = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
    let f16s = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
    let (k16, v16, kf16, vf16) = (bf16s(&k), bf16s(&v), f16s(&k), f16s(&v));

    let score = |g: usize, t: usize| -> f64 {
        (0..d).map(|i| q[g * d + i] as f64 * k[t * step + i] as f64).sum::<f64>() * scale as f64
    };
    let want = |g: usize, i: usize| -> f64 {
        let sum: f64 = (0..n).map(|t| score(g, t).exp()).sum();
        (0..n).map(|t| score(g, t).exp() / sum * v[t * step + i] as f64).sum()
    };
    for isa in Isa::supported() {
        let cut = |cuts: &[usize], kept: &str| {
            let segments = cuts.windows(2).map(|c| {
                let (at, len) = (c[0] * step, c[1] - c[0]);
                let (k, v) = match kept {
                    "bf16" => (Kept::Bf16(&k16[at..]), Kept::Bf16(&v16[at..])),
                    "f16" => (Kept::F16(&kf16[at..]), Kept::F16(&vf16[at..])),
                    _ => (Kept::F32(&k[at..]), Kept::F32(&v[at..])),
                };
                Segment { k, v, stride, len }
            });
            let mut out = vec![f32::NAN; 2 * d];
            let queries = Queries { q: &q, head_dim: d, rows: 1, keys: n, scale };
            attend_group(&Cpu::with_isa(isa), &queries, segments, &mut Scratch::default(), &mut out);
            out
        };
        let whole = cut(&[0, n], "f32");
        for (i, got) in whole.iter().enumerate() {
            let want = want(i / d, i % d);
            assert!((*got as f64 - want).abs() < 1e-5, "{isa:?}: {got} for {want}");
        }
        for (cuts, kept) in
            [(&[0, 1, 4, n][..], "f32"), (&[0, n], "bf16"), (&[0, 3, n], "bf16"), (&[0, 3, n], "f16")]
        {
            assert_eq!(cut(cuts, kept), whole, "{isa:?}: cut at {cuts:?}, {kept}");
        }
    }
}

/// Rows that attend together have the bits that they have one by one, whatever is kept between them and however it is cut.
#[test]
fn rows_together_have_the_bits_of_rows_alone() {
    // The last three have queries for 16 lanes: 18, 22 and 32 of them.
    for (d, group, rows, n) in [(40, 3, 5, 39), (80, 3, 6, 39), (64, 2, 11, 70), (16, 1, 32, 33)] {
        let q: Vec<f32> = (0..rows * group * d).map(|i| value(i + 2) + (i / 64) as f32 / 100.0).collect();
        let k: Vec<f32> = (0..n * d).map(|i| value(i + 5)).collect();
        let v: Vec<f32> = (0..n * d).map(|i| value(3 * i + 1)).collect();
        let [k16, v16] = [&k, &v].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
        for isa in Isa::supported() {
            for bits in [32, 16] {
                let attend =
                    |q: &[f32], rows: usize, keys: usize, cut: usize| {
                        let segment = |start: usize, len: usize| match bits {
                            32 => (Kept::F32(&k[start * d..]), Kept::F32(&v[start * d..]), len),
                            _ => (Kept::Bf16(&k16[start * d..]), Kept::Bf16(&v16[start * d..]), len),
                        };
                        let segments = [segment(0, cut), segment(cut, keys - cut)]
                            .map(|(k, v, len)| Segment { k, v, stride: 1, len });
                        let (mut scratch, mut out) = (Scratch::default(), vec![f32::NAN; q.len()]);
                        let (cpu, segments) = (Cpu::with_isa(isa), segments.into_iter());
                        let queries = Queries { q, head_dim: d, rows, keys, scale: 0.1 };
                        attend_group(&cpu, &queries, segments, &mut scratch, &mut out);
                        out
                    };
                let together = attend(&q, rows, n, 19);
                for row in 0..rows {
                    let of_row = row * group * d..(row + 1) * group * d;
                    let alone = attend(&q[of_row.clone()], 1, n + 1 + row - rows, 0);
                    assert_eq!(together[of_row], alone, "{isa:?}, {bits} bits, head_dim {d}: row {row}");
                }
            }
        }
    }
}
