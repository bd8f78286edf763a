//! `stairwell plan`: what fits into a given memory, before anything is loaded.

use super::terminal::{human_bytes, json_line, print, table};
use super::{model_args::LoadArgs, numbers::count, paged_args::parse_size};
use serde::Serialize;
use stairwell::attention::{BLOCK_SIZE, KvDtype, KvPlan, MemoryPlan};
use stairwell::checkpoint::{CheckpointError, StateDict};
use stairwell::config::ModelConfig;
use stairwell::error::{Error, Result};
use stairwell::model::{AttentionShape, Form, Model, WeightBytes, form_bytes, weight_bytes};
use stairwell::runner::read_config_for;
use stairwell::{backend::cpu::Cpu, engine::Limits, model, tensor::DType};

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
    #[arg(long, visible_alias = "max-model-len", value_name = "N", value_parser = count())]
    max_len: Option<usize>,
    /// Tokens of one step over all sequences, as for `batch`; `generate` computes a whole prompt in one
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count())]
    max_batched_tokens: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    args.load.cpu()?;
    let report = Report::new(&args)?;
    print(&if args.json { json_line(&report) } else { report.text() })
}

/// The empty model, which knows its parameters and has none yet; and the bytes of its weights, by the headers of their files.
///
/// # Errors
/// As those of a load, as far as headers tell.
pub fn weights_of(load: &LoadArgs, config: &ModelConfig) -> Result<(Box<dyn Model<Cpu>>, WeightBytes)> {
    let (directory, format) = (load.directory()?, load.load_format);
    let open = || StateDict::open_some(&directory, format, |_| true).map_err(without_weights);
    let state_dict = format.has_files().then(open).transpose()?;
    let mut model = model::build(&Cpu::default(), config, config.context())?;
    let weights = weight_bytes(&mut *model, config, state_dict.as_ref(), &load.rules())?;
    Ok((model, weights))
}

/// All figures.
#[derive(Serialize)]
struct Report {
    architecture: &'static str,
    context: usize,
    #[serde(flatten)]
    memory: MemoryPlan,
    #[serde(flatten)]
    weights: WeightBytes,
    /// Rows of a step that logits are computed for: one a sequence.
    logit_rows: usize,
    kv_memory_bytes: u64,
    block_size: usize,
    max_len: usize,
    /// Whether `max_len` was asked for.
    #[serde(skip)]
    asked: bool,
    #[serde(skip)]
    tied: bool,
    sliding_windows: Vec<Option<usize>>,
    blocks_of_a_sequence: usize,
    /// The widest dtype first.
    kv: [KvPlan; 4],
    choose_kv_dtype: Option<String>,
    /// The same model with packed weights, where they are plain numbers now.
    packed: Vec<PackedPlan>,
}

/// What fits if the weights are packed.
#[derive(Serialize)]
struct PackedPlan {
    weights: Form,
    weights_bytes: u64,
    kv_memory_bytes: u64,
    /// The widest in which a sequence of the wanted length fits, or the narrowest.
    kv_dtype: KvDtype,
    longest_sequence: usize,
    sequences: usize,
}

/// The head of the table of packed weights.
const PACKED_HEADS: [&str; 6] =
    ["packed", ">weights", ">K and V", "KV dtype", ">longest sequence", ">sequences"];

/// The table's head.
const HEADS: [&str; 6] =
    ["KV dtype", ">bytes per token", ">tokens in all", ">longest sequence", "limited by", ">sequences"];

impl Report {
    fn new(args: &Args) -> Result<Report> {
        let directory = args.load.directory()?;
        let format = args.load.load_format;
        let config = read_config_for(&directory, format)?;
        args.load.check_quantization(&config)?;
        let (context, asked) = (config.context(), args.max_len);
        if let Some(asked) = asked.filter(|n| *n > context) {
            let message = format!("--max-len {asked}: the model's context is {context}; give at most that");
            return Err(Error::Usage(message));
        }
        let (mut model, weights) = weights_of(&args.load, &config)?;
        let step_tokens = args.max_batched_tokens;
        let logit_rows = Limits::default().max_num_seqs.min(step_tokens);
        let memory = MemoryPlan {
            memory: args.memory,
            weights: weights.held(),
            activations: config.activation_bytes(step_tokens, logit_rows),
            step_tokens,
        };
        let (shape, max_len) = (model.attention_shape(), asked.unwrap_or(context.min(4096)));
        let kv = KvDtype::ALL.map(|dtype| memory.kv(&shape, dtype, max_len));
        let stored = config.dtype.filter(|dtype| dtype.is_weight()).unwrap_or(DType::BF16);
        let mut packed = Vec::new();
        for form in Form::ALL.into_iter().filter(|_| is_plain(&weights)) {
            let weights = form_bytes(&mut *model, &config, form, stored_dtype(&weights).unwrap_or(stored))?;
            packed.push(PackedPlan::new(form, MemoryPlan { weights, ..memory }, &shape, max_len));
        }
        if kv.iter().all(|kv| kv.blocks == 0) {
            return Err(nothing_fits(&memory, &shape, &packed));
        }
        Ok(Report {
            architecture: config.architecture.class_name(),
            context,
            memory,
            weights,
            logit_rows,
            kv_memory_bytes: memory.kv_room(),
            block_size: BLOCK_SIZE,
            max_len,
            asked: asked.is_some(),
            tied: config.tie_word_embeddings,
            sliding_windows: config.sliding_windows,
            blocks_of_a_sequence: memory.blocks_held(&shape, max_len),
            kv,
            choose_kv_dtype: choice(&kv).map(|kv| kv.dtype.to_string()),
            packed,
        })
    }

