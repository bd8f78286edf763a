//! A GGUF file: see [`crate::checkpoint::Gguf`] for the layout. The table of tensors comes first, so all offsets are known before the numbers.

mod metadata;
mod tokenizer;
mod values;
mod vocabulary;

use super::rows::Tensor;
use super::safetensors::{BUFFER, finish};
use super::{Source, Target, Written};
use crate::checkpoint::gguf::{MAGIC, names};
use crate::config::{Architecture, ModelConfig};
use crate::error::{Error, Result};
use crate::model::Parameter;
use crate::tensor::DType;
use names::Rotated;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use values::Pairs;

/// The file's name in its directory.
const FILE: &str = "model.gguf";

/// Data of every tensor begins at a multiple of so many bytes.
const ALIGNMENT: u64 = 32;

/// The factors of RoPE's frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A type's number in ggml.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 1,
        DType::Q8_0 => 8,
        DType::BF16 => 30,
        _ => 0,
    }
}

/// Writes `model.gguf`.
///
/// # Errors
/// Models that GGUF does not have, or whose tokenizer would split texts differently; those of [`Source::each`]; a disk that is full.
pub fn write(
    target: &Target,
    source: &mut Source,
    into: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<Written> {
    let mut pairs = Pairs::default();
    metadata::add(&mut pairs, source, target.dtype)?;
    tokenizer::add(&mut pairs, source)?;
    let factors = metadata::rope_factors(&source.config)?;
    let tensors = tensors(source, target.dtype, factors.as_deref())?;
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    let path = into.join(FILE);
    let io = |error| Error::Io { path: path.clone(), error };
    let mut file = BufWriter::with_capacity(BUFFER, File::create(&path).map_err(io)?);
    file.write_all(&head(&pairs, &tensors)).map_err(io)?;
    let mut at = 0;
    if let Some(factors) = &factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        file.write_all(&bytes).and_then(|()| pad(&mut file, bytes.len() as u64)).map_err(io)?;
        at = 1;
    }
    source.each(|_, matrix| {
        let tensor = &tensors[at];
        at += 1;
        let written = tensor.write(&matrix, &mut file, &|bytes| progress(bytes, total));
        written.map_err(|wrong| wrong.of(tensor, &path))?;
        pad(&mut file, tensor.bytes()).map_err(io)
    })?;
    finish(Some(file), &path)?;
    Ok(Written { tensors: tensors.len(), bytes: total, files: 1 })
}

/// Zeros up to where the next tensor begins.
fn pad(file: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    let zeros = [0; ALIGNMENT as usize];
    file.write_all(&zeros[..(bytes.next_multiple_of(ALIGNMENT) - bytes) as usize])
}

/// All tensors, in the order in which they are written.
fn tensors(source: &Source, dtype: DType, factors: Option<&[f32]>) -> Result<Vec<Tensor>> {
    let factors = factors.map(|factors| Tensor {
        parameter: String::new(),
        name: ROPE_FACTORS.into(),
        dtype: DType::F32,
        shape: vec![factors.len()],
        half: None,
        transposed: false,
    });
    let of = |parameter: &Parameter| tensor(parameter, &source.config, dtype);
    factors.into_iter().map(Ok).chain(source.parameters.iter().map(of)).collect()
}

fn tensor(parameter: &Parameter, config: &ModelConfig, dtype: DType) -> Result<Tensor> {
    let Parameter { name, shape, transposed } = parameter.clone();
    let in_file = names::of_hugging_face(&name).ok_or_else(|| {
        let class = config.architecture.class_name();
        Error::Usage(format!("--to gguf: GGUF has no name for '{name}' of {class}; leave the flag out"))
    })?;
    let in_pairs = matches!(config.architecture, Architecture::Llama | Architecture::Mistral);
    let half = Rotated::of(&in_file).filter(|_| in_pairs).map(|_| config.head_dim / 2);
    Ok(Tensor { dtype: dtype_of(&shape, dtype), parameter: name, name: in_file, shape, half, transposed })
}

/// Vectors stay f32, as llama.cpp wants them. Rows that are no whole blocks are f16, as its quantizer falls back.
fn dtype_of(shape: &[usize], dtype: DType) -> DType {
    match shape {
        [_, inputs] if dtype.is_block() && !inputs.is_multiple_of(dtype.block().0) => DType::F16,
        [_, _] => dtype,
        _ => DType::F32,
    }
}

/// Everything before the data.
fn head(pairs: &Pairs, tensors: &[Tensor]) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((pairs.count() as u64).to_le_bytes());
    head.extend(pairs.bytes());
    let mut offset = 0u64;
    for tensor in tensors {
        head.extend(values::string(&tensor.name));
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|extent| head.extend((*extent as u64).to_le_bytes()));
        head.extend(number(tensor.dtype).to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    head.resize((head.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    head
}
