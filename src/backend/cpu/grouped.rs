//! A group of query heads over K and V that are kept: the arithmetic of every CPU attention with a cache.
//!
//! The query heads of a group share one head of K and V, so they are computed together and each vector of K and V is read
//! once for some rows. Each number is computed exactly as [`attend_head`](super::attention::attend_head) does: keys in the order of
//! their positions, one by one. So a token's bits depend neither on the batch, nor on how its sequence was cut into forward passes,
//! nor on how K and V are cut into segments.

use super::{
    Cpu,
    attention::softmax,
    isa::dispatch,
    kept::{PIECE, Piece},
    linear::{F32Sums, Tiles, add_row},
};

pub use super::kept::Kept;

/// K and V of one head at neighbouring positions.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub k: Kept<'a>,
    pub v: Kept<'a>,
    /// Vectors from one position to the next: those of the other heads lie between.
    pub stride: usize,
    /// Positions.
    pub len: usize,
}

/// Working space of [`attend_group`].
#[derive(Default)]
pub struct Scratch {
    /// [rows · group, keys]
    scores: Vec<f32>,
    /// A piece of K or V, widened.
    wide: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    tiled: super::tiled::Scratch,
}

// ANCHOR: attend_group
/// out = softmax(q kᵀ · scale) v for the query heads that share these keys, of `rows` tokens that follow each other; q and out: [rows · group,
/// head_dim]. The last row sees all `keys`, the one before it one less, and so on. `segments` gives the positions in order; it is walked twice,
/// once for K and once for V.
#[allow(clippy::too_many_arguments)]
pub fn attend_group<'a>(
    cpu: &Cpu,
    q: &[f32],
    head_dim: usize,
    rows: usize,
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    keys: usize,
    scale: f32,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if cpu.attends_by_tiles() {
        let scratch = &mut scratch.tiled;
        // SAFETY: the CPU has AMX where it attends by tiles.
        return unsafe { super::tiled::attend(q, head_dim, rows, segments, keys, scale, scratch, out) };
    }
    let Scratch { scores, wide, .. } = scratch;
    let (isa, heads, d) = (cpu.isa(), q.len() / head_dim, head_dim);
    scores.resize(heads * keys, 0.0);
    wide.resize(PIECE * d, 0.0);
    let mut at = 0;
    for segment in segments.clone() {
        let (scores, wide) = (&mut scores[at..], &mut wide[..]);
        dispatch!(isa, score(q: &[f32], d: usize, segment: Segment<'_>, keys: usize, wide: &mut [f32], scores: &mut [f32]));
        at += segment.len;
    }
    assert_eq!(at, keys, "positions of the segments");
    for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
        let (seen, later) = scores.split_at_mut(keys + 1 + i / (heads / rows) - rows);
        seen.iter_mut().for_each(|score| *score *= scale);
        softmax(isa, seen);
        later.fill(0.0); // weights of what this row does not see
    }
    out.fill(0.0);
    at = 0;
    for segment in segments {
        let (weights, wide, out) = (&scores[at..], &mut wide[..], &mut *out);
        dispatch!(isa, add_weighted(weights: &[f32], d: usize, segment: Segment<'_>, keys: usize, wide: &mut [f32], out: &mut [f32]));
        at += segment.len;
    }
}
// ANCHOR_END: attend_group

/// Keys whose scores are summed side by side.
const KEYS: usize = 4;
/// Registers of an output that stay where they are while values pass.
const WIDTH: usize = 4;

// ANCHOR: score
/// scores[i, t] = q_i · k_t for the keys of a segment; `scores` has `keys` columns. Two queries meet four keys at a time.
#[inline(always)]
fn score<S: Tiles<L>, const L: usize>(
    q: &[f32],
    d: usize,
    segment: Segment<'_>,
    keys: usize,
    wide: &mut [f32],
    scores: &mut [f32],
) {
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.k.piece(start, &segment, d, wide);
        for first in (0..piece.len).step_by(KEYS) {
            let count = KEYS.min(piece.len - first);
            let k: [&[f32]; KEYS] = std::array::from_fn(|n| piece.vector(first + n.min(count - 1), d));
            let (pairs, last) = q.split_at(q.len() / (2 * d) * 2 * d);
            let mut at = start + first;
            for q in pairs.chunks_exact(2 * d) {
                let sums = dots::<S::Sums, L, 2>([&q[..d], &q[d..]], k);
                scores[at..at + count].copy_from_slice(&sums[0][..count]);
                scores[at + keys..at + keys + count].copy_from_slice(&sums[1][..count]);
                at += 2 * keys;
            }
            for q in last.chunks_exact(d) {
                let sums = dots::<S::Sums, L, 1>([q], k);
                scores[at..at + count].copy_from_slice(&sums[0][..count]);
            }
        }
    }
}
// ANCHOR_END: score

/// q_m · k_n, each summed as [`dot`](super::attention::dot) does.
#[inline(always)]
fn dots<T: F32Sums<L>, const L: usize, const M: usize>(
    q: [&[f32]; M],
    k: [&[f32]; KEYS],
) -> [[f32; KEYS]; M] {
    let (q_registers, k_registers) = (q.map(|q| q.as_chunks::<L>()), k.map(|k| k.as_chunks::<L>()));
    let full = q_registers[0].0.len();
    let (x, w) = (q_registers.map(|q| &q.0[..full]), k_registers.map(|k| &k.0[..full]));
    let (mut first, mut second) = ([T::zero(); KEYS], [T::zero(); KEYS]);
    for i in 0..full {
        let w = [T::load(&w[0][i]), T::load(&w[1][i]), T::load(&w[2][i]), T::load(&w[3][i])];
        add_row(&mut first, T::load(&x[0][i]), &w);
        if M > 1 {
            add_row(&mut second, T::load(&x[M - 1][i]), &w);
        }
    }
    if !q_registers[0].1.is_empty() {
        let w = k_registers.map(|k| T::load(&filled_up(k.1)));
        add_row(&mut first, T::load(&filled_up(q_registers[0].1)), &w);
        add_row(&mut second, T::load(&filled_up(q_registers[M - 1].1)), &w);
    }
    let mut sums = [T::finish(first); M];
    if M > 1 {
        sums[M - 1] = T::finish(second);
    }
    sums
}

/// What does not fill a register, and zeros.
#[inline(always)]
fn filled_up<const L: usize>(rest: &[f32]) -> [f32; L] {
    let mut register = [0.0; L];
    register[..rest.len()].copy_from_slice(rest);
    register
}

/// out_i += Σ weights[i, t] · v_t over a segment, one t after the other; `weights` has `keys` columns.
#[inline(always)]
fn add_weighted<S: Tiles<L>, const L: usize>(
    weights: &[f32],
    d: usize,
    segment: Segment<'_>,
    keys: usize,
    wide: &mut [f32],
    out: &mut [f32],
) {
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.v.piece(start, &segment, d, wide);
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            let weights = &weights[i * keys + start..][..piece.len];
            let mut col = 0;
            while col + WIDTH * L <= d {
                add_registers::<S::Sums, L, WIDTH>(weights, &piece, d, col, out);
                col += WIDTH * L;
            }
            while col + L <= d {
                add_registers::<S::Sums, L, 1>(weights, &piece, d, col, out);
                col += L;
            }
            for (t, weight) in weights.iter().enumerate() {
                let v = piece.vector(t, d);
                for col in col..d {
                    out[col] = S::multiply_add(*weight, v[col], out[col]);
                }
            }
        }
    }
}

