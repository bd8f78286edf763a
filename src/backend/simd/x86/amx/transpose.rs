//! 16 × 16 numbers of 32 bits, turned over in registers.

use super::SIDE;
use std::arch::x86_64::*;

/// Row i of the result is column i of the argument.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
pub unsafe fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let mut twos = rows; // within lanes of 128 bits: pairs of rows
        for i in 0..8 {
            twos[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = twos; // columns of four rows
        for i in 0..4 {
            for half in 0..2 {
                let (a, b) = (twos[4 * i + half], twos[4 * i + 2 + half]);
                fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(a, b);
                fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
            }
        }
        let mut eights = fours; // lanes of 128 bits, of eight rows
        for i in 0..2 {
            for column in 0..4 {
                let (a, b) = (fours[8 * i + column], fours[8 * i + 4 + column]);
                eights[8 * i + column] = _mm512_shuffle_i32x4::<0x88>(a, b);
                eights[8 * i + 4 + column] = _mm512_shuffle_i32x4::<0xdd>(a, b);
            }
        }
        let mut columns = eights;
        for column in 0..8 {
            let (a, b) = (eights[column], eights[8 + column]);
            columns[column] = _mm512_shuffle_i32x4::<0x88>(a, b);
            columns[8 + column] = _mm512_shuffle_i32x4::<0xdd>(a, b);
        }
        columns
    }
}

/// A tile of sums, `[16][columns]`, as `[columns][16]`.
///
/// # Safety
/// The CPU has AVX-512 (F, BW, VL).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn turned(sums: &[f32], columns: usize) -> [__m512i; SIDE] {
    assert!(sums.len() >= SIDE * columns && columns <= SIDE);
    let mask = ((1u32 << columns) - 1) as u16;
    let mut rows = [_mm512_setzero_si512(); SIDE];
    // No closure: it would be compiled without AVX-512.
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: inside the slice by the line above.
        *row = unsafe { _mm512_maskz_loadu_epi32(mask, sums.as_ptr().add(i * columns).cast()) };
    }
    // SAFETY: this function has AVX-512.
    unsafe { transpose(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[target_feature(enable = "avx512f")]
    fn transposed(numbers: &[[u32; 16]; 16]) -> [[u32; 16]; 16] {
        let mut out = [[0u32; 16]; 16];
        // SAFETY: this function has AVX-512; 16 numbers are read and written at a time.
        unsafe {
            let columns = transpose(numbers.map(|row| _mm512_loadu_si512(row.as_ptr().cast())));
            for (out, column) in out.iter_mut().zip(columns) {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), column);
            }
        }
        out
    }

    #[test]
    fn rows_become_columns() {
        if !is_x86_feature_detected!("avx512f") {
            println!("skipped: this CPU has no AVX-512");
            return;
        }
        let numbers: [[u32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as u32));
        // SAFETY: the CPU has AVX-512.
        let got = unsafe { transposed(&numbers) };
        for i in 0..16 {
            for j in 0..16 {
                assert_eq!(got[i][j], numbers[j][i], "[{i}, {j}]");
            }
        }
    }
}
