//! `stairwell verify`: module by module against Hugging Face's outputs.

use super::{
    KvArgs, Outcome,
    logits::Outputs,
    model_args::{DeviceArgs, LoadArgs},
    terminal::{colours, json_line, print, print_note, styled},
};
use serde::{Serialize, Serializer};
use stairwell::{
    batch::Batch,
    checkpoint::{CheckpointError, Directory, Header},
    error::{Error, Result},
    machine::Machine,
    runner::{check_prompt, read_config},
    tensor::{Bytes, DType, HostTensor},
};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Compare every module's output with Hugging Face's and name the first that differs
#[derive(clap::Args)]
#[command(after_help = "\
The reference is made with scripts/dump_hf_reference.py, which needs torch and transformers:
  python scripts/dump_hf_reference.py --model DIR --prompt-ids 5,17,3 --out reference.safetensors
  stairwell verify --model DIR --reference reference.safetensors

An element agrees if |ours − reference| ≤ atol + rtol · |reference|. The exit code is 1 if a module differs.")]
pub struct Args {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    on: DeviceArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// File of scripts/dump_hf_reference.py
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Absolute tolerance
    #[arg(long, default_value_t = 1e-4, value_parser = tolerance)]
    atol: f64,
    /// Relative tolerance
    #[arg(long, default_value_t = 1e-5, value_parser = tolerance)]
    rtol: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    if value >= 0.0 { Ok(value) } else { Err(format!("{text} is not 0 or above")) }
}

/// All modules against the reference.
#[derive(Serialize)]
struct Report {
    agrees: bool,
    first_difference: Option<String>,
    atol: f64,
    rtol: f64,
    modules: Vec<Comparison>,
}

/// One module against the reference.
#[derive(Serialize)]
struct Comparison {
    name: String,
    shape: Vec<usize>,
    agrees: bool,
    #[serde(serialize_with = "finite")]
    largest_error: f64,
    /// Of the largest error, as is `column`.
    token: usize,
    column: usize,
}

/// JSON has no NaN.
fn finite<S: Serializer>(error: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if error.is_finite() { serializer.serialize_f64(*error) } else { serializer.serialize_str("nan") }
}

pub fn run(mut args: Args) -> Result<Outcome> {
    args.load.prefer_f32();
    on_device!(args.on, args.load, |machine| run_on(args, machine))
}

fn run_on<B: Machine>(args: Args, machine: B) -> Result<Outcome> {
    let reference = read(&args.reference)?;
    let prompt = prompt_ids(&reference, &args.reference)?;
    let config = read_config(&args.load.model.directory()?)?;
    check_prompt(&config, &prompt)?;
    let kv = args.kv.options(&config, Some(prompt.len()))?;
    let mut runner = args.load.load(machine, Some(config), Some(prompt.len()), kv, |_| ())?;
    runner.check_prompt(&prompt)?;
    let mut batch = Batch::of(&prompt);
    batch.want_all_logits();
    let mut outputs = Outputs::default();
    let logits = runner.forward(&batch, Some(&mut outputs))?;
    let logits =
        HostTensor::from_f32(&[prompt.len(), runner.config.vocab_size], &runner.backend.download(&logits)?);
    outputs.0.push(("logits".into(), logits));

    let mut compared = Vec::new();
    for (name, ours) in &outputs.0 {
        if let Some(theirs) = reference.get(name) {
            compared.push(compare(name, ours, theirs, &args)?);
        }
    }
    if compared.is_empty() {
        return Err(bad_reference(&args.reference, "it holds no module of this model"));
    }
    let seen = |name: &str| name.ends_with("_ids") || compared.iter().any(|c| c.name == name);
    let unseen: Vec<&str> = reference.keys().map(String::as_str).filter(|name| !seen(name)).collect();
    if !unseen.is_empty() {
        print_note(&format!("not compared, since this model shows no such module: {}", unseen.join(", ")));
    }
    let first_difference = compared.iter().find(|c| !c.agrees).map(|c| c.name.clone());
    let (agrees, atol, rtol) = (first_difference.is_none(), args.atol, args.rtol);
    let report = Report { agrees, first_difference, atol, rtol, modules: compared };
    print(&if args.json { json_line(&report) } else { table(&report) })?;
    Ok(if agrees { Outcome::Good } else { Outcome::Bad })
}

