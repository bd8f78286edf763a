//! `stairwell quantize`: a checkpoint with packed weights.

use super::model_args::ModelArgs;
use super::terminal::{Progress, human_bytes, print, print_note};
use serde_json::Value;
use stairwell::{
    attention::KvOptions,
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    checkpoint::{CheckpointError, Directory, StateDict, write_safetensors},
    config::{Architecture, ModelConfig, Place},
    error::{Error, Result},
    files,
    model::Observer,
    quant::quantize::{Hessian, Method, Recipe},
    runner::{LoadOptions, ModelRunner, read_config},
    tensor::HostTensor,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Pack a checkpoint's weights into 8 bits and less
#[derive(clap::Args)]
#[command(after_help = "\
Matrices of the layers are packed; embeddings, lm_head and norms stay as they are. With --calibration, GPTQ's algorithm
sees what each matrix multiplies when the model reads that text; without, weights are rounded to the nearest code.

Examples:
  stairwell quantize --out demo-int4 --method gptq --group-size 32
  stairwell quantize --model Qwen3-0.6B --out Qwen3-0.6B-int4 --method gptq --calibration text.txt
  stairwell quantize --model Qwen3-0.6B --out Qwen3-0.6B-fp8 --method fp8")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Directory to write; it must not exist yet, or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The layout that is written
    #[arg(long, value_enum, value_name = "METHOD")]
    method: Method,
    /// Bits of a weight: 2, 3, 4 or 8 for gptq, 4 for awq-rtn [default: 4]
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
    /// Inputs that share a scale, for gptq and awq-rtn [default: 128]
    #[arg(long, value_name = "N")]
    group_size: Option<usize>,
    /// Let the zero point be anywhere, for gptq; some kernels read only codes around the middle
    #[arg(long)]
    asymmetric: bool,
    /// A text that the model reads, for gptq's algorithm
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Tokens of the text that are read at most
    #[arg(long, value_name = "N", default_value_t = 2048)]
    calibration_tokens: usize,
    /// Round to the nearest code all the same: the text only measures the errors
    #[arg(long, requires = "calibration")]
    round: bool,
}

/// Tokens of a piece of the calibration text.
const PIECE: usize = 512;

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let refuse = |message: String| Err(Error::Usage(message));
        let grouped = matches!(self.method, Method::Gptq | Method::AwqRtn);
        if let (false, Some(_)) = (grouped, self.group_size) {
            return refuse("--group-size: only gptq and awq-rtn have groups".into());
        }
        let bits = self.bits.unwrap_or(if grouped { 4 } else { 8 });
        let known: &[usize] = match self.method {
            Method::Gptq => &[2, 3, 4, 8],
            Method::AwqRtn => &[4],
            Method::Int8 | Method::Fp8 => &[8],
        };
        if !known.contains(&bits) {
            let list = known.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            return refuse(format!("--bits {bits}: this method has {list}"));
        }
        if self.calibration.is_some() && self.method != Method::Gptq {
            return refuse("--calibration: only gptq's algorithm reads a text".into());
        }
        let group_size = self.group_size.unwrap_or(128);
        if group_size == 0 {
            return refuse("--group-size 0: a group has one input at least".into());
        }
        let (symmetric, nearest) = (!self.asymmetric, self.round);
        Ok(Recipe { method: self.method, bits, group_size, symmetric, nearest })
    }
}

pub fn run(args: Args) -> Result<()> {
    let recipe = args.recipe()?;
    let directory = args.model.directory()?;
    let config = read_config(&directory)?;
    if let Some(quantization) = &config.quantization {
        let message = format!(
            "the weights are packed already ({}); give the checkpoint they were made of",
            quantization.method()
        );
        return Err(Error::Usage(message));
    }
    check_empty(&args.out)?;
    let state_dict = StateDict::open(&directory)?;
    let hessians = match &args.calibration {
        Some(file) => calibrate(&args, &directory, &config, file)?,
        None => BTreeMap::new(),
    };
    let (tensors, lines) = pack(&recipe, &config, &state_dict, &hessians)?;
    let bytes = tensors.iter().map(|(_, tensor)| tensor.data.len() as u64).sum();
    write(&args.out, &directory, &recipe, &tensors)?;
    drop(tensors);
    let runner = ModelRunner::load(&Directory::Disk(args.out.clone()), LoadOptions::default())?;
    let (before, after) = (human_bytes(state_dict.total_bytes()), human_bytes(bytes));
    let what = runner.config.quantization.as_ref().map_or("", |quantization| quantization.method());
    print(&format!(
        "{lines}{}: {what}, {after} of tensors (before: {before}); it loads\n",
        args.out.display()
    ))
}

/// Whether a directory can be written.
fn check_empty(out: &Path) -> Result<()> {
    let used = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file();
    match used {
        true => Err(Error::Usage(format!("--out {}: it exists and is not empty", out.display()))),
        false => Ok(()),
    }
}

