//! `stairwell blocks`: a page that draws the KV cache's blocks over time.

use super::{terminal::print_note, timeline::Files};
use stairwell::error::{Error, Result};
use stairwell::trace::{PoolHistory, Tab, View};

/// Draw which request had which block of the KV cache when, from a run that --trace has recorded
#[derive(clap::Args)]
#[command(after_help = "\
The page is one file for a browser: a row is a block, a column a step. It shows every block table of a step, and the schedule.

Example:
  stairwell bench throughput --num-requests 12 --max-num-seqs 4 --max-kv-tokens 640 --trace trace.json
  stairwell blocks trace.json --out blocks.html")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Show this step and those after it
    #[arg(long, value_name = "STEP", default_value_t = 0)]
    from: usize,
    /// Show the steps before this one
    #[arg(long, value_name = "STEP")]
    to: Option<usize>,
}

pub fn run(args: Args) -> Result<()> {
    let (record, history) = args.files.read(PoolHistory::parse)?;
    let count = history.steps.len();
    let steps = args.from..args.to.unwrap_or(count).min(count);
    if steps.is_empty() {
        let message = format!(
            "--from {} --to {}: there is nothing to draw; {} has steps 0 to {}",
            steps.start,
            steps.end,
            args.files.trace.display(),
            count - 1
        );
        return Err(Error::Usage(message));
    }
    args.files.write(&record, &View { tab: Tab::Pool, steps: steps.clone() })?;
    let (out, used, total) = (args.files.out.display(), history.used(steps.clone()).len(), history.total);
    print_note(&format!("{out}: {} steps; {used} of {total} blocks were used", steps.len()));
    Ok(())
}
