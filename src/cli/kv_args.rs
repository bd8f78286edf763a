//! Flags about attention and the keys and values that it keeps.

use super::numbers::count;
use super::terminal::{human_bytes, print_note};
use clap::Args;
use stairwell::attention::{AttentionKind, KvDtype, KvOptions};
use stairwell::error::{Error, Result};
use stairwell::{config::ModelConfig, runner::RunnerReport};

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
        let attention = self.attention;
        Ok(KvOptions { attention, dtype, max_model_len, max_chunk, ..KvOptions::default() })
    }

    /// Says what was reserved, and where the length comes from; `wanted` is the longest sequence of this run, if it is known.
    pub fn note(&self, runner: &RunnerReport, context: usize, wanted: Option<usize>) {
        let (memory, length) = (runner.memory, runner.max_model_len);
        if memory.reserved_bytes == 0 {
            return;
        }
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
