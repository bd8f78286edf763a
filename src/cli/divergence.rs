//! How far logits are from others: of another checkpoint, or of the same one with other arithmetic.

use serde::{Deserialize, Serialize};
use stairwell::backend::{Backend, cpu::Cpu};
use stairwell::{batch::Batch, error::Result, runner::ModelRunner};

/// The distance of next-token distributions, over all positions of a text.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Divergence {
    /// The mean of Σ p ln(p / q), p the reference's.
    pub mean_kl: f64,
    /// How often the likeliest token is the same.
    pub agreement: f64,
}

impl Divergence {
    /// Of logits [positions, vocabulary] from a reference's.
    pub fn of(vocabulary: usize, reference: &[f32], logits: &[f32]) -> Divergence {
        let (mut kl, mut same) = (0.0, 0);
        for (p, q) in reference.chunks_exact(vocabulary).zip(logits.chunks_exact(vocabulary)) {
            let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
            kl += p.iter().zip(q).fold(0.0, |sum, (p, q)| {
                let (p, q) = (*p as f64 - of_p, *q as f64 - of_q);
                sum + p.exp() * (p - q)
            });
            same += usize::from(likeliest(p) == likeliest(q));
        }
        let positions = (reference.len() / vocabulary) as f64;
        Divergence { mean_kl: (kl / positions).max(0.0), agreement: same as f64 / positions }
    }

    /// Of the logits that activations of 8 bits give, from those of the same weights and exact activations. Afterwards the backend multiplies as
    /// before.
    pub fn of_int8(runner: &mut ModelRunner<Cpu>, ids: &[u32]) -> Result<Divergence> {
        let before = runner.backend.has_int8_activations();
        let mut batch = Batch::of(ids);
        batch.want_all_logits();
        let mut logits = |int8: bool| {
            runner.backend.set_int8_activations(int8);
            let logits = runner.forward(&batch, None)?;
            runner.backend.download(&logits)
        };
        let both = logits(false).and_then(|exact| Ok((exact, logits(true)?)));
        runner.backend.set_int8_activations(before);
        let (exact, int8) = both?;
        Ok(Divergence::of(exact.len() / ids.len(), &exact, &int8))
    }

    /// For people.
    pub fn text(&self) -> String {
        let (kl, agreement) = (self.mean_kl, 100.0 * self.agreement);
        format!("mean KL {kl:.5}, the same likeliest token at {agreement:.1} % of positions")
    }
}

/// ln Σ exp(x), without overflow.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    row.iter().map(|x| (*x as f64 - largest).exp()).sum::<f64>().ln() + largest
}

fn likeliest(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
}