    fn text(&self) -> String {
        let Report { architecture, context, max_len, .. } = self;
        let source = if self.asked { "--max-len" } else { "the model's context, at most 4096" };
        let row = |kv: &KvPlan| {
            let KvPlan { dtype, bytes_per_token: bytes, tokens, longest, limited_by, sequences, .. } = kv;
            [dtype.into(), bytes.into(), tokens.into(), longest.into(), limited_by.into(), sequences.into()]
        };
        let memory = human_bytes(self.memory.memory);
        format!("{architecture} in {memory} of memory; its context is {context} tokens\n\n")
            + &self.memory_lines()
            + "\n"
            + &table(HEADS, self.kv.iter().map(row))
            + &format!(
                "tokens are in blocks of {BLOCK_SIZE}; sequences are of {max_len} tokens ({source}), at a time: `batch` runs {} unless \
                 --max-num-seqs says more\n",
                Limits::default().max_num_seqs
            )
            + &self.window_line()
            + "\n"
            + &self.advice()
            + &self.packed_lines()
    }

    /// What packed weights would leave.
    fn packed_lines(&self) -> String {
        if self.packed.is_empty() {
            return String::new();
        }
        let row = |plan: &PackedPlan| {
            let [weights, kv] = [plan.weights_bytes, plan.kv_memory_bytes].map(human_bytes);
            let (longest, sequences) = (plan.longest_sequence, plan.sequences);
            [
                plan.weights.to_string().into(),
                weights.into(),
                kv.into(),
                plan.kv_dtype.into(),
                longest.into(),
                sequences.into(),
            ]
        };
        "\n".to_owned()
            + &table(PACKED_HEADS, self.packed.iter().map(row))
            + "the same model, by arithmetic: `stairwell quantize` writes the first three, `convert` q8_0, llama.cpp's llama-quantize the rest\n"
    }

    fn memory_lines(&self) -> String {
        let WeightBytes { parameters, tied_copy, skipped } = &self.weights;
        let dtypes: Vec<&str> = parameters.keys().map(String::as_str).collect();
        let mut weights = format!("as stored, {}", dtypes.join(" and "));
        if self.tied {
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
            + &line("K and V", self.kv_memory_bytes, room)
    }

    /// What sliding windows save.
    fn window_line(&self) -> String {
        let windows = self.sliding_windows.iter().flatten();
        match (windows.max(), self.sliding_windows.iter().all(Option::is_some)) {
            (None, _) => String::new(),
            (Some(window), true) => format!(
                "every layer has a sliding window ({window}): blocks behind it are given back while `batch` runs, and a sequence of \
                 {} tokens holds {} blocks at most\n",
                self.max_len, self.blocks_of_a_sequence
            ),
            (Some(_), false) => {
                "some layers have a sliding window, which saves nothing: a block holds all layers\n"
                    .to_owned()
            }
        }
    }

    /// What to choose, or what to reduce.
    fn advice(&self) -> String {
        let length = self.max_len;
        if let Some(KvPlan { dtype, sequences, .. }) = choice(&self.kv) {
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
}

impl PackedPlan {
    fn new(weights: Form, memory: MemoryPlan, shape: &AttentionShape, length: usize) -> PackedPlan {
        let kv = KvDtype::ALL.map(|dtype| memory.kv(shape, dtype, length));
        let KvPlan { dtype, longest, sequences, .. } = *choice(&kv).unwrap_or(&kv[kv.len() - 1]);
        PackedPlan {
            weights,
            weights_bytes: memory.weights,
            kv_memory_bytes: memory.kv_room(),
            kv_dtype: dtype,
            longest_sequence: longest,
            sequences,
        }
    }
}

/// Whether all weights are numbers of one dtype or several, and none are codes.
fn is_plain(weights: &WeightBytes) -> bool {
    weights.parameters.keys().all(|label| label.parse().is_ok_and(DType::is_weight))
}

/// The dtype of most weights.
fn stored_dtype(weights: &WeightBytes) -> Option<DType> {
    weights.parameters.iter().max_by_key(|(_, bytes)| **bytes)?.0.parse().ok()
}

/// The widest dtype in which one sequence of the wanted length fits.
fn choice(kv: &[KvPlan]) -> Option<&KvPlan> {
    kv.iter().find(|kv| kv.sequences > 0)
}

/// Not even the weights, a step and one block.
fn nothing_fits(plan: &MemoryPlan, shape: &AttentionShape, packed: &[PackedPlan]) -> Error {
    let MemoryPlan { memory, weights, activations, .. } = plan;
    let least = KvDtype::ALL.iter().map(|dtype| plan.kv(shape, *dtype, 1).memory_for_one).min();
    let least = least.unwrap_or(u64::MAX);
    let (what, instead) = match weights > memory {
        true => {
            (format!("the weights alone take {weights} bytes ({})", human_bytes(*weights)), "a smaller model")
        }
        false => (
            format!("weights of {weights} bytes and activations of {activations} leave no room for K and V"),
            "a smaller --max-batched-tokens",
        ),
    };
    // The least packed form that leaves room.
    let fits = packed.iter().find(|packed| packed.longest_sequence > 0).map_or(String::new(), |packed| {
        format!("; as {} its weights take {} and it fits", packed.weights, human_bytes(packed.weights_bytes))
    });
    Error::Request(format!(
        "--memory {memory}: {what}; give at least {least} ({}), or {instead}{fits}",
        human_bytes(least)
    ))
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
