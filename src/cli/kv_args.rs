//! Flags about attention and the keys and values that it keeps.

use super::numbers::count;
use super::terminal::{human_bytes, print_note};
use clap::Args;
use stairwell::attention::{AttentionKind, KvDtype, KvOptions, KvScalesFile};
use stairwell::error::{Error, Result};
use stairwell::{config::ModelConfig, model::KvScalesFrom, runner::RunnerReport, runner::read_kv_scales};
use std::path::PathBuf;

/// How K and V are kept.
#[derive(Args)]
#[command(next_help_heading = "Attention")]
pub struct KvArgs {
    /// Which attention runs [default: the best in this build]
    #[arg(long, value_enum, value_name = "NAME")]
    attention: Option<AttentionKind>,
    /// How K and V are stored
    #[arg(long, value_enum, default_value_t)]
    pub kv_dtype: KvDtype,
    /// A JSON file with a scale of K and V for each layer, as vLLM's tools write it: K and V in fp8 use those [default: the checkpoint's scales, or
    /// one for each token and head]
    #[arg(long, value_name = "FILE")]
    quantization_param_path: Option<PathBuf>,
    /// The longest sequence in tokens, prompt and output [default: the model's context, or what fits into free memory]
    #[arg(long, value_name = "N", value_parser = count())]
    max_model_len: Option<usize>,
}

impl KvArgs {
    /// The flags as options; `max_chunk` is the longest part of a sequence that a forward pass gets, if it is known.
    ///
    /// # Errors
    /// For what does not go together.
    pub fn options(&self, config: &ModelConfig, max_chunk: Option<usize>) -> Result<KvOptions> {
        let kind = self.attention.unwrap_or(AttentionKind::BEST);
        let dtype = self.kv_dtype;
        if kind == AttentionKind::Recompute && dtype != KvDtype::F32 {
            let message =
                format!("--kv-dtype {dtype}: attention 'recompute' keeps no K and V; leave the flag out");
            return Err(Error::Usage(message));
        }
        let (context, max_model_len) = (config.context(), self.max_model_len);
        if let Some(asked) = max_model_len.filter(|n| *n > context) {
            let message =
                format!("--max-model-len {asked}: the model's context is {context}; give at most that");
            return Err(Error::Usage(message));
        }
        let (attention, scales_file) = (self.attention, self.scales_file(config)?);
        Ok(KvOptions { attention, dtype, scales_file, max_model_len, max_chunk, ..KvOptions::default() })
    }

    /// The file of scales, which only a cache of fp8 uses.
    fn scales_file(&self, config: &ModelConfig) -> Result<Option<KvScalesFile>> {
        let Some(path) = &self.quantization_param_path else { return Ok(None) };
        if self.kv_dtype != KvDtype::Fp8 {
            let (path, dtype) = (path.display(), self.kv_dtype);
            let message = format!(
                "--quantization-param-path {path}: its scales are for --kv-dtype fp8-e4m3, and K and V are {dtype}; give that too, or leave \
                 the flag out"
            );
            return Err(Error::Usage(message));
        }
        read_kv_scales(path, config).map(Some)
    }

    /// Says which scales K and V in fp8 have.
    pub fn note_scales(&self, runner: &RunnerReport) {
        let source = match (runner.memory.scales, &self.quantization_param_path) {
            (Some(KvScalesFrom::Vectors), _) => {
                "one scale for each token and head, made as they are stored".into()
            }
            (Some(KvScalesFrom::Checkpoint), _) => {
                "the checkpoint's scales, one for K and one for V of each layer".into()
            }
            (Some(KvScalesFrom::File), Some(path)) => {
                format!("the scales of {}, one for each layer", path.display())
            }
            (Some(KvScalesFrom::File), None) => "the file's scales, one for each layer".into(),
            (None, _) => return,
        };
        print_note(&format!("K and V in fp8: {source}"));
    }

    /// Says what was reserved, and where the length comes from; `wanted` is the longest sequence of this run, if it is known.
    pub fn note(&self, runner: &RunnerReport, context: usize, wanted: Option<usize>) {
        let (memory, length) = (runner.memory, runner.max_model_len);
        if memory.reserved_bytes == 0 {
            return;
        }
        self.note_scales(runner);
        let source = self.source_of_length(length, context, wanted);
        let slots = if memory.slots == 1 { String::new() } else { format!("{} sequences of ", memory.slots) };
        let bytes = human_bytes(memory.reserved_bytes);
        print_note(&format!("KV cache: room for {slots}{length} tokens ({source}), {bytes}"));
    }

    /// Where the longest sequence's length comes from; `wanted` is the longest sequence of this run, if it is known.
    pub fn source_of_length(&self, length: usize, context: usize, wanted: Option<usize>) -> &'static str {
        match self.max_model_len {
            Some(_) => "--max-model-len",
            None if length == context => "the model's context",
            None if wanted == Some(length) => "the longest request",
            None => "what fits into free memory",
        }
    }
}