/// Reads a whole safetensors file, checked like a shard.
fn read(path: &Path) -> Result<BTreeMap<String, HostTensor>> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let directory = Directory::Disk(if parent == Path::new("") { ".".into() } else { parent.into() });
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let absent = || CheckpointError::Io {
        path: path.into(),
        error: io::Error::new(io::ErrorKind::NotFound, "there is no such file"),
    };
    let owner = directory.map(&name)?.ok_or_else(absent)?;
    let header = Header::parse((*owner).as_ref(), path)?;
    let view = |(name, info): (String, stairwell::checkpoint::TensorInfo)| {
        let data = Bytes::new(owner.clone(), info.range);
        (name, HostTensor { dtype: info.dtype, shape: info.shape, data })
    };
    Ok(header.tensors.into_iter().map(view).collect())
}

fn bad_reference(path: &Path, reason: &str) -> Error {
    let path = path.display();
    Error::Usage(format!("--reference {path}: {reason}; make it with scripts/dump_hf_reference.py"))
}

fn prompt_ids(reference: &BTreeMap<String, HostTensor>, path: &Path) -> Result<Vec<u32>> {
    let tensor = reference.get("prompt_ids").filter(|t| t.dtype == DType::I64);
    let tensor = tensor.ok_or_else(|| bad_reference(path, "it has no tensor 'prompt_ids' of dtype I64"))?;
    let (ids, _) = tensor.data.as_chunks::<8>();
    let id = |bytes: &[u8; 8]| u32::try_from(i64::from_le_bytes(*bytes)).ok();
    let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
    ids.ok_or_else(|| bad_reference(path, "'prompt_ids' holds a number that is no token id"))
}

fn compare(name: &str, ours: &HostTensor, theirs: &HostTensor, args: &Args) -> Result<Comparison> {
    if theirs.shape != ours.shape || !theirs.dtype.is_weight() {
        let reason = format!("'{name}' is {theirs:?}, and this model gives F32 {:?}", ours.shape);
        return Err(bad_reference(&args.reference, &reason));
    }
    let width = ours.shape.last().copied().unwrap_or(1).max(1);
    let (mut largest_error, mut at, mut agrees) = (0.0, (0, 0), true);
    for (i, (a, b)) in ours.to_f32().into_iter().zip(theirs.to_f32()).enumerate() {
        let error = (a as f64 - b as f64).abs();
        // A NaN agrees with nothing.
        agrees &= error <= args.atol + args.rtol * (b as f64).abs();
        if error > largest_error || error.is_nan() && !f64::is_nan(largest_error) {
            (largest_error, at) = (error, (i / width, i % width));
        }
    }
    let (name, shape, (token, column)) = (name.into(), ours.shape.clone(), at);
    Ok(Comparison { name, shape, agrees, largest_error, token, column })
}

fn table(report: &Report) -> String {
    let Report { modules, atol, rtol, .. } = report;
    let colour = colours(&io::stdout());
    let width = modules.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>12}  {:>13}\n", "module", "shape", "largest error");
    for c in modules {
        let shape = format!("{:?}", c.shape);
        let verdict = if c.agrees { styled("ok", "32", colour) } else { styled("DIFFERS", "1;31", colour) };
        text += &format!("{:width$}  {shape:>12}  {:13.2e}  {verdict}\n", c.name, c.largest_error);
    }
    match modules.iter().find(|c| !c.agrees) {
        None => text + &format!("all {} modules agree (atol {atol}, rtol {rtol})\n", modules.len()),
        Some(Comparison { name, largest_error, token, column, .. }) => {
            text + &format!(
                "the first module that differs is {name}: its largest error is {largest_error:.2e}, at token {token}, column \
                 {column}\n"
            )
        }
    }
}
