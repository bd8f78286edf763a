//! `stairwell load`: a load by itself, told step by step.

use super::model_args::LoadArgs;
use super::terminal::{human_bytes, peak_memory, print};
use stairwell::checkpoint::{Directory, LoadFormat, StateDict};
use stairwell::{attention::KvOptions, error::Result, model::LoadEvent};
use std::{fmt::Write, time::Instant};

/// Load a model and say how long it took; --trace prints each step on the way
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  stairwell load --trace")]
pub struct Args {
    #[command(flatten)]
    load: LoadArgs,
    /// Print each step: index, shards, and which tensor became which parameter
    #[arg(long)]
    trace: bool,
}

pub fn run(args: Args) -> Result<()> {
    let directory = args.load.directory()?;
    let start = Instant::now();
    let mut lines = String::new();
    let mut bytes = 0;
    let format = args.load.load_format;
    let open = || StateDict::open_some(&directory, format, |_| true);
    let state_dict = (args.trace && format.has_files()).then(open).transpose()?;
    if let Some(state_dict) = &state_dict {
        trace_files(&mut lines, &directory, format, state_dict);
    }
    let events = |event: LoadEvent| {
        if let LoadEvent::Loaded { matrix, .. } = &event {
            bytes += matrix.bytes();
        }
        if let Some(state_dict) = &state_dict {
            trace_event(&mut lines, state_dict, &event);
        }
    };
    let runner = args.load.load(args.load.cpu()?, None, None, KvOptions::recompute(), events)?;
    let memory = peak_memory().map_or("unknown".into(), human_bytes);
    let (model, bytes) = (runner.config.architecture.class_name(), human_bytes(bytes));
    let seconds = start.elapsed().as_secs_f64();
    let _ = writeln!(lines, "{model} loaded: {bytes} in {seconds:.3} s, peak memory {memory}");
    print(&lines)
}

fn trace_files(lines: &mut String, directory: &Directory, format: LoadFormat, state_dict: &StateDict) {
    let config = format.configs().iter().find(|file| directory.has(file)).unwrap_or(&"config.json");
    let config = directory.path(config);
    let _ = writeln!(lines, "config   {}: the model's shapes", config.display());
    if let Some(index) = state_dict.index() {
        let (tensors, shards) = (state_dict.names().count(), state_dict.shards().len());
        let _ = writeln!(lines, "index    {index}: {tensors} tensors in {shards} shards");
    }
    for shard in state_dict.shards() {
        let (size, tensors) = ((*shard.owner).as_ref().len() as u64, shard.header.tensors.len());
        let (file, size) = (&shard.file, human_bytes(size));
        let how = if shard.copied { "copied in another order" } else { "mapped, header read" };
        let _ = writeln!(lines, "shard    {file}: {size} {how}, {tensors} tensors");
    }
}

fn trace_event(lines: &mut String, state_dict: &StateDict, event: &LoadEvent) {
    let place = |name: &str| {
        let entry = state_dict.entry(name)?;
        let range = &entry.info.range;
        if state_dict.is_copied(name) {
            return Some(format!("{}, copied", state_dict.shards()[entry.shard].file));
        }
        Some(format!("{}[{}..{}]", state_dict.shards()[entry.shard].file, range.start, range.end))
    };
    let _ = match event {
        LoadEvent::Loaded { name, parameter, matrix, stacked } => {
            let (label, shape) = (matrix.label(), matrix.shape());
            let renamed = if name == parameter { String::new() } else { format!(" → {parameter}") };
            let position = stacked.iter().position(|s| s.name == *parameter).unwrap_or(0) + 1;
            let stacked = match stacked.iter().any(|s| s.name != *parameter) {
                true => format!(", part {position} of {} of one matrix", stacked.len()),
                false => String::new(),
            };
            let place = place(name).unwrap_or_default();
            writeln!(lines, "tensor   {name}{renamed}: {label} {shape:?} = {place}{stacked}")
        }
        LoadEvent::Skipped { name } => writeln!(lines, "skipped  {name}"),
        LoadEvent::Tied { name, parameter } => writeln!(lines, "tied     {name} is {parameter}"),
    };
}
