//! `stairwell convert`: a checkpoint in another format or dtype.

use super::model_args::ModelArgs;
use super::paged_args::parse_size;
use super::terminal::{Progress, human_bytes, print};
use stairwell::checkpoint::Directory;
use stairwell::convert::check::{Compared, Logits};
use stairwell::convert::{Format, Kind, Partial, Source, Target, Written, refuse_used};
use stairwell::error::{Error, Result};
use stairwell::tensor::DType;
use std::path::{Path, PathBuf};

/// Write a checkpoint of any format as safetensors or GGUF, in another dtype if wanted
#[derive(clap::Args)]
#[command(after_help = "\
Weights are read and written a few rows at a time. Then the result is loaded, and its logits are compared with the source's, which takes
the memory of a load. OUT appears once all of that is done; until then, files are in .OUT.partial-PID beside it.

Examples:
  stairwell convert --model model.Q4_K_M.gguf --out model-f32 --dtype f32
  stairwell convert --model Qwen3-0.6B --out Qwen3-0.6B-gguf --to gguf --dtype q8_0
  stairwell convert --model run/last.pt --config config.json --out model --dtype bf16")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The config.json to use: for weights that have none beside them, such as a training checkpoint's
    #[arg(long, value_name = "FILE", requires = "model")]
    config: Option<PathBuf>,
    /// Directory to write; it must not exist yet, or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What is written
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    to: Format,
    /// The numbers that are written; q8_0 for GGUF only [default: the weights' own, or bf16 of packed ones]
    #[arg(long, value_enum, value_name = "DTYPE")]
    dtype: Option<Kind>,
    /// The most bytes of a file of safetensors
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    shard_size: u64,
}

pub fn run(args: Args) -> Result<()> {
    refuse_used(&args.out)?;
    if args.out.extension().is_some_and(|end| end == "gguf") {
        let message = "it is a directory that is written, with the file model.gguf in it; give another name";
        return Err(Error::Usage(format!("--out {}: {message}", args.out.display())));
    }
    let mut source = source(&args)?;
    let dtype = args.dtype.map_or_else(|| source.dtype(), Kind::dtype);
    let target = Target { format: args.to, dtype, shard_size: args.shard_size };
    let partial = Partial::beside(&args.out)?;
    let progress = Progress::new("converting");
    let written = target.write(&mut source, partial.path(), &|bytes, total| progress.add(bytes, total))?;
    let compared = compare(&source, partial.path())?;
    check(&source, dtype, compared)?;
    partial.publish()?;
    print(&said(&args, dtype, written, compared))
}

/// The checkpoint that `--model` names: a directory, a GGUF file, or a file of PyTorch.
fn source(args: &Args) -> Result<Source> {
    let model = args.model.model.as_deref().map(Path::new);
    let torch = model.filter(|path| {
        path.is_file()
            && path
                .extension()
                .is_some_and(|end| ["pt", "pth", "bin", "ckpt"].iter().any(|torch| end == *torch))
    });
    let config = args.config.as_deref();
    match torch {
        Some(path) => {
            let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Source::open(Directory::Disk(parent.into()), Some(file), config)
        }
        None => Source::open(args.model.directory()?, None, config),
    }
}

fn compare(source: &Source, written: &Path) -> Result<Compared> {
    let before = Logits::of_source(source)?;
    before.compare(&Logits::of_written(&Directory::at(written.into())?)?)
}

/// Whether the result is what was asked for. Where nothing is rounded, it must compute the same.
fn check(source: &Source, dtype: DType, compared: Compared) -> Result<()> {
    let Compared { difference, largest, .. } = compared;
    // Packed weights are multiplied in another order than plain ones. A GGUF file has f32 factors of Llama 3's frequencies.
    let allowed = match (dtype, source.stored) {
        (DType::F32, Some(DType::F32)) => 1e-5 * largest.max(1.0),
        (DType::F32, _) => 1e-3 * largest.max(1.0),
        _ => f32::INFINITY,
    };
    if difference <= allowed {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the logits of what was written differ from the source's by {difference}, and nothing was rounded: this is a fault of stairwell, or of \
         the disk; nothing was kept"
    )))
}

/// One line for people.
fn said(args: &Args, dtype: DType, written: Written, compared: Compared) -> String {
    let Compared { difference, largest, same, of } = compared;
    let Written { tensors, bytes, files } = written;
    let (out, format, bytes) = (args.out.display(), args.to, human_bytes(bytes));
    let dtype = dtype.to_string().to_lowercase();
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    format!(
        "{out}: {format}, {tensors} tensors of {dtype}, {bytes} in {files}; it loads, and its logits differ from the source's by {difference} at \
         most (the largest is {largest:.1}; the first choice is the same for {same} of {of} tokens)\n"
    )
}
