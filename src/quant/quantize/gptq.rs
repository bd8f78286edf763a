//! GPTQ's algorithm: the error of a rounded weight is moved to the weights that are not rounded yet.
//!
//! A linear layer's output is W x. What counts is not ‖W − Ŵ‖ but ‖(W − Ŵ) X‖² over the inputs X that the layer sees, and with H = X Xᵀ that is
//! a quadratic form, tr((W − Ŵ) H (W − Ŵ)ᵀ). Each output has a row of its own, so rows are independent. For one row, weights are rounded from
//! left to right. When weight j is off by e, the others can make up for a part of it: the best change of the weights to the right of j is
//! −e · U[j, k] / U[j, j], where U is the upper Cholesky factor of H⁻¹ (Frantar et al., 2023, <https://arxiv.org/abs/2210.17323>, section 3.3).
//! Where inputs j and k always come together, U[j, k] is large, and k pays for j.

use super::round::{Grid, Row};
use rayon::prelude::*;

/// What is added to H's diagonal, relative to its mean: inputs that were few or alike would make H singular.
pub const DAMP: f64 = 0.01;

/// H = X Xᵀ of the inputs that a layer has seen, [inputs, inputs].
#[derive(Clone)]
pub struct Hessian {
    inputs: usize,
    h: Vec<f64>,
}

impl Hessian {
    /// Of no inputs yet.
    pub fn new(inputs: usize) -> Hessian {
        Hessian { inputs, h: vec![0.0; inputs * inputs] }
    }

    /// Adds inputs, [rows, inputs].
    pub fn add(&mut self, x: &[f32]) {
        let n = self.inputs;
        self.h.par_chunks_mut(n).enumerate().for_each(|(j, row)| {
            for x in x.chunks_exact(n) {
                let of_j = x[j] as f64;
                row.iter_mut().zip(x).for_each(|(h, x)| *h += of_j * *x as f64);
            }
        });
    }

    /// wᵀ H w: the squared size of w's products with all inputs.
    pub fn size(&self, w: &[f64]) -> f64 {
        let rows = self.h.chunks_exact(self.inputs).zip(w);
        rows.map(|(row, of_j)| of_j * row.iter().zip(w).map(|(h, w)| h * w).sum::<f64>()).sum()
    }

    // ANCHOR: quantize
    /// Codes of W [outputs, inputs].
    pub fn quantize(&self, w: &[f32], inputs: usize, group_size: usize, grid: Grid) -> Vec<Row> {
        let u = &self.factor();
        let of_row = |row: &[f32]| {
            let mut left: Vec<f64> = row.iter().map(|w| *w as f64).collect();
            let mut quantized = Row { codes: Vec::with_capacity(inputs), steps: Vec::new() };
            for j in 0..inputs {
                // A group's scale fits the weights as they are when its first one is rounded.
                if j % group_size == 0 {
                    let group = &left[j..j + group_size];
                    quantized.steps.push(grid.step(group.iter().map(|w| *w as f32)));
                }
                let step = quantized.steps[j / group_size];
                let code = grid.code(step, left[j] as f32);
                quantized.codes.push(code);
                let u = &u[j * inputs..(j + 1) * inputs];
                let error = (left[j] - step.number(code) as f64) / u[j];
                for k in j + 1..inputs {
                    left[k] -= error * u[k];
                }
            }
            quantized
        };
        w.par_chunks(inputs).map(of_row).collect()
    }
    // ANCHOR_END: quantize

    /// U [inputs, inputs], upper triangular, with Uᵀ U = H⁻¹, where H has [`DAMP`] of its mean added to its diagonal.
    pub fn factor(&self) -> Vec<f64> {
        let (n, mut h) = (self.inputs, self.h.clone());
        let mean = (0..n).map(|j| h[j * n + j]).sum::<f64>() / n as f64;
        for j in 0..n {
            h[j * n + j] += if mean > 0.0 { DAMP * mean } else { 1.0 };
        }
        let lower = cholesky(&inverse(&cholesky(&h, n), n), n);
        (0..n * n).map(|i| lower[i % n * n + i / n]).collect()
    }
}

/// L, lower triangular, with L Lᵀ = A, which is symmetric and positive definite.
fn cholesky(a: &[f64], n: usize) -> Vec<f64> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (of_i, of_j) = (&l[i * n..i * n + j], &l[j * n..j * n + j]);
            let rest = a[i * n + j] - of_i.iter().zip(of_j).map(|(x, y)| x * y).sum::<f64>();
            l[i * n + j] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / l[j * n + j] };
        }
    }
    l
}

/// A⁻¹ = L⁻ᵀ L⁻¹.
fn inverse(l: &[f64], n: usize) -> Vec<f64> {
    // Column c of L⁻¹, by forward substitution; it is kept as a row.
    let column = |c: usize| {
        let mut x = vec![0.0; n];
        for i in c..n {
            let known = if i == c { 1.0 } else { 0.0 };
            let sum: f64 = (c..i).map(|k| l[i * n + k] * x[k]).sum();
            x[i] = (known - sum) / l[i * n + i];
        }
        x
    };
    let columns: Vec<Vec<f64>> = (0..n).into_par_iter().map(column).collect();
    let element = |i: usize, j: usize| (i.max(j)..n).map(|k| columns[i][k] * columns[j][k]).sum();
    (0..n * n).into_par_iter().map(|at| element(at / n, at % n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs of which every other one is nearly its neighbour.
    fn inputs(n: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut x = Vec::new();
        for _ in 0..4 * n {
            for _ in 0..n / 2 {
                let a = next();
                x.extend([a, a + 0.1 * next()]);
            }
        }
        x
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let (n, mut hessian) = (8, Hessian::new(8));
        hessian.add(&inputs(n));
        let (u, mean) = (hessian.factor(), (0..n).map(|j| hessian.h[j * n + j]).sum::<f64>() / n as f64);
        // Uᵀ U H = I.
        for i in 0..n {
            for j in 0..n {
                let a = |i: usize, k: usize| (0..n).map(|m| u[m * n + i] * u[m * n + k]).sum::<f64>();
                let h = |k: usize| hessian.h[k * n + j] + if k == j { DAMP * mean } else { 0.0 };
                let product: f64 = (0..n).map(|k| a(i, k) * h(k)).sum();
                assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-9, "{i} {j}: {product}");
            }
        }
    }

    #[test]
    fn moving_errors_on_beats_rounding() {
        let (n, grid) = (32, Grid { bits: 3, symmetric: false });
        let mut hessian = Hessian::new(n);
        hessian.add(&inputs(n));
        let w: Vec<f32> = (0..8 * n).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 500.0).collect();
        let lost = |rows: &[Row]| -> f64 {
            let of_row = |(row, w): (&Row, &[f32])| {
                let lost: Vec<f64> = row.numbers(n).zip(w).map(|(number, w)| (number - w) as f64).collect();
                hessian.size(&lost)
            };
            rows.iter().zip(w.chunks(n)).map(of_row).sum()
        };
        let rounded: Vec<Row> = w.chunks(n).map(|row| grid.row(row, n)).collect();
        let (plain, better) = (lost(&rounded), lost(&hessian.quantize(&w, n, n, grid)));
        assert!(better < 0.9 * plain, "{better} against {plain}");
    }
}
