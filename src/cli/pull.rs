//! `stairwell pull`: a model from the hub into the cache.

use super::hub_args::{Bar, HubArgs};
use super::terminal::{human_bytes, json_line, print, print_note};
use serde::Serialize;
use stairwell::checkpoint::ModelName;
use stairwell::error::Result;
use stairwell::hub::{PullOptions, pull};
use std::path::Path;
use std::time::Instant;

/// Fetch a model from the Hugging Face hub into the local cache, or bring it up to date; prints the folder
///
/// The cache is that of Hugging Face's own tools, and either finds what the other fetched. What an interrupted download left is gone on
/// with. Every file is checked against the hub's hash.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell pull Qwen/Qwen3-0.6B
  stairwell pull Qwen/Qwen3-0.6B@main --include '*.md'
  stairwell pull bartowski/SmolLM2-135M-Instruct-GGUF --include '*Q4_0*'")]
pub struct Args {
    /// The model: ORG/NAME, or ORG/NAME@REVISION
    model: String,
    /// Branch, tag or commit [default: main]
    #[arg(long)]
    revision: Option<String>,
    /// Fetch further files too, such as '*.md'; of a model with several GGUF files this chooses one
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Fetch also what is there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    commit: &'a str,
    path: &'a Path,
    files: usize,
    bytes: u64,
    fetched: usize,
    seconds: f64,
}

pub fn run(args: Args) -> Result<()> {
    let start = Instant::now();
    let model = ModelName::parse(&args.model, args.revision.as_deref())?;
    let options = PullOptions { include: args.include, force: args.force };
    let bar = Bar::new();
    let pulled = pull(&args.hub.environment()?, &model, &options, &bar)?;
    drop(bar);
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        return print(&json_line(&Report {
            model: model.id(),
            commit: &pulled.commit,
            path: &pulled.snapshot,
            files: pulled.files,
            bytes: pulled.bytes,
            fetched: pulled.fetched,
            seconds,
        }));
    }
    let (files, fetched, bytes) = (pulled.files, pulled.fetched, human_bytes(pulled.bytes));
    print_note(&format!(
        "{model} is commit {}: {files} files, {bytes}; {fetched} fetched in {seconds:.1} s",
        pulled.commit
    ));
    print(&format!("{}\n", pulled.snapshot.display()))
}
