//! Each layout of the tensors of one module: which there must be, and what shapes they have.

use super::Parts;
use crate::error::Result;
use crate::quant::awq::{Awq, AwqVersion};
use crate::quant::bitsandbytes::{FourBit, Nested};
use crate::quant::compressed_tensors::PackQuantized;
use crate::quant::config::{GptqConfig, Scheme};
use crate::quant::fields::words;
use crate::quant::format::Format;
use crate::quant::gptq::Gptq;
use crate::quant::scaled::Scaled;
use crate::quant::squeezellm::SqueezeLlm;
use crate::tensor::DType;

impl Parts<'_, '_> {
    pub(super) fn gptq(mut self, config: &GptqConfig) -> Result<Gptq> {
        let (bits, group_size) = config.of(&self.module);
        let qweight = self.take("qweight", &[DType::I32], 2)?;
        let qzeros = self.take("qzeros", &[DType::I32], 2)?;
        let scales = self.take("scales", &[DType::F16, DType::BF16, DType::F32], 2)?;
        let g_idx = self.take_if_there("g_idx", &[DType::I32], 1)?;
        self.end()?;
        let [words_of_k, n] = qweight.shape[..] else { unreachable!("two dimensions") };
        if !(words_of_k * 32).is_multiple_of(bits) {
            return Err(self
                .refuse("qweight", format!("{words_of_k} rows of words are no whole codes of {bits} bits")));
        }
        let inputs = words_of_k * 32 / bits;
        let group_size = group_size.unwrap_or(inputs);
        let groups = inputs.div_ceil(group_size);
        self.expect("scales", &scales.shape, &[groups, n])?;
        self.expect("qzeros", &qzeros.shape, &[groups, (n * bits).div_ceil(32)])?;
        let mut act_order = false;
        if let Some(g_idx) = &g_idx {
            self.expect("g_idx", &g_idx.shape, &[inputs])?;
            self.check_indices("g_idx", g_idx, groups)?;
            act_order = !words(g_idx).is_sorted_by_key(|word| i32::from_le_bytes(*word));
        }
        let zero_offset = if config.v2 { 0 } else { 1 };
        Ok(Gptq { bits, qweight, qzeros, scales, g_idx, group_size, zero_offset, act_order })
    }

    pub(super) fn awq(mut self, group_size: Option<usize>, version: AwqVersion) -> Result<Awq> {
        let fast = version == AwqVersion::GemvFast;
        let qweight = self.take("qweight", &[if fast { DType::I16 } else { DType::I32 }], 2)?;
        let qzeros = self.take("qzeros", &[if fast { DType::F16 } else { DType::I32 }], 2)?;
        let scales = self.take("scales", &[DType::F16, DType::BF16, DType::F32], 2)?;
        self.end()?;
        let inputs = match version {
            AwqVersion::Gemm => qweight.shape[0],
            AwqVersion::Gemv => qweight.shape[1] * 8,
            AwqVersion::GemvFast => qweight.shape[1],
        };
        let awq = Awq { version, qweight, qzeros, scales, group_size: group_size.unwrap_or(inputs) };
        let ([n, _], groups) = (awq.shape(), awq.groups());
        match version {
            AwqVersion::Gemm => {
                self.expect("scales", &awq.scales.shape, &[groups, n])?;
                self.expect("qzeros", &awq.qzeros.shape, &[groups, n / 8])?;
            }
            AwqVersion::Gemv => {
                let [rows, padded] = awq.scales.shape[..] else { unreachable!("two dimensions") };
                let zero_words = awq.qzeros.shape[1];
                if rows != n || padded != 8 * zero_words || padded < groups || awq.qzeros.shape[0] != n {
                    let reason = format!(
                        "shape {:?}, expected [{n}, {groups} or more, a multiple of 8]",
                        awq.scales.shape
                    );
                    return Err(self.refuse("scales", reason));
                }
            }
            AwqVersion::GemvFast => {
                let [padded, cols] = awq.scales.shape[..] else { unreachable!("two dimensions") };
                if cols != n || padded < groups || !inputs.is_multiple_of(64) {
                    let reason = format!("shape {:?}, expected [{groups} or more, {n}]", awq.scales.shape);
                    return Err(self.refuse("scales", reason));
                }
                self.expect("qzeros", &awq.qzeros.shape, &awq.scales.shape)?;
            }
        }
        Ok(awq)
    }

