//! The contract of attention by tiles.

use crate::attention::cpu::group::{Scratch, attend_group};
use crate::attention::cpu::vectors::{Kept, Queries, Segment};
use crate::backend::cpu::{Arithmetic, Cpu, Isa};
use half::bf16;

/// Query heads of a head of K and V, numbers of a head, tokens that attend together, and keys.
const CASES: [(usize, usize, usize, usize); 6] =
    [(2, 64, 1, 1), (2, 128, 40, 200), (3, 40, 5, 39), (1, 20, 17, 70), (5, 32, 7, 64), (1, 96, 70, 70)];

struct Case {
    head_dim: usize,
    group: usize,
    rows: usize,
    keys: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new((group, head_dim, rows, keys): (usize, usize, usize, usize)) -> Case {
        // q and k have more bits than a bf16; v has not.
        let value = |i: usize| (i * 7919 % 1013) as f32 / 506.5 - 1.0;
        let q = (0..rows * group * head_dim).map(|i| value(i + 2)).collect();
        let k = (0..keys * head_dim).map(|i| value(i * 7 + 5)).collect();
        let v = (0..keys * head_dim).map(|i| bf16::from_f32(value(i * 3 + 1)).to_f32()).collect();
        Case { head_dim, group, rows, keys, q, k, v }
    }

    /// Attention of the last `rows` of `keys` positions, whose queries are given; K and V are cut into two segments.
    fn attend(&self, cpu: &Cpu, q: &[f32], rows: usize, keys: usize, cut: usize) -> Vec<f32> {
        let segments = [0..cut, cut..keys].map(|at| Segment {
            k: Kept::F32(&self.k[at.start * self.head_dim..]),
            v: Kept::F32(&self.v[at.start * self.head_dim..]),
            stride: 1,
            len: at.len(),
        });
        let (mut scratch, mut out) = (Scratch::default(), vec![f32::NAN; q.len()]);
        let segments = segments.into_iter();
        let queries = Queries { q, head_dim: self.head_dim, rows, keys, scale: 0.3 };
        attend_group(cpu, &queries, segments, &mut scratch, &mut out);
        out
    }

    /// The largest distance to a sum in f64.
    fn error(&self, out: &[f32]) -> f64 {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let vector = |x: &[f32], i: usize| x[i * self.head_dim..][..self.head_dim].to_vec();
        let mut worst = 0.0f64;
        for (i, got) in out.chunks_exact(self.head_dim).enumerate() {
            let seen = self.keys + 1 + i / self.group - self.rows;
            let q = vector(&self.q, i);
            let weights: Vec<f64> = (0..seen).map(|t| (0.3 * dot(&q, &vector(&self.k, t))).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (c, got) in got.iter().enumerate() {
                let want =
                    (0..seen).map(|t| weights[t] * f64::from(self.v[t * self.head_dim + c])).sum::<f64>();
                worst = worst.max((f64::from(*got) - want / total).abs());
            }
        }
        worst
    }
}

/// Only the weights of softmax are rounded: each is off by at most 2⁻⁹ of itself, and values are below 1. And rows together have the bits of rows
/// alone, however K and V are cut.
#[test]
fn agrees_with_f64_and_keeps_rows_independent() {
    let Some(isa) = Isa::supported().into_iter().find(|isa| *isa == Isa::Amx) else {
        println!("skipped: this CPU has no AMX");
        return;
    };
    let cpu = &Cpu::with_isa(isa).with_arithmetic(Arithmetic::Bf16);
    for case in CASES.map(Case::new) {
        let (rows, keys, of_row) = (case.rows, case.keys, case.group * case.head_dim);
        let together = case.attend(cpu, &case.q, rows, keys, keys / 3);
        assert_eq!(together, case.attend(cpu, &case.q, rows, keys, keys), "{keys} keys in one segment");
        let error = case.error(&together);
        assert!(error < 2f64.powi(-8), "{keys} keys of {}: {error}", case.head_dim);
        for (row, (q, together)) in case.q.chunks(of_row).zip(together.chunks(of_row)).enumerate() {
            let alone = case.attend(cpu, q, 1, keys + 1 + row - rows, 0);
            assert_eq!(together, alone, "row {row} of {rows} over {keys} keys");
        }
    }
}
