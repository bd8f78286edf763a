//! `stairwell plan`: what fits into a given memory, before anything is loaded.

use super::{
    Outcome,
    model_args::LoadArgs,
    paged_args::parse_size,
    terminal::{human_bytes, json_line, print},
};
use serde::Serialize;
use stairwell::{
    attention::{BLOCK_SIZE, KvDtype, KvPlan, MemoryPlan},
    backend::cpu::Cpu,
    checkpoint::{CheckpointError, StateDict},
    config::ModelConfig,
    engine::Limits,
    error::{Error, Result},
    model::{self, AttentionShape, WeightBytes, weight_bytes},
    runner::{LoadFormat, read_config},
};
use std::collections::BTreeMap;

/// Say what fits into a given memory: which KV dtype, how long, how many at a time; reads config.json and headers only
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell plan --memory 64MiB
  stairwell plan --model Qwen3-0.6B --memory 8GiB --max-len 32768
  stairwell plan --model DIR --load-format dummy --memory 24GiB --json   (a config.json is enough)")]
pub struct Args {
    #[command(flatten)]
    load: LoadArgs,
    /// Memory for weights, activations, K and V, such as 8GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: u64,
    /// Length of the sequences in tokens, prompt and output [default: the model's context, at most 4096]
    #[arg(long, visible_alias = "max-model-len", value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_len: Option<u32>,
    /// Tokens of one step over all sequences, as for `batch`; `generate` computes a whole prompt in one
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_batched_tokens: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<Outcome> {
    args.load.cpu()?;
    let report = Report::new(&args)?;
    report.check()?;
    print(&if args.json { report.json() } else { report.text() })?;
    Ok(Outcome::Good)
}

/// All figures.
struct Report {
    config: ModelConfig,
    shape: AttentionShape,
    weights: WeightBytes,
    memory: MemoryPlan,
    /// Rows of a step that logits are computed for: one a sequence.
    logit_rows: usize,
    length: usize,
    /// Whether `length` was asked for.
    asked: bool,
    /// The widest dtype first.
    kv: [KvPlan; 3],
}

impl Report {
    fn new(args: &Args) -> Result<Report> {
        let directory = args.load.model.directory()?;
        let config = read_config(&directory)?;
        let (context, asked) = (config.context(), args.max_len.map(|n| n as usize));
        if let Some(asked) = asked.filter(|n| *n > context) {
            let message = format!("--max-len {asked}: the model's context is {context}; give at most that");
            return Err(Error::Usage(message));
        }
        let state_dict = match args.load.load_format {
            LoadFormat::Safetensors => Some(StateDict::open(&directory).map_err(without_weights)?),
            LoadFormat::Dummy => None,
        };
        // The empty model: it knows its parameters, and has none yet.
        let mut model = model::build(&Cpu::default(), &config, context)?;
        let weights = weight_bytes(&mut *model, &config, state_dict.as_ref(), &args.load.rules())?;
        let step_tokens = args.max_batched_tokens as usize;
        let logit_rows = Limits::default().max_num_seqs.min(step_tokens);
        let memory = MemoryPlan {
            memory: args.memory,
            weights: weights.held(),
            activations: config.activation_bytes(step_tokens, logit_rows),
            step_tokens,
        };
        let (shape, length) = (model.attention_shape(), asked.unwrap_or(context.min(4096)));
        let kv = KvDtype::WIDTHS.map(|dtype| memory.kv(&shape, dtype, length));
        Ok(Report { config, shape, weights, memory, logit_rows, length, asked: asked.is_some(), kv })
    }

    /// Whether anything fits at all: the weights, a step, and one block.
    fn check(&self) -> Result<()> {
        let MemoryPlan { memory, weights, activations, .. } = self.memory;
        if self.kv.iter().any(|kv| kv.blocks > 0) {
            return Ok(());
        }
        let block = |kv: &KvPlan| self.memory.kv(&self.shape, kv.dtype, 1).memory_for_one;
        let least = self.kv.iter().map(block).min().unwrap_or(u64::MAX);
        let (what, instead) = match weights > memory {
            true => (
                format!("the weights alone take {weights} bytes ({})", human_bytes(weights)),
                "a smaller model",
            ),
            false => (
                format!(
                    "weights of {weights} bytes and activations of {activations} leave no room for K and V"
                ),
                "a smaller --max-batched-tokens",
            ),
        };
        Err(Error::Request(format!(
            "--memory {memory}: {what}; give at least {least} ({}), or {instead}",
            human_bytes(least)
        )))
    }

    /// The widest dtype in which one sequence of the wanted length fits.
    fn choice(&self) -> Option<&KvPlan> {
        self.kv.iter().find(|kv| kv.sequences > 0)
    }

    fn text(&self) -> String {
        let (length, context) = (self.length, self.config.context());
        let source = if self.asked { "--max-len" } else { "the model's context, at most 4096" };
        let mut text = format!(
            "{} in {} of memory; its context is {context} tokens\n\n",
            self.config.architecture.class_name(),
            human_bytes(self.memory.memory)
        );
        text += &self.memory_lines();
        text += &format!(
            "\n{:8}  {:>15}  {:>14}  {:>16}  limited by  {:>9}\n",
            "KV dtype", "bytes per token", "tokens in all", "longest sequence", "sequences"
        );
        for kv in &self.kv {
            let KvPlan { bytes_per_token, tokens, longest, sequences, .. } = kv;
            let (dtype, limit) = (kv.dtype.to_string(), self.limit(kv));
            text += &format!(
                "{dtype:8}  {bytes_per_token:>15}  {tokens:>14}  {longest:>16}  {limit:10}  {sequences:>9}\n"
            );
        }
        text += &format!(
            "tokens are in blocks of {BLOCK_SIZE}; sequences are of {length} tokens ({source}), at a time: `batch` runs {} unless \
             --max-num-seqs says more\n",
            Limits::default().max_num_seqs
        );
        text + &self.window_line() + "\n" + &self.advice()
    }

