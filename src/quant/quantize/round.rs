//! Rounding to the nearest code.

use half::f16;

/// Codes of so many bits.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub bits: usize,
    /// The zero point is the middle code, so that w and −w have the same distance to it.
    pub symmetric: bool,
}

/// What a group's codes mean: (code − zero) · scale.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// As it is stored: an f16.
    pub scale: f16,
    pub zero: u8,
}

/// Codes of one output.
pub struct Row {
    pub codes: Vec<u8>,
    pub steps: Vec<Step>,
}

impl Grid {
    fn largest(self) -> f32 {
        ((1 << self.bits) - 1) as f32
    }

    // ANCHOR: step
    /// Scale and zero for a group of weights: from the smallest to the largest one, 0 included, in equal steps.
    pub fn step(self, group: impl Iterator<Item = f32>) -> Step {
        let (mut low, mut high) = group.fold((0.0f32, 0.0f32), |(low, high), w| (low.min(w), high.max(w)));
        if self.symmetric {
            high = high.max(-low);
            low = -high;
        }
        // What a reader multiplies by is the rounded scale, so the codes are chosen for that one.
        let scale = f16::from_f32((high - low) / self.largest());
        let scale = if scale.to_f32() == 0.0 { f16::ONE } else { scale };
        let zero =
            if self.symmetric { (self.largest() + 1.0) / 2.0 } else { (-low / scale.to_f32()).round() };
        // GPTQ's first layout stores zero − 1, and has no agreed meaning for −1.
        Step { scale, zero: zero.clamp(1.0, self.largest()) as u8 }
    }
    // ANCHOR_END: step

    /// The nearest code.
    pub fn code(self, step: Step, w: f32) -> u8 {
        (w / step.scale.to_f32() + step.zero as f32).round().clamp(0.0, self.largest()) as u8
    }

    /// Codes of one output, group by group.
    pub fn row(self, w: &[f32], group_size: usize) -> Row {
        let steps: Vec<Step> = w.chunks(group_size).map(|group| self.step(group.iter().copied())).collect();
        let codes = w.iter().enumerate().map(|(k, w)| self.code(steps[k / group_size], *w)).collect();
        Row { codes, steps }
    }
}

impl Step {
    /// The number that a code stands for.
    pub fn number(self, code: u8) -> f32 {
        (code as f32 - self.zero as f32) * self.scale.to_f32()
    }
}

impl Row {
    /// The numbers that the codes stand for.
    pub fn numbers(&self, group_size: usize) -> impl Iterator<Item = f32> {
        self.codes.iter().enumerate().map(move |(k, code)| self.steps[k / group_size].number(*code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_farther_than_half_a_step() {
        let w: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 20.0) / 50.0).collect();
        for symmetric in [false, true] {
            let grid = Grid { bits: 4, symmetric };
            let row = grid.row(&w, 32);
            for (k, (number, w)) in row.numbers(32).zip(&w).enumerate() {
                let half = row.steps[k / 32].scale.to_f32() * 0.51;
                assert!((number - w).abs() <= half, "{k}: {number} for {w}");
            }
        }
        let zeros = Grid { bits: 4, symmetric: false }.row(&[0.0; 32], 32);
        assert!(zeros.numbers(32).all(|number| number == 0.0));
    }
}
