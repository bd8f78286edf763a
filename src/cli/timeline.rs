//! `stairwell timeline`: a picture of a recorded schedule.

use super::{Outcome, terminal::print_note};
use stairwell::{
    engine::Timeline,
    error::{Error, Result},
};
use std::{fs, path::PathBuf};

/// Draw a schedule that --trace has recorded: who waits, prefills and decodes when
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  stairwell bench throughput --num-requests 12 --max-num-seqs 4 --trace trace.json
  stairwell timeline trace.json --out timeline.svg")]
pub struct Args {
    /// What --trace wrote
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// The picture
    #[arg(long, value_name = "FILE.svg")]
    out: PathBuf,
    /// Begin at this time, in milliseconds from the first arrival
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    from: Option<f64>,
    /// End at this time
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    to: Option<f64>,
}

pub fn run(args: Args) -> Result<Outcome> {
    let json = fs::read(&args.trace).map_err(|error| Error::Io { path: args.trace.clone(), error })?;
    let timeline = Timeline::parse(&json, &args.trace)?;
    let end = timeline.end();
    let (from, to) = (args.from.unwrap_or(0.0), args.to.unwrap_or(end).min(end));
    if !(from >= 0.0 && from < to) {
        let asked = args.to.map_or(String::new(), |to| format!(" --to {to}"));
        let message = format!(
            "--from {from}{asked}: there is nothing between them; {} goes from 0 to {end:.1} ms",
            args.trace.display()
        );
        return Err(Error::Usage(message));
    }
    let write = fs::write(&args.out, timeline.svg(from, to));
    write.map_err(|error| Error::Io { path: args.out.clone(), error })?;
    print_note(&format!(
        "{}: {} requests, {} steps",
        args.out.display(),
        timeline.lanes.len(),
        timeline.steps.len()
    ));
    Ok(Outcome::Good)
}