/// The same for N registers of one output, from column `col`.
#[inline(always)]
fn add_registers<T: F32Sums<L>, const L: usize, const N: usize>(
    weights: &[f32],
    piece: &Piece,
    d: usize,
    col: usize,
    out: &mut [f32],
) {
    let out = &mut out[col..col + N * L].as_chunks_mut::<L>().0[..N];
    let mut sums = [T::zero(); N];
    for n in 0..N {
        sums[n] = T::of(T::load(&out[n]));
    }
    for (t, weight) in weights.iter().enumerate() {
        let v = &piece.vector(t, d)[col..col + N * L].as_chunks::<L>().0[..N];
        let weight = T::splat(*weight);
        for n in 0..N {
            sums[n] = sums[n].multiply_add(T::load(&v[n]), weight);
        }
    }
    for n in 0..N {
        T::store(sums[n].register(), &mut out[n]);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Isa, *};
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
            attend_group(
                &Cpu::with_isa(Isa::Portable),
                &q,
                d,
                1,
                [segment].into_iter(),
                keys,
                1.0,
                &mut scratch,
                &mut out,
            );
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
                attend_group(
                    &Cpu::with_isa(isa),
                    &q,
                    d,
                    1,
                    segments,
                    n,
                    scale,
                    &mut Scratch::default(),
                    &mut out,
                );
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
        let (d, group, rows, n) = (40, 3, 5, 39);
        let q: Vec<f32> = (0..rows * group * d).map(|i| value(i + 2)).collect();
        let k: Vec<f32> = (0..n * d).map(|i| value(i + 5)).collect();
        let k16: Vec<bf16> = k.iter().map(|x| bf16::from_f32(*x)).collect();
        for isa in Isa::supported() {
            for kept in [Kept::F32(&k), Kept::Bf16(&k16)] {
                let attend = |q: &[f32], rows: usize, keys: usize| {
                    let segment = Segment { k: kept, v: kept, stride: 1, len: keys };
                    let (mut scratch, mut out) = (Scratch::default(), vec![f32::NAN; q.len()]);
                    attend_group(
                        &Cpu::with_isa(isa),
                        q,
                        d,
                        rows,
                        [segment].into_iter(),
                        keys,
                        0.1,
                        &mut scratch,
                        &mut out,
                    );
                    out
                };
                let together = attend(&q, rows, n);
                for row in 0..rows {
                    let of_row = row * group * d..(row + 1) * group * d;
                    let alone = attend(&q[of_row.clone()], 1, n + 1 + row - rows);
                    assert_eq!(together[of_row], alone, "{isa:?}: row {row}");
                }
            }
        }
    }
}
