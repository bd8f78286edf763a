//! Making packed weights: rounding to nearest, or GPTQ's algorithm where inputs are known.
//!
//! ```text
//! W [outputs, inputs] ─ groups ─▶ scale and zero of each ─ codes ─▶ tensors of a layout
//! ```
//! What is written is read by vLLM and transformers: GPTQ and AWQ (`gemm`) at 4 bits, compressed-tensors at 8, FP8 in blocks of 128.

mod gptq;
mod layouts;
mod round;

pub use gptq::{DAMP, Hessian};

use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use clap::ValueEnum;
use rayon::prelude::*;
use round::Grid;
use serde_json::{Value, json};

/// Which layout is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// GPTQ's layout; its algorithm too, if there is a calibration text.
    Gptq,
    /// AWQ's layout, by rounding to nearest.
    AwqRtn,
    /// 8 bits, a scale for each output (compressed-tensors).
    Int8,
    /// e4m3 floats, a scale for each block of 128 × 128.
    Fp8,
}

/// How matrices are packed.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub method: Method,
    /// 2, 3, 4 or 8 for GPTQ; 4 for AWQ.
    pub bits: usize,
    /// Inputs of a group, for GPTQ and AWQ.
    pub group_size: usize,
    /// Zero points in the middle, for GPTQ.
    pub symmetric: bool,
    /// Every weight to its nearest code, also where GPTQ's inputs are known: these then only measure the error.
    pub nearest: bool,
}

/// A packed matrix, and what it costs.
pub struct Quantized {
    /// The tensors, with their names.
    pub tensors: Vec<(String, HostTensor)>,
    /// ‖(W − Ŵ) X‖ / ‖W X‖ for the calibration's inputs X, or ‖W − Ŵ‖ / ‖W‖ without.
    pub error: f64,
}

/// Outputs and inputs of FP8's blocks.
const FP8_BLOCK: usize = 128;

impl Recipe {
    /// What config.json says of such weights.
    pub fn config(&self) -> Value {
        let Recipe { method, bits, group_size, symmetric, .. } = self;
        match method {
            Method::Gptq => json!({
                "quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": false, "sym": symmetric, "lm_head": false,
                "checkpoint_format": "gptq", "true_sequential": false, "damp_percent": DAMP,
            }),
            Method::AwqRtn => json!({
                "quant_method": "awq", "bits": bits, "group_size": group_size, "zero_point": true, "version": "gemm",
                "modules_to_not_convert": null,
            }),
            Method::Int8 => json!({
                "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
                "config_groups": {"group_0": {
                    "targets": ["Linear"], "input_activations": null, "output_activations": null,
                    "weights": {"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel", "group_size": null, "dynamic": false},
                }},
                "ignore": ["lm_head"], "kv_cache_scheme": null,
            }),
            Method::Fp8 => json!({
                "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
                "modules_to_not_convert": ["lm_head"],
            }),
        }
    }

    /// Packs the matrix `w` [outputs, inputs] of a module. `hessian`: of its inputs, for GPTQ's algorithm.
    ///
    /// # Errors
    /// Sizes that the layout does not have, naming the module; numbers that are not finite.
    pub fn quantize(
        &self,
        module: &str,
        w: &[f32],
        [outputs, inputs]: [usize; 2],
        hessian: Option<&Hessian>,
    ) -> Result<Quantized> {
        self.check(module, w, [outputs, inputs])?;
        let (tensors, packed) = match self.method {
            Method::Gptq | Method::AwqRtn => {
                let grid = Grid { bits: self.bits, symmetric: self.symmetric && self.method == Method::Gptq };
                let rows = match hessian.filter(|_| self.method == Method::Gptq && !self.nearest) {
                    Some(hessian) => hessian.quantize(w, inputs, self.group_size, grid),
                    None => w.par_chunks(inputs).map(|row| grid.row(row, self.group_size)).collect(),
                };
                let packed = rows.iter().flat_map(|row| row.numbers(self.group_size)).collect();
                let tensors = match self.method {
                    Method::Gptq => layouts::gptq(module, self.bits, &rows, inputs),
                    _ => layouts::awq_gemm(module, &rows, inputs),
                };
                (tensors, packed)
            }
            Method::Int8 => layouts::int8(module, w, [outputs, inputs]),
            Method::Fp8 => layouts::fp8(module, w, [outputs, inputs], FP8_BLOCK),
        };
        Ok(Quantized { tensors, error: error(w, &packed, inputs, hessian) })
    }

    fn check(&self, module: &str, w: &[f32], [outputs, inputs]: [usize; 2]) -> Result<()> {
        let refuse = |what: &str, size: usize, why: &str, of: usize| {
            let out = "--method int8 and --method fp8 pack other sizes";
            Err(Error::Usage(format!("{module}: {size} {what} are no multiple of {why}{of}; {out}")))
        };
        // Codes that fill whole words of 32 bits; those of 3 bits do so by 32.
        let words = if 32 % self.bits == 0 { 32 / self.bits } else { 32 };
        if w.iter().any(|number| !number.is_finite()) {
            return Err(Error::Usage(format!("{module}: it holds a number that is not finite")));
        }
        match self.method {
            Method::Gptq | Method::AwqRtn if !inputs.is_multiple_of(self.group_size) => {
                refuse("inputs", inputs, "--group-size ", self.group_size)
            }
            Method::Gptq if !inputs.is_multiple_of(words) => refuse("inputs", inputs, "", words),
            Method::Gptq if !outputs.is_multiple_of(words) => refuse("outputs", outputs, "", words),
            Method::AwqRtn if !outputs.is_multiple_of(8) => refuse("outputs", outputs, "", 8),
            Method::Int8 if !inputs.is_multiple_of(4) => {
                let why = "4, which its words hold; --method fp8 packs other sizes";
                Err(Error::Usage(format!("{module}: {inputs} inputs are no multiple of {why}")))
            }
            _ => Ok(()),
        }
    }
}

/// ‖(W − Ŵ) X‖ / ‖W X‖, or without X that of the matrices.
fn error(w: &[f32], packed: &[f32], inputs: usize, hessian: Option<&Hessian>) -> f64 {
    let size = |row: &[f64]| match hessian {
        Some(hessian) => hessian.size(row),
        None => row.iter().map(|x| x * x).sum(),
    };
    let sums = w.par_chunks(inputs).zip(packed.par_chunks(inputs)).map(|(w, packed)| {
        let lost: Vec<f64> = w.iter().zip(packed).map(|(w, p)| (w - p) as f64).collect();
        let whole: Vec<f64> = w.iter().map(|w| *w as f64).collect();
        (size(&lost), size(&whole))
    });
    let (lost, whole) = sums.reduce(|| (0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    if whole == 0.0 { 0.0 } else { (lost / whole).sqrt() }
}
