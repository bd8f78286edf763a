//! How fast each instruction set multiplies: loops of nothing else, in enough chains to keep every pipe busy.

use super::on_all_cores;
use stairwell::backend::simd::{Isa, Portable, Simd};
use std::hint::black_box;

/// Chains of multiply-adds in one loop. Each takes four or five cycles, and two start in every cycle (a dot product of bf16 in every other, on
/// CPUs of 2023).
const CHAINS: usize = 12;

/// Operations a second of one core while all are at it, in a loop of so many turns.
pub fn operations_per_second(isa: Isa, turns: usize) -> f64 {
    let (operations, run): (usize, fn(usize)) = match isa.name() {
        #[cfg(target_arch = "x86_64")]
        "avx2" => (CHAINS * 8 * 2, x86::avx2),
        #[cfg(target_arch = "x86_64")]
        "avx512" => (CHAINS * 16 * 2, x86::avx512),
        #[cfg(target_arch = "x86_64")]
        "avx512bf16" => (CHAINS * 32 * 2, x86::avx512bf16),
        #[cfg(target_arch = "x86_64")]
        "amx" => (x86::TILES * 16 * 16 * 32 * 2, x86::amx),
        _ => (CHAINS * 4 * 2, portable),
    };
    (operations * turns) as f64 / on_all_cores(|_| run(turns))
}

/// A multiplication and an addition, or both in one, whatever every CPU of this architecture has.
fn portable(turns: usize) {
    let (x, y) = (Portable.load(&black_box([0.999; 4])), Portable.load(&black_box([0.001; 4])));
    let mut sums = [x; CHAINS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = Portable.multiply_add(y, *sum, x);
        }
    }
    black_box(Portable.finish(sums));
}

/// Each is called only for an [`Isa`], and there is none that this CPU does not have.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::{
        arch::{asm, x86_64::*},
        hint::black_box,
    };

    pub fn avx2(turns: usize) {
        // SAFETY: this CPU has it.
        unsafe { fma_256(turns) }
    }

    pub fn avx512(turns: usize) {
        // SAFETY: this CPU has it.
        unsafe { fma_512(turns) }
    }

    pub fn avx512bf16(turns: usize) {
        // SAFETY: this CPU has it.
        unsafe { dot_512(turns) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(turns: usize) {
        let (x, y) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(0.001)));
        let mut sums = [x; CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512(turns: usize) {
        let (x, y) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(0.001)));
        let mut sums = [x; CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_512(turns: usize) {
        let ones = black_box(_mm512_set1_epi16(0x3f80));
        // SAFETY: both are 512 bits.
        let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(ones) };
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, ones, ones);
            }
        }
        black_box(sums);
    }

    /// Tiles of sums: a product of tiles starts every 16 cycles and takes 52.
    pub const TILES: usize = 4;

    /// What `ldtilecfg` reads: palette 1, then the bytes of a row and the number of rows of each tile.
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Products of 16 × 32 by 32 × 16 bf16, of zeros: the time does not depend on the numbers. In assembly, as Rust has no stable
    /// intrinsics for tiles. The process may use them: `Isa::supported` has asked.
    pub fn amx(turns: usize) {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..TILES + 2].fill(64);
        rows[..TILES + 2].fill(16);
        let config = TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: this CPU has it, and `turns` is at least 1. Configuring tiles zeroes them; releasing them leaves this thread as it was.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tdpbf16ps tmm1, tmm4, tmm5",
                "tdpbf16ps tmm2, tmm4, tmm5",
                "tdpbf16ps tmm3, tmm4, tmm5",
                "dec {turns}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const config,
                turns = inout(reg) turns => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                options(nostack),
            );
        }
    }
}
