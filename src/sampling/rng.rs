//! The seeded stream of random numbers: one number in [0, 1) for each sampled token.
//!
//! `rand`'s `StdRng` is documented as *not* portable: a release may replace its algorithm. So the
//! generator is named here, and every choice that could differ between machines is written down:
//!
//! - ChaCha20 (RFC 8439, section 2.3) as a key stream, nonce 0, block counter from 0;
//! - the 256-bit key is the seed, eight bytes little-endian, then 24 zero bytes;
//! - a draw takes the next eight bytes as a little-endian u64 `x` and gives `(x >> 11) · 2⁻⁵³`, which f64
//!   holds exactly.
//!
//! A test pins the stream to the RFC's own vector, so an update of `rand` cannot move it unnoticed.

use rand::rngs::{ChaCha20Rng, SysRng};
use rand::{Rng, SeedableRng, TryRng};

use super::SamplingError;

/// A generator that gives the same numbers for the same seed on every platform.
#[derive(Debug)]
pub(super) struct SeededRng {
    seed: u64,
    stream: ChaCha20Rng,
}

impl SeededRng {
    pub(super) fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self { seed, stream: ChaCha20Rng::from_seed(key) }
    }

    /// A seed from the operating system. 32 bits: short to type again, and exact as a JSON number.
    pub(super) fn from_system() -> Result<Self, SamplingError> {
        match SysRng.try_next_u32() {
            Ok(seed) => Ok(Self::new(u64::from(seed))),
            Err(error) => Err(SamplingError::NoEntropy { reason: error.to_string() }),
        }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number, uniform over the multiples of 2⁻⁵³ in [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1u64 << 53) as f64;
        (self.stream.next_u64() >> 11) as f64 * STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_zero_is_the_key_stream_of_rfc_8439() {
        // Appendix A.1, test vector 1: key, nonce and counter all zero; the first 16 bytes.
        let bytes = 0x76b8_e0ad_a0f1_3d90_405d_6ae5_5386_bd28_u128.to_be_bytes();
        let mut rng = SeededRng::new(0);
        for word in bytes.chunks(8) {
            let x = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            assert_eq!(rng.uniform(), (x >> 11) as f64 / 2f64.powi(53));
        }
    }

    #[test]
    fn the_seed_is_the_low_end_of_the_key() {
        let mut key = [0; 32];
        (key[0], key[1], key[7]) = (0x34, 0x12, 0xff);
        let x = ChaCha20Rng::from_seed(key).next_u64();
        let mut rng = SeededRng::new(0xff00_0000_0000_1234);
        assert_eq!(rng.uniform(), (x >> 11) as f64 / 2f64.powi(53));
    }

    #[test]
    fn numbers_stay_in_range_and_average_one_half() {
        let mut rng = SeededRng::new(9);
        let draws: Vec<f64> = (0..10_000).map(|_| rng.uniform()).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = draws.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
    }
}
