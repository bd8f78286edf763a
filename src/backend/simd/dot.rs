//! Loops over vectors that many operations share. No closure stands between a loop and a register's instructions: a closure would be
//! compiled without the instruction set, and each instruction would become a call.

use super::{F32, Simd, filled_up};

/// Adds the products of one register with N others, each to its own sums.
#[inline(always)]
pub(crate) fn add_row<S: Simd<W>, const W: usize, const N: usize>(
    simd: S,
    sums: &mut [S::Sums; N],
    one: S::Register,
    others: &[S::Register; N],
) {
    for n in 0..N {
        sums[n] = simd.multiply_add(sums[n], one, others[n]);
    }
}

/// Dot products of M vectors with N others of the same length → [M][N]. Product i goes to lane i modulo L; at the end the lanes are added
/// by halves. So a dot product has the same bits whatever M and N are.
#[inline(always)]
pub(crate) fn dots<S: F32<L>, const L: usize, const M: usize, const N: usize>(
    simd: S,
    a: [&[f32]; M],
    b: [&[f32]; N],
) -> [[f32; N]; M] {
    let (a, b) = (a.map(|a| a.as_chunks::<L>()), b.map(|b| b.as_chunks::<L>()));
    // Slices of one length spare the loop a check for each of them.
    let full = a[0].0.len();
    let (rows, columns) = (a.map(|a| &a.0[..full]), b.map(|b| &b.0[..full]));
    let mut sums = [[simd.zero(); N]; M];
    let mut others = [simd.zero(); N];
    for i in 0..full {
        for n in 0..N {
            others[n] = simd.load(&columns[n][i]);
        }
        for m in 0..M {
            add_row(simd, &mut sums[m], simd.load(&rows[m][i]), &others);
        }
    }
    if !a[0].1.is_empty() {
        for n in 0..N {
            others[n] = simd.load(&filled_up(b[n].1, 0.0));
        }
        for m in 0..M {
            add_row(simd, &mut sums[m], simd.load(&filled_up(a[m].1, 0.0)), &others);
        }
    }
    let mut out = [[0.0; N]; M];
    for m in 0..M {
        out[m] = simd.finish(sums[m]);
    }
    out
}

/// out = a · b.
#[inline(always)]
pub(crate) fn dot<S: F32<L>, const L: usize>(simd: S, a: &[f32], b: &[f32], out: &mut f32) {
    [[*out]] = dots(simd, [a], [b]);
}

/// out += weight · v.
#[inline(always)]
pub(crate) fn add_scaled<S: F32<L>, const L: usize>(simd: S, weight: f32, v: &[f32], out: &mut [f32]) {
    for (out, v) in out.iter_mut().zip(v) {
        *out = simd.multiply_add_one(weight, *v, *out);
    }
}
