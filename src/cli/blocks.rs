//! `stairwell blocks`: a picture of the KV pool over time.

use super::{Outcome, terminal::print_note};
use stairwell::{
    engine::BlockHistory,
    error::{Error, Result},
};
use std::{fs, path::PathBuf};

/// Blocks that are drawn if nobody says how many.
const ROWS: usize = 512;

/// Draw who had which block of the KV cache when, from a run that --trace has recorded
#[derive(clap::Args)]
#[command(after_help = "\
A row of the picture is a block, a column a step. The page (.html) also shows the block tables of a step.

Example:
  stairwell bench throughput --num-requests 12 --max-num-seqs 4 --max-kv-tokens 640 --trace trace.json
  stairwell blocks trace.json --out blocks.html")]
pub struct Args {
    /// What --trace wrote
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// The picture, or a page with the picture and the block tables of each step
    #[arg(long, value_name = "FILE.svg|html")]
    out: PathBuf,
    /// Begin at this step
    #[arg(long, value_name = "STEP", default_value_t = 0)]
    from: usize,
    /// End before this step
    #[arg(long, value_name = "STEP")]
    to: Option<usize>,
    /// Draw this many blocks, the first ones that were used
    #[arg(long, value_name = "N", default_value_t = ROWS)]
    rows: usize,
}

pub fn run(args: Args) -> Result<Outcome> {
    let page = match args.out.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => false,
        Some("html") => true,
        _ => {
            let message = format!("--out {}: the name must end in .svg or .html", args.out.display());
            return Err(Error::Usage(message));
        }
    };
    let json = fs::read(&args.trace).map_err(|error| Error::Io { path: args.trace.clone(), error })?;
    let history = BlockHistory::parse(&json, &args.trace)?;
    let count = history.steps.len();
    let steps = args.from..args.to.unwrap_or(count).min(count);
    if steps.is_empty() || args.rows == 0 {
        let message = format!(
            "--from {} --to {} --rows {}: there is nothing to draw; {} has steps 0 to {}",
            steps.start,
            steps.end,
            args.rows,
            args.trace.display(),
            count - 1
        );
        return Err(Error::Usage(message));
    }
    let used = history.used(steps.clone());
    let rows = &used[..used.len().min(args.rows)];
    let picture = if page { history.html(steps.clone(), rows) } else { history.svg(steps.clone(), rows) };
    fs::write(&args.out, picture).map_err(|error| Error::Io { path: args.out.clone(), error })?;
    let (drawn, used, total) = (rows.len(), used.len(), history.total);
    print_note(&format!(
        "{}: {} steps; {drawn} of the {used} blocks that were used, of {total}",
        args.out.display(),
        steps.len()
    ));
    Ok(Outcome::Good)
}