    pub(super) fn squeezellm(mut self, bits: usize) -> Result<SqueezeLlm> {
        const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
        let qweight = self.take("qweight", &[DType::I32], 2)?;
        let lookup_table = self.take("lookup_table", &FLOATS, 2)?;
        let csr = match self.take_if_there("rows", &[DType::I32], 1)? {
            Some(rows) => Some([rows, self.take("cols", &[DType::I32], 1)?, self.take("vals", &FLOATS, 1)?]),
            None => None,
        };
        let full = match self.take_if_there("full_rows", &FLOATS, 2)? {
            Some(full_rows) => Some([full_rows, self.take("full_row_indices", &[DType::I32], 1)?]),
            None => None,
        };
        self.end()?;
        let format = SqueezeLlm { bits, qweight, lookup_table, csr, full };
        let [n, inputs] = format.shape();
        self.expect("lookup_table", &format.lookup_table.shape, &[n, 1 << bits])?;
        if let Some([rows, cols, vals]) = &format.csr {
            self.expect("rows", &rows.shape, &[n + 1])?;
            self.expect("vals", &vals.shape, &cols.shape)?;
            self.check_indices("rows", rows, cols.shape[0] + 1)?;
            self.check_indices("cols", cols, inputs)?;
            if !words(rows).is_sorted_by_key(|word| i32::from_le_bytes(*word)) {
                return Err(self.refuse("rows", "its numbers go down".into()));
            }
        }
        if let Some([full_rows, indices]) = &format.full {
            self.expect("full_rows", &full_rows.shape, &[inputs, indices.shape[0]])?;
            self.check_indices("full_row_indices", indices, n)?;
        }
        Ok(format)
    }

    /// Bytes with scales of any granularity.
    pub(super) fn scaled(mut self, dtype: DType, block: Option<[usize; 2]>) -> Result<Scaled> {
        if !matches!(dtype, DType::F8_E4M3 | DType::I8) {
            return Err(self.refuse("weight", format!("dtype {dtype}, expected F8_E4M3 or I8")));
        }
        let weight = self.take("weight", &[dtype], 2)?;
        let inverse = self.tensors.contains_key("weight_scale_inv");
        let part = if inverse { "weight_scale_inv" } else { "weight_scale" };
        let Some(scales) = self.tensors.remove(part) else {
            let reason =
                "it is missing, and without a scale these bytes are no numbers (see quantization_config)";
            return Err(self.refuse(part, reason.into()));
        };
        self.end()?;
        let floats = [DType::F32, DType::BF16, DType::F16, DType::F8_E8M0];
        if !floats.contains(&scales.dtype) {
            return Err(self.refuse(part, format!("dtype {}, expected a float", scales.dtype)));
        }
        let [n, inputs] = weight.shape[..] else { unreachable!("two dimensions") };
        let block = match (block, &scales.shape[..]) {
            (_, [] | [1] | [1, 1]) => [n, inputs],
            (_, [outputs] | [outputs, 1]) if *outputs == n => [1, inputs],
            (Some([rows, cols]), shape) if *shape == [n.div_ceil(rows), inputs.div_ceil(cols)] => {
                [rows, cols]
            }
            (_, shape) => {
                let reason = format!(
                    "shape {shape:?} fits no blocks of a matrix {n} x {inputs} (see quantization_config)"
                );
                return Err(self.refuse(part, reason));
            }
        };
        Ok(Scaled { weight, scales, block, divisor: 1.0 })
    }

    pub(super) fn bnb_int8(mut self) -> Result<Scaled> {
        let weight = self.take("weight", &[DType::I8], 2)?;
        let part = if self.tensors.contains_key("SCB") { "SCB" } else { "weight.SCB" };
        let scales = self.take(part, &[DType::F32], 1)?;
        self.end()?;
        self.expect(part, &scales.shape, &weight.shape[..1])?;
        let inputs = weight.shape[1];
        Ok(Scaled { weight, scales, block: [1, inputs], divisor: 127.0 })
    }

