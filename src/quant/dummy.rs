//! `--load-format dummy` of packed weights: tensors of the right shapes with random codes.

use super::{AwqVersion, Quantization};
use crate::checkpoint::dummy_tensor;
use crate::config::{ModelConfig, Place};
use crate::tensor::{DType, HostTensor};
use crate::{error::Result, tensor::Bytes};
use std::sync::Arc;

/// The tensors of the parameter `name`, [outputs, inputs], by what their names end with; `None` if it would not be packed.
///
/// # Errors
/// [`CheckpointError::NoMemory`](crate::checkpoint::CheckpointError::NoMemory).
pub fn dummy_tensors(
    config: &ModelConfig,
    name: &str,
    [n, k]: [usize; 2],
) -> Result<Option<Vec<(String, HostTensor)>>> {
    let Some(module) = name.strip_suffix(".weight") else { return Ok(None) };
    let layer = matches!(config.architecture.names().place(name), Some(Place::Layer(_)));
    let Some(quantization) = config.quantization.as_ref().filter(|_| layer) else { return Ok(None) };
    let bytes = |dtype: DType, shape: &[usize]| random(name, dtype, shape);
    let floats = |shape: &[usize]| constant(shape, 1e-4);
    let tensors = match quantization {
        Quantization::Gptq(config) => {
            let (bits, group_size) = config.of(module);
            let groups = k.div_ceil(group_size.unwrap_or(k));
            vec![
                ("qweight", bytes(DType::I32, &[k * bits / 32, n])?),
                ("qzeros", bytes(DType::I32, &[groups, (n * bits).div_ceil(32)])?),
                ("scales", floats(&[groups, n])),
            ]
        }
        Quantization::Awq { group_size, version } => {
            let groups = k.div_ceil(group_size.unwrap_or(k));
            let padded = groups.next_multiple_of(8);
            match version {
                AwqVersion::Gemm => vec![
                    ("qweight", bytes(DType::I32, &[k, n / 8])?),
                    ("qzeros", bytes(DType::I32, &[groups, n / 8])?),
                    ("scales", floats(&[groups, n])),
                ],
                AwqVersion::Gemv => vec![
                    ("qweight", bytes(DType::I32, &[n, k / 8])?),
                    ("qzeros", bytes(DType::I32, &[n, padded / 8])?),
                    ("scales", floats(&[n, padded])),
                ],
                AwqVersion::GemvFast => vec![
                    ("qweight", bytes(DType::I16, &[n / 4, k])?),
                    ("qzeros", floats(&[padded, n])),
                    ("scales", floats(&[padded, n])),
                ],
            }
        }
        Quantization::SqueezeLlm { bits } => vec![
            ("qweight", bytes(DType::I32, &[k * bits / 32, n])?),
            ("lookup_table", dummy_tensor(name, DType::F32, &[n, 1 << bits])?),
        ],
        Quantization::Fp8 { block } => {
            let [rows, cols] = block.unwrap_or([n, k]);
            let part = if block.is_some() { "weight_scale_inv" } else { "weight_scale" };
            vec![("weight", e4m3(name, &[n, k])?), (part, floats(&[n.div_ceil(rows), k.div_ceil(cols)]))]
        }
        Quantization::CompressedTensors(schemes) => {
            let Some(scheme) = schemes.iter().find(|scheme| scheme.is_of(module)) else { return Ok(None) };
            let shape = [n, k].iter().flat_map(|n| (*n as u64).to_le_bytes()).collect();
            match scheme.bits {
                8 if scheme.group_size.is_none() => {
                    vec![("weight", bytes(DType::I8, &[n, k])?), ("weight_scale", floats(&[n, 1]))]
                }
                bits => vec![
                    ("weight_packed", bytes(DType::I32, &[n, (k * bits).div_ceil(32)])?),
                    ("weight_scale", floats(&[n, k.div_ceil(scheme.group_size.unwrap_or(k))])),
                    ("weight_shape", HostTensor::from_bytes(DType::I64, &[2], shape)),
                ],
            }
        }
        Quantization::BitsAndBytes => {
            vec![("weight", bytes(DType::I8, &[n, k])?), ("SCB", constant_f32(&[n], 1e-2))]
        }
    };
    Ok(Some(tensors.into_iter().map(|(part, tensor)| (format!("{module}.{part}"), tensor)).collect()))
}

/// Random bits.
fn random(name: &str, dtype: DType, shape: &[usize]) -> Result<HostTensor> {
    // The low bytes of random f32 are as good as any.
    let size = shape.iter().product::<usize>() * dtype.bytes();
    let numbers = dummy_tensor(name, DType::F32, &[size.div_ceil(4)])?;
    Ok(HostTensor { dtype, shape: shape.to_vec(), data: numbers.data.part(0..size) })
}

/// Random e4m3 floats, none of them NaN or smaller than 2: a scaled tensor has few small ones, and some CPUs take long for subnormals.
fn e4m3(name: &str, shape: &[usize]) -> Result<HostTensor> {
    let bits = random(name, DType::F8_E4M3, shape)?;
    let bytes: Vec<u8> = bits.data.iter().map(|byte| byte & 0xb7 | 0x40).collect();
    let all = 0..bytes.len();
    Ok(HostTensor { data: Bytes::new(Arc::new(bytes), all), ..bits })
}

/// The same number everywhere, f16.
fn constant(shape: &[usize], number: f32) -> HostTensor {
    let bytes = half::f16::from_f32(number).to_le_bytes().repeat(shape.iter().product());
    HostTensor::from_bytes(DType::F16, shape, bytes)
}

fn constant_f32(shape: &[usize], number: f32) -> HostTensor {
    HostTensor::from_f32(shape, &vec![number; shape.iter().product()])
}