/// What the matrices of the layers multiply when the model reads a text.
fn calibrate(
    args: &Args,
    directory: &Directory,
    config: &ModelConfig,
    file: &Path,
) -> Result<BTreeMap<String, Hessian>> {
    let text =
        files::read(file, 64 << 20).map_err(|error| CheckpointError::Io { path: file.into(), error })?;
    let text = String::from_utf8(text)
        .map_err(|_| Error::Usage(format!("--calibration {}: it is not UTF-8", file.display())))?;
    let mut ids = args.model.tokenizer()?.encode(&text, true)?;
    ids.truncate(args.calibration_tokens);
    if ids.len() < 64 {
        print_note(&format!("the calibration text has {} tokens; a few hundred are better", ids.len()));
    }
    let piece = PIECE.min(config.context());
    let options =
        LoadOptions { max_length: Some(piece), kv: KvOptions::recompute(), ..LoadOptions::default() };
    let mut runner = ModelRunner::load_on(Cpu::default(), directory, options)?;
    let (mut inputs, progress) = (Inputs::default(), Progress::new("reading the calibration text"));
    for piece in ids.chunks(piece) {
        runner.forward(&Batch::of(piece), Some(&mut inputs as &mut dyn Observer<Cpu>))?;
        progress.add(piece.len() as u64, ids.len() as u64);
    }
    Ok(inputs.0)
}

/// H of every module's inputs.
#[derive(Default)]
struct Inputs(BTreeMap<String, Hessian>);

impl Observer<Cpu> for Inputs {
    fn output(&mut self, _: &Cpu, _: &str, _: &<Cpu as Backend>::Tensor) {}

    fn input(&mut self, _: &Cpu, names: &[String], input: &<Cpu as Backend>::Tensor) {
        use stairwell::backend::Shaped;
        // Modules that are multiplied together have the same inputs.
        for name in names {
            let hessian = self.0.entry(name.clone()).or_insert_with(|| Hessian::new(input.cols()));
            hessian.add(input.data());
        }
    }
}

/// Tensors by name.
type Tensors = Vec<(String, HostTensor)>;

/// All tensors of the packed checkpoint, and a line for each packed matrix.
fn pack(
    recipe: &Recipe,
    config: &ModelConfig,
    state_dict: &StateDict,
    hessians: &BTreeMap<String, Hessian>,
) -> Result<(Tensors, String)> {
    let (mut tensors, mut lines, progress) = (Vec::new(), String::new(), Progress::new("packing"));
    for (name, tensor) in state_dict.tensors() {
        progress.add(tensor.data.len() as u64, state_dict.total_bytes());
        let place = config.architecture.names().place(&name);
        let matrix =
            tensor.shape.len() == 2 && tensor.dtype.is_weight() && matches!(place, Some(Place::Layer(_)));
        let Some(module) = name.strip_suffix(".weight").filter(|_| matrix) else {
            tensors.push((name, tensor));
            continue;
        };
        let (mut w, [rows, cols]) = (tensor.to_f32(), [tensor.shape[0], tensor.shape[1]]);
        let mut shape = [rows, cols];
        if config.architecture == Architecture::Gpt2 {
            // Its Conv1D is stored [inputs, outputs].
            w = (0..rows * cols).map(|at| w[at % rows * cols + at / rows]).collect();
            shape = [cols, rows];
        }
        let names = config.architecture.names();
        let hessian = hessians.get(module).or_else(|| hessians.get(&format!("{}{module}", names.prefix)));
        let packed = recipe.quantize(module, &w, shape, hessian)?;
        let _ = writeln!(lines, "{module}: error {:.4}", packed.error);
        tensors.extend(packed.tensors);
        tensor.data.release();
    }
    Ok((tensors, lines))
}

/// Writes the directory: the weights last, so that a directory that is not whole does not load.
fn write(out: &Path, from: &Directory, recipe: &Recipe, tensors: &[(String, HostTensor)]) -> Result<()> {
    let io = |path: PathBuf| move |error| CheckpointError::Io { path, error };
    fs::create_dir_all(out).map_err(io(out.into()))?;
    for file in from.list()? {
        let weights = [".safetensors", ".safetensors.index.json", ".bin", ".gguf", ".pt", ".pth"];
        let kept =
            !weights.iter().any(|end| file.ends_with(end)) && file != "config.json" && !file.starts_with('.');
        if !kept || !from.has(&file) {
            continue;
        }
        if let Some(bytes) = from.read(&file)? {
            fs::write(out.join(&file), bytes).map_err(io(out.join(&file)))?;
        }
    }
    let json = from.read("config.json")?.unwrap_or_default();
    let mut config: Value = serde_json::from_slice(&json).map_err(|error| Error::Usage(error.to_string()))?;
    config["quantization_config"] = recipe.config();
    let path = out.join("config.json");
    fs::write(&path, format!("{config:#}\n")).map_err(io(path))?;
    Ok(write_safetensors(&out.join("model.safetensors"), tensors)?)
}