    pub(super) fn pack_quantized(mut self, scheme: &Scheme) -> Result<PackQuantized> {
        const FLOATS: [DType; 3] = [DType::BF16, DType::F16, DType::F32];
        let bits = scheme.bits;
        let weight_packed = self.take("weight_packed", &[DType::I32], 2)?;
        let weight_shape = self.take("weight_shape", &[DType::I64], 1)?;
        let weight_scale = self.take("weight_scale", &FLOATS, 2)?;
        let weight_zero_point = self.take_if_there("weight_zero_point", &[DType::I32], 2)?;
        let weight_g_idx = self.take_if_there("weight_g_idx", &[DType::I32], 1)?;
        self.end()?;
        let sizes: Vec<usize> =
            weight_shape.data.as_chunks().0.iter().map(|n| u64::from_le_bytes(*n) as usize).collect();
        let [n, inputs] = sizes[..] else {
            return Err(self.refuse("weight_shape", format!("{} numbers, expected 2", sizes.len())));
        };
        let width = weight_packed.shape[1];
        let (dense, whole) = (inputs.saturating_mul(bits).div_ceil(32), inputs.div_ceil(32 / bits));
        if weight_packed.shape[0] != n || inputs == 0 || ![dense, whole].contains(&width) {
            let reason =
                format!("shape {:?} holds no {n} x {inputs} codes of {bits} bits", weight_packed.shape);
            return Err(self.refuse("weight_packed", reason));
        }
        let group_size = scheme.group_size.unwrap_or(inputs);
        let groups = inputs.div_ceil(group_size);
        self.expect("weight_scale", &weight_scale.shape, &[n, groups])?;
        let whole_words = width != dense;
        if let Some(zeros) = &weight_zero_point {
            let words = if whole_words { n.div_ceil(32 / bits) } else { (n * bits).div_ceil(32) };
            self.expect("weight_zero_point", &zeros.shape, &[words, groups])?;
        }
        if let Some(g_idx) = &weight_g_idx {
            self.expect("weight_g_idx", &g_idx.shape, &[inputs])?;
            self.check_indices("weight_g_idx", g_idx, groups)?;
        }
        let shape = [n, inputs];
        Ok(PackQuantized {
            bits,
            shape,
            weight_packed,
            weight_scale,
            weight_zero_point,
            weight_g_idx,
            group_size,
            whole_words,
        })
    }

    pub(super) fn four_bit(mut self) -> Result<FourBit> {
        let weight = self.take("weight", &[DType::U8], 2)?;
        let quant_map = self.take("weight.quant_map", &[DType::F32], 1)?;
        let absmax = self.take("weight.absmax", &[DType::F32, DType::U8], 1)?;
        let nf4 = self.take_if_there("weight.quant_state.bitsandbytes__nf4", &[DType::U8], 1)?;
        let (kind, part, state) = match nf4 {
            Some(state) => ("nf4", "weight.quant_state.bitsandbytes__nf4", state),
            None => {
                let part = "weight.quant_state.bitsandbytes__fp4";
                ("fp4", part, self.take(part, &[DType::U8], 1)?)
            }
        };
        let state: State =
            serde_json::from_slice(&state.data).map_err(|error| self.refuse(part, error.to_string()))?;
        let State { blocksize: block, shape, nested_blocksize, nested_offset } = state;
        let [n, inputs] = shape;
        let numbers = n.saturating_mul(inputs);
        if block == 0
            || numbers.is_multiple_of(2) && weight.data.len() != numbers / 2
            || weight.data.len() < numbers / 2
        {
            return Err(
                self.refuse(part, format!("{} bytes hold no {n} x {inputs} codes", weight.data.len()))
            );
        }
        if !inputs.is_multiple_of(block) {
            let reason =
                format!("blocks of {block} cross the ends of rows of {inputs}, which is not supported");
            return Err(self.refuse(part, reason));
        }
        let blocks = numbers / block;
        self.expect("weight.quant_map", &quant_map.shape, &[16])?;
        self.expect("weight.absmax", &absmax.shape, &[blocks])?;
        let nested = match absmax.dtype {
            DType::U8 => {
                let scales = self.take("weight.nested_absmax", &[DType::F32], 1)?;
                let quant_map = self.take("weight.nested_quant_map", &[DType::F32], 1)?;
                self.expect("weight.nested_quant_map", &quant_map.shape, &[256])?;
                let of = nested_blocksize.filter(|block| *block > 0).unwrap_or(256);
                self.expect("weight.nested_absmax", &scales.shape, &[blocks.div_ceil(of)])?;
                Some(Nested { absmax: scales, quant_map, block: of, offset: nested_offset.unwrap_or(0.0) })
            }
            _ => None,
        };
        self.end()?;
        Ok(FourBit { kind, shape, weight, quant_map, absmax, nested, block })
    }
}

/// `quant_state.bitsandbytes__nf4`, JSON in a tensor of bytes.
#[derive(serde::Deserialize)]
struct State {
    blocksize: usize,
    shape: [usize; 2],
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}
