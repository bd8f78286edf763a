//! Codes into the tensors of a layout. What each is, its reader's file says.

use super::round::Row;
use crate::tensor::{DType, HostTensor};
use rayon::prelude::*;

type Tensors = Vec<(String, HostTensor)>;

/// Appends fields of `bits` bits to words, least significant first.
fn stream(bits: usize, fields: impl Iterator<Item = u8>) -> Vec<u32> {
    let (mut words, mut held, mut used) = (Vec::new(), 0u64, 0);
    for field in fields {
        held |= (field as u64) << used;
        used += bits;
        if used >= 32 {
            words.push(held as u32);
            (held, used) = (held >> 32, used - 32);
        }
    }
    if used > 0 {
        words.push(held as u32);
    }
    words
}

fn ints(shape: [usize; 2], words: impl IntoIterator<Item = u32>) -> HostTensor {
    let bytes = words.into_iter().flat_map(u32::to_le_bytes).collect();
    HostTensor::from_bytes(DType::I32, &shape, bytes)
}

/// Scales [groups, outputs], f16.
fn scales(rows: &[Row]) -> HostTensor {
    let groups = rows[0].steps.len();
    let all = (0..groups).flat_map(|group| rows.iter().map(move |row| row.steps[group].scale));
    HostTensor::from_bytes(
        DType::F16,
        &[groups, rows.len()],
        all.flat_map(|scale| scale.to_le_bytes()).collect(),
    )
}

pub fn gptq(module: &str, bits: usize, rows: &[Row], inputs: usize) -> Tensors {
    let (n, groups) = (rows.len(), rows[0].steps.len());
    let columns: Vec<Vec<u32>> = rows.par_iter().map(|row| stream(bits, row.codes.iter().copied())).collect();
    let words = inputs * bits / 32;
    let qweight = (0..words).flat_map(|word| columns.iter().map(move |column| column[word]));
    let zeros = |group: usize| stream(bits, rows.iter().map(move |row| row.steps[group].zero - 1));
    let group_size = inputs / groups;
    let g_idx = (0..inputs).flat_map(|k| ((k / group_size) as u32).to_le_bytes()).collect();
    vec![
        (format!("{module}.qweight"), ints([words, n], qweight)),
        (format!("{module}.qzeros"), ints([groups, n * bits / 32], (0..groups).flat_map(zeros))),
        (format!("{module}.scales"), scales(rows)),
        (format!("{module}.g_idx"), HostTensor::from_bytes(DType::I32, &[inputs], g_idx)),
    ]
}

pub fn awq_gemm(module: &str, rows: &[Row], inputs: usize) -> Tensors {
    /// Which column of eight is at each place of a word.
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let (n, groups) = (rows.len(), rows[0].steps.len());
    let word = |of_column: &dyn Fn(usize) -> u8, word: usize| {
        ORDER.iter().rev().fold(0, |bits, column| bits << 4 | of_column(8 * word + column) as u32)
    };
    let qweight =
        (0..inputs).flat_map(|k| (0..n / 8).map(move |at| word(&|column| rows[column].codes[k], at)));
    let zero = |column: usize, group: usize| rows[column].steps[group].zero;
    let qzeros =
        (0..groups).flat_map(|group| (0..n / 8).map(move |at| word(&|column| zero(column, group), at)));
    vec![
        (format!("{module}.qweight"), ints([inputs, n / 8], qweight)),
        (format!("{module}.qzeros"), ints([groups, n / 8], qzeros)),
        (format!("{module}.scales"), scales(rows)),
    ]
}

/// compressed-tensors' `pack-quantized` at 8 bits, a scale for each output; and the numbers that it stands for.
pub fn int8(module: &str, w: &[f32], [n, inputs]: [usize; 2]) -> (Tensors, Vec<f32>) {
    let scales: Vec<f32> = w.par_chunks(inputs).map(|row| largest(row) / 127.0).collect();
    let scales: Vec<f32> = scales.into_iter().map(|scale| if scale == 0.0 { 1.0 } else { scale }).collect();
    let code = |k: usize, w: f32| (w / scales[k / inputs]).round().clamp(-127.0, 127.0);
    let codes: Vec<f32> = w.par_iter().enumerate().map(|(k, w)| code(k, *w)).collect();
    let bytes: Vec<u8> = codes.iter().map(|code| (*code as i32 + 128) as u8).collect();
    let shape = [n, inputs].iter().flat_map(|n| (*n as u64).to_le_bytes()).collect();
    let numbers = codes.iter().enumerate().map(|(k, code)| code * scales[k / inputs]).collect();
    let tensors = vec![
        (format!("{module}.weight_packed"), HostTensor::from_bytes(DType::I32, &[n, inputs / 4], bytes)),
        (format!("{module}.weight_scale"), HostTensor::from_f32(&[n, 1], &scales)),
        (format!("{module}.weight_shape"), HostTensor::from_bytes(DType::I64, &[2], shape)),
    ];
    (tensors, numbers)
}

/// e4m3 floats with a scale for each block; and the numbers that they stand for.
pub fn fp8(module: &str, w: &[f32], [n, inputs]: [usize; 2], block: usize) -> (Tensors, Vec<f32>) {
    const LARGEST: f32 = 448.0;
    let (rows, cols) = (n.div_ceil(block), inputs.div_ceil(block));
    let mut scales = vec![0.0f32; rows * cols];
    for (at, w) in w.iter().enumerate() {
        let scale = &mut scales[at / inputs / block * cols + at % inputs / block];
        *scale = scale.max(w.abs() / LARGEST);
    }
    scales.iter_mut().filter(|scale| **scale == 0.0).for_each(|scale| *scale = 1.0);
    let scale = |at: usize| scales[at / inputs / block * cols + at % inputs / block];
    let codes: Vec<float8::F8E4M3> =
        w.par_iter().enumerate().map(|(at, w)| float8::F8E4M3::from_f32(w / scale(at))).collect();
    let numbers = codes.iter().enumerate().map(|(at, code)| code.to_f32() * scale(at)).collect();
    let bytes = codes.iter().map(|code| code.to_bits()).collect();
    let tensors = vec![
        (format!("{module}.weight"), HostTensor::from_bytes(DType::F8_E4M3, &[n, inputs], bytes)),
        (format!("{module}.weight_scale_inv"), HostTensor::from_f32(&[rows, cols], &scales)),
    ];
    (tensors, numbers)
}

fn largest(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |largest, w| largest.max(w.abs()))
}
