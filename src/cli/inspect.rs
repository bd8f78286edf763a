//! `stairwell inspect`: what is in a checkpoint.

use super::terminal::{Progress, human_bytes, json_line, print, table};
use super::{model_args::LoadArgs, numbers::count};
use serde::{Serialize, Serializer};
use stairwell::checkpoint::{Checksums, StateDict, checksums, natural_order};
use stairwell::runner::read_config_for;
use stairwell::{config::ModelConfig, error::Result, model::module_tree};

/// Show a checkpoint's module tree, its tensors, and the memory that a run needs; reads headers only
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell inspect
  stairwell inspect --model Qwen3-0.6B --max-model-len 4096
  stairwell inspect --model Qwen3-0.6B --verify --json")]
pub struct Args {
    #[command(flatten)]
    load: LoadArgs,
    /// Length in tokens to work out memory for [default: the model's context, at most 4096]
    #[arg(long, value_name = "N", value_parser = count())]
    max_model_len: Option<usize>,
    /// Read everything and print a checksum for each tensor and one over all
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let directory = args.load.directory()?;
    let format = args.load.load_format;
    let config = read_config_for(&directory, format)?;
    args.load.check_quantization(&config)?;
    let open = || StateDict::open_some(&directory, format, |_| true);
    let state_dict = format.has_files().then(open).transpose()?;
    let length = args.max_model_len.unwrap_or(config.context().min(4096));
    let memory = Memory::new(&config, state_dict.as_ref().map(StateDict::total_bytes), length);
    let sums = match &state_dict {
        Some(state_dict) if args.verify => {
            let progress = Progress::new("checking");
            let total = state_dict.total_bytes();
            Some(checksums(state_dict, |bytes| progress.add(bytes, total)))
        }
        _ => None,
    };
    let report = Report::new(&config, state_dict.as_ref(), sums.as_ref(), memory);
    print(&if args.json { json_line(&report) } else { report.text() })
}

/// Bytes that a run at a given length needs.
#[derive(Serialize)]
struct Memory {
    length: usize,
    weights_bytes: u64,
    /// The most that activations of one forward pass over `length` tokens take at a time, in f32.
    activation_bytes: u64,
    /// K and V of one token in f32, as a cache would keep them (from step 2 on).
    kv_bytes_per_token: u64,
}

impl Memory {
    fn new(c: &ModelConfig, weights: Option<u64>, length: usize) -> Memory {
        let kv = c.num_key_value_heads * c.head_dim;
        let size = c.dtype.map_or(2, |d| d.bytes()) as u64;
        Memory {
            length,
            weights_bytes: weights.unwrap_or_else(|| parameters(c) * size),
            activation_bytes: c.activation_bytes(length, 1),
            kv_bytes_per_token: (2 * c.num_hidden_layers * kv * 4) as u64,
        }
    }
}

/// Parameters that config.json stands for, without biases and norms (less than a thousandth).
fn parameters(c: &ModelConfig) -> u64 {
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let layer = c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size);
    let tables = if c.tie_word_embeddings { 1 } else { 2 };
    (c.num_hidden_layers * layer + tables * c.vocab_size * c.hidden_size) as u64
}

/// What is printed.
#[derive(Serialize)]
struct Report<'a> {
    architecture: &'static str,
    context: usize,
    module_tree: String,
    #[serde(serialize_with = "as_object")]
    tensors: Vec<(&'a str, TensorReport<'a>)>,
    #[serde(skip)]
    shards: usize,
    total_bytes: Option<u64>,
    sha256: Option<&'a str>,
    memory: Memory,
}

#[derive(Serialize)]
struct TensorReport<'a> {
    shape: &'a [usize],
    dtype: String,
    bytes: usize,
    shard: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
}

/// Names are keys, in the order that they have.
fn as_object<S: Serializer>(tensors: &[(&str, TensorReport)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tensors.iter().map(|(name, tensor)| (name, tensor)))
}

impl<'a> Report<'a> {
    fn new(
        config: &ModelConfig,
        state_dict: Option<&'a StateDict>,
        sums: Option<&'a Checksums>,
        memory: Memory,
    ) -> Report<'a> {
        let tensor = |state_dict: &'a StateDict, name: &'a str| {
            let entry = state_dict.entry(name)?;
            let sha256 = sums.and_then(|sums| sums.tensors.get(name)).map(String::as_str);
            let (shape, shard) = (&entry.info.shape[..], &state_dict.shards()[entry.shard].file[..]);
            let (dtype, bytes) = (entry.info.dtype.to_string(), entry.info.range.len());
            Some((name, TensorReport { shape, dtype, bytes, shard, sha256 }))
        };
        let tensors = |state_dict: &'a StateDict| {
            let mut names: Vec<&str> = state_dict.names().collect();
            names.sort_by(|a, b| natural_order(a).cmp(&natural_order(b)));
            names.into_iter().filter_map(|name| tensor(state_dict, name)).collect()
        };
        Report {
            architecture: config.architecture.class_name(),
            context: config.context(),
            module_tree: module_tree(config),
            tensors: state_dict.map(tensors).unwrap_or_default(),
            shards: state_dict.map_or(0, |state_dict| state_dict.shards().len()),
            total_bytes: state_dict.map(StateDict::total_bytes),
            sha256: sums.map(|sums| sums.digest.as_str()),
            memory,
        }
    }

    /// The report as a person reads it.
    fn text(&self) -> String {
        let Report { module_tree, tensors, shards, context, .. } = self;
        let mut text = format!("{module_tree}\n\n");
        if let Some(total) = self.total_bytes {
            let row = |(name, t): &(&str, TensorReport)| {
                let (shape, hash) = (format!("{:?}", t.shape), t.sha256.unwrap_or_default());
                [name.into(), shape.into(), (&t.dtype).into(), t.bytes.into(), t.shard.into(), hash.into()]
            };
            let heads = ["tensor", ">shape", "dtype", ">bytes", "shard", ""];
            text += &table(heads, tensors.iter().map(row));
            text += &format!("{} tensors in {shards} shards, {total} bytes\n", tensors.len());
        }
        if let Some(digest) = self.sha256 {
            text += &format!("digest over all tensors: sha256 {digest}\n");
        }
        let Memory { length, weights_bytes, activation_bytes, kv_bytes_per_token: token } = self.memory;
        let [weights, activations, kv, token] =
            [weights_bytes, activation_bytes, token * length as u64, token].map(human_bytes);
        text + &format!(
            "\nmemory at {length} tokens (context {context}):\n  weights      {weights:>9}\n  activations  {activations:>9}\n  \
             KV cache     {kv:>9}  {token} a token in f32; step 1 keeps none\n"
        )
    }
}