    fn memory_lines(&self) -> String {
        let WeightBytes { parameters, tied_copy, skipped } = &self.weights;
        let dtypes: Vec<&str> = parameters.keys().map(String::as_str).collect();
        let mut weights = format!("as stored, {}", dtypes.join(" and "));
        if self.config.tie_word_embeddings {
            weights += "; lm_head is the embedding";
        }
        if *tied_copy > 0 {
            weights += &format!(
                ", and the files hold it twice: {} more if the two differ, which headers do not tell",
                human_bytes(*tied_copy)
            );
        }
        if *skipped > 0 {
            weights += &format!("; {} in the files are not used", human_bytes(*skipped));
        }
        let MemoryPlan { activations, step_tokens, .. } = self.memory;
        let step = format!("about, f32: a step of {step_tokens} tokens, {} with logits", self.logit_rows);
        let room =
            "nine tenths of what the weights leave, as the engine takes; less where activations need more";
        let line =
            |what: &str, bytes: u64, note: &str| format!("{what:11}  {:>9}  {note}\n", human_bytes(bytes));
        line("weights", self.memory.weights, &weights)
            + &line("activations", activations, &step)
            + &line("K and V", self.memory.kv_room(), room)
    }

    /// What the longest sequence is limited by.
    fn limit(&self, kv: &KvPlan) -> &'static str {
        if kv.longest == self.shape.context { "context" } else { "memory" }
    }

    /// What sliding windows save.
    fn window_line(&self) -> String {
        let windows = self.config.sliding_windows.iter().flatten();
        match (windows.max(), self.config.sliding_windows.iter().all(Option::is_some)) {
            (None, _) => String::new(),
            (Some(window), true) => format!(
                "every layer has a sliding window ({window}): blocks behind it are given back while `batch` runs, and a sequence of \
                 {} tokens holds {} blocks at most\n",
                self.length,
                self.memory.blocks_held(&self.shape, self.length)
            ),
            (Some(_), false) => {
                "some layers have a sliding window, which saves nothing: a block holds all layers\n"
                    .to_owned()
            }
        }
    }

    /// What to choose, or what to reduce.
    fn advice(&self) -> String {
        let length = self.length;
        if let Some(KvPlan { dtype, sequences, .. }) = self.choice() {
            return format!(
                "choose --kv-dtype {dtype}: the widest in which {length} tokens fit (sequences at a time: {sequences})\n"
            );
        }
        let [.., narrow] = &self.kv;
        format!(
            "no KV dtype has room for {length} tokens: reduce --max-len to {} (with --kv-dtype {}), or give --memory {} ({}) at least\n",
            narrow.longest,
            narrow.dtype,
            narrow.memory_for_one,
            human_bytes(narrow.memory_for_one)
        )
    }

    fn json(&self) -> String {
        let kv = |kv: &KvPlan| KvFigures {
            dtype: kv.dtype.to_string(),
            bytes_per_token: kv.bytes_per_token,
            blocks: kv.blocks,
            tokens: kv.tokens,
            longest_sequence: kv.longest,
            limited_by: self.limit(kv),
            sequences: kv.sequences,
            memory_for_one_sequence_bytes: kv.memory_for_one,
        };
        json_line(&Figures {
            architecture: self.config.architecture.class_name(),
            context: self.config.context(),
            memory_bytes: self.memory.memory,
            weights_bytes: self.memory.weights,
            weights_bytes_by_dtype: &self.weights.parameters,
            tied_copy_bytes: self.weights.tied_copy,
            skipped_bytes: self.weights.skipped,
            activation_bytes: self.memory.activations,
            max_batched_tokens: self.memory.step_tokens,
            logit_rows: self.logit_rows,
            kv_memory_bytes: self.memory.kv_room(),
            block_size: BLOCK_SIZE,
            max_len: self.length,
            sliding_windows: &self.config.sliding_windows,
            blocks_of_a_sequence: self.memory.blocks_held(&self.shape, self.length),
            kv: self.kv.iter().map(kv).collect(),
            choose_kv_dtype: self.choice().map(|kv| kv.dtype.to_string()),
        })
    }
}

/// The report in JSON.
#[derive(Serialize)]
struct Figures<'a> {
    architecture: &'static str,
    context: usize,
    memory_bytes: u64,
    weights_bytes: u64,
    weights_bytes_by_dtype: &'a BTreeMap<String, u64>,
    tied_copy_bytes: u64,
    skipped_bytes: u64,
    activation_bytes: u64,
    max_batched_tokens: usize,
    logit_rows: usize,
    kv_memory_bytes: u64,
    block_size: usize,
    max_len: usize,
    sliding_windows: &'a [Option<usize>],
    blocks_of_a_sequence: usize,
    kv: Vec<KvFigures>,
    choose_kv_dtype: Option<String>,
}

/// What fits in one KV dtype.
#[derive(Serialize)]
struct KvFigures {
    dtype: String,
    bytes_per_token: u64,
    blocks: usize,
    tokens: usize,
    longest_sequence: usize,
    limited_by: &'static str,
    sequences: usize,
    memory_for_one_sequence_bytes: u64,
}

/// A directory without weights can be planned for all the same.
fn without_weights(error: CheckpointError) -> Error {
    match error {
        CheckpointError::NoWeights { .. } | CheckpointError::MissingShard { .. } => {
            Error::Usage(format!("{error}; --load-format dummy plans with config.json alone"))
        }
        error => error.into(),
    }
}
